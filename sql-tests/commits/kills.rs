//! A process is killed at each operation of a statement: before it, or once a write is done and before anybody knows.
//!
//! The table is the old version or the new one, whichever the log says; files that no commit names may be left. The next process
//! does the statement as if nothing had been, or once more.

use libtest_mimic::{Failed, Trial};

use super::files;
use super::stage::{Healthy, Stage, table};
use super::statements::{STATEMENTS, Statement};
use super::trouble::explain;
use crate::RUNTIME;
use crate::faults::store::{Fault, Operations};
use crate::patience;
use crate::tables::check_same;

pub(super) fn trials() -> impl Iterator<Item = Trial> {
    STATEMENTS.iter().map(|statement| {
        let name = format!("commits::kills::{}", statement.name);
        patience::test(name, move || RUNTIME.block_on(check_statement(statement)))
    })
}

async fn check_statement(statement: &'static Statement) -> Result<(), Failed> {
    let stage = Stage::set_up(statement, "kills").await?;
    let healthy = stage.run_healthy().await?;
    for fault in kills(healthy.operations, statement.thorough) {
        let checked = check_kill(&stage, &healthy, fault).await;
        explain(statement, fault, checked)?;
    }
    Ok(())
}

/// What is there after a write is there before the next operation, too.
fn kills(healthy: Operations, is_thorough: bool) -> Vec<Fault> {
    let mut kills: Vec<Fault> = (1..=healthy.writes).map(Fault::KilledAfterWrite).collect();
    if is_thorough {
        kills.extend((1..=healthy.all).map(Fault::KilledBefore));
    }
    kills
}

async fn check_kill(stage: &Stage, healthy: &Healthy, fault: Fault) -> Result<(), Failed> {
    let copy = stage.host.copy()?;
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    process.arm(fault);
    let outcome = stage.run(&session).await;
    let version = files::version(&table(copy.path()))?;
    let is_new = version != healthy.before.version;
    if outcome.is_ok() && !is_new {
        return Err("it said that it was done, and was not".into());
    }
    let expected = match is_new {
        true => &healthy.after,
        false => &healthy.before,
    };
    expected.check(&stage.read(copy.path()).await?)?;
    if is_new && !stage.statement.idempotent {
        return Ok(());
    }
    let next = stage.open().await?;
    let again = stage.run(&next).await;
    again.map_err(|error| format!("the next process fails, too: {error}"))?;
    let found = stage.read(copy.path()).await?;
    match is_new {
        true => check_same("the table", &healthy.after.rows, &found.rows),
        false => healthy.after.check(&found),
    }
}
