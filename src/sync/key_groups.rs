//! The rows of one key at a time, out of batches that are sorted by key.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::row::{OwnedRow, RowConverter, SortField};

use crate::error::Result;

/// Rows of whole keys: group `i` is the rows from `bounds[i]` up to `bounds[i + 1]`.
pub(super) struct Groups {
    pub batch: RecordBatch,
    pub bounds: Vec<usize>,
}

/// Collects sorted batches and hands on what is whole; the last key waits for its next rows.
pub(super) struct KeyGroups {
    keys: Vec<usize>,
    converter: RowConverter,
    waiting: Vec<RecordBatch>,
    key: Option<OwnedRow>,
}

impl KeyGroups {
    /// Groups by the columns `keys` of `batch`'s schema.
    pub(super) fn try_new(keys: &[usize], schema: &arrow::datatypes::Schema) -> Result<Self> {
        let fields = keys
            .iter()
            .map(|index| SortField::new(schema.field(*index).data_type().clone()));
        Ok(Self {
            keys: keys.to_vec(),
            converter: RowConverter::new(fields.collect())?,
            waiting: vec![],
            key: None,
        })
    }

    /// Adds the next batch and returns the keys that are whole by now.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<Option<Groups>> {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = self
            .keys
            .iter()
            .map(|index| Arc::clone(batch.column(*index)))
            .collect();
        let rows = self.converter.convert_columns(&columns)?;
        let offset: usize = self.waiting.iter().map(RecordBatch::num_rows).sum();
        let mut bounds = vec![0];
        if self
            .key
            .as_ref()
            .is_some_and(|key| key.row() != rows.row(0))
        {
            bounds.push(offset);
        }
        let changes = (1..rows.num_rows()).filter(|row| rows.row(*row) != rows.row(row - 1));
        bounds.extend(changes.map(|row| row + offset));
        self.key = Some(rows.row(rows.num_rows() - 1).owned());
        // the last bound is where the key begins that may go on
        let whole = bounds[bounds.len() - 1];
        if whole == 0 {
            self.waiting.push(batch);
            return Ok(None);
        }
        let schema = batch.schema();
        let taken = whole - offset;
        let rest = batch.slice(taken, batch.num_rows() - taken);
        if taken > 0 {
            self.waiting.push(batch.slice(0, taken));
        }
        let batch = concat_batches(&schema, &self.waiting)?;
        self.waiting = vec![rest];
        Ok(Some(Groups { batch, bounds }))
    }

    /// The last key.
    pub(super) fn finish(&mut self) -> Result<Option<Groups>> {
        let Some(first) = self.waiting.first() else {
            return Ok(None);
        };
        let batch = concat_batches(&first.schema(), &self.waiting)?;
        self.waiting = vec![];
        let bounds = vec![0, batch.num_rows()];
        Ok(Some(Groups { batch, bounds }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn groups(batches: &[&[i64]]) -> Vec<usize> {
        let batch = |keys: &[i64]| {
            RecordBatch::try_from_iter([(
                "k",
                Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef,
            )])
            .unwrap()
        };
        let schema = batch(&[]).schema();
        let mut grouped = KeyGroups::try_new(&[0], &schema).unwrap();
        let mut sizes = vec![];
        let mut add = |groups: Option<Groups>| {
            if let Some(groups) = groups {
                sizes.extend(groups.bounds.windows(2).map(|pair| pair[1] - pair[0]));
                assert_eq!(groups.bounds.last(), Some(&groups.batch.num_rows()));
            }
        };
        for keys in batches {
            add(grouped.push(batch(keys)).unwrap());
        }
        add(grouped.finish().unwrap());
        sizes
    }

    #[test]
    fn keys_are_whole_however_they_are_cut() {
        assert_eq!(groups(&[&[1, 1, 2, 3, 3]]), [2, 1, 2]);
        assert_eq!(groups(&[&[1], &[1], &[1, 1], &[2]]), [4, 1]);
        assert_eq!(groups(&[&[1], &[2], &[], &[2, 3], &[3]]), [1, 2, 2]);
        assert_eq!(groups(&[&[1, 1], &[1, 2, 2], &[2, 2]]), [3, 4]);
        assert_eq!(groups(&[]), [0; 0]);
    }
}
