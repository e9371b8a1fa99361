//! The actions of a commit as the Delta protocol writes them (*Actions*), one JSON object a line.
//!
//! Paths are kept exactly as the log has them, percent-encoding included, because readers compare the raw text when they
//! match a `remove` to its `add`; [`decode_path`] turns one into an object path, once. Unknown actions are skipped, unknown
//! features are kept by name.

use std::collections::HashMap;

use object_store::path::Path;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Partition values by (physical) column name; the empty string and NULL are the same value.
pub(crate) type PartitionValues = HashMap<String, Option<String>>;

/// One line of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    CommitInfo(CommitInfo),
    Protocol(Protocol),
    #[serde(rename = "metaData")]
    Metadata(Metadata),
    Txn(Txn),
    Add(Add),
    Remove(Remove),
    Cdc(AddCdcFile),
    DomainMetadata(DomainMetadata),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    pub path: String,
    #[serde(default)]
    pub partition_values: PartitionValues,
    pub size: i64,
    #[serde(default)]
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<HashMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_row_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_row_commit_version: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clustering_provider: Option<String>,
}

impl Add {
    /// The `remove` that takes this file, with its deletion vector, out of the table.
    pub(crate) fn to_remove(&self, deletion_timestamp: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            data_change,
            deletion_timestamp: Some(deletion_timestamp),
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            tags: self.tags.clone(),
            deletion_vector: self.deletion_vector.clone(),
            base_row_id: self.base_row_id,
            default_row_commit_version: self.default_row_commit_version,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub path: String,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<PartitionValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<HashMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVectorDescriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_row_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_row_commit_version: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddCdcFile {
    pub path: String,
    #[serde(default)]
    pub partition_values: PartitionValues,
    pub size: i64,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<HashMap<String, Option<String>>>,
}

/// Where a deletion vector lies (*Deletion Vector Descriptor Schema*).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeletionVectorDescriptor {
    /// `u` a UUID-named file of the table, `i` inline, `p` an absolute path.
    pub storage_type: String,
    pub path_or_inline_dv: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    pub size_in_bytes: i32,
    pub cardinality: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DomainMetadata {
    pub domain: String,
    pub configuration: String,
    #[serde(default)]
    pub removed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: HashMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    #[serde(default)]
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: HashMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

/// *Commit Provenance*: every field may be missing, and others may be there.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommitInfo {
    /// Must be the first field of the commit's first action where in-commit timestamps are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_commit_timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_parameters: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_metrics: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_version: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_level: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_blind_append: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<HashMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
}

/// A line as it is read: the actions we know, the rest ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<CommitInfo>,
    protocol: Option<Protocol>,
    meta_data: Option<Metadata>,
    txn: Option<Txn>,
    add: Option<Add>,
    remove: Option<Remove>,
    cdc: Option<AddCdcFile>,
    domain_metadata: Option<DomainMetadata>,
}

impl Line {
    fn into_action(self) -> Option<Action> {
        self.add
            .map(Action::Add)
            .or_else(|| self.remove.map(Action::Remove))
            .or_else(|| self.cdc.map(Action::Cdc))
            .or_else(|| self.commit_info.map(Action::CommitInfo))
            .or_else(|| self.meta_data.map(Action::Metadata))
            .or_else(|| self.protocol.map(Action::Protocol))
            .or_else(|| self.txn.map(Action::Txn))
            .or_else(|| self.domain_metadata.map(Action::DomainMetadata))
    }
}

/// Parses the bytes of a commit file.
///
/// # Errors
/// [`Error::DamagedLog`] naming the version and the line.
pub(crate) fn parse_commit(table: &str, version: i64, bytes: &[u8]) -> Result<Vec<Action>> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let filled = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parsed = filled.map(|(number, line)| {
        serde_json::from_slice::<Line>(line).map_err(|error| Error::DamagedLog {
            table: table.into(),
            detail: format!("line {} of commit {version}: {error}", number + 1),
        })
    });
    parsed
        .filter_map(|line| line.map(Line::into_action).transpose())
        .collect()
}

/// Writes actions as the bytes of a commit file.
///
/// # Errors
/// If an action cannot be written as JSON.
pub(crate) fn format_commit(actions: &[Action]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for action in actions {
        serde_json::to_writer(&mut bytes, action)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Whether a log path is an absolute URI such as `s3://bucket/a`, `file:/a` or `/a`.
pub(crate) fn is_absolute(raw: &str) -> bool {
    let is_scheme = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    raw.starts_with('/')
        || raw
            .split_once(":/")
            .is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// The object path of a log path, relative to the table: a percent-encoded URI, decoded exactly once.
///
/// # Errors
/// If it is not UTF-8, or an absolute URI (a file of another table, as shallow clones have).
pub(crate) fn decode_path(table: &str, raw: &str) -> Result<Path> {
    if is_absolute(raw) {
        return Err(Error::UnsupportedFeature {
            table: table.into(),
            needs: format!(
                "refers to the file {raw:?} outside of its own folder (a shallow clone)"
            ),
        });
    }
    let decoded = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|error| Error::DamagedLog {
            table: table.into(),
            detail: format!("the path {raw:?} is not UTF-8: {error}"),
        })?;
    Ok(Path::parse(decoded.as_ref())?)
}

/// Characters that a URI path may not hold; the set that delta-spark and delta-rs escape.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The log path of an object path relative to the table: the inverse of [`decode_path`].
pub(crate) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_and_encoded_back() {
        for (raw, decoded) in [
            ("part-0.parquet", "part-0.parquet"),
            ("c=a%20b/part-0.parquet", "c=a b/part-0.parquet"),
            ("c=a%253Ab/part-0.parquet", "c=a%3Ab/part-0.parquet"),
        ] {
            assert_eq!(decode_path("t", raw).unwrap().as_ref(), decoded);
            assert_eq!(encode_path(decoded), raw);
        }
        assert!(
            decode_path("t", "s3://other/part-0.parquet")
                .unwrap_err()
                .to_string()
                .contains("shallow clone")
        );
    }

    #[test]
    fn unknown_actions_and_fields_are_skipped() {
        let text = br#"{"commitInfo":{"operation":"WRITE","clusterId":"x"}}
{"newThing":{"a":1}}

{"remove":{"path":"a.parquet","dataChange":true}}"#;
        let actions = parse_commit("t", 3, text).unwrap();
        assert_eq!(actions.len(), 2);
        let error = parse_commit("t", 3, b"{\"add\":{}}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1 of commit 3"), "{error}");
    }
}
