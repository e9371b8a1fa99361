//! The versions of a Delta table with what each has done (`change_versions('t')`).

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::delta::DeltaTable;
use crate::source::{ChangeRead, DeltaFeed};

/// The versions that the log still has.
#[derive(Debug)]
pub(crate) struct DeltaVersionsTable {
    table: DeltaTable,
}

impl DeltaVersionsTable {
    /// Those of `table`, each time it is read as they are then.
    pub(crate) fn new(table: DeltaTable) -> Self {
        Self { table }
    }
}

#[async_trait]
impl TableProvider for DeltaVersionsTable {
    fn schema(&self) -> SchemaRef {
        DeltaFeed::versions_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match DeltaFeed::listed_by(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let read = ChangeRead {
            state,
            projection,
            filters,
            limit,
        };
        let feed = DeltaFeed::pinned(self.table.clone());
        Ok(feed.versions(read).await?)
    }
}
