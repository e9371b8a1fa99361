//! What a commit says about rows: which files to read, and as what.
//!
//! - A commit with any `cdc` action is told by those alone.
//! - Otherwise an `add` inserts and a `remove` deletes the rows that its deletion vector leaves live; a path in both, with
//!   different vectors, deletes the rows that are only in the new vector and inserts those that are only in the old one.
//! - `dataChange = false` only rearranges rows; a MERGE that counts no changed row changed none.

use std::collections::HashMap;

use crate::delta::actions::{Action, Add, AddCdcFile, DeletionVectorDescriptor, Remove};
use crate::delta::log::Commit;

/// A data file and what a commit did with it.
#[derive(Debug, Clone)]
pub(super) enum FileChange {
    Added(Add),
    Removed(Remove),
    /// The deletion vector of a file was replaced: old, new.
    Masked(Box<(Remove, Add)>),
}

impl FileChange {
    /// The file's path, as the log has it.
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Added(add) => &add.path,
            Self::Removed(remove) => &remove.path,
            Self::Masked(pair) => &pair.1.path,
        }
    }

    /// Whether the file was only put back as it was.
    pub(super) fn is_restated(&self) -> bool {
        match self {
            Self::Masked(pair) => pair.0.deletion_vector == pair.1.deletion_vector,
            Self::Added(_) | Self::Removed(_) => false,
        }
    }

    /// The deletion vectors that tell which of its rows are read.
    pub(super) fn vectors(&self) -> impl Iterator<Item = &DeletionVectorDescriptor> {
        let (old, new) = match self {
            Self::Added(add) => (None, add.deletion_vector.as_ref()),
            Self::Removed(remove) => (remove.deletion_vector.as_ref(), None),
            Self::Masked(pair) => (
                pair.0.deletion_vector.as_ref(),
                pair.1.deletion_vector.as_ref(),
            ),
        };
        old.into_iter().chain(new)
    }

    /// The file's size in bytes; 0 where the log does not say.
    pub(super) fn size(&self) -> u64 {
        let size = match self {
            Self::Added(add) => add.size,
            Self::Removed(remove) => remove.size.unwrap_or(0),
            Self::Masked(pair) => pair.1.size,
        };
        u64::try_from(size).unwrap_or(0)
    }
}

/// The actions on files of a commit: change files, added files, removed files. Removals that change no row are left out.
pub(super) fn split(actions: Vec<Action>) -> (Vec<AddCdcFile>, Vec<Add>, Vec<Remove>) {
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
pub(super) fn is_silent_merge(commit: &Commit) -> bool {
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
pub(super) fn pair(adds: Vec<Add>, removes: Vec<Remove>) -> Vec<FileChange> {
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
