//! Change tracking of tables and of databases.

use std::any::Any;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::CatalogProvider;
use datafusion::common::{Column, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;

use super::nothing;
use crate::change::repeated_key;
use crate::delta::DeltaTable;
use crate::delta::actions::Metadata;
use crate::delta::alter::commit_metadata;
use crate::delta::snapshot::Snapshot;
use crate::delta::tracking::{TrackingOptions, enable, set_options};
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::{has_keys_to_check, key_text};
use crate::source::{DeltaTracking, TrackedTable};
use crate::sql::catalog::{WarehouseCatalog, WarehouseSchema};
use crate::sql::sync_session::lookup;
use crate::sql::tracking_parser::DatabaseTracking;

/// What SQL Server takes where nothing is said.
const DEFAULT_RETENTION: &str = "interval 2 days";
/// How often a table's options are set when other writers are faster.
const MAX_ATTEMPTS: u32 = 10;

/// Enables tracking in `metadata`, which is to be the table's, once its rows are known to have different keys.
///
/// # Errors
/// When the table has no primary key, rows that share one, or a key that is computed when rows are written.
pub(super) async fn enable_tracking(
    ctx: &SessionContext,
    name: &TableReference,
    snapshot: &Snapshot,
    options: TrackingOptions,
    metadata: &mut Metadata,
) -> Result<()> {
    let keys = &snapshot.properties().primary_key;
    if keys.is_empty() {
        return Err(Error::invalid(format!(
            "{name} has no primary key, by which change tracking tells rows apart; declare one with ALTER TABLE {name} ADD PRIMARY KEY (…), or in \
             CREATE TABLE"
        )));
    }
    let reserved = |key: &&String| key.to_lowercase().starts_with("sys_change_");
    if let Some(key) = keys.iter().find(reserved) {
        return Err(Error::invalid(format!(
            "the key column {key:?} of {name} has a name that CHANGETABLE needs for itself; change tracking needs another key"
        )));
    }
    // every writer would be refused
    has_keys_to_check(snapshot)?;
    check_keys(ctx, name, keys).await?;
    let defaults = match warehouse_of(ctx, name) {
        Some(warehouse) => warehouse.tracking_defaults()?,
        None => TrackingOptions::default(),
    };
    enable(metadata, options.or(defaults));
    Ok(())
}

/// Changes how the table is tracked; what has expired stays so.
pub(super) async fn set_tracking(
    snapshot: &Snapshot,
    options: TrackingOptions,
) -> Result<(Metadata, Operation)> {
    let tracking = DeltaTracking::new(snapshot.table().clone());
    let begin = tracking.tracking().await?.1.begin_version;
    let min_valid = tracking.bounds().await?.min_valid + begin;
    let mut metadata = snapshot.metadata().clone();
    set_options(&mut metadata, options, min_valid);
    Ok((metadata, Operation::new("SET CHANGE TRACKING")))
}

/// Refuses rows that lack the key, or share it with another.
///
/// # Errors
/// [`Error::Invalid`], naming the first.
pub(super) async fn check_keys(
    ctx: &SessionContext,
    table: &TableReference,
    keys: &[String],
) -> Result<()> {
    let column = |name: &String| Expr::Column(Column::from_name(name));
    let columns: Vec<Expr> = keys.iter().map(column).collect();
    let rows = ctx.table(table.clone()).await?;
    let lacks = keys
        .iter()
        .map(|key| column(key).is_null())
        .reduce(Expr::or);
    if let Some(lacks) = lacks {
        let without = rows
            .clone()
            .filter(lacks)?
            .select(columns.clone())?
            .limit(0, Some(1))?;
        if let Some(row) = first_row(without.collect().await?) {
            return Err(Error::invalid(format!(
                "{table} has a row without a key: {}; fill it in or delete the row first",
                key_text(&row, keys)
            )));
        }
    }
    let repeated = repeated_key(rows.into_unoptimized_plan(), columns)?;
    let repeated = DataFrame::new(ctx.state(), repeated);
    match first_row(repeated.collect().await?) {
        None => Ok(()),
        Some(row) => Err(Error::invalid(format!(
            "{table} has more than one row of the key {}; delete the surplus rows first, or choose another key",
            key_text(&row, keys)
        ))),
    }
}

fn first_row(batches: Vec<RecordBatch>) -> Option<RecordBatch> {
    let batch = batches.into_iter().find(|batch| batch.num_rows() > 0)?;
    Some(batch.slice(0, 1))
}

/// The warehouse that a table is in.
fn warehouse_of(ctx: &SessionContext, table: &TableReference) -> Option<Warehouse> {
    let defaults = ctx.state().config_options().catalog.clone();
    let resolved = table
        .clone()
        .resolve(&defaults.default_catalog, &defaults.default_schema);
    let warehouse = Warehouse(ctx.catalog(&resolved.catalog)?);
    let schema = warehouse.0.schema(&resolved.schema)?;
    let schema: &dyn Any = schema.as_ref();
    // a table registered from elsewhere is not the warehouse's
    let is_own = schema
        .downcast_ref::<WarehouseSchema>()
        .is_some_and(|schema| schema.registered(&resolved.table).is_none());
    (is_own && warehouse.catalog().is_some()).then_some(warehouse)
}

/// A catalog that may be a warehouse.
struct Warehouse(Arc<dyn CatalogProvider>);

impl Warehouse {
    fn catalog(&self) -> Option<&WarehouseCatalog> {
        let any: &dyn Any = self.0.as_ref();
        any.downcast_ref()
    }

    fn tracking_defaults(&self) -> Result<TrackingOptions> {
        let catalog = self.catalog().map(WarehouseCatalog::tracking_defaults);
        Ok(catalog.transpose()?.flatten().unwrap_or_default())
    }
}

/// `ALTER DATABASE … SET CHANGE_TRACKING`.
pub(super) async fn alter_database(
    ctx: &SessionContext,
    database: &str,
    change: DatabaseTracking,
) -> Result<DataFrame> {
    let default = ctx.state().config_options().catalog.default_catalog.clone();
    let name = match database {
        "current" => default.as_str(),
        name => name,
    };
    let names = ctx.catalog_names().join(", ");
    let warehouse = ctx.catalog(name).map(Warehouse).ok_or_else(|| {
        Error::invalid(format!(
            "there is no database {name:?}; there is {names}, and CURRENT stands for {default}"
        ))
    })?;
    let catalog = warehouse.catalog().ok_or_else(|| {
        Error::invalid(format!(
            "the database {name} is no warehouse, and keeps no options; use ALTER TABLE … ENABLE CHANGE_TRACKING WITH (…)"
        ))
    })?;
    let tracked = lookup(ctx).tracked_tables(Some(name)).await?;
    let before = catalog.tracking_defaults()?;
    let options = match change {
        DatabaseTracking::Off => {
            if !tracked.is_empty() {
                let names: Vec<String> = tracked.iter().map(|(name, _)| name.to_string()).collect();
                return Err(Error::invalid(format!(
                    "change tracking of {name} cannot be switched off while tables are tracked ({}); ALTER TABLE … DISABLE CHANGE_TRACKING first",
                    names.join(", ")
                )));
            }
            catalog.set_tracking_defaults(None)?;
            return nothing(ctx);
        }
        DatabaseTracking::On(options) => options.or(TrackingOptions {
            columns_updated: None,
            retention: Some(DEFAULT_RETENTION.into()),
            auto_cleanup: Some(true),
        }),
        DatabaseTracking::Change(options) => match before {
            Some(before) => options.or(before),
            None => {
                return Err(Error::invalid(format!(
                    "change tracking of {name} is off; switch it on with ALTER DATABASE {name} SET CHANGE_TRACKING = ON (…)"
                )));
            }
        },
    };
    for (_, table) in tracked {
        set_options_of(&table, &options).await?;
    }
    catalog.set_tracking_defaults(Some(&options))?;
    nothing(ctx)
}

/// Sets the options of a tracked table, again if another writer is faster.
async fn set_options_of(table: &DeltaTable, options: &TrackingOptions) -> Result<()> {
    for attempt in 1.. {
        let snapshot = table.snapshot().await?;
        let (metadata, operation) = set_tracking(&snapshot, options.clone()).await?;
        if metadata == *snapshot.metadata() {
            return Ok(());
        }
        match commit_metadata(&snapshot, metadata, operation).await {
            Err(Error::Conflict { .. }) if attempt < MAX_ATTEMPTS => {}
            answer => return answer,
        }
    }
    Ok(())
}
