//! Columns by Parquet field id: in the `id` mode of column mapping a file may call its columns as it likes (*Column Mapping*).
//!
//! DataFusion finds columns by name, in the projection, in row filters, and again in the pruning by statistics, page indexes and
//! bloom filters. So a file's metadata is given the names that the table uses when it is decoded, and everything after that finds
//! what it looks for.
//!
//! Where no field of a group has an id, as in files from before the table was mapped, names are as good as they are without a
//! mapping.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, PARQUET_FIELD_ID_META_KEY};
use parquet::errors::Result;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

/// The columns of a table with their ids.
#[derive(Debug)]
pub(super) struct FieldIds {
    columns: Fields,
}

impl FieldIds {
    /// `columns` are the physical fields of a table, which have ids at every level.
    pub(super) fn new(columns: &[FieldRef]) -> Self {
        Self {
            columns: columns.into(),
        }
    }

    /// The schema of a file with the names of the table; `None` where it has them already.
    pub(super) fn renamed(&self, schema: &SchemaDescriptor) -> Result<Option<SchemaDescPtr>> {
        let root = schema.root_schema_ptr();
        let fields = struct_fields(root.get_fields(), &self.columns)?;
        let renamed = rebuilt(&root, root.name(), fields)?;
        let changed = !Arc::ptr_eq(&renamed, &root);
        Ok(changed.then(|| Arc::new(SchemaDescriptor::new(renamed))))
    }
}

/// The metadata without the Arrow schema that its writer has added: that has other names still, and must agree.
pub(super) fn without_arrow_schema(metadata: ParquetMetaData) -> ParquetMetaData {
    let file = metadata.file_metadata();
    let kept = file.key_value_metadata().map(|pairs| {
        let kept = pairs
            .iter()
            .filter(|pair| pair.key != ARROW_SCHEMA_META_KEY);
        kept.cloned().collect()
    });
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        kept,
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let mut decoded = metadata.into_builder();
    ParquetMetaDataBuilder::new(file)
        .set_row_groups(decoded.take_row_groups())
        .set_column_index(decoded.take_column_index())
        .set_offset_index(decoded.take_offset_index())
        .build()
}

/// The fields of a group by the names that the table has for them.
fn struct_fields(fields: &[TypePtr], columns: &Fields) -> Result<Vec<TypePtr>> {
    let has_ids = fields.iter().any(|field| file_id(field).is_some());
    let named = fields.iter().map(|field| {
        let is_meant = |column: &&FieldRef| match column_id(column) {
            Some(id) if has_ids => file_id(field) == Some(id),
            _ => field.name() == column.name(),
        };
        if let Some(column) = columns.iter().find(is_meant) {
            return renamed(field, column.name(), column.data_type());
        }
        // where a column of the table has its name, it must not be taken for that
        let mut name = field.name().to_owned();
        while columns.iter().any(|column| *column.name() == name) {
            name.push('#');
        }
        renamed(field, &name, &DataType::Null)
    });
    named.collect()
}

/// The field under another name, and what is in it under the names of `column`.
fn renamed(field: &TypePtr, name: &str, column: &DataType) -> Result<TypePtr> {
    let fields = match (field.as_ref(), column) {
        (Type::PrimitiveType { .. }, _) => vec![],
        (Type::GroupType { fields, .. }, DataType::Struct(columns)) => {
            struct_fields(fields, columns)?
        }
        (Type::GroupType { fields, .. }, DataType::List(element)) => {
            list_fields(fields, element.data_type())?
        }
        (Type::GroupType { fields, .. }, DataType::Map(entry, _)) => {
            map_fields(fields, entry.data_type())?
        }
        (Type::GroupType { fields, .. }, _) => fields.clone(),
    };
    rebuilt(field, name, fields)
}

/// Elements are told by their place: in a repeated group of their own, or, as older writers have it, repeated themselves.
fn list_fields(fields: &[TypePtr], element: &DataType) -> Result<Vec<TypePtr>> {
    let named = fields.iter().map(|repeated| match repeated.as_ref() {
        Type::GroupType { fields, .. }
            if fields.len() == 1
                && repeated.name() != "array"
                && !repeated.name().ends_with("_tuple") =>
        {
            let field = renamed(&fields[0], fields[0].name(), element)?;
            rebuilt(repeated, repeated.name(), vec![field])
        }
        _ => renamed(repeated, repeated.name(), element),
    });
    named.collect()
}

/// Keys and values are told by their place.
fn map_fields(fields: &[TypePtr], entry: &DataType) -> Result<Vec<TypePtr>> {
    let named = fields
        .iter()
        .map(|entries| match (entries.as_ref(), entry) {
            (Type::GroupType { fields, .. }, DataType::Struct(columns))
                if fields.len() <= columns.len() =>
            {
                let pairs = fields.iter().zip(columns.iter());
                let fields =
                    pairs.map(|(field, column)| renamed(field, field.name(), column.data_type()));
                rebuilt(entries, entries.name(), fields.collect::<Result<_>>()?)
            }
            _ => Ok(Arc::clone(entries)),
        });
    named.collect()
}

/// The field under another name and with other fields in it; the same one where nothing differs.
fn rebuilt(field: &TypePtr, name: &str, fields: Vec<TypePtr>) -> Result<TypePtr> {
    let basic = field.get_basic_info();
    let repetition = basic.has_repetition().then(|| basic.repetition());
    let logical = basic.logical_type_ref().cloned();
    let same_name = name == field.name();
    let rebuilt = match field.as_ref() {
        Type::GroupType { fields: before, .. } => {
            let mut pairs = before.iter().zip(&fields);
            if same_name && pairs.all(|(before, after)| Arc::ptr_eq(before, after)) {
                return Ok(Arc::clone(field));
            }
            let mut builder = Type::group_type_builder(name)
                .with_converted_type(basic.converted_type())
                .with_logical_type(logical)
                .with_id(file_id(field))
                .with_fields(fields);
            // the root has none
            if let Some(repetition) = repetition {
                builder = builder.with_repetition(repetition);
            }
            builder.build()?
        }
        Type::PrimitiveType { .. } if same_name => return Ok(Arc::clone(field)),
        Type::PrimitiveType {
            physical_type,
            type_length,
            precision,
            scale,
            ..
        } => Type::primitive_type_builder(name, *physical_type)
            .with_repetition(basic.repetition())
            .with_converted_type(basic.converted_type())
            .with_logical_type(logical)
            .with_length(*type_length)
            .with_precision(*precision)
            .with_scale(*scale)
            .with_id(file_id(field))
            .build()?,
    };
    Ok(Arc::new(rebuilt))
}

fn file_id(field: &Type) -> Option<i32> {
    let basic = field.get_basic_info();
    basic.has_id().then(|| basic.id())
}

fn column_id(column: &Field) -> Option<i32> {
    column
        .metadata()
        .get(PARQUET_FIELD_ID_META_KEY)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use parquet::schema::parser::parse_message_type;

    use super::*;

    fn column(name: &str, id: i32, data_type: DataType) -> FieldRef {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
        Arc::new(Field::new(name, data_type, true).with_metadata(id))
    }

    fn structure(columns: Vec<FieldRef>) -> DataType {
        DataType::Struct(columns.into())
    }

    /// The fields of a file before and after; nothing where they have the right names already.
    fn check(columns: &[FieldRef], file: &str, expected: Option<&str>) {
        let parse =
            |fields: &str| parse_message_type(&format!("message m {{ {fields} }}")).unwrap();
        let schema = SchemaDescriptor::new(Arc::new(parse(file)));
        let found = FieldIds::new(columns).renamed(&schema).unwrap();
        let found = found.map(|schema| schema.root_schema().clone());
        assert_eq!(found, expected.map(parse), "{file}");
    }

    #[test]
    fn columns_are_found_by_id() {
        let table = [
            column("a", 1, DataType::Int32),
            column("b", 2, DataType::Utf8),
        ];
        check(
            &table,
            "optional int32 a = 1; optional binary b (UTF8) = 2;",
            None,
        );
        check(&table, "optional int32 a; optional binary b (UTF8);", None);
        check(
            &table,
            "optional int32 a = 1; optional binary _change_type (UTF8);",
            None,
        );
        check(
            &table,
            "optional int32 x = 1; required binary y (UTF8) = 2;",
            Some("optional int32 a = 1; required binary b (UTF8) = 2;"),
        );
        // the names of other columns
        check(
            &table,
            "optional binary a (UTF8) = 2; optional int32 b = 1;",
            Some("optional binary b (UTF8) = 2; optional int32 a = 1;"),
        );
        check(
            &table,
            "optional int32 a = 7; optional int32 b; optional int64 c = 3;",
            Some("optional int32 a# = 7; optional int32 b#; optional int64 c = 3;"),
        );
        check(
            &table,
            "required fixed_len_byte_array(9) x (DECIMAL(20,2)) = 1;",
            Some("required fixed_len_byte_array(9) a (DECIMAL(20,2)) = 1;"),
        );
    }

    #[test]
    fn nested_fields_are_found_by_id() {
        let inner = structure(vec![column("x", 2, DataType::Int32)]);
        let element = |name: &str| Arc::new(Field::new(name, inner.clone(), true));
        let entry = structure(vec![
            Arc::new(Field::new("key", DataType::Int32, false)),
            element("value"),
        ]);
        let entries = Arc::new(Field::new("key_value", entry, false));
        let wrapped = |file: &str, outer: &str, field: &str| {
            file.replace("OUTER", outer).replace("FIELD", field)
        };
        let check_type = |data_type: DataType, file: &str| {
            let table = [column("a", 1, data_type)];
            let after = wrapped(file, "a", "x");
            check(&table, &after, None);
            check(&table, &wrapped(file, "a", "y"), Some(&after));
            check(&table, &wrapped(file, "b", "y"), Some(&after));
        };
        check_type(
            inner.clone(),
            "optional group OUTER = 1 { optional int32 FIELD = 2; }",
        );
        check_type(
            DataType::List(element("element")),
            "optional group OUTER (LIST) = 1 { repeated group list { optional group element { optional int32 FIELD = 2; } } }",
        );
        check_type(
            DataType::List(element("element")),
            "optional group OUTER (LIST) = 1 { repeated group array { optional int32 FIELD = 2; } }",
        );
        check_type(
            DataType::Map(entries, false),
            "optional group OUTER (MAP) = 1 { repeated group key_value { required int32 key; \
             optional group value { optional int32 FIELD = 2; } } }",
        );
    }
}
