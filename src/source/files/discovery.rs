//! Finds files that have no version yet, and has the ledger number them.
//!
//! ```text
//!  refresh the ledger ─> list the location ─> files whose newest version is another, or none ─> their columns ─> append
//!         ^                                                                                                       │
//!         └───────────────────────────── another reader was faster ───────────────────────────────────────────────┘
//! ```
//!
//! The ledger is read before the location is listed: a file that another reader has numbered in between is then an append that
//! fails, never a second number.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};

use super::heads::{Head, KnownHeads, heads};
use super::inspect::{Inspector, KnownColumns};
use super::ledger::{Appended, FileVersion, FoundFile, Ledger, LedgerFolder};
use super::location::Location;
use super::options::{FileOptions, Listing};
use super::shape::Shape;
use crate::error::{Error, Result};

const CONCURRENT_INSPECTIONS: usize = 64;
const INSPECTED_AT_ONCE: usize = 1024;
/// Readers that lose this many races in a row to other readers give up.
const MAX_ATTEMPTS: u32 = 50;
/// With fewer files a full listing costs next to nothing.
const FEW_FILES: i64 = 10_000;
/// At least so often everything is listed, lest a file whose name comes before others be overlooked for longer.
const FULL_LISTING_EVERY: Duration = Duration::from_secs(600);
const LAST_FULL_LISTING: &str = "full_listing";

/// What is known of a location at one moment.
#[derive(Debug)]
pub(super) struct Discovered {
    /// The versions there are.
    pub ledger: Arc<Ledger>,
    /// For each version, from 1, whether its file is there, unchanged; absent where not everything was listed.
    pub present: Option<Vec<bool>>,
}

/// Looks for files at a location.
pub(super) struct Discovery<'a> {
    pub location: &'a Location,
    pub folder: &'a LedgerFolder,
    pub options: &'a FileOptions,
    pub inspector: &'a Inspector<'a>,
    /// What is known of first lines.
    pub known_heads: KnownHeads,
    /// Refuses the columns of the first files, before these have versions: what is wrong with them may be the options.
    pub check: &'a (dyn Fn(&[&Shape]) -> Result<()> + Sync),
}

impl Discovery<'_> {
    /// Numbers what is new.
    ///
    /// # Errors
    /// When the location cannot be listed, a new file's columns cannot be read, or the ledger cannot be written.
    pub(super) async fn run(&self, known: Option<&Ledger>) -> Result<Discovered> {
        let mut known = known.cloned();
        for attempt in 0..MAX_ATTEMPTS {
            let ledger = self.folder.refresh(known.as_ref()).await?;
            let (new, mut present) = self.unknown_files(&ledger).await?;
            if new.is_empty() && self.location.is_missing_folder() {
                return Err(Error::invalid(format!(
                    "the folder {} is not there; create it, or correct the LOCATION",
                    self.location.shown()
                )));
            }
            if new.is_empty() {
                return Ok(Discovered {
                    ledger: Arc::new(ledger),
                    present,
                });
            }
            let found = self.inspect(&ledger, new).await?;
            if ledger.versions() == 0 {
                let mut seen: HashSet<&Shape> = HashSet::new();
                let shapes = found.iter().map(|file| file.shape.as_ref());
                let shapes: Vec<&Shape> = shapes.filter(|shape| seen.insert(*shape)).collect();
                (self.check)(&shapes)?;
            }
            match self.folder.append(ledger.clone(), found).await? {
                Appended::Done(ledger) => {
                    if let Some(present) = &mut present {
                        // a version that one of these replaces was not found to be there
                        present.resize(ledger.versions() as usize, true);
                    }
                    return Ok(Discovered {
                        ledger: Arc::new(*ledger),
                        present,
                    });
                }
                Appended::Lost => known = Some(ledger),
            }
            tokio::time::sleep(Duration::from_millis(5 << attempt.min(6))).await;
        }
        Err(Error::invalid(format!(
            "other readers of {} numbered files faster {MAX_ATTEMPTS} times in a row; run the statement again",
            self.location.shown()
        )))
    }

    /// The files without a version, in the order in which they are to get one; and which versions are there.
    async fn unknown_files(
        &self,
        ledger: &Ledger,
    ) -> Result<(Vec<FileVersion>, Option<Vec<bool>>)> {
        let only_after = self.lists_only_new(ledger).await;
        let mut listed = if only_after {
            self.list_after(ledger.greatest())
        } else {
            self.location.store().list(Some(self.location.prefix()))
        };
        let loaded = if only_after {
            None
        } else {
            Some(ledger.load(self.folder).await?)
        };
        let settled = Utc::now() - self.options.settle;
        let mut new = Vec::new();
        let mut present = vec![false; ledger.versions() as usize];
        loop {
            let meta = match listed.try_next().await {
                Ok(Some(meta)) => meta,
                Ok(None) => break,
                Err(object_store::Error::NotFound { .. }) => break,
                Err(error) => return Err(self.location.explain("list", error)),
            };
            let Some(file) = self.file(&meta) else {
                continue;
            };
            let newest = loaded
                .as_ref()
                .and_then(|loaded| ledger.newest(loaded, &file.path));
            match newest {
                Some(newest) if newest.is_same_file(&file) => {
                    if let Some(there) = present.get_mut(newest.version as usize - 1) {
                        *there = true;
                    }
                }
                // what has a version has it, however young it is
                _ if self.options.settle.is_zero() || meta.last_modified <= settled => {
                    new.push(file);
                }
                _ => {}
            }
        }
        drop(listed);
        if !only_after && ledger.versions() >= FEW_FILES {
            self.note_full_listing().await;
        }
        // stores tell the time of a change in whole seconds, some of them: within one, names decide
        new.sort_by(|left, right| {
            let second = |file: &FileVersion| file.modified.div_euclid(1_000_000);
            (second(left), &left.path).cmp(&(second(right), &right.path))
        });
        Ok((new, (!only_after).then_some(present)))
    }

    /// What was listed, if it is a file that is taken.
    fn file(&self, meta: &ObjectMeta) -> Option<FileVersion> {
        let path = self.location.relative(&meta.location)?;
        self.options.takes(path).then(|| seen(path, meta))
    }

    async fn inspect(&self, ledger: &Ledger, new: Vec<FileVersion>) -> Result<Vec<FoundFile>> {
        let mut new = new.into_iter();
        let mut found = Vec::with_capacity(new.len());
        let mut known = self.inspector.known_columns(ledger);
        // the types of the first file's columns are those of the source
        while known.is_empty() {
            let Some(file) = new.next() else { break };
            let shape = self.inspector.shape(&file, &known).await?;
            self.inspector.learn(&mut known, &shape);
            found.push(found_file(file, shape));
        }
        let known = Arc::new(known);
        let new: Vec<FileVersion> = new.collect();
        for files in new.chunks(INSPECTED_AT_ONCE) {
            let heads = heads(self.location, self.options, files).await;
            let files = files.iter().cloned().zip(heads).collect::<Vec<_>>();
            let shapes = stream::iter(files).map(|(file, head)| {
                let known = Arc::clone(&known);
                async move {
                    let shape = self.shape(&file, head, &known).await?;
                    Ok::<_, Error>(found_file(file, shape))
                }
            });
            let more: Vec<FoundFile> = shapes
                .buffered(CONCURRENT_INSPECTIONS)
                .try_collect()
                .await?;
            found.extend(more);
        }
        Ok(found)
    }

    /// The columns of a file, those of another that begins in the same way if there is one.
    async fn shape(
        &self,
        file: &FileVersion,
        head: Option<Head>,
        known: &KnownColumns,
    ) -> Result<Arc<Shape>> {
        if let Some(shape) = head.as_ref().and_then(|head| self.known_heads.get(head)) {
            return Ok(shape);
        }
        let shape = self.inspector.shape(file, known).await?;
        if let Some(head) = head.filter(|_| shape.unreadable.is_none()) {
            self.known_heads.add(head, &shape);
        }
        Ok(shape)
    }

    /// Whether files whose names come after all others are enough.
    async fn lists_only_new(&self, ledger: &Ledger) -> bool {
        match self.options.listing {
            Listing::Full => false,
            Listing::Ordered => ledger.versions() > 0,
            Listing::Auto => {
                ledger.versions() >= FEW_FILES
                    && ledger.is_ordered()
                    && self.was_listed_lately().await
            }
        }
    }

    async fn was_listed_lately(&self) -> bool {
        let (store, path) = self.folder.file(LAST_FULL_LISTING);
        let Ok(meta) = store.head(&path).await else {
            return false;
        };
        let age = Utc::now() - meta.last_modified;
        age.to_std().unwrap_or_default() < FULL_LISTING_EVERY
    }

    /// Only a hint: without it everything is listed again.
    async fn note_full_listing(&self) {
        let (store, path) = self.folder.file(LAST_FULL_LISTING);
        let options = PutMode::Overwrite.into();
        let _ = store.put_opts(&path, "".into(), options).await;
    }

    /// The files whose path comes after `greatest`.
    fn list_after(&self, greatest: &str) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let prefix = self.location.prefix().clone();
        let offset = below(&prefix, greatest);
        let store = self.location.store();
        if self.location.lists_from_offset() {
            return store.list_with_offset(Some(&prefix), &offset);
        }
        list_folders_after(store, prefix, offset)
    }
}

fn found_file(file: FileVersion, shape: Arc<Shape>) -> FoundFile {
    FoundFile {
        path: file.path.as_ref().to_owned(),
        size: file.size,
        modified: file.modified,
        e_tag: file.e_tag.as_deref().map(str::to_owned),
        shape,
    }
}

/// A file as a store shows it, without a version.
pub(super) fn seen(path: &str, meta: &ObjectMeta) -> FileVersion {
    FileVersion {
        version: 0,
        path: path.into(),
        size: meta.size,
        modified: meta.last_modified.timestamp_micros(),
        e_tag: meta.e_tag.as_deref().map(|tag| plain_tag(tag).into()),
        shape: 0,
        time: 0,
    }
}

/// A tag without quotes, which some stores put around it in one answer and not in another.
pub(super) fn plain_tag(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// A path below a folder.
pub(super) fn below(prefix: &Path, relative: &str) -> Path {
    let prefix = prefix.as_ref();
    let joined = if prefix.is_empty() {
        relative.to_owned()
    } else {
        format!("{prefix}/{relative}")
    };
    Path::parse(&joined).unwrap_or_else(|_| Path::from(joined))
}

/// Lists what comes after `offset`, folder by folder: those whose every path comes before it are not looked into.
fn list_folders_after(
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    offset: Path,
) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let listed = async move {
        let level = store.list_with_delimiter(Some(&prefix)).await?;
        let files = level.objects.into_iter();
        let files: Vec<_> = files
            .filter(|meta| meta.location > offset)
            .map(Ok)
            .collect();
        let mut parts = vec![stream::iter(files).boxed()];
        for folder in level.common_prefixes {
            let first = format!("{folder}/");
            if offset.as_ref().starts_with(&first) {
                parts.push(list_folders_after(
                    Arc::clone(&store),
                    folder,
                    offset.clone(),
                ));
            } else if first.as_str() > offset.as_ref() {
                parts.push(store.list(Some(&folder)));
            }
        }
        Ok::<_, object_store::Error>(stream::iter(parts).flatten())
    };
    stream::once(listed).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn folders_before_the_offset_are_left_out() {
        let store = Arc::new(InMemory::new());
        let paths = [
            "p/a/1", "p/a.csv", "p/b/1", "p/b/2", "p/b/c/1", "p/c/1", "p/z",
        ];
        for path in paths {
            store.put(&Path::from(path), "x".into()).await.unwrap();
        }
        for offset in [
            "p/", "p/a/1", "p/a.csv", "p/b/1", "p/b/c/0", "p/c/1", "p/zz",
        ] {
            let prefix = Path::from("p");
            let listed = list_folders_after(Arc::<InMemory>::clone(&store), prefix, offset.into());
            let mut listed: Vec<String> = listed
                .map_ok(|meta| meta.location.to_string())
                .try_collect()
                .await
                .unwrap();
            listed.sort();
            let offset = Path::from(offset).to_string();
            let mut expected: Vec<&str> = paths
                .into_iter()
                .filter(|path| *path > offset.as_str())
                .collect();
            expected.sort_unstable();
            assert_eq!(listed, expected, "after {offset}");
        }
    }
}
