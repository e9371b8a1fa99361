//! Committing: put-if-absent of the next version, and what to do when another writer was faster.
//!
//! A commit is attempted at the version after its base. When that version is taken, the winners are read ([`super::conflict`]):
//! unrelated ones are stepped over, others end the attempt with [`CommitOutcome::Conflict`], whereupon the caller plans its
//! statement again. Data files are written before, so an aborted commit leaves only files that no log names.

use std::sync::Arc;

use chrono::Utc;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::CommitOrBytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::actions::{Action, CommitInfo, format_commit, parse_commit};
use super::cleanup::remove_expired_changes;
use super::conflict::find_conflict;
use super::log::commit_path;
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::tracking;
use crate::error::{Error, Result};

/// How often a lost race against unrelated commits is run again.
const MAX_ATTEMPTS: u32 = 200;

/// What a statement has read, as far as it matters to concurrent writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadSet {
    /// Nothing: a blind append.
    Nothing,
    /// Rows of the table, chosen by a predicate.
    Table,
}

/// What a commit says of itself (*Commit Provenance*).
#[derive(Debug, Clone, Default)]
pub(crate) struct Operation {
    /// Delta's name of the operation, such as `MERGE`.
    pub name: String,
    pub parameters: Map<String, Value>,
    pub metrics: Map<String, Value>,
}

impl Operation {
    /// An operation without parameters.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds a parameter; the log has parameters and metrics as strings.
    pub(crate) fn with_parameter(mut self, key: &str, value: impl ToString) -> Self {
        self.parameters
            .insert(key.into(), Value::String(value.to_string()));
        self
    }

    /// Adds a metric.
    pub(crate) fn metric(&mut self, key: &str, value: impl ToString) {
        self.metrics
            .insert(key.into(), Value::String(value.to_string()));
    }
}

/// Actions that are to become the next version of a table.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub table: DeltaTable,
    /// The version that was read; absent when the table is created.
    pub base: Option<Arc<Snapshot>>,
    pub operation: Operation,
    pub actions: Vec<Action>,
    pub reads: ReadSet,
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// The actions are this version.
    Committed(i64),
    /// Another writer got in the way; the error says who.
    Conflict(Error),
}

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// When the store fails; a lost race is an outcome, not an error.
    pub(crate) async fn commit(self) -> Result<CommitOutcome> {
        let id = Uuid::new_v4();
        let mut version = self.base.as_ref().map_or(0, |base| base.version() + 1);
        let mut previous_timestamp = self.base_timestamp().await?;
        for _ in 0..MAX_ATTEMPTS {
            let info = self.commit_info(id, previous_timestamp);
            if self.try_write(version, &info, id).await? {
                return Ok(CommitOutcome::Committed(version));
            }
            let winner = self.read_winner(version).await?;
            if winner_id(&winner) == Some(&id.to_string()) {
                // our write got through although its answer was lost
                return Ok(CommitOutcome::Committed(version));
            }
            if let Some(conflict) = find_conflict(&self, version, &winner) {
                return Ok(CommitOutcome::Conflict(conflict));
            }
            previous_timestamp = winner_timestamp(&winner).max(previous_timestamp);
            version += 1;
        }
        Err(Error::Conflict {
            version: version - 1,
            operation: "other writers".into(),
            detail: format!("{MAX_ATTEMPTS} commits were faster"),
        })
    }

    /// Writes version `version`; `false` when it exists already.
    async fn try_write(&self, version: i64, info: &CommitInfo, id: Uuid) -> Result<bool> {
        let mut actions = vec![Action::CommitInfo(info.clone())];
        actions.extend(
            self.actions
                .iter()
                .cloned()
                .map(|action| self.with_version(action, version, info)),
        );
        let bytes = format_commit(&actions)?;
        let log_store = self.table.log_store();
        // S3 may lack conditional puts; its log store renames a temporary file instead
        let staged = if ["DefaultLogStore", "LakeFSLogStore"].contains(&log_store.name().as_str()) {
            CommitOrBytes::LogBytes(bytes.into())
        } else {
            let path = Path::from(format!("_delta_log/_commit_{id}.json.tmp"));
            self.table.store().put(&path, bytes.into()).await?;
            CommitOrBytes::TmpCommit(path)
        };
        let next = u64::try_from(version).map_err(Error::internal)?;
        match log_store.write_commit_entry(next, staged.clone(), id).await {
            Ok(()) => Ok(true),
            Err(TransactionError::VersionAlreadyExists(_)) => {
                let _ = log_store.abort_commit_entry(next, staged, id).await;
                Ok(false)
            }
            Err(error) => {
                // the write may have landed and only its answer been lost: the log knows
                if matches!(self.read_winner(version).await, Ok(winner) if winner_id(&winner) == Some(&id.to_string()))
                {
                    return Ok(true);
                }
                let _ = log_store.abort_commit_entry(next, staged, id).await;
                Err(deltalake::DeltaTableError::from(error).into())
            }
        }
    }

    async fn read_winner(&self, version: i64) -> Result<Vec<Action>> {
        let bytes = self
            .table
            .store()
            .get(&commit_path(version))
            .await?
            .bytes()
            .await?;
        parse_commit(self.table.name(), version, &bytes)
    }

    async fn base_timestamp(&self) -> Result<i64> {
        match &self.base {
            Some(base) if base.properties().in_commit_timestamps => base.timestamp().await,
            _ => Ok(0),
        }
    }

    fn commit_info(&self, id: Uuid, previous_timestamp: i64) -> CommitInfo {
        let now = Utc::now().timestamp_millis();
        let in_commit = self
            .in_commit_timestamps()
            .then(|| now.max(previous_timestamp + 1));
        CommitInfo {
            in_commit_timestamp: in_commit,
            timestamp: Some(in_commit.unwrap_or(now)),
            operation: Some(self.operation.name.clone()),
            operation_parameters: Some(self.operation.parameters.clone()),
            operation_metrics: (!self.operation.metrics.is_empty())
                .then(|| self.operation.metrics.clone()),
            read_version: self.base.as_ref().map(|base| base.version()),
            isolation_level: Some("Serializable".into()),
            is_blind_append: Some(
                self.reads == ReadSet::Nothing
                    && !self
                        .actions
                        .iter()
                        .any(|action| matches!(action, Action::Remove(_))),
            ),
            engine_info: Some(concat!("Alluvial/", env!("CARGO_PKG_VERSION")).into()),
            tags: None,
            txn_id: Some(id.to_string()),
            user_name: None,
        }
    }

    /// Fills in what a commit says of its own version: since when a table is tracked, and, where it gets in-commit timestamps later
    /// than with its first commit, since when it has those (*In-Commit Timestamps*).
    fn with_version(&self, action: Action, version: i64, info: &CommitInfo) -> Action {
        let Action::Metadata(mut metadata) = action else {
            return action;
        };
        tracking::settle(&mut metadata, version);
        let was_on = self
            .base
            .as_ref()
            .is_none_or(|base| base.properties().in_commit_timestamps);
        if let (Some(timestamp), false) = (info.in_commit_timestamp, was_on) {
            let since = [
                ("delta.inCommitTimestampEnablementVersion", version),
                ("delta.inCommitTimestampEnablementTimestamp", timestamp),
            ];
            metadata
                .configuration
                .extend(since.map(|(key, value)| (key.to_owned(), value.to_string())));
        }
        Action::Metadata(metadata)
    }

    /// Whether the table has in-commit timestamps once this commit is in.
    fn in_commit_timestamps(&self) -> bool {
        let set_here = self.actions.iter().find_map(|action| match action {
            Action::Metadata(metadata) => Some(
                metadata
                    .configuration
                    .get("delta.enableInCommitTimestamps")
                    .is_some_and(|value| value == "true"),
            ),
            _ => None,
        });
        set_here.unwrap_or_else(|| {
            self.base
                .as_ref()
                .is_some_and(|base| base.properties().in_commit_timestamps)
        })
    }
}

/// What is due after a commit: a checkpoint, and change data that has expired goes. Failing to is no failure of the commit.
pub(crate) async fn after_commit(table: &DeltaTable, version: i64) {
    let Ok(snapshot) = table.snapshot().await else {
        return;
    };
    if version > 0 && version % snapshot.properties().checkpoint_interval == 0 {
        let _ = snapshot.write_checkpoint().await;
    }
    let _ = remove_expired_changes(&snapshot).await;
}

/// Removes files that an abandoned commit would have named, as far as the store lets us.
pub(crate) async fn remove_orphans(table: &DeltaTable, paths: impl IntoIterator<Item = Path>) {
    let store = table.store();
    for path in paths {
        let _ = store.delete(&path).await;
    }
}

fn winner_info(winner: &[Action]) -> Option<&CommitInfo> {
    winner.iter().find_map(|action| match action {
        Action::CommitInfo(info) => Some(info),
        _ => None,
    })
}

fn winner_id(winner: &[Action]) -> Option<&String> {
    winner_info(winner)?.txn_id.as_ref()
}

fn winner_timestamp(winner: &[Action]) -> i64 {
    winner_info(winner)
        .and_then(|info| info.in_commit_timestamp)
        .unwrap_or(0)
}
