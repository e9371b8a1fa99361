//! The rows of Avro files, some blocks at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Cursor, Read};
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use arrow_avro::reader::ReaderBuilder;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::avro_blocks::AvroHeader;
use super::layout::{Layout, misfit_reason};
use super::text::Chunks;
use super::{Item, ReadSpec, Rejected, Rows, raw_text};
use crate::error::{Error, Result};
use crate::source::files::fit::Misfit;
use crate::source::files::shape::find;

/// About how much of a file is decoded at once.
const DECODED_BYTES: usize = 1024 * 1024;

/// Reads the rows of a file.
pub(super) fn read(
    spec: Arc<ReadSpec>,
    file: String,
    chunks: Chunks,
) -> BoxStream<'static, Result<Item>> {
    let reader = AvroRows {
        spec,
        file,
        chunks,
        header: None,
        content: vec![],
        whole: 0,
        is_ended: false,
        rows: 0,
    };
    stream::try_unfold(reader, |mut reader| async move {
        let items = reader.next().await?;
        Ok::<_, Error>(items.map(|items| (stream::iter(items), reader)))
    })
    .map_ok(|items| items.map(Ok::<_, Error>))
    .try_flatten()
    .boxed()
}

/// The columns of a file, from its header; none for a file without a byte.
///
/// # Errors
/// When the file is no Avro file, or is cut off in its header.
pub(super) async fn read_schema(file: &str, mut chunks: Chunks) -> Result<SchemaRef> {
    let mut content = vec![];
    while let Some(chunk) = chunks.try_next().await? {
        content.extend_from_slice(&chunk);
        if let Some(header) = AvroHeader::take(file, &mut content)? {
            let reader = ReaderBuilder::new().build(header.bytes.as_slice());
            let reader = reader.map_err(|error| unreadable(file, &error))?;
            return Ok(reader.schema());
        }
    }
    if content.is_empty() {
        return Ok(Arc::new(Schema::empty()));
    }
    Err(cut_off(file))
}

fn unreadable(file: &str, error: &ArrowError) -> Error {
    Error::invalid(format!("{file} cannot be read as Avro: {error}"))
}

fn cut_off(file: &str) -> Error {
    Error::invalid(format!(
        "{file} is cut off: it ends in the middle of an Avro header or block; put it there again in one piece"
    ))
}

struct AvroRows {
    spec: Arc<ReadSpec>,
    file: String,
    chunks: Chunks,
    header: Option<AvroHeader>,
    /// What has come and is not decoded: the header, or blocks.
    content: Vec<u8>,
    /// How much of it are whole blocks.
    whole: usize,
    is_ended: bool,
    /// Rows given out.
    rows: u64,
}

impl AvroRows {
    /// The items of the next blocks; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<Item>>> {
        loop {
            if self.whole >= DECODED_BYTES || (self.is_ended && self.whole > 0) {
                return self.decode().map(Some);
            }
            if self.is_ended {
                if self.content.is_empty() {
                    return Ok(None);
                }
                return Err(cut_off(&self.file));
            }
            match self.chunks.try_next().await? {
                Some(chunk) => self.content.extend_from_slice(&chunk),
                None => self.is_ended = true,
            }
            if self.header.is_none() {
                self.header = AvroHeader::take(&self.file, &mut self.content)?;
            }
            if let Some(header) = &self.header {
                self.whole = header.whole_blocks(&self.file, &self.content, self.whole)?;
            }
        }
    }

    /// Decodes the whole blocks as a file of their own.
    fn decode(&mut self) -> Result<Vec<Item>> {
        let rest = self.content.split_off(self.whole);
        let blocks = std::mem::replace(&mut self.content, rest);
        self.whole = 0;
        let header = self.header.as_ref().map(|header| header.bytes.clone());
        let bytes = Cursor::new(header.unwrap_or_default()).chain(Cursor::new(blocks));
        let batches = ReaderBuilder::new()
            .with_batch_size(self.spec.batch_size)
            .build(bytes)
            .map_err(|error| unreadable(&self.file, &error))?;
        let schema = batches.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let wanted = self.spec.columns.fields().iter();
        let slots = wanted.map(|field| find(names.clone(), field.name()));
        let wanted = Arc::clone(&self.spec.columns);
        let layout = Layout::new(wanted, &schema, slots.collect());
        let mut items = VecDeque::new();
        for batch in batches {
            let batch = batch.map_err(|error| unreadable(&self.file, &error))?;
            self.push(&layout, &batch, &mut items)?;
        }
        Ok(items.into())
    }

    fn push(
        &mut self,
        layout: &Layout,
        batch: &RecordBatch,
        items: &mut VecDeque<Item>,
    ) -> Result<()> {
        let (fitted, misfits) = layout.fit(batch)?;
        let bad = by_row(misfits);
        if let Some((row, reason)) = bad.first_key_value()
            && !self.spec.quarantine
        {
            return Err(Error::invalid(format!(
                "{} row {}: {reason}; correct the file, or set such rows aside with on_invalid 'quarantine'",
                self.file,
                self.rows + *row as u64 + 1
            )));
        }
        let raw = self.spec.raw.then(|| as_json(batch));
        let mut start = 0;
        let ends = bad.iter().map(|(row, reason)| (*row, Some(reason)));
        for (end, reason) in ends.chain([(fitted.num_rows(), None)]) {
            if end > start {
                items.push_back(Item::Rows(Rows {
                    batch: fitted.slice(start, end - start),
                    first_row: self.rows + start as u64 + 1,
                    raw: raw.as_ref().map(|raw| raw.slice(start, end - start)),
                }));
            }
            if let Some(reason) = reason {
                items.push_back(Item::Rejected(Rejected {
                    row: self.rows + end as u64 + 1,
                    reason: reason.clone(),
                    raw: as_json(&batch.slice(end, 1)).value(0).to_owned(),
                }));
            }
            start = end + 1;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

/// What is wrong with each row, by its first value that does not fit.
fn by_row(misfits: Vec<Misfit>) -> BTreeMap<usize, String> {
    let mut bad = BTreeMap::new();
    for misfit in misfits {
        bad.entry(misfit.row).or_insert_with(|| {
            misfit_reason(&misfit.column, &misfit.value, &misfit.expected.to_string())
        });
    }
    bad
}

/// Rows as JSON; nothing where they hold what JSON cannot say.
fn as_json(batch: &RecordBatch) -> StringArray {
    let mut text: Vec<u8> = vec![];
    let mut writer = LineDelimitedWriter::new(&mut text);
    let written = writer.write(batch).and_then(|()| writer.finish());
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let rows = (0..batch.num_rows()).map(|row| match (&written, lines.get(row)) {
        (Ok(()), Some(line)) => raw_text(line),
        _ => String::new(),
    });
    StringArray::from_iter_values(rows)
}
