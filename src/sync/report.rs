//! What a run has done, as a value and as the row that the statement returns.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::merge::RowCounts;

/// How a run went about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// Source and target were compared in full, or the target was filled.
    Full,
    /// The changes since the recorded position were applied.
    Incremental,
    /// There was nothing to apply.
    UpToDate,
}

impl SyncMode {
    const ALL: [Self; 3] = [Self::Full, Self::Incremental, Self::UpToDate];

    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::UpToDate => "up to date",
        }
    }
}

impl std::fmt::Display for SyncMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a run has done, or would do if it was a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncReport {
    /// How it went about it.
    pub mode: SyncMode,
    /// The position before the run; absent where there was none.
    pub source_version_from: Option<i64>,
    /// The source's version that the target equals now; absent for a source without versions.
    pub source_version_to: Option<i64>,
    /// Rows of the target that are new.
    pub rows_inserted: u64,
    /// Rows of the target that have other values.
    pub rows_updated: u64,
    /// Rows of the target that are gone.
    pub rows_deleted: u64,
    /// Keys with changes that changed nothing: a delete of a key that is not there, a change that is older than what the target
    /// holds, an update to the same values.
    pub rows_ignored: u64,
    /// Rows that the source has set aside because they cannot be understood; absent for a source that sets none aside.
    pub rows_rejected: Option<u64>,
    /// The target's version afterwards; absent only in a dry run that would create it.
    pub target_version: Option<i64>,
    /// Files of the target with rows that would change; in a dry run only.
    pub target_files: Option<u64>,
    /// How long the run took.
    pub duration: Duration,
}

impl SyncReport {
    /// A run that found nothing to do.
    pub(super) fn up_to_date(from: Option<i64>, to: Option<i64>, target: Option<i64>) -> Self {
        Self {
            mode: SyncMode::UpToDate,
            source_version_from: from,
            source_version_to: to,
            rows_inserted: 0,
            rows_updated: 0,
            rows_deleted: 0,
            rows_ignored: 0,
            rows_rejected: None,
            target_version: target,
            target_files: None,
            duration: Duration::ZERO,
        }
    }

    /// Takes over what was done to rows.
    pub(super) fn count(&mut self, rows: RowCounts) {
        self.rows_inserted = rows.inserted;
        self.rows_updated = rows.updated;
        self.rows_deleted = rows.deleted;
    }

    /// The columns of [`Self::encode`].
    pub(super) fn schema(dry_run: bool, counts_rejected: bool) -> SchemaRef {
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields = vec![Field::new("mode", DataType::Utf8, false)];
        fields.extend(
            [
                "source_version_from",
                "source_version_to",
                "rows_inserted",
                "rows_updated",
                "rows_deleted",
                "rows_ignored",
            ]
            .map(number),
        );
        if counts_rejected {
            fields.push(number("rows_rejected"));
        }
        fields.push(number("target_version"));
        if dry_run {
            fields.push(number("target_files"));
        }
        fields.push(number("duration_ms"));
        Arc::new(Schema::new(fields))
    }

    /// The report as one row.
    pub(super) fn encode(&self, dry_run: bool) -> Result<RecordBatch> {
        let number = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
        let count = |value: u64| number(i64::try_from(value).ok());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.mode.as_str()])),
            number(self.source_version_from),
            number(self.source_version_to),
            count(self.rows_inserted),
            count(self.rows_updated),
            count(self.rows_deleted),
            count(self.rows_ignored),
        ];
        columns.extend(self.rows_rejected.map(count));
        columns.push(number(self.target_version));
        if dry_run {
            columns.push(count(self.target_files.unwrap_or(0)));
        }
        columns.push(number(i64::try_from(self.duration.as_millis()).ok()));
        Ok(RecordBatch::try_new(
            Self::schema(dry_run, self.rows_rejected.is_some()),
            columns,
        )?)
    }

    /// Reads the row back.
    pub(crate) fn decode(batches: &[RecordBatch]) -> Result<Self> {
        let damaged = || Error::internal("a sync has returned no report");
        let batch = batches
            .iter()
            .find(|batch| batch.num_rows() > 0)
            .ok_or_else(damaged)?;
        let number = |name: &str| {
            let column = batch
                .column_by_name(name)?
                .as_primitive_opt::<Int64Type>()?;
            column.is_valid(0).then(|| column.value(0))
        };
        let count = |name: &str| number(name).and_then(|value| u64::try_from(value).ok());
        let mode = batch.column(0).as_string_opt::<i32>().ok_or_else(damaged)?;
        let mode = SyncMode::ALL
            .into_iter()
            .find(|known| known.as_str() == mode.value(0));
        Ok(Self {
            mode: mode.ok_or_else(damaged)?,
            source_version_from: number("source_version_from"),
            source_version_to: number("source_version_to"),
            rows_inserted: count("rows_inserted").unwrap_or(0),
            rows_updated: count("rows_updated").unwrap_or(0),
            rows_deleted: count("rows_deleted").unwrap_or(0),
            rows_ignored: count("rows_ignored").unwrap_or(0),
            rows_rejected: count("rows_rejected"),
            target_version: number("target_version"),
            target_files: count("target_files"),
            duration: Duration::from_millis(count("duration_ms").unwrap_or(0)),
        })
    }
}
