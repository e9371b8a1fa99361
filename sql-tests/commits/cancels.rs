//! Whoever waits for a statement gives up in the middle, and goes on with the same session.
//!
//! - The table is the old version or the new one. Where the statement had not come to its commit, its files go soon.
//! - A put that is on its way when nobody waits for it any more may still be done. If it is the commit, the statement is done.

use std::path::Path;
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};

use super::files;
use super::stage::{Content, Healthy, Stage, check_named, spawn, table};
use super::statements::{STATEMENTS, Statement};
use super::trouble::explain;
use crate::RUNTIME;
use crate::faults::store::{Fault, Kind, Operations, Trouble};
use crate::patience;
use crate::tables::check_same;

/// At about how many operations a statement is cancelled that is not cancelled at all of them.
const CANCELS: usize = 8;
/// How often it is cancelled after a time that grows to more than it takes.
const STEPS: u32 = 16;
/// What a cancelled statement and its last put need to end.
const PAUSE: Duration = Duration::from_millis(40);

pub(super) fn trials() -> impl Iterator<Item = Trial> {
    let cancelled = STATEMENTS.iter().filter(|statement| statement.cancelled);
    cancelled.map(|statement| {
        let name = format!("commits::cancels::{}", statement.name);
        patience::test(name, move || RUNTIME.block_on(check_statement(statement)))
    })
}

async fn check_statement(statement: &'static Statement) -> Result<(), Failed> {
    let stage = Stage::set_up(statement, "cancels").await?;
    let healthy = stage.run_healthy().await?;
    for fault in stops(healthy.operations, statement.thorough) {
        let checked = check_stop(&stage, &healthy, fault).await;
        explain(statement, fault, checked)?;
    }
    if !statement.thorough {
        return Ok(());
    }
    let life = time_of(&stage).await?;
    for step in 0..STEPS {
        let limit = life * step * 5 / (STEPS * 4);
        let checked = check_timeout(&stage, &healthy, limit).await;
        let checked = checked.map_err(|failed| {
            format!("after {limit:?}: {}", failed.message().unwrap_or_default()).into()
        });
        explain(statement, Fault::None, checked)?;
    }
    Ok(())
}

/// Where the statement stops, to be cancelled: before operations, and with puts that are on their way.
fn stops(healthy: Operations, is_thorough: bool) -> Vec<Fault> {
    let step = if is_thorough {
        1
    } else {
        healthy.all.div_ceil(CANCELS)
    };
    let before = (1..=healthy.all).step_by(step.max(1));
    let late = (1..=healthy.puts).map(|number| Fault::Once {
        kind: Kind::Put,
        number,
        trouble: Trouble::Late,
    });
    before.map(Fault::StoppedBefore).chain(late).collect()
}

async fn check_stop(stage: &Stage, healthy: &Healthy, fault: Fault) -> Result<(), Failed> {
    let copy = stage.host.copy()?;
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    process.arm(fault);
    let statement = spawn(stage.run(&session), &process);
    process.wait_for_stop().await;
    statement.abort();
    process.go_on();
    let outcome = statement.await;
    let is_late = process.was_hit() && matches!(fault, Fault::Once { .. });
    if is_late {
        process.wait_for_stop().await;
    }
    if let Ok(outcome) = outcome {
        outcome?;
    }
    // nobody knows what became of a commit, and a file may come after those who would have removed it
    let is_tidy = !is_late && !process.has_tried_to_commit();
    process.arm(Fault::None);
    tokio::time::sleep(PAUSE).await;
    check_left(stage, healthy, copy.path(), is_tidy).await?;
    check_next(stage, healthy, copy.path(), &session).await?;
    match is_tidy {
        true => check_named(&table(copy.path())).await,
        false => Ok(()),
    }
}

/// How long the statement takes.
async fn time_of(stage: &Stage) -> Result<Duration, Failed> {
    let copy = stage.host.copy()?;
    stage.host.start(copy.path())?;
    let session = stage.open().await?;
    let started = Instant::now();
    stage.run(&session).await?;
    Ok(started.elapsed())
}

/// A put may have been on its way, so that files may be left.
async fn check_timeout(stage: &Stage, healthy: &Healthy, limit: Duration) -> Result<(), Failed> {
    let copy = stage.host.copy()?;
    stage.host.start(copy.path())?;
    let session = stage.open().await?;
    let mut statement = tokio::spawn(stage.run(&session));
    let ended = tokio::time::timeout(limit, &mut statement).await;
    match ended {
        Ok(outcome) => outcome??,
        Err(_) => {
            statement.abort();
            if let Ok(outcome) = statement.await {
                outcome?;
            }
        }
    }
    tokio::time::sleep(PAUSE).await;
    check_left(stage, healthy, copy.path(), false).await?;
    check_next(stage, healthy, copy.path(), &session).await
}

/// What the statement has left, as others see it.
async fn check_left(
    stage: &Stage,
    healthy: &Healthy,
    folder: &Path,
    is_tidy: bool,
) -> Result<(), Failed> {
    if is_tidy {
        check_named(&table(folder)).await?;
    }
    let found = stage.read(folder).await?;
    left(healthy, folder)?.check(&found)
}

/// What is in the table, by its version.
fn left<'a>(healthy: &'a Healthy, folder: &Path) -> Result<&'a Content, Failed> {
    let version = files::version(&table(folder))?;
    Ok(match version == healthy.before.version {
        true => &healthy.before,
        false => &healthy.after,
    })
}

/// The same statement is the next one of the session.
async fn check_next(
    stage: &Stage,
    healthy: &Healthy,
    folder: &Path,
    session: &SessionContext,
) -> Result<(), Failed> {
    let is_new = left(healthy, folder)?.version == healthy.after.version;
    if is_new && !stage.statement.idempotent {
        return Ok(());
    }
    let again = stage.run(session).await;
    again.map_err(|error| format!("the next time it fails: {error}"))?;
    let found = stage.read(folder).await?;
    match is_new {
        true => check_same("the table", &healthy.after.rows, &found.rows),
        false => healthy.after.check(&found),
    }
}
