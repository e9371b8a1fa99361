//! What each commit says about rows: which files to read, which rows of them, and as what.
//!
//! - A commit with any `cdc` action is told by those alone.
//! - Otherwise an `add` inserts and a `remove` deletes the rows that its deletion vector leaves live; a path in both, with
//!   different vectors, deletes the rows that are only in the new vector and inserts those that are only in the old one.
//! - `dataChange = false` only rearranges rows; a MERGE that counts no changed row changed none.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use roaring::RoaringTreemap;

use crate::change::ChangeType;
use crate::delta::DeltaTable;
use crate::delta::actions::{
    Action, Add, AddCdcFile, DeletionVectorDescriptor, Remove, decode_path,
};
use crate::delta::deletion_vector;
use crate::delta::log::Commit;
use crate::delta::scan::{RowMask, ScanFile};
use crate::error::{Error, Result};

/// How many files' deletion vectors and sizes are looked up at once.
const CONCURRENT_READS: usize = 64;

/// The files of a range, in version order.
#[derive(Debug, Default)]
pub(crate) struct FeedFiles {
    /// Data files; constants: change type, version, timestamp, context.
    pub data: Vec<ScanFile>,
    /// Change files; constants: version, timestamp, context.
    pub cdc: Vec<ScanFile>,
}

impl FeedFiles {
    pub(crate) fn len(&self) -> usize {
        self.data.len() + self.cdc.len()
    }

    /// Version and log path of every file.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (i64, &str)> {
        let version = |value: &ScalarValue| {
            if let ScalarValue::Int64(Some(version)) = value {
                *version
            } else {
                -1
            }
        };
        let data = self
            .data
            .iter()
            .map(move |file| (version(&file.constants[1]), file.add.path.as_str()));
        data.chain(
            self.cdc
                .iter()
                .map(move |file| (version(&file.constants[0]), file.add.path.as_str())),
        )
    }
}

/// A data file and what a commit did with it.
#[derive(Debug)]
enum FileChange {
    Added(Add),
    Removed(Remove),
    /// The deletion vector of a file was replaced: old, new.
    Masked(Box<(Remove, Add)>),
}

/// Reads off the commits from `low` to `high` which files tell their changes. `since` is the version before `commits`, all of
/// which are looked at: a file may have been described by an earlier one than the one that removes it.
pub(crate) async fn plan_commits(
    table: &DeltaTable,
    since: i64,
    commits: Vec<Commit>,
    (low, high): (i64, i64),
) -> Result<FeedFiles> {
    let mut files = FeedFiles::default();
    let mut changes = Vec::new();
    let mut known = KnownFiles::new(table, since);
    for commit in commits {
        let version = commit.version;
        let constants = commit_constants(version, commit.timestamp, commit.context());
        let silent = is_silent_merge(&commit);
        let (cdc, adds, removes) = split(commit.actions);
        let wanted = (low..=high).contains(&version);
        if wanted && !cdc.is_empty() {
            files.cdc.extend(
                cdc.into_iter()
                    .map(|file| change_file(file, constants.clone())),
            );
        } else if wanted && !silent {
            let paired = pair(
                adds.iter().filter(|add| add.data_change).cloned().collect(),
                removes,
            );
            for change in paired {
                changes.push((known.complete(change).await?, constants.clone()));
            }
        }
        known.remember(adds);
    }
    let scans = futures::stream::iter(changes).map(|(change, constants)| async move {
        let scanned = scan_files(table, change).await?;
        Ok::<_, Error>(scanned.into_iter().map(move |(add, rows, change_type)| {
            data_file(add, rows, change_type, constants.clone())
        }))
    });
    files.data = scans
        .buffered(CONCURRENT_READS)
        .try_collect::<Vec<_>>()
        .await?
        .into_iter()
        .flatten()
        .collect();
    Ok(files)
}

fn split(actions: Vec<Action>) -> (Vec<AddCdcFile>, Vec<Add>, Vec<Remove>) {
    let (mut cdc, mut adds, mut removes) = (vec![], vec![], vec![]);
    for action in actions {
        match action {
            Action::Cdc(file) => cdc.push(file),
            Action::Add(add) => adds.push(add),
            Action::Remove(remove) if remove.data_change => removes.push(remove),
            _ => {}
        }
    }
    (cdc, adds, removes)
}

/// Delta writes MERGEs that touched no row with rewritten files all the same.
fn is_silent_merge(commit: &Commit) -> bool {
    const COUNTS: [&str; 3] = [
        "numTargetRowsInserted",
        "numTargetRowsUpdated",
        "numTargetRowsDeleted",
    ];
    let Some(info) = commit.info() else {
        return false;
    };
    let Some(metrics) = info
        .operation_metrics
        .as_ref()
        .filter(|_| info.operation.as_deref() == Some("MERGE"))
    else {
        return false;
    };
    let is_zero = |key: &&str| {
        metrics
            .get(*key)
            .is_some_and(|count| count.as_str() == Some("0") || count.as_i64() == Some(0))
    };
    COUNTS.iter().all(is_zero)
}

/// Pairs the add and the remove of one path.
fn pair(adds: Vec<Add>, removes: Vec<Remove>) -> Vec<FileChange> {
    let mut removed: HashMap<String, Remove> = HashMap::new();
    let mut order = Vec::new();
    for remove in removes {
        order.push(remove.path.clone());
        removed.insert(remove.path.clone(), remove);
    }
    let mut changes = Vec::new();
    for add in adds {
        changes.push(match removed.remove(&add.path) {
            Some(remove) => FileChange::Masked(Box::new((remove, add))),
            None => FileChange::Added(add),
        });
    }
    changes.extend(
        order
            .iter()
            .filter_map(|path| removed.remove(path))
            .map(FileChange::Removed),
    );
    changes
}

/// What earlier adds say of files, for removes that say too little (`extendedFileMetadata` is optional).
struct KnownFiles<'a> {
    table: &'a DeltaTable,
    since: i64,
    in_range: HashMap<String, Add>,
    before: Option<HashMap<String, Add>>,
}

impl<'a> KnownFiles<'a> {
    fn new(table: &'a DeltaTable, since: i64) -> Self {
        Self {
            table,
            since,
            in_range: HashMap::new(),
            before: None,
        }
    }

    fn remember(&mut self, adds: Vec<Add>) {
        self.in_range
            .extend(adds.into_iter().map(|add| (add.path.clone(), add)));
    }

    /// Fills in partition values and size of a remove that lacks them.
    async fn complete(&mut self, change: FileChange) -> Result<FileChange> {
        let FileChange::Removed(mut remove) = change else {
            return Ok(change);
        };
        if remove.partition_values.is_some() && remove.size.is_some() {
            return Ok(FileChange::Removed(remove));
        }
        let add = self
            .find(&remove.path)
            .await?
            .ok_or_else(|| Error::DamagedLog {
                table: self.table.name().into(),
                detail: format!("{} is removed but was never added", remove.path),
            })?;
        remove.partition_values.get_or_insert(add.partition_values);
        remove.size.get_or_insert(add.size);
        Ok(FileChange::Removed(remove))
    }

    async fn find(&mut self, path: &str) -> Result<Option<Add>> {
        if let Some(add) = self.in_range.get(path) {
            return Ok(Some(add.clone()));
        }
        if self.before.is_none() {
            let mut before = HashMap::new();
            if self.since >= 0 {
                let files = self.table.snapshot_at(self.since).await?.files().await?;
                before.extend(files.iter().map(|add| (add.path.clone(), add.clone())));
            }
            self.before = Some(before);
        }
        Ok(self
            .before
            .as_ref()
            .and_then(|files| files.get(path))
            .cloned())
    }
}

/// The rows that a file change inserts and deletes.
async fn scan_files(
    table: &DeltaTable,
    change: FileChange,
) -> Result<Vec<(Add, RowMask, ChangeType)>> {
    Ok(match change {
        FileChange::Added(add) => {
            vec![(add, RowMask::Live, ChangeType::Insert)]
        }
        FileChange::Removed(remove) => {
            vec![(
                as_add(table, remove).await?,
                RowMask::Live,
                ChangeType::Delete,
            )]
        }
        FileChange::Masked(pair) => {
            let (remove, add) = *pair;
            if remove.deletion_vector == add.deletion_vector {
                return Ok(vec![]);
            }
            let old = read_vector(table, remove.deletion_vector.as_ref())
                .await?
                .unwrap_or_default();
            let new = read_vector(table, add.deletion_vector.as_ref())
                .await?
                .unwrap_or_default();
            let (deleted, restored) = (&new - &old, &old - &new);
            let changed = [
                (deleted, ChangeType::Delete),
                (restored, ChangeType::Insert),
            ];
            changed
                .into_iter()
                .filter(|(rows, _)| !rows.is_empty())
                .map(|(rows, change_type)| (add.clone(), RowMask::Only(rows), change_type))
                .collect()
        }
    })
}

async fn read_vector(
    table: &DeltaTable,
    descriptor: Option<&DeletionVectorDescriptor>,
) -> Result<Option<RoaringTreemap>> {
    match descriptor {
        Some(descriptor) => Ok(Some(deletion_vector::read(table, descriptor).await?)),
        None => Ok(None),
    }
}

/// A removed file as something to scan; its size is asked of the store where the log does not say.
async fn as_add(table: &DeltaTable, remove: Remove) -> Result<Add> {
    let size = match remove.size {
        Some(size) => size,
        None => {
            let meta = table
                .store()
                .head(&decode_path(table.name(), &remove.path)?)
                .await;
            // a file that is gone is reported with its version by the caller
            meta.map_or(0, |meta| i64::try_from(meta.size).unwrap_or(i64::MAX))
        }
    };
    Ok(Add {
        path: remove.path,
        partition_values: remove.partition_values.unwrap_or_default(),
        size,
        deletion_vector: remove.deletion_vector,
        data_change: true,
        ..Add::default()
    })
}

/// A file whose live rows are all inserted.
pub(super) fn inserted_file(add: Add, version: i64, timestamp: i64) -> ScanFile {
    let constants = commit_constants(version, timestamp, None);
    data_file(add, RowMask::Live, ChangeType::Insert, constants)
}

fn data_file(
    add: Add,
    rows: RowMask,
    change_type: ChangeType,
    of_commit: Vec<ScalarValue>,
) -> ScanFile {
    let mut constants = vec![ScalarValue::from(change_type.as_str())];
    constants.extend(of_commit);
    ScanFile {
        add,
        rows,
        constants,
    }
}

fn change_file(file: AddCdcFile, constants: Vec<ScalarValue>) -> ScanFile {
    let add = Add {
        path: file.path,
        partition_values: file.partition_values,
        size: file.size,
        ..Add::default()
    };
    ScanFile {
        add,
        rows: RowMask::Live,
        constants,
    }
}

fn commit_constants(version: i64, timestamp: i64, context: Option<Vec<u8>>) -> Vec<ScalarValue> {
    vec![
        ScalarValue::Int64(Some(version)),
        ScalarValue::TimestampMicrosecond(Some(timestamp), Some("UTC".into())),
        ScalarValue::Binary(context),
    ]
}
