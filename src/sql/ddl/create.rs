//! `CREATE [OR REPLACE] TABLE`, with columns or `AS SELECT`, in one commit.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, cast};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;

use super::computed::check_computed;
use super::{logical_plan, nothing};
use crate::delta::DeltaTable;
use crate::delta::actions::{Metadata, Protocol};
use crate::delta::alter::wanted_protocol;
use crate::delta::computed::declare_computed;
use crate::delta::create::{TableDefinition, write_target};
use crate::delta::snapshot::Snapshot;
use crate::delta::tracking::remember_begin;
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::{CommitExec, plan_create};
use crate::sql::catalog::{DEFAULT_SCHEMA, WarehouseSchema};
use crate::sql::delta_table::DeltaTableProvider;
use crate::sql::parser::CreateTable;

use super::alter::check_properties;

/// Creates or replaces the table, and fills it if there is a query.
pub(crate) async fn create_table(ctx: &SessionContext, create: CreateTable) -> Result<DataFrame> {
    let name = create
        .name
        .clone()
        .ok_or_else(|| Error::internal("CREATE TABLE without a name"))?;
    check_properties(&create.properties)?;
    let place = Place::find(ctx, &name, create.location.as_deref())?;
    let base = if place.table.exists().await? {
        Some(place.table.snapshot().await?)
    } else {
        None
    };
    if base.is_some() && create.if_not_exists {
        place.register(ctx, &name).await?;
        return nothing(ctx);
    }
    if base.is_some() && !create.or_replace {
        return Err(Error::TableExists(name.to_string()));
    }
    let is_new = base.is_none();
    if let Err(error) = Box::pin(write(ctx, &name, create, &place, base)).await {
        if is_new {
            place.table.discard_folder();
        }
        return Err(error);
    }
    place.register(ctx, &name).await?;
    nothing(ctx)
}

/// The place where a table of that name would be.
///
/// # Errors
/// When the name is taken by something else, or its schema is no warehouse.
pub(crate) fn new_table(ctx: &SessionContext, name: &TableReference) -> Result<DeltaTable> {
    Ok(Place::find(ctx, name, None)?.table)
}

/// Where the table is, and who must know of it.
struct Place {
    table: DeltaTable,
    /// Whether its location was given, so that the session must be told its name.
    external: bool,
}

impl Place {
    fn find(ctx: &SessionContext, name: &TableReference, location: Option<&str>) -> Result<Self> {
        if let Some(location) = location {
            let table = DeltaTable::new(name.table(), location, HashMap::new())?;
            return Ok(Self {
                table,
                external: true,
            });
        }
        let catalog_options = &ctx.state().config_options().catalog.clone();
        let resolved = name.clone().resolve(
            &catalog_options.default_catalog,
            &catalog_options.default_schema,
        );
        let catalog = ctx
            .catalog(&resolved.catalog)
            .ok_or_else(|| Error::invalid(format!("there is no catalog {:?}", resolved.catalog)))?;
        let schema = catalog.schema(&resolved.schema).ok_or_else(|| {
            Error::invalid(format!(
                "there is no schema {:?}; CREATE SCHEMA makes one",
                resolved.schema
            ))
        })?;
        let any: &dyn Any = schema.as_ref();
        let warehouse = any.downcast_ref::<WarehouseSchema>().ok_or_else(|| {
            Error::invalid(format!(
                "{}.{} is not a warehouse; say where the table shall be with LOCATION '…'",
                resolved.catalog, resolved.schema
            ))
        })?;
        let folder = warehouse.table_folder(&resolved.table)?;
        if schema.table_exist(&resolved.table) && !folder.join("_delta_log").is_dir() {
            return Err(Error::TableExists(name.to_string()));
        }
        if catalog
            .schema(&resolved.table)
            .is_some_and(|inner| !inner.table_names().is_empty())
            && resolved.schema.as_ref() == DEFAULT_SCHEMA
        {
            return Err(Error::invalid(format!(
                "{} is a schema with tables in it; give the table another name",
                resolved.table
            )));
        }
        warehouse.forget(&resolved.table);
        Ok(Self {
            table: warehouse.delta_table(&resolved.table)?,
            external: false,
        })
    }

    async fn register(&self, ctx: &SessionContext, name: &TableReference) -> Result<()> {
        if self.external {
            ctx.deregister_table(name.clone())?;
            ctx.register_table(
                name.clone(),
                Arc::new(DeltaTableProvider::try_new(self.table.clone()).await?),
            )?;
        }
        Ok(())
    }
}

async fn write(
    ctx: &SessionContext,
    name: &TableReference,
    create: CreateTable,
    place: &Place,
    base: Option<Arc<Snapshot>>,
) -> Result<()> {
    let query = match create.query {
        Some(tokens) => Some(DataFrame::new(
            ctx.state(),
            logical_plan(ctx, tokens).await?,
        )),
        None => None,
    };
    let columns = columns(name.table(), create.columns, query.as_ref())?;
    let computed = check_computed(name.table(), &columns, create.computed, &ctx.state())?;
    let definition = TableDefinition {
        columns,
        partition_columns: create.partition_columns,
        primary_key: create.primary_key,
        properties: create.properties,
        comment: create.comment,
    };
    let (mut metadata, mut protocol) = definition.actions(
        name.table(),
        base.as_ref().map(|base| base.metadata().id.clone()),
    )?;
    if !computed.is_empty() {
        declare_computed(&mut metadata, &computed)?;
        protocol = wanted_protocol(&metadata)?;
    }
    if let Some(base) = &base {
        remember_begin(base.metadata(), &mut metadata);
    }
    place.table.create_folder()?;
    let (is_query, or_replace) = (query.is_some(), create.or_replace);
    let rows = rows(&place.table, &metadata, &protocol, query).await?;
    let verb = if base.is_some() {
        "CREATE OR REPLACE TABLE"
    } else {
        "CREATE TABLE"
    };
    let operation = if is_query {
        Operation::new(&format!("{verb} AS SELECT"))
    } else {
        Operation::new(verb)
    };
    let session = Arc::new(ctx.state());
    let plan = plan_create(&place.table, metadata, protocol, base, operation, session)?;
    let commit = Arc::new(CommitExec::new(rows, plan, None)?);
    match collect(commit, ctx.task_ctx()).await.map_err(Error::from) {
        Ok(_) => Ok(()),
        Err(Error::Conflict { version: 0, .. }) if !or_replace => {
            Err(Error::TableExists(name.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The declared columns, or the query's; a query under declared columns must have as many.
fn columns(
    table: &str,
    declared: Vec<FieldRef>,
    query: Option<&DataFrame>,
) -> Result<Vec<FieldRef>> {
    let Some(query) = query else {
        return Ok(declared);
    };
    let selected = query.schema().fields();
    if declared.is_empty() {
        let nullable =
            |field: &FieldRef| Arc::new(Field::new(field.name(), field.data_type().clone(), true));
        return Ok(selected.iter().map(nullable).collect());
    }
    if declared.len() != selected.len() {
        return Err(Error::invalid(format!(
            "table {table} declares {} columns and its query has {}",
            declared.len(),
            selected.len()
        )));
    }
    Ok(declared)
}

/// The query's rows in the table's types, or none.
async fn rows(
    table: &DeltaTable,
    metadata: &Metadata,
    protocol: &Protocol,
    query: Option<DataFrame>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let target = write_target(table, metadata, protocol)?;
    let schema = target.layout.schema();
    let Some(query) = query else {
        return Ok(Arc::new(EmptyExec::new(Arc::clone(schema))));
    };
    let selected: Vec<Expr> = query
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            Expr::Column(datafusion::common::Column::new(
                qualifier.cloned(),
                field.name(),
            ))
        })
        .collect();
    let casts = selected
        .into_iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type().clone()).alias(field.name()));
    Ok(query
        .select(casts.collect::<Vec<_>>())?
        .create_physical_plan()
        .await?)
}
