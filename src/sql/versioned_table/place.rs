//! Where the rows of a table with a version column are.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::catalog::{CatalogProviderList, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ResolvedTableReference, TableReference};
use datafusion::datasource::listing::ListingTable;
use datafusion::execution::SessionState;
use datafusion::execution::cache::TableScopedPath;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;

use super::super::source_table::SourceProvider;
use super::VERSIONED;
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::RowTable;
use crate::sql::delta_table::DeltaTableProvider;

/// A table or view that the session knows by name, whichever that is at the moment.
pub(super) struct NamedTable {
    /// As the user named it.
    given: String,
    name: ResolvedTableReference,
    /// They know the table that is made of this, too.
    catalogs: Weak<dyn CatalogProviderList>,
    runtime: Arc<RuntimeEnv>,
}

impl NamedTable {
    /// The table `given`.
    pub(super) fn new(given: &str, state: &SessionState) -> Self {
        let defaults = &state.config_options().catalog;
        let name = TableReference::parse_str(given)
            .resolve(&defaults.default_catalog, &defaults.default_schema);
        Self {
            given: given.to_owned(),
            name,
            catalogs: Arc::downgrade(state.catalog_list()),
            runtime: Arc::clone(state.runtime_env()),
        }
    }

    /// Its full name.
    pub(super) fn full_name(&self) -> String {
        self.name.to_string()
    }
}

impl std::fmt::Debug for NamedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NamedTable({})", self.name)
    }
}

#[async_trait]
impl RowTable for NamedTable {
    async fn open(&self) -> Result<Arc<dyn TableProvider>> {
        let schema = self.catalogs.upgrade().and_then(|catalogs| {
            let catalog = catalogs.catalog(&self.name.catalog)?;
            catalog.schema(&self.name.schema)
        });
        let found = match schema {
            Some(schema) => schema.table(&self.name.table).await?,
            None => None,
        };
        let table = found.ok_or_else(|| Error::TableNotFound {
            table: self.given.clone(),
            hint: "; SHOW TABLES lists what there is".into(),
        })?;
        for read in tables_read(&table)? {
            // which might be made of this one
            let source = read.downcast_ref::<SourceProvider>();
            if source.is_some_and(|source| source.kind() == VERSIONED) {
                return Err(Error::invalid(format!(
                    "{} reads a table STORED AS VERSIONED; name the table behind that",
                    self.given
                )));
            }
            look_for_files(&read, &self.runtime);
        }
        Ok(table)
    }
}

/// The table itself, or what a view reads.
fn tables_read(table: &Arc<dyn TableProvider>) -> Result<Vec<Arc<dyn TableProvider>>> {
    let Some(plan) = table.get_logical_plan() else {
        return Ok(vec![Arc::clone(table)]);
    };
    let mut read = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            read.extend(source_as_provider(&scan.source));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(read)
}

/// Makes a table of files list them anew: DataFusion does that once in the life of a session.
fn look_for_files(table: &Arc<dyn TableProvider>, runtime: &RuntimeEnv) {
    let Some(files) = table.downcast_ref::<ListingTable>() else {
        return;
    };
    let Some(listed) = runtime.cache_manager.get_list_files_cache() else {
        return;
    };
    for path in files.table_paths() {
        listed.remove(&TableScopedPath {
            table: path.get_table_ref().clone(),
            path: path.prefix().clone(),
        });
    }
}

/// Files of one format.
pub(super) struct Files {
    table: Arc<dyn TableProvider>,
    runtime: Arc<RuntimeEnv>,
}

impl Files {
    /// The files of `table`.
    pub(super) fn new(table: Arc<dyn TableProvider>, state: &SessionState) -> Self {
        Self {
            table,
            runtime: Arc::clone(state.runtime_env()),
        }
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Files")
    }
}

#[async_trait]
impl RowTable for Files {
    async fn open(&self) -> Result<Arc<dyn TableProvider>> {
        look_for_files(&self.table, &self.runtime);
        Ok(Arc::clone(&self.table))
    }
}

/// A Delta table that no catalog knows.
#[derive(Debug)]
pub(super) struct DeltaAt(pub DeltaTable);

#[async_trait]
impl RowTable for DeltaAt {
    async fn open(&self) -> Result<Arc<dyn TableProvider>> {
        let table = DeltaTableProvider::try_new(self.0.clone()).await?;
        Ok(Arc::new(table))
    }
}
