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
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Result;
use crate::source::{ChangeRead, ChangeSource, Tracked, TrackedTable, VersionedTable};

pub(super) use factory::VersionedFactory;
pub(super) use given::{OPTION_PREFIX, VERSIONED};
pub(super) use statement::with_location;

/// A table with a version column.
#[derive(Debug, Clone)]
pub(crate) struct VersionedProvider {
    table: VersionedTable,
    schema: SchemaRef,
}

impl VersionedProvider {
    /// The table, with the columns that it has now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) async fn try_new(table: VersionedTable) -> Result<Self> {
        Ok(Self {
            schema: table.columns(None).await?,
            table,
        })
    }

    /// The same with the columns that the table has by now.
    pub(crate) async fn refreshed(&self) -> Result<Self> {
        Self::try_new(self.table.clone()).await
    }

    /// Its changes; each question is answered for the moment at which it is asked.
    pub(crate) fn source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.table.clone()))
    }

    /// Its changes; all questions are answered for the moment of the first one.
    pub(crate) fn pinned_source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.table.pinned()))
    }

    /// Its versions, with what each has done.
    pub(crate) fn versions(&self) -> Arc<dyn TableProvider> {
        Arc::new(VersionsTable {
            table: self.table.clone(),
        })
    }
}

#[async_trait]
impl TableProvider for VersionedProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
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
        let read = ChangeRead {
            state,
            projection,
            filters,
            limit,
        };
        Ok(self.table.current(&self.schema, read).await?)
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
