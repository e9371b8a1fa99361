//! What is found out before the first row: that every file of a range is still there.

use std::collections::HashSet;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use super::feed_files::Expired;
use super::history::{FeedCommit, is_vacuum};
use crate::delta::DeltaTable;
use crate::delta::log::stream_commits;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// How many files are looked for at once.
const CONCURRENT_HEADS: usize = 64;
/// So few files of a table on a local disk are always looked for.
const ALWAYS_CHECKED_FILES: usize = 256;
/// In so many commits after the range a VACUUM is looked for; after more of them there may have been one.
const READ_AFTER: i64 = 64;

/// A range whose files may have been removed.
pub(super) struct Preflight<'a> {
    pub table: &'a DeltaTable,
    /// The newest version.
    pub current: &'a Snapshot,
    /// The upper bound.
    pub until: i64,
    /// When the first commit of the range was made, in microseconds since the epoch.
    pub oldest: i64,
    /// Whether one of its commits was made by VACUUM.
    pub vacuumed: bool,
}

impl Preflight<'_> {
    /// Refuses a range of which a file is gone, where one may be: it is older than removed files are kept, or the log tells of a
    /// VACUUM. On a local disk looking costs next to nothing.
    ///
    /// # Errors
    /// [`Error::ChangesExpired`], naming the first version that has lost a file.
    pub(super) async fn check(&self, commits: &[FeedCommit], expired: &Expired) -> Result<()> {
        let files: usize = commits.iter().map(FeedCommit::all_files).sum();
        let is_local = self.table.location().scheme() == "file";
        let look = is_local && files <= ALWAYS_CHECKED_FILES || self.may_be_gone().await?;
        if files == 0 || !look {
            return Ok(());
        }
        let gone = missing_files(self.table, commits).await?;
        let (Some((version, path)), Some((newest, _))) = (gone.iter().min(), gone.iter().max())
        else {
            return Ok(());
        };
        Err(expired.file_gone(self.table, path, *version, *newest))
    }

    async fn may_be_gone(&self) -> Result<bool> {
        let properties = self.current.properties();
        let age = Utc::now().timestamp_micros().saturating_sub(self.oldest);
        let tracking = properties.tracking.as_ref();
        // change data that has expired is removed long before VACUUM would
        let cleans_up = tracking.is_some_and(|tracking| tracking.retention_micros().is_some());
        if self.vacuumed || cleans_up || age > properties.deleted_file_retention_micros {
            return Ok(true);
        }
        let (first, last) = (self.until + 1, self.current.version());
        if last - first >= READ_AFTER {
            return Ok(true);
        }
        let mut later = stream_commits(self.current, first, last);
        while let Some(commit) = later.try_next().await? {
            if commit.is_none_or(|commit| is_vacuum(&commit)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The files that the store does not have, with their versions.
pub(super) async fn missing_files(
    table: &DeltaTable,
    commits: &[FeedCommit],
) -> Result<Vec<(i64, String)>> {
    let (mut seen, mut files) = (HashSet::new(), Vec::new());
    for commit in commits {
        for (raw, location) in commit.locations(table)? {
            if seen.insert(raw.clone()) {
                files.push((commit.version, raw, location));
            }
        }
    }
    let heads = futures::stream::iter(files).map(|(version, raw, location)| async move {
        match location.store_of(table).head(&location.path).await {
            Ok(_) => Ok(None),
            Err(object_store::Error::NotFound { .. }) => Ok(Some((version, raw))),
            Err(error) => Err(Error::from(error)),
        }
    });
    let gone: Vec<Option<(i64, String)>> = heads.buffered(CONCURRENT_HEADS).try_collect().await?;
    Ok(gone.into_iter().flatten().collect())
}
