//! How many rows a commit has inserted, updated and deleted, as far as it says so itself.
//!
//! What an operation has counted comes first: it knows updates, and rows that were only copied. What it has not counted is read off
//! the actions, where these tell: new files by their statistics, marked rows by the sizes of deletion vectors.

use serde_json::{Map, Value};

use super::commit_changes::CommitChanges;
use super::feed_state::Feed;
use crate::delta::actions::{Add, CommitInfo, Remove};
use crate::delta::stats::live_records;
use crate::source::delta_feed::actions::FileChange;

/// Puts earlier deletion vectors back, which may have other rows than the ones in their place and as many.
const RESTORE: &str = "RESTORE";

/// Rows by what was done to them; NULL where the commit does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowCounts {
    pub inserts: Option<i64>,
    pub updates: Option<i64>,
    pub deletes: Option<i64>,
}

impl RowCounts {
    const UNKNOWN: Self = Self {
        inserts: None,
        updates: None,
        deletes: None,
    };
    const ZERO: Self = Self {
        inserts: Some(0),
        updates: Some(0),
        deletes: Some(0),
    };

    /// Those of a commit.
    pub(super) fn new(info: Option<&CommitInfo>, changes: &CommitChanges, feed: Feed) -> Self {
        let inferred = match changes {
            CommitChanges::Nothing => return Self::ZERO,
            CommitChanges::CdcFiles(_) => Self::UNKNOWN,
            CommitChanges::DataFiles(files) => {
                let operation = info.and_then(|info| info.operation.as_deref());
                of_files(files, operation == Some(RESTORE), feed)
            }
        };
        let metrics = info.and_then(|info| info.operation_metrics.as_ref());
        let counted = metrics.map_or(Self::UNKNOWN, of_metrics);
        Self {
            inserts: counted.inserts.or(inferred.inserts),
            updates: counted.updates.or(inferred.updates),
            deletes: counted.deletes.or(inferred.deletes),
        }
    }
}

/// What an operation has counted, by the names that delta-spark and, in lower case, delta-rs give it.
fn of_metrics(metrics: &Map<String, Value>) -> RowCounts {
    let count = |names: [&str; 2]| names.iter().find_map(|name| number(metrics.get(*name)?));
    let merged = RowCounts {
        inserts: count(["numTargetRowsInserted", "num_target_rows_inserted"]),
        updates: count(["numTargetRowsUpdated", "num_target_rows_updated"]),
        deletes: count(["numTargetRowsDeleted", "num_target_rows_deleted"]),
    };
    if merged != RowCounts::UNKNOWN {
        return merged;
    }
    let updates = count(["numUpdatedRows", "num_updated_rows"]);
    if updates.is_some() {
        return RowCounts {
            updates,
            ..RowCounts::ZERO
        };
    }
    let deletes = count(["numDeletedRows", "num_deleted_rows"]);
    let written = metrics.get("numOutputRows").and_then(number);
    if written.is_some() {
        // where rows were copied, too, nobody says whether they count as written
        let copied = metrics.get("numCopiedRows").and_then(number);
        return RowCounts {
            inserts: written.filter(|_| copied.unwrap_or(0) == 0),
            updates: Some(0),
            deletes,
        };
    }
    match deletes {
        Some(_) => RowCounts {
            deletes,
            ..RowCounts::ZERO
        },
        None => RowCounts::UNKNOWN,
    }
}

/// A metric is a number, or the text of one.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    }
}

/// What the actions say. Where the feed was off, files that were written in place of others hold rows that were only copied.
fn of_files(files: &[FileChange], is_restored: bool, feed: Feed) -> RowCounts {
    let has_new = files
        .iter()
        .any(|change| matches!(change, FileChange::Added(_)));
    let has_only_new = files
        .iter()
        .all(|change| matches!(change, FileChange::Added(_)));
    if feed != Feed::On && has_new && !has_only_new {
        return RowCounts::UNKNOWN;
    }
    let (mut inserts, mut deletes) = (Some(0), Some(0));
    for change in files {
        let (inserted, deleted) = match change {
            FileChange::Added(add) => (live_rows(add), Some(0)),
            // a remove has no statistics
            FileChange::Removed(_) => (Some(0), None),
            FileChange::Masked(pair) => masked_rows(&pair.0, &pair.1, is_restored),
        };
        inserts = sum(inserts, inserted);
        deletes = sum(deletes, deleted);
    }
    RowCounts {
        inserts,
        updates: Some(0),
        deletes,
    }
}

fn live_rows(add: &Add) -> Option<i64> {
    i64::try_from(live_records(add)?).ok()
}

/// The rows that a file got back and lost by another deletion vector. Only a RESTORE may put one in place of another that does not
/// hold the same rows and more.
fn masked_rows(remove: &Remove, add: &Add, is_restored: bool) -> (Option<i64>, Option<i64>) {
    let old = remove.deletion_vector.as_ref();
    let new = add.deletion_vector.as_ref();
    if is_restored && old.is_some() && new.is_some() {
        return (None, None);
    }
    let marked = |vector: Option<i64>| vector.unwrap_or(0);
    let more = marked(new.map(|vector| vector.cardinality))
        .saturating_sub(marked(old.map(|vector| vector.cardinality)));
    (Some((-more).max(0)), Some(more.max(0)))
}

fn sum(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one?.checked_add(other?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::actions::parse_commit;
    use crate::delta::log::Commit;

    type Counts = (Option<i64>, Option<i64>, Option<i64>);

    fn counts(lines: &[String], feed: Feed) -> Counts {
        let commit = Commit {
            version: 1,
            timestamp: 0,
            actions: parse_commit("t", 1, lines.join("\n").as_bytes()).unwrap(),
        };
        let info = commit.info().cloned();
        let counts = RowCounts::new(info.as_ref(), &CommitChanges::of(commit), feed);
        (counts.inserts, counts.updates, counts.deletes)
    }

    fn info(operation: &str, metrics: &str) -> String {
        format!(
            r#"{{"commitInfo":{{"operation":"{operation}","operationMetrics":{{{metrics}}}}}}}"#
        )
    }

    fn vector(rows: i64) -> String {
        format!(
            r#","deletionVector":{{"storageType":"u","pathOrInlineDv":"{rows}","sizeInBytes":1,"cardinality":{rows}}}"#
        )
    }

    fn add(path: &str, more: &str) -> String {
        format!(
            r#"{{"add":{{"path":"{path}","size":1,"dataChange":true,"stats":"{{\"numRecords\":10}}"{more}}}}}"#
        )
    }

    fn remove(path: &str, more: &str) -> String {
        format!(r#"{{"remove":{{"path":"{path}","dataChange":true{more}}}}}"#)
    }

    #[test]
    fn operations_count_what_they_do() {
        let check = |operation: &str, metrics: &str, expected: Counts| {
            let cdc = r#"{"cdc":{"path":"c","size":1,"dataChange":false}}"#.to_owned();
            let lines = [info(operation, metrics), remove("a", ""), cdc];
            assert_eq!(counts(&lines, Feed::On), expected, "{operation} {metrics}");
        };
        let unknown = (None, None, None);
        check(
            "DELETE",
            r#""numDeletedRows":"3""#,
            (Some(0), Some(0), Some(3)),
        );
        check(
            "DELETE",
            r#""num_deleted_rows":3"#,
            (Some(0), Some(0), Some(3)),
        );
        check("DELETE", r#""numRemovedFiles":"1""#, unknown);
        check(
            "UPDATE",
            r#""numUpdatedRows":"2","numCopiedRows":"5""#,
            (Some(0), Some(2), Some(0)),
        );
        check(
            "MERGE",
            r#""numOutputRows":"9","numTargetRowsInserted":"1","numTargetRowsUpdated":"2","numTargetRowsDeleted":"3""#,
            (Some(1), Some(2), Some(3)),
        );
        check(
            "WRITE",
            r#""numOutputRows":"4","numCopiedRows":"1","numDeletedRows":"2""#,
            (None, Some(0), Some(2)),
        );
        check("DELETE", r#""numDeletedRows":"many""#, unknown);
    }

    #[test]
    fn actions_tell_what_was_not_counted() {
        let check = |lines: &[String], feed: Feed, expected: Counts| {
            assert_eq!(counts(lines, feed), expected, "{lines:?}");
        };
        let zero = Some(0);
        check(&[], Feed::On, (zero, zero, zero));
        check(
            &[add("a", ""), add("b", &vector(4))],
            Feed::Off,
            (Some(16), zero, zero),
        );
        let written = info("WRITE", r#""numOutputRows":"7""#);
        check(
            &[written.clone(), add("a", "")],
            Feed::On,
            (Some(7), zero, zero),
        );
        check(
            &[written, add("a", ""), remove("b", "")],
            Feed::On,
            (Some(7), zero, None),
        );
        check(&[remove("b", "")], Feed::On, (zero, zero, None));
        let (one, three) = (vector(1), vector(3));
        check(
            &[add("a", &three), remove("a", &one)],
            Feed::On,
            (zero, zero, Some(2)),
        );
        check(
            &[add("a", ""), remove("a", &three)],
            Feed::Off,
            (Some(3), zero, zero),
        );
        let restored = info("RESTORE", "");
        check(
            &[restored, add("a", &one), remove("a", &three)],
            Feed::On,
            (None, zero, None),
        );
        // a rewrite without a feed: nobody says which of the rows are new
        check(
            &[add("a", ""), remove("b", "")],
            Feed::Off,
            (None, None, None),
        );
        check(
            &[add("a", ""), remove("b", "")],
            Feed::On,
            (Some(10), zero, None),
        );
    }
}
