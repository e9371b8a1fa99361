//! From columns as they are decoded to the columns that are wanted.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::source::files::fit::{Misfit, fit};

/// Where wanted columns are among those that are decoded.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// For each wanted column, the decoded one; absent if there is none.
    slots: Vec<Option<usize>>,
    /// The wanted columns in the types that are decoded.
    decoded: SchemaRef,
    wanted: SchemaRef,
}

impl Layout {
    /// The layout of the `wanted` columns, for each of which there may be a column of `source`.
    pub(super) fn new(wanted: SchemaRef, source: &Schema, slots: Vec<Option<usize>>) -> Self {
        let decoded = wanted.fields().iter().zip(&slots).map(|(field, slot)| {
            let data_type = slot.map_or(field.data_type(), |slot| source.field(slot).data_type());
            Field::new(field.name(), data_type.clone(), true)
        });
        Self {
            decoded: Arc::new(Schema::new(decoded.collect::<Vec<_>>())),
            slots,
            wanted,
        }
    }

    /// The wanted columns of a batch, and the values that do not fit into them.
    pub(super) fn fit(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<Misfit>)> {
        let rows = batch.num_rows();
        let columns = self.slots.iter().zip(self.decoded.fields());
        let columns = columns.map(|(slot, field)| match slot {
            Some(slot) => Arc::clone(batch.column(*slot)),
            None => new_null_array(field.data_type(), rows),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let decoded = Arc::clone(&self.decoded);
        let batch = RecordBatch::try_new_with_options(decoded, columns.collect(), &options)?;
        fit(&batch, &self.wanted)
    }

    /// The wanted columns of a batch all of whose values fit.
    pub(super) fn arrange(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let (batch, misfits) = self.fit(batch)?;
        match misfits.first() {
            None => Ok(batch),
            Some(misfit) => Err(Error::invalid(misfit_reason(
                &misfit.column,
                &misfit.value,
                &misfit.expected.to_string(),
            ))),
        }
    }
}

/// What is wrong with a row one of whose values is not of the type of its column.
pub(super) fn misfit_reason(column: &str, value: &str, expected: &str) -> String {
    format!("column {column:?} has the value {value:?}, which is not {expected}")
}
