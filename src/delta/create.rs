//! What a new table says of itself: schema, protocol, properties; and how those change later.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use chrono::Utc;
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::StructType;
use uuid::Uuid;

use super::actions::{Format, Metadata, Protocol};
use super::data_file::WriteTarget;
use super::features::protocol_for;
use super::layout::TableLayout;
use super::properties::{
    CONSTRAINT_PREFIX, ENABLE_CHANGE_DATA_FEED, ENABLE_DELETION_VECTORS, PRIMARY_KEY,
    TARGET_FILE_SIZE, TableProperties,
};
use super::row_tracking::name_columns;
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use crate::change::refuse_reserved_columns;
use crate::error::{Error, Result};

/// A table as it is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableDefinition {
    /// Columns in order, in Arrow types; [`delta_field`] makes them Delta's.
    pub columns: Vec<FieldRef>,
    pub partition_columns: Vec<String>,
    pub primary_key: Vec<String>,
    pub properties: HashMap<String, String>,
    pub comment: Option<String>,
}

impl TableDefinition {
    /// A table with the columns, partitioning, key and properties of this one. Properties that describe the table's own files or
    /// history stay behind, and so does `delta.appendOnly`.
    pub(crate) fn copy_of(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.metadata();
        let layout = snapshot.layout();
        let properties = metadata.configuration.iter();
        Self {
            columns: layout.schema().fields().iter().cloned().collect(),
            partition_columns: metadata.partition_columns.clone(),
            primary_key: snapshot.properties().primary_key.clone(),
            properties: properties
                .filter(|(key, _)| is_inherited(key))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            comment: metadata.description.clone(),
        }
    }

    /// The `metaData` and `protocol` actions of the table. Change feed and deletion vectors are on unless set
    /// otherwise, the feed only where no column has a name of its own columns.
    ///
    /// # Errors
    /// When there is no column, a name is used twice, a key or partition column does not exist, or a type is not Delta's.
    pub(crate) fn actions(&self, table: &str, id: Option<String>) -> Result<(Metadata, Protocol)> {
        self.check(table)?;
        let columns = self
            .columns
            .iter()
            .map(|field| delta_field(table, field))
            .collect::<Result<Vec<_>>>()?;
        let columns = columns.into_iter().map(|field| {
            if self.primary_key.contains(field.name()) {
                not_null(field)
            } else {
                field
            }
        });
        let schema = Schema::new(columns.collect::<Vec<_>>());
        let kernel: StructType = (&schema).try_into_kernel()?;
        let mut configuration = self.properties.clone();
        // a table with the columns of a change relation, such as a copy of one, can have no feed of its own
        let feed = refuse_reserved_columns(table, &schema).is_ok();
        for (key, value) in [
            (ENABLE_CHANGE_DATA_FEED, feed),
            (ENABLE_DELETION_VECTORS, true),
        ] {
            configuration
                .entry(key.into())
                .or_insert_with(|| value.to_string());
        }
        if !self.primary_key.is_empty() {
            configuration.insert(
                PRIMARY_KEY.into(),
                serde_json::to_string(&self.primary_key)?,
            );
        }
        name_columns(&mut configuration);
        let metadata = Metadata {
            id: id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            name: None,
            description: self.comment.clone(),
            format: Format {
                provider: "parquet".into(),
                options: HashMap::new(),
            },
            schema_string: serde_json::to_string(&kernel)?,
            partition_columns: self.partition_columns.clone(),
            configuration,
            created_time: Some(Utc::now().timestamp_millis()),
        };
        let protocol = protocol_for(&kernel, &metadata);
        Ok((metadata, protocol))
    }

    fn check(&self, table: &str) -> Result<()> {
        if self.columns.is_empty() {
            return Err(Error::invalid(format!(
                "table {table} has no columns; name at least one, as in CREATE TABLE {table} (id BIGINT)"
            )));
        }
        if self
            .properties
            .get(ENABLE_CHANGE_DATA_FEED)
            .is_some_and(|value| value == "true")
        {
            refuse_reserved_columns(table, &Schema::new(self.columns.clone()))?;
        }
        let mut seen = HashMap::new();
        for field in &self.columns {
            if let Some(other) = seen.insert(field.name().to_lowercase(), field.name()) {
                return Err(Error::invalid(format!(
                    "table {table} has the column {:?} twice ({other:?}); Delta's column names do not differ by case",
                    field.name()
                )));
            }
        }
        for name in self.partition_columns.iter().chain(&self.primary_key) {
            if !self.columns.iter().any(|field| field.name() == name) {
                let names: Vec<&str> = self
                    .columns
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                return Err(Error::invalid(format!(
                    "table {table} has no column {name:?}; its columns are {}",
                    names.join(", ")
                )));
            }
        }
        for (index, name) in self.partition_columns.iter().enumerate() {
            if self.partition_columns[..index].contains(name) {
                return Err(Error::invalid(format!(
                    "table {table} is partitioned by {name:?} twice"
                )));
            }
            let nested = |field: &&FieldRef| field.name() == name && field.data_type().is_nested();
            if let Some(field) = self.columns.iter().find(nested) {
                return Err(Error::invalid(format!(
                    "table {table} cannot be partitioned by {name:?}, which is {}; use a column of a plain type",
                    field.data_type()
                )));
            }
        }
        if self.partition_columns.len() == self.columns.len() {
            return Err(Error::invalid(format!(
                "table {table} is partitioned by all of its columns; leave at least one for the files"
            )));
        }
        Ok(())
    }
}

/// What a writer needs of a table that a commit is only about to make.
pub(crate) fn write_target(
    table: &DeltaTable,
    metadata: &Metadata,
    protocol: &Protocol,
) -> Result<WriteTarget> {
    let layout = Arc::new(TableLayout::try_new(table.name(), metadata)?);
    Ok(WriteTarget {
        table: table.clone(),
        layout,
        properties: TableProperties::new(metadata, protocol),
    })
}

/// The field in the type that Delta keeps it in, nested fields included.
///
/// # Errors
/// For a type that Delta has no counterpart for, naming the column and a type to cast to.
pub(crate) fn delta_field(table: &str, field: &FieldRef) -> Result<FieldRef> {
    let data_type = delta_type(field.data_type()).map_err(|hint| {
        Error::invalid(format!(
            "column {:?} of {table} has the type {}, which Delta has not; {hint}",
            field.name(),
            field.data_type()
        ))
    })?;
    Ok(Arc::new(Field::new(
        field.name(),
        data_type,
        field.is_nullable(),
    )))
}

fn delta_type(data_type: &DataType) -> Result<DataType, &'static str> {
    let nested = |field: &FieldRef| {
        Ok::<_, &'static str>(Arc::new(Field::new(
            field.name(),
            delta_type(field.data_type())?,
            field.is_nullable(),
        )))
    };
    Ok(match data_type {
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => delta_type(values)?,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::FixedSizeList(field, _) => DataType::List(nested(field)?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(nested).collect::<Result<_, _>>()?)
        }
        DataType::Map(entries, sorted) => DataType::Map(nested(entries)?, *sorted),
        DataType::Null => return Err("CAST the NULL to a type"),
        DataType::Decimal256(..) => return Err("CAST it to DECIMAL with at most 38 digits"),
        DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Interval(_)
        | DataType::Duration(_) => return Err("CAST it to STRING"),
        other if is_delta_type(other) => other.clone(),
        _ => return Err("CAST it to STRING"),
    })
}

fn is_delta_type(data_type: &DataType) -> bool {
    use DataType::{
        Binary, Boolean, Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Utf8,
    };
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | Float32
            | Float64
            | Decimal128(..)
            | Utf8
            | Binary
            | Date32
    )
}

/// Whether a copy of a table has this property, too.
fn is_inherited(key: &str) -> bool {
    const OF_DELTA: [&str; 9] = [
        ENABLE_CHANGE_DATA_FEED,
        ENABLE_DELETION_VECTORS,
        "delta.checkpointInterval",
        TARGET_FILE_SIZE,
        "delta.dataSkippingNumIndexedCols",
        "delta.logRetentionDuration",
        "delta.deletedFileRetentionDuration",
        "delta.enableInCommitTimestamps",
        "delta.dataSkippingStatsColumns",
    ];
    let own = key.starts_with("delta.") || key.starts_with("alluvial.");
    !own || OF_DELTA.contains(&key) || key.starts_with(CONSTRAINT_PREFIX)
}

fn not_null(field: FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(columns: &[(&str, DataType)]) -> TableDefinition {
        TableDefinition {
            columns: columns
                .iter()
                .map(|(name, data_type)| Arc::new(Field::new(*name, data_type.clone(), true)))
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn rows_with_ids_need_their_features_and_columns() {
        let mut table = definition(&[("id", DataType::Int64)]);
        let on = ("delta.enableRowTracking".to_owned(), "true".to_owned());
        table.properties.extend([on]);
        let (metadata, protocol) = table.actions("t", None).unwrap();
        let features = protocol.writer_features.clone().unwrap();
        for feature in ["domainMetadata", "rowTracking"] {
            assert!(features.contains(&feature.to_owned()), "{features:?}");
        }
        let properties = TableProperties::new(&metadata, &protocol);
        assert!(properties.assigns_row_ids && properties.row_tracking.is_some());
    }

    fn refused(definition: &TableDefinition, part: &str) {
        let error = definition.actions("t", None).unwrap_err().to_string();
        assert!(error.contains(part), "{error} lacks {part:?}");
    }

    #[test]
    fn a_table_lists_exactly_the_features_it_uses() {
        let (_, protocol) = definition(&[("id", DataType::UInt32)])
            .actions("t", None)
            .unwrap();
        assert_eq!(
            (protocol.min_reader_version, protocol.min_writer_version),
            (3, 7)
        );
        assert_eq!(protocol.reader_features.unwrap(), ["deletionVectors"]);
        assert_eq!(
            protocol.writer_features.unwrap(),
            [
                "appendOnly",
                "invariants",
                "deletionVectors",
                "changeDataFeed"
            ]
        );
    }

    #[test]
    fn bad_definitions_are_refused() {
        refused(&definition(&[]), "has no columns");
        refused(
            &definition(&[("a", DataType::Int32), ("A", DataType::Int32)]),
            "twice",
        );
        refused(&definition(&[("a", DataType::Null)]), "CAST the NULL");
        refused(
            &TableDefinition {
                partition_columns: vec!["b".into()],
                ..definition(&[("a", DataType::Int32)])
            },
            "no column \"b\"",
        );
        refused(
            &TableDefinition {
                partition_columns: vec!["a".into()],
                ..definition(&[("a", DataType::Int32)])
            },
            "all of its columns",
        );
    }
}
