//! One entry of the ledger: the files that one discovery found, as lines of JSON.
//!
//! ```text
//!  {"ledger":"<id>","batch":7,"first":1001,"time":1732190000000000,"shapes":[…]}     the head
//!  ["2026/11/a.csv",812,1732189999123456,"\"9b2c\"",0]                                version 1001
//!  ["2026/11/b.csv",640,1732189999456789,null,0]                                     version 1002
//! ```

use serde::{Deserialize, Serialize};

use super::FileVersion;
use crate::error::{Error, Result};
use crate::source::files::shape::Shape;

/// What a batch says beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::source::files) struct BatchHead {
    /// The ledger's identity, given by whoever wrote its first batch.
    pub ledger: String,
    /// The batch's number, from 1.
    pub batch: i64,
    /// The version of its first file.
    pub first: i64,
    /// When it was written, in microseconds since the epoch.
    pub time: i64,
    /// Whether it goes on with what the discovery of the batch before it has found.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// How many files it has.
    pub files: usize,
    /// Whose files these are, where the ledger does not lie beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Which files are taken; all readers of a ledger take the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The shapes that no earlier batch has; their numbers go on where those end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<Shape>,
}

/// A file as a line: path, size, time of its last change, etag, number of its shape.
pub(super) type Line<'a> = (
    std::borrow::Cow<'a, str>,
    u64,
    i64,
    Option<std::borrow::Cow<'a, str>>,
    u32,
);

/// A batch and its files, as it is stored.
pub(super) fn encode(head: &BatchHead, files: &[FileVersion]) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(head)?;
    text.push(b'\n');
    for file in files {
        let line: Line<'_> = (
            file.path.as_ref().into(),
            file.size,
            file.modified,
            file.e_tag.as_deref().map(Into::into),
            file.shape,
        );
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Reads a batch back. The versions' times come after `time`, the last before.
///
/// # Errors
/// When it is not what [`encode`] writes, naming `name`.
pub(super) fn decode(name: &str, text: &[u8], time: i64) -> Result<(BatchHead, Vec<FileVersion>)> {
    let damaged = |error: serde_json::Error| {
        Error::invalid(format!(
            "the ledger's file {name} is damaged ({error}); it numbers files for every reader: restore it from a copy, or remove the ledger \
             and let every consumer begin anew"
        ))
    };
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let head: BatchHead =
        serde_json::from_slice(lines.next().unwrap_or_default()).map_err(damaged)?;
    let mut files = Vec::new();
    let (mut version, mut time) = (head.first, time);
    for line in lines {
        let (path, size, modified, e_tag, shape): Line<'_> =
            serde_json::from_slice(line).map_err(damaged)?;
        time = commit_time(time, modified, head.time);
        files.push(FileVersion {
            version,
            path: path.as_ref().into(),
            size,
            modified,
            e_tag: e_tag.map(|tag| tag.as_ref().into()),
            shape,
            time,
        });
        version += 1;
    }
    if files.len() != head.files {
        let missing = format!("{} of {} files", files.len(), head.files);
        return Err(damaged(serde::de::Error::custom(missing)));
    }
    Ok((head, files))
}

/// The time of a version: that of its file, but never before the version before it, and never later than its discovery unless
/// that is.
pub(super) fn commit_time(before: i64, modified: i64, discovered: i64) -> i64 {
    before.max(modified.min(discovered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_read_back() {
        let head = BatchHead {
            ledger: "id".into(),
            batch: 2,
            first: 8,
            time: 100,
            continues: false,
            files: 3,
            of: None,
            pattern: Some("*.csv".into()),
            shapes: vec![],
        };
        let file = |version, path: &str, modified, time| FileVersion {
            version,
            path: path.into(),
            size: 3,
            modified,
            e_tag: Some("\"x\"".into()),
            shape: 0,
            time,
        };
        let files = vec![
            file(8, "a \"b\"/ü.csv", 50, 60),
            file(9, "c", 70, 70),
            file(10, "from the future", 900, 100),
        ];
        let text = encode(&head, &files).unwrap();
        assert_eq!(decode("n", &text, 60).unwrap(), (head, files));
        let cut = decode("n", &text[..text.len() - 4], 60).unwrap_err();
        assert!(cut.to_string().contains("file n is damaged"), "{cut}");
    }
}
