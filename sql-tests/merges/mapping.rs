//! Column mapping, which CREATE TABLE does not offer: the table's first commit is written anew with it.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::{Value, json};

/// Gives the columns of a table that has no rows yet physical names and ids.
pub(super) fn map_columns(table: &Path) -> Result<(), Failed> {
    let commit = table.join("_delta_log/00000000000000000000.json");
    let mut lines = Vec::new();
    for line in fs::read_to_string(&commit)?.lines() {
        let mut action: Value = serde_json::from_str(line)?;
        if let Some(protocol) = action.get_mut("protocol") {
            allow_mapping(protocol);
        }
        if let Some(metadata) = action.get_mut("metaData") {
            map_metadata(metadata)?;
        }
        lines.push(action.to_string());
    }
    Ok(fs::write(commit, lines.join("\n"))?)
}

fn allow_mapping(protocol: &mut Value) {
    for (features, version, enough) in [
        ("readerFeatures", "minReaderVersion", 2),
        ("writerFeatures", "minWriterVersion", 5),
    ] {
        match protocol.get_mut(features).and_then(Value::as_array_mut) {
            Some(features) => features.push(json!("columnMapping")),
            None => {
                let present = protocol[version].as_i64().unwrap_or(enough);
                protocol[version] = json!(present.max(enough));
            }
        }
    }
}

fn map_metadata(metadata: &mut Value) -> Result<(), Failed> {
    let text = metadata["schemaString"].as_str();
    let mut schema: Value = serde_json::from_str(text.ok_or("there is no schema")?)?;
    let mut last_id = 0;
    map_fields(&mut schema, &mut last_id);
    metadata["schemaString"] = json!(schema.to_string());
    metadata["configuration"]["delta.columnMapping.mode"] = json!("name");
    metadata["configuration"]["delta.columnMapping.maxColumnId"] = json!(last_id.to_string());
    Ok(())
}

/// The fields of a struct, and those inside of them.
fn map_fields(data_type: &mut Value, last_id: &mut i64) {
    let fields = data_type.get_mut("fields").and_then(Value::as_array_mut);
    for field in fields.into_iter().flatten() {
        *last_id += 1;
        field["metadata"]["delta.columnMapping.id"] = json!(*last_id);
        field["metadata"]["delta.columnMapping.physicalName"] = json!(format!("col-{last_id}"));
        map_fields(&mut field["type"], last_id);
    }
}
