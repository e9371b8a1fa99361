//! Finds out which columns a file has, from its beginning.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::json::reader::infer_json_schema_from_iterator;
use encoding_rs::UTF_8;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::csv::arrow_format;
use super::csv_header::read_header;
use super::csv_records::{CsvSplitter, fields};
use super::json_lines::{LineSplitter, Members, line_error};
use super::pieces::Pieces;
use super::rows::{Record, gather};
use super::text::{Chunks, decompressed, text};
use super::{Compression, CsvFormat, StoredBytes, TextFormat, avro};
use crate::error::{Error, Result};

/// Where a time without a fraction ends: `2024-01-31T12:34:56`.
const TIME_CHARACTERS: usize = 19;

/// The columns of a file: names as the file spells them, and the types that its first `rows` rows suggest. A file without
/// content has none.
///
/// # Errors
/// When the file is not what it should be, naming it.
pub(in crate::source::files) async fn inspect(
    format: &TextFormat,
    compression: Compression,
    file: &str,
    bytes: StoredBytes,
    rows: usize,
) -> Result<SchemaRef> {
    let chunks = decompressed(compression, file, bytes).await?;
    match format {
        TextFormat::Csv(csv) => csv_columns(csv, file, chunks, rows).await,
        TextFormat::Json => json_columns(file, chunks, rows).await,
        TextFormat::Avro => avro::read_schema(file, chunks).await,
    }
}

/// The names of the columns of a CSV file.
///
/// # Errors
/// When the header cannot be read, naming the file.
pub(in crate::source::files) async fn inspect_names(
    csv: &CsvFormat,
    compression: Compression,
    file: &str,
    bytes: StoredBytes,
) -> Result<Vec<String>> {
    let chunks = decompressed(compression, file, bytes).await?;
    let mut pieces = Pieces::checking(text(csv.encoding, file, chunks).await?);
    let header = read_header(csv, file, &mut pieces).await?;
    Ok(header.map(|header| header.names).unwrap_or_default())
}

async fn csv_columns(
    csv: &CsvFormat,
    file: &str,
    chunks: Chunks,
    rows: usize,
) -> Result<SchemaRef> {
    let mut pieces = Pieces::checking(text(csv.encoding, file, chunks).await?);
    let Some(header) = read_header(csv, file, &mut pieces).await? else {
        return Ok(Arc::new(Schema::empty()));
    };
    let mut splitter = CsvSplitter::new(csv, Some(header.names.len()));
    let mut text = vec![];
    let records = gather(&mut pieces, &mut splitter, &mut text, rows).await?;
    let good: Vec<&[u8]> = good_records(&text, &records).collect();
    let sample = good.join(&b'\n');
    let (inferred, _) = arrow_format(csv)?.infer_schema(Cursor::new(sample), Some(rows))?;
    let zoned = zoned_columns(csv, &good, header.names.len());
    let columns = header.names.into_iter().enumerate().map(|(index, name)| {
        let inferred = inferred.fields().get(index);
        let data_type = match inferred.map(|field| field.data_type()) {
            Some(DataType::Timestamp(_, _)) => {
                let zone = zoned.get(index).is_some_and(|zoned| *zoned);
                DataType::Timestamp(TimeUnit::Microsecond, zone.then(|| "UTC".into()))
            }
            Some(DataType::Null) | None => DataType::Utf8,
            Some(other) => other.clone(),
        };
        Field::new(name, data_type, true)
    });
    Ok(Arc::new(Schema::new(columns.collect::<Vec<_>>())))
}

/// The records that a sample can be made of.
fn good_records<'t>(text: &'t [u8], records: &'t [Record]) -> impl Iterator<Item = &'t [u8]> {
    records
        .iter()
        .filter(|record| record.reason.is_none())
        .map(|record| &text[record.range.clone()])
        .filter(|record| std::str::from_utf8(record).is_ok())
}

/// For each column, whether a time in it says its zone.
fn zoned_columns(csv: &CsvFormat, records: &[&[u8]], columns: usize) -> Vec<bool> {
    let mut zoned = vec![false; columns];
    for record in records {
        for (zoned, field) in zoned.iter_mut().zip(fields(csv, record)) {
            let zone = field.get(TIME_CHARACTERS..).unwrap_or_default();
            *zoned |= zone
                .iter()
                .any(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'+' | b'-'));
        }
    }
    zoned
}

async fn json_columns(file: &str, chunks: Chunks, rows: usize) -> Result<SchemaRef> {
    let mut pieces = Pieces::new(text(UTF_8, file, chunks).await?);
    let mut text = vec![];
    let mut splitter = LineSplitter::default();
    let records = gather(&mut pieces, &mut splitter, &mut text, rows).await?;
    let mut objects = vec![];
    let mut order: HashMap<String, usize> = HashMap::new();
    let mut first_error = None;
    for record in &records {
        let row = text[record.range.clone()].trim_ascii();
        match serde_json::from_slice::<Members<IgnoredAny>>(row) {
            Ok(Members(members)) => {
                for (name, _) in members {
                    let next = order.len();
                    order.entry(name).or_insert(next);
                }
                objects.push(serde_json::from_slice::<Value>(row)?);
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    if let (true, Some(error)) = (objects.is_empty(), first_error) {
        return Err(Error::invalid(format!(
            "{file} has no JSON object on each line ({}); give the format that the file has",
            line_error(&error)
        )));
    }
    let inferred = infer_json_schema_from_iterator(objects.iter().map(Ok));
    let inferred = inferred.map_err(|error| {
        Error::invalid(format!(
            "the columns of {file} cannot be told from its rows ({error}); declare them in CREATE EXTERNAL TABLE"
        ))
    })?;
    let mut columns: Vec<FieldRef> = inferred.fields().iter().map(plain_field).collect();
    columns.sort_by_key(|column| order.get(column.name()).copied());
    Ok(Arc::new(Schema::new(columns)))
}

/// A column in a type that values can have, its own members in an order that is always the same.
fn plain_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::Struct(members) => {
            let mut members: Vec<FieldRef> = members.iter().map(plain_field).collect();
            members.sort_by(|left, right| left.name().cmp(right.name()));
            DataType::Struct(members.into())
        }
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}
