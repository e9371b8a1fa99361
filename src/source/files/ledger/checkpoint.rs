//! All files up to a batch in one Parquet file, so that a long ledger is read quickly.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type, UInt64Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::FileVersion;
use crate::error::{Error, Result};
use crate::source::files::shape::Shape;

/// What must be known of a checkpoint without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckpointHead {
    /// The ledger's identity.
    pub ledger: String,
    /// The last batch that it has.
    pub batch: i64,
    /// How many versions it has, and so the number of the last.
    pub versions: i64,
    /// The greatest path of its files.
    pub greatest: String,
    /// Whether every discovery after the first has found only files whose paths come after all before.
    pub ordered: bool,
    /// The time of its last version.
    pub time: i64,
    /// Whose files these are, where the ledger does not lie beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Which files are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// All shapes so far, with the version that brought each.
    pub shapes: Vec<(i64, Shape)>,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("size", DataType::UInt64, false),
        Field::new("modified", DataType::Int64, false),
        Field::new("e_tag", DataType::Utf8, true),
        Field::new("shape", DataType::UInt32, false),
        Field::new("time", DataType::Int64, false),
    ]))
}

/// The checkpoint of all files from version 1 on.
pub(super) fn encode(files: &[FileVersion]) -> Result<Vec<u8>> {
    const ROWS: usize = 64 * 1024;
    let level = ZstdLevel::try_new(1).map_err(Error::parquet)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), schema(), Some(properties)).map_err(Error::parquet)?;
    for files in files.chunks(ROWS) {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(
                files.iter().map(|file| &file.path),
            )),
            Arc::new(UInt64Array::from_iter_values(
                files.iter().map(|file| file.size),
            )),
            Arc::new(Int64Array::from_iter_values(
                files.iter().map(|file| file.modified),
            )),
            Arc::new(StringArray::from_iter(
                files.iter().map(|file| file.e_tag.as_deref()),
            )),
            Arc::new(UInt32Array::from_iter_values(
                files.iter().map(|file| file.shape),
            )),
            Arc::new(Int64Array::from_iter_values(
                files.iter().map(|file| file.time),
            )),
        ];
        let batch = RecordBatch::try_new(schema(), columns)?;
        writer.write(&batch).map_err(Error::parquet)?;
    }
    writer.into_inner().map_err(Error::parquet)
}

/// Reads a checkpoint back.
///
/// # Errors
/// When it is none.
pub(super) fn decode(bytes: Bytes) -> Result<Vec<FileVersion>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(64 * 1024).build())
        .map_err(Error::parquet)?;
    let mut files: Vec<FileVersion> = Vec::new();
    for batch in reader {
        let batch = batch?;
        if batch.schema().fields() != schema().fields() {
            return Err(Error::invalid(
                "a checkpoint of the ledger has other columns than this version writes",
            ));
        }
        let paths = batch.column(0).as_string::<i32>();
        let tags = batch.column(3).as_string::<i32>();
        let sizes = batch.column(1).as_primitive::<UInt64Type>();
        let modified = batch.column(2).as_primitive::<Int64Type>();
        let shapes = batch.column(4).as_primitive::<UInt32Type>();
        let times = batch.column(5).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            files.push(FileVersion {
                version: files.len() as i64 + 1,
                path: paths.value(row).into(),
                size: sizes.value(row),
                modified: modified.value(row),
                e_tag: tags.is_valid(row).then(|| tags.value(row).into()),
                shape: shapes.value(row),
                time: times.value(row),
            });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_read_back() {
        let files: Vec<FileVersion> = (1..=70_000)
            .map(|version| FileVersion {
                version,
                path: format!("f{version}").into(),
                size: 7,
                modified: version * 2,
                e_tag: (version % 2 == 0).then(|| "tag".into()),
                shape: 1,
                time: version * 3,
            })
            .collect();
        let read = decode(encode(&files).unwrap().into()).unwrap();
        assert_eq!(read, files);
    }
}
