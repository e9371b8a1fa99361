//! The process that runs `read_back.py`, which reads tables with delta-rs and DuckDB and says what they see otherwise.
//!
//! One process serves every trial, one request at a time: to start it costs as much as to read dozens of tables. It ends with
//! this one, when its input does.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use libtest_mimic::Failed;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::canonical::{columns, rows};
use crate::{Answer, package};

const IMPORTS: &str =
    "import deltalake, duckdb, duckdb_extensions, duckdb_extension_delta, pyarrow";

static READERS: LazyLock<Mutex<Result<Readers, String>>> =
    LazyLock::new(|| Mutex::new(Readers::start()));

struct Readers {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Findings {
    problems: Vec<String>,
}

/// Why the other readers cannot be asked here, if so.
pub(super) fn missing() -> Option<String> {
    let readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
    readers.as_ref().err().cloned()
}

/// What others see in a table otherwise than `answer`, all of its rows, and `changes`, its change feed; a line each, which
/// begins with the name of the reader.
///
/// # Errors
/// When there are no readers here, or they have failed.
pub(super) fn problems(
    table: &Path,
    answer: &Answer,
    changes: Option<&Answer>,
) -> Result<Vec<String>, Failed> {
    let changes = changes.map(|changes| rows(changes, &columns(changes)));
    let columns = columns(answer);
    let request = json!({
        "table": table,
        "rows": rows(answer, &columns)?,
        "columns": columns,
        "changes": changes.transpose()?,
    });
    let mut readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
    match readers.as_mut() {
        Ok(readers) => readers.ask(&request),
        Err(reason) => Err(reason.clone().into()),
    }
}

impl Readers {
    fn start() -> Result<Self, String> {
        let python = env::var("ALLUVIAL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let probe = Command::new(&python).args(["-c", IMPORTS]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            let packages = "the packages of sql-tests/interop/requirements.txt";
            return Err(format!("{python} lacks {packages}"));
        }
        let started = Command::new(&python)
            .arg(package().join("sql-tests/interop/read_back.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = started.map_err(|error| format!("{python}: {error}"))?;
        let (Some(requests), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("read_back.py has no pipes".to_owned());
        };
        Ok(Self {
            _process: process,
            requests,
            answers: BufReader::new(answers),
        })
    }

    fn ask(&mut self, request: &Value) -> Result<Vec<String>, Failed> {
        writeln!(self.requests, "{request}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err("read_back.py ended before it answered; its error is on stderr".into());
        }
        let findings: Findings = serde_json::from_str(&answer)?;
        Ok(findings.problems)
    }
}
