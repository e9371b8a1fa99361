//! RESTORE as other engines commit it; our SQL has none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::files;

/// Files by their paths, each as it was added last.
type Files = BTreeMap<String, Value>;

/// Commits a version that has the files of version `to` again, with the deletion vectors that they had then.
pub(super) fn restore(table: &Path, to: i64) -> Result<(), Failed> {
    let newest = files::version(table)?;
    let (then, now) = (active(table, to)?, active(table, newest)?);
    let info = json!({ "operation": "RESTORE", "isBlindAppend": false });
    let mut commit = vec![json!({ "commitInfo": info })];
    for (path, add) in differing(&now, &then) {
        commit.push(json!({ "remove": to_remove(path, add) }));
    }
    for (_, add) in differing(&then, &now) {
        let mut add = add.clone();
        add["dataChange"] = true.into();
        commit.push(json!({ "add": add }));
    }
    let lines: Vec<String> = commit.iter().map(ToString::to_string).collect();
    Ok(fs::write(commit_file(table, newest + 1), lines.join("\n"))?)
}

/// The files of the one that the other has not, or has with another deletion vector.
fn differing<'a>(
    files: &'a Files,
    others: &'a Files,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let vector = |add: &'a Value| &add["deletionVector"];
    files
        .iter()
        .filter(move |&(path, add)| others.get(path).map(vector) != Some(vector(add)))
}

fn to_remove(path: &str, add: &Value) -> Value {
    let mut remove = json!({
        "path": path,
        "deletionTimestamp": 0,
        "dataChange": true,
        "extendedFileMetadata": true,
        "partitionValues": add["partitionValues"],
        "size": add["size"],
    });
    if add["deletionVector"].is_object() {
        remove["deletionVector"] = add["deletionVector"].clone();
    }
    remove
}

/// The files that a version has.
fn active(table: &Path, version: i64) -> Result<Files, Failed> {
    let mut files = Files::new();
    for version in 0..=version {
        let text = fs::read_to_string(commit_file(table, version))?;
        let actions: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        for action in &actions {
            if let Some(path) = action["remove"]["path"].as_str() {
                files.remove(path);
            }
        }
        for action in actions {
            if let Some(path) = action["add"]["path"].as_str() {
                files.insert(path.to_owned(), action["add"].clone());
            }
        }
    }
    Ok(files)
}

fn commit_file(table: &Path, version: i64) -> PathBuf {
    table.join(format!("_delta_log/{version:020}.json"))
}
