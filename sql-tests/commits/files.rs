//! What lies in the folder of a Delta table, by the files themselves.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use libtest_mimic::Failed;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use uuid::Uuid;

const LOG: &str = "_delta_log/";
/// Characters of the identifier that ends the name of a file of deletion vectors.
const ID_CHARACTERS: usize = 20;

/// The names of all files, relative to the table.
pub(super) fn names(table: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    walk(table, "", &mut names)?;
    Ok(names)
}

fn walk(folder: &Path, prefix: &str, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.insert(name);
        }
    }
    Ok(())
}

/// The files of rows: data, changes and deletion vectors.
pub(super) fn of_rows(table: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = names(table)?;
    names.retain(|name| !name.starts_with(LOG));
    Ok(names)
}

/// The newest version.
pub(super) fn version(table: &Path) -> Result<i64, Failed> {
    let newest = commits(table)?.pop_last();
    let digits = newest
        .as_deref()
        .and_then(|name| name.get(LOG.len()..LOG.len() + 20))
        .ok_or("the table has no commit")?;
    Ok(digits.parse()?)
}

/// The files of rows that no commit names.
pub(super) fn unnamed(table: &Path) -> Result<BTreeSet<String>, Failed> {
    let there = of_rows(table)?;
    let mut named = BTreeSet::new();
    for commit in commits(table)? {
        for line in fs::read_to_string(table.join(commit))?.lines() {
            name_files(&serde_json::from_str(line)?, &mut named);
        }
    }
    Ok(there.difference(&named).cloned().collect())
}

fn commits(table: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = names(table)?;
    names.retain(|name| {
        let name = name.strip_prefix(LOG);
        let digits = name.and_then(|name| name.strip_suffix(".json"));
        digits.is_some_and(|digits| {
            digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    });
    Ok(names)
}

fn name_files(action: &Value, named: &mut BTreeSet<String>) {
    for kind in ["add", "remove", "cdc"] {
        let path = &action[kind]["path"];
        named.extend(path.as_str().map(|path| {
            let path = percent_decode_str(path);
            path.decode_utf8_lossy().into_owned()
        }));
        named.extend(file_of_vector(&action[kind]["deletionVector"]));
    }
}

fn file_of_vector(vector: &Value) -> Option<String> {
    if vector["storageType"] != "u" {
        return None;
    }
    let text = vector["pathOrInlineDv"].as_str()?;
    let (prefix, id) = text.split_at_checked(text.len().checked_sub(ID_CHARACTERS)?)?;
    let id = Uuid::from_slice(&z85::decode(id).ok()?).ok()?;
    let folder = if prefix.is_empty() { "" } else { "/" };
    Some(format!("{prefix}{folder}deletion_vector_{id}.bin"))
}
