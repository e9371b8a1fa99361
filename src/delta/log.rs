//! Commits: listing them and reading a range of them.
//!
//! Reading a range costs round trips, not parsing, so commits are fetched many at a time and handed on in version order.
//! Checkpoints and compacted logs hold neither `cdc` nor `commitInfo`, so only the JSON commits will do (*Checkpoints*).

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::actions::{Action, CommitInfo, parse_commit};
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::tracking::{CONTEXT_PARAMETER, decode_context};
use crate::error::{Error, Result};

/// Commits of a range.
#[derive(Debug)]
pub(crate) enum CommitRange {
    /// All of them, in version order.
    Whole(Vec<Commit>),
    /// This version's is gone.
    Missing(i64),
}

/// How many commits are fetched at once.
const CONCURRENT_READS: usize = 64;

/// One commit, parsed.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub version: i64,
    /// Commit time in microseconds since the epoch, UTC.
    pub timestamp: i64,
    pub actions: Vec<Action>,
}

impl Commit {
    /// The commit's provenance, if it says.
    pub(crate) fn info(&self) -> Option<&CommitInfo> {
        self.actions.iter().find_map(|action| match action {
            Action::CommitInfo(info) => Some(info),
            _ => None,
        })
    }

    /// What whoever made the commit has said of its origin (SQL Server: `WITH CHANGE_TRACKING_CONTEXT`).
    pub(crate) fn context(&self) -> Option<Vec<u8>> {
        let parameters = self.info()?.operation_parameters.as_ref()?;
        decode_context(parameters.get(CONTEXT_PARAMETER)?.as_str()?)
    }
}

/// A commit file as the store lists it.
#[derive(Debug, Clone)]
pub(crate) struct CommitFile {
    pub version: i64,
    /// Modification time in milliseconds, made strictly monotone over the listing, as delta-spark does.
    pub modified: i64,
    path: Path,
}

/// Lists the commit files from version `first` on, in version order.
pub(crate) async fn list_commits(table: &DeltaTable, first: i64) -> Result<Vec<CommitFile>> {
    let store = table.store();
    let prefix = Path::from("_delta_log");
    let listed = if first > 0 {
        // everything of version `first` sorts after the file name of the version before it
        store.list_with_offset(Some(&prefix), &commit_path(first - 1))
    } else {
        store.list(Some(&prefix))
    };
    let mut files: Vec<CommitFile> = listed
        .try_filter_map(|meta| async move {
            let version = version_of(&meta.location);
            Ok(version.map(|version| CommitFile {
                version,
                modified: meta.last_modified.timestamp_millis(),
                path: meta.location,
            }))
        })
        .try_collect()
        .await?;
    files.retain(|file| file.version >= first);
    files.sort_by_key(|file| file.version);
    for i in 1..files.len() {
        files[i].modified = files[i].modified.max(files[i - 1].modified + 1);
    }
    Ok(files)
}

/// Reads commits, many at once, in the order given. `snapshot` is a version at or after the last one: it says from which
/// version on `inCommitTimestamp` counts.
pub(crate) async fn read_commits(snapshot: &Snapshot, files: &[CommitFile]) -> Result<Vec<Commit>> {
    let (store, table) = (snapshot.table().store(), snapshot.table());
    futures::stream::iter(files.to_vec())
        .map(|file| {
            let (store, table) = (Arc::clone(&store), table.clone());
            // parsing runs on the workers, beside the other fetches
            async move {
                tokio::spawn(async move { read_commit(store.as_ref(), table.name(), &file).await })
                    .await
                    .map_err(Error::internal)?
            }
        })
        .buffered(CONCURRENT_READS)
        .map_ok(|commit| with_timestamp(snapshot, commit))
        .try_collect()
        .await
}

/// Reads the commits from `first` to `last`, as [`read_commits`] does, but asks for each by its name: a listing would go through all
/// that the log has.
pub(crate) async fn read_range(snapshot: &Snapshot, first: i64, last: i64) -> Result<CommitRange> {
    let (store, table) = (snapshot.table().store(), snapshot.table());
    let mut reads = futures::stream::iter(first..=last)
        .map(|version| {
            let (store, table) = (Arc::clone(&store), table.clone());
            async move {
                tokio::spawn(async move { find_commit(&store, table.name(), version).await })
                    .await
                    .map_err(Error::internal)?
            }
        })
        .buffered(CONCURRENT_READS);
    let mut commits: Vec<Commit> = Vec::new();
    while let Some(found) = reads.try_next().await? {
        let Some(mut commit) = found else {
            return Ok(CommitRange::Missing(first + commits.len() as i64));
        };
        if let Some(before) = commits.last() {
            commit.timestamp = commit.timestamp.max(before.timestamp + 1000);
        }
        commits.push(commit);
    }
    let commits = commits.into_iter();
    Ok(CommitRange::Whole(
        commits
            .map(|commit| with_timestamp(snapshot, commit))
            .collect(),
    ))
}

async fn find_commit(
    store: &Arc<dyn ObjectStore>,
    table: &str,
    version: i64,
) -> Result<Option<Commit>> {
    let found = match store.get(&commit_path(version)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let modified = found.meta.last_modified.timestamp_millis();
    let actions = parse_commit(table, version, &found.bytes().await?)?;
    Ok(Some(Commit {
        version,
        timestamp: modified * 1000,
        actions,
    }))
}

async fn read_commit(store: &dyn ObjectStore, table: &str, file: &CommitFile) -> Result<Commit> {
    let bytes = store.get(&file.path).await?.bytes().await?;
    let actions = parse_commit(table, file.version, &bytes)?;
    Ok(Commit {
        version: file.version,
        timestamp: file.modified * 1000,
        actions,
    })
}

/// When a version was committed, in microseconds since the epoch; `None` where its commit has been cleaned away.
pub(crate) async fn commit_timestamp(snapshot: &Snapshot, version: i64) -> Result<Option<i64>> {
    let path = commit_path(version);
    let meta = match snapshot.table().store().head(&path).await {
        Ok(meta) => meta,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let file = CommitFile {
        version,
        modified: meta.last_modified.timestamp_millis(),
        path,
    };
    timestamp_of(snapshot, &file).await.map(Some)
}

/// The newest version of `first..=last` that was committed at or before `micros`, or the one before `first`. All these commits are
/// taken to be there; few of them are looked at.
pub(crate) async fn newest_until(
    snapshot: &Snapshot,
    first: i64,
    last: i64,
    micros: i64,
) -> Result<i64> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let time = commit_timestamp(snapshot, middle).await?;
        // one that has been cleaned away is old
        if time.is_none_or(|time| time <= micros) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low - 1)
}

/// *In-Commit Timestamps*: from the enablement version on the commit's own time counts, before it the file's.
fn with_timestamp(snapshot: &Snapshot, mut commit: Commit) -> Commit {
    let properties = snapshot.properties();
    if properties.in_commit_timestamps && commit.version >= properties.in_commit_timestamp_since {
        commit.timestamp = commit
            .info()
            .and_then(|info| info.in_commit_timestamp)
            .map_or(commit.timestamp, |millis| millis * 1000);
    }
    commit
}

/// The newest version committed at or before `micros`, or -1; `files` is every commit that is left.
pub(crate) async fn version_at(
    snapshot: &Snapshot,
    files: &[CommitFile],
    micros: i64,
) -> Result<i64> {
    let (mut low, mut high) = (0, files.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if timestamp_of(snapshot, &files[middle]).await? <= micros {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low.checked_sub(1).map_or(-1, |index| files[index].version))
}

async fn timestamp_of(snapshot: &Snapshot, file: &CommitFile) -> Result<i64> {
    let properties = snapshot.properties();
    if !properties.in_commit_timestamps || file.version < properties.in_commit_timestamp_since {
        return Ok(file.modified * 1000);
    }
    let table = snapshot.table();
    Ok(with_timestamp(
        snapshot,
        read_commit(table.store().as_ref(), table.name(), file).await?,
    )
    .timestamp)
}

/// Length and checksum of a commit file, which another history's commit of that version would not share; `None` when the file is
/// gone.
pub(crate) async fn commit_fingerprint(table: &DeltaTable, version: i64) -> Result<Option<i64>> {
    let bytes = match table.store().get(&commit_path(version)).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX) & i64::from(i32::MAX);
    Ok(Some(length << 32 | i64::from(crc32fast::hash(&bytes))))
}

/// The commit file of a version.
pub(crate) fn commit_path(version: i64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

/// The version of a commit file; `None` for everything else that lies in the log.
fn version_of(path: &Path) -> Option<i64> {
    let digits = path
        .as_ref()
        .strip_prefix("_delta_log/")?
        .strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commits_have_a_version() {
        for (path, version) in [
            ("_delta_log/00000000000000000012.json", Some(12)),
            ("_delta_log/00000000000000000012.checkpoint.parquet", None),
            (
                "_delta_log/00000000000000000001.00000000000000000004.compacted.json",
                None,
            ),
            ("_delta_log/_last_checkpoint", None),
            ("_delta_log/_commits/00000000000000000012.0f.json", None),
        ] {
            assert_eq!(version_of(&Path::from(path)), version, "{path}");
        }
        assert_eq!(version_of(&commit_path(7)), Some(7));
    }
}
