//! The columns in which changes travel from a source to a target: the target's own, then what is known of each change.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, lit};

/// What the change does (Int8, an [`Op`]).
pub(super) const OP: &str = "__alluvial_op";
/// What orders the changes of a key.
pub(super) const SEQUENCE: &str = "__alluvial_sequence";
/// Up to where a row of a history is valid.
pub(super) const END: &str = "__alluvial_end";
/// The source's version that made the change (Int64).
pub(super) const VERSION: &str = "__alluvial_version";
/// The order within that version (Int64).
pub(super) const ORDINAL: &str = "__alluvial_ordinal";

/// Which of the source's columns the change carries, where it does not carry all (List of Utf8; NULL for all). It stands only
/// where there are such changes, and in what is made of events as [`LACKING`].
pub(super) const CARRIED: &str = "__alluvial_carried";
/// Of which columns a resolved change says nothing (List of Utf8; NULL for none).
pub(super) const LACKING: &str = "__alluvial_lacking";

/// What a change does to the row of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(super) enum Op {
    /// Writes it.
    Upsert = 0,
    /// Removes it.
    Delete = 1,
    /// Writes it anew: nothing of what was there before counts.
    Replace = 2,
    /// A sequence that the target remembers of an earlier run: what is older is late.
    Remembered = 3,
    /// A row of the target's history.
    Existing = 4,
    /// The row before an update: a delete, if the update has given the row another key.
    Preimage = 5,
    /// The sequence of a write that the target remembers of an earlier run.
    RememberedWrite = 6,
    /// A change of a kind that there is not.
    Unknown = 7,
    /// A change that is older than a TRUNCATE.
    Late = 8,
}

impl Op {
    /// Reads it back.
    pub(super) fn of(value: i8) -> Self {
        match value {
            1 => Self::Delete,
            2 => Self::Replace,
            3 => Self::Remembered,
            4 => Self::Existing,
            5 => Self::Preimage,
            6 => Self::RememberedWrite,
            7 => Self::Unknown,
            8 => Self::Late,
            _ => Self::Upsert,
        }
    }

    /// Whether it is of an earlier run.
    pub(super) fn is_remembered(self) -> bool {
        matches!(self, Self::Remembered | Self::RememberedWrite)
    }

    /// As it stands in a plan.
    pub(super) fn literal(self) -> Expr {
        lit(ScalarValue::Int8(Some(self as i8)))
    }
}

/// Where things are in a row of events, and which columns matter to whom.
#[derive(Debug, Clone)]
pub(super) struct EventLayout {
    /// The target's columns that the sync writes, in the target's types.
    pub columns: Vec<FieldRef>,
    /// Which of them are the key.
    pub keys: Vec<usize>,
    /// Which of them keep their value where a change has NULL.
    pub ignore_null: Vec<bool>,
    /// Which of them some change may not carry: absent is not NULL.
    pub may_lack: Vec<bool>,
    /// Which of them begin a new row of a history.
    pub tracked: Vec<bool>,
    /// Whether events that cannot be applied are errors; otherwise somebody else finds them.
    pub checked: bool,
    /// Whether two changes of a key that differ may not have the same sequence, wherever they come from.
    pub refuses_ties: bool,
    /// The type of [`SEQUENCE`] and [`END`].
    pub sequence: DataType,
}

impl EventLayout {
    /// How many columns stand before the first control column.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// Position of [`OP`].
    pub(super) fn op(&self) -> usize {
        self.width()
    }

    /// Position of [`SEQUENCE`].
    pub(super) fn sequence(&self) -> usize {
        self.width() + 1
    }

    /// Position of [`END`].
    pub(super) fn end(&self) -> usize {
        self.width() + 2
    }

    /// Position of [`VERSION`].
    pub(super) fn version(&self) -> usize {
        self.width() + 3
    }

    /// Position of [`ORDINAL`].
    pub(super) fn ordinal(&self) -> usize {
        self.width() + 4
    }

    /// Position of [`CARRIED`], where it stands.
    pub(super) fn carried(&self) -> Option<usize> {
        self.may_lack.contains(&true).then(|| self.width() + 5)
    }

    /// [`CARRIED`] of events that carry all columns, where it stands.
    pub(super) fn carries_all(&self) -> datafusion::error::Result<Option<Expr>> {
        let null = ScalarValue::try_from(&Self::names_type())?;
        Ok(self.carried().map(|_| lit(null).alias(CARRIED)))
    }

    /// The type of [`CARRIED`] and [`LACKING`].
    pub(super) fn names_type() -> DataType {
        DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
    }

    /// The names of the key's columns.
    pub(super) fn key_names(&self) -> Vec<&str> {
        self.keys
            .iter()
            .map(|index| self.columns[*index].name().as_str())
            .collect()
    }

    /// The schema of what an operator makes of events: the columns, the op, then `more`, then [`LACKING`] where it may be.
    pub(super) fn output(&self, more: Vec<Field>) -> Arc<Schema> {
        let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
        let mut fields: Vec<Field> = self.columns.iter().map(nullable).collect();
        fields.push(Field::new(OP, DataType::Int8, false));
        fields.extend(more);
        if self.carried().is_some() {
            fields.push(Field::new(LACKING, Self::names_type(), true));
        }
        Arc::new(Schema::new(fields))
    }
}
