//! The numbers that one writer of several puts into identity columns (Delta protocol, *Identity Columns*).
//!
//! Writer p of n takes every n-th number, beginning with the p-th after the column's high-water mark, so that no two writers of a
//! statement take the same one. The numbers that are left out are lost, as they may be.

use crate::delta::computed::{Computed, Identity};
use crate::delta::layout::TableLayout;
use crate::error::{Error, Result};

/// What is next in each identity column of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdentityValues(Vec<Sequence>);

/// What is next in one column.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub column: usize,
    pub allow_explicit: bool,
    name: String,
    /// Wider than the values, so that counting itself cannot overflow.
    next: i128,
    stride: i128,
    last: Option<i64>,
}

impl IdentityValues {
    /// The numbers of writer `partition` of `partitions`.
    pub(crate) fn new(layout: &TableLayout, partition: usize, partitions: usize) -> Self {
        let columns = layout.computed().iter();
        let sequences = columns.filter_map(|(column, computed)| match computed {
            Computed::Identity(identity) => Some(Sequence {
                column: *column,
                allow_explicit: identity.allow_explicit,
                name: layout.schema().field(*column).name().clone(),
                next: first_free(identity)
                    .saturating_add(i128::from(identity.step).saturating_mul(wide(partition))),
                stride: i128::from(identity.step).saturating_mul(wide(partitions.max(1))),
                last: None,
            }),
            _ => None,
        });
        Self(sequences.collect())
    }

    /// The last number taken in each column in which any was, by the column's position.
    pub(crate) fn high_water_marks(&self) -> Vec<(usize, i64)> {
        let sequences = self.0.iter();
        sequences
            .filter_map(|sequence| Some((sequence.column, sequence.last?)))
            .collect()
    }

    pub(super) fn sequences(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.0.iter_mut()
    }
}

impl Sequence {
    /// Takes a number.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the column has counted to the end of BIGINT.
    pub(super) fn take(&mut self) -> Result<i64> {
        let value = i64::try_from(self.next).map_err(|_| {
            Error::invalid(format!(
                "the identity column {:?} has run out of numbers: {} is not a BIGINT any more",
                self.name, self.next
            ))
        })?;
        self.next = self.next.saturating_add(self.stride);
        self.last = Some(value);
        Ok(value)
    }
}

/// The first `start + k * step` beyond the high-water mark, which need not be such a number itself.
fn first_free(identity: &Identity) -> i128 {
    let (start, step) = (i128::from(identity.start), i128::from(identity.step));
    match identity.high_water_mark {
        Some(mark) if step != 0 => {
            let steps = (i128::from(mark) - start) * step.signum();
            let taken = steps.div_euclid(step.abs()) + 1;
            start + step * taken.max(0)
        }
        _ => start,
    }
}

fn wide(count: usize) -> i128 {
    i128::try_from(count).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: i64, step: i64, mark: Option<i64>, expected: i128) {
        let identity = Identity {
            start,
            step,
            high_water_mark: mark,
            allow_explicit: false,
        };
        assert_eq!(first_free(&identity), expected, "{identity:?}");
    }

    #[test]
    fn counting_goes_on_after_the_mark() {
        check(10, 5, None, 10);
        check(10, 5, Some(15), 20);
        check(10, 5, Some(17), 20);
        check(10, 5, Some(3), 10);
        check(-1, -1, Some(-2), -3);
        check(0, -3, Some(-4), -6);
        check(0, -3, Some(5), 0);
        check(1, 1, Some(i64::MAX), i128::from(i64::MAX) + 1);
    }

    #[test]
    fn writers_never_meet() {
        let metadata = serde_json::json!({
            "id": "x", "format": {"provider": "parquet", "options": {}}, "partitionColumns": [], "configuration": {},
            "schemaString": r#"{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":
                {"delta.identity.start":9223372036854775800,"delta.identity.step":1,"delta.identity.allowExplicitInsert":false}}]}"#,
        });
        let metadata = serde_json::from_value(metadata).unwrap();
        let layout = TableLayout::try_new("t", &metadata).unwrap();
        let mut taken = vec![];
        for partition in 0..3 {
            let mut values = IdentityValues::new(&layout, partition, 3);
            assert!(values.high_water_marks().is_empty());
            for sequence in values.sequences() {
                taken.extend([sequence.take().unwrap(), sequence.take().unwrap()]);
            }
            let last = taken.last().copied().unwrap();
            assert_eq!(values.high_water_marks(), [(0, last)]);
        }
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 6);
        let mut values = IdentityValues::new(&layout, 7, 8);
        let mut all = values
            .sequences()
            .map(|sequence| (sequence.take(), sequence.take()));
        let (first, second) = all.next().unwrap();
        assert_eq!(first.unwrap(), i64::MAX);
        assert!(second.unwrap_err().to_string().contains("run out"));
    }
}
