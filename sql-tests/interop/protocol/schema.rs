//! Rules about metadata and protocol: a statement on rows leaves both as they are, but for what it adds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Commit, Log, text};

const HIGH_WATER_MARK: &str = "delta.identity.highWaterMark";

/// The marks of identity columns: name, step and the last value given out.
pub(in super::super) fn identities(metadata: &Value) -> Vec<(String, i64, Option<i64>)> {
    let identity = |(name, field): (String, Value)| {
        let step = field["metadata"]["delta.identity.step"].as_i64()?;
        Some((name, step, field["metadata"][HIGH_WATER_MARK].as_i64()))
    };
    fields(metadata).into_iter().filter_map(identity).collect()
}

/// The names by which partition values are kept (*Column Mapping*); none where the metadata is not known.
pub(super) fn physical_names(metadata: &Value) -> Option<BTreeSet<String>> {
    let fields = fields(metadata);
    let columns = metadata["partitionColumns"].as_array()?;
    let name = |column: &Value| {
        let column = column.as_str()?;
        let physical = &fields.get(column)?["metadata"]["delta.columnMapping.physicalName"];
        Some(physical.as_str().unwrap_or(column).to_owned())
    };
    columns.iter().map(name).collect()
}

/// A new `metaData` or `protocol` keeps what the one before has said.
pub(super) fn check_metadata(log: &Log, commit: &Commit) -> Result<(), String> {
    for protocol in commit.of("protocol") {
        for key in ["readerFeatures", "writerFeatures"] {
            let listed = |protocol: &Value| protocol[key].as_array().cloned().unwrap_or_default();
            let now = listed(protocol);
            if let Some(lost) = listed(&log.protocol)
                .iter()
                .find(|name| !now.contains(name))
            {
                return Err(format!("{key} has lost {lost}"));
            }
        }
    }
    if log.metadata.is_null() {
        return Ok(());
    }
    for metadata in commit.of("metaData") {
        for key in ["id", "partitionColumns", "createdTime", "name", "format"] {
            if metadata[key] != log.metadata[key] {
                return Err(format!("metaData: {key} is {}", metadata[key]));
            }
        }
        let lost = lost(&log.metadata["configuration"], &metadata["configuration"]);
        if let Some(property) = lost {
            return Err(format!("metaData: the property {property} has changed"));
        }
        check_fields(&fields(&log.metadata), &fields(metadata))?;
    }
    Ok(())
}

fn check_fields(
    before: &BTreeMap<String, Value>,
    now: &BTreeMap<String, Value>,
) -> Result<(), String> {
    for (name, field) in before {
        let Some(found) = now.get(name) else {
            return Err(format!("metaData: the column {name:?} is gone"));
        };
        let (mut old, mut new) = (field["metadata"].clone(), found["metadata"].clone());
        let step = old["delta.identity.step"].as_i64().unwrap_or_default();
        let marks = [&mut old, &mut new].map(|metadata| {
            let mark = metadata
                .as_object_mut()
                .and_then(|metadata| metadata.remove(HIGH_WATER_MARK));
            mark.and_then(|mark| mark.as_i64())
        });
        let is_retyped = field["type"].is_string() && field["type"] != found["type"];
        if old != new || is_retyped {
            return Err(format!(
                "metaData: the column {name:?} has changed: {found}"
            ));
        }
        if let [Some(old), mark] = marks
            && mark.is_none_or(|mark| (mark - old).signum() == -step.signum())
        {
            return Err(format!("metaData: {name:?} went from {old} to {mark:?}"));
        }
    }
    Ok(())
}

/// A property that is gone or has another value.
fn lost<'a>(before: &'a Value, now: &Value) -> Option<&'a String> {
    let properties = before.as_object()?;
    let lost = properties
        .iter()
        .find(|(name, value)| now[*name] != **value);
    lost.map(|(name, _)| name)
}

/// The columns by name.
fn fields(metadata: &Value) -> BTreeMap<String, Value> {
    let schema: Value = serde_json::from_str(text(metadata, "schemaString")).unwrap_or_default();
    let fields = schema["fields"].as_array().cloned().unwrap_or_default();
    let named = |field: Value| (text(&field, "name").to_owned(), field);
    fields.into_iter().map(named).collect()
}
