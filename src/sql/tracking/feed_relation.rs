//! The changes of a range, whose log has been read already, as a table that only plans can see.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::project_schema;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use crate::source::{ChangeRead, DeltaTracking, FeedLog};

/// The changes that a log tells, as a table; without a log there are none.
#[derive(Debug)]
pub(super) struct FeedRelation {
    pub log: Option<FeedLog>,
    /// The columns of the feed.
    pub schema: SchemaRef,
    /// Whose versions errors are told in.
    pub tracking: DeltaTracking,
}

#[async_trait]
impl TableProvider for FeedRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Some(log) = self.log.clone() else {
            let schema = project_schema(&self.schema, projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        let read = ChangeRead {
            state,
            projection,
            filters,
            limit,
        };
        match log.plan(read).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.tracking.in_tracking_versions(error).await.into()),
        }
    }
}
