//! Reads what each row of a file says about itself: upsert or delete; and finds the rows that say nothing that can be understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::json::LineDelimitedWriter;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};

use super::fit::Misfit;
use super::options::{FileOptions, OnInvalid, OnNull};
use crate::change::{
    CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType,
};
use crate::error::{Error, Result};
use crate::source::{REJECTED_ROWS, SCAN};

/// One column of what a read returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// The source's column at this position.
    Held(usize),
    /// One of the change relation's own columns, by name.
    Change(FieldRef),
}

/// A file as the marking needs it.
#[derive(Debug, Clone)]
pub(super) struct MarkedFile {
    pub version: i64,
    /// Relative to the location.
    pub path: Arc<str>,
    pub e_tag: Option<Arc<str>>,
    /// In microseconds since the epoch.
    pub time: i64,
    /// Whether it has a marker column; otherwise every row is an upsert.
    pub has_marker: bool,
    /// For each column of the source: whether the file has it, and the value that its path gives it.
    pub columns: Arc<[Carried]>,
}

/// How a file carries a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Carried {
    /// In its rows.
    InRows,
    /// In its path.
    InPath(ScalarValue),
    /// Not at all.
    Absent,
}

/// How the rows of a read are marked.
#[derive(Debug)]
pub(super) struct Marking {
    /// What messages call the source.
    pub name: String,
    pub options: Arc<FileOptions>,
    /// The source's columns at the version that is read.
    pub held: Vec<FieldRef>,
    /// For each of them, its position in the batches that come in, where it is read.
    pub read: Vec<Option<usize>>,
    /// Position of the marker column in the batches that come in.
    pub marker: Option<usize>,
    /// Columns that may not be NULL: the key, and the sequence.
    pub required: Vec<usize>,
    pub output: Vec<Output>,
    pub schema: SchemaRef,
    /// Which scan it is of.
    pub scan: String,
}

/// The numbers of a batch's rows in their file.
#[derive(Debug, Clone, Copy)]
pub(super) enum RowNumbers<'a> {
    /// They follow each other, beginning with this one.
    From(i64),
    /// One for each row, from 0.
    Each(&'a Int64Array),
}

impl RowNumbers<'_> {
    fn of(&self, row: usize) -> i64 {
        match self {
            Self::From(first) => first + row as i64,
            Self::Each(numbers) => numbers.value(row) + 1,
        }
    }
}

/// A row that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RejectedRow {
    pub row: i64,
    pub reason: String,
    pub raw: String,
}

/// Rows that are marked, and those that were set aside.
#[derive(Debug)]
pub(super) struct Marked {
    pub batch: RecordBatch,
    pub rejected: Vec<RejectedRow>,
}

#[derive(Debug)]
struct Bad {
    reason: String,
    set_aside: bool,
}

impl Marking {
    /// Marks the rows of `batch`, which are all of `file`. `raw` is their text, where it is known.
    ///
    /// # Errors
    /// For the first row that cannot be understood, naming file and row, unless such rows are to be set aside.
    pub(super) fn mark(
        &self,
        file: &MarkedFile,
        batch: &RecordBatch,
        rows: RowNumbers<'_>,
        raw: Option<&StringArray>,
        misfits: Vec<Misfit>,
    ) -> Result<Marked> {
        let mut bad: BTreeMap<usize, Bad> = BTreeMap::new();
        for misfit in misfits {
            let reason = format!(
                "column {:?} has the value {:?}, which is not {}",
                misfit.column, misfit.value, misfit.expected
            );
            self.add(&mut bad, misfit.row, reason, None);
        }
        let deletes = self.deletes(file, batch, &mut bad)?;
        self.check_required(file, batch, &mut bad);
        if bad.is_empty() {
            return Ok(Marked {
                batch: self.output(file, batch, rows, deletes.as_ref())?,
                rejected: vec![],
            });
        }
        if let Some((row, first)) = bad.iter().find(|(_, bad)| !bad.set_aside) {
            return Err(self.invalid_row(file, rows.of(*row), &first.reason));
        }
        let rejected = bad.iter().map(|(row, bad)| {
            let raw = match raw {
                Some(raw) => raw.value(*row).to_owned(),
                None => as_json(&batch.slice(*row, 1)),
            };
            RejectedRow {
                row: rows.of(*row),
                reason: bad.reason.clone(),
                raw,
            }
        });
        let rejected = rejected.collect();
        Ok(Marked {
            batch: self.without(file, batch, rows, deletes.as_ref(), &bad)?,
            rejected,
        })
    }

    /// The error about a row.
    pub(super) fn invalid_row(&self, file: &MarkedFile, row: i64, reason: &str) -> Error {
        Error::invalid(format!(
            "INVALID_ROW: {} of {}, row {row}: {reason}; correct the file and put it there again, or set such rows aside with on_invalid \
             'quarantine'",
            file.path, self.name
        ))
    }

    /// The metric that counts rows that are set aside.
    pub(super) fn rejected(&self, metrics: &ExecutionPlanMetricsSet, partition: usize) -> Count {
        MetricBuilder::new(metrics)
            .with_new_label(SCAN, self.scan.clone())
            .counter(REJECTED_ROWS, partition)
    }

    fn add(
        &self,
        bad: &mut BTreeMap<usize, Bad>,
        row: usize,
        reason: String,
        set_aside: Option<bool>,
    ) {
        let quarantine = self.options.on_invalid == OnInvalid::Quarantine;
        bad.entry(row).or_insert(Bad {
            reason,
            set_aside: set_aside.unwrap_or(quarantine),
        });
    }

    /// Which rows are deletes; `None` where none is.
    fn deletes(
        &self,
        file: &MarkedFile,
        batch: &RecordBatch,
        bad: &mut BTreeMap<usize, Bad>,
    ) -> Result<Option<BooleanArray>> {
        let Some(marker) = self.marker.filter(|_| file.has_marker) else {
            return Ok(None);
        };
        let column = batch.column(marker);
        let column = if column.data_type() == &DataType::Utf8 {
            Arc::clone(column)
        } else {
            cast(column, &DataType::Utf8)?
        };
        let values = column.as_string::<i32>();
        let mut last: Option<(&str, Mark)> = None;
        let mut deletes = Vec::with_capacity(values.len());
        let mut any = false;
        for row in 0..values.len() {
            let value = if values.is_null(row) {
                ""
            } else {
                values.value(row)
            };
            let mark = match last {
                Some((before, mark)) if before == value => mark,
                _ => self.meaning(value),
            };
            last = Some((value, mark));
            match mark {
                Mark::Upsert | Mark::Delete => {}
                Mark::Nothing => self.add(
                    bad,
                    row,
                    format!(
                        "{:?} is NULL or empty (on_null 'u' takes such rows for upserts)",
                        self.options.marker
                    ),
                    Some(self.options.sets_aside()),
                ),
                Mark::Unknown => self.add(
                    bad,
                    row,
                    format!(
                        "{:?} is {value:?}, and {} are known",
                        self.options.marker,
                        self.known_markers()
                    ),
                    None,
                ),
            }
            any |= mark == Mark::Delete;
            deletes.push(mark == Mark::Delete);
        }
        Ok(any.then(|| BooleanArray::from(deletes)))
    }

    fn known_markers(&self) -> String {
        let quoted = |values: &[String]| {
            let quoted: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
            quoted.join(", ")
        };
        format!(
            "{} (upsert) and {} (delete)",
            quoted(&self.options.upsert_values),
            quoted(&self.options.delete_values)
        )
    }

    fn meaning(&self, value: &str) -> Mark {
        let value = value.trim().to_lowercase();
        if value.is_empty() {
            return match self.options.on_null {
                OnNull::Upsert => Mark::Upsert,
                OnNull::Delete => Mark::Delete,
                OnNull::Error | OnNull::Quarantine => Mark::Nothing,
            };
        }
        if self.options.upsert_values.contains(&value) {
            Mark::Upsert
        } else if self.options.delete_values.contains(&value) {
            Mark::Delete
        } else {
            Mark::Unknown
        }
    }

    fn check_required(
        &self,
        file: &MarkedFile,
        batch: &RecordBatch,
        bad: &mut BTreeMap<usize, Bad>,
    ) {
        for held in &self.required {
            let name = self.held[*held].name();
            let nulls: Vec<usize> = match (&file.columns[*held], self.read[*held]) {
                (Carried::InRows, Some(index)) => {
                    let column = batch.column(index);
                    if column.null_count() == 0 {
                        continue;
                    }
                    (0..column.len())
                        .filter(|row| column.is_null(*row))
                        .collect()
                }
                (Carried::InPath(value), _) if !value.is_null() => continue,
                _ => (0..batch.num_rows()).collect(),
            };
            let what = if self.is_key(name) { "key" } else { "sequence" };
            for row in nulls {
                self.add(
                    bad,
                    row,
                    format!("the {what} column {name:?} is NULL"),
                    None,
                );
            }
        }
    }

    fn is_key(&self, name: &str) -> bool {
        self.options.key.iter().any(|key| key == name)
    }

    fn without(
        &self,
        file: &MarkedFile,
        batch: &RecordBatch,
        rows: RowNumbers<'_>,
        deletes: Option<&BooleanArray>,
        bad: &BTreeMap<usize, Bad>,
    ) -> Result<RecordBatch> {
        let whole = self.output(file, batch, rows, deletes)?;
        let good: BooleanArray = (0..batch.num_rows())
            .map(|row| Some(!bad.contains_key(&row)))
            .collect();
        Ok(filter_record_batch(&whole, &good)?)
    }

    fn output(
        &self,
        file: &MarkedFile,
        batch: &RecordBatch,
        rows: RowNumbers<'_>,
        deletes: Option<&BooleanArray>,
    ) -> Result<RecordBatch> {
        let count = batch.num_rows();
        let columns = self.output.iter().map(|output| match output {
            Output::Held(held) => {
                let data_type = self.held[*held].data_type();
                match (&file.columns[*held], self.read[*held]) {
                    (Carried::InRows, Some(index)) => Ok(Arc::clone(batch.column(index))),
                    (Carried::InPath(value), _) => Ok(value.to_array_of_size(count)?),
                    _ => Ok(new_null_array(data_type, count)),
                }
            }
            Output::Change(field) => self.change_column(field, file, rows, deletes, count),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }

    fn change_column(
        &self,
        field: &FieldRef,
        file: &MarkedFile,
        rows: RowNumbers<'_>,
        deletes: Option<&BooleanArray>,
        count: usize,
    ) -> Result<ArrayRef> {
        let repeated = |value: ScalarValue| Ok(value.to_array_of_size(count)?);
        match field.name().as_str() {
            CHANGE_TYPE => Ok(change_types(deletes, count)),
            COMMIT_VERSION => Ok(Arc::new(Int64Array::from(vec![file.version; count]))),
            COMMIT_TIMESTAMP => {
                let times = TimestampMicrosecondArray::from(vec![file.time; count]);
                Ok(Arc::new(times.with_timezone("UTC")))
            }
            CHANGE_ORDINAL => {
                let numbers = (0..count).map(|row| rows.of(row));
                Ok(Arc::new(Int64Array::from_iter_values(numbers)))
            }
            "_commit_token" => repeated(ScalarValue::Utf8(Some(match &file.e_tag {
                Some(tag) => format!("{}@{tag}", file.path),
                None => file.path.as_ref().to_owned(),
            }))),
            "_key_only" => repeated(ScalarValue::Boolean(Some(false))),
            CHANGED_COLUMNS => self.changed_columns(field, file, count),
            _ => Ok(new_null_array(field.data_type(), count)),
        }
    }

    /// The columns that the file carries; NULL where it carries them all.
    fn changed_columns(
        &self,
        field: &FieldRef,
        file: &MarkedFile,
        count: usize,
    ) -> Result<ArrayRef> {
        if !file.columns.contains(&Carried::Absent) {
            return Ok(new_null_array(field.data_type(), count));
        }
        let carried = self.held.iter().zip(file.columns.iter());
        let carried = carried.filter(|(_, carried)| **carried != Carried::Absent);
        let names = carried.map(|(held, _)| Some(held.name().as_str()));
        let names: ArrayRef = Arc::new(StringArray::from_iter(names));
        let DataType::List(item) = field.data_type() else {
            return Err(Error::internal("_changed_columns is no list"));
        };
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([names.len()]);
        let list = ListArray::try_new(Arc::clone(item), offsets, names, None)?;
        Ok(ScalarValue::List(Arc::new(list)).to_array_of_size(count)?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Upsert,
    Delete,
    Nothing,
    Unknown,
}

fn change_types(deletes: Option<&BooleanArray>, count: usize) -> ArrayRef {
    let (upsert, delete) = (ChangeType::Upsert.as_str(), ChangeType::Delete.as_str());
    Arc::new(match deletes {
        None => StringArray::from_iter_values(std::iter::repeat_n(upsert, count)),
        Some(deletes) => StringArray::from_iter_values(
            deletes
                .values()
                .iter()
                .map(|is_delete| if is_delete { delete } else { upsert }),
        ),
    })
}

/// One row as the text of a JSON object.
pub(super) fn as_json(row: &RecordBatch) -> String {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    match writer.write(row).and_then(|()| writer.finish()) {
        Ok(()) => String::from_utf8_lossy(&writer.into_inner())
            .trim_end()
            .to_owned(),
        Err(error) => format!("the row cannot be shown: {error}"),
    }
}
