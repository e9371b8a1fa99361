//! Checkpoints: their names, the newest one by `_last_checkpoint`, and what they say of metadata and protocol.
//!
//! A V2 checkpoint holds both itself, whatever its sidecars hold; of one in many parts any part may (*Checkpoints*).

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::Deserialize;

use super::Found;
use super::checkpoint_file::read_parquet;
use crate::delta::table::DeltaTable;
use crate::error::Result;

/// How many parts are read at once.
const CONCURRENT_PARTS: usize = 4;
/// As many versions back from one that is asked for a checkpoint is looked for by name.
const MAX_BEFORE: i64 = 64;
/// Nobody writes one with more.
const MAX_PARTS: u32 = 100_000;

/// A checkpoint that is there as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checkpoint {
    pub version: i64,
    pub files: Vec<Path>,
}

/// How the files of a checkpoint are named; of several checkpoints of a version the greatest is read, as by Spark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// `<version>.checkpoint.parquet`
    Classic,
    /// `<version>.checkpoint.<part>.<parts>.parquet`
    Parts(u32),
    /// `<version>.checkpoint.<uuid>.json` or `.parquet`
    Unique(String),
}

impl Form {
    /// How many files there have to be.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Parts(parts) => usize::try_from(*parts).unwrap_or(usize::MAX),
            Self::Classic | Self::Unique(_) => 1,
        }
    }
}

/// A file of the log that counts, by its name.
#[derive(Debug, PartialEq)]
pub(super) enum LogFile {
    Commit(i64),
    Checkpoint(i64, Form),
}

impl LogFile {
    /// What the name of a file in `_delta_log` stands for; `None` for whatever else lies there.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (version, rest) = name.split_once('.')?;
        let version: i64 = number(version, 20)?;
        let rest: Vec<&str> = rest.split('.').collect();
        match rest.as_slice() {
            ["json"] => Some(Self::Commit(version)),
            ["checkpoint", "parquet"] => Some(Self::Checkpoint(version, Form::Classic)),
            ["checkpoint", unique, "json" | "parquet"] if unique.len() == 36 => {
                Some(Self::Checkpoint(version, Form::Unique(name.into())))
            }
            ["checkpoint", part, parts, "parquet"] => {
                let (part, parts): (u32, u32) = (number(part, 10)?, number(parts, 10)?);
                (1..=parts)
                    .contains(&part)
                    .then_some(Self::Checkpoint(version, Form::Parts(parts)))
            }
            _ => None,
        }
    }
}

/// `_last_checkpoint`; it may say more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LastCheckpoint {
    version: i64,
    parts: Option<u32>,
    v2_checkpoint: Option<NamedFile>,
}

#[derive(Deserialize)]
struct NamedFile {
    path: String,
}

impl Checkpoint {
    /// The newest one, as `_last_checkpoint` has it, which may be old; `None` where that is missing or makes no sense.
    pub(super) async fn last(table: &DeltaTable) -> Result<Option<Self>> {
        let bytes = match table.store().get(&log_path("_last_checkpoint")).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let last: Option<LastCheckpoint> = serde_json::from_slice(&bytes).ok();
        Ok(last.and_then(Self::named))
    }

    fn named(last: LastCheckpoint) -> Option<Self> {
        let LastCheckpoint { version, parts, .. } = last;
        let files = match (last.v2_checkpoint, parts) {
            (Some(file), _) => match LogFile::parse(&file.path)? {
                LogFile::Checkpoint(of, Form::Classic | Form::Unique(_)) if of == version => {
                    vec![log_path(&file.path)]
                }
                _ => return None,
            },
            (None, Some(parts)) if parts > MAX_PARTS => return None,
            (None, Some(parts)) => (1..=parts)
                .map(|part| {
                    log_path(&format!(
                        "{version:020}.checkpoint.{part:010}.{parts:010}.parquet"
                    ))
                })
                .collect(),
            (None, None) => vec![classic(version)],
        };
        (version >= 0).then_some(Self { version, files })
    }

    /// The newest one not after `version`, if there is one nearby of a name that can be told.
    pub(super) async fn before(&self, table: &DeltaTable, version: i64) -> Result<Option<Self>> {
        // on an object store one listing from an offset tells the same
        if table.location().scheme() != "file" || self.files != [classic(self.version)] {
            return Ok(None);
        }
        let store = table.store();
        let oldest = (version - MAX_BEFORE + 1).max(0);
        let mut looks = stream::iter((oldest..=version).rev())
            .map(|version| {
                let store = &store;
                async move {
                    match store.head(&classic(version)).await {
                        Ok(meta) => Ok((meta.size > 0).then_some(version)),
                        Err(object_store::Error::NotFound { .. }) => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            })
            .buffered(usize::try_from(MAX_BEFORE).unwrap_or(1));
        while let Some(found) = looks.try_next().await? {
            if let Some(version) = found {
                let files = vec![classic(version)];
                return Ok(Some(Self { version, files }));
            }
        }
        Ok(None)
    }

    /// What it says; parts are read until both are found.
    pub(super) async fn read(&self, table: &DeltaTable) -> Result<Found> {
        let mut parts = stream::iter(self.files.clone())
            .map(|path| read_file(table, path))
            .buffered(CONCURRENT_PARTS);
        let mut found = Found::default();
        while let Some(part) = parts.try_next().await? {
            found = found.or(part);
            if found.is_whole() {
                break;
            }
        }
        Ok(found)
    }
}

async fn read_file(table: &DeltaTable, path: Path) -> Result<Found> {
    let store = table.store();
    if path.as_ref().ends_with(".json") {
        return Found::read(&store.get(&path).await?.bytes().await?);
    }
    Box::pin(read_parquet(store, path)).await
}

fn classic(version: i64) -> Path {
    log_path(&format!("{version:020}.checkpoint.parquet"))
}

fn log_path(name: &str) -> Path {
    Path::from(format!("_delta_log/{name}"))
}

/// A number written with exactly so many digits.
fn number<T: std::str::FromStr>(text: &str, digits: usize) -> Option<T> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_files_are() {
        let unique = "00000000000000000006.checkpoint.2a15d0c6-8b11-4a98-bab4-957905d62f7f.json";
        for (name, expected) in [
            ("00000000000000000012.json", Some(LogFile::Commit(12))),
            (
                "00000000000000000012.checkpoint.parquet",
                Some(LogFile::Checkpoint(12, Form::Classic)),
            ),
            (
                "00000000000000000012.checkpoint.0000000002.0000000003.parquet",
                Some(LogFile::Checkpoint(12, Form::Parts(3))),
            ),
            (
                "00000000000000000012.checkpoint.0000000004.0000000003.parquet",
                None,
            ),
            (
                unique,
                Some(LogFile::Checkpoint(6, Form::Unique(unique.into()))),
            ),
            (
                "00000000000000000001.00000000000000000004.compacted.json",
                None,
            ),
            ("00000000000000000012.crc", None),
            (".00000000000000000012.json.crc", None),
            ("._00000000000000000012.json", None),
            ("12.json", None),
            ("_last_checkpoint", None),
            ("_sidecars/00000000000000000012.checkpoint.parquet", None),
        ] {
            assert_eq!(LogFile::parse(name), expected, "{name}");
        }
    }

    #[test]
    fn the_last_checkpoint_names_files() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let last = serde_json::from_str(text).unwrap();
            let files = Checkpoint::named(last).map(|checkpoint| checkpoint.files);
            let expected = expected.map(|names| names.iter().map(|name| log_path(name)).collect());
            assert_eq!(files, expected, "{text}");
        };
        check(
            r#"{"version":7,"size":3}"#,
            Some(&["00000000000000000007.checkpoint.parquet"]),
        );
        check(
            r#"{"version":7,"size":3,"parts":2}"#,
            Some(&[
                "00000000000000000007.checkpoint.0000000001.0000000002.parquet",
                "00000000000000000007.checkpoint.0000000002.0000000002.parquet",
            ]),
        );
        let unique = "00000000000000000006.checkpoint.2a15d0c6-8b11-4a98-bab4-957905d62f7f.json";
        let v2 = format!(r#"{{"version":6,"size":3,"v2Checkpoint":{{"path":"{unique}"}}}}"#);
        check(&v2, Some(&[unique]));
        check(&v2.replace("\"version\":6", "\"version\":7"), None);
        check(r#"{"version":-1,"size":3}"#, None);
    }
}
