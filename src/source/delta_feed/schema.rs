//! What must hold over a whole range: the feed was on, and every schema in it can be read as the last one.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::{DataType, Field};

use crate::delta::DeltaTable;
use crate::delta::actions::{Action, Metadata, Protocol};
use crate::delta::layout::TableLayout;
use crate::delta::log::Commit;
use crate::delta::properties::change_data_feed;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// The range that is checked.
pub(crate) struct FeedCheck<'a> {
    pub table: &'a DeltaTable,
    /// The upper bound.
    pub snapshot: &'a Snapshot,
    /// The exclusive lower bound.
    pub since: i64,
}

/// Checks metadata at the start of the range and wherever it changes inside.
///
/// # Errors
/// [`Error::ChangesNotEnabled`] or [`Error::IncompatibleSchema`], naming the version.
pub(crate) async fn check_range(check: &FeedCheck<'_>, commits: &[Commit]) -> Result<()> {
    let first = check.since + 1;
    let states = states(check.table, Some(check.snapshot), first, commits).await?;
    for (version, metadata, protocol) in states {
        if !change_data_feed(&metadata.configuration, &protocol) {
            return Err(Error::ChangesNotEnabled {
                table: check.table.name().into(),
                version,
            });
        }
        let layout = TableLayout::try_new(check.table.name(), &metadata)?;
        if let Some(detail) = difference(&layout, check.snapshot.layout()) {
            let changed = next_change(commits, version);
            return Err(Error::IncompatibleSchema {
                table: check.table.name().into(),
                version: changed,
                before: changed - 1,
                detail,
            });
        }
    }
    Ok(())
}

/// The oldest version from `first` on since which the feed has never been off.
pub(crate) async fn feed_on_since(
    table: &DeltaTable,
    first: i64,
    commits: &[Commit],
) -> Result<i64> {
    let snapshot = table.snapshot().await?;
    let states = states(table, Some(&snapshot), first, commits).await?;
    let mut on_since = snapshot.version() + 1;
    for (version, metadata, protocol) in states.into_iter().rev() {
        if !change_data_feed(&metadata.configuration, &protocol) {
            break;
        }
        on_since = version;
    }
    Ok(on_since)
}

/// Metadata and protocol at `first` and at each version that changes them, in version order.
async fn states(
    table: &DeltaTable,
    upper: Option<&Snapshot>,
    first: i64,
    commits: &[Commit],
) -> Result<Vec<(i64, Metadata, Protocol)>> {
    let changes: Vec<(i64, Option<&Metadata>, Option<&Protocol>)> = commits
        .iter()
        .map(changed_state)
        .filter(|(_, m, p)| m.is_some() || p.is_some())
        .collect();
    let whole_at_first = changes
        .first()
        .is_some_and(|(version, metadata, protocol)| {
            *version == first && metadata.is_some() && protocol.is_some()
        });
    let (mut metadata, mut protocol) = match (upper, changes.is_empty()) {
        // nothing changed inside the range: what holds at its end held throughout
        (Some(upper), true) => (upper.metadata().clone(), upper.protocol().clone()),
        _ if whole_at_first => (Metadata::default(), Protocol::default()),
        _ => {
            let start = table.snapshot_at(first).await?;
            (start.metadata().clone(), start.protocol().clone())
        }
    };
    let mut states = Vec::new();
    if !whole_at_first {
        states.push((first, metadata.clone(), protocol.clone()));
    }
    for (version, new_metadata, new_protocol) in changes {
        metadata = new_metadata.cloned().unwrap_or(metadata);
        protocol = new_protocol.cloned().unwrap_or(protocol);
        states.push((version, metadata.clone(), protocol.clone()));
    }
    Ok(states)
}

fn changed_state(commit: &Commit) -> (i64, Option<&Metadata>, Option<&Protocol>) {
    let (mut metadata, mut protocol) = (None, None);
    for action in &commit.actions {
        match action {
            Action::Metadata(found) => metadata = Some(found),
            Action::Protocol(found) => protocol = Some(found),
            _ => {}
        }
    }
    (commit.version, metadata, protocol)
}

/// The version after `version` that next changes metadata: the one that made the two schemas differ.
fn next_change(commits: &[Commit], version: i64) -> i64 {
    let later = commits
        .iter()
        .filter(|commit| commit.version > version)
        .find(|commit| changed_state(commit).1.is_some());
    later.map_or(version, |commit| commit.version)
}

/// Why rows of the `old` layout cannot be read as the `new` one, if they cannot.
fn difference(old: &TableLayout, new: &TableLayout) -> Option<String> {
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
                if !readable_as(field.data_type(), now.data_type()) {
                    return Some(format!(
                        "column {:?} was {} and is {} now",
                        field.name(),
                        field.data_type(),
                        now.data_type()
                    ));
                }
            }
            // with column mapping a dropped column stays in the files, unread
            None if new.is_mapped() => {}
            None => return Some(format!("column {:?} is gone", field.name())),
        }
    }
    None
}

/// Whether values of type `old` can be read as `new`: the same, widened (*Type Widening*), or a struct with more fields.
fn readable_as(old: &DataType, new: &DataType) -> bool {
    use DataType::{
        Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, List, Map, Struct,
        Timestamp,
    };
    let all_fields = |old: &[&Field], new: &[&Field]| {
        old.iter().all(|field| {
            new.iter().any(|now| {
                now.name() == field.name() && readable_as(field.data_type(), now.data_type())
            })
        })
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
        (Struct(old), Struct(new)) => all_fields(
            &old.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
            &new.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        ),
        (List(old), List(new)) => readable_as(old.data_type(), new.data_type()),
        (Map(old, _), Map(new, _)) => readable_as(old.data_type(), new.data_type()),
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
    use super::*;

    fn check(old: DataType, new: DataType, expected: bool) {
        assert_eq!(readable_as(&old, &new), expected, "{old} as {new}");
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
