//! Committing: put-if-absent of the next version, and what to do when another writer was faster.
//!
//! A commit is attempted at the version after its base. When that version is taken, the winners are read ([`super::conflict`]):
//! unrelated ones are stepped over, those that have marked other rows of the same files are joined ([`super::reconcile`]), and
//! the rest end the attempt with [`CommitOutcome::Conflict`], whereupon the caller plans its statement again. Data files are
//! written before, so an aborted commit leaves only files that no log names. They may go when it is certain that the commit has not
//! come about and never will ([`CommitOutcome::Failed`]); after any other error nobody knows, and they stay.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use chrono::Utc;
use object_store::path::Path;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::actions::{Action, Add, CommitInfo, format_commit};
use super::cleanup::remove_expired_changes;
use super::conflict::{conflict_error, find_conflict, info};
use super::deletion_vector;
use super::put_commit::{Failure, is_commit_of, put_commit, read_commit};
use super::reconcile::{TouchedRows, reconcile};
use super::row_tracking;
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::tracking;
use super::unnamed_files::remove_all;
use crate::error::{Error, Result};

/// How often a lost race against unrelated commits is run again.
const MAX_ATTEMPTS: u32 = 200;

/// What a statement has read, as far as it matters to concurrent writers.
#[derive(Debug, Clone)]
pub(crate) enum ReadSet {
    /// Nothing but the files that it removes: a blind append, or a rearrangement of rows.
    Nothing,
    /// Some rows of the table.
    Rows {
        /// Tells which they may be.
        of: Arc<dyn ReadRows>,
        /// Whether the transaction's touched rows are all that were read.
        complete: bool,
    },
    /// Any row of the table.
    Table,
}

/// Tells by its statistics whether a file may hold rows that a statement reads.
pub(crate) trait ReadRows: Debug + Send + Sync {
    /// Whether rows of this file, which another writer has added, may be among those that the statement would have read.
    fn may_match(&self, add: &Add) -> bool;
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
    /// What was matched in files of the version that was read, by the path of the file.
    pub touched: HashMap<String, TouchedRows>,
}

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    /// The actions are this version.
    Committed(i64),
    /// Another writer got in the way; the error says who.
    Conflict(Error),
    /// There is no such commit, and there will not be one.
    Failed(Error),
}

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// When the store fails in such a way that the commit may have come about.
    pub(crate) async fn commit(mut self) -> Result<CommitOutcome> {
        let ours = self.vectors();
        let mut joined = Vec::new();
        let outcome = match self.run(&mut joined).await {
            Ok(outcome) => Ok(outcome),
            Err(Failure::Certain(error)) => Ok(CommitOutcome::Failed(error)),
            Err(Failure::InDoubt(error)) => Err(error),
        };
        // of the vectors that were joined with other writers' only the last ones count
        match &outcome {
            Ok(CommitOutcome::Committed(_)) if !joined.is_empty() => {
                let named: HashSet<Path> = self.vectors().into_iter().collect();
                let unnamed: HashSet<Path> = ours.into_iter().chain(joined).collect();
                let unnamed = unnamed.into_iter();
                let unnamed = unnamed.filter(|path| !named.contains(path));
                remove_all(self.table.store().as_ref(), unnamed).await;
            }
            Ok(CommitOutcome::Conflict(_) | CommitOutcome::Failed(_)) => {
                remove_all(self.table.store().as_ref(), joined).await;
            }
            // a commit whose answer is lost may have come about
            Ok(CommitOutcome::Committed(_)) | Err(_) => {}
        }
        outcome
    }

    async fn run(&mut self, joined: &mut Vec<Path>) -> Result<CommitOutcome, Failure> {
        let id = Uuid::new_v4();
        let mut version = self.base.as_ref().map_or(0, |base| base.version() + 1);
        let mut follows = self.predecessor().await.map_err(Failure::Certain)?;
        for _ in 0..MAX_ATTEMPTS {
            let info = self.commit_info(id, follows.timestamp);
            let commit = self.commit_bytes(version, &info, &follows);
            let commit = commit.map_err(Failure::Certain)?;
            if put_commit(&self.table, version, commit, id).await? {
                return Ok(CommitOutcome::Committed(version));
            }
            let winner = read_commit(&self.table, version).await;
            let winner = winner.map_err(Failure::InDoubt)?;
            if is_commit_of(&winner, id) {
                // our write got through although its answer was lost
                return Ok(CommitOutcome::Committed(version));
            }
            if let Some(conflict) = find_conflict(self, version, &winner) {
                return Ok(CommitOutcome::Conflict(conflict));
            }
            let reconciled = reconcile(self, &winner, joined).await;
            if let Some(detail) = reconciled.map_err(Failure::Certain)? {
                let conflict = conflict_error(version, &winner, detail);
                return Ok(CommitOutcome::Conflict(conflict));
            }
            follows.step_over(&winner);
            version += 1;
        }
        Err(Failure::Certain(Error::Conflict {
            version: version - 1,
            operation: "other writers".into(),
            detail: format!("{MAX_ATTEMPTS} commits were faster"),
        }))
    }

    /// The files of deletion vectors that our actions name.
    fn vectors(&self) -> Vec<Path> {
        let named = self.actions.iter().filter_map(|action| match action {
            Action::Add(add) => add.deletion_vector.as_ref(),
            _ => None,
        });
        let located = named.filter_map(|vector| {
            let location = deletion_vector::location(&self.table, vector).ok()??;
            location.store.is_none().then_some(location.path)
        });
        located.collect()
    }

    /// What is written as version `version`.
    fn commit_bytes(
        &self,
        version: i64,
        info: &CommitInfo,
        follows: &Predecessor,
    ) -> Result<Vec<u8>> {
        let mut actions = vec![Action::CommitInfo(info.clone())];
        actions.extend(
            self.actions
                .iter()
                .cloned()
                .map(|action| self.with_version(action, version, info)),
        );
        if let Some(highest) = follows.highest_row_id {
            row_tracking::assign(&mut actions, highest, version)?;
        }
        format_commit(&actions)
    }

    async fn predecessor(&self) -> Result<Predecessor> {
        let Some(base) = &self.base else {
            return Ok(Predecessor {
                timestamp: 0,
                highest_row_id: self.gets_row_tracking().then_some(row_tracking::NO_ROW_ID),
            });
        };
        let properties = base.properties();
        Ok(Predecessor {
            timestamp: if properties.in_commit_timestamps {
                base.timestamp().await?
            } else {
                0
            },
            highest_row_id: if properties.assigns_row_ids {
                Some(base.highest_row_id().await?)
            } else {
                self.gets_row_tracking().then_some(row_tracking::NO_ROW_ID)
            },
        })
    }

    /// Whether this commit makes the table one with row ids.
    fn gets_row_tracking(&self) -> bool {
        self.actions.iter().any(|action| match action {
            Action::Protocol(protocol) => {
                let features = protocol.writer_features.iter().flatten();
                features.into_iter().any(|name| name == "rowTracking")
            }
            _ => false,
        })
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
            isolation_level: Some(self.isolation_level().into()),
            is_blind_append: Some(
                matches!(self.reads, ReadSet::Nothing)
                    && !self
                        .actions
                        .iter()
                        .any(|action| matches!(action, Action::Remove(_))),
            ),
            engine_info: Some(concat!("Alluvial/", env!("CARGO_PKG_VERSION")).into()),
            tags: self.tags(),
            txn_id: Some(id.to_string()),
            user_name: None,
        }
    }

    /// Where rows have ids: that those which this commit moves keep theirs (*Row Tracking*).
    fn tags(&self) -> Option<HashMap<String, String>> {
        let base = self.base.as_ref()?;
        let keeps = base.properties().row_tracking.is_some();
        keeps.then(|| HashMap::from([(row_tracking::PRESERVED.into(), "true".into())]))
    }

    fn isolation_level(&self) -> &'static str {
        let base = self.base.as_ref();
        match base.is_some_and(|base| base.properties().write_serializable) {
            true => "WriteSerializable",
            false => "Serializable",
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

/// What a commit must know of the version before it.
#[derive(Debug, Clone, Copy)]
struct Predecessor {
    /// Its in-commit timestamp; 0 where there is none.
    timestamp: i64,
    /// The highest row id so far, where rows have ids.
    highest_row_id: Option<i64>,
}

impl Predecessor {
    /// The version before is now this one.
    fn step_over(&mut self, winner: &[Action]) {
        let timestamp = info(winner).and_then(|info| info.in_commit_timestamp);
        self.timestamp = timestamp.unwrap_or(0).max(self.timestamp);
        if let (Some(highest), Some(theirs)) = (
            &mut self.highest_row_id,
            row_tracking::high_water_mark(winner),
        ) {
            *highest = theirs.max(*highest);
        }
    }
}
