//! The rows of JSON lines, by Arrow's decoder.
//!
//! A row is a line, although the decoder would let objects span lines or share them: rows keep their numbers whatever is read of
//! them. Every member is looked up, the wanted columns or not, so that none is dropped because nobody knew of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;
use serde_json::value::RawValue;

use super::ReadSpec;
use super::json_lines::{LineSplitter, Members, first_line, is_blank, line_error, row_start};
use super::layout::{Layout, misfit_reason};
use super::rows::{Fault, RowDecoder, RowFormat, Splitter};
use crate::error::{Error, Result};
use crate::source::files::fit::shown;
use crate::source::files::shape::find;

/// The rows of one file of JSON lines.
pub(super) struct JsonRows {
    /// All columns, by the names that the source has.
    all: Vec<FieldRef>,
    /// The same as they are decoded, by the names that the file has.
    decoded: SchemaRef,
    wanted: SchemaRef,
}

impl JsonRows {
    /// The rows of a file.
    pub(super) fn new(spec: &ReadSpec) -> Self {
        let mut names = HashSet::new();
        let all = spec.all.fields().iter();
        let all: Vec<FieldRef> = all
            .filter(|field| names.insert(field.name().clone()))
            .map(Arc::clone)
            .collect();
        let decoded: Vec<Field> = all
            .iter()
            .map(|field| Field::new(field.name(), decoded_type(field.data_type()), true))
            .collect();
        Self {
            all,
            decoded: Arc::new(Schema::new(decoded)),
            wanted: Arc::clone(&spec.columns),
        }
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|field| field.name() == name)
    }

    /// Takes a member for the one column that is spelt the same but for case.
    fn respell(&mut self, member: &str) -> bool {
        let known = self.all.iter().map(|field| field.name().as_str());
        let Some(place) = find(known, member) else {
            return false;
        };
        let fields = self.decoded.fields().iter().enumerate();
        let fields = fields.map(|(index, field)| {
            if index == place {
                Arc::new(field.as_ref().clone().with_name(member))
            } else {
                Arc::clone(field)
            }
        });
        self.decoded = Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()));
        true
    }

    /// The value of a column that cannot be decoded, if that is what is wrong.
    fn misfit(&self, members: BTreeMap<String, Box<RawValue>>) -> Option<String> {
        for (column, field) in self.decoded.fields().iter().zip(&self.all) {
            let Some(value) = members.get(column.name()) else {
                continue;
            };
            let row = serde_json::to_string(&BTreeMap::from([(column.name(), value)])).ok()?;
            let source = Arc::new(Schema::new(vec![Arc::clone(column)]));
            let wanted = Arc::new(Schema::new(vec![Arc::clone(field)]));
            let layout = Layout::new(wanted, &source, vec![Some(0)]);
            if decode_one(source, layout, row.as_bytes()).is_err() {
                let text = serde_json::from_str::<String>(value.get());
                let text = text.unwrap_or_else(|_| value.get().to_owned());
                let expected = field.data_type().to_string();
                return Some(misfit_reason(field.name(), &shown(&text), &expected));
            }
        }
        None
    }
}

fn decode_one(source: SchemaRef, layout: Layout, row: &[u8]) -> Result<Option<RecordBatch>> {
    let mut decoder = JsonDecoder::try_new(source, layout, 1)?;
    decoder.feed(row)?;
    decoder.end()?;
    decoder.flush()
}

impl RowFormat for JsonRows {
    fn decoder(&self, rows: usize) -> Result<Box<dyn RowDecoder>> {
        let wanted = self.wanted.fields().iter();
        let slots = wanted.map(|field| self.place_of(field.name())).collect();
        let layout = Layout::new(Arc::clone(&self.wanted), &self.decoded, slots);
        let source = Arc::clone(&self.decoded);
        Ok(Box::new(JsonDecoder::try_new(source, layout, rows)?))
    }

    fn splitter(&self) -> Box<dyn Splitter> {
        Box::new(LineSplitter::default())
    }

    fn row_start(&self, record: &[u8]) -> usize {
        row_start(record)
    }

    fn explain(&mut self, record: &[u8], error: &Error, may_respell: bool) -> Fault {
        let row = record.trim_ascii();
        let members = match serde_json::from_slice::<Members<Box<RawValue>>>(row) {
            Ok(Members(members)) => members,
            Err(error) => {
                return Fault::Reason(format!("this is no JSON object ({})", line_error(&error)));
            }
        };
        for (name, _) in &members {
            if self.decoded.fields().find(name).is_some() {
                continue;
            }
            if may_respell && self.respell(name) {
                return Fault::Respelt;
            }
            return Fault::Reason(format!(
                "the member {name:?} is no column: it first appears too late in the file to be found; declare it in CREATE EXTERNAL \
                 TABLE or raise infer_rows"
            ));
        }
        let misfit = self.misfit(members.into_iter().collect());
        Fault::Reason(misfit.unwrap_or_else(|| error.to_string()))
    }
}

/// The type that Arrow decodes a column to. It cuts numbers to fit integers and decimals, so these begin as text.
fn decoded_type(data_type: &DataType) -> DataType {
    let nested = |field: &FieldRef| {
        let inner = decoded_type(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(inner))
    };
    match data_type {
        other if other.is_integer() || other.is_decimal() => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nested).collect()),
        DataType::List(item) => DataType::List(nested(item)),
        other => other.clone(),
    }
}

struct JsonDecoder {
    decoder: Decoder,
    layout: Layout,
    limit: usize,
    /// Whole rows since the last batch.
    rows: usize,
}

impl JsonDecoder {
    fn try_new(source: SchemaRef, layout: Layout, limit: usize) -> Result<Self> {
        let decoder = ReaderBuilder::new(source)
            .with_batch_size(limit)
            .with_coerce_primitive(true)
            .with_strict_mode(true)
            .build_decoder()?;
        Ok(Self {
            decoder,
            layout,
            limit,
            rows: 0,
        })
    }

    /// Takes in a line or a part of one.
    fn feed_line(&mut self, line: &[u8]) -> Result<()> {
        let used = self.decoder.decode(line)?;
        if !line[used..].iter().all(|byte| is_blank(*byte)) {
            return Err(Error::invalid("more than one value on a line"));
        }
        if line.ends_with(b"\n") {
            if self.decoder.has_partial_record() || self.decoder.len() > self.rows + 1 {
                return Err(Error::invalid("not one object on a line"));
            }
            self.rows = self.decoder.len();
        }
        Ok(())
    }
}

impl RowDecoder for JsonDecoder {
    fn feed(&mut self, text: &[u8]) -> Result<usize> {
        let mut used = 0;
        while used < text.len() && !self.is_full() {
            let line = first_line(&text[used..]);
            self.feed_line(line)?;
            used += line.len();
        }
        Ok(used)
    }

    fn is_full(&self) -> bool {
        self.rows >= self.limit
    }

    fn end(&mut self) -> Result<()> {
        self.feed_line(b"\n")
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>> {
        let batch = self.decoder.flush()?;
        self.rows = 0;
        batch.map(|batch| self.layout.arrange(&batch)).transpose()
    }
}
