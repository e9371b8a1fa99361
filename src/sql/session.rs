//! Sessions: teaching Alluvial to one that exists, and making one on a warehouse.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};

use super::arguments::Spelling;
use super::catalog::{DEFAULT_SCHEMA, WarehouseCatalog};
use super::ddl;
use super::dml_rule::DmlRule;
use super::factory::{CHANGE_FILES, ChangeFilesFactory, DeltaTableFactory};
use super::functions::ListedFunction;
use super::operators::OperatorPlanner;
use super::relation_planner::{CHANGE_VERSIONS, ChangesRelationPlanner};
use super::snapshots_table::{SNAPSHOTS, SnapshotsFactory};
use super::tracking::{mask_functions, table_functions};
use super::values_rule::ValuesRule;
use super::versioned_table::{VERSIONED, VersionedFactory};
use crate::merge::outcome_row;

/// The name of a warehouse's catalog.
const CATALOG: &str = "alluvial";

/// What Alluvial adds to DataFusion's `SessionContext`.
#[async_trait]
pub trait SessionContextExt {
    /// Teaches the session Delta tables and change reads. Afterwards plain `ctx.sql()` knows `table_changes(…)`, MERGE, UPDATE and
    /// DELETE on Delta tables, `changetable_changes('t', v)` and the other relations and functions of change tracking, and
    /// `CREATE EXTERNAL TABLE … STORED AS DELTA`, `CHANGE_FILES`, `VERSIONED` and `SNAPSHOTS`. Calling it again changes nothing.
    ///
    /// # Errors
    /// When the session refuses a registration.
    fn register_alluvial(&self) -> Result<()>;

    /// Plans one statement: DataFusion's, or one that its parser does not know, such as `CREATE TABLE … TBLPROPERTIES`,
    /// `ALTER TABLE`, `CHANGETABLE(CHANGES t, v)`, `DESCRIBE HISTORY`, `t VERSION AS OF 3`, `MERGE … UPDATE SET *`. Tables are created, altered,
    /// optimized and vacuumed here; rows are written when the result is executed.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> datafusion::error::Result<()> {
    /// use alluvial::sql::{SessionBuilder, SessionContextExt};
    ///
    /// let folder = std::env::temp_dir().join(format!("alluvial-doc-{}", std::process::id()));
    /// let ctx = SessionBuilder::new().with_warehouse(folder.clone()).build()?;
    /// ctx.alluvial_sql("CREATE TABLE orders (id BIGINT PRIMARY KEY, amount DOUBLE)").await?;
    /// ctx.alluvial_sql("INSERT INTO orders VALUES (1, 9.5)").await?.collect().await?;
    /// let changes = ctx.alluvial_sql("SELECT * FROM table_changes('orders', 0)").await?;
    /// assert_eq!(changes.count().await?, 1);
    /// # std::fs::remove_dir_all(folder)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the statement does not parse or cannot be planned.
    async fn alluvial_sql(&self, sql: &str) -> Result<DataFrame>;
}

#[async_trait]
impl SessionContextExt for SessionContext {
    fn register_alluvial(&self) -> Result<()> {
        let state = self.state_ref();
        let registered = state.read().table_factories().contains_key("DELTA");
        if registered {
            return Ok(());
        }
        let catalogs = Arc::clone(self.state().catalog_list());
        for function in table_functions(&catalogs)
            .into_iter()
            .chain(mask_functions())
        {
            self.register_udf(function);
        }
        state
            .write()
            .register_expr_planner(Arc::new(OperatorPlanner))?;
        self.register_relation_planner(Arc::new(ChangesRelationPlanner::new(catalogs)))?;
        self.add_analyzer_rule(Arc::new(ValuesRule));
        self.add_analyzer_rule(Arc::new(DmlRule));
        for function in Spelling::functions().chain([CHANGE_VERSIONS]) {
            self.register_udtf(function, Arc::new(ListedFunction(function)));
        }
        let mut state = state.write();
        let factories = state.table_factories_mut();
        factories.insert("DELTA".into(), Arc::new(DeltaTableFactory));
        factories.insert(CHANGE_FILES.into(), Arc::new(ChangeFilesFactory));
        factories.insert(VERSIONED.into(), Arc::new(VersionedFactory));
        factories.insert(SNAPSHOTS.into(), Arc::new(SnapshotsFactory));
        Ok(())
    }

    async fn alluvial_sql(&self, sql: &str) -> Result<DataFrame> {
        self.register_alluvial()?;
        Ok(Box::pin(ddl::run(self, sql)).await?)
    }
}

/// What a MERGE, UPDATE, DELETE or INSERT of a Delta table has done, once `plan` has run to its end: one row with
/// `rows_inserted`, `rows_updated`, `rows_deleted`, `rows_unchanged` (matched, and left as they are), `files_scanned`,
/// `files_pruned`, `files_added`, `files_rewritten`, `deletion_vectors`, `bytes_written` and `version`, which is NULL when there
/// was nothing to commit. `None` for every other plan.
///
/// # Errors
/// None that a user could cause.
pub fn write_outcome(plan: &Arc<dyn ExecutionPlan>) -> crate::Result<Option<RecordBatch>> {
    outcome_row(plan)
}

/// Makes a session on a warehouse folder.
#[derive(Debug, Default)]
pub struct SessionBuilder {
    warehouse: Option<PathBuf>,
    memory_limit: Option<usize>,
    config: Option<SessionConfig>,
}

impl SessionBuilder {
    /// A session without a warehouse, without a memory limit and with DataFusion's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every Delta table in this folder is a table.
    #[must_use]
    pub fn with_warehouse(mut self, folder: impl Into<PathBuf>) -> Self {
        self.warehouse = Some(folder.into());
        self
    }

    /// At most so many bytes for sorts, joins and aggregations; beyond them they spill to disk.
    #[must_use]
    pub fn with_memory_limit(mut self, bytes: Option<usize>) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// DataFusion's settings to start from.
    #[must_use]
    pub fn with_config(mut self, config: SessionConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Makes the session.
    ///
    /// # Errors
    /// When the warehouse is a file.
    pub fn build(self) -> crate::Result<SessionContext> {
        let mut config = self
            .config
            .unwrap_or_default()
            .with_information_schema(true);
        if self.warehouse.is_some() {
            config = config
                .with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA)
                .with_create_default_catalog_and_schema(false);
        }
        let mut runtime =
            RuntimeEnvBuilder::new().with_disk_manager_builder(DiskManagerBuilder::default());
        if let Some(bytes) = self.memory_limit {
            runtime = runtime.with_memory_pool(memory_pool(bytes));
        }
        let ctx = SessionContext::new_with_config_rt(config, runtime.build_arc()?);
        if let Some(folder) = self.warehouse {
            ctx.register_catalog(CATALOG, Arc::new(WarehouseCatalog::try_new(folder)?));
        }
        ctx.register_alluvial()?;
        Ok(ctx)
    }
}

/// Shares the memory fairly between what can spill, and names the largest consumers when it runs out.
fn memory_pool(bytes: usize) -> Arc<dyn MemoryPool> {
    const NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(2);
    Arc::new(TrackConsumersPool::new(FairSpillPool::new(bytes), NAMED))
}
