//! The first lines of many files at once: the columns of most files are those of one that has been looked at.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use encoding_rs::UTF_8;

use super::inspect::folder_values;
use super::ledger::FileVersion;
use super::location::Location;
use super::options::{FileFormat, FileOptions};
use super::reader::{CsvFormat, TextFormat, is_compressed};
use super::shape::Shape;

/// A header that is longer is not looked at here.
const MOST_BYTES: u64 = 16 * 1024;

/// The shapes of files by their first line and the columns of their path.
#[derive(Debug, Default)]
pub(super) struct KnownHeads(Mutex<HashMap<Head, Arc<Shape>>>);

/// What two files of one shape have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Head {
    line: Vec<u8>,
    in_path: Vec<String>,
}

impl KnownHeads {
    /// The shape of files that begin so.
    pub(super) fn get(&self, head: &Head) -> Option<Arc<Shape>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(head).map(Arc::clone)
    }

    /// Remembers the shape of files that begin so.
    pub(super) fn add(&self, head: Head, shape: &Arc<Shape>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(head, Arc::clone(shape));
    }
}

/// The heads of files whose columns are in their first line, where these can be read without waiting for each: of local CSV files.
pub(super) async fn heads(
    location: &Location,
    options: &FileOptions,
    files: &[FileVersion],
) -> Vec<Option<Head>> {
    let FileFormat::Text(TextFormat::Csv(csv)) = &options.format else {
        return vec![None; files.len()];
    };
    let is_plain = |file: &FileVersion| !is_compressed(options.compression, &file.path);
    let path_of = |file: &FileVersion| match csv.header && csv.encoding == UTF_8 && is_plain(file) {
        true => location.local_path(&file.path),
        false => None,
    };
    let wanted: Vec<(Option<PathBuf>, Arc<str>)> = files
        .iter()
        .map(|file| (path_of(file), Arc::clone(&file.path)))
        .collect();
    if wanted.iter().all(|(path, _)| path.is_none()) {
        return vec![None; files.len()];
    }
    let csv = csv.clone();
    let read = tokio::task::spawn_blocking(move || {
        let heads = wanted.into_iter().map(|(path, relative)| {
            let line = first_line(&csv, &path?)?;
            let in_path = folder_values(&relative).map(|(name, _)| name);
            Some(Head {
                line,
                in_path: in_path.collect(),
            })
        });
        heads.collect()
    });
    read.await.unwrap_or_else(|_| vec![None; files.len()])
}

/// The first line, where nothing in it needs a closer look.
fn first_line(csv: &CsvFormat, path: &PathBuf) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    let needs_look = |byte: &u8| {
        Some(*byte) == csv.quote || Some(*byte) == csv.escape || *byte == b'\r' || *byte > 0x7f
    };
    let is_comment = csv.comment.is_some() && bytes.first().copied() == csv.comment;
    (!bytes.is_empty() && !is_comment && !bytes.iter().any(needs_look)).then_some(bytes)
}
