//! VACUUM: deletes the files in a table's folder that no version needs any more which may still be read.
//!
//! ```text
//!  listing of the folder ── older than the retention, not hidden ──┐
//!  the newest version, read after that ── its files and vectors ───┼──> what nobody needs ── START ──┐
//!  commits younger than the retention ── all that they name ───────┘                                 ├──> delete ── END
//!  commits since that version, a RESTORE perhaps ── all that they name, read right after START ──────┘
//! ```
//!
//! A version can be read as long as it, or the version after it, is younger than the retention: its files are active, or commits that
//! are younger have removed them. The checkpoints' tombstones are not asked for: what a commit has removed that is gone from the log
//! belonged to versions that cannot be read without it either. Files that a writer is about to name are young. Data is deleted by
//! the age of the file, change data too (delta-spark's rule), but none that a young commit names. So are files that a process has left
//! half-written on a local disk when it was killed ([`unfinished`]).
//!
//! Two commits without actions tell others what has happened, `VACUUM START` before the first file goes and `VACUUM END`.

mod in_use;
mod listing;
mod unfinished;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use self::in_use::FilesInUse;
use self::listing::{Listing, list};
use self::unfinished::{delete_unfinished, is_unfinished};
use super::features::check_writable;
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::transaction::{CommitOutcome, Operation, ReadSet, Transaction, after_commit};
use crate::error::{Error, Result};

const MICROS_PER_HOUR: i64 = 3_600_000_000;
/// How often the end is recorded on a newer version after somebody has changed the table's metadata.
const MAX_ATTEMPTS: u32 = 5;

/// Files that nobody needs.
#[derive(Debug)]
pub(crate) struct Garbage {
    base: Arc<Snapshot>,
    /// Which retention the statement asked for, if it did, in microseconds.
    asked: Option<i64>,
    /// In the order of their paths.
    files: Vec<ObjectMeta>,
    folders: usize,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vacuumed {
    pub files: u64,
    pub bytes: u64,
    /// The version of `VACUUM END`; absent when there was nothing to delete.
    pub version: Option<i64>,
}

/// Finds the files that can go, and deletes none. `retention_micros` is the table's own where it is absent.
///
/// # Errors
/// When the table may not be written, or keeps its files for longer than `retention_micros`.
pub(crate) async fn find_garbage(
    table: &DeltaTable,
    retention_micros: Option<i64>,
) -> Result<Garbage> {
    let base = table.snapshot().await?;
    let retention = checked_retention(&base, retention_micros)?;
    let horizon = Utc::now().timestamp_micros().saturating_sub(retention);
    let Listing { mut files, folders } = list(&base, horizon).await?;
    // a version that was committed since, out of files that are old already, must find them
    let base = table.snapshot().await?;
    checked_retention(&base, Some(retention))?;
    if !files.is_empty() {
        let in_use = FilesInUse::of(&base, horizon).await?;
        files.retain(|file| !in_use.contains(&file.location));
        files.sort_by(|a, b| a.location.cmp(&b.location));
    }
    Ok(Garbage {
        base,
        asked: retention_micros,
        files,
        folders,
    })
}

/// The retention that was asked for, or the table's own, of a table that may be written.
fn checked_retention(base: &Snapshot, asked: Option<i64>) -> Result<i64> {
    let table = base.table().name();
    check_writable(table, base.protocol(), base.layout())?;
    let kept = base.properties().deleted_file_retention_micros;
    match asked {
        Some(asked) if asked < kept => Err(too_short(table, asked, kept)),
        asked => Ok(asked.unwrap_or(kept)),
    }
}

fn too_short(table: &str, retention: i64, kept: i64) -> Error {
    let (count, unit) = match retention % MICROS_PER_HOUR {
        0 => (retention / MICROS_PER_HOUR, "hours"),
        _ => (retention / 1_000_000, "seconds"),
    };
    Error::invalid(format!(
        "VACUUM {table}: RETAIN {} HOURS is less than the {} hours for which {table} keeps files that it no longer needs; readers and \
         older versions may need them. To keep them for less time, say so first: ALTER TABLE {table} SET TBLPROPERTIES \
         ('delta.deletedFileRetentionDuration' = 'interval {count} {unit}')",
        hours(retention),
        hours(kept)
    ))
}

fn hours(micros: i64) -> f64 {
    micros as f64 / MICROS_PER_HOUR as f64
}

impl Garbage {
    /// The paths of the files, relative to the table.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.location.as_ref())
    }

    /// Deletes the files.
    ///
    /// # Errors
    /// When the metadata has changed since they were found, with which nothing is deleted, and when one cannot be deleted; the others
    /// are, and running the statement again goes on.
    pub(crate) async fn delete(mut self) -> Result<Vacuumed> {
        if self.files.is_empty() {
            return Ok(Vacuumed::default());
        }
        let table = self.base.table().clone();
        match record(&self.base, self.start()).await? {
            CommitOutcome::Committed(_) => {}
            CommitOutcome::Conflict(error) | CommitOutcome::Failed(error) => return Err(error),
        }
        let (deleted, failure) = match FilesInUse::since(&self.base).await {
            Ok(since) => {
                self.files.retain(|file| !since.contains(&file.location));
                let (deleted, failure) = delete_all(&table, &self.files).await;
                (deleted, failure.map(Error::from))
            }
            Err(error) => (Vacuumed::default(), Some(error)),
        };
        let status = if failure.is_some() {
            "FAILED"
        } else {
            "COMPLETED"
        };
        let mut end = Operation::new("VACUUM END").with_parameter("status", status);
        end.metric("numDeletedFiles", deleted.files);
        end.metric("numVacuumedDirectories", self.folders);
        let version = record_end(&table, end).await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let version = version?;
        after_commit(&table, version).await;
        Ok(Vacuumed {
            version: Some(version),
            ..deleted
        })
    }

    /// What the commit before the deletions says, in delta-spark's words.
    fn start(&self) -> Operation {
        const MICROS_PER_MILLI: i64 = 1000;
        let kept = self.base.properties().deleted_file_retention_micros;
        let mut start = Operation::new("VACUUM START")
            .with_parameter("retentionCheckEnabled", true)
            .with_parameter("defaultRetentionMillis", kept / MICROS_PER_MILLI);
        if let Some(asked) = self.asked {
            start = start.with_parameter("specifiedRetentionMillis", asked / MICROS_PER_MILLI);
        }
        let bytes: u64 = self.files.iter().map(|file| file.size).sum();
        start.metric("numFilesToDelete", self.files.len());
        start.metric("sizeOfDataToDelete", bytes);
        start
    }
}

/// Deletes as many of the files as the store lets us, and keeps the first reason why not.
async fn delete_all(
    table: &DeltaTable,
    files: &[ObjectMeta],
) -> (Vacuumed, Option<object_store::Error>) {
    let sizes: HashMap<Path, u64> = files
        .iter()
        .map(|file| (file.location.clone(), file.size))
        .collect();
    let paths = files.iter().map(|file| file.location.clone());
    let (unfinished, finished): (Vec<Path>, Vec<Path>) =
        paths.partition(|path| is_unfinished(table, path));
    let finished = stream::iter(finished).map(Ok).boxed();
    let store = table.store();
    let mut answers = store
        .delete_stream(finished)
        .chain(delete_unfinished(table, unfinished));
    let (mut deleted, mut failure) = (Vacuumed::default(), None);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(path) => {
                deleted.files += 1;
                deleted.bytes += sizes.get(&path).copied().unwrap_or(0);
            }
            // another VACUUM was faster
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    (deleted, failure)
}

async fn record_end(table: &DeltaTable, end: Operation) -> Result<i64> {
    let mut attempts = 1;
    loop {
        let base = table.snapshot().await?;
        match record(&base, end.clone()).await? {
            CommitOutcome::Committed(version) => return Ok(version),
            CommitOutcome::Conflict(conflict) if attempts == MAX_ATTEMPTS => return Err(conflict),
            CommitOutcome::Conflict(_) => attempts += 1,
            CommitOutcome::Failed(error) => return Err(error),
        }
    }
}

/// A commit that only says what was done.
async fn record(base: &Arc<Snapshot>, operation: Operation) -> Result<CommitOutcome> {
    let transaction = Transaction {
        table: base.table().clone(),
        base: Some(Arc::clone(base)),
        operation,
        actions: vec![],
        reads: ReadSet::Nothing,
        touched: HashMap::new(),
    };
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(retention: i64, expected: &str) {
        let error = too_short("t", retention, 168 * MICROS_PER_HOUR).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_short_retention_is_refused_with_what_to_do() {
        check(MICROS_PER_HOUR, "RETAIN 1 HOURS is less than the 168 hours");
        check(MICROS_PER_HOUR, "'interval 1 hours'");
        check(MICROS_PER_HOUR / 2, "RETAIN 0.5 HOURS");
        check(MICROS_PER_HOUR / 2, "'interval 1800 seconds'");
    }
}
