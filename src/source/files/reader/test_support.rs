//! Reads files from literals, in pieces of awkward sizes.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::*;

/// The sizes of pieces.
pub(super) const STEPS: [usize; 4] = [1, 2, 7, 100_000];

pub(super) fn columns(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns
        .iter()
        .map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(super) fn spec(format: TextFormat, wanted: &[(&str, DataType)]) -> ReadSpec {
    ReadSpec {
        format,
        compression: Compression::Auto,
        columns: columns(wanted),
        all: columns(wanted),
        batch_size: 3,
        quarantine: true,
        raw: false,
    }
}

pub(super) fn bytes(content: &[u8], step: usize) -> StoredBytes {
    let chunks = content.chunks(step).map(Bytes::copy_from_slice).map(Ok);
    stream::iter(chunks.collect::<Vec<_>>()).boxed()
}

/// A line for each row: `number: a|b`, `number: a|b <raw>`, or `number! reason <raw>`; NULL is `~`.
pub(super) async fn read(spec: &ReadSpec, content: &[u8], step: usize) -> Result<Vec<String>> {
    let spec = Arc::new(spec.clone());
    let columns = Arc::clone(&spec.columns);
    let mut items = read_file(spec, "f".to_owned(), bytes(content, step));
    let mut lines = vec![];
    while let Some(item) = items.next().await {
        match item? {
            Item::Rejected(row) => lines.push(format!("{}! {} <{}>", row.row, row.reason, row.raw)),
            Item::Rows(rows) => {
                assert_eq!(rows.batch.schema(), columns);
                lines.extend((0..rows.batch.num_rows()).map(|row| line(&rows, row)));
            }
        }
    }
    Ok(lines)
}

fn line(rows: &Rows, row: usize) -> String {
    let values = rows.batch.columns().iter().map(|column| {
        if column.is_null(row) {
            "~".to_owned()
        } else {
            array_value_to_string(column, row).unwrap()
        }
    });
    let values = values.collect::<Vec<_>>().join("|");
    let raw = rows
        .raw
        .as_ref()
        .map(|raw| format!(" <{}>", raw.value(row)));
    let number = rows.first_row + row as u64;
    format!("{number}: {values}{}", raw.unwrap_or_default())
}

/// Reads `content` in pieces of all sizes and batches of several.
pub(super) async fn check(spec: &ReadSpec, content: &[u8], expected: &[&str]) {
    for step in STEPS {
        for batch_size in [1, 2, 3, 8192] {
            let mut spec = spec.clone();
            spec.batch_size = batch_size;
            let found = read(&spec, content, step).await;
            let found = found.unwrap_or_else(|error| vec![error.to_string()]);
            assert_eq!(found, expected, "pieces of {step}, batches of {batch_size}");
        }
    }
}

/// Reads `content` up to an error.
pub(super) async fn check_error(spec: &ReadSpec, content: &[u8], expected: &str) {
    let mut spec = spec.clone();
    spec.quarantine = false;
    for step in STEPS {
        let error = read(&spec, content, step).await.unwrap_err().to_string();
        assert!(error.contains(expected), "pieces of {step}: {error}");
    }
}

pub(super) async fn check_columns(
    format: &TextFormat,
    content: &[u8],
    rows: usize,
    expected: &[(&str, DataType)],
) {
    for step in STEPS {
        let found = inspect(format, Compression::Auto, "f", bytes(content, step), rows).await;
        assert_eq!(found.unwrap(), columns(expected), "pieces of {step}");
    }
}

/// The first value of a column of text.
pub(super) fn first_text(batch: &RecordBatch) -> String {
    batch.column(0).as_string::<i32>().value(0).to_owned()
}
