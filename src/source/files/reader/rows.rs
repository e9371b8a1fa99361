//! Reads the rows of a text file: whole batches where that works, and record by record where it does not.
//!
//! Arrow's decoders say that a batch has an error, but neither where each row is nor which ones are good. So the bytes of a batch
//! are kept until it is decoded. If that fails they are split into records, and halved until the bad ones are found.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::pieces::Pieces;
use super::utf8::newlines;
use super::{Item, ReadSpec, Rejected, Rows, raw_text};
use crate::error::{Error, Result};

/// Decodes rows into batches. After an error it is of no use any more.
pub(super) trait RowDecoder: Send {
    /// Takes in text, which is not empty, until it is full or the text used up; returns how much.
    fn feed(&mut self, text: &[u8]) -> Result<usize>;
    /// Whether it has the rows of a batch.
    fn is_full(&self) -> bool;
    /// Takes in the end of the file.
    fn end(&mut self) -> Result<()>;
    /// The rows since the last time.
    fn flush(&mut self) -> Result<Option<RecordBatch>>;
}

/// Finds the records of a text.
pub(super) trait Splitter: Send {
    /// Adds the records of `text` that it has not seen yet, until there are `limit`. `text` only ever grows.
    fn split(&mut self, text: &[u8], limit: usize, records: &mut Vec<Record>);
    /// Adds the record that ends with the file.
    fn end(&mut self, text: &[u8], records: &mut Vec<Record>);
}

/// A record of a text, with blank lines and comments before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// Where it is.
    pub range: Range<usize>,
    /// Why it is no row, if its shape tells.
    pub reason: Option<String>,
}

/// What is wrong with a record.
#[derive(Debug)]
pub(super) enum Fault {
    /// The reason.
    Reason(String),
    /// Nothing: the names of columns are now known to be spelt as the record spells them.
    Respelt,
}

/// A way of writing rows as text.
pub(super) trait RowFormat: Send {
    /// Makes a decoder of batches with so many rows.
    fn decoder(&self, rows: usize) -> Result<Box<dyn RowDecoder>>;
    /// Makes a splitter that begins at the beginning of a line.
    fn splitter(&self) -> Box<dyn Splitter>;
    /// Where the row of a record begins, after blank lines and comments.
    fn row_start(&self, record: &[u8]) -> usize;
    /// Says what is wrong with a record that cannot be decoded; `Respelt` only if it may.
    fn explain(&mut self, record: &[u8], error: &Error, may_respell: bool) -> Fault;
}

/// Adds records until there are `limit` or the file ends; `text` is what they are in.
pub(super) async fn gather(
    pieces: &mut Pieces,
    splitter: &mut dyn Splitter,
    text: &mut Vec<u8>,
    limit: usize,
) -> Result<Vec<Record>> {
    let mut records = vec![];
    loop {
        splitter.split(text, limit, &mut records);
        if records.len() >= limit {
            return Ok(records);
        }
        if !pieces.fill().await? {
            splitter.end(text, &mut records);
            return Ok(records);
        }
        text.extend_from_slice(&pieces.take_slice());
    }
}

/// Reads the rows of one file.
pub(super) struct RowReader {
    spec: Arc<ReadSpec>,
    file: String,
    pieces: Pieces,
    format: Box<dyn RowFormat>,
    decoder: Box<dyn RowDecoder>,
    /// What the decoder has taken in.
    held: Vec<Bytes>,
    /// Rows before that.
    rows: u64,
    /// Lines before that.
    lines: u64,
    /// Whether the next batch is known to be one that has to be looked at closely.
    is_slow: bool,
    is_done: bool,
    ready: VecDeque<Result<Item>>,
}

impl RowReader {
    /// A reader of what is in `pieces`, which follows so many lines of the file.
    pub(super) fn try_new(
        spec: Arc<ReadSpec>,
        file: String,
        pieces: Pieces,
        format: Box<dyn RowFormat>,
        lines: u64,
    ) -> Result<Self> {
        Ok(Self {
            decoder: format.decoder(spec.batch_size)?,
            spec,
            file,
            pieces,
            format,
            held: vec![],
            rows: 0,
            lines,
            is_slow: false,
            is_done: false,
            ready: VecDeque::new(),
        })
    }

    /// The rows.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Item>> {
        stream::unfold(self, |mut reader| async move {
            let item = reader.next().await?;
            Some((item, reader))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Item>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.is_done {
                return None;
            }
            if let Err(error) = self.step().await {
                self.is_done = true;
                self.ready.push_back(Err(error));
            }
        }
    }

    async fn step(&mut self) -> Result<()> {
        if self.is_slow || self.spec.raw {
            return self.read_slowly().await;
        }
        if self.pieces.fill().await? {
            self.feed();
        } else if self.decoder.end().is_ok() && self.flush() {
            self.is_done = true;
        } else {
            self.is_slow = true;
        }
        Ok(())
    }

    /// Decodes the next piece, or leaves that to the close look.
    fn feed(&mut self) {
        let Some(piece) = self.pieces.front() else {
            return;
        };
        // text that is not UTF-8 would be taken for text by the decoder of CSV if its fields make up characters together
        let fed = piece.is_utf8.then(|| self.decoder.feed(&piece.bytes));
        let Some(Ok(used)) = fed else {
            self.is_slow = true;
            return;
        };
        self.held.push(self.pieces.take(used));
        if self.decoder.is_full() && !self.flush() {
            self.is_slow = true;
        }
    }

    /// Gives out what is decoded; `false` if that cannot be done.
    fn flush(&mut self) -> bool {
        let Ok(batch) = self.decoder.flush() else {
            return false;
        };
        self.lines += self.held.drain(..).map(|text| newlines(&text)).sum::<u64>();
        if let Some(batch) = batch {
            let rows = batch.num_rows() as u64;
            self.push_rows(batch, 0, None);
            self.rows += rows;
        }
        true
    }

    /// Gives out rows, the first of which comes so many rows after those that are counted.
    fn push_rows(&mut self, batch: RecordBatch, after: usize, raw: Option<StringArray>) {
        self.ready.push_back(Ok(Item::Rows(Rows {
            batch,
            first_row: self.rows + after as u64 + 1,
            raw,
        })));
    }

    /// Looks closely at the records of one batch.
    async fn read_slowly(&mut self) -> Result<()> {
        let mut text = self.held.concat();
        self.held.clear();
        let limit = self.spec.batch_size;
        let mut splitter = self.format.splitter();
        let records = gather(&mut self.pieces, splitter.as_mut(), &mut text, limit).await?;
        match records.last() {
            Some(last) if records.len() >= limit => {
                let rest = text.split_off(last.range.end);
                self.pieces.put_back(rest);
            }
            _ => self.is_done = true,
        }
        let mut close = CloseLook {
            text: &text,
            counted: 0,
            line: self.lines + 1,
        };
        self.settle(&mut close, &records)?;
        self.rows += records.len() as u64;
        self.lines += newlines(&text);
        self.is_slow = false;
        self.decoder = self.format.decoder(limit)?;
        Ok(())
    }

    /// Gives out records, the good ones together.
    fn settle(&mut self, close: &mut CloseLook<'_>, records: &[Record]) -> Result<()> {
        let mut start = 0;
        for (index, record) in records.iter().enumerate() {
            if let Some(reason) = &record.reason {
                self.settle_run(close, &records[start..index], start, true)?;
                self.reject(close, record, index, reason)?;
                start = index + 1;
            }
        }
        self.settle_run(close, &records[start..], start, true)
    }

    /// Gives out records that may all be good, the first of which comes so many rows after those that are counted.
    fn settle_run(
        &mut self,
        close: &mut CloseLook<'_>,
        records: &[Record],
        after: usize,
        may_respell: bool,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        let whole = close.text;
        let text = &whole[first.range.start..last.range.end];
        match self.decode(text, records.len()) {
            Ok(batch) => {
                let raw = self.spec.raw.then(|| self.raw_texts(whole, records));
                self.push_rows(batch, after, raw);
                Ok(())
            }
            Err(error) if records.len() == 1 => {
                match self.format.explain(text, &error, may_respell) {
                    Fault::Respelt => self.settle_run(close, records, after, false),
                    Fault::Reason(reason) => self.reject(close, first, after, &reason),
                }
            }
            Err(_) => {
                let (left, right) = records.split_at(records.len() / 2);
                self.settle_run(close, left, after, true)?;
                self.settle_run(close, right, after + left.len(), true)
            }
        }
    }

    fn decode(&self, text: &[u8], rows: usize) -> Result<RecordBatch> {
        if std::str::from_utf8(text).is_err() {
            return Err(Error::invalid("the text is not UTF-8"));
        }
        let mut decoder = self.format.decoder(rows)?;
        decoder.feed(text)?;
        decoder.end()?;
        match decoder.flush()? {
            Some(batch) if batch.num_rows() == rows => Ok(batch),
            _ => Err(Error::invalid("the row cannot be read")),
        }
    }

    fn raw_texts(&self, text: &[u8], records: &[Record]) -> StringArray {
        let rows = records.iter().map(|record| self.row_of(text, record));
        StringArray::from_iter_values(rows.map(raw_text))
    }

    fn row_of<'t>(&self, text: &'t [u8], record: &Record) -> &'t [u8] {
        let record = &text[record.range.clone()];
        &record[self.format.row_start(record)..]
    }

    /// Gives out a bad record, or ends the read with an error.
    fn reject(
        &mut self,
        close: &mut CloseLook<'_>,
        record: &Record,
        after: usize,
        reason: &str,
    ) -> Result<()> {
        let row = self.row_of(close.text, record);
        let line = close.line_at(record.range.end - row.len());
        if !self.spec.quarantine {
            return Err(Error::invalid(format!(
                "{} line {line}: {reason}; correct the file, or set such rows aside with on_invalid 'quarantine'",
                self.file
            )));
        }
        self.ready.push_back(Ok(Item::Rejected(Rejected {
            row: self.rows + after as u64 + 1,
            reason: format!("line {line}: {reason}"),
            raw: raw_text(row),
        })));
        Ok(())
    }
}

/// The text of a batch, and how far its lines are counted.
struct CloseLook<'t> {
    text: &'t [u8],
    counted: usize,
    line: u64,
}

impl CloseLook<'_> {
    /// The line of a place, which is not before one that was asked for earlier.
    fn line_at(&mut self, place: usize) -> u64 {
        self.line += newlines(&self.text[self.counted..place]);
        self.counted = place;
        self.line
    }
}
