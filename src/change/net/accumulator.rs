//! Keeps the first and the last change of each key, and tells the net effect of them.
//!
//! What is kept of a key is two steps of plain integers and the places of two images; images come and go batch by batch, see
//! [`Images`]. The state that goes to disk, or to another partition, is `upsert`, then rank, version, ordinal and columns of the
//! first change, and the same of the last: NULL where it is the first, so that most of it is NULL where keys change once.

use std::mem::replace;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, new_null_array};
use arrow::datatypes::{DataType, Int8Type};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::images::{Images, Place};
use super::result::NetResult;
use super::step::{Change, Group, Steps, ranks};

/// Columns of a change before those of its image: type, version, ordinal.
const STEP_COLUMNS: usize = 3;

pub(super) struct NetAccumulator {
    result: NetResult,
    groups: Vec<Option<Group>>,
    images: Images,
}

impl NetAccumulator {
    /// Of images with columns of `types`.
    pub(super) fn new(result: NetResult, types: Vec<DataType>) -> Self {
        Self {
            result,
            groups: Vec::new(),
            images: Images::new(types),
        }
    }

    /// Takes the changes of a batch, in whatever order.
    fn take_in(
        &mut self,
        steps: &Steps<'_>,
        columns: &[ArrayRef],
        group_indices: &[usize],
    ) -> Result<()> {
        let chunk = self.images.reserve();
        let mut wanted = vec![false; group_indices.len()];
        for (row, index) in group_indices.iter().enumerate() {
            let Some(step) = steps.get(row) else { continue };
            let place = Place::new(chunk, row);
            let change = Change { step, place };
            match put(&mut self.groups[*index], change) {
                Put::Passed => continue,
                Put::Taken => {}
                Put::Replaced(place) if place.is_in(chunk) => wanted[place.row()] = false,
                Put::Replaced(place) => self.images.release(place),
            }
            wanted[row] = true;
        }
        self.images.fill(chunk, columns, &wanted)?;
        self.move_up(chunk, &wanted, group_indices);
        self.compact()
    }

    /// The places of the wanted rows of a chunk that is without the others.
    fn move_up(&mut self, chunk: usize, wanted: &[bool], group_indices: &[usize]) {
        if wanted.iter().all(|wanted| *wanted) {
            return;
        }
        let rows = (0..wanted.len()).filter(|row| wanted[*row]);
        for (new, old) in rows.enumerate() {
            let (old, new) = (Place::new(chunk, old), Place::new(chunk, new));
            if let Some(group) = &mut self.groups[group_indices[old.row()]] {
                for change in [&mut group.first, &mut group.last] {
                    if change.place == old {
                        change.place = new;
                    }
                }
            }
        }
    }

    fn compact(&mut self) -> Result<()> {
        if !self.images.is_sparse() {
            return Ok(());
        }
        let mut places = Vec::new();
        for group in self.groups.iter().flatten() {
            places.push(group.first.place);
            places.extend(group.other_last().map(|last| last.place));
        }
        let mut moved = self.images.rewrite(&places)?.into_iter();
        for group in self.groups.iter_mut().flatten() {
            let has_other = group.other_last().is_some();
            let Some(first) = moved.next() else { break };
            group.first.place = first;
            group.last.place = match has_other {
                true => moved.next().unwrap_or(first),
                false => first,
            };
        }
        Ok(())
    }

    /// Takes the first groups out.
    fn emit(&mut self, emit_to: EmitTo) -> Vec<Option<Group>> {
        emit_to.take_needed(&mut self.groups)
    }

    /// Gives up the images of groups that have been taken out.
    fn give_up(&mut self, groups: &[Option<Group>]) {
        if self.groups.is_empty() {
            self.images = Images::new(self.images.types().to_vec());
            return;
        }
        for group in groups.iter().flatten() {
            self.images.release(group.first.place);
            if let Some(last) = group.other_last() {
                self.images.release(last.place);
            }
        }
    }

    /// Rank, version, ordinal and columns of changes; NULL where there is none.
    fn changes(&self, changes: &[Option<Change>]) -> Result<Vec<ArrayRef>> {
        let steps = || {
            changes
                .iter()
                .map(|change| change.map(|change| change.step))
        };
        let ranks: Int8Array = steps().map(|step| step.map(|step| step.rank)).collect();
        let versions: Int64Array = steps().map(|step| step.map(|step| step.version)).collect();
        let ordinals: Int64Array = steps().map(|step| step.map(|step| step.ordinal)).collect();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(ranks), Arc::new(versions), Arc::new(ordinals)];
        let places = changes
            .iter()
            .map(|change| change.map(|change| change.place));
        let rows = self.images.rows(places);
        for column in 0..self.images.types().len() {
            columns.push(self.images.gather(column, &rows)?);
        }
        Ok(columns)
    }
}

/// What has become of a change that was put in its place.
enum Put {
    /// It is neither the first nor the last.
    Passed,
    /// It is, and no image has become useless.
    Taken,
    /// It is, and this image is of no use any more.
    Replaced(Place),
}

/// Puts a change in its place among those of its key. Of changes with the same step the earliest to come is the first, the latest
/// the last.
fn put(group: &mut Option<Group>, change: Change) -> Put {
    let Some(known) = group else {
        *group = Some(Group {
            first: change,
            last: change,
            upsert: change.step.is_upsert(),
        });
        return Put::Taken;
    };
    known.upsert |= change.step.is_upsert();
    let (replaced, other) = if change.step < known.first.step {
        (replace(&mut known.first, change), known.last)
    } else if change.step >= known.last.step {
        (replace(&mut known.last, change), known.first)
    } else {
        return Put::Passed;
    };
    match replaced.place == other.place {
        true => Put::Taken,
        false => Put::Replaced(replaced.place),
    }
}

impl GroupsAccumulator for NetAccumulator {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        if filter.is_some() {
            return internal_err!("net changes are told of all rows");
        }
        self.groups.resize(total_num_groups, None);
        let ranks = ranks(&values[0])?;
        let steps = Steps::new(&ranks, &values[1], &values[2]);
        self.take_in(&steps, &values[STEP_COLUMNS..], group_indices)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emit(emit_to);
        let lists = self.result.lists(&groups, &self.images)?;
        self.give_up(&groups);
        Ok(lists)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.emit(emit_to);
        let of = |change: &dyn Fn(Group) -> Option<Change>| {
            let changes = groups.iter().map(|group| group.and_then(change));
            self.changes(&changes.collect::<Vec<_>>())
        };
        let (firsts, lasts) = (
            of(&|group: Group| Some(group.first))?,
            of(&|group: Group| group.other_last())?,
        );
        let upserts: BooleanArray = groups
            .iter()
            .map(|group| group.map(|group| group.upsert))
            .collect();
        let mut state: Vec<ArrayRef> = vec![Arc::new(upserts)];
        state.extend(firsts);
        state.extend(lasts);
        self.give_up(&groups);
        Ok(state)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups, None);
        let upserts = values[0].as_boolean();
        let (firsts, lasts) = values[1..].split_at((values.len() - 1) / 2);
        for changes in [firsts, lasts] {
            let ranks = changes[0].as_primitive::<Int8Type>();
            let steps = Steps::new(ranks.values(), &changes[1], &changes[2]);
            if !steps.is_empty() {
                self.take_in(&steps, &changes[STEP_COLUMNS..], group_indices)?;
            }
        }
        for (row, index) in group_indices.iter().enumerate() {
            if let Some(group) = &mut self.groups[*index] {
                group.upsert |= upserts.is_valid(row) && upserts.value(row);
            }
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        if filter.is_some() {
            return internal_err!("net changes are told of all rows");
        }
        let ranks = ranks(&values[0])?;
        let rows = ranks.len();
        // take_in sees for itself which are upserts
        let mut state: Vec<ArrayRef> = vec![
            Arc::new(BooleanArray::from(vec![false; rows])),
            Arc::new(Int8Array::from(ranks)),
        ];
        state.extend(values[1..].iter().map(Arc::clone));
        let lasts = state[1..].iter();
        let lasts: Vec<_> = lasts
            .map(|column| new_null_array(column.data_type(), rows))
            .collect();
        state.extend(lasts);
        Ok(state)
    }

    fn size(&self) -> usize {
        self.images.size() + self.groups.capacity() * size_of::<Option<Group>>()
    }
}

#[cfg(test)]
mod tests;
