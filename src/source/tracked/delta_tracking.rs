//! Delta tables with change tracking: the change data feed, its versions counted from the commit that enabled tracking.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use super::{TrackedTable, VersionBounds};
use crate::change::{COMMIT_VERSION, ChangeRange};
use crate::delta::DeltaTable;
use crate::delta::create::TableDefinition;
use crate::delta::log::{commit_path, commit_timestamp, list_commits, newest_until};
use crate::delta::snapshot::Snapshot;
use crate::delta::tracking::ChangeTracking;
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource, DeltaFeed};

/// A Delta table with change tracking, as it stands when it is first asked.
#[derive(Debug, Clone)]
pub(crate) struct DeltaTracking {
    feed: DeltaFeed,
    bounds: Arc<OnceCell<VersionBounds>>,
}

impl DeltaTracking {
    /// The tracking of `table`; whether there is any is found out when it is asked.
    pub(crate) fn new(table: DeltaTable) -> Self {
        Self {
            feed: DeltaFeed::pinned(table),
            bounds: Arc::default(),
        }
    }

    /// The feed behind, whose versions are Delta's.
    pub(crate) fn feed(&self) -> &DeltaFeed {
        &self.feed
    }

    /// The newest version, and how the table is tracked.
    ///
    /// # Errors
    /// [`Error::ChangesNotTracked`] when it is not.
    pub(crate) async fn tracking(&self) -> Result<(Arc<Snapshot>, ChangeTracking)> {
        let snapshot = self.feed.current().await?;
        match snapshot.properties().tracking.clone() {
            Some(tracking) => Ok((snapshot, tracking)),
            None => Err(Error::ChangesNotTracked {
                table: self.feed.name().into(),
            }),
        }
    }

    /// A range of tracking versions in Delta's.
    pub(crate) async fn in_delta(&self, range: ChangeRange) -> Result<ChangeRange> {
        let (_, tracking) = self.tracking().await?;
        // version 0 is the commit that began it: what came before is not tracked
        Ok(range.shifted(tracking.begin_version))
    }

    /// An error of the feed's in tracking versions.
    pub(crate) async fn in_tracking_versions(&self, error: Error) -> Error {
        let (begin, error) = match (self.tracking().await, error) {
            (
                Ok((_, tracking)),
                Error::ChangesExpired {
                    table,
                    requested,
                    oldest,
                    current,
                    reason,
                },
            ) => (
                tracking.begin_version,
                (table, requested, oldest, current, reason),
            ),
            (_, error) => return error,
        };
        let (table, requested, oldest, current, reason) = error;
        let shifted = |version: &str| match version.parse::<i64>() {
            Ok(version) => (version - begin).to_string(),
            Err(_) => version.to_owned(),
        };
        Error::ChangesExpired {
            requested: shifted(&requested),
            oldest: shifted(&oldest),
            current: current - begin,
            reason: format!("{reason} (in Delta's versions, of which {begin} is version 0 here)"),
            table,
        }
    }

    async fn delta_version(&self, version: i64) -> Result<i64> {
        Ok(self.tracking().await?.1.begin_version + version)
    }

    /// The plan with tracking versions in the place of Delta's.
    async fn counted(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let begin = self.tracking().await?.1.begin_version;
        let schema = plan.schema();
        if schema.index_of(COMMIT_VERSION).is_err() {
            return Ok(plan);
        }
        let columns = schema.fields().iter().enumerate().map(|(index, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
            let value: Arc<dyn PhysicalExpr> = if field.name() == COMMIT_VERSION {
                Arc::new(BinaryExpr::new(column, Operator::Minus, lit(begin)))
            } else {
                column
            };
            (value, field.name().clone())
        });
        let columns: Vec<_> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

/// The lowest Delta version that changes can be asked for since.
async fn min_valid(snapshot: &Snapshot, tracking: &ChangeTracking) -> Result<i64> {
    let (lowest, current) = (tracking.min_valid_version, snapshot.version());
    let mut version = lowest;
    if let Some(retention) = tracking.retention_micros() {
        let horizon = Utc::now().timestamp_micros().saturating_sub(retention);
        version = newest_until(snapshot, lowest + 1, current, horizon).await?;
    }
    if version >= current {
        return Ok(version);
    }
    let table = snapshot.table();
    match table.store().head(&commit_path(version + 1)).await {
        Ok(_) => Ok(version),
        Err(object_store::Error::NotFound { .. }) => {
            // the log has been cleaned: what is left begins later
            let files = list_commits(table, 0).await?;
            Ok(super::super::delta_feed::oldest_contiguous(&files, current) - 1)
        }
        Err(error) => Err(error.into()),
    }
}

/// The filters that hold for Delta's versions, too.
fn without_versions(filters: &[Expr]) -> Vec<Expr> {
    let is_of_version = |filter: &&Expr| {
        let mut columns = filter.column_refs().into_iter();
        columns.any(|column| column.name == COMMIT_VERSION)
    };
    let kept = filters.iter().filter(|filter| !is_of_version(filter));
    kept.cloned().collect()
}

#[async_trait]
impl TrackedTable for DeltaTracking {
    fn name(&self) -> &str {
        self.feed.name()
    }

    fn location(&self) -> String {
        self.feed.location()
    }

    async fn identity(&self) -> Result<String> {
        self.feed.identity().await
    }

    async fn bounds(&self) -> Result<VersionBounds> {
        let find = || async {
            let (snapshot, tracking) = self.tracking().await?;
            let min_valid = min_valid(&snapshot, &tracking).await?;
            Ok(VersionBounds {
                current: snapshot.version() - tracking.begin_version,
                min_valid: min_valid - tracking.begin_version,
                reaches_creation: min_valid == tracking.begin_version,
            })
        };
        self.bounds.get_or_try_init(find).await.copied()
    }

    async fn version_at(&self, micros: i64) -> Result<i64> {
        let (snapshot, tracking) = self.tracking().await?;
        let begin = tracking.begin_version;
        let found = newest_until(&snapshot, begin, snapshot.version(), micros).await?;
        Ok(found - begin)
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        let (snapshot, tracking) = self.tracking().await?;
        commit_timestamp(&snapshot, tracking.begin_version + version).await
    }

    async fn columns(&self, version: Option<i64>) -> Result<SchemaRef> {
        let version = match version {
            Some(version) => Some(self.delta_version(version).await?),
            None => None,
        };
        let snapshot = self.feed.snapshot(version).await?;
        Ok(Arc::clone(snapshot.layout().schema()))
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        self.feed.primary_key().await
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        self.feed
            .fingerprint(self.delta_version(version).await?)
            .await
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters = without_versions(read.filters);
        let read = ChangeRead {
            filters: &filters,
            ..read
        };
        match self.feed.changes(self.in_delta(range).await?, read).await {
            Ok(plan) => self.counted(plan).await,
            Err(error) => Err(self.in_tracking_versions(error).await),
        }
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let filters = without_versions(read.filters);
        let read = ChangeRead {
            filters: &filters,
            ..read
        };
        let version = self.delta_version(version).await?;
        self.counted(self.feed.rows(version, read).await?).await
    }

    async fn definition(&self, version: i64) -> Result<TableDefinition> {
        self.feed
            .definition(self.delta_version(version).await?)
            .await
    }
}
