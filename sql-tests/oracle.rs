//! Delta tables by Spark, read as Spark reads them.
//!
//! `interop/spark_fixtures.py` writes the tables, and beside each what Spark reads in it, to `interop/spark/<case>`. Trial
//! `oracle::<case>` reads a copy of it:
//!
//! - the rows of every version;
//! - the changes of ranges. Where Spark refuses a range for its schema, what it reads when it is forced to is the answer, but
//!   not for [`REFUSED`]; any other refusal must be ours, too. [`EXCEPTIONS`] lists what Spark reads wrongly, and what we cannot read;
//! - the time of changes that have an in-commit timestamp;
//! - for a table without the change data feed, its derived changes (`oracle/derived.rs`).
//!
//! Other times are not compared: they are those of files, which a checkout changes.

mod derived;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use datafusion::error::DataFusionError;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::derived::{Derived, check_derived};
use crate::canonical::{columns, hexadecimal, rows};
use crate::patience;
use crate::tables::check_same;
use crate::{Warehouse, package};

/// Cases whose columns go away, or are replaced, without column mapping. What Spark reads when it is forced to then lacks
/// values, so the range must be refused.
const REFUSED: &[&str] = &["replaced", "restored_columns"];

/// Questions that Spark answers wrongly, or that we cannot answer, by case.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    // It ignores deletion vectors where the table has no such feature any more at the end of the range, so that the DELETE
    // of version 2 also deletes the rows that it kept.
    ("feature_dropped", &["0..10", "1..10", "2..10", "0..9"]),
    // DataFusion cannot read the values of a map as structs with more fields than the file has.
    (
        "columns_nested",
        &[
            "version 3",
            "version 4",
            "version 5",
            "version 6",
            "0..3",
            "0..4",
            "0..5",
            "0..6",
            "0..7",
            "0..8",
            "0..9",
            "0..10",
            "0..11",
            "1..11",
            "2..11",
        ],
    ),
];

/// What Spark says of a table.
#[derive(Deserialize)]
struct Expected {
    versions: BTreeMap<i64, Outcome>,
    changes: BTreeMap<String, Outcome>,
    times: Option<Times>,
    derived: Option<Derived>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Read(Reading),
    Refused {
        refused: String,
        forced: Option<Box<Self>>,
    },
}

/// Rows in canonical text, or their hash where they are many.
#[derive(Deserialize)]
struct Reading {
    columns: Vec<String>,
    count: usize,
    rows: Option<Vec<String>>,
    sha256: Option<String>,
}

/// The instants of the changed versions from `first` on.
#[derive(Deserialize)]
struct Times {
    first: i64,
    rows: Vec<String>,
}

pub(crate) fn trials() -> Result<Vec<Trial>, Box<dyn Error>> {
    let mut cases = BTreeSet::new();
    for entry in fs::read_dir(fixtures())? {
        cases.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let trial = |case: String| patience::test(format!("oracle::{case}"), move || check(&case));
    Ok(cases.into_iter().map(trial).collect())
}

pub(crate) fn fixtures() -> PathBuf {
    package().join("sql-tests/interop/spark")
}

fn expected(case: &str) -> Result<Expected, Failed> {
    let text = fs::read_to_string(fixtures().join(case).join("expected.json"))?;
    Ok(serde_json::from_str(&text)?)
}

fn check(case: &str) -> Result<(), Failed> {
    let expected = expected(case)?;
    let (warehouse, root) = (Warehouse::new()?, TempDir::new()?);
    copy(&fixtures().join(case), root.path(), root.path())?;
    let location = root.path().join("table");
    warehouse.run(&format!(
        "CREATE EXTERNAL TABLE oracle STORED AS DELTA LOCATION '{}'",
        location.display()
    ))?;
    let mut problems = check_answers(&warehouse, case, &expected);
    if let Some(times) = &expected.times {
        problems.extend(check_times(&warehouse, times));
    }
    if let Some(derived) = &expected.derived {
        problems.extend(check_derived(&warehouse, derived)?);
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("{} differences\n{}", problems.len(), problems.join("\n")).into())
}

/// Copies a fixture; where a log has the placeholder of the folder that it lies in, the copy names the real one.
pub(crate) fn copy(from: &Path, to: &Path, root: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target, root)?;
        } else if source.extension().is_some_and(|name| name == "json") {
            let text = fs::read_to_string(&source)?;
            fs::write(&target, text.replace("{{root}}", &root.to_string_lossy()))?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The questions that we answer otherwise than Spark, and the exceptions that are none.
fn check_answers(warehouse: &Warehouse, case: &str, expected: &Expected) -> Vec<String> {
    let mut exceptions: BTreeSet<&str> = EXCEPTIONS
        .iter()
        .filter(|(name, _)| *name == case)
        .flat_map(|(_, questions)| questions.iter().copied())
        .collect();
    let mut problems = Vec::new();
    for (question, query, outcome) in questions(expected) {
        let wanted = wanted(outcome, !REFUSED.contains(&case));
        let result = match (wanted, read(warehouse, &query)) {
            (Ok(reading), Ok(found)) => compare(reading, &found),
            (Ok(_), Err(error)) => Err(format!("refused: {error}")),
            (Err(_), Err(_)) => Ok(()),
            (Err(reason), Ok(found)) => Err(format!(
                "returned {} rows; Spark refuses with {reason}",
                found.count
            )),
        };
        match result {
            Err(_) if exceptions.remove(question.as_str()) => {}
            Err(problem) => problems.push(format!("{question}: {problem}")),
            Ok(()) => {}
        }
    }
    problems.extend(
        exceptions
            .iter()
            .map(|question| format!("{question}: is listed, but as Spark answers it")),
    );
    problems
}

/// What is asked, as a name and as a query, with what Spark answers.
fn questions(expected: &Expected) -> Vec<(String, String, &Outcome)> {
    let mut questions = Vec::new();
    for (version, outcome) in &expected.versions {
        let query = format!("SELECT * FROM oracle VERSION AS OF {version}");
        questions.push((format!("version {version}"), query, outcome));
    }
    if let Some((_, newest)) = expected.versions.last_key_value() {
        questions.push(("newest".into(), "SELECT * FROM oracle".into(), newest));
    }
    for (range, outcome) in &expected.changes {
        questions.push((range.clone(), changes_query(range, ""), outcome));
    }
    questions
}

/// The changes of a range `<first>..<last>`, with more arguments.
fn changes_query(range: &str, more: &str) -> String {
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    let bounds = format!("starting_version => {first}, ending_version => {last}");
    format!("SELECT * FROM table_changes('oracle', {bounds}{more})")
}

/// The rows to return, or the name of the error by which Spark refuses.
fn wanted(outcome: &Outcome, may_be_forced: bool) -> Result<&Reading, &str> {
    match outcome {
        Outcome::Read(reading) => Ok(reading),
        Outcome::Refused { refused, forced } => match forced.as_deref() {
            Some(Outcome::Read(reading)) if may_be_forced => Ok(reading),
            _ => Err(refused.as_str()),
        },
    }
}

fn read(warehouse: &Warehouse, query: &str) -> Result<Reading, String> {
    let text = |error: DataFusionError| error.strip_backtrace();
    let answer = warehouse.run(query).map_err(text)?;
    let columns = columns(&answer);
    let mut rows = rows(&answer, &columns).map_err(|error| error.to_string())?;
    rows.sort();
    Ok(Reading {
        columns,
        count: rows.len(),
        rows: Some(rows),
        sha256: None,
    })
}

fn compare(expected: &Reading, found: &Reading) -> Result<(), String> {
    if expected.columns != found.columns {
        return Err(format!(
            "columns {:?} instead of {:?}",
            found.columns, expected.columns
        ));
    }
    let found_rows = found.rows.as_deref().unwrap_or_default();
    let Some(rows) = &expected.rows else {
        let digest = hexadecimal(&Sha256::digest(found_rows.join("\n").as_bytes()));
        if expected.count == found.count && expected.sha256.as_ref() == Some(&digest) {
            return Ok(());
        }
        return Err(format!(
            "{} rows instead of {}, or others",
            found.count, expected.count
        ));
    };
    same("answer", rows, found_rows)
}

/// [`check_same`] with its message as text.
fn same<T: Ord + std::fmt::Debug>(what: &str, expected: &[T], found: &[T]) -> Result<(), String> {
    check_same(what, expected, found)
        .map_err(|failed| failed.message().unwrap_or_default().to_owned())
}

fn check_times(warehouse: &Warehouse, times: &Times) -> Option<String> {
    let changes = format!(
        "table_changes('oracle', starting_version => {})",
        times.first
    );
    let query = format!(
        "SELECT DISTINCT _commit_timestamp AS instant, _commit_version AS version FROM {changes}"
    );
    let found = read(warehouse, &query).and_then(|found| {
        let rows = found.rows.unwrap_or_default();
        same("times", &times.rows, &rows)
    });
    found.err()
}
