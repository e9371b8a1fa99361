//! Tables that are sources of changes without being Delta tables, and what the session needs of all of them.
//!
//! A new kind of source, such as a remote system, becomes a table by one implementation of [`SourceRows`], and a factory.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::change_files_table::{ChangeFilesTable, VersionsTable};
use crate::error::Result;
use crate::source::{ChangeRead, ChangeSource};

/// A source, and the rows that it shows as a table.
#[async_trait]
pub(crate) trait SourceRows: std::fmt::Debug + Send + Sync {
    /// What `STORED AS` calls such tables.
    fn kind(&self) -> &'static str;

    /// Its changes; each question is answered for the moment at which it is asked.
    fn source(&self) -> Arc<dyn ChangeSource>;

    /// Its changes; all questions are answered for the moment of the first one.
    fn pinned_source(&self) -> Arc<dyn ChangeSource>;

    /// Its versions, with what each has done.
    fn versions(&self) -> Arc<dyn TableProvider>;

    /// The columns that it has now.
    async fn columns(&self) -> Result<SchemaRef>;

    /// Plans the read of its rows in `columns`, which it had when the statement was planned and which `read` projects.
    async fn rows(
        &self,
        columns: &SchemaRef,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>>;
}

/// Such a source as a table.
#[derive(Debug, Clone)]
pub(crate) struct SourceProvider {
    rows: Arc<dyn SourceRows>,
    schema: SchemaRef,
}

impl SourceProvider {
    /// The table, with the columns that the source has now.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub(crate) async fn try_new(rows: Arc<dyn SourceRows>) -> Result<Self> {
        Ok(Self {
            schema: rows.columns().await?,
            rows,
        })
    }

    /// What `STORED AS` calls such tables.
    pub(crate) fn kind(&self) -> &'static str {
        self.rows.kind()
    }
}

#[async_trait]
impl TableProvider for SourceProvider {
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
        Ok(self.rows.rows(&self.schema, read).await?)
    }
}

/// A table that is a source.
pub(crate) enum SourceTable<'a> {
    ChangeFiles(&'a ChangeFilesTable),
    Other(&'a SourceProvider),
}

impl<'a> SourceTable<'a> {
    /// The table behind a provider; `None` for any other.
    pub(crate) fn of(provider: &'a dyn TableProvider) -> Option<Self> {
        match provider.downcast_ref() {
            Some(table) => Some(Self::ChangeFiles(table)),
            None => provider.downcast_ref().map(Self::Other),
        }
    }

    /// Its changes, each time it is asked as they are then.
    pub(crate) fn source(&self) -> Arc<dyn ChangeSource> {
        match self {
            Self::ChangeFiles(table) => Arc::new(table.files().clone()),
            Self::Other(table) => table.rows.source(),
        }
    }

    /// Its changes as of one moment.
    pub(crate) fn pinned_source(&self) -> Arc<dyn ChangeSource> {
        match self {
            Self::ChangeFiles(table) => Arc::new(table.files().pinned()),
            Self::Other(table) => table.rows.pinned_source(),
        }
    }

    /// Its versions, as `change_versions` lists them.
    pub(crate) fn versions(&self) -> Arc<dyn TableProvider> {
        match self {
            Self::ChangeFiles(table) => Arc::new(VersionsTable::new(table.files().clone())),
            Self::Other(table) => table.rows.versions(),
        }
    }

    /// The same table with the columns that it has by now.
    pub(crate) async fn refreshed(&self) -> Result<Arc<dyn TableProvider>> {
        Ok(match self {
            Self::ChangeFiles(table) => Arc::new(table.refreshed().await?),
            Self::Other(table) => Arc::new(SourceProvider::try_new(Arc::clone(&table.rows)).await?),
        })
    }
}
