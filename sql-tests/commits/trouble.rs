//! One operation of a statement goes wrong, each in turn: it is refused, loses its answer, is sent twice, or has to wait while
//! another writer commits; or the commit is not allowed.
//!
//! - An error says that nothing was written, and a success that everything was: nothing in between, and no error about a commit
//!   that has come about.
//! - A statement that has failed leaves no file behind, unless nobody knows what has become of its commit.
//! - After a failure the same session does the statement as if nothing had been.

use std::collections::BTreeSet;
use std::env;
use std::path::Path;

use datafusion::error::DataFusionError;
use libtest_mimic::{Failed, Trial};

use super::files;
use super::stage::{Healthy, Stage, check_named, soon, spawn, table};
use super::statements::{APPEND, STATEMENTS, Statement};
use crate::RUNTIME;
use crate::faults::store::{Fault, Kind, Operations, Trouble};
use crate::patience;
use crate::tables::execute;

/// Set to `all`, everything is tried at every operation of every statement.
const EVERYTHING: &str = "ALLUVIAL_TEST_FAULTS";
const OF_PUTS: &[Trouble] = &[
    Trouble::Refused,
    Trouble::Unanswered,
    Trouble::Repeated,
    Trouble::Stopped,
];
const OF_READS: &[Trouble] = &[Trouble::Refused, Trouble::Unanswered, Trouble::Stopped];

pub(super) fn trials() -> impl Iterator<Item = Trial> {
    STATEMENTS.iter().map(|statement| {
        let name = format!("commits::trouble::{}", statement.name);
        patience::test(name, move || RUNTIME.block_on(check_statement(statement)))
    })
}

async fn check_statement(statement: &'static Statement) -> Result<(), Failed> {
    let stage = Stage::set_up(statement, "trouble").await?;
    let healthy = stage.run_healthy().await?;
    let is_thorough =
        statement.thorough || env::var(EVERYTHING).is_ok_and(|wanted| wanted == "all");
    for fault in faults(healthy.operations, is_thorough) {
        let checked = check_fault(&stage, &healthy, fault).await;
        explain(statement, fault, checked)?;
    }
    Ok(())
}

/// Every trouble of every put, and of every read one or all; and a commit that is denied.
fn faults(healthy: Operations, is_thorough: bool) -> Vec<Fault> {
    let mut faults = vec![Fault::CommitDenied];
    for kind in [Kind::Put, Kind::Get, Kind::List] {
        for number in 1..=healthy.of(kind) {
            let troubles = match kind {
                Kind::Put => OF_PUTS,
                _ if is_thorough => OF_READS,
                _ => &OF_READS[number % OF_READS.len()..][..1],
            };
            faults.extend(troubles.iter().map(|trouble| Fault::Once {
                kind,
                number,
                trouble: *trouble,
            }));
        }
    }
    faults
}

/// Adds to a failure what was done and what went wrong, for whoever wants to see it happen.
pub(super) fn explain(
    statement: &Statement,
    fault: Fault,
    checked: Result<(), Failed>,
) -> Result<(), Failed> {
    checked.map_err(|failed| {
        let message = failed.message().unwrap_or_default();
        let Statement { name, table, .. } = statement;
        format!("{name} ({table}), {fault:?}: {message}\n{};", statement.sql).into()
    })
}

async fn check_fault(stage: &Stage, healthy: &Healthy, fault: Fault) -> Result<(), Failed> {
    match fault {
        Fault::Once {
            trouble: Trouble::Stopped,
            ..
        } => check_overtaken(stage, healthy, fault).await,
        _ => check_alone(stage, healthy, fault).await,
    }
}

/// Nobody else writes.
async fn check_alone(stage: &Stage, healthy: &Healthy, fault: Fault) -> Result<(), Failed> {
    let copy = stage.host.copy()?;
    let table = table(copy.path());
    let there = files::of_rows(&table)?;
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    process.arm(fault);
    match stage.run(&session).await {
        Ok(()) => check_named(&table).await?,
        Err(error) => {
            let reason = match fault {
                Fault::CommitDenied => "denied",
                _ => "no answer",
            };
            check_clear(&error, reason)?;
            let version = files::version(&table)?;
            if version != healthy.before.version {
                return Err(format!("it has failed, and yet committed {version}: {error}").into());
            }
            // which may have come about for all that the statement knows
            let is_in_doubt = process.has_tried_to_commit() && fault != Fault::CommitDenied;
            if !is_in_doubt {
                check_tidy(&table, &there).await?;
            }
            process.arm(Fault::None);
            let again = stage.run(&session).await;
            again.map_err(|error| format!("the next time it fails, too: {error}"))?;
        }
    }
    healthy.after.check(&stage.read(copy.path()).await?)
}

/// Makes sure that the files of rows are those that were there, soon.
async fn check_tidy(table: &Path, there: &BTreeSet<String>) -> Result<(), Failed> {
    soon(|| {
        let now = files::of_rows(table)?;
        if &now == there {
            return Ok(());
        }
        let left: Vec<&String> = now.symmetric_difference(there).collect();
        Err(format!("it has failed and left, or removed, {left:?}").into())
    })
    .await
}

/// Another process appends a row while the statement waits.
async fn check_overtaken(stage: &Stage, healthy: &Healthy, fault: Fault) -> Result<(), Failed> {
    let copy = stage.host.copy()?;
    let table = table(copy.path());
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    process.arm(fault);
    let slow = spawn(stage.run(&session), &process);
    process.wait_for_stop().await;
    let appended = append(stage, copy.path()).await;
    process.go_on();
    let outcome = slow.await?;
    appended?;
    let expected = match outcome {
        Ok(()) => &healthy.after,
        Err(error) => {
            check_clear(&error, "CONCURRENT_WRITE")?;
            &healthy.before
        }
    };
    check_named(&table).await?;
    let found = stage.read(copy.path()).await?;
    expected.with_append().check(&found)
}

async fn append(stage: &Stage, folder: &Path) -> Result<(), Failed> {
    stage.host.start(folder)?;
    execute(&stage.open().await?, APPEND).await.map(drop)
}

/// Makes sure that an error tells its reason, and is none of ours.
fn check_clear(error: &DataFusionError, reason: &str) -> Result<(), Failed> {
    let text = error.strip_backtrace();
    if text.contains(reason) && !text.contains("internal error") && !text.contains("panicked") {
        return Ok(());
    }
    Err(format!("the error does not say that there was {reason:?}: {text}").into())
}
