//! What a statement has done to its target: as metrics of its plan, as a row, and in the words of the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;

use super::commit_exec::CommitExec;
use super::write_exec::RowCounts;
use crate::delta::actions::Action;
use crate::delta::transaction::Operation;
use crate::error::Result;

/// What a statement has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub rows: RowCounts,
    /// Rows that the source had, where there is one.
    pub source_rows: u64,
    /// Rows that were copied although nothing was done to them.
    pub rows_copied: u64,
    pub files_scanned: u64,
    pub files_pruned: u64,
    /// Data files that are new.
    pub files_added: u64,
    /// Data files that are gone.
    pub files_removed: u64,
    /// Of those gone, the ones whose remaining rows were copied.
    pub files_rewritten: u64,
    pub change_files: u64,
    pub deletion_vectors: u64,
    /// Of those, the ones that take the place of an earlier one.
    pub deletion_vectors_updated: u64,
    /// Deletion vectors that are gone with their files.
    pub deletion_vectors_removed: u64,
    /// Bytes of new data files.
    pub bytes_added: u64,
    /// Bytes of data files that are gone.
    pub bytes_removed: u64,
    /// Bytes of all new files: data, changes, deletion vectors.
    pub bytes_written: u64,
    /// Rows that are gone because all of the table was replaced.
    pub rows_replaced: u64,
    /// Absent when there was nothing to commit.
    pub version: Option<i64>,
    pub scan_time: Duration,
    pub rewrite_time: Duration,
}

/// The metrics that make the row, by their names; the version comes after them.
const COLUMNS: [&str; 10] = [
    "rows_inserted",
    "rows_updated",
    "rows_deleted",
    "rows_unchanged",
    "files_scanned",
    "files_pruned",
    "files_added",
    "files_rewritten",
    "deletion_vectors",
    "bytes_written",
];
const VERSION: &str = "version";

impl Outcome {
    /// Counts the files of a commit's actions.
    pub(crate) fn count_files(&mut self, actions: &[Action]) {
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let added = actions.iter().filter_map(|action| match action {
            Action::Add(add) => Some(add.path.as_str()),
            _ => None,
        });
        let added: HashSet<&str> = added.collect();
        for action in actions {
            match action {
                Action::Add(add) => match &add.deletion_vector {
                    Some(vector) => {
                        self.deletion_vectors += 1;
                        self.bytes_written += size(i64::from(vector.size_in_bytes));
                        // the file was counted as removed, and is not
                        self.files_removed = self.files_removed.saturating_sub(1);
                        self.bytes_removed = self.bytes_removed.saturating_sub(size(add.size));
                    }
                    None => {
                        self.files_added += 1;
                        self.bytes_added += size(add.size);
                        self.bytes_written += size(add.size);
                    }
                },
                Action::Cdc(cdc) => {
                    self.change_files += 1;
                    self.bytes_written += size(cdc.size);
                }
                Action::Remove(remove) => {
                    self.files_removed += 1;
                    self.bytes_removed += size(remove.size.unwrap_or(0));
                    let again = added.contains(remove.path.as_str());
                    match (&remove.deletion_vector, again) {
                        (Some(_), true) => self.deletion_vectors_updated += 1,
                        (Some(_), false) => self.deletion_vectors_removed += 1,
                        (None, _) => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// Says it in the plan's metrics.
    pub(super) fn record(&self, metrics: &ExecutionPlanMetricsSet) {
        let values = [
            self.rows.inserted,
            self.rows.updated,
            self.rows.deleted + self.rows_replaced,
            self.rows.unchanged,
            self.files_scanned,
            self.files_pruned,
            self.files_added,
            self.files_rewritten,
            self.deletion_vectors,
            self.bytes_written,
        ];
        let version = self.version.and_then(|version| u64::try_from(version).ok());
        let version = version.map(|version| (VERSION, version));
        for (name, value) in COLUMNS.into_iter().zip(values).chain(version) {
            let counter = MetricBuilder::new(metrics).global_counter(name);
            counter.add(usize::try_from(value).unwrap_or(usize::MAX));
        }
    }

    /// Says it in the commit, by the names that Delta has for the operation.
    pub(super) fn describe(&self, operation: &mut Operation) {
        for (name, value) in self.values(&operation.name) {
            operation.metric(name, value);
        }
        let execution = self.scan_time + self.rewrite_time;
        operation.metric("executionTimeMs", execution.as_millis());
        if matches!(operation.name.as_str(), "MERGE" | "UPDATE" | "DELETE") {
            operation.metric("scanTimeMs", self.scan_time.as_millis());
            operation.metric("rewriteTimeMs", self.rewrite_time.as_millis());
        }
    }

    fn values(&self, operation: &str) -> Vec<(&'static str, u64)> {
        let rows = &self.rows;
        let added = self
            .deletion_vectors
            .saturating_sub(self.deletion_vectors_updated);
        match operation {
            "MERGE" | "SYNC" | "APPLY CHANGES" => vec![
                ("numSourceRows", self.source_rows),
                ("numTargetRowsInserted", rows.inserted),
                ("numTargetRowsUpdated", rows.updated),
                (
                    "numTargetRowsMatchedUpdated",
                    rows.updated - rows.updated_by_source,
                ),
                (
                    "numTargetRowsNotMatchedBySourceUpdated",
                    rows.updated_by_source,
                ),
                ("numTargetRowsDeleted", rows.deleted),
                (
                    "numTargetRowsMatchedDeleted",
                    rows.deleted.saturating_sub(rows.deleted_by_source),
                ),
                (
                    "numTargetRowsNotMatchedBySourceDeleted",
                    rows.deleted_by_source,
                ),
                ("numTargetRowsCopied", self.rows_copied),
                (
                    "numOutputRows",
                    rows.inserted + rows.updated + self.rows_copied,
                ),
                ("numTargetFilesAdded", self.files_added),
                ("numTargetFilesRemoved", self.files_removed),
                ("numTargetBytesAdded", self.bytes_added),
                ("numTargetBytesRemoved", self.bytes_removed),
                ("numTargetDeletionVectorsAdded", added),
                (
                    "numTargetDeletionVectorsUpdated",
                    self.deletion_vectors_updated,
                ),
                (
                    "numTargetDeletionVectorsRemoved",
                    self.deletion_vectors_removed,
                ),
                ("numTargetChangeFilesAdded", self.change_files),
            ],
            "UPDATE" | "DELETE" => {
                let (name, changed) = match operation {
                    "UPDATE" => ("numUpdatedRows", rows.updated),
                    _ => ("numDeletedRows", rows.deleted),
                };
                vec![
                    (name, changed),
                    ("numCopiedRows", self.rows_copied),
                    ("numAddedFiles", self.files_added),
                    ("numRemovedFiles", self.files_removed),
                    ("numAddedBytes", self.bytes_added),
                    ("numRemovedBytes", self.bytes_removed),
                    ("numDeletionVectorsAdded", added),
                    ("numDeletionVectorsUpdated", self.deletion_vectors_updated),
                    ("numDeletionVectorsRemoved", self.deletion_vectors_removed),
                    ("numAddedChangeFiles", self.change_files),
                ]
            }
            _ => vec![
                ("numFiles", self.files_added),
                ("numOutputRows", rows.inserted),
                ("numOutputBytes", self.bytes_added),
                ("numRemovedFiles", self.files_removed),
                ("numRemovedBytes", self.bytes_removed),
            ],
        }
    }
}

/// What a statement that has run to its end has done, as a row; `None` for one that writes no Delta table.
///
/// # Errors
/// None that a user could cause.
pub(crate) fn outcome_row(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<RecordBatch>> {
    // sub-queries are evaluated above what uses them
    if let Some(outer) = plan.downcast_ref::<ScalarSubqueryExec>() {
        return outcome_row(outer.input());
    }
    let Some(commit) = plan.downcast_ref::<CommitExec>() else {
        return Ok(None);
    };
    let metrics = commit.metrics().unwrap_or_default();
    let value = |name: &str| {
        let value = metrics.sum_by_name(name)?;
        u64::try_from(value.as_usize()).ok()
    };
    let columns = COLUMNS.into_iter().chain([VERSION]).map(|name| {
        let column: ArrayRef = Arc::new(UInt64Array::from(vec![value(name)]));
        (name, column, true)
    });
    Ok(Some(RecordBatch::try_from_iter_with_nullable(columns)?))
}
