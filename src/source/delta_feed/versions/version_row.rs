//! What is said of one version, and the columns that say it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::commit_changes::CommitChanges;
use super::feed_state::Feed;
use super::row_counts::RowCounts;
use crate::delta::log::Commit;
use crate::error::Result;

pub(super) const VERSION: &str = "version";
pub(super) const READABLE: &str = "readable";
pub(super) const REASON: &str = "reason";

/// The columns of the list.
pub(super) fn columns() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let count = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        Field::new(VERSION, DataType::Int64, false),
        Field::new("timestamp", time, false),
        Field::new(READABLE, DataType::Boolean, false),
        Field::new(REASON, DataType::Utf8, true),
        Field::new("operation", DataType::Utf8, true),
        Field::new("known_by", DataType::Utf8, false),
        count("inserts"),
        count("updates"),
        count("deletes"),
    ]))
}

/// What is said of one version.
pub(super) struct VersionRow {
    pub version: i64,
    /// In microseconds since the epoch, UTC.
    pub timestamp: i64,
    operation: Option<String>,
    feed: Feed,
    pub changes: CommitChanges,
    counts: RowCounts,
}

impl VersionRow {
    /// What a commit says, where the feed was as `feed`.
    pub(super) fn new(commit: Commit, feed: Feed) -> Self {
        let (version, timestamp) = (commit.version, commit.timestamp);
        let info = commit.info().cloned();
        let changes = CommitChanges::of(commit);
        Self {
            version,
            timestamp,
            feed,
            counts: RowCounts::new(info.as_ref(), &changes, feed),
            changes,
            operation: info.and_then(|info| info.operation),
        }
    }

    /// Why the changes cannot be read, if they cannot.
    fn reason(&self, gone: Option<&String>) -> Option<String> {
        let off = match self.feed {
            Feed::On => None,
            Feed::Off => Some("the change data feed was off"),
            Feed::Unknown => {
                Some("no checkpoint is left that says whether the change data feed was on")
            }
        };
        match (off, gone) {
            (Some(off), Some(gone)) => Some(format!("{off}, and {gone}")),
            (Some(off), None) => Some(off.to_owned()),
            (None, gone) => gone.cloned(),
        }
    }
}

/// The rows as a batch; `gone` is what is missing of their files, by row.
pub(super) fn rows_batch(
    rows: &[VersionRow],
    gone: &HashMap<usize, String>,
) -> Result<RecordBatch> {
    let reasons = rows.iter().enumerate();
    let reasons: Vec<Option<String>> = reasons
        .map(|(index, row)| row.reason(gone.get(&index)))
        .collect();
    let counts = |count: fn(&RowCounts) -> Option<i64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter(
            rows.iter().map(|row| count(&row.counts)),
        ))
    };
    let times = rows.iter().map(|row| row.timestamp);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let values: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| row.version),
        )),
        Arc::new(times),
        Arc::new(BooleanArray::from_iter(
            reasons.iter().map(|reason| Some(reason.is_none())),
        )),
        Arc::new(StringArray::from_iter(
            reasons.iter().map(|reason| reason.as_deref()),
        )),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.operation.as_deref()),
        )),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| row.changes.known_by(row.feed)),
        )),
        counts(|counts| counts.inserts),
        counts(|counts| counts.updates),
        counts(|counts| counts.deletes),
    ];
    Ok(RecordBatch::try_new(columns(), values)?)
}
