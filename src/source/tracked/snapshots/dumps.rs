//! The dumps of a location: which files make up each of them, and which version it is.
//!
//! A dump is all files that share its name, each as it was when it was last found. Dumps are numbered in the order of their names.
//! What was found once is in the ledger for ever: a dump that is removed keeps its number, and one whose name comes before another
//! that had been found earlier has no place any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::dump_table::Content;
use super::keys_exec::KeysOf;
use super::place::Place;
use crate::change::ChangeRange;
use crate::error::{Error, Result};
use crate::source::KnownFile;
use crate::source::files::{ChangeFiles, FilesNow};
use crate::source::tracked::VersionBounds;

/// The fingerprint of the empty source (FNV-1a, 64 bits).
const NO_DUMPS: u64 = 0xcbf2_9ce4_8422_2325;

/// A dump.
#[derive(Debug)]
pub(crate) struct Dump {
    name: Arc<str>,
    /// The newest version of each of its files, by path.
    files: Vec<KnownFile>,
    /// The version of the first of its files that was found.
    first: i64,
    time: i64,
    fingerprint: u64,
}

impl Dump {
    /// The name that its files share.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// When its newest file was changed, in microseconds since the epoch; never before the dump before it.
    pub(crate) fn time(&self) -> i64 {
        self.time
    }

    /// A file of it that is not there any more, if any is not.
    pub(crate) fn missing(&self) -> Option<&str> {
        let file = self.files.iter().find(|file| !file.is_there);
        file.map(|file| file.path.as_ref())
    }

    /// Whether it is gone as a whole; what has no content cannot be missed.
    fn is_gone(&self) -> bool {
        let mut files = self.files.iter();
        !files.any(|file| file.is_there && file.size > 0)
    }

    fn versions(&self) -> Vec<i64> {
        self.files.iter().map(|file| file.version).collect()
    }
}

/// The dumps of a location at one moment.
#[derive(Debug)]
pub(crate) struct Dumps {
    source: Arc<str>,
    now: Arc<FilesNow>,
    dumps: Vec<Dump>,
    /// How many names make up that of a dump.
    depth: usize,
    keys: Vec<String>,
    /// Columns that there are whatever a dump has.
    declared: Vec<String>,
}

impl Dumps {
    /// Looks for the dumps that there are.
    ///
    /// # Errors
    /// When the location cannot be read, or a dump has been found later than one that has to come after it.
    pub(super) async fn find(
        source: &str,
        files: &ChangeFiles,
        place: &Place,
        declared: &[String],
    ) -> Result<Self> {
        let now = files.now().await?;
        let found = grouped(place, now.known());
        let in_order = found.is_sorted_by_key(|dump| dump.first);
        let discoveries = match found.iter().map(|dump| dump.first).max() {
            Some(last) if !in_order => now.discoveries(last).await?,
            _ => vec![],
        };
        Ok(Self {
            source: source.into(),
            now: Arc::new(now),
            dumps: numbered(without_late(source, found, &discoveries)?),
            depth: place.depth(),
            keys: files.key().to_vec(),
            declared: declared.to_vec(),
        })
    }

    /// The files of which they are made.
    pub(super) fn files(&self) -> &FilesNow {
        &self.now
    }

    /// All of them, beginning with that of version 1.
    pub(crate) fn all(&self) -> &[Dump] {
        &self.dumps
    }

    /// The newest version.
    pub(super) fn current(&self) -> i64 {
        self.dumps.len() as i64
    }

    /// The versions whose changes can be read.
    pub(super) fn bounds(&self) -> VersionBounds {
        let current = self.current();
        let gone = self.dumps.iter().rposition(|dump| dump.missing().is_some());
        VersionBounds {
            current,
            // what follows a version is told by that version and all after it
            min_valid: gone.map_or(0, |index| (index as i64 + 2).min(current)),
            reaches_creation: gone.is_none(),
        }
    }

    /// The newest version at or before a time; 0 where all are later.
    pub(super) fn version_at(&self, micros: i64) -> i64 {
        self.dumps.partition_point(|dump| dump.time <= micros) as i64
    }

    /// When a version was written; version 0 never was.
    pub(super) fn time(&self, version: i64) -> Result<Option<i64>> {
        Ok(self.dump(version)?.map(Dump::time))
    }

    /// Tells the files of the dumps up to a version from all others.
    pub(super) fn fingerprint(&self, version: i64) -> Result<i64> {
        let dump = self.dump(version)?;
        let hash = dump.map_or(NO_DUMPS, |dump| dump.fingerprint);
        Ok((hash >> 1).cast_signed())
    }

    /// The dump of a version; `None` for version 0.
    pub(super) fn dump(&self, version: i64) -> Result<Option<&Dump>> {
        if version == 0 {
            return Ok(None);
        }
        let index = usize::try_from(version - 1).ok();
        let dump = index.and_then(|index| self.dumps.get(index));
        let unknown = || Error::internal(format!("{} has no version {version}", self.source));
        dump.map(Some).ok_or_else(unknown)
    }

    /// Refuses a range of which a dump is gone, the one included with which the first is compared.
    pub(super) fn check(&self, range: &ChangeRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        for version in range.since().max(1)..=range.until() {
            let Some(dump) = self.dump(version)? else {
                continue;
            };
            let Some(file) = dump.missing() else { continue };
            let bounds = self.bounds();
            return Err(Error::ChangesExpired {
                table: self.source.to_string(),
                requested: match range.from_creation() {
                    true => "NULL".into(),
                    false => range.since().to_string(),
                },
                oldest: bounds.min_valid.to_string(),
                current: bounds.current,
                reason: format!(
                    "the file {file} of version {version} (the dump {:?}) has been removed since",
                    dump.name
                ),
            });
        }
        Ok(())
    }

    /// Refuses the rows of a dump that is gone.
    pub(super) fn check_rows(&self, version: i64) -> Result<()> {
        let dump = self.dump(version)?;
        match dump.and_then(|dump| Some((dump, dump.missing()?))) {
            None => Ok(()),
            Some((dump, file)) => Err(Error::invalid(format!(
                "the rows of version {version} of {} cannot be read: the file {file} of the dump {:?} has been removed since; put it back as it \
                 was, or wait for the next dump",
                self.source, dump.name
            ))),
        }
    }

    /// Positions among the columns of all files of those that a version has: its dump's, those of all dumps before it, and the
    /// declared ones. A column that a dump no longer has is NULL in it: who keeps a copy has to be told. Where no dump has had
    /// content so far, they are those of the next one that has.
    pub(super) fn columns(&self, version: i64) -> Result<Vec<usize>> {
        let held = self.now.held();
        let declared = self.declared.iter();
        let mut columns: Vec<usize> = declared
            .filter_map(|name| held.index_of(name).ok())
            .collect();
        let mut files = Vec::new();
        for version in 1..=version {
            files.extend(self.dump(version)?.map(Dump::versions).unwrap_or_default());
        }
        let mut present = self.now.columns(&files, self.depth)?;
        let mut after = version + 1..=self.current();
        while present.is_empty()
            && let Some(version) = after.next()
        {
            present = self.present(version)?;
        }
        columns.extend(present);
        columns.sort_unstable();
        columns.dedup();
        Ok(columns)
    }

    /// What can be read of a version; `None` where there is nothing in it.
    ///
    /// # Errors
    /// When the dump lacks a column of the key.
    pub(super) fn content(&self, version: i64) -> Result<Option<Content>> {
        let present = self.present(version)?;
        let Some(dump) = self.dump(version)?.filter(|_| !present.is_empty()) else {
            return Ok(None);
        };
        let held = self.now.held();
        let position = |key: &String| {
            let index = held.index_of(key).ok();
            let index = index.filter(|index| present.contains(index));
            index.ok_or_else(|| {
                let names = present.iter().map(|index| held.field(*index).name().as_str());
                Error::invalid(format!(
                    "the dump {:?} of {} has no column {key:?}, which the option key names; its columns are {}",
                    dump.name,
                    self.source,
                    names.collect::<Vec<_>>().join(", ")
                ))
            })
        };
        let keys = self.keys.iter().map(position).collect::<Result<_>>()?;
        Ok(Some(Content {
            now: Arc::clone(&self.now),
            of: KeysOf {
                source: Arc::clone(&self.source),
                dump: Arc::clone(&dump.name),
            },
            versions: dump.versions(),
            present,
            keys,
        }))
    }

    /// The columns that the files of a dump have, those of its own name left out: they would differ in every dump.
    fn present(&self, version: i64) -> Result<Vec<usize>> {
        match self.dump(version)? {
            Some(dump) => self.now.columns(&dump.versions(), self.depth),
            None => Ok(vec![]),
        }
    }
}

/// Files by the dump that they belong to, in the order of the names.
fn grouped(place: &Place, known: &[KnownFile]) -> Vec<Dump> {
    /// The version that was found first, and the newest of each path.
    type Files<'a> = (i64, BTreeMap<&'a str, &'a KnownFile>);
    let mut groups: BTreeMap<Vec<&str>, Files<'_>> = BTreeMap::new();
    for file in known {
        if let Some(name) = place.dump_of(&file.path) {
            let names = name.split('/').collect();
            let (_, files) = groups
                .entry(names)
                .or_insert_with(|| (file.version, BTreeMap::new()));
            files.insert(&file.path, file);
        }
    }
    let groups = groups.into_iter();
    let dumps = groups.map(|(names, (first, files))| Dump {
        name: names.join("/").into(),
        files: files.into_values().cloned().collect(),
        first,
        time: 0,
        fingerprint: 0,
    });
    dumps.collect()
}

/// Leaves out dumps that were found later than one that has to come after them, and are gone by now. `discoveries` are the first
/// versions of each, or none where all dumps were found in the order of their names.
///
/// # Errors
/// When such a dump is still there.
fn without_late(source: &str, dumps: Vec<Dump>, discoveries: &[i64]) -> Result<Vec<Dump>> {
    let found_in = |dump: &Dump| discoveries.partition_point(|first| *first <= dump.first);
    let mut in_time: Vec<usize> = (0..dumps.len()).collect();
    in_time.sort_by_key(|index| (found_in(&dumps[*index]), *index));
    let mut is_late = vec![false; dumps.len()];
    // the greatest of all discoveries before, and of all
    let (mut before, mut greatest): (Option<usize>, Option<usize>) = (None, None);
    let mut discovery = 0;
    for index in in_time {
        let dump = &dumps[index];
        if found_in(dump) != discovery {
            (before, discovery) = (greatest, found_in(dump));
        }
        match before.filter(|before| index < *before) {
            None => greatest = greatest.max(Some(index)),
            Some(_) if dump.is_gone() => is_late[index] = true,
            Some(before) => return Err(late(source, dump, &dumps[before])),
        }
    }
    let dumps = dumps.into_iter().zip(is_late);
    let in_time = dumps.filter(|(_, is_late)| !is_late);
    Ok(in_time.map(|(dump, _)| dump).collect())
}

fn late(source: &str, dump: &Dump, before: &Dump) -> Error {
    Error::invalid(format!(
        "LATE_DUMP: the dump {:?} of {source} has been found after {:?}, whose name comes after it (names are compared as text); versions count \
         dumps by name, so it would change what versions mean that others may have read. Give it a name that comes last, or remove it; or begin \
         anew with a ledger of its own, OPTIONS (ledger '…')",
        dump.name, before.name
    ))
}

/// With times that never go back, and fingerprints that each stand on the one before.
fn numbered(mut dumps: Vec<Dump>) -> Vec<Dump> {
    let (mut time, mut fingerprint) = (i64::MIN, NO_DUMPS);
    for dump in &mut dumps {
        fingerprint = hashed(fingerprint, &dump.name);
        for file in &dump.files {
            time = time.max(file.time);
            let e_tag = file.e_tag.as_deref().unwrap_or_default();
            // a version of the ledger stands for one content of one file
            let text = format!("{}\n{}\n{}\n{e_tag}", file.path, file.version, file.size);
            fingerprint = hashed(fingerprint, &text);
        }
        (dump.time, dump.fingerprint) = (time, fingerprint);
    }
    dumps
}

/// FNV-1a, which is the same in every release: fingerprints are kept by those who follow.
fn hashed(hash: u64, text: &str) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = text.bytes().chain([0]);
    bytes.fold(hash, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(version: i64, path: &str, is_there: bool) -> KnownFile {
        KnownFile {
            version,
            path: path.into(),
            size: 1,
            e_tag: None,
            time: version * 10,
            is_there,
        }
    }

    /// The dumps of files `path` or, where they are gone, `-path`, in the order in which they were found; `|` stands between
    /// discoveries.
    fn dumps(location: &str, files: &str) -> Result<Vec<Dump>> {
        let (mut known_files, mut discoveries) = (vec![], vec![]);
        for discovery in files.split('|') {
            discoveries.push(known_files.len() as i64 + 1);
            for path in discovery.split_whitespace() {
                let version = known_files.len() as i64 + 1;
                let there = path.strip_prefix('-');
                known_files.push(known(version, there.unwrap_or(path), there.is_none()));
            }
        }
        let (_, place) = Place::parse(location)?;
        let dumps = without_late("s", grouped(&place, &known_files), &discoveries)?;
        Ok(numbered(dumps))
    }

    fn check(location: &str, files: &str, expected: &[&str]) {
        let dumps = dumps(location, files).unwrap();
        let names: Vec<&str> = dumps.iter().map(Dump::name).collect();
        assert_eq!(names, expected, "{files}");
        assert!(dumps.is_sorted_by_key(Dump::time), "{files}");
    }

    #[test]
    fn dumps_are_in_the_order_of_their_names() {
        check("/d/", "b.csv a.csv", &["a.csv", "b.csv"]);
        check("/d/", "a.csv | b.csv | c/1 c/2", &["a.csv", "b.csv", "c"]);
        check("/d/*/", "a/2 a/1 | b/x/1 | a/3", &["a", "b"]);
        check("/d/*/*/", "a/b/1 a-c/b/1", &["a/b", "a-c/b"]);
        check("/d/*.csv", "a.csv x/b.csv", &["a.csv"]);
    }

    #[test]
    fn late_dumps_are_refused_while_they_are_there() {
        let error = dumps("/d/", "a c | b").unwrap_err().to_string();
        assert!(error.contains("LATE_DUMP: the dump \"b\" of s has been found after \"c\""));
        check("/d/", "a c | -b", &["a", "c"]);
        check("/d/", "a c | -b | d", &["a", "c", "d"]);
        check("/d/", "-a c | d", &["a", "c", "d"]);
        check("/d/", "c a", &["a", "c"]);
        assert!(dumps("/d/", "c | -b | a").is_err());
    }

    #[test]
    fn fingerprints_stand_for_all_dumps_so_far() {
        let fingerprints = |files: &str| -> Vec<u64> {
            let dumps = dumps("/d/*/", files).unwrap();
            dumps.iter().map(|dump| dump.fingerprint).collect()
        };
        let three = fingerprints("a/1 | b/1 | c/1");
        assert_eq!(fingerprints("-a/1 | b/1 | c/1"), three);
        assert_eq!(fingerprints("a/1 | b/1")[..], three[..2]);
        let grown = fingerprints("a/1 | b/1 | c/1 | b/2");
        assert_eq!((grown[0], grown.len()), (three[0], 3));
        assert!(grown[1] != three[1] && grown[2] != three[2]);
        let replaced = fingerprints("a/1 | b/1 | c/1 | b/1");
        assert!(replaced[1] != three[1] && replaced[2] != three[2]);
    }
}
