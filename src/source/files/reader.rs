//! Reads CSV, JSON lines and Avro files, row by row where rows are bad.
//!
//! ```text
//!  bytes ── decompress ──┬── text: BOM, encoding ── Pieces ── RowReader ──────────────> Rows, Rejected, Rows, …
//!                        │                                      ├ whole batches, by Arrow's decoders
//!                        │                                      └ where that fails: record by record
//!                        └── avro: blocks ────────────────────────────────────────────> Rows, Rejected, Rows, …
//! ```
//!
//! Items come in the order of the file. Rows are numbered from 1, those that are rejected included; blank lines, comments and the
//! header are no rows.

mod avro;
mod avro_blocks;
mod columns;
mod csv;
mod csv_header;
mod csv_records;
mod json;
mod json_lines;
mod layout;
mod pieces;
mod rows;
mod text;
mod utf8;

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::parsers::CompressionTypeVariant;
use encoding_rs::{Encoding, UTF_8};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

pub(super) use self::columns::{inspect, inspect_names};
use self::csv::CsvRows;
use self::csv_header::read_header;
use self::json::JsonRows;
use self::pieces::Pieces;
use self::rows::RowReader;
pub(super) use self::text::is_compressed;
use self::text::{decompressed, text};
use crate::error::Result;

/// A file as a store gives it.
type StoredBytes = BoxStream<'static, object_store::Result<Bytes>>;
/// How much of a row is kept as text.
const RAW_BYTES: usize = 8 * 1024;

/// How a file is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TextFormat {
    /// Values between delimiters, one row a line unless quoted.
    Csv(CsvFormat),
    /// A JSON object on each line.
    Json,
    /// An Avro object container file.
    Avro,
}

/// How a CSV file is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CsvFormat {
    pub delimiter: u8,
    pub quote: Option<u8>,
    pub escape: Option<u8>,
    pub header: bool,
    /// What lines without meaning begin with.
    pub comment: Option<u8>,
    pub encoding: &'static Encoding,
    /// What NULL is written as, besides nothing.
    pub null_value: Option<String>,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            header: true,
            comment: None,
            encoding: UTF_8,
            null_value: None,
        }
    }
}

/// How a file is compressed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// By its name: `.gz`, `.bz2`, `.xz`, `.zst`, else not at all.
    Auto,
    /// As given.
    Of(CompressionTypeVariant),
}

/// What to read of a file.
#[derive(Debug, Clone)]
pub(super) struct ReadSpec {
    pub format: TextFormat,
    pub compression: Compression,
    /// The columns wanted, in the types that the source holds; one that the file lacks is NULL. May be empty.
    pub columns: SchemaRef,
    /// Every column that a file may have, in the order of the source; CSV columns and JSON members beyond it are errors.
    pub all: SchemaRef,
    /// The most rows of a batch.
    pub batch_size: usize,
    /// Whether rows that cannot be read are returned as such instead of ending the read with an error.
    pub quarantine: bool,
    /// Whether the text of each row is wanted.
    pub raw: bool,
}

/// Rows of a file that follow each other.
#[derive(Debug)]
pub(super) struct Rows {
    /// The wanted columns.
    pub batch: RecordBatch,
    /// The number of the first, from 1.
    pub first_row: u64,
    /// The rows as the file has them, if that is wanted.
    pub raw: Option<StringArray>,
}

/// A row that cannot be read.
#[derive(Debug)]
pub(super) struct Rejected {
    /// Its number, from 1.
    pub row: u64,
    /// What is wrong with it.
    pub reason: String,
    /// The row as the file has it, or its beginning.
    pub raw: String,
}

/// What comes next in a file.
#[derive(Debug)]
pub(super) enum Item {
    /// Rows.
    Rows(Rows),
    /// A row that cannot be read.
    Rejected(Rejected),
}

/// Reads a file. `file` is its name in messages, `bytes` its content as stored, whose errors are passed on as they are.
pub(super) fn read_file(
    spec: Arc<ReadSpec>,
    file: String,
    bytes: StoredBytes,
) -> BoxStream<'static, Result<Item>> {
    stream::once(open(spec, file, bytes)).try_flatten().boxed()
}

async fn open(
    spec: Arc<ReadSpec>,
    file: String,
    bytes: StoredBytes,
) -> Result<BoxStream<'static, Result<Item>>> {
    let bytes = decompressed(spec.compression, &file, bytes).await?;
    let format = spec.format.clone();
    Ok(match format {
        TextFormat::Avro => avro::read(spec, file, bytes),
        TextFormat::Json => {
            let pieces = Pieces::new(text(UTF_8, &file, bytes).await?);
            let format = Box::new(JsonRows::new(&spec));
            RowReader::try_new(spec, file, pieces, format, 0)?.into_stream()
        }
        TextFormat::Csv(csv) => {
            let text = text(csv.encoding, &file, bytes).await?;
            let mut pieces = Pieces::checking(text);
            let Some(header) = read_header(&csv, &file, &mut pieces).await? else {
                return Ok(stream::empty().boxed());
            };
            let format = Box::new(CsvRows::try_new(&file, &csv, &spec, &header)?);
            RowReader::try_new(spec, file, pieces, format, header.lines)?.into_stream()
        }
    })
}

/// A row as text, without its end, cut where it gets too long.
fn raw_text(row: &[u8]) -> String {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    let row = row.strip_suffix(b"\r").unwrap_or(row);
    let end = utf8::char_boundary(row, RAW_BYTES);
    String::from_utf8_lossy(&row[..end]).into_owned()
}

#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
