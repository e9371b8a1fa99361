//! Rules about files: data files, change files, deletion vectors and row ids.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{Commit, Log, ROW_TRACKING, highest_row_id, text};

/// *Add File and Remove File*, *Deletion Vectors*, *Per-file Statistics*.
pub(super) fn check_files(
    log: &Log,
    commit: &Commit,
    partition_columns: Option<&BTreeSet<String>>,
) -> Result<(), String> {
    let removes = by_path(commit, "remove")?;
    for (path, remove) in &removes {
        match log.files.get(*path) {
            Some(active) => {
                check_remove(active, remove).map_err(|problem| format!("remove {path}: {problem}"))
            }
            None if log.is_whole => Err(format!("{path} is removed, which is not there")),
            None => Ok(()),
        }?;
    }
    for (path, add) in by_path(commit, "add")? {
        let checked = match (log.files.get(path), removes.contains_key(path)) {
            (Some(_), false) => Err("is there already".to_owned()),
            (Some(active), true) => check_changed(active, add),
            (None, _) => check_new(log, add),
        };
        checked
            .and_then(|()| check_partition(add, partition_columns))
            .and_then(|()| check_vector(add))
            .map_err(|problem| format!("add {path}: {problem}"))?;
    }
    Ok(())
}

/// The actions of a kind; a path has at most one.
fn by_path<'a>(commit: &'a Commit, kind: &'a str) -> Result<BTreeMap<&'a str, &'a Value>, String> {
    let mut actions = BTreeMap::new();
    for action in commit.of(kind) {
        let path = text(action, "path");
        if actions.insert(path, action).is_some() {
            return Err(format!("two {kind} actions of {path}"));
        }
    }
    Ok(actions)
}

/// A remove names the file as it was, its deletion vector included.
fn check_remove(active: &Value, remove: &Value) -> Result<(), String> {
    if vector(active) != vector(remove) {
        return Err("another deletion vector than the file had".into());
    }
    for key in [
        "partitionValues",
        "size",
        "baseRowId",
        "defaultRowCommitVersion",
    ] {
        if active[key] != remove[key] {
            return Err(format!("{key} is {}, and was {}", remove[key], active[key]));
        }
    }
    if remove["deletionTimestamp"].is_null() || remove["extendedFileMetadata"] != true {
        return Err("no deletionTimestamp or no extendedFileMetadata".into());
    }
    Ok(())
}

/// A file that is added again has more rows deleted than before and is the same otherwise.
fn check_changed(active: &Value, add: &Value) -> Result<(), String> {
    let deleted = |file: &Value| file["deletionVector"]["cardinality"].as_i64();
    if deleted(add) <= deleted(active) {
        return Err("no more rows deleted than before".into());
    }
    for key in [
        "partitionValues",
        "size",
        "baseRowId",
        "defaultRowCommitVersion",
    ] {
        if active[key] != add[key] {
            return Err(format!("{key} is {}, and was {}", add[key], active[key]));
        }
    }
    let (before, now) = (records(active), records(add));
    if before.is_some() && before != now {
        return Err(format!("numRecords is {now:?}, and was {before:?}"));
    }
    Ok(())
}

fn check_new(log: &Log, add: &Value) -> Result<(), String> {
    if records(add).is_none() {
        return Err("does not say how many rows it has".into());
    }
    check_size(log, add)
}

fn check_size(log: &Log, action: &Value) -> Result<(), String> {
    let path = percent_decode_str(text(action, "path")).decode_utf8_lossy();
    let size = fs::metadata(log.table.join(&*path))
        .map_err(|error| error.to_string())?
        .len();
    match action["size"].as_u64() == Some(size) {
        true => Ok(()),
        false => Err(format!("size is {}, not {size}", action["size"])),
    }
}

/// *Partition Value Serialization*: by physical names, every column.
fn check_partition(action: &Value, columns: Option<&BTreeSet<String>>) -> Result<(), String> {
    let Some(columns) = columns else {
        return Ok(());
    };
    let values = action["partitionValues"].as_object();
    let found: BTreeSet<String> = values
        .map(|values| values.keys().cloned().collect())
        .unwrap_or_default();
    match found == *columns {
        true => Ok(()),
        false => Err(format!("partition values of {found:?}, not of {columns:?}")),
    }
}

fn check_vector(add: &Value) -> Result<(), String> {
    let Some(deleted) = add["deletionVector"]["cardinality"].as_i64() else {
        return Ok(());
    };
    if statistics(add)["tightBounds"] != false {
        return Err("a deletion vector, and not tightBounds = false".into());
    }
    match records(add) {
        Some(records) if records <= deleted => {
            Err(format!("{deleted} of {records} rows are deleted"))
        }
        Some(_) => Ok(()),
        None => Err("a deletion vector, and no numRecords".into()),
    }
}

/// *Add CDC File*: where changes are recorded, an update is, and nowhere else is anything.
pub(super) fn check_feed(
    log: &Log,
    commit: &Commit,
    partition_columns: Option<&BTreeSet<String>>,
) -> Result<(), String> {
    for (path, cdc) in by_path(commit, "cdc")? {
        if cdc["dataChange"] != false {
            return Err(format!("cdc {path}: dataChange is not false"));
        }
        check_size(log, cdc)
            .and_then(|()| check_partition(cdc, partition_columns))
            .map_err(|problem| format!("cdc {path}: {problem}"))?;
    }
    let recorded = commit.of("cdc").count();
    let updated = commit.metric("numTargetRowsUpdated") + commit.metric("numUpdatedRows");
    let is_unknown = log.metadata.is_null() || log.protocol.is_null();
    match (is_unknown, log.has_feed()) {
        (true, _) => Ok(()),
        (false, false) if recorded > 0 => Err("cdc files in a table without a feed".into()),
        (false, true) if recorded == 0 && updated > 0 => {
            Err(format!("{updated} rows updated without cdc files"))
        }
        _ => Ok(()),
    }
}

/// *Row Tracking*: every new file has ids of its own, above all that were given out.
pub(super) fn check_row_ids(log: &Log, commit: &Commit) -> Result<(), String> {
    if !log.writes("rowTracking") {
        return Ok(());
    }
    let mut given = Vec::new();
    for add in commit.of("add") {
        let path = text(add, "path");
        let base = add["baseRowId"].as_i64();
        let base = base.ok_or_else(|| format!("add {path}: no baseRowId"))?;
        if log.files.contains_key(path) {
            continue;
        }
        if add["defaultRowCommitVersion"] != commit.version {
            return Err(format!("add {path}: another defaultRowCommitVersion"));
        }
        if base <= log.highest_row_id {
            return Err(format!("add {path}: the row id {base} is taken"));
        }
        given.push((base, base + records(add).unwrap_or_default()));
    }
    given.sort_unstable();
    if let Some(pair) = given.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        return Err(format!("the same row ids twice: {pair:?}"));
    }
    let marks = commit.of("domainMetadata").filter_map(highest_row_id);
    let highest = marks.max().unwrap_or(log.highest_row_id);
    match given.last() {
        Some((_, end)) if end - 1 > highest => Err(format!(
            "{ROW_TRACKING} says {highest}, and there is the row id {}",
            end - 1
        )),
        _ => Ok(()),
    }
}

/// What tells one deletion vector from another.
fn vector(file: &Value) -> Option<(&str, &str, Option<i64>)> {
    let vector = file
        .get("deletionVector")
        .filter(|found| found.is_object())?;
    Some((
        text(vector, "storageType"),
        text(vector, "pathOrInlineDv"),
        vector["offset"].as_i64(),
    ))
}

fn statistics(file: &Value) -> Value {
    serde_json::from_str(text(file, "stats")).unwrap_or_default()
}

fn records(file: &Value) -> Option<i64> {
    statistics(file)["numRecords"].as_i64()
}
