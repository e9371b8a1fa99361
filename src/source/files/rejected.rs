//! Rows that were set aside, as a table: `"t$rejected"`.
//!
//! They are not stored anywhere: files do not change, so whoever reads them again sets the same rows aside.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::mark::{MarkedFile, RejectedRow};
use crate::change::{COMMIT_TIMESTAMP, COMMIT_VERSION};
use crate::error::Result;

/// The columns of rows that were set aside; `row_number` counts the rows of the file from 1 and is NULL where the file, or all
/// the rest of it, is set aside; `raw` is the row as the file has it, as JSON where it is no text.
pub(crate) fn rejected_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::Utf8, false),
        Field::new("row_number", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("raw", DataType::Utf8, true),
        Field::new(COMMIT_VERSION, DataType::Int64, false),
        Field::new(COMMIT_TIMESTAMP, time, false),
    ]))
}

/// Rows of one file.
pub(super) fn rejected_batch(file: &MarkedFile, rows: &[RejectedRow]) -> Result<RecordBatch> {
    let count = rows.len();
    let times = TimestampMicrosecondArray::from(vec![file.time; count]).with_timezone("UTC");
    let numbers = rows.iter().map(|row| (row.row > 0).then_some(row.row));
    let raw = rows
        .iter()
        .map(|row| (row.row > 0).then_some(row.raw.as_str()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![file.path.as_ref(); count])),
        Arc::new(Int64Array::from_iter(numbers)),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| &row.reason),
        )),
        Arc::new(StringArray::from_iter(raw)),
        Arc::new(Int64Array::from(vec![file.version; count])),
        Arc::new(times),
    ];
    Ok(RecordBatch::try_new(rejected_schema(), columns)?)
}
