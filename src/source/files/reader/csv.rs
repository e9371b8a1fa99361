//! The rows of CSV files, by Arrow's decoder.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Decoder, Format};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use regex::Regex;

use super::csv_header::CsvHeader;
use super::csv_records::{CsvSplitter, fields, row_start};
use super::layout::{Layout, misfit_reason};
use super::rows::{Fault, RowDecoder, RowFormat, Splitter};
use super::{CsvFormat, ReadSpec};
use crate::error::{Error, Result};
use crate::source::files::fit::shown;
use crate::source::files::shape::find;

/// A byte that no UTF-8 text has, for decoders that insist on a quote.
const NO_QUOTE: u8 = 0xFF;

/// The rows of one CSV file.
pub(super) struct CsvRows {
    csv: CsvFormat,
    format: Format,
    /// The columns of the file, in the types that they are decoded to.
    schema: SchemaRef,
    /// For each wanted column, its place in the file.
    places: Vec<Option<usize>>,
    wanted: SchemaRef,
}

impl CsvRows {
    /// The rows of a file with this header.
    ///
    /// # Errors
    /// When the file has a column that the source does not know.
    pub(super) fn try_new(
        file: &str,
        csv: &CsvFormat,
        spec: &ReadSpec,
        header: &CsvHeader,
    ) -> Result<Self> {
        let names = known_names(file, csv, &spec.all, &header.names)?;
        let wanted = Arc::clone(&spec.columns);
        let places: Vec<Option<usize>> = wanted
            .fields()
            .iter()
            .map(|field| find(names.iter().map(String::as_str), field.name()))
            .collect();
        let mut types = vec![DataType::Utf8; names.len()];
        for (place, field) in places.iter().zip(wanted.fields()) {
            if let Some(place) = place {
                types[*place] = decoded_type(field.data_type());
            }
        }
        let columns = names.into_iter().zip(types);
        let columns = columns.map(|(name, data_type)| Field::new(name, data_type, true));
        Ok(Self {
            csv: csv.clone(),
            format: arrow_format(csv)?,
            schema: Arc::new(Schema::new(columns.collect::<Vec<_>>())),
            places,
            wanted,
        })
    }

    /// A decoder of some of the wanted columns.
    fn decoder_of(&self, wanted: SchemaRef, places: &[Option<usize>], rows: usize) -> CsvDecoder {
        let projection: Vec<usize> = places.iter().flatten().copied().collect();
        let mut decoded = 0..projection.len();
        let slots = places
            .iter()
            .map(|place| place.and_then(|_| decoded.next()));
        let slots = slots.collect();
        let source: Vec<Field> = projection
            .iter()
            .map(|place| self.schema.field(*place).clone())
            .collect();
        let decoder = ReaderBuilder::new(Arc::clone(&self.schema))
            .with_format(self.format.clone())
            .with_projection(projection)
            .with_batch_size(rows)
            .build_decoder();
        CsvDecoder {
            decoder,
            layout: Layout::new(wanted, &Schema::new(source), slots),
        }
    }
}

impl RowFormat for CsvRows {
    fn decoder(&self, rows: usize) -> Result<Box<dyn RowDecoder>> {
        let wanted = Arc::clone(&self.wanted);
        Ok(Box::new(self.decoder_of(wanted, &self.places, rows)))
    }

    fn splitter(&self) -> Box<dyn Splitter> {
        let columns = self.schema.fields().len();
        Box::new(CsvSplitter::new(&self.csv, Some(columns)))
    }

    fn row_start(&self, record: &[u8]) -> usize {
        row_start(&self.csv, record)
    }

    fn explain(&mut self, record: &[u8], error: &Error, _: bool) -> Fault {
        let row = &record[self.row_start(record)..];
        let values = fields(&self.csv, row);
        // the decoder looks at whole rows, so this comes first
        for (value, field) in values.iter().zip(self.schema.fields()) {
            if std::str::from_utf8(value).is_err() {
                let value = String::from_utf8_lossy(value);
                return Fault::Reason(misfit_reason(field.name(), &shown(&value), "UTF-8"));
            }
        }
        let places = self.places.iter().zip(self.wanted.fields());
        for (place, field) in places.filter_map(|(place, field)| Some(((*place)?, field))) {
            let wanted = Arc::new(Schema::new(vec![Arc::clone(field)]));
            let mut decoder = self.decoder_of(wanted, &[Some(place)], 1);
            let decoded = decoder.feed(row).and_then(|_| decoder.end());
            if decoded.and_then(|()| decoder.flush()).is_err() {
                let value = values.get(place).map(Vec::as_slice).unwrap_or_default();
                let value = shown(&String::from_utf8_lossy(value));
                let expected = field.data_type().to_string();
                return Fault::Reason(misfit_reason(field.name(), &value, &expected));
            }
        }
        Fault::Reason(error.to_string())
    }
}

/// The columns of a file by the names that the source has for them.
fn known_names(
    file: &str,
    csv: &CsvFormat,
    all: &Schema,
    header: &[String],
) -> Result<Vec<String>> {
    let known = || all.fields().iter().map(|field| field.name().as_str());
    let mut taken = HashSet::new();
    let name_of = |(index, name): (usize, &String)| {
        let by_place = (!csv.header).then(|| known().nth(index)).flatten();
        match (find(known(), name), by_place) {
            (Some(place), _) if taken.insert(place) => Ok(name.clone()),
            (Some(_), _) => Err(Error::invalid(format!(
                "{file} has the column {name:?} and another one that is spelt the same but for case; names must differ by more"
            ))),
            (None, Some(by_place)) => Ok(by_place.to_owned()),
            (None, None) => Err(Error::invalid(format!(
                "{file} has the column {name:?}, which it did not have when it was found, or which is spelt like two others; columns are: {}",
                known().collect::<Vec<_>>().join(", ")
            ))),
        }
    };
    header.iter().enumerate().map(name_of).collect()
}

/// The type that Arrow decodes a column to. It drops the digits of a decimal that it has no place for, so these begin as text.
fn decoded_type(data_type: &DataType) -> DataType {
    use DataType::{
        Boolean, Date32, Date64, Float32, Float64, Int8, Int16, Int32, Int64, Time32, Time64,
        Timestamp, UInt8, UInt16, UInt32, UInt64,
    };
    match data_type {
        Boolean
        | Int8
        | Int16
        | Int32
        | Int64
        | UInt8
        | UInt16
        | UInt32
        | UInt64
        | Float32
        | Float64
        | Date32
        | Date64
        | Time32(_)
        | Time64(_)
        | Timestamp(_, _) => data_type.clone(),
        _ => DataType::Utf8,
    }
}

/// The format as Arrow says it.
pub(super) fn arrow_format(csv: &CsvFormat) -> Result<Format> {
    let mut format = Format::default()
        .with_header(false)
        .with_delimiter(csv.delimiter)
        .with_quote(csv.quote.unwrap_or(NO_QUOTE));
    if let Some(escape) = csv.escape {
        format = format.with_escape(escape);
    }
    if let Some(comment) = csv.comment {
        format = format.with_comment(comment);
    }
    if let Some(null) = &csv.null_value {
        let pattern = format!("^(?:{})?$", regex::escape(null));
        let pattern = Regex::new(&pattern).map_err(|error| {
            Error::invalid(format!("the option null_value cannot be {null:?}: {error}"))
        })?;
        format = format.with_null_regex(pattern);
    }
    Ok(format)
}

struct CsvDecoder {
    decoder: Decoder,
    layout: Layout,
}

impl RowDecoder for CsvDecoder {
    fn feed(&mut self, text: &[u8]) -> Result<usize> {
        Ok(self.decoder.decode(text)?)
    }

    fn is_full(&self) -> bool {
        self.decoder.capacity() == 0
    }

    fn end(&mut self) -> Result<()> {
        let room = self.decoder.capacity();
        self.decoder.decode(b"\n")?;
        if self.decoder.capacity() < room {
            return Ok(());
        }
        // the end of a line ends every record but one with an open quote, which the end of the file ends
        self.decoder.decode(b"")?;
        if self.decoder.capacity() < room {
            return Err(Error::invalid("a quote is never closed"));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>> {
        let batch = self.decoder.flush()?;
        batch.map(|batch| self.layout.arrange(&batch)).transpose()
    }
}
