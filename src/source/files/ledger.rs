//! The ledger: it numbers files once, for ever, for every reader.
//!
//! ```text
//!  _alluvial/ledger/00000000000000000001.json              a batch: the files that one discovery found, in order
//!                   00000000000000000002.json              the next; made only if absent, so that one of two readers wins
//!                   00000000000000000064.checkpoint.parquet  all files up to batch 64
//!                   checkpoint.json                        which checkpoint is the newest, and what it sums up to
//! ```
//!
//! A file's version is its place in the batches. Batches are written with put-if-absent and are never changed or removed; a
//! reader that loses the race for a number reads the winner's batch and looks again.

mod batch;
mod checkpoint;
mod folder;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OnceCell;

use self::batch::BatchHead;
use self::checkpoint::CheckpointHead;
pub(super) use self::folder::{Appended, FoundFile, LedgerFolder};
use self::folder::{NEWEST_CHECKPOINT, checkpoint_name};
use super::shape::Shape;
use crate::error::{Error, Result};

/// A file at one moment: what a version stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileVersion {
    /// The version, from 1.
    pub version: i64,
    /// Relative to the location.
    pub path: Arc<str>,
    /// In bytes.
    pub size: u64,
    /// When it was last changed, in microseconds since the epoch.
    pub modified: i64,
    /// The store's tag of the content, without quotes, where it has one.
    pub e_tag: Option<Arc<str>>,
    /// The number of its shape.
    pub shape: u32,
    /// The time of the version, in microseconds since the epoch; it never goes back.
    pub time: i64,
}

impl FileVersion {
    /// Whether it is the same content of the same file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (&self.path, self.size, self.modified, &self.e_tag)
            == (&other.path, other.size, other.modified, &other.e_tag)
    }

    /// Tells it from every other one, as 64 bits.
    pub(super) fn fingerprint(&self) -> i64 {
        let text = format!(
            "{}\n{}\n{}\n{}",
            self.path,
            self.size,
            self.modified,
            self.e_tag.as_deref().unwrap_or_default()
        );
        let (low, high) = (
            crc32fast::hash(text.as_bytes()),
            crc32fast::hash(text.bytes().rev().collect::<Vec<u8>>().as_slice()),
        );
        i64::from(low) | (i64::from(high >> 1) << 32)
    }
}

/// Files by version, and the newest version of each path.
#[derive(Debug, Default, Clone)]
struct Files {
    versions: Vec<FileVersion>,
    newest: HashMap<Arc<str>, usize>,
}

impl Files {
    fn new(versions: Vec<FileVersion>) -> Self {
        let mut newest = HashMap::with_capacity(versions.len());
        for (index, file) in versions.iter().enumerate() {
            newest.insert(Arc::clone(&file.path), index);
        }
        Self { versions, newest }
    }

    fn newest(&self, path: &str) -> Option<&FileVersion> {
        self.newest.get(path).map(|index| &self.versions[*index])
    }

    fn push(&mut self, file: FileVersion) {
        self.newest
            .insert(Arc::clone(&file.path), self.versions.len());
        self.versions.push(file);
    }
}

/// The ledger up to one batch. It never changes; [`LedgerFolder::refresh`] makes the next one.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    id: Option<String>,
    last_batch: i64,
    /// What the last batch was when it was read, to notice a ledger that was made anew.
    last_seen: Option<(u64, Option<String>)>,
    checkpoint: Option<CheckpointHead>,
    checkpointed: Arc<OnceCell<Files>>,
    tail: Files,
    shapes: Vec<(i64, Shape)>,
    greatest: String,
    /// The greatest path before the last discovery.
    before_discovery: String,
    ordered: bool,
    time: i64,
    pattern: Option<String>,
    of: Option<String>,
}

impl Ledger {
    fn empty() -> Self {
        Self {
            id: None,
            last_batch: 0,
            last_seen: None,
            checkpoint: None,
            checkpointed: Arc::default(),
            tail: Files::default(),
            shapes: vec![],
            greatest: String::new(),
            before_discovery: String::new(),
            ordered: true,
            time: 0,
            pattern: None,
            of: None,
        }
    }

    fn from_checkpoint(head: CheckpointHead) -> Self {
        Self {
            id: Some(head.ledger.clone()),
            last_batch: head.batch,
            shapes: head.shapes.clone(),
            greatest: head.greatest.clone(),
            before_discovery: head.greatest.clone(),
            ordered: head.ordered,
            time: head.time,
            pattern: head.pattern.clone(),
            of: head.of.clone(),
            checkpoint: Some(head),
            ..Self::empty()
        }
    }

    /// Tells the ledger from every other one; absent while no file has been found.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The number of files, which is the version of the last.
    pub(super) fn versions(&self) -> i64 {
        self.in_checkpoint() + self.tail.versions.len() as i64
    }

    fn in_checkpoint(&self) -> i64 {
        self.checkpoint.as_ref().map_or(0, |head| head.versions)
    }

    /// The shapes of the files up to a version, in the order in which they came.
    pub(super) fn shapes(&self, version: i64) -> impl Iterator<Item = &Shape> {
        self.shapes
            .iter()
            .filter(move |(since, _)| *since <= version)
            .map(|(_, shape)| shape)
    }

    /// The version of the first file that has columns of its own.
    pub(super) fn first_with_rows(&self) -> Option<i64> {
        let mut shapes = self.shapes.iter();
        shapes
            .find(|(_, shape)| shape.has_rows())
            .map(|(since, _)| *since)
    }

    /// A shape by its number.
    pub(super) fn shape(&self, number: u32) -> Result<&Shape> {
        let found = self.shapes.get(number as usize);
        found.map(|(_, shape)| shape).ok_or_else(|| {
            Error::invalid(format!(
                "the ledger is damaged: a file has the shape {number}, and there are {}; restore it from a copy, or remove it and let every \
                 consumer begin anew",
                self.shapes.len()
            ))
        })
    }

    /// The greatest path of all files.
    pub(super) fn greatest(&self) -> &str {
        &self.greatest
    }

    /// Whether every discovery after the first has found only files whose paths come after all before.
    pub(super) fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// The version of the newest file at or before a time; 0 where all are later.
    pub(super) async fn version_at(&self, folder: &LedgerFolder, micros: i64) -> Result<i64> {
        let in_tail = self
            .tail
            .versions
            .partition_point(|file| file.time <= micros);
        if in_tail > 0 || self.checkpoint.is_none() {
            return Ok(self.in_checkpoint() * i64::from(in_tail > 0) + in_tail as i64);
        }
        let before = &self.checkpointed(folder).await?.versions;
        Ok(before.partition_point(|file| file.time <= micros) as i64)
    }

    /// The files of the versions `first..=last`.
    pub(super) async fn files(
        &self,
        folder: &LedgerFolder,
        first: i64,
        last: i64,
    ) -> Result<Vec<FileVersion>> {
        let boundary = self.in_checkpoint();
        let slice = |versions: &[FileVersion], offset: i64| -> Vec<FileVersion> {
            let length = versions.len() as i64;
            let from = (first - 1 - offset).clamp(0, length) as usize;
            let to = (last - offset).clamp(0, length) as usize;
            versions
                .get(from..to.max(from))
                .unwrap_or_default()
                .to_vec()
        };
        let mut files = Vec::new();
        if boundary > 0 && first <= boundary && last >= first {
            files = slice(&self.checkpointed(folder).await?.versions, 0);
        }
        files.extend(slice(&self.tail.versions, boundary));
        Ok(files)
    }

    /// The newest version of the file at a path.
    pub(super) fn newest<'a>(&'a self, loaded: &Loaded<'a>, path: &str) -> Option<&'a FileVersion> {
        self.tail
            .newest(path)
            .or_else(|| loaded.0.and_then(|files| files.newest(path)))
    }

    /// Whether no later version is of the same path.
    pub(super) fn is_newest(&self, loaded: &Loaded<'_>, file: &FileVersion) -> bool {
        let newest = self.newest(loaded, &file.path);
        newest.is_none_or(|newest| newest.version == file.version)
    }

    /// Whether a file was set aside as a whole.
    pub(super) fn is_set_aside(&self, file: &FileVersion) -> bool {
        let shape = self.shape(file.shape);
        shape.is_ok_and(|shape| shape.unreadable.is_some())
    }

    /// Makes sure that the files of the checkpoint are in memory, as [`Self::newest`] needs them.
    pub(super) async fn load(&self, folder: &LedgerFolder) -> Result<Loaded<'_>> {
        Ok(Loaded(match self.checkpoint {
            Some(_) => Some(self.checkpointed(folder).await?),
            None => None,
        }))
    }

    async fn checkpointed(&self, folder: &LedgerFolder) -> Result<&Files> {
        let batch = self.checkpoint.as_ref().map_or(0, |head| head.batch);
        self.checkpointed
            .get_or_try_init(|| async {
                let read = folder.read(&checkpoint_name(batch)).await;
                let files = match read.and_then(checkpoint::decode) {
                    Ok(files) => files,
                    // a newer one may have taken its place; the batches are there for ever
                    Err(_) => self.read_batches(folder).await?,
                };
                if files.len() as i64 != self.in_checkpoint() {
                    return Err(Error::invalid(format!(
                        "the ledger's checkpoint {} has {} files, and {} belong into it; remove it and {NEWEST_CHECKPOINT} beside it, and the \
                         batches will be read instead",
                        checkpoint_name(batch),
                        files.len(),
                        self.in_checkpoint()
                    )));
                }
                Ok(Files::new(files))
            })
            .await
    }

    /// The files of the checkpoint, from the batches that it sums up.
    async fn read_batches(&self, folder: &LedgerFolder) -> Result<Vec<FileVersion>> {
        let all = folder.read_on(Self::empty()).await?;
        let mut files = all.map_or(vec![], |all| all.tail.versions);
        files.truncate(usize::try_from(self.in_checkpoint()).unwrap_or(usize::MAX));
        Ok(files)
    }

    fn add(&mut self, head: BatchHead, files: Vec<FileVersion>) -> Result<()> {
        let expected = (self.last_batch + 1, self.versions() + 1);
        if (head.batch, head.first) != expected
            || self.id.as_ref().is_some_and(|id| *id != head.ledger)
        {
            return Err(Error::invalid(format!(
                "the ledger's batch {} does not follow the one before it (it begins with version {}, and {} is due); its files have been \
                 mixed with another ledger's: restore them from a copy, or remove the ledger and let every consumer begin anew",
                head.batch, head.first, expected.1
            )));
        }
        for shape in head.shapes {
            let number = self.shapes.len() as u32;
            let mut having = files.iter().filter(|file| file.shape == number);
            let since = having.next().map_or(head.first, |file| file.version);
            self.shapes.push((since, shape));
        }
        let before = std::mem::take(&mut self.greatest);
        let least = files.iter().map(|file| &file.path).min();
        // within one discovery files come by their times, and are after all before if all of them are
        let last_of_others = match head.continues {
            true => self.before_discovery.clone(),
            false => before.clone(),
        };
        let comes_after = least.is_none_or(|least| **least > *last_of_others);
        let is_first = last_of_others.is_empty();
        self.ordered &= is_first || comes_after;
        self.before_discovery = last_of_others;
        let greatest = files.iter().map(|file| file.path.as_ref()).max();
        self.greatest = greatest.unwrap_or_default().max(before.as_str()).to_owned();
        self.time = files.last().map_or(self.time, |file| file.time);
        self.id = Some(head.ledger);
        self.pattern = head.pattern;
        self.of = head.of;
        self.last_batch = head.batch;
        for file in files {
            self.tail.push(file);
        }
        Ok(())
    }
}

/// The files of a checkpoint, in memory.
pub(super) struct Loaded<'a>(Option<&'a Files>);

#[cfg(test)]
mod tests;
