//! What a sync names, looked up in a session.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::TableReference;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;

use super::catalog::WarehouseSchema;
use super::changes_table::{ChangesTable, open_bounds};
use super::ddl::{new_table, query_plan};
use super::lookup::Lookup;
use super::query_source::{QuerySource, check_all_carried};
use super::source_table::SourceTable;
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaFeed};
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
                let found = find_source_table(self, name).await?;
                if let Some(table) = found.as_deref().and_then(SourceTable::of) {
                    return Ok(table.pinned_source());
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
                let found = find_source_table(self, name).await?;
                if let Some(table) = found.as_deref().and_then(SourceTable::of) {
                    // what is applied of a feed is its changes, and not what they amount to
                    let source = table.source();
                    let schema = source.schema(None).await?;
                    let changes = ChangesTable::new(source, schema, open_bounds());
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

/// The table of that name, if it is a source that is no Delta table.
async fn find_source_table(
    ctx: &SessionContext,
    name: &TableReference,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((schema, table)) = lookup(ctx).schema(name) else {
        return Ok(None);
    };
    let any: &dyn Any = schema.as_ref();
    let provider = match any.downcast_ref::<WarehouseSchema>() {
        Some(warehouse) => warehouse.registered(&table),
        None => schema.table(&table).await?,
    };
    Ok(provider.filter(|provider| SourceTable::of(provider.as_ref()).is_some()))
}

/// Looks tables of a session up.
pub(crate) fn lookup(ctx: &SessionContext) -> Lookup {
    let state = ctx.state();
    let catalogs = Arc::clone(state.catalog_list());
    Lookup::new(catalogs, &state.config_options().catalog)
}

/// The Delta table of that name; its log is not looked at.
pub(crate) async fn find_delta_table(
    ctx: &SessionContext,
    name: &TableReference,
) -> Result<Option<DeltaTable>> {
    lookup(ctx).delta_table(name).await
}
