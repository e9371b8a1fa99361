//! Whether the files of a version are still there, looked at only where they may not be.
//!
//! VACUUM removes files that no version younger than the table's retention needs, or than the retention that it is given. So a file
//! is in doubt when its version is older than that, or when the log tells of a VACUUM after it. A local folder is cheap to look at,
//! and anybody may have deleted in it.

use std::collections::HashMap;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;

use super::commit_changes::NeededFile;
use crate::delta::log::{CommitFile, read_commits};
use crate::delta::snapshot::Snapshot;
use crate::delta::{DeltaTable, deletion_vector};
use crate::error::{Error, Result};
use crate::source::delta_feed::history::is_vacuum;

/// How many requests are under way at once.
const CONCURRENT_REQUESTS: usize = 64;

/// Where files may be gone.
#[derive(Debug)]
pub(super) struct Presence {
    table: DeltaTable,
    everywhere: bool,
    /// Versions committed before this, in microseconds since the epoch.
    before: i64,
    /// Versions before the newest one that logs a VACUUM.
    vacuumed: Option<i64>,
}

impl Presence {
    /// Finds out where; `files` are the commits up to `current`.
    pub(super) async fn new(current: &Snapshot, files: &[CommitFile]) -> Result<Self> {
        let (table, properties) = (current.table(), current.properties());
        // change data that has expired is removed long before VACUUM would
        let tracking = properties.tracking.as_ref();
        let expires = tracking.and_then(|tracking| tracking.retention_micros());
        let kept = properties
            .deleted_file_retention_micros
            .min(expires.unwrap_or(i64::MAX));
        let before = Utc::now().timestamp_micros().saturating_sub(kept);
        let everywhere = table.location().scheme() == "file";
        let young = files.partition_point(|file| file.modified.saturating_mul(1000) < before);
        Ok(Self {
            table: table.clone(),
            everywhere,
            before,
            vacuumed: match everywhere {
                true => None,
                false => newest_vacuum(current, &files[young..]).await?,
            },
        })
    }

    /// Whether files of a version, committed at this time, may be gone.
    pub(super) fn is_doubtful(&self, version: i64, timestamp: i64) -> bool {
        self.everywhere
            || timestamp < self.before
            || self.vacuumed.is_some_and(|vacuum| version < vacuum)
    }

    /// Looks for files, each of which belongs to a row, and says what is missing first of each row.
    pub(super) async fn missing(
        &self,
        files: Vec<(usize, NeededFile)>,
    ) -> Result<HashMap<usize, String>> {
        let looks = stream::iter(files)
            .map(|(row, file)| async move { Ok::<_, Error>((row, self.absence(file).await?)) })
            .buffered(CONCURRENT_REQUESTS);
        let found: Vec<(usize, String)> = looks
            .try_filter_map(|(row, absence)| async move { Ok(absence.map(|text| (row, text))) })
            .try_collect()
            .await?;
        let mut missing = HashMap::new();
        for (row, absence) in found {
            missing.entry(row).or_insert(absence);
        }
        Ok(missing)
    }

    /// Why a file cannot be read, if it cannot.
    async fn absence(&self, file: NeededFile) -> Result<Option<String>> {
        let (what, found) = match file {
            NeededFile::File(path) => (format!("the file {path}"), self.look_for(&path).await),
            NeededFile::Vector(path, vector) => {
                let found = deletion_vector::read(&self.table, &vector).await;
                (
                    format!("the deletion vector of the file {path}"),
                    found.map(drop),
                )
            }
        };
        match found {
            Ok(()) => Ok(None),
            Err(Error::ObjectStore(object_store::Error::NotFound { .. })) => {
                Ok(Some(format!("{what} is gone (VACUUM)")))
            }
            Err(Error::DamagedLog { detail, .. }) => Ok(Some(detail)),
            Err(Error::UnsupportedFeature { needs, .. }) => Ok(Some(format!("the table {needs}"))),
            Err(error) => Err(error),
        }
    }

    async fn look_for(&self, path: &str) -> Result<()> {
        let location = self.table.locate(path)?;
        location.store_of(&self.table).head(&location.path).await?;
        Ok(())
    }
}

/// The newest version that VACUUM made.
async fn newest_vacuum(current: &Snapshot, files: &[CommitFile]) -> Result<Option<i64>> {
    for files in files.rchunks(CONCURRENT_REQUESTS) {
        let commits = read_commits(current, files).await?;
        if let Some(commit) = commits.iter().rev().find(|commit| is_vacuum(commit)) {
            return Ok(Some(commit.version));
        }
    }
    Ok(None)
}
