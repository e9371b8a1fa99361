//! A range of commits, read once and reduced to what tells its changes.

use std::collections::HashMap;

use futures::TryStreamExt;

use super::actions::{FileChange, is_silent_merge, pair, split};
use crate::delta::actions::{Action, Add, AddCdcFile, Metadata, PartitionValues, Protocol, Remove};
use crate::delta::location::DataFileLocation;
use crate::delta::log::{Commit, stream_commits};
use crate::delta::snapshot::Snapshot;
use crate::delta::stats::num_records;
use crate::delta::{DeltaTable, deletion_vector};
use crate::error::{Error, Result};

/// What a commit has done, as far as its changes are concerned.
#[derive(Debug, Clone)]
pub(super) struct FeedCommit {
    pub version: i64,
    /// In microseconds since the epoch, UTC.
    pub timestamp: i64,
    /// What whoever made it has said of its origin.
    pub context: Option<Vec<u8>>,
    /// Whether rows that it moved kept their ids, if they had any.
    pub keeps_row_ids: bool,
    pub told: Told,
}

/// How the changes of a commit are known.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// By change files.
    ChangeFiles(Vec<AddCdcFile>),
    /// By what was added and removed: every live row of it.
    DataFiles(Vec<FileChange>),
    /// By comparing the rows that were removed with those that were added; with the physical name of the column with row ids, where
    /// rows have some.
    Comparison(Vec<FileChange>, Option<String>),
}

impl Told {
    /// Whether there is no file to read.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::ChangeFiles(files) => files.is_empty(),
            Self::DataFiles(changes) | Self::Comparison(changes, _) => changes.is_empty(),
        }
    }
}

impl FeedCommit {
    /// How many files are read as they are.
    pub(super) fn file_count(&self) -> usize {
        match &self.told {
            Told::ChangeFiles(files) => files.len(),
            Told::DataFiles(changes) => changes.len(),
            Told::Comparison(..) => 0,
        }
    }

    /// How many files there are in all.
    pub(super) fn all_files(&self) -> usize {
        match &self.told {
            Told::Comparison(changes, _) => changes.len(),
            _ => self.file_count(),
        }
    }

    /// Asks of each file that is read as it is whether it stays; of those that do the bounds of their values are not needed any more.
    pub(super) fn retain_files(&mut self, is_kept: &mut impl FnMut() -> bool) {
        match &mut self.told {
            Told::ChangeFiles(files) => files.retain(|_| is_kept()),
            Told::DataFiles(changes) => changes.retain_mut(|change| {
                if let FileChange::Added(add) = change {
                    forget_bounds(add);
                } else if let FileChange::Masked(pair) = change {
                    forget_bounds(&mut pair.1);
                }
                is_kept()
            }),
            Told::Comparison(..) => {}
        }
    }

    /// Where its files lie, and those of deletion vectors, each with what the log calls it.
    pub(super) fn locations(&self, table: &DeltaTable) -> Result<Vec<(String, DataFileLocation)>> {
        let mut locations = Vec::new();
        match &self.told {
            Told::ChangeFiles(files) => {
                for file in files {
                    locations.push((file.path.clone(), table.locate(&file.path)?));
                }
            }
            Told::DataFiles(changes) | Told::Comparison(changes, _) => {
                for change in changes {
                    let path = change.path().to_owned();
                    let location = table.locate(&path)?;
                    locations.push((path, location));
                    for vector in change.vectors() {
                        if let Some(location) = deletion_vector::location(table, vector)? {
                            locations.push((location.path.to_string(), location));
                        }
                    }
                }
            }
        }
        Ok(locations)
    }
}

/// A commit that changes what the table is.
#[derive(Debug)]
pub(super) struct StateChange {
    pub version: i64,
    pub metadata: Option<Metadata>,
    pub protocol: Option<Protocol>,
}

/// The commits of a range.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Those that change rows, in version order.
    pub commits: Vec<FeedCommit>,
    pub states: Vec<StateChange>,
    /// When the first of all was made, in microseconds since the epoch.
    pub oldest: Option<i64>,
    /// Whether one of them was made by VACUUM.
    pub vacuumed: bool,
}

/// What is found in place of a range of commits.
#[derive(Debug)]
pub(super) enum Found {
    Whole(History),
    /// The commit of this version is gone.
    Missing(i64),
}

/// Reads the commits from `first` to `last`. `snapshot` is a version at or after the last; statistics of files are kept if `keep_stats`.
pub(super) async fn read_history(
    snapshot: &Snapshot,
    first: i64,
    last: i64,
    keep_stats: bool,
) -> Result<Found> {
    let mut history = History::default();
    let mut known = KnownFiles::new(snapshot.table());
    let mut commits = stream_commits(snapshot, first, last);
    let mut version = first;
    while let Some(commit) = commits.try_next().await? {
        let Some(commit) = commit else {
            return Ok(Found::Missing(version));
        };
        history.oldest.get_or_insert(commit.timestamp);
        history.vacuumed |= is_vacuum(&commit);
        history.states.extend(state_change(&commit));
        history.add(commit, &mut known, keep_stats).await?;
        version += 1;
    }
    Ok(Found::Whole(history))
}

impl History {
    async fn add(
        &mut self,
        commit: Commit,
        known: &mut KnownFiles<'_>,
        keep_stats: bool,
    ) -> Result<()> {
        let (version, timestamp, context) = (commit.version, commit.timestamp, commit.context());
        let (silent, keeps_row_ids) = (is_silent_merge(&commit), keeps_row_ids(&commit));
        let (cdc, mut adds, removes) = split(commit.actions);
        for add in adds.iter_mut().filter(|_| !keep_stats) {
            forget_bounds(add);
        }
        known.remember(&adds);
        let told = if !cdc.is_empty() {
            Told::ChangeFiles(cdc)
        } else if silent {
            return Ok(());
        } else {
            adds.retain(|add| add.data_change);
            let mut changes = pair(adds, removes);
            changes.retain(|change| !change.is_restated());
            for change in &mut changes {
                if let FileChange::Removed(remove) = change {
                    known.complete(remove, version).await?;
                }
            }
            Told::DataFiles(changes)
        };
        if !told.is_empty() {
            self.commits.push(FeedCommit {
                version,
                timestamp,
                context,
                keeps_row_ids,
                told,
            });
        }
        Ok(())
    }
}

/// Whether a VACUUM was under way, or was done, when the commit was made.
pub(super) fn is_vacuum(commit: &Commit) -> bool {
    let operation = commit.info().and_then(|info| info.operation.as_deref());
    operation.is_some_and(|operation| operation.starts_with("VACUUM"))
}

/// *Row Tracking*: a commit says so where rows that it rewrote have got new ids.
fn keeps_row_ids(commit: &Commit) -> bool {
    let tags = commit.info().and_then(|info| info.tags.as_ref());
    let preserved = tags.and_then(|tags| tags.get("delta.rowTracking.preserved"));
    preserved.is_none_or(|preserved| !preserved.eq_ignore_ascii_case("false"))
}

/// Keeps of a file's statistics only how many rows it has: of a long history all of them would take much room.
fn forget_bounds(add: &mut Add) {
    add.tags = None;
    add.stats = num_records(add).map(|rows| format!("{{\"numRecords\":{rows}}}"));
}

fn state_change(commit: &Commit) -> Option<StateChange> {
    let (mut metadata, mut protocol) = (None, None);
    for action in &commit.actions {
        match action {
            Action::Metadata(found) => metadata = Some(found.clone()),
            Action::Protocol(found) => protocol = Some(found.clone()),
            _ => {}
        }
    }
    (metadata.is_some() || protocol.is_some()).then_some(StateChange {
        version: commit.version,
        metadata,
        protocol,
    })
}

/// What earlier adds say of files, for removes that say too little (`extendedFileMetadata` is optional).
struct KnownFiles<'a> {
    table: &'a DeltaTable,
    /// By path; nothing until it is needed for the first time.
    files: Option<HashMap<String, (PartitionValues, i64)>>,
}

impl<'a> KnownFiles<'a> {
    fn new(table: &'a DeltaTable) -> Self {
        Self { table, files: None }
    }

    fn remember(&mut self, adds: &[Add]) {
        if let Some(files) = &mut self.files {
            files.extend(adds.iter().map(described));
        }
    }

    /// Fills in what a remove of `version` lacks.
    async fn complete(&mut self, remove: &mut Remove, version: i64) -> Result<()> {
        if remove.partition_values.is_some() && remove.size.is_some() {
            return Ok(());
        }
        let files = match &mut self.files {
            Some(files) => files,
            None => {
                let before = self.table.snapshot_at(version - 1).await?.files().await?;
                let before = before.iter().map(|add| described(add));
                self.files.insert(before.collect())
            }
        };
        let (values, size) = files.get(&remove.path).ok_or_else(|| Error::DamagedLog {
            table: self.table.name().into(),
            detail: format!("{} is removed but was never added", remove.path),
        })?;
        remove
            .partition_values
            .get_or_insert_with(|| values.clone());
        remove.size.get_or_insert(*size);
        Ok(())
    }
}

fn described(add: &Add) -> (String, (PartitionValues, i64)) {
    (add.path.clone(), (add.partition_values.clone(), add.size))
}
