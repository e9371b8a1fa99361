//! A sync as a relation: scanning it runs it and returns the report.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use super::query_source::project;
use crate::sync::Sync;

/// Runs a sync when it is scanned and the plan executed.
struct SyncTable {
    sync: Sync,
    ctx: SessionContext,
}

impl std::fmt::Debug for SyncTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncTable")
            .field("sync", &self.sync)
            .finish_non_exhaustive()
    }
}

/// The plan of a sync.
pub(super) fn sync_plan(ctx: &SessionContext, sync: Sync) -> crate::Result<LogicalPlan> {
    let table = SyncTable {
        sync,
        ctx: ctx.clone(),
    };
    Ok(LogicalPlanBuilder::scan("sync", provider_as_source(Arc::new(table)), None)?.build()?)
}

#[async_trait]
impl TableProvider for SyncTable {
    fn schema(&self) -> SchemaRef {
        self.sync.report_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.sync.physical_plan(&self.ctx).await?;
        let all: Vec<usize> = (0..self.schema().fields().len()).collect();
        let projection = projection.filter(|indices| **indices != all);
        Ok(project(plan, projection)?)
    }
}
