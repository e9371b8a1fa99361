//! Changes as the suite compares them: as text, without what is NULL, in order.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::util::display::array_value_to_string;

use crate::change::{CHANGE_TYPE, ChangeType};

/// What has happened in a version.
pub(super) struct ExpectedVersion {
    pub version: i64,
    pub changes: Vec<Change>,
}

impl ExpectedVersion {
    /// The changes of a version, in any order, such as `insert id=1 name=a`: without the columns that are NULL, and with values that
    /// have no space in them.
    pub(super) fn new(version: i64, changes: &[&str]) -> Self {
        let changes = changes.iter().map(|change| Change::parse(version, change));
        Self {
            version,
            changes: changes.collect(),
        }
    }
}

/// A change as it is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub version: i64,
    pub kind: String,
    /// The columns that are not NULL.
    pub row: BTreeMap<String, String>,
}

impl Change {
    fn parse(version: i64, text: &str) -> Self {
        let mut words = text.split(' ');
        let kind = words.next().unwrap().to_owned();
        let columns = words.map(|word| {
            let (name, value) = word.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        Self {
            version,
            kind,
            row: columns.collect(),
        }
    }

    /// Whether the row, as it is given, was there before and is not any more.
    pub(super) fn removes(&self) -> bool {
        let removing = [ChangeType::Delete, ChangeType::UpdatePreimage];
        removing.iter().any(|kind| kind.as_str() == self.kind)
    }

    /// The values of some columns.
    pub(super) fn key(&self, columns: &[String]) -> Vec<Option<String>> {
        let values = columns.iter().map(|column| self.row.get(column).cloned());
        values.collect()
    }
}

/// The columns with their types.
pub(super) fn described(schema: &Schema) -> Vec<String> {
    let fields = schema.fields().iter();
    let columns = fields.map(|field| format!("{} {}", field.name(), field.data_type()));
    columns.collect()
}

/// A value as text; `None` where it is NULL.
fn text(batch: &RecordBatch, column: usize, row: usize) -> Option<String> {
    let values = batch.column(column);
    let text = || array_value_to_string(values, row).unwrap();
    values.is_valid(row).then(text)
}

/// Rows of a whole change relation, in order.
pub(super) fn changes_of(batches: &[RecordBatch]) -> Vec<Change> {
    let mut changes = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let kind = schema.index_of(CHANGE_TYPE).unwrap();
        for row in 0..batch.num_rows() {
            let own = (0..kind).filter_map(|column| {
                let name = schema.field(column).name();
                Some((name.clone(), text(batch, column, row)?))
            });
            changes.push(Change {
                version: text(batch, kind + 1, row).unwrap().parse().unwrap(),
                kind: text(batch, kind, row).unwrap(),
                row: own.collect(),
            });
        }
    }
    changes.sort();
    changes
}

/// Some columns of all rows, in order.
pub(super) fn values(batches: &[RecordBatch], columns: &[usize]) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|column| text(batch, *column, row));
            rows.push(values.collect::<Vec<_>>());
        }
    }
    rows.sort();
    rows
}
