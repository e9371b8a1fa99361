//! How far a sync has got, kept in its target.
//!
//! | where | what |
//! |---|---|
//! | table property `alluvial.sync.<name>` | [`Registration`]: which source it follows, written by the first run |
//! | `txn` of the registration's application | the source's version that the target equals |
//! | `txn` of the same with `:commit` | that version's fingerprint |
//!
//! Both `txn` actions stand in the commit that writes the rows (*Transaction Identifiers*), so either all of it has happened or
//! nothing has. The property changes only when a sync begins or begins anew, since a change of metadata conflicts with every
//! concurrent writer.

use chrono::Utc;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::columns::is_metadata;
use super::spec::{SourceSpec, Sync};
use crate::delta::actions::{Action, Metadata, Txn};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::source::ChangeSource;

/// Prefix of the table properties, followed by the name of the sync.
pub(crate) const PROPERTY_PREFIX: &str = "alluvial.sync.";

/// What a target knows of a sync beside its position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// Tells it from an earlier sync of the same name.
    pub id: String,
    /// The source as the statement named it.
    pub source: String,
    /// Where the source is.
    pub location: String,
    /// The source's identity.
    pub identity: String,
    /// What of the statement decides what the target holds; another statement cannot go on from its position.
    pub statement: String,
    /// The source's columns that were kept when it began.
    pub columns: Vec<String>,
    /// Those that were left out.
    pub left_out: Vec<String>,
}

impl Registration {
    /// A new sync from `source`.
    pub(super) async fn new(
        sync: &Sync,
        statement: String,
        source: &dyn ChangeSource,
    ) -> Result<Self> {
        let schema = source.schema(None).await?;
        let names = schema.fields().iter().map(|field| field.name().clone());
        let (columns, left_out) = names
            .filter(|name| !is_metadata(name))
            .partition(|name| sync.columns.contains(name));
        let id = Uuid::new_v4().simple().to_string();
        Ok(Self {
            id: id[..8].to_owned(),
            source: match &sync.source {
                SourceSpec::Table(name) => name.to_quoted_string(),
                SourceSpec::Query(_) => source.name().to_owned(),
            },
            location: source.location(),
            identity: source.identity().await?,
            statement,
            columns,
            left_out,
        })
    }

    /// The sync of that name, if the target has one.
    pub(super) fn find(metadata: &Metadata, name: &str) -> Result<Option<Self>> {
        let Some(text) = metadata.configuration.get(&property(name)) else {
            return Ok(None);
        };
        serde_json::from_str(text).map(Some).map_err(|error| {
            Error::invalid(format!(
                "the table property {:?} is no record of a sync ({error}); DROP SYNC '{name}' removes it",
                property(name)
            ))
        })
    }

    /// All syncs into a table, by name; records that cannot be read are left out.
    pub(crate) fn all(metadata: &Metadata) -> Vec<(String, Self)> {
        let named = metadata.configuration.iter().filter_map(|(key, text)| {
            let name = key.strip_prefix(PROPERTY_PREFIX)?.to_owned();
            Some((name, serde_json::from_str(text).ok()?))
        });
        let mut all: Vec<_> = named.collect();
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all
    }

    /// The property that records it.
    pub(super) fn property(&self, name: &str) -> Result<(String, String)> {
        Ok((property(name), serde_json::to_string(self)?))
    }

    fn application(&self, name: &str) -> String {
        format!("alluvial.sync:{name}:{}:{}", self.identity, self.id)
    }

    fn fingerprint_application(&self, name: &str) -> String {
        format!("{}:commit", self.application(name))
    }

    /// The position that `target` records.
    pub(crate) async fn position(&self, name: &str, target: &Snapshot) -> Result<Option<Position>> {
        let applications = target.applications().await?;
        let Some(reached) = applications.get(&self.application(name)) else {
            return Ok(None);
        };
        let fingerprint = applications.get(&self.fingerprint_application(name));
        Ok(Some(Position {
            version: reached.version,
            fingerprint: fingerprint.map(|txn| txn.version),
            recorded: reached.last_updated,
        }))
    }

    /// The actions that record that the target equals `version` of the source.
    pub(super) fn record(&self, name: &str, version: i64, fingerprint: Option<i64>) -> Vec<Action> {
        let now = Utc::now().timestamp_millis();
        let txn = |app_id: String, version: i64| {
            Action::Txn(Txn {
                app_id,
                version,
                last_updated: Some(now),
            })
        };
        let reached = txn(self.application(name), version);
        let seen = fingerprint.map(|seen| txn(self.fingerprint_application(name), seen));
        std::iter::once(reached).chain(seen).collect()
    }
}

/// How far a sync has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// The source's version that the target equals.
    pub version: i64,
    /// The fingerprint of that version, where the source could give one.
    pub fingerprint: Option<i64>,
    /// When it was recorded, in milliseconds since the epoch.
    pub recorded: Option<i64>,
}

/// The table property that records the sync `name`.
pub(crate) fn property(name: &str) -> String {
    format!("{PROPERTY_PREFIX}{name}")
}
