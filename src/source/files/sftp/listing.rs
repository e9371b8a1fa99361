//! Listing folders, several at once.
//!
//! Files that somebody is writing under a hidden name of ours are left out. Links to files count as files; links to folders are not
//! followed, so that a listing ends. A folder that is not there, or goes away meanwhile, is empty.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt, TryStreamExt};
use futures::{FutureExt, future};
use object_store::path::Path;
use object_store::{Error, ListResult, ObjectMeta, Result};
use russh_sftp::protocol::{File, FileType, StatusCode};

use super::failure::Failure;
use super::handle::{FileHandle, Target};
use super::identity::{Identity, file_type};
use super::paths::{is_temporary, server_path};
use super::pool::Pool;

const CONCURRENT_FOLDERS: usize = 8;
const CONCURRENT_LINKS: usize = 16;

/// What one folder holds.
#[derive(Default)]
struct Folder {
    files: Vec<ObjectMeta>,
    folders: Vec<Path>,
}

/// What one entry of a folder is.
enum Entry {
    File(ObjectMeta),
    Folder(Path),
}

/// How far a listing has come.
struct Walk {
    pool: Arc<Pool>,
    offset: Option<Path>,
    waiting: Vec<Path>,
    running: FuturesUnordered<BoxFuture<'static, Result<Folder>>>,
    found: Vec<ObjectMeta>,
}

/// All files below `prefix`; with an offset only those after it.
pub(super) fn list(
    pool: &Arc<Pool>,
    prefix: Option<&Path>,
    offset: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let walk = Walk {
        pool: Arc::clone(pool),
        offset: offset.cloned(),
        waiting: vec![prefix.cloned().unwrap_or_default()],
        running: FuturesUnordered::new(),
        found: Vec::new(),
    };
    stream::try_unfold(walk, |mut walk| async move {
        let next = walk.next().await?;
        Ok::<_, Error>(next.map(|file| (file, walk)))
    })
    .boxed()
}

/// The files and folders right below `prefix`.
pub(super) async fn list_level(pool: Arc<Pool>, prefix: Option<&Path>) -> Result<ListResult> {
    let prefix = prefix.cloned().unwrap_or_default();
    let mut folder = read_folder(pool, prefix, None).await?;
    folder
        .files
        .sort_by(|left, right| left.location.cmp(&right.location));
    folder.folders.sort();
    Ok(ListResult {
        common_prefixes: folder.folders,
        objects: folder.files,
    })
}

impl Walk {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        loop {
            if let Some(file) = self.found.pop() {
                return Ok(Some(file));
            }
            while self.running.len() < CONCURRENT_FOLDERS
                && let Some(folder) = self.waiting.pop()
            {
                let read = read_folder(Arc::clone(&self.pool), folder, self.offset.clone());
                self.running.push(read.boxed());
            }
            let Some(folder) = self.running.try_next().await? else {
                return Ok(None);
            };
            self.found = folder.files;
            self.waiting.extend(folder.folders);
        }
    }
}

async fn read_folder(pool: Arc<Pool>, prefix: Path, offset: Option<Path>) -> Result<Folder> {
    let path = server_path(&prefix);
    let entries = match entries_of(&pool, &path).await {
        Ok(entries) => entries,
        Err(failure) if failure.is(StatusCode::NoSuchFile) => return Ok(Folder::default()),
        Err(failure) => return Err(failure.at(&path)),
    };
    let mut folder = Folder::default();
    let mut unclear = Vec::new();
    for entry in entries {
        if matches!(entry.filename.as_str(), "." | "..") || is_temporary(&entry.filename) {
            continue;
        }
        let location = child(&prefix, &entry.filename)?;
        if is_passed(&location, offset.as_ref()) {
            continue;
        }
        match file_type(&entry.attrs) {
            Some(FileType::Dir) => folder.folders.push(location),
            Some(FileType::File) => match Identity::of(&entry.attrs, &entry.filename) {
                Ok(identity) => folder.files.push(identity.meta(location)),
                Err(_) => unclear.push(location),
            },
            Some(FileType::Symlink) | None => unclear.push(location),
            Some(FileType::Other) => {}
        }
    }
    let mut looks = stream::iter(unclear)
        .map(|location| look(Arc::clone(&pool), location))
        .buffer_unordered(CONCURRENT_LINKS);
    while let Some(entry) = looks.try_next().await? {
        match entry {
            Some(Entry::File(file)) => folder.files.push(file),
            Some(Entry::Folder(location)) => folder.folders.push(location),
            None => {}
        }
    }
    // The passed folders are gone already; a file is after the offset or not listed.
    if let Some(offset) = &offset {
        folder.files.retain(|file| file.location > *offset);
    }
    Ok(folder)
}

async fn entries_of(pool: &Pool, path: &str) -> Result<Vec<File>, Failure> {
    pool.run(|lease, _| async move {
        let handle = FileHandle::open(lease, Target::Folder(path.to_owned())).await?;
        handle.entries().await
    })
    .await
}

/// Finds out what a link, or an entry of which the server did not say enough, leads to.
async fn look(pool: Arc<Pool>, location: Path) -> Result<Option<Entry>> {
    let path = server_path(&location);
    let path = path.as_str();
    let seen = pool
        .run(|lease, _| async move {
            let (target, is_link) = future::join(lease.stat(path), lease.is_link(path)).await;
            Ok::<_, Failure>((target?, is_link?))
        })
        .await;
    match seen {
        Ok((target, is_link)) if file_type(&target).is_some_and(|kind| kind.is_dir()) => {
            Ok((!is_link).then_some(Entry::Folder(location)))
        }
        Ok((target, _)) => match Identity::of(&target, path) {
            Ok(identity) => Ok(Some(Entry::File(identity.meta(location)))),
            // A link to a device or the like.
            Err(_) if file_type(&target).is_some_and(|kind| kind.is_other()) => Ok(None),
            Err(failure) => Err(failure.at(path)),
        },
        // A link to nowhere, or gone meanwhile.
        Err(failure) if failure.is(StatusCode::NoSuchFile) => Ok(None),
        Err(failure) => Err(failure.at(path)),
    }
}

/// The location of an entry; a name that no location can have is an error, for leaving it out would lose it.
fn child(prefix: &Path, name: &str) -> Result<Path> {
    let location = if prefix.is_root() {
        Path::parse(name)
    } else {
        Path::parse(format!("{prefix}/{name}"))
    };
    Ok(location?)
}

/// Whether neither this nor anything below it comes after `offset`.
fn is_passed(location: &Path, offset: Option<&Path>) -> bool {
    let Some(offset) = offset else {
        return false;
    };
    let below = format!("{location}/");
    let text: &str = offset.as_ref();
    location <= offset && below.as_str() < text && !text.starts_with(&below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_before_the_offset_are_passed() {
        let check = |location: &str, offset: &str, expected| {
            let location = Path::parse(location).unwrap();
            let offset = Path::parse(offset).unwrap();
            assert_eq!(is_passed(&location, Some(&offset)), expected, "{location}");
        };
        check("a/2026-01", "a/2026-02/x", true);
        check("a/2026-02", "a/2026-02/x", false);
        check("a/2026-03", "a/2026-02/x", false);
        check("a", "a-1", false);
        check("a/b", "a/b", false);
        assert!(!is_passed(&Path::from("a"), None));
    }

    #[test]
    fn names_become_locations_unchanged() {
        let check = |prefix: &str, name: &str, expected: Option<&str>| {
            let location = child(&Path::parse(prefix).unwrap(), name).ok();
            let location = location.map(|location| location.to_string());
            assert_eq!(location.as_deref(), expected);
        };
        check("", "x", Some("x"));
        check("a", "100%25 é.csv", Some("a/100%25 é.csv"));
        check("a", "line\nbreak", None);
    }
}
