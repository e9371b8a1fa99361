//! What a listing of the log tells: which commits there are, and the newest checkpoint.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::path::Path;

use super::checkpoint::{Checkpoint, Form, LogFile};
use crate::delta::log::commit_path;
use crate::delta::table::DeltaTable;
use crate::error::Result;

/// As many versions back from one that is asked for a checkpoint is looked for before the whole log is listed.
const NEAR: i64 = 1000;

/// Commits and checkpoints, the latter with those of their files that are there.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In ascending order.
    commits: Vec<i64>,
    checkpoints: BTreeMap<(i64, Form), Vec<Path>>,
}

impl Listing {
    /// What there is up to a version, as far back as it matters.
    pub(super) async fn up_to(table: &DeltaTable, last: Option<i64>) -> Result<Self> {
        if let Some(last) = last
            && last > NEAR
        {
            let near = Self::read(table, Some(last - NEAR), Some(last)).await?;
            if near.checkpoint().is_some() {
                return Ok(near);
            }
        }
        Self::read(table, None, last).await
    }

    async fn read(table: &DeltaTable, after: Option<i64>, last: Option<i64>) -> Result<Self> {
        let (store, prefix) = (table.store(), Path::from("_delta_log"));
        let mut files = match after {
            Some(version) => store.list_with_offset(Some(&prefix), &commit_path(version)),
            None => store.list(Some(&prefix)),
        };
        // a local disk lists files in no order
        let is_ordered = table.location().scheme() != "file";
        let mut listing = Self::default();
        while let Some(file) = files.try_next().await? {
            let name = file.location.as_ref().strip_prefix("_delta_log/");
            let found = name.and_then(LogFile::parse);
            let is_past = match &found {
                Some(LogFile::Commit(version) | LogFile::Checkpoint(version, _)) => {
                    last.is_some_and(|last| *version > last)
                }
                // such as `_sidecars`
                None => name.is_some_and(|name| name > ":"),
            };
            match found {
                _ if is_past && is_ordered => break,
                Some(LogFile::Commit(version)) if !is_past => listing.commits.push(version),
                Some(LogFile::Checkpoint(version, form)) if !is_past && file.size > 0 => {
                    let files = listing.checkpoints.entry((version, form)).or_default();
                    files.push(file.location);
                }
                _ => {}
            }
        }
        listing.commits.sort_unstable();
        for files in listing.checkpoints.values_mut() {
            files.sort_unstable();
        }
        Ok(listing)
    }

    /// The newest checkpoint that is there as a whole.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoints().next()
    }

    /// The complete checkpoints, the newest first.
    pub(super) fn checkpoints(&self) -> impl Iterator<Item = Checkpoint> {
        let newest_first = self.checkpoints.iter().rev();
        newest_first
            .filter(|((_, form), files)| files.len() == form.count())
            .map(|((version, _), files)| Checkpoint {
                version: *version,
                files: files.clone(),
            })
    }

    /// The newest version.
    pub(super) fn newest(&self) -> Option<i64> {
        let checkpoint = self.checkpoint().map(|checkpoint| checkpoint.version);
        self.commits.last().copied().max(checkpoint)
    }

    /// Whether every commit from `first` to `last` is there.
    pub(super) fn has_commits(&self, first: i64, last: i64) -> bool {
        if first > last {
            return true;
        }
        let Ok(start) = self.commits.binary_search(&first) else {
            return false;
        };
        // no version is there twice
        let end = usize::try_from(last - first).map(|count| start + count);
        end.is_ok_and(|end| self.commits.get(end) == Some(&last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_commits_have_no_gaps() {
        let listing = Listing {
            commits: vec![3, 4, 5, 7],
            ..Listing::default()
        };
        for (first, last, expected) in [
            (3, 5, true),
            (4, 4, true),
            (5, 7, false),
            (2, 4, false),
            (7, 8, false),
            (8, 7, true),
        ] {
            assert_eq!(
                listing.has_commits(first, last),
                expected,
                "{first}..{last}"
            );
        }
    }
}
