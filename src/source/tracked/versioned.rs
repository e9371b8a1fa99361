//! Tables with a column that only grows with every change of a row, such as `updated_at`, a `rowversion` or a sequence.
//!
//! ```text
//!  RowTable::open() ─┬─ bounds ──> greatest, least and missing values of the column, in one aggregate
//!                    └─ changes ─> rows with since < column <= until, in the column's own type, so that files are pruned
//! ```
//!
//! A row says when it changed last, and no more. Of several changes the last one is seen; an insert is not told from an update; and
//! a row that was deleted without a mark has left nothing behind, which only a comparison of all keys finds. Whoever writes must
//! let the column grow in the order of commits: a row that comes with a version that has been read already is missed.

mod column;
mod commit_version;
mod options;
mod plan;

use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemoryCatalogProviderList, TableProvider};
use datafusion::execution::{SessionState, SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::OnceCell;

use self::options::VersionedOptions;
use self::plan::{Rows, versions_schema};
use super::{TrackedTable, VersionBounds};
use crate::change::ChangeRange;
use crate::error::{Error, Result};
use crate::source::ChangeRead;

/// The table whose rows are followed. It may be another one at each statement, as one that a session knows by name may.
#[async_trait]
pub(crate) trait RowTable: Debug + Send + Sync {
    /// The table as it is now, with the files that it has by now.
    async fn open(&self) -> Result<Arc<dyn TableProvider>>;
}

/// A table with a version column.
#[derive(Clone)]
pub(crate) struct VersionedTable {
    shared: Arc<Shared>,
    /// The table as it is for as long as this handle lives, once it has been opened; absent for a handle that looks each time.
    pinned: Option<Arc<OnceCell<Arc<Opened>>>>,
}

struct Shared {
    name: String,
    location: String,
    identity: String,
    table: Arc<dyn RowTable>,
    options: VersionedOptions,
    deleted: Option<Expr>,
    state: SessionState,
}

/// The table at one moment.
struct Opened {
    rows: Rows,
    bounds: OnceCell<VersionBounds>,
}

impl VersionedTable {
    /// The options that [`Self::try_new`] takes.
    pub(crate) const OPTIONS: [&str; 3] = VersionedOptions::KNOWN;

    /// The table that messages call `name`, at `location`, told from others by `identity`, neither with a secret in it. Plans are
    /// made as `state` makes them.
    ///
    /// # Errors
    /// When the table cannot be opened, or the options do not fit it.
    pub(crate) async fn try_new(
        name: &str,
        location: String,
        identity: String,
        table: Arc<dyn RowTable>,
        options: &HashMap<String, String>,
        state: &SessionState,
    ) -> Result<Self> {
        let options = VersionedOptions::try_new(name, options)?;
        let provider = table.open().await?;
        let deleted = options.condition(name, &provider.schema(), state)?;
        options.rows(name, provider, deleted.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                location,
                identity,
                table,
                options,
                deleted,
                state: detached(state),
            }),
            pinned: None,
        })
    }

    /// The same table as it is when it is first asked for: all answers are of the same moment, and the greatest version is looked
    /// for once.
    pub(crate) fn pinned(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            pinned: Some(Arc::default()),
        }
    }

    /// Plans the rows as they are now; `planned` are the columns with which the statement was planned, and what the read says is
    /// about these.
    pub(crate) async fn current(
        &self,
        planned: &SchemaRef,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.opened().await?.rows.current(planned, &read).await
    }

    /// The columns of [`Self::versions`].
    pub(crate) fn versions_schema() -> SchemaRef {
        versions_schema()
    }

    /// Plans the list of versions with what each has done; what the read says is about its columns.
    pub(crate) async fn versions(&self, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        self.opened().await?.rows.versions(&read).await
    }

    async fn opened(&self) -> Result<Arc<Opened>> {
        match &self.pinned {
            Some(pinned) => pinned.get_or_try_init(|| self.shared.open()).await.cloned(),
            None => self.shared.open().await,
        }
    }
}

impl Debug for VersionedTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionedTable")
            .field("name", &self.shared.name)
            .field("location", &self.shared.location)
            .finish_non_exhaustive()
    }
}

impl Shared {
    async fn open(&self) -> Result<Arc<Opened>> {
        let table = self.table.open().await?;
        let rows = self.options.rows(&self.name, table, self.deleted.clone())?;
        Ok(Arc::new(Opened {
            rows,
            bounds: OnceCell::new(),
        }))
    }
}

/// A session that plans as `state` does and knows nothing of its catalogs: these know this table, and neither would ever be freed.
fn detached(state: &SessionState) -> SessionState {
    SessionStateBuilder::new_from_existing(state.clone())
        .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
        .with_relation_planners(vec![])
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_table_functions(HashMap::new())
        .build()
}

#[async_trait]
impl TrackedTable for VersionedTable {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn location(&self) -> String {
        self.shared.location.clone()
    }

    async fn identity(&self) -> Result<String> {
        // versions of another column, or counted otherwise, are those of another table
        let opened = self.opened().await?;
        let version = &opened.rows.version;
        let (name, unit) = (version.name(), version.unit());
        Ok(format!("{} by {name:?} in {unit}", self.shared.identity))
    }

    async fn bounds(&self) -> Result<VersionBounds> {
        let opened = self.opened().await?;
        let find = || async {
            let mut state = self.shared.state.clone();
            state.mark_start_execution();
            opened.rows.bounds(&state).await
        };
        opened.bounds.get_or_try_init(find).await.copied()
    }

    async fn version_at(&self, micros: i64) -> Result<i64> {
        let version = self.opened().await?.rows.version.version_at(micros)?;
        Ok(version.min(self.bounds().await?.current))
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        Ok(self.opened().await?.rows.version.time_of(version))
    }

    async fn columns(&self, _: Option<i64>) -> Result<SchemaRef> {
        Ok(self.opened().await?.rows.table.schema())
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        Ok(self.shared.options.key.clone())
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.opened().await?.rows.changes(range, &read).await
    }

    fn has_rows(&self) -> bool {
        false
    }

    async fn rows(&self, _: i64, _: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::internal(
            "a table with a version column has no rows of a version",
        ))
    }
}
