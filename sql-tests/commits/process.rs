//! The real thing: a process that runs one MERGE after the other is killed by the operating system again and again.
//!
//! Each MERGE counts up every row, so that at any time all rows have the same count, and it is how many commits there are.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::RUNTIME;
use crate::patience;
use crate::random::Random;
use crate::tables::{check_feed, check_same, execute, open, rows, rows_in};

const KILLS: usize = 10;
const SEED: u64 = 20_261_123;
/// A process lives no longer than this, its start included.
const LONGEST_LIFE_MILLIS: u64 = 500;
/// More than a process can do in its life.
const STATEMENTS: usize = 200;
const ROWS: usize = 20;
const COUNT_UP: &str = "MERGE INTO t USING (SELECT value AS id FROM generate_series(1, 20)) AS s ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET n = t.n + 1 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, 1)";

pub(super) fn trial() -> Trial {
    patience::test("commits::killed-process", || {
        RUNTIME.block_on(check()).map_err(|failed| {
            format!("seed {SEED}: {}", failed.message().unwrap_or_default()).into()
        })
    })
}

async fn check() -> Result<(), Failed> {
    let warehouse = TempDir::new()?;
    let script = warehouse.path().join("merges.sql");
    fs::write(&script, format!("{COUNT_UP};\n").repeat(STATEMENTS))?;
    let session = open(warehouse.path())?;
    execute(&session, "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)").await?;
    let mut random = Random::new(SEED);
    for kill in 0..KILLS {
        let mut process = command(warehouse.path(), &script).spawn()?;
        tokio::time::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MILLIS))).await;
        if let Some(status) = process.try_wait()? {
            return Err(format!("alluvial has ended by itself: {status}").into());
        }
        process.kill()?;
        process.wait()?;
        execute(&session, COUNT_UP).await?;
        check_count(&session).await.map_err(|failed| {
            let message = failed.message().unwrap_or_default();
            format!("after kill {kill}: {message}")
        })?;
    }
    check_feed(&session, "t").await
}

fn command(warehouse: &Path, script: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvial"));
    command
        .arg("--quiet")
        .arg("--warehouse")
        .arg(warehouse)
        .arg("-f")
        .arg(script)
        .stdout(Stdio::null());
    command
}

/// Makes sure that every row has been counted up by every commit.
async fn check_count(session: &SessionContext) -> Result<(), Failed> {
    let history = rows_in(session, "DESCRIBE HISTORY t", &["operation"]).await?;
    let merges = history.iter().filter(|row| *row == "[\"MERGE\"]").count();
    let found = rows(session, "SELECT n FROM t").await?;
    check_same("the table", &vec![format!("[{merges}]"); ROWS], &found)
}
