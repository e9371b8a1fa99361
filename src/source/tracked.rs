//! Version-tracked tables: tables that count their versions themselves and can say what changed since one.
//!
//! ```text
//!  TrackedTable        what a system has to answer: bounds, changes of a range, identity
//!    ├ DeltaTracking   our own tables with change tracking, versions counted from the commit that enabled it
//!    ├ VersionedTable  any table with a column that only grows
//!    └ Snapshots       full dumps, one after the other
//!  Tracked<T>          the same as a ChangeSource: bounds checked, expired history refused
//! ```
//!
//! A remote system becomes a source by one implementation of [`TrackedTable`], with [`StreamExec`] around the stream of its
//! answers and [`pushed_down`] for the part of a read that it can do itself.

mod delta_tracking;
mod pushdown;
#[cfg(test)]
mod scripted;
mod snapshots;
mod stream_exec;
mod versioned;

pub(crate) use delta_tracking::DeltaTracking;
#[cfg(test)]
pub(crate) use scripted::{ScriptedChange, ScriptedTable};
pub(crate) use snapshots::{DumpCounts, Snapshots};
pub(super) use stream_exec::StreamExec;
pub(crate) use versioned::{RowTable, VersionedTable};

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_plan::ExecutionPlan;

use super::{ChangeRead, ChangeSource, Clock};
use crate::change::{Bound, ChangeBounds, ChangeRange, change_schema};
use crate::delta::create::TableDefinition;
use crate::error::{Error, Result};

/// The versions that a tracked table has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VersionBounds {
    /// The newest version; 0 where nothing has happened yet.
    pub current: i64,
    /// The lowest version whose changes since can be read whole (SQL Server: `CHANGE_TRACKING_MIN_VALID_VERSION`).
    pub min_valid: i64,
    /// Whether everything since the table's creation, or since tracking began, can be read.
    pub reaches_creation: bool,
}

/// A table that counts its versions.
#[async_trait]
pub(crate) trait TrackedTable: Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Where it is, without secrets.
    fn location(&self) -> String;

    /// Tells it from every other table, one that was made anew in its place included.
    async fn identity(&self) -> Result<String>;

    /// The versions there are.
    async fn bounds(&self) -> Result<VersionBounds>;

    /// The newest version committed at or before a time in microseconds since the epoch; -1 where all are later.
    async fn version_at(&self, micros: i64) -> Result<i64>;

    /// When a version was committed, in microseconds since the epoch, where that is known.
    async fn commit_time(&self, version: i64) -> Result<Option<i64>>;

    /// Its own columns as of a version, the newest one if absent.
    async fn columns(&self, version: Option<i64>) -> Result<SchemaRef>;

    /// The columns that tell rows apart.
    async fn primary_key(&self) -> Result<Vec<String>>;

    /// Tells the history up to a version from another one; `None` where nobody knows.
    async fn fingerprint(&self, _: i64) -> Result<Option<i64>> {
        Ok(None)
    }

    /// Says what is missing of a range that begins before the oldest version that is kept, where it knows better than that.
    async fn check_kept(&self, _: &ChangeRange) -> Result<()> {
        Ok(())
    }

    /// Plans the read of a range that lies within [`Self::bounds`]: the columns of [`change_schema`] over [`Self::columns`].
    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>>;

    /// Whether it has rows beside its changes.
    fn has_rows(&self) -> bool {
        true
    }

    /// Plans the read of a version's rows as inserts of that version, in the same columns.
    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>>;

    /// What a copy of it has to be created as.
    async fn definition(&self, version: i64) -> Result<TableDefinition> {
        let columns = self.columns(Some(version)).await?;
        Ok(TableDefinition {
            columns: columns.fields().iter().cloned().collect(),
            primary_key: self.primary_key().await?,
            partition_columns: vec![],
            properties: HashMap::new(),
            comment: None,
        })
    }
}

/// A tracked table as a source of changes.
#[derive(Debug, Clone)]
pub(crate) struct Tracked<T>(pub T);

impl<T: TrackedTable> Tracked<T> {
    async fn expired(&self, range: &ChangeRange, bounds: VersionBounds) -> Error {
        if let Err(error) = self.0.check_kept(range).await {
            return error;
        }
        let requested = match range.from_creation() {
            true => "NULL".into(),
            false => range.since().to_string(),
        };
        Error::ChangesExpired {
            table: self.0.name().into(),
            requested,
            oldest: bounds.min_valid.to_string(),
            current: bounds.current,
            reason: format!(
                "the minimum valid version is {}: what changed before it is no longer kept",
                bounds.min_valid
            ),
        }
    }
}

#[async_trait]
impl<T: TrackedTable> ChangeSource for Tracked<T> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn location(&self) -> String {
        self.0.location()
    }

    async fn current_version(&self) -> Result<i64> {
        Ok(self.0.bounds().await?.current)
    }

    async fn identity(&self) -> Result<String> {
        self.0.identity().await
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        self.0.fingerprint(version).await
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        self.0.commit_time(version).await
    }

    async fn definition(&self, version: i64) -> Result<TableDefinition> {
        self.0.definition(version).await
    }

    async fn check_followable(&self) -> Result<()> {
        self.0.bounds().await.map(|_| ())
    }

    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange> {
        let versions = self.0.bounds().await?;
        // who is at version 0 of a table without a version has missed nothing
        let current = match bounds.since {
            Bound::Version(0) => versions.current.max(0),
            _ => versions.current,
        };
        let mut clock = Clock::new(self.0.name(), current);
        clock.earliest = match versions.reaches_creation {
            true => -1,
            false => versions.min_valid,
        };
        for bound in [Some(&bounds.since), bounds.until.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Bound::Timestamp(micros) = bound {
                let version = self.0.version_at(*micros).await?;
                clock.instants.insert(*micros, version);
            }
        }
        let range = bounds.resolve(&clock)?;
        if range.since() < versions.min_valid && !versions.reaches_creation {
            return Err(self.expired(&range, versions).await);
        }
        Ok(range)
    }

    async fn schema(&self, version: Option<i64>) -> Result<SchemaRef> {
        change_schema(self.0.name(), &*self.0.columns(version).await?)
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        self.0.primary_key().await
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.changes(range, read).await
    }

    fn has_rows(&self) -> bool {
        self.0.has_rows()
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.rows(version, read).await
    }
}
