//! A RESTORE brings files back that VACUUM has found and not deleted yet: they stay, and the others go.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use super::files;
use super::restore::restore;
use super::stage::{Stage, spawn, table};
use super::statements::{PLAIN, Statement};
use crate::RUNTIME;
use crate::faults::store::Fault;
use crate::patience;
use crate::tables::{check_same, execute, rows, rows_of};

const VACUUM: Statement = Statement {
    name: "vacuum",
    table: "TBLPROPERTIES (delta.deletedFileRetentionDuration = 'interval 0 seconds')",
    sql: "VACUUM t",
    ..PLAIN
};
/// After so long a file is older than the table keeps it.
const AGE: Duration = Duration::from_millis(50);

pub(super) fn trial() -> Trial {
    patience::test("commits::vacuum::restored-meanwhile", || {
        RUNTIME.block_on(check_restored())
    })
}

/// All that the table needs once it is optimized is one file; version 1 needs another, and two more are needed by nobody.
async fn check_restored() -> Result<(), Failed> {
    let stage = Stage::set_up(&VACUUM, "restored").await?;
    let copy = stage.host.copy()?;
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    execute(&session, "OPTIMIZE t").await?;
    let expected = rows(&session, "SELECT * FROM t VERSION AS OF 1").await?;
    tokio::time::sleep(AGE).await;
    process.arm(Fault::StoppedBeforeCommit);
    let vacuum = spawn(stage.run(&session), &process);
    process.wait_for_stop().await;
    let is_stopped = process.was_hit();
    let restored = restore(&table(copy.path()), 1);
    process.go_on();
    vacuum.await??;
    restored?;
    if !is_stopped {
        return Err("there was nothing to delete".into());
    }
    stage.host.start(copy.path())?;
    let found = rows_of(&stage.open().await?, "t").await?;
    check_same("the table", &expected, &found)?;
    let left = files::of_rows(&table(copy.path()))?;
    if left.len() == 2 {
        return Ok(());
    }
    Err(format!("two files were expected: {left:?}").into())
}
