//! Which files lie in a table's folder and may be looked at by VACUUM.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use super::unfinished::list_unfinished;
use crate::delta::snapshot::Snapshot;
use crate::error::Result;

/// Change data, the one folder of a hidden name whose files are deleted.
const CHANGE_DATA: &str = "_change_data";
const LOG: &str = "_delta_log";

/// Files that were changed last before some moment.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub files: Vec<ObjectMeta>,
    /// In how many folders files were looked at.
    pub folders: usize,
}

/// Lists the files that are older than `horizon`, in microseconds since the epoch, but for hidden ones and other tables'.
pub(super) async fn list(snapshot: &Snapshot, horizon: i64) -> Result<Listing> {
    let partitions = partition_prefixes(snapshot);
    let store = snapshot.table().store();
    let mut listing = Listing::default();
    let mut folders: HashSet<String> = HashSet::from([String::new()]);
    let mut tables: HashSet<String> = HashSet::new();
    let mut found = store.list(None).chain(list_unfinished(snapshot.table()));
    while let Some(file) = found.try_next().await? {
        let path = file.location.as_ref();
        tables.extend(table_of(path).map(str::to_owned));
        if is_hidden(path, &partitions) {
            continue;
        }
        for folder in folders_of(path) {
            if !folders.contains(folder) {
                folders.insert(folder.to_owned());
            }
        }
        if file.last_modified.timestamp_micros() < horizon {
            listing.files.push(file);
        }
    }
    listing.folders = folders.len();
    let is_other = |file: &ObjectMeta| {
        folders_of(file.location.as_ref()).any(|folder| tables.contains(folder))
    };
    listing.files.retain(|file| !is_other(file));
    Ok(listing)
}

/// What the names of folders begin with that hold partitions, whatever character they begin with.
fn partition_prefixes(snapshot: &Snapshot) -> Vec<String> {
    let layout = snapshot.layout();
    let columns = layout.partition_columns().iter();
    columns
        .flat_map(|index| {
            let logical = layout.schema().field(*index).name();
            [
                format!("{logical}="),
                format!("{}=", layout.physical_name(*index)),
            ]
        })
        .collect()
}

/// Whether the file, or a folder that it is in, has a name that begins with `_` or `.`: logs, indexes, remains of other systems.
fn is_hidden(path: &str, partitions: &[String]) -> bool {
    let is_hidden = |name: &str| {
        name.starts_with(['_', '.']) && !partitions.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut names = path.split('/').peekable();
    // the file itself may not be called so
    if names.peek() == Some(&CHANGE_DATA) && path.len() > CHANGE_DATA.len() {
        names.next();
    }
    names.any(is_hidden)
}

/// The folders that a file is in, below the table's.
fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// The folder of another table that a file of a log belongs to, where that is below this one's.
fn table_of(path: &str) -> Option<&str> {
    let (folder, file) = path.rsplit_once('/')?;
    let is_log = file.ends_with(".json") || file.ends_with(".parquet");
    folder
        .strip_suffix(LOG)
        .filter(|_| is_log)?
        .strip_suffix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_left_alone() {
        let partitions = ["_day=".to_owned()];
        for (path, expected) in [
            ("part-0.parquet", false),
            ("deletion_vector_1.bin", false),
            ("aB/deletion_vector_1.bin", false),
            ("c=1/part-0.parquet", false),
            ("_day=1/part-0.parquet", false),
            ("_change_data/cdc-0.parquet", false),
            ("_change_data/_day=1/cdc-0.parquet", false),
            ("_change_data", true),
            ("_change_data/_temporary/x", true),
            ("c=1/_change_data/x", true),
            ("_delta_log/0.json", true),
            ("_alluvial/sequences/1.parquet", true),
            ("c=1/_SUCCESS", true),
            (".part-0.parquet.crc", true),
            ("_night=1/part-0.parquet", true),
        ] {
            assert_eq!(is_hidden(path, &partitions), expected, "{path}");
        }
    }

    #[test]
    fn a_table_in_a_table_is_another_one() {
        for (path, expected) in [
            ("_delta_log/00000000000000000000.json", None),
            ("a/b/_delta_log/00000000000000000000.json", Some("a/b")),
            ("a/not_delta_log/0.json", None),
            ("a/part-0.parquet", None),
        ] {
            assert_eq!(table_of(path), expected, "{path}");
        }
        assert_eq!(folders_of("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(folders_of("c").count(), 0);
    }
}
