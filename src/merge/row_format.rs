//! The columns in which row changes travel from the plan to [`super::write_exec`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, lit};

/// What is to be done with a row.
pub(crate) const ACTION: &str = "__alluvial_action";
/// Which file of the scan the row is in (UInt32); NULL for a row that is not in the table.
pub(crate) const FILE: &str = "__alluvial_file";
/// The row's position in its file (Int64).
pub(crate) const ROW: &str = "__alluvial_row";

/// The row's id (Int64), where the table keeps them; NULL for a row that is not in the table.
pub(crate) const ROW_ID: &str = "__alluvial_row_id";

/// What is to be done with a row (Int8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum RowAction {
    /// Matched, but left as it is: only counted, to find rows matched twice.
    Keep = 0,
    /// New values are a new row.
    Insert = 1,
    /// The row is marked, new values take its place.
    Update = 2,
    /// The row is marked.
    Delete = 3,
    /// As [`Self::Update`], of a row that no row of the source matches.
    UpdateBySource = 4,
    /// As [`Self::Delete`], of a row that no row of the source matches.
    DeleteBySource = 5,
}

impl RowAction {
    /// Those that write a row.
    pub(crate) const WRITING: [Self; 3] = [Self::Insert, Self::Update, Self::UpdateBySource];
    /// Those that take a row away from where it is.
    pub(crate) const MARKING: [Self; 4] = [
        Self::Update,
        Self::Delete,
        Self::UpdateBySource,
        Self::DeleteBySource,
    ];

    /// The action as it stands in a plan.
    pub(crate) fn literal(self) -> Expr {
        lit(ScalarValue::Int8(Some(self as i8)))
    }
}

/// Which groups of columns follow action, file and row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowFormat {
    /// Nothing but the table's columns: every row is inserted.
    Inserts,
    /// Control columns, the row's id, new values, old values: the last three where the flags say so.
    Actions {
        row_ids: bool,
        new_values: bool,
        old_values: bool,
    },
}

impl RowFormat {
    /// How many columns stand before the first value.
    pub(crate) fn control_columns(self) -> usize {
        match self {
            Self::Inserts => 0,
            Self::Actions { row_ids, .. } => 3 + usize::from(row_ids),
        }
    }

    /// Whether the rows carry their ids, which stand last among the control columns.
    pub(crate) fn has_row_ids(self) -> bool {
        matches!(self, Self::Actions { row_ids: true, .. })
    }

    /// Whether the rows carry values to be written.
    pub(crate) fn has_new_values(self) -> bool {
        matches!(
            self,
            Self::Inserts
                | Self::Actions {
                    new_values: true,
                    ..
                }
        )
    }

    /// Whether the rows carry the values that the table has now.
    pub(crate) fn has_old_values(self) -> bool {
        matches!(
            self,
            Self::Actions {
                old_values: true,
                ..
            }
        )
    }
}

/// The constant column with a file's ordinal in its scan.
pub(crate) fn file_field() -> FieldRef {
    Arc::new(Field::new(FILE, DataType::UInt32, false))
}

/// Name of the column with the new value of the column at `index`; positions, since names may be anything.
pub(crate) fn new_name(index: usize) -> String {
    format!("__alluvial_new_{index}")
}

/// Name of the column with the present value of the column at `index`.
pub(crate) fn old_name(index: usize) -> String {
    format!("__alluvial_old_{index}")
}

/// The rows that [`super::write_exec`] emits: what became of its input, one row per file written or marked.
pub(crate) fn action_rows() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("kind", DataType::Utf8, false),
        Field::new("file", DataType::UInt32, true),
        Field::new("payload", DataType::Binary, false),
    ]))
}
