//! What happened to a key, in its order: a change is told by its *step*, plain integers, and two steps tell the net effect.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::error::Result;

use super::images::Place;
use crate::change::ChangeType;

/// The order of changes within a version: a row leaves before it comes back.
const RANKS: [ChangeType; 5] = [
    ChangeType::Delete,
    ChangeType::UpdatePreimage,
    ChangeType::Insert,
    ChangeType::UpdatePostimage,
    ChangeType::Upsert,
];
/// From this rank on the row is there after the change.
const ARRIVES: i8 = 2;
const UPSERT: i8 = 4;

/// When a change happened, and which. Its order is that of the changes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    pub version: i64,
    /// The order in the version, where the source knows it.
    pub ordinal: i64,
    /// The index of its type in the order of types.
    pub rank: i8,
}

impl Step {
    pub(super) fn is_upsert(self) -> bool {
        self.rank == UPSERT
    }

    fn arrives(self) -> bool {
        self.rank >= ARRIVES
    }
}

/// A change and its image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub step: Step,
    pub place: Place,
}

/// The changes of a key, as far as they are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub first: Change,
    pub last: Change,
    /// Whether one of them, also in between, is an upsert.
    pub upsert: bool,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// One row of this type.
    Row(ChangeType),
    /// A pair of images, where they differ.
    Pair,
}

impl Group {
    pub(super) fn effect(&self) -> Effect {
        let (existed, exists) = (!self.first.step.arrives(), self.last.step.arrives());
        match (self.upsert, existed, exists) {
            (true, _, true) => Effect::Row(ChangeType::Upsert),
            (true, _, false) | (false, true, false) => Effect::Row(ChangeType::Delete),
            (false, true, true) => Effect::Pair,
            (false, false, true) => Effect::Row(ChangeType::Insert),
            (false, false, false) => Effect::Nothing,
        }
    }

    /// The last change, where it is another than the first.
    pub(super) fn other_last(&self) -> Option<Change> {
        (self.first.place != self.last.place).then_some(self.last)
    }
}

/// The steps of a batch of changes.
pub(super) struct Steps<'a> {
    ranks: &'a [i8],
    versions: &'a Int64Array,
    ordinals: &'a Int64Array,
}

impl<'a> Steps<'a> {
    pub(super) fn new(ranks: &'a [i8], versions: &'a ArrayRef, ordinals: &'a ArrayRef) -> Self {
        Self {
            ranks,
            versions: versions.as_primitive(),
            ordinals: ordinals.as_primitive(),
        }
    }

    /// The step of a row; `None` where the row is no change.
    pub(super) fn get(&self, row: usize) -> Option<Step> {
        self.versions.is_valid(row).then(|| Step {
            version: self.versions.value(row),
            ordinal: match self.ordinals.is_valid(row) {
                true => self.ordinals.value(row),
                false => i64::MIN,
            },
            rank: self.ranks[row],
        })
    }

    /// Whether no row is a change.
    pub(super) fn is_empty(&self) -> bool {
        self.versions.null_count() == self.versions.len()
    }
}

/// The ranks of a column of change types.
pub(super) fn ranks(types: &ArrayRef) -> Result<Vec<i8>> {
    let types = cast(types, &DataType::Utf8)?;
    let types: &StringArray = types.as_string();
    let mut ranks = Vec::with_capacity(types.len());
    // the same type comes many times in a row
    let (mut latest, mut rank) = (None, 0);
    for row in 0..types.len() {
        let name = types.value(row);
        if latest != Some(name) {
            let found = RANKS.iter().position(|kind| kind.as_str() == name);
            let Some(found) = found else {
                return exec_err!("{name:?} is not a type of change");
            };
            (latest, rank) = (Some(name), found as i8);
        }
        ranks.push(rank);
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(types: &[&str], upsert: bool, expected: Effect) {
        let names: ArrayRef = Arc::new(StringArray::from(types.to_vec()));
        let ranks = ranks(&names).unwrap();
        let changes = ranks.iter().enumerate().map(|(row, rank)| Change {
            step: Step {
                version: 1,
                ordinal: 0,
                rank: *rank,
            },
            place: Place::new(0, row),
        });
        let changes: Vec<Change> = changes.collect();
        let group = Group {
            first: changes[0],
            last: changes[types.len() - 1],
            upsert,
        };
        assert_eq!(group.effect(), expected, "{types:?}");
    }

    #[test]
    fn two_changes_tell_the_effect() {
        use ChangeType::{Delete, Insert, Upsert};
        check(&["insert"], false, Effect::Row(Insert));
        check(&["insert", "update_postimage"], false, Effect::Row(Insert));
        check(&["insert", "delete"], false, Effect::Nothing);
        check(&["delete"], false, Effect::Row(Delete));
        check(&["update_preimage", "delete"], false, Effect::Row(Delete));
        check(&["update_preimage"], false, Effect::Row(Delete));
        check(&["update_postimage"], false, Effect::Row(Insert));
        check(&["delete", "insert"], false, Effect::Pair);
        check(
            &["update_preimage", "update_postimage"],
            false,
            Effect::Pair,
        );
        check(&["upsert"], true, Effect::Row(Upsert));
        check(&["delete", "upsert"], true, Effect::Row(Upsert));
        check(&["upsert", "delete"], true, Effect::Row(Delete));
        check(&["insert", "delete"], true, Effect::Row(Delete));
    }

    #[test]
    fn unknown_types_are_refused() {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["merge"]));
        let error = ranks(&names).unwrap_err().to_string();
        assert!(
            error.contains("\"merge\" is not a type of change"),
            "{error}"
        );
    }
}
