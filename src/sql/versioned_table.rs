//! Tables with a version column as tables: their rows as they are, and the versions with what each has done
//! (`change_versions('t')`).

mod factory;
mod given;
mod place;
mod statement;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::source_table::SourceRows;
use crate::error::Result;
use crate::source::{ChangeRead, ChangeSource, Tracked, TrackedTable, VersionedTable};

pub(super) use factory::VersionedFactory;
pub(super) use given::{OPTION_PREFIX, VERSIONED};
pub(super) use statement::with_location;

#[async_trait]
impl SourceRows for VersionedTable {
    fn kind(&self) -> &'static str {
        VERSIONED
    }

    fn source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.clone()))
    }

    fn pinned_source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.pinned()))
    }

    fn versions(&self) -> Arc<dyn TableProvider> {
        Arc::new(VersionsTable {
            table: self.clone(),
        })
    }

    async fn columns(&self) -> Result<SchemaRef> {
        TrackedTable::columns(self, None).await
    }

    async fn rows(
        &self,
        columns: &SchemaRef,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.current(columns, read).await
    }
}

/// The versions of a table with a version column.
#[derive(Debug)]
struct VersionsTable {
    table: VersionedTable,
}

#[async_trait]
impl TableProvider for VersionsTable {
    fn schema(&self) -> SchemaRef {
        VersionedTable::versions_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let read = ChangeRead {
            state,
            projection,
            filters: &[],
            limit: None,
        };
        Ok(self.table.versions(read).await?)
    }
}
