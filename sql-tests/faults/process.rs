//! The real thing: the process `alluvial sync` is killed by the operating system again and again while its source changes.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::RUNTIME;
use crate::patience;
use crate::random::Random;
use crate::tables::{check_equal, check_feed, execute, open};

const KILLS: usize = 15;
const SEED: u64 = 20_261_121;
/// A process lives no longer than this, its start included.
const LONGEST_LIFE_MILLIS: u64 = 350;

pub(super) fn trial() -> Trial {
    patience::test("faults::killed-process", || {
        RUNTIME.block_on(check()).map_err(|failed| {
            format!("seed {SEED}: {}", failed.message().unwrap_or_default()).into()
        })
    })
}

async fn check() -> Result<(), Failed> {
    let warehouse = TempDir::new()?;
    let script = warehouse.path().join("sync.sql");
    fs::write(&script, "SYNC INTO target FROM source;\n")?;
    let session = open(warehouse.path())?;
    execute(
        &session,
        "CREATE TABLE source (id BIGINT PRIMARY KEY, v BIGINT)",
    )
    .await?;
    execute(
        &session,
        "INSERT INTO source SELECT value, 0 FROM generate_series(1, 50)",
    )
    .await?;
    let mut random = Random::new(SEED);
    for kill in 0..KILLS {
        let mut process = command(warehouse.path(), &script)
            .args(["--every", "20ms"])
            .spawn()?;
        let life = Duration::from_millis(random.below(LONGEST_LIFE_MILLIS));
        let written = write_for(life, &session, &mut random).await;
        end(&mut process)?;
        written.map_err(|failed| {
            format!(
                "before kill {kill}: {}",
                failed.message().unwrap_or_default()
            )
        })?;
    }
    let status = command(warehouse.path(), &script).status()?;
    if !status.success() {
        return Err(format!("the last run ended with {status}").into());
    }
    check_equal(&session, "source", "target").await?;
    check_feed(&session, "target").await
}

fn command(warehouse: &Path, script: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvial"));
    command
        .arg("--warehouse")
        .arg(warehouse)
        .args(["sync", "--quiet", "-f"])
        .arg(script)
        .stdout(Stdio::null());
    command
}

/// Kills the process, unless it has failed before that.
fn end(process: &mut Child) -> Result<(), Failed> {
    if let Some(status) = process.try_wait()? {
        return Err(format!("alluvial sync --every has ended by itself: {status}").into());
    }
    process.kill()?;
    process.wait()?;
    Ok(())
}

/// Changes the source at random, for so long.
async fn write_for(
    life: Duration,
    session: &SessionContext,
    random: &mut Random,
) -> Result<(), Failed> {
    let end = tokio::time::Instant::now() + life;
    while tokio::time::Instant::now() < end {
        let (id, value) = (1 + random.below(50), random.below(1000));
        let sql = match random.below(4) {
            0 => format!("DELETE FROM source WHERE id BETWEEN {id} AND {}", id + 2),
            1 => format!("UPDATE source SET v = {value} WHERE id % 7 = {}", id % 7),
            _ => format!(
                "MERGE INTO source AS s USING (SELECT value AS id, CAST({value} AS BIGINT) AS v FROM generate_series({id}, {})) AS n \
                 ON s.id = n.id WHEN MATCHED THEN UPDATE SET v = n.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (n.id, n.v)",
                id + 3
            ),
        };
        execute(session, &sql).await?;
    }
    tokio::time::sleep_until(end).await;
    Ok(())
}
