//! Files that a process has left half-written on a local disk when it was killed.
//!
//! object_store writes a local file as `<name>#<number>` and gives it its name at the end. It neither lists nor deletes such files, so
//! that VACUUM has to look for them itself. They may go by their age, as all files that no version needs.

use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path as Folder, PathBuf};

use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, Result};
use tokio::task::spawn_blocking;

use crate::delta::table::DeltaTable;

/// The half-written files in the folder of a local table, whatever their age; of any other table, none.
pub(super) fn list_unfinished(table: &DeltaTable) -> BoxStream<'static, Result<ObjectMeta>> {
    let Some(folder) = local_folder(table) else {
        return stream::empty().boxed();
    };
    let listed = async move {
        let found = spawn_blocking(move || {
            let mut found = Vec::new();
            walk(&folder, "", &mut found).map(|()| found)
        });
        let found = found.await?.map_err(generic)?;
        Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(listed).try_flatten().boxed()
}

/// Deletes such files of a local table.
pub(super) fn delete_unfinished(
    table: &DeltaTable,
    paths: Vec<Path>,
) -> BoxStream<'static, Result<Path>> {
    let folder = local_folder(table).unwrap_or_default();
    let deleted = stream::iter(paths).then(move |path| delete(folder.clone(), path));
    deleted.boxed()
}

async fn delete(folder: PathBuf, path: Path) -> Result<Path> {
    let file = folder.join(path.to_string());
    let deleted = spawn_blocking(move || fs::remove_file(file)).await?;
    deleted.map(|()| path).map_err(generic)
}

/// Whether this is a half-written file of the table.
pub(super) fn is_unfinished(table: &DeltaTable, path: &Path) -> bool {
    path.filename().is_some_and(is_unfinished_name) && local_folder(table).is_some()
}

/// Whether a file is half-written, by its name.
fn is_unfinished_name(name: &str) -> bool {
    // object_store takes the first # for the one that counts
    name.split_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn local_folder(table: &DeltaTable) -> Option<PathBuf> {
    let location = table.location();
    let is_local = location.scheme() == "file";
    is_local.then(|| location.to_file_path().ok()).flatten()
}

/// Adds the half-written files below a folder; links to other folders are not followed.
fn walk(folder: &Folder, prefix: &str, found: &mut Vec<ObjectMeta>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // a name that is no text is none that we have written
        let Some(name) = name.to_str() else {
            continue;
        };
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            gone_meanwhile(walk(&entry.path(), &format!("{path}/"), found))?;
        } else if is_unfinished_name(name) {
            found.extend(gone_meanwhile(describe(&entry, &path))?.flatten());
        }
    }
    Ok(())
}

/// What a listing would say of a file; nothing of what is no file or has a name that no object has.
fn describe(entry: &DirEntry, path: &str) -> io::Result<Option<ObjectMeta>> {
    let metadata = entry.metadata()?;
    let Some(location) = Path::parse(path).ok().filter(|_| metadata.is_file()) else {
        return Ok(None);
    };
    Ok(Some(ObjectMeta {
        location,
        last_modified: DateTime::<Utc>::from(metadata.modified()?),
        size: metadata.len(),
        e_tag: None,
        version: None,
    }))
}

/// Nothing, where another process has finished or removed the file.
fn gone_meanwhile<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn generic(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound {
            path: String::new(),
            source: error.into(),
        },
        _ => Error::Generic {
            store: "LocalFileSystem",
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_number_after_the_name_tells() {
        for (name, expected) in [
            ("part-0.parquet#1", true),
            ("part-0.parquet#123", true),
            ("part-0.parquet", false),
            ("part-0.parquet#", false),
            ("part-0.parquet#a1", false),
            ("a#b#1", false),
        ] {
            assert_eq!(is_unfinished_name(name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn half_written_files_are_found_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let table = |location: &str| DeltaTable::new("t", location, HashMap::new()).unwrap();
        fs::create_dir_all(folder.path().join("c=1/d=a b")).unwrap();
        for name in ["a.parquet#1", "a.parquet", "c=1/d=a b/b.parquet#12"] {
            fs::write(folder.path().join(name), "abc").unwrap();
        }
        let local = table(folder.path().to_str().unwrap());
        let found: Vec<ObjectMeta> = list_unfinished(&local).try_collect().await.unwrap();
        let mut paths: Vec<Path> = found.iter().map(|file| file.location.clone()).collect();
        paths.sort();
        let names: Vec<&str> = paths.iter().map(|path| path.as_ref()).collect();
        assert_eq!(names, ["a.parquet#1", "c=1/d=a b/b.parquet#12"]);
        assert!(found.iter().all(|file| file.size == 3));
        assert!(paths.iter().all(|path| is_unfinished(&local, path)));
        let deleted = delete_unfinished(&local, paths.clone());
        assert_eq!(deleted.try_collect::<Vec<Path>>().await.unwrap(), paths);
        let again: Vec<Result<Path>> = delete_unfinished(&local, paths.clone()).collect().await;
        assert!(matches!(again[..], [Err(Error::NotFound { .. }), _]));
        assert!(folder.path().join("a.parquet").is_file());
        let elsewhere = table("memory:///t");
        assert!(!is_unfinished(&elsewhere, &paths[0]));
        assert_eq!(list_unfinished(&elsewhere).count().await, 0);
    }
}
