//! What is in force at a version, metadata and protocol, without a listing of the log and without its files.
//!
//! ```text
//!  _last_checkpoint ──> checkpoint C ──────────────┐
//!    └─ of no use: a listing of the log            ├──> the newest metaData and protocol
//!  C+1, C+2, … by name, until one is missing ──────┘
//! ```
//!
//! Opening a table then costs the same however long its log is. Whatever is unusual about a log is `None` or an error here, upon which
//! the caller asks the kernel, which reads it or says what is wrong.

mod checkpoint;
mod checkpoint_file;
mod listing;
#[cfg(test)]
pub(super) mod test_log;

use delta_kernel::actions::{Metadata as KernelMetadata, Protocol as KernelProtocol};
use delta_kernel::table_configuration::TableConfiguration;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::Deserialize;

use self::checkpoint::Checkpoint;
use self::listing::Listing;
use super::actions::{Metadata, Protocol};
use super::fetch::{FoundCommit, fetch_commits};
use super::log::commit_path;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// A log that goes on for more commits than this has a newer checkpoint, which a listing finds.
const MAX_BY_NAME: i64 = 256;
/// How many commits are asked for at first where a table is opened, and where it was known a moment ago.
const FIRST_BATCH: i64 = 8;
const FIRST_NEWS: i64 = 1;
const LARGEST_BATCH: i64 = 64;

/// A version of a table.
#[derive(Debug)]
pub(super) struct LogState {
    pub version: i64,
    pub metadata: Metadata,
    pub protocol: Protocol,
    /// Its commit file; it may have been cleaned away behind a checkpoint.
    pub commit: Option<ObjectMeta>,
}

impl LogState {
    /// Refuses what the kernel refuses: a schema, properties and a protocol that do not go together.
    fn checked(self, table: &DeltaTable) -> Result<Self> {
        let metadata: KernelMetadata =
            serde_json::from_value(serde_json::to_value(&self.metadata)?)?;
        let protocol: KernelProtocol =
            serde_json::from_value(serde_json::to_value(&self.protocol)?)?;
        let version = u64::try_from(self.version).map_err(Error::internal)?;
        TableConfiguration::try_new(metadata, protocol, table.location().clone(), version)?;
        Ok(self)
    }
}

/// The newest version, or the one asked for; `None` where the log is not as it should be.
pub(super) async fn find(table: &DeltaTable, version: Option<i64>) -> Result<Option<LogState>> {
    let checkpoint = match (Checkpoint::last(table).await?, version) {
        (Some(last), Some(version)) if last.version > version => {
            last.before(table, version).await?
        }
        (last, _) => last,
    };
    let is_near = |checkpoint: &Checkpoint| {
        version.is_none_or(|version| version - checkpoint.version <= MAX_BY_NAME)
    };
    // `_last_checkpoint` may be old, and what it names gone
    if let Some(checkpoint) = checkpoint.filter(is_near)
        && let Ok(Some(state)) = since(table, Some(&checkpoint), version).await
    {
        return Ok(Some(state));
    }
    find_listed(table, version).await
}

/// The same by what a listing tells.
async fn find_listed(table: &DeltaTable, version: Option<i64>) -> Result<Option<LogState>> {
    let listing = Listing::up_to(table, version).await?;
    let Some(last) = version.or(listing.newest()) else {
        return Ok(None);
    };
    // where one is damaged an older one will do
    let mut failed = None;
    for checkpoint in listing.checkpoints().map(Some).chain([None]) {
        let first = checkpoint.as_ref().map_or(0, |found| found.version + 1);
        if !listing.has_commits(first, last) {
            break;
        }
        match since(table, checkpoint.as_ref(), Some(last)).await {
            Err(error) => failed = failed.or(Some(error)),
            found => return found,
        }
    }
    failed.map_or(Ok(None), Err)
}

/// What a checkpoint, or nothing, and the commits after it come to: those up to `last`, or as many as there are.
async fn since(
    table: &DeltaTable,
    checkpoint: Option<&Checkpoint>,
    last: Option<i64>,
) -> Result<Option<LogState>> {
    let tail = Tail::new(checkpoint.map_or(-1, |checkpoint| checkpoint.version));
    let ((before, its_commit), tail) =
        futures::try_join!(begin(table, checkpoint), tail.read(table, last))?;
    let Some(tail) = tail else {
        return Ok(None);
    };
    let commit = tail.commit.or(its_commit);
    // a log that was cleaned past the checkpoint ends here, too
    if last.is_none() && commit.is_none() {
        return Ok(None);
    }
    let found = tail.found.or(before);
    let (Some(metadata), Some(protocol)) = (found.metadata, found.protocol) else {
        return Ok(None);
    };
    let state = LogState {
        version: tail.version,
        metadata,
        protocol,
        commit,
    };
    state.checked(table).map(Some)
}

/// What a checkpoint says, and the commit of its version.
async fn begin(
    table: &DeltaTable,
    checkpoint: Option<&Checkpoint>,
) -> Result<(Found, Option<ObjectMeta>)> {
    let Some(checkpoint) = checkpoint else {
        return Ok((Found::default(), None));
    };
    futures::try_join!(
        checkpoint.read(table),
        commit_file(table, checkpoint.version)
    )
}

/// The commits after a version; `None` where there are so many that a newer checkpoint is worth looking for.
pub(super) async fn read_news(table: &DeltaTable, version: i64) -> Result<Option<Tail>> {
    Tail::new(version).read_all(table, FIRST_NEWS).await
}

/// The commit file of a version, if it is there.
pub(super) async fn commit_file(table: &DeltaTable, version: i64) -> Result<Option<ObjectMeta>> {
    match table.store().head(&commit_path(version)).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The commits after a version, as far as they have been read.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last of them; the version before them where there is none.
    pub version: i64,
    commit: Option<ObjectMeta>,
    found: Found,
}

impl Tail {
    fn new(version: i64) -> Self {
        Self {
            version,
            commit: None,
            found: Found::default(),
        }
    }

    /// What is in force after these commits, where `metadata` and `protocol` were before them.
    pub(super) fn follow(
        self,
        table: &DeltaTable,
        metadata: &Metadata,
        protocol: &Protocol,
    ) -> Result<LogState> {
        let is_known = self.found.metadata.is_none() && self.found.protocol.is_none();
        let state = LogState {
            version: self.version,
            metadata: self.found.metadata.unwrap_or_else(|| metadata.clone()),
            protocol: self.found.protocol.unwrap_or_else(|| protocol.clone()),
            commit: self.commit,
        };
        if is_known {
            Ok(state)
        } else {
            state.checked(table)
        }
    }

    /// Reads the commits up to `last`, which all have to be there, or as many as there are.
    async fn read(mut self, table: &DeltaTable, last: Option<i64>) -> Result<Option<Self>> {
        let Some(last) = last else {
            return self.read_all(table, FIRST_BATCH).await;
        };
        self.read_to(table, last).await?;
        Ok((self.version == last).then_some(self))
    }

    /// Reads as many as there are, `batch` of them at first; `None` where there are too many.
    async fn read_all(mut self, table: &DeltaTable, mut batch: i64) -> Result<Option<Self>> {
        let limit = self.version + MAX_BY_NAME;
        while self.version < limit {
            let last = self.version + batch;
            self.read_to(table, last).await?;
            if self.version < last {
                return Ok(Some(self));
            }
            batch = (batch * 2).min(LARGEST_BATCH);
        }
        Ok(None)
    }

    /// Reads those that there are up to `last`.
    ///
    /// # Errors
    /// [`Error::DamagedLog`] where one is missing that another follows.
    async fn read_to(&mut self, table: &DeltaTable, last: i64) -> Result<()> {
        let mut commits = fetch_commits(table, self.version + 1..last + 1, read_commit);
        while let Some(commit) = commits.try_next().await? {
            let Some((version, meta, found)) = commit else {
                continue;
            };
            if version != self.version + 1 {
                return Err(Error::DamagedLog {
                    table: table.name().into(),
                    detail: format!("commit {} is missing", self.version + 1),
                });
            }
            self.version = version;
            self.commit = Some(meta);
            self.found = found.or(std::mem::take(&mut self.found));
        }
        Ok(())
    }
}

fn read_commit(commit: FoundCommit) -> Result<(i64, ObjectMeta, Found)> {
    Ok((commit.version, commit.meta, Found::read(&commit.bytes)?))
}

/// The newest `metaData` and `protocol` of a piece of the log.
#[derive(Debug, Default)]
struct Found {
    metadata: Option<Metadata>,
    protocol: Option<Protocol>,
}

impl Found {
    /// Those of some lines of a log; of several the last counts.
    fn read(lines: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Line {
            meta_data: Option<Metadata>,
            protocol: Option<Protocol>,
        }
        // few commits have either, and most of what they have otherwise is long
        let may_have = |text: &str| text.contains("\"metaData\"") || text.contains("\"protocol\"");
        let text = std::str::from_utf8(lines).map_err(Error::internal)?;
        let mut found = Self::default();
        if !may_have(text) {
            return Ok(found);
        }
        for line in text.lines().filter(|line| may_have(line)) {
            let line: Line = serde_json::from_str(line)?;
            let newer = Self {
                metadata: line.meta_data,
                protocol: line.protocol,
            };
            found = newer.or(found);
        }
        Ok(found)
    }

    /// With what `other` has where this has nothing.
    fn or(self, other: Self) -> Self {
        Self {
            metadata: self.metadata.or(other.metadata),
            protocol: self.protocol.or(other.protocol),
        }
    }

    fn is_whole(&self) -> bool {
        self.metadata.is_some() && self.protocol.is_some()
    }
}

#[cfg(test)]
mod tests;
