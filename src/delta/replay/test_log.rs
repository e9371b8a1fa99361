//! A table that is nothing but a log, for tests.

use std::collections::HashMap;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::delta::table::DeltaTable;

/// The log, and the table that it makes.
pub(crate) struct TestLog {
    folder: TempDir,
    pub table: DeltaTable,
}

impl TestLog {
    /// A log without any commit.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("_delta_log")).unwrap();
        let location = folder.path().to_str().unwrap();
        let table = DeltaTable::new("t", location, HashMap::new()).unwrap();
        Self { folder, table }
    }

    /// One whose commits are versions 0 to `last`; the first says that the table is called `name`.
    pub(crate) fn with_commits(name: &str, last: i64) -> Self {
        let log = Self::new();
        log.put(&commit(0), &state(name));
        for version in 1..=last {
            log.put(&commit(version), &add(version));
        }
        log
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("_delta_log").join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn remove_commits(&self, first: i64, last: i64) {
        for version in first..=last {
            self.remove(&commit(version));
        }
    }

    /// Writes a V2 checkpoint that says that the table is called `name`, and makes it the last one.
    pub(crate) fn put_checkpoint(&self, name: &str, version: i64) {
        let file = format!("{version:020}.checkpoint.2a15d0c6-8b11-4a98-bab4-957905d62f7f.json");
        let first = format!("{{\"checkpointMetadata\":{{\"version\":{version}}}}}\n");
        self.put(&file, &(first + &state(name)));
        let last =
            format!(r#"{{"version":{version},"size":3,"v2Checkpoint":{{"path":"{file}"}}}}"#);
        self.put("_last_checkpoint", &last);
    }
}

/// The name of a commit file.
pub(crate) fn commit(version: i64) -> String {
    format!("{version:020}.json")
}

/// Protocol and metadata of a table of this name and id.
pub(crate) fn state(name: &str) -> String {
    let protocol = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;
    let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}"#;
    let metadata = format!(
        r#"{{"metaData":{{"id":"{name}","name":"{name}","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":[],"configuration":{{"a":"b"}}}}}}"#
    );
    format!("{protocol}\n{metadata}\n")
}

/// A commit that adds the file `<version>.parquet`.
pub(crate) fn add(version: i64) -> String {
    format!(
        r#"{{"add":{{"path":"{version}.parquet","partitionValues":{{}},"size":1,"modificationTime":0,"dataChange":true}}}}"#
    )
}
