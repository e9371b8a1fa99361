//! Change tracking of a table: which of its versions are counted, for how long their changes are kept.
//!
//! A tracked table is a Delta table with the change data feed and a few properties of ours, which other engines keep and ignore.
//! Its tracking versions are its own, counted from the commit that enabled tracking for the first time (change contract, section
//! 5): version 0 is that commit, and each commit after it, whoever made it, is one version more.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::actions::Metadata;
use super::properties::{ENABLE_CHANGE_DATA_FEED, flag, interval_micros, number};

/// What the keys of all these properties begin with.
pub(crate) const TRACKING_PREFIX: &str = "alluvial.changeTracking.";
/// Whether the table is tracked.
const ENABLED: &str = "alluvial.changeTracking.enabled";
/// The Delta version that enabled tracking for the first time.
const BEGIN_VERSION: &str = "alluvial.changeTracking.beginVersion";
/// The lowest Delta version that changes can be asked for since, as far as statements have set it.
const MIN_VALID_VERSION: &str = "alluvial.changeTracking.minValidVersion";
const COLUMNS_UPDATED: &str = "alluvial.changeTracking.trackColumnsUpdated";
const RETENTION: &str = "alluvial.changeTracking.retention";
const AUTO_CLEANUP: &str = "alluvial.changeTracking.autoCleanup";

/// Stands for the version of the commit that a property is written in, which is not known before it is.
const THIS_COMMIT: &str = "this commit";

/// The operation parameter of a commit that holds its context, in hexadecimal digits after `0x`.
pub(crate) const CONTEXT_PARAMETER: &str = "changeTrackingContext";

/// The context that the commits of a session are made in: an extension of its configuration.
#[derive(Debug)]
pub(crate) struct CommitContext(pub Vec<u8>);

/// The context as a commit holds it.
pub(crate) fn encode_context(context: &[u8]) -> String {
    let digits = context.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("0x".to_owned()).chain(digits).collect()
}

/// The context in a commit; `None` for what is none.
pub(super) fn decode_context(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// How a table is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeTracking {
    /// The Delta version that is version 0.
    pub begin_version: i64,
    /// The Delta version that enabled tracking, or truncated the table, last: there is no way from before to after it.
    pub min_valid_version: i64,
    /// Whether changes say which columns were updated.
    pub columns_updated: bool,
    /// How long changes are kept, as Delta writes durations; for ever if absent.
    pub retention: Option<String>,
    /// Whether changes past the retention are removed.
    pub auto_cleanup: bool,
}

impl ChangeTracking {
    /// What a table's properties say; `None` where it is not tracked.
    pub(super) fn of(values: &HashMap<String, String>) -> Option<Self> {
        if !flag(values, ENABLED) {
            return None;
        }
        let begin_version = number(values, BEGIN_VERSION)?;
        Some(Self {
            begin_version,
            min_valid_version: number(values, MIN_VALID_VERSION).unwrap_or(begin_version),
            columns_updated: flag(values, COLUMNS_UPDATED),
            retention: values.get(RETENTION).cloned(),
            auto_cleanup: !values.contains_key(AUTO_CLEANUP) || flag(values, AUTO_CLEANUP),
        })
    }

    /// How long changes are kept, in microseconds; for ever if absent.
    pub(crate) fn retention_micros(&self) -> Option<i64> {
        let retention = self.retention.as_deref().filter(|_| self.auto_cleanup)?;
        interval_micros(retention)
    }
}

/// What a statement says of tracking; what it leaves out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrackingOptions {
    pub columns_updated: Option<bool>,
    /// A duration such as `interval 2 days`.
    pub retention: Option<String>,
    pub auto_cleanup: Option<bool>,
}

impl TrackingOptions {
    /// These, and of the others what these leave out.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            columns_updated: self.columns_updated.or(others.columns_updated),
            retention: self.retention.or(others.retention),
            auto_cleanup: self.auto_cleanup.or(others.auto_cleanup),
        }
    }

    fn write(self, values: &mut HashMap<String, String>) {
        let flags = [
            (COLUMNS_UPDATED, self.columns_updated),
            (AUTO_CLEANUP, self.auto_cleanup),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                values.insert(key.into(), value.to_string());
            }
        }
        if let Some(retention) = self.retention {
            values.insert(RETENTION.into(), retention);
        }
    }
}

/// Enables tracking in the commit that this becomes part of.
pub(crate) fn enable(metadata: &mut Metadata, options: TrackingOptions) {
    let values = &mut metadata.configuration;
    values.insert(ENABLE_CHANGE_DATA_FEED.into(), "true".into());
    values.insert(ENABLED.into(), "true".into());
    // who has versions from before tracking was disabled must find that there is a gap
    values
        .entry(BEGIN_VERSION.into())
        .or_insert_with(|| THIS_COMMIT.into());
    values.insert(MIN_VALID_VERSION.into(), THIS_COMMIT.into());
    options.write(values);
}

/// Changes how a tracked table is tracked. What has expired by now, up to the Delta version `min_valid`, stays expired: it may
/// have been removed.
pub(crate) fn set_options(metadata: &mut Metadata, options: TrackingOptions, min_valid: i64) {
    let values = &mut metadata.configuration;
    values.insert(MIN_VALID_VERSION.into(), min_valid.to_string());
    options.write(values);
}

/// Ends tracking; that it once began is remembered.
pub(crate) fn disable(metadata: &mut Metadata) {
    metadata
        .configuration
        .retain(|key, _| !key.starts_with(TRACKING_PREFIX) || key == BEGIN_VERSION);
}

/// Goes on counting where the table that is replaced has begun to: who follows it must find that there is a gap.
pub(crate) fn remember_begin(replaced: &Metadata, metadata: &mut Metadata) {
    let begin = replaced.configuration.get_key_value(BEGIN_VERSION);
    let begin = begin.map(|(key, version)| (key.clone(), version.clone()));
    metadata.configuration.extend(begin);
}

/// What changed before the commit that this becomes part of can no longer be asked for.
pub(crate) fn forget_changes(metadata: &mut Metadata) {
    metadata
        .configuration
        .insert(MIN_VALID_VERSION.into(), THIS_COMMIT.into());
}

/// Fills in the version of the commit.
pub(super) fn settle(metadata: &mut Metadata, version: i64) {
    for key in [BEGIN_VERSION, MIN_VALID_VERSION] {
        if let Some(value) = metadata.configuration.get_mut(key)
            && value == THIS_COMMIT
        {
            *value = version.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_goes_on_after_a_gap() {
        let mut metadata = Metadata::default();
        enable(&mut metadata, TrackingOptions::default());
        settle(&mut metadata, 3);
        let first = ChangeTracking::of(&metadata.configuration).unwrap();
        assert_eq!((first.begin_version, first.min_valid_version), (3, 3));
        disable(&mut metadata);
        assert_eq!(ChangeTracking::of(&metadata.configuration), None);
        enable(
            &mut metadata,
            TrackingOptions {
                retention: Some("interval 2 days".into()),
                ..Default::default()
            },
        );
        settle(&mut metadata, 9);
        let second = ChangeTracking::of(&metadata.configuration).unwrap();
        assert_eq!((second.begin_version, second.min_valid_version), (3, 9));
        assert_eq!(second.retention_micros(), Some(172_800_000_000));
        set_options(
            &mut metadata,
            TrackingOptions {
                auto_cleanup: Some(false),
                ..Default::default()
            },
            11,
        );
        let kept = ChangeTracking::of(&metadata.configuration).unwrap();
        assert_eq!(
            (kept.retention_micros(), kept.min_valid_version),
            (None, 11)
        );
    }
}
