//! The latest change of each key.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int8Array, ListBuilder, RecordBatch, StringBuilder, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::SchemaRef;

use super::event::{EventLayout, Op};
use super::events::Events;
use super::key_groups::Groups;
use super::resolve_exec::Resolved;
use crate::error::{Error, Result};

/// One row per key that has a change or is remembered: the change that comes last by sequence, then version and ordinal.
pub(super) fn resolve(
    layout: &EventLayout,
    groups: &Groups,
    schema: &SchemaRef,
) -> Result<Resolved> {
    let events = Events::try_new(layout, &groups.batch)?;
    let mut winners = Winners::new(layout);
    let mut changed_keys = 0;
    for bounds in groups.bounds.windows(2) {
        let mut changes = events.of_key(bounds[0]..bounds[1])?;
        let is_change = |row: &usize| !events.op(*row).is_remembered();
        changed_keys += usize::from(changes.iter().any(is_change));
        // stable: changes of the same sequence stay in the order of versions
        changes.sort_by(|left, right| events.sequence(*left).cmp(&events.sequence(*right)));
        events.check_ties(&changes)?;
        winners.add(&events, &changes)?;
    }
    let is_delete = |op: &&i8| Op::of(**op) == Op::Delete;
    let deleted_keys = winners.ops.iter().filter(is_delete).count();
    Ok(Resolved {
        deleted_keys,
        batch: winners.take(&groups.batch, schema)?,
        counted_keys: changed_keys,
    })
}

/// The rows to take, column by column: where NULL does not count, a value may come from an earlier change.
struct Winners<'a> {
    layout: &'a EventLayout,
    ops: Vec<i8>,
    rows: Vec<u32>,
    /// For each column of which a change may say nothing, as NULL does where it does not count, the row of its value.
    filled: Vec<Option<Vec<u32>>>,
    /// For each winner, the columns of which no change says anything.
    lacking: Option<Vec<Vec<usize>>>,
}

impl<'a> Winners<'a> {
    fn new(layout: &'a EventLayout) -> Self {
        let silent = layout.ignore_null.iter().zip(&layout.may_lack);
        let filled = silent.map(|(ignores, lacks)| (*ignores || *lacks).then(Vec::new));
        Self {
            layout,
            ops: vec![],
            rows: vec![],
            filled: filled.collect(),
            lacking: layout.carried().map(|_| Vec::new()),
        }
    }

    /// Adds the last of `changes`, which are in order.
    fn add(&mut self, events: &Events<'_>, changes: &[usize]) -> Result<()> {
        let Some((winner, before)) = changes.split_last() else {
            return Ok(());
        };
        // since when the row that the winner writes has been there
        let removed = before
            .iter()
            .rposition(|row| matches!(events.op(*row), Op::Delete | Op::Preimage | Op::Remembered));
        let op = match (events.op(*winner), removed) {
            (Op::Preimage | Op::Delete, _) => Op::Delete,
            (Op::Upsert, Some(_)) => Op::Replace,
            (op, _) => op,
        };
        let since = &before[removed.map_or(0, |index| index + 1)..];
        self.ops.push(op as i8);
        self.rows.push(index(*winner)?);
        let mut lacking = Vec::new();
        for (column, filled) in self.filled.iter_mut().enumerate() {
            if let Some(filled) = filled {
                let values = events.batch.column(column);
                let ignores = self.layout.ignore_null[column];
                let says =
                    |row: usize| events.carries(row, column) && (values.is_valid(row) || !ignores);
                let writes = |row: usize| matches!(events.op(row), Op::Upsert | Op::Existing);
                let given = |row: &&usize| writes(**row) && says(**row);
                let found = if says(*winner) {
                    Some(winner)
                } else {
                    since.iter().rev().find(given)
                };
                filled.push(index(*found.unwrap_or(winner))?);
                if op == Op::Upsert && found.is_none() && !events.carries(*winner, column) {
                    lacking.push(column);
                }
            }
        }
        if let Some(all) = &mut self.lacking {
            all.push(lacking);
        }
        Ok(())
    }

    fn take(self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = UInt32Array::from(self.rows);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for (column, filled) in self.filled.into_iter().enumerate() {
            let values = batch.column(column);
            columns.push(match filled {
                Some(filled) => take(values, &UInt32Array::from(filled), None)?,
                None => take(values, &rows, None)?,
            });
        }
        columns.push(Arc::new(Int8Array::from(self.ops)));
        columns.push(take(batch.column(self.layout.sequence()), &rows, None)?);
        if let Some(lacking) = &self.lacking {
            columns.push(names(self.layout, lacking)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

/// The names of these columns; NULL where there are none.
pub(super) fn names(layout: &EventLayout, columns: &[Vec<usize>]) -> Result<ArrayRef> {
    let mut names = ListBuilder::new(StringBuilder::new());
    for columns in columns {
        for column in columns {
            names.values().append_value(layout.columns[*column].name());
        }
        names.append(!columns.is_empty());
    }
    Ok(cast(&names.finish(), &EventLayout::names_type())?)
}

/// A row number as Arrow takes it.
pub(super) fn index(row: usize) -> Result<u32> {
    u32::try_from(row).map_err(Error::internal)
}
