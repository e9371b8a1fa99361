//! The rows of the result: for each key a list of none, one or two.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result;

use super::images::{Images, Place};
use super::step::{Change, Effect, Group};
use crate::change::ChangeType;

/// The timestamp of a change, in its image.
const TIMESTAMP: usize = 0;
/// The first of the source's own columns in an image.
const OWN: usize = 1;

/// How rows are made of images, whose columns are the timestamp, the source's own columns, and what else is told of a change.
#[derive(Debug)]
pub(super) struct NetResult {
    /// A row: version, timestamp, type, and the other columns of an image.
    pub row: FieldRef,
    /// How many columns are the source's own, and decide whether images differ; those that follow tell of the last change.
    pub own: usize,
    /// Whether a row that has gone is told by its last image.
    pub deleted_as_last: bool,
}

#[derive(Default)]
struct NetRows {
    per_key: Vec<usize>,
    types: Vec<&'static str>,
    versions: Vec<i64>,
    images: Vec<Place>,
    lasts: Vec<Place>,
}

impl NetRows {
    fn push(&mut self, kind: ChangeType, image: Change, last: Change) {
        self.types.push(kind.as_str());
        self.versions.push(last.step.version);
        self.images.push(image.place);
        self.lasts.push(last.place);
    }
}

impl NetResult {
    /// The rows of each group, as lists.
    pub(super) fn lists(&self, groups: &[Option<Group>], images: &Images) -> Result<ArrayRef> {
        let DataType::Struct(fields) = self.row.data_type() else {
            return internal_err!("rows of net changes are structs");
        };
        let rows = self.net_rows(groups, images)?;
        let own = images.rows(rows.images.into_iter().map(Some));
        let last = images.rows(rows.lasts.into_iter().map(Some));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(rows.versions)),
            images.gather(TIMESTAMP, &last)?,
            Arc::new(StringArray::from(rows.types)),
        ];
        for column in OWN..images.types().len() {
            let of = match column < OWN + self.own {
                true => &own,
                false => &last,
            };
            columns.push(images.gather(column, of)?);
        }
        let structs = StructArray::try_new(fields.clone(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(rows.per_key);
        let row = Arc::clone(&self.row);
        let lists = ListArray::try_new(row, offsets, Arc::new(structs), None)?;
        Ok(Arc::new(lists))
    }

    fn net_rows(&self, groups: &[Option<Group>], images: &Images) -> Result<NetRows> {
        let pairs = groups.iter().flatten();
        let pairs = pairs.filter(|group| group.effect() == Effect::Pair);
        let pairs: Vec<_> = pairs
            .map(|group| (group.first.place, group.last.place))
            .collect();
        let differing = images.differing(&pairs, OWN..OWN + self.own)?;
        let mut differing = differing.into_iter();
        let mut rows = NetRows::default();
        for group in groups {
            let before = rows.types.len();
            if let Some(group) = group {
                let differs = match group.effect() {
                    Effect::Pair => differing.next().unwrap_or_default(),
                    _ => false,
                };
                self.push(group, differs, &mut rows);
            }
            rows.per_key.push(rows.types.len() - before);
        }
        Ok(rows)
    }

    fn push(&self, group: &Group, differs: bool, rows: &mut NetRows) {
        let (first, last) = (group.first, group.last);
        match group.effect() {
            Effect::Row(ChangeType::Delete) if !self.deleted_as_last => {
                rows.push(ChangeType::Delete, first, last);
            }
            Effect::Row(kind) => rows.push(kind, last, last),
            Effect::Pair if differs => {
                rows.push(ChangeType::UpdatePreimage, first, last);
                rows.push(ChangeType::UpdatePostimage, last, last);
            }
            Effect::Pair | Effect::Nothing => {}
        }
    }
}
