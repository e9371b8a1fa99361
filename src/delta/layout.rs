//! How a table's columns are named and where they lie: logical and physical schema, partition columns, column mapping.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::StructType;
use delta_kernel::table_features::ColumnMappingMode;

use super::actions::Metadata;
use super::computed::{Computed, computed_columns};
use crate::error::{Error, Result};

/// The columns of one version of a table.
///
/// `physical[i]` is the column of the files that holds `logical.field(i)`; they differ in names only where column mapping
/// is on (*Column Mapping*). Partition columns are in both, but not in the files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableLayout {
    logical: SchemaRef,
    physical: Vec<FieldRef>,
    partition_columns: Vec<usize>,
    mapping: ColumnMappingMode,
    computed: Vec<(usize, Computed)>,
    kernel: Arc<StructType>,
}

impl TableLayout {
    /// Reads the layout out of a `metaData` action.
    ///
    /// # Errors
    /// [`Error::DamagedLog`] when the schema string is not a schema or a partition column is missing from it.
    pub(crate) fn try_new(table: &str, metadata: &Metadata) -> Result<Self> {
        let damaged = |detail: String| Error::DamagedLog {
            table: table.into(),
            detail,
        };
        let kernel: StructType = serde_json::from_str(&metadata.schema_string)
            .map_err(|error| damaged(format!("schemaString: {error}")))?;
        let mapping = mapping_mode(&metadata.configuration);
        let logical: Schema = (&kernel).try_into_arrow()?;
        let physical: Schema = (&kernel.make_physical(mapping)?).try_into_arrow()?;
        let partition_columns = metadata.partition_columns.iter().map(|name| {
            logical.index_of(name).map_err(|_| {
                damaged(format!(
                    "the partition column {name:?} is not in the schema"
                ))
            })
        });
        Ok(Self {
            partition_columns: partition_columns.collect::<Result<_>>()?,
            logical: Arc::new(Schema::new(
                logical
                    .fields()
                    .iter()
                    .map(|field| plain(field, false))
                    .collect::<Vec<_>>(),
            )),
            physical: physical
                .fields()
                .iter()
                .map(|field| plain(field, true))
                .collect(),
            mapping,
            computed: computed_columns(&kernel),
            kernel: Arc::new(kernel),
        })
    }

    /// The schema as users see it, without Delta's field metadata.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.logical
    }

    /// The schema as the log has it, with Delta's field metadata.
    pub(crate) fn kernel_schema(&self) -> &Arc<StructType> {
        &self.kernel
    }

    /// The columns that writers compute, by position, and how.
    pub(crate) fn computed(&self) -> &[(usize, Computed)] {
        &self.computed
    }

    /// Whether the column at `index` is computed anew when a row is updated that does not assign it.
    pub(crate) fn is_recomputed(&self, index: usize) -> bool {
        let mut computed = self.computed.iter();
        computed.any(|(column, how)| *column == index && how.is_recomputed())
    }

    /// The physical field of every logical column, in order; nested names are physical, too.
    pub(crate) fn physical(&self) -> &[FieldRef] {
        &self.physical
    }

    /// Indices of the partition columns, in the order in which the table is partitioned.
    pub(crate) fn partition_columns(&self) -> &[usize] {
        &self.partition_columns
    }

    /// Whether the column at `index` is a partition column.
    pub(crate) fn is_partition(&self, index: usize) -> bool {
        self.partition_columns.contains(&index)
    }

    /// Indices of the columns that stand in the data files.
    pub(crate) fn data_columns(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.physical.len()).filter(|index| !self.is_partition(*index))
    }

    /// Whether columns of files are found by their ids rather than by their names (*Column Mapping*).
    pub(crate) fn is_mapped_by_id(&self) -> bool {
        self.mapping == ColumnMappingMode::Id
    }

    /// Whether files name their columns otherwise than the table does.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapping != ColumnMappingMode::None
    }

    /// The physical name of the logical column at `index`.
    pub(crate) fn physical_name(&self, index: usize) -> &str {
        self.physical[index].name()
    }
}

fn mapping_mode(configuration: &HashMap<String, String>) -> ColumnMappingMode {
    match configuration
        .get("delta.columnMapping.mode")
        .map(String::as_str)
    {
        Some("name") => ColumnMappingMode::Name,
        Some("id") => ColumnMappingMode::Id,
        _ => ColumnMappingMode::None,
    }
}

/// The field without metadata, at every level; `ids` keeps the Parquet field ids that column mapping writes.
fn plain(field: &FieldRef, ids: bool) -> FieldRef {
    const FIELD_ID: &str = "PARQUET:field_id";
    let kept = field
        .metadata()
        .get(FIELD_ID)
        .filter(|_| ids)
        .map(|id| HashMap::from([(FIELD_ID.to_owned(), id.clone())]));
    let data_type = plain_type(field.data_type(), ids);
    Arc::new(
        Field::new(field.name(), data_type, field.is_nullable())
            .with_metadata(kept.unwrap_or_default()),
    )
}

fn plain_type(data_type: &DataType, ids: bool) -> DataType {
    match data_type {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain(field, ids)).collect())
        }
        DataType::List(field) => DataType::List(plain(field, ids)),
        DataType::Map(entries, sorted) => DataType::Map(plain(entries, ids), *sorted),
        other => other.clone(),
    }
}
