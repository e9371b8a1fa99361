//! Looking Delta tables up by name, without a look at their logs.

use std::any::Any;
use std::sync::Arc;

use datafusion::catalog::{CatalogProviderList, SchemaProvider};
use datafusion::common::TableReference;
use datafusion::common::config::CatalogOptions;
use futures::{StreamExt, TryStreamExt, stream};

use super::catalog::{WarehouseSchema, delta_table_of};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};

/// How many tables are looked at at once.
const CONCURRENT_READS: usize = 64;

/// The catalogs of a session, and which of them names are in that do not say.
#[derive(Clone)]
pub(crate) struct Lookup {
    catalogs: Arc<dyn CatalogProviderList>,
    defaults: CatalogOptions,
}

impl Lookup {
    /// Looks into these catalogs.
    pub(crate) fn new(catalogs: Arc<dyn CatalogProviderList>, defaults: &CatalogOptions) -> Self {
        Self {
            catalogs,
            defaults: defaults.clone(),
        }
    }

    /// The schema that a name is in, and what it is called there.
    pub(crate) fn schema(
        &self,
        name: &TableReference,
    ) -> Option<(Arc<dyn SchemaProvider>, String)> {
        let resolved = name.clone().resolve(
            &self.defaults.default_catalog,
            &self.defaults.default_schema,
        );
        let catalog = self.catalogs.catalog(&resolved.catalog)?;
        let schema = match catalog.schema(&resolved.schema) {
            // what SQL Server calls the schema of tables without one
            None if resolved.schema.as_ref() == "dbo" => {
                catalog.schema(&self.defaults.default_schema)?
            }
            found => found?,
        };
        Some((schema, resolved.table.to_string()))
    }

    /// The Delta table of that name; `None` where there is nothing.
    ///
    /// # Errors
    /// When something else has that name.
    pub(crate) async fn delta_table(&self, name: &TableReference) -> Result<Option<DeltaTable>> {
        let Some((schema, table)) = self.schema(name) else {
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

    /// The Delta tables of a catalog, the default one if absent, as they are called from there.
    pub(crate) async fn delta_tables(
        &self,
        catalog: Option<&str>,
    ) -> Vec<(TableReference, DeltaTable)> {
        let default = self.defaults.default_catalog.as_str();
        let catalog_name = catalog.unwrap_or(default);
        let mut found = Vec::new();
        let Some(catalog) = self.catalogs.catalog(catalog_name) else {
            return found;
        };
        for schema in catalog.schema_names() {
            let tables = catalog.schema(&schema).map(|found| found.table_names());
            for table in tables.unwrap_or_default() {
                let name = if catalog_name != default {
                    TableReference::full(catalog_name, schema.as_str(), table)
                } else if schema == self.defaults.default_schema {
                    TableReference::bare(table)
                } else {
                    TableReference::partial(schema.as_str(), table)
                };
                // what is no Delta table is none of ours
                if let Ok(Some(table)) = self.delta_table(&name).await {
                    found.push((name, table));
                }
            }
        }
        found
    }

    /// Those of them with change tracking.
    ///
    /// # Errors
    /// When one cannot be read: nobody knows whether it is tracked.
    pub(crate) async fn tracked_tables(
        &self,
        catalog: Option<&str>,
    ) -> Result<Vec<(TableReference, DeltaTable)>> {
        let tables = stream::iter(self.delta_tables(catalog).await);
        let tables = tables.map(|(name, table)| async move {
            match table.snapshot().await {
                Ok(snapshot) => Ok(snapshot
                    .properties()
                    .tracking
                    .is_some()
                    .then_some((name, table))),
                // it has been dropped meanwhile
                Err(Error::TableNotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let tables = tables.buffered(CONCURRENT_READS);
        tables
            .try_filter_map(|tracked| std::future::ready(Ok(tracked)))
            .try_collect()
            .await
    }
}
