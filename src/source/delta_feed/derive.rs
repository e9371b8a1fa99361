//! The changes of commits that only say which files went and which came: they are told by comparing the rows of these.
//!
//! ```text
//!  commits ── batches ──┬─ ComparedFiles ── compare() ── the relation's columns ─┐
//!                       └─ …                                                     ├─ SequenceExec
//!                                                                                ┘
//! ```
//!
//! - Rows that a commit both took away and brought, equally often, are no changes: a rewrite has only carried them over. Rows are
//!   equal if all columns are, as `GROUP BY` has it: NULL equals NULL, NaN equals NaN of the same sign, and -0.0 equals 0.0, as which it is shown;
//!   inside of nested columns 0.0 and -0.0 differ.
//! - Where row ids are known of every file of a commit (Delta protocol, *Row Tracking*), the id is a part of the row, and a
//!   removed and an added row with the same id are an update.
//! - Elsewhere rows with the same key are, where there is a key. NULL is a key like any other. Where several rows have the same,
//!   the first one removed becomes the first one added, and so on, in the order of their other columns.
//! - What is left over is a delete or an insert.
//!
//! Memory is bounded: what groups and sorts rows spills, and a long range takes no more of it than a batch does.

mod batch_plan;
mod compare;
mod compared_files;

use std::sync::Arc;

use datafusion::common::project_schema;
use datafusion::physical_plan::ExecutionPlan;

use self::batch_plan::Comparison;
use super::feed_files::relation_schema;
use crate::delta::DeltaTable;
use crate::delta::actions::Add;
use crate::delta::layout::TableLayout;
use crate::delta::scan::RowMask;
use crate::error::{Error, Result};
use crate::source::ChangeRead;
use crate::source::sequence_exec::SequenceExec;

/// So many bytes of files are compared at once, or one commit.
const BATCH_BYTES: u64 = 128 << 20;

/// How changes are told where the table has not kept them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Derivation {
    /// The columns by which a removed row and an added one are told to be the same; none: no two are.
    pub keys: Vec<String>,
}

/// A commit whose changes are told by comparing the rows that it took away with those that it brought.
#[derive(Debug)]
pub(super) struct ComparedCommit {
    pub version: i64,
    /// In microseconds since the epoch.
    pub timestamp: i64,
    pub context: Option<Vec<u8>>,
    /// The files with rows that are gone, and which of their rows these are.
    pub removed: Vec<(Add, RowMask)>,
    /// The files with rows that are new, and which of their rows these are.
    pub added: Vec<(Add, RowMask)>,
    /// The physical name of the column with materialised row ids, where row tracking was on.
    pub row_ids: Option<String>,
}

impl ComparedCommit {
    fn files(&self) -> impl Iterator<Item = &(Add, RowMask)> {
        self.removed.iter().chain(&self.added)
    }

    /// The column with row ids, where the id of every row is known.
    fn known_row_ids(&self) -> Option<&str> {
        let mut files = self.files();
        let all_known = files.all(|(add, _)| add.base_row_id.is_some());
        self.row_ids.as_deref().filter(|_| all_known)
    }

    fn bytes(&self) -> u64 {
        let sizes = self.files().map(|(add, _)| add.size);
        sizes.map(|size| u64::try_from(size).unwrap_or(0)).sum()
    }
}

/// Plans the changes of `commits`: the columns of `layout` and those of a change, with `_change_context` if `contexts`, as `read`
/// wants them. Its filters are applied where they cannot change what is compared, and need be applied again.
///
/// # Errors
/// When the key has a column that the table has not got.
pub(super) async fn plan_compared(
    table: &DeltaTable,
    layout: &Arc<TableLayout>,
    commits: Vec<ComparedCommit>,
    derivation: &Derivation,
    contexts: bool,
    read: &ChangeRead<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = relation_schema(table, layout, contexts)?;
    let comparison = Comparison {
        table,
        layout,
        key: key_columns(table, layout, derivation)?,
        wanted: project_schema(&schema, read.projection)?,
        read,
    };
    let label = format!("changes of {} commits, derived", commits.len());
    let mut plans = Vec::new();
    for batch in batches(commits, BATCH_BYTES) {
        plans.push(comparison.plan(batch).await?);
    }
    if let [only] = plans.as_slice() {
        return Ok(Arc::clone(only));
    }
    let wanted = comparison.wanted;
    Ok(Arc::new(SequenceExec::new(plans, wanted, label)))
}

fn key_columns(
    table: &DeltaTable,
    layout: &TableLayout,
    derivation: &Derivation,
) -> Result<Vec<usize>> {
    let position = |name: &String| {
        layout.schema().index_of(name).map_err(|_| {
            Error::invalid(format!(
                "the key column {name:?} is not in {}",
                table.name()
            ))
        })
    };
    derivation.keys.iter().map(position).collect()
}

/// Commits whose rows are compared at once, each with its own rows.
#[derive(Debug)]
struct Batch {
    commits: Vec<ComparedCommit>,
    /// The column with row ids, if they are known.
    row_ids: Option<String>,
    bytes: u64,
}

/// Puts commits that follow one another together, up to so many bytes.
fn batches(commits: Vec<ComparedCommit>, most_bytes: u64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for commit in commits {
        let (row_ids, bytes) = (commit.known_row_ids().map(str::to_owned), commit.bytes());
        match batches.last_mut() {
            Some(batch) if batch.row_ids == row_ids && batch.bytes + bytes <= most_bytes => {
                batch.bytes += bytes;
                batch.commits.push(commit);
            }
            _ => batches.push(Batch {
                commits: vec![commit],
                row_ids,
                bytes,
            }),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(version: i64, size: i64, row_ids: Option<&str>, base: Option<i64>) -> ComparedCommit {
        let add = Add {
            size,
            base_row_id: base,
            ..Add::default()
        };
        ComparedCommit {
            version,
            timestamp: 0,
            context: None,
            removed: vec![(add.clone(), RowMask::Live)],
            added: vec![(add, RowMask::Live)],
            row_ids: row_ids.map(str::to_owned),
        }
    }

    fn check(commits: Vec<ComparedCommit>, expected: &[(&[i64], Option<&str>)]) {
        let found = batches(commits, 100);
        let found: Vec<(Vec<i64>, Option<&str>)> = found
            .iter()
            .map(|batch| {
                let versions = batch.commits.iter().map(|commit| commit.version);
                (versions.collect(), batch.row_ids.as_deref())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(versions, row_ids)| (versions.to_vec(), *row_ids))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn small_commits_are_compared_together() {
        check(vec![], &[]);
        let sizes = [20, 20, 20, 500, 10];
        let commits = (1..).zip(sizes);
        let commits = commits.map(|(version, size)| commit(version, size, None, None));
        check(
            commits.collect(),
            &[(&[1, 2], None), (&[3], None), (&[4], None), (&[5], None)],
        );
    }

    #[test]
    fn row_ids_count_where_all_are_known() {
        check(
            vec![
                commit(1, 1, Some("ids"), None),
                commit(2, 1, Some("ids"), Some(0)),
                commit(3, 1, Some("ids"), Some(5)),
                commit(4, 1, None, Some(5)),
            ],
            &[(&[1], None), (&[2, 3], Some("ids")), (&[4], None)],
        );
    }
}
