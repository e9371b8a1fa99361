//! What must hold over a whole range: the feed was on, and every schema in it can be read as the last one.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::DataType;

use super::actions::FileChange;
use super::history::{FeedCommit, Found, History, StateChange, Told, read_history};
use crate::delta::DeltaTable;
use crate::delta::actions::{Metadata, Protocol};
use crate::delta::layout::TableLayout;
use crate::delta::properties::change_data_feed;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// The property that says whether rows have ids (*Row Tracking*), and the one that names the column with those of rows that moved.
const ROW_TRACKING: &str = "delta.enableRowTracking";
const ROW_ID_COLUMN: &str = "delta.rowTracking.materializedRowIdColumnName";

/// What a table was from one version on.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub version: i64,
    pub metadata: Metadata,
    pub protocol: Protocol,
}

impl State {
    /// Whether changes were recorded.
    pub(super) fn has_feed(&self) -> bool {
        change_data_feed(&self.metadata.configuration, &self.protocol)
    }

    /// The column of the files with the ids of rows, where rows have some.
    fn row_ids(&self) -> Option<String> {
        let values = &self.metadata.configuration;
        let on = values.get(ROW_TRACKING)?.eq_ignore_ascii_case("true");
        on.then(|| values.get(ROW_ID_COLUMN).cloned()).flatten()
    }
}

/// What the table was at the first version of a range and from each version on that changed it, in version order. `upper` is a version
/// at or after the last.
pub(super) async fn states(
    table: &DeltaTable,
    upper: &Snapshot,
    (first, last): (i64, i64),
    changes: &[StateChange],
) -> Result<Vec<State>> {
    let whole_at_first = changes.first().is_some_and(|change| {
        change.version == first && change.metadata.is_some() && change.protocol.is_some()
    });
    let mut state = State {
        version: first,
        metadata: Metadata::default(),
        protocol: Protocol::default(),
    };
    if changes.is_empty() && last == upper.version() {
        // what holds at the end held throughout
        state.metadata = upper.metadata().clone();
        state.protocol = upper.protocol().clone();
    } else if !whole_at_first {
        let start = table.snapshot_at(first).await?;
        state.metadata = start.metadata().clone();
        state.protocol = start.protocol().clone();
    }
    let mut states = Vec::new();
    if !whole_at_first {
        states.push(state.clone());
    }
    for change in changes {
        state.version = change.version;
        state.metadata = change.metadata.clone().unwrap_or(state.metadata);
        state.protocol = change.protocol.clone().unwrap_or(state.protocol);
        states.push(state.clone());
    }
    Ok(states)
}

/// Checks that the rows of every version can be read as those of `upper`.
///
/// # Errors
/// [`Error::IncompatibleSchema`], naming the version.
pub(super) async fn check_schemas(
    table: &DeltaTable,
    upper: &Snapshot,
    history: &History,
    (states, last): (&[State], i64),
) -> Result<()> {
    let incompatible = |version: i64, after: i64, detail: String| Error::IncompatibleSchema {
        table: table.name().into(),
        version,
        before: version - 1,
        after,
        detail,
    };
    if let Some(version) = replaced_at_first(history, states) {
        // the rows that its first commit removed are of the version before it; of their columns those that are left are read
        let before = table.snapshot_at(version - 1).await?;
        if let Some(detail) = difference(before.layout(), upper.layout(), true) {
            return Err(incompatible(version, version + 1, detail));
        }
    }
    let mut layouts: Vec<(i64, TableLayout)> = Vec::new();
    for state in states {
        let layout = TableLayout::try_new(table.name(), &state.metadata)?;
        layouts.push((state.version, layout));
    }
    // the newest change is the one to tell: from there on the range can be read
    let mut changed = None;
    for (version, layout) in layouts.iter().rev() {
        if let Some(detail) = difference(layout, upper.layout(), upper.layout().is_mapped()) {
            let changed = match changed {
                Some(changed) => changed,
                None => changed_after(table, upper, last).await?,
            };
            return Err(incompatible(changed, changed, detail));
        }
        changed = Some(*version);
    }
    Ok(())
}

/// The version after `last` since which rows are those of `upper`.
async fn changed_after(table: &DeltaTable, upper: &Snapshot, last: i64) -> Result<i64> {
    let (mut changed, mut differs) = (last + 1, true);
    let Found::Whole(history) = read_history(upper, last + 1, upper.version(), false).await? else {
        return Ok(changed);
    };
    for change in &history.states {
        let Some(metadata) = &change.metadata else {
            continue;
        };
        let layout = TableLayout::try_new(table.name(), metadata)?;
        let still = difference(&layout, upper.layout(), upper.layout().is_mapped()).is_some();
        if differs && !still {
            changed = change.version;
        }
        differs = still;
    }
    Ok(changed)
}

/// The first version, if it changes the schema and removes rows.
fn replaced_at_first(history: &History, states: &[State]) -> Option<i64> {
    let first = states.first()?.version;
    let changes = history.states.first()?;
    let commit = history.commits.first()?;
    let (Told::DataFiles(files) | Told::Comparison(files, _)) = &commit.told else {
        return None;
    };
    let removes = files
        .iter()
        .any(|change| matches!(change, FileChange::Removed(_)));
    let here = changes.version == first && commit.version == first && first > 0;
    (here && changes.metadata.is_some() && removes).then_some(first)
}

/// The first version of which no changes were recorded.
pub(super) fn first_without_feed(states: &[State]) -> Option<i64> {
    let off = states.iter().find(|state| !state.has_feed());
    off.map(|state| state.version)
}

/// The oldest version since which changes have always been recorded; the one after `current` where they are not.
pub(super) fn feed_on_since(states: &[State], current: i64) -> i64 {
    let on = states.iter().rev().take_while(|state| state.has_feed());
    on.last().map_or(current + 1, |state| state.version)
}

/// Makes of the commits of which no changes were recorded, and which both removed and added rows, comparisons of these rows.
pub(super) fn compare_rewrites(commits: &mut [FeedCommit], states: &[State]) {
    for commit in commits {
        let mut in_force = states.iter().rev();
        let state = in_force.find(|state| state.version <= commit.version);
        let Some(state) = state.filter(|state| !state.has_feed()) else {
            continue;
        };
        if let Told::DataFiles(changes) = &mut commit.told
            && is_rewrite(changes)
        {
            let changes = std::mem::take(changes);
            let row_ids = state.row_ids().filter(|_| commit.keeps_row_ids);
            commit.told = Told::Comparison(changes, row_ids);
        }
    }
}

/// Whether rows may have been both removed and added.
fn is_rewrite(changes: &[FileChange]) -> bool {
    let (mut removes, mut adds) = (false, false);
    for change in changes {
        match change {
            FileChange::Added(_) => adds = true,
            FileChange::Removed(_) => removes = true,
            FileChange::Masked(pair) => {
                removes = true;
                // only where rows were masked before can some have come back
                adds |= pair.0.deletion_vector.is_some();
            }
        }
    }
    removes && adds
}

/// Why rows of the `old` layout cannot be read as the `new` one, if they cannot; columns may be missing from that if it `may_drop` some,
/// as it may where names are mapped: a dropped column stays in the files, unread.
fn difference(old: &TableLayout, new: &TableLayout, may_drop: bool) -> Option<String> {
    let partitions = |layout: &TableLayout| {
        let names = layout.partition_columns().iter();
        names
            .map(|index| layout.physical_name(*index).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (before, now) = (partitions(old), partitions(new));
    if before != now {
        return Some(format!(
            "it was partitioned by {before:?} and is by {now:?} now"
        ));
    }
    let names: HashMap<&str, usize> = (0..new.physical().len())
        .map(|index| (new.physical_name(index), index))
        .collect();
    for (index, field) in old.schema().fields().iter().enumerate() {
        match names.get(old.physical_name(index)) {
            Some(position) => {
                let now = new.schema().field(*position);
                // nested columns, too, are the same where they have the same physical name
                let (was, is) = (&old.physical()[index], &new.physical()[*position]);
                if !readable_as(was.data_type(), is.data_type(), may_drop) {
                    return Some(format!(
                        "column {:?} was {} and is {} now",
                        field.name(),
                        field.data_type(),
                        now.data_type()
                    ));
                }
            }
            None if may_drop => {}
            None => return Some(format!("column {:?} is gone", field.name())),
        }
    }
    None
}

/// Whether values of type `old` can be read as `new`: the same, widened (*Type Widening*), or a struct with more fields, or fewer where
/// it `may_drop` some.
fn readable_as(old: &DataType, new: &DataType, may_drop: bool) -> bool {
    use DataType::{
        Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, List, Map, Struct,
        Timestamp,
    };
    match (old, new) {
        (Int8, Int16 | Int32 | Int64 | Float64)
        | (Int16, Int32 | Int64 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        (Date32, Timestamp(_, None)) => true,
        (Int8 | Int16 | Int32 | Int64, Decimal128(precision, scale)) => {
            i32::from(*precision) - i32::from(*scale) >= digits(old)
        }
        (Decimal128(p, s), Decimal128(precision, scale)) => {
            scale >= s && i32::from(*precision) - i32::from(*p) >= i32::from(*scale) - i32::from(*s)
        }
        (Struct(old), Struct(new)) => old.iter().all(|field| {
            let mut now = new.iter();
            match now.find(|now| now.name() == field.name()) {
                Some(now) => readable_as(field.data_type(), now.data_type(), may_drop),
                None => may_drop,
            }
        }),
        (List(old), List(new)) => readable_as(old.data_type(), new.data_type(), may_drop),
        (Map(old, _), Map(new, _)) => readable_as(old.data_type(), new.data_type(), may_drop),
        _ => old == new,
    }
}

fn digits(data_type: &DataType) -> i32 {
    match data_type {
        DataType::Int64 => 20,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn check(old: DataType, new: DataType, expected: bool) {
        assert_eq!(readable_as(&old, &new, false), expected, "{old} as {new}");
    }

    #[test]
    fn nested_columns_may_be_dropped_where_names_are_mapped() {
        let field = |name: &str| Field::new(name, DataType::Int32, true);
        let both = DataType::Struct(vec![field("a"), field("b")].into());
        let one = DataType::Struct(vec![field("a")].into());
        for (old, new, may_drop, expected) in [
            (&one, &both, false, true),
            (&both, &one, false, false),
            (&both, &one, true, true),
        ] {
            assert_eq!(readable_as(old, new, may_drop), expected, "{old} as {new}");
        }
    }

    #[test]
    fn only_widened_types_are_readable() {
        check(DataType::Int32, DataType::Int64, true);
        check(DataType::Int64, DataType::Int32, false);
        check(DataType::Int32, DataType::Decimal128(10, 0), true);
        check(DataType::Int32, DataType::Decimal128(10, 2), false);
        check(
            DataType::Decimal128(10, 2),
            DataType::Decimal128(12, 4),
            true,
        );
        check(
            DataType::Decimal128(10, 2),
            DataType::Decimal128(11, 4),
            false,
        );
        check(DataType::Utf8, DataType::Int32, false);
    }
}
