//! Row-level concurrency: two commits that mark different rows of one file both succeed.
//!
//! ```text
//!  the version both have read   a.parquet, rows {1}    gone
//!  the winner                   a.parquet, rows {1, 4} gone
//!  ours                         a.parquet, rows {1, 7} gone
//!  ours, reconciled             removes a.parquet with {1, 4}, adds it with {1, 4, 7}
//! ```

use std::collections::HashMap;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use roaring::RoaringTreemap;

use super::actions::{Action, Add, DeletionVectorDescriptor};
use super::conflict::added_again;
use super::deletion_vector;
use super::stats::{loosen, num_records};
use super::table::DeltaTable;
use super::transaction::Transaction;
use crate::error::{Error, Result};

/// How many files' deletion vectors are read at once.
const CONCURRENT_READS: usize = 32;

/// The rows of a file that a statement has matched.
#[derive(Debug, Clone)]
pub(crate) struct TouchedRows {
    /// Those that it takes away from the file; those of earlier deletion vectors are not among them.
    pub gone: RoaringTreemap,
    /// Those that it has matched and left as they are.
    pub kept: RoaringTreemap,
    /// The file's deletion vector in the version that was read.
    pub before: Option<DeletionVectorDescriptor>,
    /// Whether the file stays, with a new deletion vector.
    pub stays: bool,
}

/// Joins the deletion vectors of `ours` with those of a winner.
///
/// Returns what stands in the way, or `None`; then the actions of `ours` follow the winner's version, and `files` has the file of
/// vectors that was written for them.
pub(super) async fn reconcile(
    ours: &mut Transaction,
    winner: &[Action],
    files: &mut Vec<Path>,
) -> Result<Option<String>> {
    let shared = added_again(winner)
        .into_iter()
        .filter_map(|(path, theirs)| {
            let touched = ours.touched.get(path)?;
            let table = &ours.table;
            Some(async move {
                let before = vector(table, touched.before.as_ref()).await?;
                let after = vector(table, theirs.deletion_vector.as_ref()).await?;
                Ok::<_, Error>((path, theirs, touched, before, after))
            })
        });
    let reads: Vec<_> = shared.collect();
    let shared: Vec<_> = stream::iter(reads)
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    let mut joined: Vec<(Add, RoaringTreemap)> = Vec::new();
    for (path, theirs, touched, before, after) in shared {
        let newly = &after - &before;
        let restores = !before.is_subset(&after);
        if restores || !newly.is_disjoint(&touched.gone) || !newly.is_disjoint(&touched.kept) {
            return Ok(Some(format!("both change the same rows of {path}")));
        }
        if touched.gone.is_empty() {
            continue;
        }
        if !touched.stays {
            return Ok(Some(format!("both change rows of {path}")));
        }
        joined.push((theirs.clone(), after | &touched.gone));
    }
    if !joined.is_empty() {
        follow(ours, joined, files).await?;
    }
    Ok(None)
}

async fn vector(
    table: &DeltaTable,
    descriptor: Option<&DeletionVectorDescriptor>,
) -> Result<RoaringTreemap> {
    match descriptor {
        Some(descriptor) => deletion_vector::read(table, descriptor).await,
        None => Ok(RoaringTreemap::new()),
    }
}

/// Replaces our `remove` and `add` of files by ones that start from the winner's.
async fn follow(
    ours: &mut Transaction,
    joined: Vec<(Add, RoaringTreemap)>,
    files: &mut Vec<Path>,
) -> Result<()> {
    let (theirs, bitmaps): (Vec<Add>, Vec<RoaringTreemap>) = joined.into_iter().unzip();
    let (written, descriptors) =
        deletion_vector::write(ours.table.store().as_ref(), bitmaps).await?;
    files.push(written);
    let now = Utc::now().timestamp_millis();
    let pairs = theirs.into_iter().zip(descriptors);
    let by_path: HashMap<String, (Add, DeletionVectorDescriptor)> = pairs
        .map(|(add, vector)| (add.path.clone(), (add, vector)))
        .collect();
    for action in &mut ours.actions {
        match action {
            Action::Remove(remove) => {
                if let Some((theirs, _)) = by_path.get(&remove.path) {
                    *remove = theirs.to_remove(now, true);
                }
            }
            Action::Add(add) => {
                if let Some((theirs, vector)) = by_path.get(&add.path) {
                    // a file with a deletion vector must say how many rows it holds, and bounds are tight no longer
                    let counted = theirs
                        .stats
                        .as_deref()
                        .filter(|_| num_records(theirs).is_some());
                    *add = Add {
                        deletion_vector: Some(vector.clone()),
                        stats: loosen(counted).or_else(|| add.stats.clone()),
                        data_change: true,
                        ..theirs.clone()
                    };
                }
            }
            _ => {}
        }
    }
    // the next winner is compared with what this one has left
    for (path, (theirs, _)) in by_path {
        if let Some(touched) = ours.touched.get_mut(&path) {
            touched.before = theirs.deletion_vector;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
