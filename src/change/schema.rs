//! The columns that every change relation has beside those of its source.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Result};

/// Name of the column that says what happened to the row.
pub const CHANGE_TYPE: &str = "_change_type";
/// Name of the column with the version in which it happened.
pub const COMMIT_VERSION: &str = "_commit_version";
/// Name of the column with the time of that version.
pub const COMMIT_TIMESTAMP: &str = "_commit_timestamp";

/// Name of the column with the order of a change within its version, under `metadata => 'full'`.
pub const CHANGE_ORDINAL: &str = "_change_ordinal";
/// Name of the column with the columns that a change carries, under `metadata => 'full'`; NULL where it carries all, or where
/// nobody knows.
pub const CHANGED_COLUMNS: &str = "_changed_columns";

/// Name of the column with what the writer of a change has said of its origin, under `metadata => 'full'`.
pub const CHANGE_CONTEXT: &str = "_change_context";

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeType {
    /// The row is new.
    Insert,
    /// The row as it was before an update.
    UpdatePreimage,
    /// The row as an update left it.
    UpdatePostimage,
    /// The row is gone.
    Delete,
    /// The row is new or updated; the source cannot tell.
    Upsert,
}

impl ChangeType {
    /// The value that stands in `_change_type` (Delta protocol, *Change Data Files*; `upsert` is ours).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::UpdatePreimage => "update_preimage",
            Self::UpdatePostimage => "update_postimage",
            Self::Delete => "delete",
            Self::Upsert => "upsert",
        }
    }
}

impl std::fmt::Display for ChangeType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The three columns that follow the source's own: type, version, timestamp (microseconds, UTC; NULL where the source has none).
pub fn change_columns() -> Vec<FieldRef> {
    vec![
        Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)),
        Arc::new(Field::new(COMMIT_VERSION, DataType::Int64, false)),
        Arc::new(Field::new(
            COMMIT_TIMESTAMP,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        )),
    ]
}

/// The columns that `metadata => 'full'` adds, in order.
pub fn metadata_columns() -> Vec<FieldRef> {
    let text_list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    [
        (CHANGE_ORDINAL, DataType::Int64),
        ("_commit_token", DataType::Utf8),
        ("_row_id", DataType::Utf8),
        ("_key_only", DataType::Boolean),
        (CHANGED_COLUMNS, text_list),
        ("_created_version", DataType::Int64),
        (CHANGE_CONTEXT, DataType::Binary),
    ]
    .into_iter()
    .map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)))
    .collect()
}

/// The schema of a change relation over a source with `schema`; every source column is nullable in it.
///
/// # Errors
/// If the source has a column with one of the reserved names.
pub fn change_schema(table: &str, schema: &Schema) -> Result<SchemaRef> {
    refuse_reserved_columns(table, schema)?;
    let columns = schema
        .fields()
        .iter()
        .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    Ok(Arc::new(Schema::new(
        columns.chain(change_columns()).collect::<Vec<_>>(),
    )))
}

/// Refuses a source whose own columns would be mistaken for ours.
///
/// # Errors
/// [`Error::Invalid`], naming the column.
pub fn refuse_reserved_columns(table: &str, schema: &Schema) -> Result<()> {
    let reserved = change_columns().into_iter().chain(metadata_columns());
    for ours in reserved {
        if schema
            .fields()
            .iter()
            .any(|field| field.name().eq_ignore_ascii_case(ours.name()))
        {
            return Err(Error::invalid(format!(
                "{table} has a column {:?}, a name that change reads need for themselves; rename the column or read through a view without it",
                ours.name()
            )));
        }
    }
    Ok(())
}
