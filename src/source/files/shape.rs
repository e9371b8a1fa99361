//! What columns a file has, and what columns a source holds.
//!
//! A source's columns are those that were declared, or those of its first file, and then every column that a later file adds:
//! a function of the ledger alone, so that every reader sees the same columns at the same version.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct ShapeColumn {
    /// As the file, or the folder that names it, spells it.
    pub name: String,
    /// Its Arrow type; absent where the format has none and the source held the column already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_type: Option<String>,
    /// Whether it stands in the path (`name=value/`) and not in the file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_path: bool,
}

impl ShapeColumn {
    fn parsed_type(&self) -> Result<DataType> {
        match &self.data_type {
            None => Ok(DataType::Utf8),
            Some(text) => DataType::from_str(text).map_err(|error| {
                Error::invalid(format!(
                    "the ledger gives the column {:?} the type {text:?}, which this version does not know: {error}",
                    self.name
                ))
            }),
        }
    }
}

/// The columns of a file; files of one shape share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Shape {
    /// In the file's order, then those of the path.
    pub columns: Vec<ShapeColumn>,
    /// Why the file is set aside as a whole, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Shape {
    /// The shape of a file with these columns, below folders that name others.
    pub(super) fn new(schema: &Schema, in_path: impl IntoIterator<Item = String>) -> Self {
        let own = schema.fields().iter().map(|field| ShapeColumn {
            name: field.name().clone(),
            data_type: Some(held_type(field.data_type()).to_string()),
            in_path: false,
        });
        let mut columns: Vec<ShapeColumn> = own.collect();
        for name in in_path {
            if find(columns.iter().map(|column| column.name.as_str()), &name).is_none() {
                columns.push(ShapeColumn {
                    name,
                    data_type: Some(DataType::Utf8.to_string()),
                    in_path: true,
                });
            }
        }
        Self {
            columns,
            unreadable: None,
        }
    }

    /// The shape of a file that is set aside as a whole.
    pub(super) fn unreadable(reason: String) -> Self {
        Self {
            columns: vec![],
            unreadable: Some(reason),
        }
    }

    /// The shape with the columns of its rows called by their place: a file without a header has no names of its own.
    pub(super) fn named(mut self, names: &Schema) -> Self {
        let own = self.columns.iter_mut().filter(|column| !column.in_path);
        for (column, field) in own.zip(names.fields()) {
            column.name.clone_from(field.name());
        }
        self
    }

    /// Whether a file of this shape may have rows: one without content has no columns but those of its path.
    pub(super) fn has_rows(&self) -> bool {
        self.columns.iter().any(|column| !column.in_path)
    }

    /// The column that is meant by a name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<&ShapeColumn> {
        find(self.columns.iter().map(|column| column.name.as_str()), name)
            .map(|index| &self.columns[index])
    }

    /// The types that the file has for its own columns.
    ///
    /// # Errors
    /// When a type cannot be read back.
    pub(super) fn schema(&self) -> Result<SchemaRef> {
        let own = self.columns.iter().filter(|column| !column.in_path);
        let fields = own
            .map(|column| Ok(Field::new(&column.name, column.parsed_type()?, true)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }
}

/// The position of the one name that is meant: as it is spelt, or else in another case if only one is.
pub(super) fn find<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    wanted: &str,
) -> Option<usize> {
    if let Some(exact) = names.clone().position(|name| name == wanted) {
        return Some(exact);
    }
    let mut similar = names
        .enumerate()
        .filter(|(_, name)| name.eq_ignore_ascii_case(wanted));
    match (similar.next(), similar.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

/// The columns of a source, from its declaration and the shapes of its files in the order of their versions.
///
/// # Errors
/// When the ledger's types cannot be read.
pub(super) fn held_columns<'a>(
    declared: &Schema,
    marker: &str,
    shapes: impl Iterator<Item = &'a Shape>,
) -> Result<Vec<FieldRef>> {
    let own = declared.fields().iter();
    let own = own.filter(|field| !field.name().eq_ignore_ascii_case(marker));
    let mut held: Vec<FieldRef> = own.map(nullable).collect();
    // what the first file has and the declaration leaves out was left out on purpose
    let mut left_out: HashSet<String> = HashSet::new();
    // a file without content has no columns to go by
    let shapes = shapes.filter(|shape| shape.has_rows());
    for (index, shape) in shapes.enumerate() {
        for column in &shape.columns {
            let is_marker = column.name.eq_ignore_ascii_case(marker);
            let is_held = find(held.iter().map(|field| field.name().as_str()), &column.name);
            if is_marker || is_held.is_some() || left_out.contains(&column.name.to_lowercase()) {
                continue;
            }
            if index == 0 && !declared.fields().is_empty() {
                left_out.insert(column.name.to_lowercase());
            } else {
                held.push(Arc::new(Field::new(
                    &column.name,
                    column.parsed_type()?,
                    true,
                )));
            }
        }
    }
    Ok(held)
}

fn nullable(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), held_type(field.data_type()), true))
}

/// The type in which a column is held: the same values, in the plainest layout.
pub(super) fn held_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, values) => held_type(values),
        DataType::RunEndEncoded(_, values) => held_type(values.data_type()),
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            DataType::List(held_field(item))
        }
        DataType::FixedSizeList(item, _) => DataType::List(held_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(held_field).collect()),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(fields) => {
                let fields: Fields = fields.iter().map(held_field).collect();
                let entries = Field::new(entries.name(), DataType::Struct(fields), false);
                DataType::Map(Arc::new(entries), *sorted)
            }
            _ => data_type.clone(),
        },
        other => other.clone(),
    }
}

/// The column in the layout that the Parquet reader need not copy values for.
pub(super) fn viewed(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn held_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        held_type(field.data_type()),
        field.is_nullable(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, DataType)]) -> Shape {
        let fields = columns
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Shape::new(&Schema::new(fields.collect::<Vec<_>>()), [])
    }

    fn check(declared: &[(&str, DataType)], shapes: &[Shape], expected: &[(&str, DataType)]) {
        let declared: Vec<Field> = declared
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true))
            .collect();
        let held = held_columns(&Schema::new(declared), "m", shapes.iter()).unwrap();
        let held: Vec<(&str, DataType)> = held
            .iter()
            .map(|field| (field.name().as_str(), field.data_type().clone()))
            .collect();
        assert_eq!(held, expected);
    }

    #[test]
    fn later_files_add_columns() {
        let (int, text) = (DataType::Int64, DataType::Utf8);
        let first = shape(&[("id", int.clone()), ("M", text.clone())]);
        let second = shape(&[("ID", text.clone()), ("b", text.clone())]);
        let shapes = [first, second];
        check(&[], &shapes, &[("id", int.clone()), ("b", text.clone())]);
        let declared = [("x", text.clone())];
        check(&declared, &shapes, &[("x", text.clone()), ("b", text)]);
    }

    #[test]
    fn types_are_read_back() {
        use arrow::datatypes::TimeUnit;
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let pair = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int32, true),
        ]);
        for data_type in [
            DataType::Decimal128(20, 3),
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Date32,
            DataType::UInt32,
            DataType::Time64(TimeUnit::Microsecond),
            DataType::List(Arc::clone(&item)),
            DataType::Struct(Fields::from(vec![
                Field::new("a b", DataType::Utf8, true),
                Field::new("c", DataType::List(item), true),
            ])),
            DataType::Map(
                Arc::new(Field::new("entries", DataType::Struct(pair), false)),
                false,
            ),
        ] {
            let shape = shape(&[("a", data_type.clone())]);
            let read = shape.schema().unwrap();
            assert_eq!(read.field(0).data_type(), &data_type);
        }
    }
}
