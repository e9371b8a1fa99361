//! What a sync names, looked up in a session.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::SchemaProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::TableReference;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;

use super::catalog::{WarehouseSchema, delta_table_of};
use super::change_files_table::ChangeFilesTable;
use super::changes_table::{ChangesTable, open_bounds};
use super::ddl::{new_table, query_plan};
use super::query_source::{QuerySource, check_all_carried};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{ChangeFiles, ChangeSource, DeltaFeed};
use crate::sync::{SourceSpec, SyncSession};

#[async_trait]
impl SyncSession for SessionContext {
    async fn sync_target(&self, name: &TableReference) -> Result<DeltaTable> {
        match find_delta_table(self, name).await? {
            Some(table) => Ok(table),
            None => new_table(self, name),
        }
    }

    async fn sync_source(&self, source: &SourceSpec) -> Result<Arc<dyn ChangeSource>> {
        match source {
            SourceSpec::Table(name) => {
                if let Some(files) = find_change_files(self, name).await? {
                    return Ok(Arc::new(files.pinned()));
                }
                let found = find_delta_table(self, name).await?;
                let table = found.ok_or_else(|| not_found(name))?;
                Ok(Arc::new(DeltaFeed::pinned(table)))
            }
            SourceSpec::Query(sql) => Ok(Arc::new(QuerySource::try_new(
                query_plan(self, sql).await?,
                Arc::new(self.state()),
            )?)),
        }
    }

    async fn source_rows(&self, source: &SourceSpec) -> Result<LogicalPlan> {
        match source {
            SourceSpec::Table(name) => {
                if !self.table_exist(name.clone())? {
                    return Err(not_found(name));
                }
                if let Some(files) = find_change_files(self, name).await? {
                    // what is applied of a feed is its changes, and not what they amount to
                    let schema = files.schema(None).await?;
                    let changes = ChangesTable::new(Arc::new(files), schema, open_bounds());
                    let changes = provider_as_source(Arc::new(changes));
                    return Ok(LogicalPlanBuilder::scan(name.clone(), changes, None)?.build()?);
                }
                let table = self.table(name.clone()).await?;
                Ok(table.into_unoptimized_plan())
            }
            SourceSpec::Query(sql) => {
                let plan = query_plan(self, sql).await?;
                check_all_carried(&plan).await?;
                Ok(plan)
            }
        }
    }
}

fn not_found(name: &TableReference) -> Error {
    Error::TableNotFound {
        table: name.to_string(),
        hint: "; SHOW TABLES lists what there is".into(),
    }
}

/// The change files of that name, if it is theirs.
async fn find_change_files(
    ctx: &SessionContext,
    name: &TableReference,
) -> Result<Option<ChangeFiles>> {
    let Some((schema, table)) = find_schema(ctx, name) else {
        return Ok(None);
    };
    let any: &dyn Any = schema.as_ref();
    let provider = match any.downcast_ref::<WarehouseSchema>() {
        Some(warehouse) => warehouse.registered(&table),
        None => schema.table(&table).await?,
    };
    let files = provider
        .as_ref()
        .and_then(|provider| provider.downcast_ref::<ChangeFilesTable>());
    Ok(files.map(|table| table.files().clone()))
}

fn find_schema(
    ctx: &SessionContext,
    name: &TableReference,
) -> Option<(Arc<dyn SchemaProvider>, String)> {
    let defaults = &ctx.state().config_options().catalog.clone();
    let resolved = name
        .clone()
        .resolve(&defaults.default_catalog, &defaults.default_schema);
    let schema = ctx
        .catalog(&resolved.catalog)
        .and_then(|catalog| catalog.schema(&resolved.schema))?;
    Some((schema, resolved.table.to_string()))
}

/// The Delta table of that name; its log is not looked at.
pub(crate) async fn find_delta_table(
    ctx: &SessionContext,
    name: &TableReference,
) -> Result<Option<DeltaTable>> {
    let Some((schema, table)) = find_schema(ctx, name) else {
        return Ok(None);
    };
    let any: &dyn Any = schema.as_ref();
    if let Some(warehouse) = any.downcast_ref::<WarehouseSchema>() {
        return warehouse.find(&table);
    }
    match schema.table(&table).await? {
        Some(provider) => delta_table_of(&table, provider.as_ref()).map(Some),
        None => Ok(None),
    }
}
