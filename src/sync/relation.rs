//! Tables that only the plans of a sync can see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use crate::change::ChangeRange;
use crate::delta::scan::DeltaScan;
use crate::delta::snapshot::Snapshot;
use crate::source::{ChangeRead, ChangeSource};

/// What is read of a source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    /// The rows of a version, as inserts.
    Rows(i64),
    /// The changes of a range.
    Changes(ChangeRange),
}

/// A source's rows or changes, in the schema of a change read.
#[derive(Debug)]
pub(super) struct SourceRelation {
    source: Arc<dyn ChangeSource>,
    read: Read,
    schema: SchemaRef,
    found: Arc<AtomicBool>,
}

impl SourceRelation {
    /// The relation, with the schema that it has at the version read; whether there is anything in it, [`Self::found`] knows
    /// once it has been planned.
    pub(super) fn new(source: Arc<dyn ChangeSource>, read: Read, schema: SchemaRef) -> Self {
        Self {
            source,
            read,
            schema,
            found: Arc::default(),
        }
    }

    /// Becomes true when a plan is made that reads anything.
    pub(super) fn found(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.found)
    }
}

/// A read of a source as a plan, in the schema that it has at `version`, and its relation.
pub(super) async fn scan_source(
    source: &Arc<dyn ChangeSource>,
    read: Read,
    version: i64,
) -> crate::Result<(LogicalPlan, Arc<SourceRelation>)> {
    let schema = source.schema(Some(version)).await?;
    let relation = Arc::new(SourceRelation::new(Arc::clone(source), read, schema));
    let provider = provider_as_source(Arc::clone(&relation) as _);
    let scan = LogicalPlanBuilder::scan(TableReference::bare(source.name()), provider, None)?;
    Ok((scan.build()?, relation))
}

#[async_trait]
impl TableProvider for SourceRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let read = ChangeRead {
            state,
            projection,
            filters,
            limit,
        };
        let plan = match self.read {
            Read::Changes(range) => self.source.changes(range, read).await?,
            Read::Rows(version) => self.source.rows(version, read).await?,
        };
        if plan.downcast_ref::<EmptyExec>().is_none() {
            self.found.store(true, Ordering::Relaxed);
        }
        Ok(plan)
    }
}

/// One version of a target.
#[derive(Debug)]
pub(super) struct VersionRelation {
    scan: DeltaScan,
    schema: SchemaRef,
}

impl VersionRelation {
    /// The rows of this version.
    pub(super) async fn new(snapshot: &Arc<Snapshot>) -> crate::Result<Self> {
        let scan = DeltaScan::of_snapshot(snapshot).await?;
        Ok(Self {
            schema: scan.schema(),
            scan,
        })
    }
}

#[async_trait]
impl TableProvider for VersionRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self
            .scan
            .clone()
            .plan(state, projection, filters, limit)
            .await?)
    }
}
