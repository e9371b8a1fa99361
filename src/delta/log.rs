//! Commits: listing them and reading a range of them.
//!
//! Reading a range costs round trips, not parsing, so commits are fetched many at a time and handed on in version order.
//! Checkpoints and compacted logs hold neither `cdc` nor `commitInfo`, so only the JSON commits will do (*Checkpoints*).

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::actions::{Action, CommitInfo, parse_commit};
use super::fetch::{CONCURRENT_READS, FoundCommit, fetch_commits};
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::tracking::{CONTEXT_PARAMETER, decode_context};
use crate::error::{Error, Result};

/// Commits of a range.
#[derive(Debug)]
pub(crate) enum CommitRange {
    /// All of them, in version order.
    Whole(Vec<Commit>),
    /// One is gone.
    Missing,
}

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
        .map_ok(|commit| TimeRule::of(snapshot).apply(commit))
        .try_collect()
        .await
}

/// The commits from `first` to `last`, as [`read_commits`] reads them, but each is asked for by its name: a listing would go through
/// all that the log has. `None` for one that is not there.
pub(crate) fn stream_commits(
    snapshot: &Snapshot,
    first: i64,
    last: i64,
) -> BoxStream<'static, Result<Option<Commit>>> {
    let (rule, name) = (TimeRule::of(snapshot), snapshot.table().name().to_owned());
    let read = move |found: FoundCommit| {
        if found.bytes.trim_ascii().is_empty() {
            return Err(Error::DamagedLog {
                table: name.clone(),
                detail: format!("commit {} is empty", found.version),
            });
        }
        Ok(Commit {
            version: found.version,
            timestamp: found.meta.last_modified.timestamp_millis() * 1000,
            actions: parse_commit(&name, found.version, &found.bytes)?,
        })
    };
    let commits = fetch_commits(snapshot.table(), first..last + 1, read);
    let ordered = commits.scan(i64::MIN, |newest, commit| {
        let commit = commit.map(|commit| {
            commit.map(|mut commit| {
                commit.timestamp = commit.timestamp.max(newest.saturating_add(1000));
                *newest = commit.timestamp;
                commit
            })
        });
        futures::future::ready(Some(commit))
    });
    let timed = move |commit| rule.apply(commit);
    ordered.map_ok(move |commit| commit.map(timed)).boxed()
}

/// All the commits from `first` to `last`.
pub(crate) async fn read_range(snapshot: &Snapshot, first: i64, last: i64) -> Result<CommitRange> {
    let mut found = stream_commits(snapshot, first, last);
    let mut commits: Vec<Commit> = Vec::new();
    while let Some(commit) = found.try_next().await? {
        match commit {
            Some(commit) => commits.push(commit),
            None => return Ok(CommitRange::Missing),
        }
    }
    Ok(CommitRange::Whole(commits))
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
#[derive(Debug, Clone, Copy)]
struct TimeRule {
    /// The version from which commits tell their time.
    since: Option<i64>,
}

impl TimeRule {
    fn of(snapshot: &Snapshot) -> Self {
        let properties = snapshot.properties();
        Self {
            since: properties
                .in_commit_timestamps
                .then_some(properties.in_commit_timestamp_since),
        }
    }

    fn counts_at(self, version: i64) -> bool {
        self.since.is_some_and(|since| version >= since)
    }

    fn apply(self, mut commit: Commit) -> Commit {
        if self.counts_at(commit.version) {
            let own = commit.info().and_then(|info| info.in_commit_timestamp);
            commit.timestamp = own.map_or(commit.timestamp, |millis| millis * 1000);
        }
        commit
    }
}

/// The newest version committed at or before `micros`, or -1; `files` is every commit that is left.
pub(crate) async fn version_at(
    snapshot: &Snapshot,
    files: &[CommitFile],
    micros: i64,
) -> Result<i64> {
    // times that commits tell and times of files need not be in one order: they are looked through apart
    let rule = TimeRule::of(snapshot);
    let border = files.partition_point(|file| !rule.counts_at(file.version));
    let is_after = match files.get(border) {
        Some(first) => timestamp_of(snapshot, first).await? <= micros,
        None => false,
    };
    let (mut low, mut high) = match is_after {
        true => (border, files.len()),
        false => (0, border),
    };
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
    let rule = TimeRule::of(snapshot);
    if !rule.counts_at(file.version) {
        return Ok(file.modified * 1000);
    }
    let table = snapshot.table();
    let commit = read_commit(table.store().as_ref(), table.name(), file).await?;
    Ok(rule.apply(commit).timestamp)
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
