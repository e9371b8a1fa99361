//! One key's changes, in order, and what is wrong with them.

use arrow::array::{Array, AsArray, Int8Array, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::{Int8Type, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::array_value_to_string;

use super::event::{EventLayout, Op};
use crate::error::{Error, Result};

/// The control columns of a batch of events.
pub(super) struct Events<'a> {
    pub layout: &'a EventLayout,
    pub batch: &'a RecordBatch,
    ops: &'a Int8Array,
    versions: &'a Int64Array,
    ordinals: &'a Int64Array,
    sequences: Rows,
    carried: Option<&'a ListArray>,
}

impl<'a> Events<'a> {
    /// Reads the control columns.
    pub(super) fn try_new(layout: &'a EventLayout, batch: &'a RecordBatch) -> Result<Self> {
        let sequence = batch.column(layout.sequence());
        let converter = RowConverter::new(vec![SortField::new(sequence.data_type().clone())])?;
        Ok(Self {
            layout,
            batch,
            ops: batch.column(layout.op()).as_primitive::<Int8Type>(),
            versions: batch.column(layout.version()).as_primitive::<Int64Type>(),
            ordinals: batch.column(layout.ordinal()).as_primitive::<Int64Type>(),
            sequences: converter.convert_columns(std::slice::from_ref(sequence))?,
            carried: layout
                .carried()
                .map(|index| batch.column(index).as_list::<i32>()),
        })
    }

    /// What a row does.
    pub(super) fn op(&self, row: usize) -> Op {
        Op::of(self.ops.value(row))
    }

    /// Whether a row says anything of a column.
    pub(super) fn carries(&self, row: usize, column: usize) -> bool {
        let Some(carried) = self.carried.filter(|carried| carried.is_valid(row)) else {
            return true;
        };
        let names = carried.value(row);
        let name = self.layout.columns[column].name().as_str();
        names
            .as_string::<i32>()
            .iter()
            .any(|carried| carried == Some(name))
    }

    /// Makes sure that no two of `changes`, in order of sequence, differ and have the same one.
    ///
    /// # Errors
    /// For the first such pair, where the source calls them an error.
    pub(super) fn check_ties(&self, changes: &[usize]) -> Result<()> {
        if !self.layout.refuses_ties {
            return Ok(());
        }
        for pair in changes.windows(2) {
            let (left, right) = (pair[0], pair[1]);
            let known = self.op(left).is_remembered() || self.op(right).is_remembered();
            if !known && self.sequence(left) == self.sequence(right) {
                self.check_same(left, right)?;
            }
        }
        Ok(())
    }

    /// What orders a row; later ones are greater.
    pub(super) fn sequence(&self, row: usize) -> arrow::row::Row<'_> {
        self.sequences.row(row)
    }

    /// The changes among `rows`, which belong to one key and are sorted by version and ordinal: the row before an update is left
    /// out unless the update has given the row another key.
    ///
    /// # Errors
    /// When the key or a sequence is NULL, or two changes that differ have the same place in the order.
    pub(super) fn of_key(&self, rows: std::ops::Range<usize>) -> Result<Vec<usize>> {
        let mut changes: Vec<usize> = Vec::with_capacity(rows.len());
        self.check_key(rows.start)?;
        for row in rows.clone() {
            if self.op(row) == Op::Preimage && self.has_postimage(row, rows.end) {
                continue;
            }
            self.check_row(row)?;
            if let Some(before) = changes.last().copied()
                && self.same_place(before, row)
            {
                self.check_same(before, row)?;
            }
            changes.push(row);
        }
        Ok(changes)
    }

    fn has_postimage(&self, row: usize, end: usize) -> bool {
        let version = self.versions.value(row);
        (row + 1..end)
            .take_while(|next| self.versions.value(*next) == version)
            .any(|next| {
                matches!(
                    self.op(next),
                    Op::Upsert | Op::Delete | Op::Unknown | Op::Late
                )
            })
    }

    fn same_place(&self, left: usize, right: usize) -> bool {
        let kept = |row| self.op(row).is_remembered() || self.op(row) == Op::Existing;
        !kept(left)
            && !kept(right)
            && self.versions.value(left) == self.versions.value(right)
            && self.ordinals.value(left) == self.ordinals.value(right)
            && self.sequence(left) == self.sequence(right)
    }

    fn check_key(&self, row: usize) -> Result<()> {
        if !self.layout.checked {
            return Ok(());
        }
        let null = |index: &&usize| self.batch.column(**index).is_null(row);
        match self.layout.keys.iter().find(null) {
            None => Ok(()),
            Some(index) => Err(Error::invalid(format!(
                "NULL_KEY: the key column {:?} is NULL in the row ({}); a row without a key can be neither matched nor followed, correct it in \
                 the source and begin anew (DROP SYNC), or leave it out with FROM (SELECT … WHERE {} IS NOT NULL)",
                self.layout.columns[*index].name(),
                self.describe(row),
                self.layout.columns[*index].name(),
            ))),
        }
    }

    fn check_row(&self, row: usize) -> Result<()> {
        if !self.layout.checked || self.op(row) == Op::Existing {
            return Ok(());
        }
        if self.op(row) == Op::Unknown {
            return Err(Error::invalid(format!(
                "UNKNOWN_CHANGE_TYPE: _change_type of the row ({}) is none of insert, update_preimage, update_postimage, delete and upsert; \
                 return one of them, or leave the column out and say with APPLY AS DELETE WHEN which rows are deletes",
                self.describe(row)
            )));
        }
        if self.batch.column(self.layout.sequence()).is_valid(row) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "NULL_SEQUENCE: SEQUENCE BY is NULL in the row ({}), so nobody knows whether it is late; give every change a sequence, or correct the source and begin anew (DROP SYNC)",
            self.describe(row)
        )))
    }

    /// Two changes at the same place must be the same: deletes are, whatever images they carry.
    fn check_same(&self, left: usize, right: usize) -> Result<()> {
        if !self.layout.checked {
            return Ok(());
        }
        let same = match (self.op(left), self.op(right)) {
            (Op::Upsert, Op::Upsert) => self.same_values(left, right),
            (left, right) => left == right || [left, right] == [Op::Preimage, Op::Delete],
        };
        if same {
            return Ok(());
        }
        let word = |row| {
            if self.op(row) == Op::Upsert {
                ""
            } else {
                "delete "
            }
        };
        Err(Error::invalid(format!(
            "AMBIGUOUS_CHANGES: two different changes of one key have the same place in the order: {}({}) and {}({}); \
             order them with a SEQUENCE BY that tells them apart, {}or correct the source and begin anew (DROP SYNC)",
            word(left),
            self.describe(left),
            word(right),
            self.describe(right),
            if self.layout.refuses_ties {
                "let the later one count with the option on_tie 'last', "
            } else {
                ""
            }
        )))
    }

    fn same_values(&self, left: usize, right: usize) -> bool {
        (0..self.layout.width()).all(|index| {
            let column = self.batch.column(index);
            column.slice(left, 1).to_data() == column.slice(right, 1).to_data()
        })
    }

    /// The row as text, at a length that a message can have.
    fn describe(&self, row: usize) -> String {
        const SHOWN: usize = 8;
        let value = |index: usize| {
            let text = array_value_to_string(self.batch.column(index), row).unwrap_or_default();
            let text = if self.batch.column(index).is_null(row) {
                "NULL".into()
            } else {
                text
            };
            format!("{}: {text}", self.layout.columns[index].name())
        };
        let keys_first = self.layout.keys.iter().copied();
        let others = (0..self.layout.width()).filter(|index| !self.layout.keys.contains(index));
        let mut shown: Vec<String> = keys_first.chain(others).take(SHOWN).map(value).collect();
        if self.layout.width() > SHOWN {
            shown.push("…".into());
        }
        shown.join(", ")
    }
}
