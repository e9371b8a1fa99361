//! Which files tell the changes of one commit.

use super::feed_state::Feed;
use crate::delta::actions::{AddCdcFile, DeletionVectorDescriptor};
use crate::delta::log::Commit;
use crate::source::delta_feed::actions::{FileChange, is_silent_merge, pair, split};

/// Stored in the log itself: such a deletion vector is never gone.
const INLINE: &str = "i";

/// How the changes of a commit are known.
#[derive(Debug)]
pub(super) enum CommitChanges {
    /// It changed no row.
    Nothing,
    /// Change files tell them.
    CdcFiles(Vec<AddCdcFile>),
    /// What it did with data files tells them.
    DataFiles(Vec<FileChange>),
}

/// What must be there for the changes to be read.
#[derive(Debug)]
pub(super) enum NeededFile {
    /// A file, by its path in the log.
    File(String),
    /// A deletion vector of the file with this path.
    Vector(String, DeletionVectorDescriptor),
}

impl CommitChanges {
    /// Those of a commit.
    pub(super) fn of(commit: Commit) -> Self {
        let is_silent = is_silent_merge(&commit);
        let (cdc, mut adds, removes) = split(commit.actions);
        if !cdc.is_empty() {
            return Self::CdcFiles(cdc);
        }
        if is_silent {
            return Self::Nothing;
        }
        adds.retain(|add| add.data_change);
        let mut files = pair(adds, removes);
        files.retain(|change| !change.is_restated());
        if files.is_empty() {
            Self::Nothing
        } else {
            Self::DataFiles(files)
        }
    }

    /// How they are known, as the list calls it.
    pub(super) fn known_by(&self, feed: Feed) -> &'static str {
        match (self, feed) {
            (Self::Nothing, _) => "none",
            (_, Feed::Off | Feed::Unknown) => "derived",
            (Self::CdcFiles(_), Feed::On) => "cdc files",
            (Self::DataFiles(_), Feed::On) => "inferred",
        }
    }

    /// Every file that has to be there.
    pub(super) fn needed_files(&self) -> Vec<NeededFile> {
        match self {
            Self::Nothing => vec![],
            Self::CdcFiles(files) => {
                let files = files.iter();
                files
                    .map(|file| NeededFile::File(file.path.clone()))
                    .collect()
            }
            Self::DataFiles(files) => files.iter().flat_map(needed_by).collect(),
        }
    }
}

fn needed_by(change: &FileChange) -> Vec<NeededFile> {
    let path = change.path().to_owned();
    let vectors = change.vectors();
    let vectors = vectors.filter(|vector| vector.storage_type != INLINE);
    let vectors = vectors.map(|vector| NeededFile::Vector(path.clone(), vector.clone()));
    std::iter::once(NeededFile::File(path.clone()))
        .chain(vectors)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::actions::parse_commit;

    const VECTOR: &str = r#""deletionVector":{"storageType":"u","pathOrInlineDv":"v","sizeInBytes":1,"cardinality":1}"#;

    fn check(lines: &[&str], known_by: &str, needed: &[&str]) {
        let text = lines.join("\n");
        let changes = CommitChanges::of(Commit {
            version: 1,
            timestamp: 0,
            actions: parse_commit("t", 1, text.as_bytes()).unwrap(),
        });
        assert_eq!(changes.known_by(Feed::On), known_by, "{text}");
        let files = changes.needed_files().into_iter().map(|file| match file {
            NeededFile::File(path) => path,
            NeededFile::Vector(path, _) => format!("{path} vector"),
        });
        assert_eq!(files.collect::<Vec<_>>(), needed, "{text}");
    }

    #[test]
    fn a_commit_says_what_must_be_there() {
        let add = r#"{"add":{"path":"a","size":1,"dataChange":true}}"#;
        let moved = r#"{"add":{"path":"a","size":1,"dataChange":false}}"#;
        let remove = r#"{"remove":{"path":"a","dataChange":true}}"#;
        let cdc = r#"{"cdc":{"path":"c","size":1,"dataChange":false}}"#;
        let merge = r#"{"commitInfo":{"operation":"MERGE","operationMetrics":{"numTargetRowsInserted":"0","numTargetRowsUpdated":"0","numTargetRowsDeleted":"0"}}}"#;
        let marked = add.replace(r#""size":1"#, &format!(r#""size":1,{VECTOR}"#));
        check(&[], "none", &[]);
        check(&[add], "inferred", &["a"]);
        check(&[moved], "none", &[]);
        check(&[remove], "inferred", &["a"]);
        check(&[add, remove], "none", &[]);
        check(&[remove, &marked], "inferred", &["a", "a vector"]);
        check(&[add, remove, cdc], "cdc files", &["c"]);
        check(&[merge, add], "none", &[]);
    }

    #[test]
    fn without_a_feed_changes_are_derived() {
        assert_eq!(CommitChanges::Nothing.known_by(Feed::Off), "none");
        let files = CommitChanges::DataFiles(vec![]);
        assert_eq!(files.known_by(Feed::Off), "derived");
        assert_eq!(files.known_by(Feed::Unknown), "derived");
    }
}
