//! The table properties that this crate acts on, parsed once.

use std::collections::HashMap;

use super::actions::{Metadata, Protocol};
use super::row_tracking::{ENABLE_ROW_TRACKING, RowTracking};
use super::tracking::ChangeTracking;

/// Switches the change data feed.
pub(crate) const ENABLE_CHANGE_DATA_FEED: &str = "delta.enableChangeDataFeed";
/// Switches the writing of deletion vectors.
pub(crate) const ENABLE_DELETION_VECTORS: &str = "delta.enableDeletionVectors";
/// A JSON array of the declared primary key's columns; ours, ignored by other engines.
pub(crate) const PRIMARY_KEY: &str = "alluvial.primaryKey";
/// How long a sync with SEQUENCE BY remembers the sequence of a deleted row, such as `interval 7 days`; ours.
pub(crate) const TOMBSTONE_RETENTION: &str = "alluvial.tombstoneRetentionDuration";
/// How large data files are to be, see [`byte_count`].
pub(crate) const TARGET_FILE_SIZE: &str = "delta.targetFileSize";
/// Prefix of CHECK constraints, followed by the constraint's name.
pub(crate) const CONSTRAINT_PREFIX: &str = "delta.constraints.";

const DEFAULT_TARGET_FILE_BYTES: u64 = 128 * 1024 * 1024;
const DEFAULT_CHECKPOINT_INTERVAL: i64 = 10;
const DEFAULT_INDEXED_COLUMNS: i32 = 32;
const DEFAULT_RETENTION_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;

/// What the table's properties say, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableProperties {
    pub change_data_feed: bool,
    pub deletion_vectors: bool,
    pub append_only: bool,
    /// Whether blind appends of others are no conflict with what a statement has read.
    pub write_serializable: bool,
    /// Whether new files get row ids.
    pub assigns_row_ids: bool,
    /// How rows keep their ids; absent where they need not.
    pub row_tracking: Option<RowTracking>,
    pub in_commit_timestamps: bool,
    /// The version from which `inCommitTimestamp` counts; 0 when it has always been on.
    pub in_commit_timestamp_since: i64,
    pub checkpoint_interval: i64,
    pub target_file_bytes: u64,
    /// How many leading columns have statistics; -1 for all.
    pub indexed_columns: i32,
    pub stats_columns: Option<Vec<String>>,
    /// How long files that the table no longer needs are kept, in microseconds.
    pub deleted_file_retention_micros: i64,
    /// How long the sequences of deleted rows are remembered, in microseconds; ours.
    pub tombstone_retention_micros: i64,
    pub primary_key: Vec<String>,
    /// How the table is tracked; absent where it is not, or has no feed.
    pub tracking: Option<ChangeTracking>,
    /// CHECK constraints: name and SQL expression, by name.
    pub constraints: Vec<(String, String)>,
}

impl TableProperties {
    /// Reads the properties; one that a feature must allow counts only where the feature is listed.
    pub(crate) fn new(metadata: &Metadata, protocol: &Protocol) -> Self {
        let values = &metadata.configuration;
        Self {
            change_data_feed: change_data_feed(values, protocol),
            deletion_vectors: flag(values, ENABLE_DELETION_VECTORS)
                && writes(protocol, "deletionVectors"),
            append_only: flag(values, "delta.appendOnly")
                && (protocol.min_writer_version < 7 || writes(protocol, "appendOnly")),
            write_serializable: values
                .get("delta.isolationLevel")
                .is_some_and(|level| level.eq_ignore_ascii_case("WriteSerializable")),
            assigns_row_ids: writes(protocol, "rowTracking"),
            row_tracking: RowTracking::of(values)
                .filter(|_| flag(values, ENABLE_ROW_TRACKING) && writes(protocol, "rowTracking")),
            in_commit_timestamps: flag(values, "delta.enableInCommitTimestamps")
                && writes(protocol, "inCommitTimestamp"),
            in_commit_timestamp_since: number(values, "delta.inCommitTimestampEnablementVersion")
                .unwrap_or(0),
            checkpoint_interval: number(values, "delta.checkpointInterval")
                .filter(|n| *n > 0)
                .unwrap_or(DEFAULT_CHECKPOINT_INTERVAL),
            target_file_bytes: values
                .get(TARGET_FILE_SIZE)
                .and_then(|text| byte_count(text))
                .unwrap_or(DEFAULT_TARGET_FILE_BYTES),
            indexed_columns: number(values, "delta.dataSkippingNumIndexedCols")
                .unwrap_or(DEFAULT_INDEXED_COLUMNS),
            deleted_file_retention_micros: values
                .get("delta.deletedFileRetentionDuration")
                .and_then(|text| interval_micros(text))
                .unwrap_or(DEFAULT_RETENTION_MICROS),
            tombstone_retention_micros: values
                .get(TOMBSTONE_RETENTION)
                .and_then(|text| interval_micros(text))
                .unwrap_or(DEFAULT_RETENTION_MICROS),
            stats_columns: values.get("delta.dataSkippingStatsColumns").map(|names| {
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect()
            }),
            primary_key: values
                .get(PRIMARY_KEY)
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default(),
            tracking: ChangeTracking::of(values).filter(|_| change_data_feed(values, protocol)),
            constraints: constraints(values),
        }
    }
}

/// Whether the change data feed is on: with table features, only if `changeDataFeed` is one of them.
pub(crate) fn change_data_feed(values: &HashMap<String, String>, protocol: &Protocol) -> bool {
    flag(values, ENABLE_CHANGE_DATA_FEED)
        && (protocol.min_writer_version < 7 || writes(protocol, "changeDataFeed"))
}

pub(super) fn flag(values: &HashMap<String, String>, key: &str) -> bool {
    values
        .get(key)
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

pub(super) fn number<T: std::str::FromStr>(
    values: &HashMap<String, String>,
    key: &str,
) -> Option<T> {
    values.get(key)?.trim().parse().ok()
}

/// `104857600`, `100mb` or `1g`, as Delta writes sizes: units are powers of 1024. None is 0.
pub(crate) fn byte_count(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let end = text.find(|character: char| !character.is_ascii_digit());
    let (count, unit) = text.split_at(end.unwrap_or(text.len()));
    let count: u64 = count.parse().ok()?;
    let power = match unit {
        "" | "b" => 0,
        "k" | "kb" => 1,
        "m" | "mb" => 2,
        "g" | "gb" => 3,
        "t" | "tb" => 4,
        "p" | "pb" => 5,
        _ => return None,
    };
    let bytes = count.checked_mul(1024_u64.pow(power));
    bytes.filter(|bytes| *bytes > 0)
}

/// `interval 2 days`, as Delta writes durations.
pub(crate) fn interval_micros(text: &str) -> Option<i64> {
    let mut words = text
        .split_whitespace()
        .filter(|word| !word.eq_ignore_ascii_case("interval"));
    let count: i64 = words.next()?.parse().ok()?;
    let seconds = match words.next()?.to_lowercase().trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 24 * 3600,
        "week" => 7 * 24 * 3600,
        _ => return None,
    };
    words
        .next()
        .is_none()
        .then(|| count.saturating_mul(seconds * 1_000_000))
}

fn writes(protocol: &Protocol, feature: &str) -> bool {
    protocol
        .writer_features
        .as_ref()
        .is_some_and(|features| features.iter().any(|name| name == feature))
}

fn constraints(values: &HashMap<String, String>) -> Vec<(String, String)> {
    let named = values.iter().filter_map(|(key, expression)| {
        Some((
            key.strip_prefix(CONSTRAINT_PREFIX)?.to_owned(),
            expression.clone(),
        ))
    });
    let mut found: Vec<_> = named.collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_delta_writes_them() {
        assert_eq!(byte_count("104857600"), Some(104_857_600));
        assert_eq!(byte_count("100mb"), Some(104_857_600));
        assert_eq!(byte_count(" 1G "), Some(1 << 30));
        assert_eq!(byte_count("7b"), Some(7));
        for wrong in ["", "0", "0kb", "mb", "1.5g", "-1", "1 mib", "99999999999p"] {
            assert_eq!(byte_count(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_as_delta_writes_them() {
        assert_eq!(interval_micros("interval 2 days"), Some(172_800_000_000));
        assert_eq!(interval_micros("1 HOUR"), Some(3_600_000_000));
        assert_eq!(interval_micros("interval 1 fortnight"), None);
        assert_eq!(interval_micros("soon"), None);
    }
}
