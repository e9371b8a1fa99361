//! Which columns a sync writes, which of them are the key, and what the target has to look like.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};

use super::event::EventLayout;
use super::spec::{Columns, Storage, Sync};
use crate::change::{change_columns, metadata_columns};
use crate::delta::create::{TableDefinition, delta_field};
use crate::error::{Error, Result};

/// From when on a row of a history is valid.
pub(super) const START_AT: &str = "__START_AT";
/// Up to when, that moment not included; NULL for the row that is valid now.
pub(super) const END_AT: &str = "__END_AT";

/// What is particular about the changes of a source.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceNature {
    /// Columns that some of them do not carry.
    pub absent: Vec<String>,
    /// Whether two that differ may not have the same sequence.
    pub refuses_ties: bool,
}

/// The source's own columns that the statement keeps.
///
/// # Errors
/// When the statement names a column that the source has not, or leaves a key out.
pub(super) fn kept_columns(sync: &Sync, source: &Schema, keys: &[String]) -> Result<Vec<FieldRef>> {
    let own: Vec<FieldRef> = source
        .fields()
        .iter()
        .filter(|field| !is_metadata(field.name()))
        .cloned()
        .collect();
    let check = |clause: &str, names: &[String]| match names
        .iter()
        .find(|name| !own.iter().any(|field| field.name() == *name))
    {
        None => Ok(()),
        Some(unknown) => Err(Error::invalid(format!(
            "{clause} names {unknown:?}, which {} has not; its columns are {}",
            sync.source,
            names_of(&own)
        ))),
    };
    if let Some(field) = own
        .iter()
        .find(|field| field.name().starts_with("__alluvial_"))
    {
        return Err(Error::invalid(format!(
            "{} has the column {:?}, and names that begin with __alluvial_ are taken; give it another one in FROM (SELECT …)",
            sync.source,
            field.name()
        )));
    }
    // a query may well have columns that no target keeps
    let metadata = |name: &&String| !is_metadata(name);
    let listed: Vec<String> = sync
        .columns
        .names()
        .iter()
        .filter(metadata)
        .cloned()
        .collect();
    check("COLUMNS", &listed)?;
    check("KEYS", keys)?;
    if let Some(ignored) = &sync.ignore_null_updates {
        check("IGNORE NULL UPDATES ON", ignored.names())?;
    }
    if let Storage::ScdType2 { track_history } = &sync.storage {
        check("TRACK HISTORY ON", track_history.names())?;
    }
    let kept = |field: &&FieldRef| sync.columns.contains(field.name());
    let kept: Vec<FieldRef> = own.iter().filter(kept).cloned().collect();
    match keys
        .iter()
        .find(|key| !kept.iter().any(|field| field.name() == *key))
    {
        None => Ok(kept),
        Some(key) => Err(Error::invalid(format!(
            "COLUMNS leaves out the key column {key:?}; the target cannot be matched without it"
        ))),
    }
}

/// Whether it is a column of change reads.
pub(super) fn is_metadata(name: &str) -> bool {
    let ours = change_columns().into_iter().chain(metadata_columns());
    ours.into_iter().any(|field| field.name() == name)
}

fn names_of(fields: &[FieldRef]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    names.join(", ")
}

/// The target's counterpart of each column: its type is the target's.
///
/// # Errors
/// When a column is missing there (unless `missing` is given, which collects them), or its type cannot hold the source's values.
pub(super) fn target_columns(
    sync: &Sync,
    kept: &[FieldRef],
    target: &Schema,
    mut missing: Option<&mut Vec<FieldRef>>,
) -> Result<Vec<FieldRef>> {
    let mut columns = Vec::with_capacity(kept.len());
    for field in kept {
        match target.field_with_name(field.name()) {
            Ok(found) if holds(found.data_type(), field.data_type()) => {
                columns.push(Arc::new(found.clone()));
            }
            Ok(found) => {
                return Err(Error::invalid(format!(
                    "INCOMPATIBLE_SCHEMA: column {:?} is {} in {} and {} in {}, which does not hold all of its values; \
                     cast it in FROM (SELECT …), leave it out with COLUMNS * EXCEPT ({}), or change the target",
                    field.name(),
                    field.data_type(),
                    sync.source,
                    found.data_type(),
                    sync.target,
                    field.name()
                )));
            }
            Err(_) => {
                let same = |other: &&FieldRef| other.name().eq_ignore_ascii_case(field.name());
                if let Some(other) = target.fields().iter().find(same) {
                    return Err(Error::invalid(format!(
                        "INCOMPATIBLE_SCHEMA: {} has the column {:?} and {} has {:?}; Delta's column names do not differ by case, so rename it in \
                         FROM (SELECT …) or leave it out with COLUMNS * EXCEPT ({})",
                        sync.source,
                        field.name(),
                        sync.target,
                        other.name(),
                        field.name()
                    )));
                }
                let added = delta_field(&sync.target.to_string(), &nullable(field))?;
                match &mut missing {
                    Some(missing) => missing.push(Arc::clone(&added)),
                    None => {
                        return Err(Error::invalid(format!(
                            "INCOMPATIBLE_SCHEMA: {} has the column {:?}, which {} has not; add WITH SCHEMA EVOLUTION to the statement to \
                             have such columns added, or leave it out with COLUMNS * EXCEPT ({})",
                            sync.source,
                            field.name(),
                            sync.target,
                            field.name()
                        )));
                    }
                }
                columns.push(added);
            }
        }
    }
    Ok(columns)
}

fn nullable(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_nullable(true))
}

/// Whether a column of type `target` holds every value of type `source`.
pub(super) fn holds(target: &DataType, source: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Decimal128, Dictionary, FixedSizeBinary, Float16,
        Float32, Float64, Int8, Int16, Int32, Int64, LargeBinary, LargeUtf8, Null, Timestamp,
        UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    if target == source {
        return true;
    }
    match (target, source) {
        (_, Null) => true,
        (_, Dictionary(_, values)) => holds(target, values),
        (Int16, Int8 | UInt8)
        | (Int32, Int8 | Int16 | UInt8 | UInt16)
        | (Int64, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32)
        | (Float32, Float16 | Int8 | Int16)
        | (Float64, Float16 | Float32 | Int8 | Int16 | Int32)
        | (Utf8, LargeUtf8 | Utf8View)
        | (Binary, LargeBinary | BinaryView | FixedSizeBinary(_))
        | (Date32, Date64) => true,
        (Decimal128(precision, scale), Decimal128(of, digits)) => {
            scale >= digits
                && i16::from(*precision) - i16::from(*scale) >= i16::from(*of) - i16::from(*digits)
        }
        (Decimal128(precision, scale), Int8 | Int16 | Int32 | Int64 | UInt64) => {
            i16::from(*precision) - i16::from(*scale) >= 20
        }
        (Timestamp(_, left), Timestamp(_, right)) => left.is_some() == right.is_some(),
        (Timestamp(..), Date32) => true,
        (left, right) if left.is_nested() => same_shape(left, right),
        _ => false,
    }
}

/// Nested types whose parts hold the other's.
fn same_shape(target: &DataType, source: &DataType) -> bool {
    let inner = |left: &FieldRef, right: &FieldRef| holds(left.data_type(), right.data_type());
    match (target, source) {
        (
            DataType::List(left),
            DataType::List(right) | DataType::LargeList(right) | DataType::ListView(right),
        )
        | (DataType::Map(left, _), DataType::Map(right, _)) => inner(left, right),
        (DataType::Struct(left), DataType::Struct(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| left.name() == right.name() && inner(left, right))
        }
        _ => false,
    }
}

/// The layout of events for these columns.
pub(super) fn event_layout(
    sync: &Sync,
    columns: Vec<FieldRef>,
    keys: &[String],
    sequence: DataType,
    nature: &SourceNature,
) -> EventLayout {
    let position = |key: &String| columns.iter().position(|field| field.name() == key);
    let keys: Vec<usize> = keys.iter().filter_map(position).collect();
    let ignores = |index: usize, name: &str| {
        !keys.contains(&index)
            && sync
                .ignore_null_updates
                .as_ref()
                .is_some_and(|columns| columns.contains(name))
    };
    let tracks = |index: usize, name: &str| match &sync.storage {
        Storage::ScdType1 => false,
        Storage::ScdType2 { track_history } => {
            !keys.contains(&index) && track_history.contains(name)
        }
    };
    let of_columns = |test: &dyn Fn(usize, &str) -> bool| {
        columns
            .iter()
            .enumerate()
            .map(|(index, field)| test(index, field.name()))
            .collect()
    };
    EventLayout {
        ignore_null: of_columns(&ignores),
        may_lack: of_columns(&|_, name| nature.absent.iter().any(|absent| absent == name)),
        refuses_ties: nature.refuses_ties && sync.sequence_by.is_some(),
        tracked: of_columns(&tracks),
        checked: true,
        keys,
        sequence,
        columns,
    }
}

/// What a target is created as, from what a copy of the source would be.
pub(super) fn target_definition(
    sync: &Sync,
    copy: TableDefinition,
    kept: &[FieldRef],
    keys: &[String],
    sequence: &DataType,
) -> Result<TableDefinition> {
    // a change read makes every column nullable, the source itself does not
    let of_source = |field: &FieldRef| {
        let found = copy.columns.iter().find(|own| own.name() == field.name());
        Arc::clone(found.unwrap_or(field))
    };
    let mut columns: Vec<FieldRef> = kept.iter().map(of_source).collect();
    let mut primary_key = keys.to_vec();
    if matches!(sync.storage, Storage::ScdType2 { .. }) {
        for name in [START_AT, END_AT] {
            columns.push(Arc::new(Field::new(name, sequence.clone(), true)));
        }
        primary_key.push(START_AT.into());
    }
    let is_kept = |name: &String| columns.iter().any(|field| field.name() == name);
    let partition_columns = copy.partition_columns.into_iter().filter(is_kept).collect();
    let mut properties = copy.properties;
    if sync.columns != Columns::All {
        // a constraint may be about a column that is left out
        properties.retain(|key, _| !key.starts_with("delta.constraints."));
    }
    Ok(TableDefinition {
        columns,
        partition_columns,
        primary_key,
        properties,
        comment: copy.comment,
    })
}

/// Refuses to write a history as if it were none.
pub(super) fn check_storage(sync: &Sync, target: &Schema) -> Result<()> {
    let has = |name: &str| target.field_with_name(name).is_ok();
    if sync.storage == Storage::ScdType1 && has(START_AT) && has(END_AT) {
        return Err(Error::invalid(format!(
            "{} has {START_AT} and {END_AT}: it keeps a history, of which this statement would change every row of a key; add STORED AS SCD \
             TYPE 2, or name another target",
            sync.target
        )));
    }
    Ok(())
}

/// Refuses columns that a history needs for itself.
pub(super) fn check_history_columns(sync: &Sync, kept: &[FieldRef]) -> Result<()> {
    let reserved = kept
        .iter()
        .find(|field| [START_AT, END_AT].contains(&field.name().as_str()));
    match (&sync.storage, reserved) {
        (Storage::ScdType2 { .. }, Some(field)) => Err(Error::invalid(format!(
            "{} has a column {:?}, a name that SCD TYPE 2 needs for itself; rename it in FROM (SELECT …)",
            sync.source,
            field.name()
        ))),
        _ => Ok(()),
    }
}
