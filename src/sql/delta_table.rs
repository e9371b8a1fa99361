//! A Delta table as DataFusion sees it.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchemaRef, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::dml::{InsertOp, MergeIntoClause, MergeIntoOp};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::delta::DeltaTable;
use crate::delta::computed::Computed;
use crate::delta::features::check_readable;
use crate::delta::layout::TableLayout;
use crate::delta::own_reads::OwnReads;
use crate::delta::properties::TableProperties;
use crate::delta::scan::DeltaScan;
use crate::delta::snapshot::Snapshot;
use crate::error::Error;
use crate::merge::{
    InsertMode, MergeStatement, default_value, plan_insert, plan_merge, plan_truncate,
    session_state,
};

/// A Delta table: scanned at its newest version or at a fixed one, and written through one executor.
#[derive(Debug, Clone)]
pub struct DeltaTableProvider {
    table: DeltaTable,
    version: Option<i64>,
    schema: SchemaRef,
    layout: Arc<TableLayout>,
    properties: TableProperties,
    defaults: Arc<Vec<(String, Expr)>>,
    /// The conditions and values of the MERGE that this is the target of, where DataFusion could not carry them.
    merge: Option<Arc<MergeIntoOp>>,
    /// What the statement reads of the table that it writes, where this is that table.
    own: Option<Arc<OwnReads>>,
    /// Columns that a MERGE adds to the table, where it has not got them yet.
    evolution: Option<SchemaRef>,
}

impl DeltaTableProvider {
    /// The newest version at each scan, with the schema that it has now.
    ///
    /// # Errors
    /// When there is no Delta table, or it needs a reader feature that this crate does not have.
    pub async fn try_new(table: DeltaTable) -> crate::Result<Self> {
        let snapshot = table.snapshot().await?;
        Self::of(table, &snapshot, None)
    }

    /// The table as it was at `version`; it can only be read.
    ///
    /// # Errors
    /// As [`Self::try_new`], and when there is no such version.
    pub async fn try_new_at(table: DeltaTable, version: i64) -> crate::Result<Self> {
        let snapshot = table.snapshot_at(version).await?;
        Self::of(table, &snapshot, Some(version))
    }

    fn of(table: DeltaTable, snapshot: &Snapshot, version: Option<i64>) -> crate::Result<Self> {
        check_readable(table.name(), snapshot.protocol())?;
        Ok(Self {
            schema: Arc::clone(snapshot.layout().schema()),
            layout: Arc::clone(snapshot.layout()),
            properties: snapshot.properties().clone(),
            defaults: Arc::new(defaults(snapshot.layout())),
            table,
            version,
            merge: None,
            own: None,
            evolution: None,
        })
    }

    /// The target of a MERGE that adds `wanted` to it; `evolved` is its version as it would be then.
    pub(crate) fn evolving(evolved: &Snapshot, wanted: SchemaRef) -> crate::Result<Self> {
        Ok(Self {
            evolution: Some(wanted),
            ..Self::of(evolved.table().clone(), evolved, None)?
        })
    }

    /// The table behind.
    pub fn table(&self) -> &DeltaTable {
        &self.table
    }

    /// The target of this MERGE, whatever conditions and values it is asked to merge with.
    pub(crate) fn with_merge(mut self, merge: MergeIntoOp) -> Self {
        self.merge = Some(Arc::new(merge));
        self
    }

    /// The conditions and values of the MERGE that this is the target of, where the table keeps them.
    pub(crate) fn merge(&self) -> Option<&MergeIntoOp> {
        self.merge.as_deref()
    }

    /// The target of a statement, or one of the scans that the statement has of it.
    pub(crate) fn reading(mut self, own: Arc<OwnReads>) -> Self {
        self.own = Some(own);
        self
    }

    /// Whether scans read the newest version of this table.
    pub(crate) fn is_now(&self, table: &DeltaTable) -> bool {
        self.version.is_none() && self.table.location() == table.location()
    }

    /// The table's columns when the provider was made.
    pub(crate) fn layout(&self) -> &TableLayout {
        &self.layout
    }

    /// The table's properties when the provider was made.
    pub(crate) fn properties(&self) -> &TableProperties {
        &self.properties
    }

    async fn snapshot(&self, state: &dyn Session) -> crate::Result<Arc<Snapshot>> {
        if let Some(version) = self.version {
            return self.table.snapshot_at(version).await;
        }
        let own = OwnReads::of(state, self.table.location());
        match own.or_else(|| self.own.clone()) {
            Some(own) => own.pin().await,
            None => self.table.snapshot().await,
        }
    }

    /// Refuses to write history.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.version {
            Some(version) => Err(Error::invalid(format!("version {version} of {} is history and cannot be written; name the table without VERSION AS OF", self.table.name())).into()),
            None => Ok(()),
        }
    }

    /// The planned columns by name in a schema that may have got more since, as a view's may.
    fn projection(
        &self,
        snapshot: &Snapshot,
        projection: Option<&Vec<usize>>,
    ) -> crate::Result<Vec<usize>> {
        let planned: Vec<usize> = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let now = snapshot.layout().schema();
        let find = |index: &usize| {
            let field = self.schema.field(*index);
            let found = now
                .fields()
                .iter()
                .position(|now| now.name() == field.name() && now.data_type() == field.data_type());
            found.ok_or_else(|| Error::invalid(format!("column {:?} of {} was changed or dropped since the statement was planned; plan it again", field.name(), self.table.name())))
        };
        planned.iter().map(find).collect()
    }
}

#[async_trait]
impl TableProvider for DeltaTableProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        let mut defaults = self.defaults.iter();
        defaults.find_map(|(name, value)| (name == column).then_some(value))
    }

    fn statistics(&self) -> Option<Statistics> {
        None
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot(state).await?;
        let projection = self.projection(&snapshot, projection)?;
        let mut scan = DeltaScan::of_snapshot(&snapshot).await?;
        if self.version.is_some() {
            // history does not change: who reads it does not mind what is committed meanwhile
            scan.version = None;
        }
        Ok(scan.plan(state, Some(&projection), filters, limit).await?)
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_writable()?;
        let mode = match op {
            InsertOp::Append => InsertMode::Append,
            InsertOp::Overwrite => InsertMode::Overwrite,
            InsertOp::Replace => {
                return Err(Error::invalid(
                    "INSERT OR REPLACE is not a statement of Delta tables; use MERGE INTO",
                )
                .into());
            }
        };
        let own = self.own.as_deref();
        Ok(plan_insert(&self.table, own, session_state(state)?, input, mode).await?)
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(unregistered("DELETE"))
    }

    async fn update(
        &self,
        _: &dyn Session,
        _: Vec<(String, Expr)>,
        _: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(unregistered("UPDATE"))
    }

    async fn truncate(&self, state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_writable()?;
        Ok(plan_truncate(&self.table, session_state(state)?).await?)
    }

    async fn merge_into(
        &self,
        state: &dyn Session,
        source: Arc<dyn ExecutionPlan>,
        merge_schema: DFSchemaRef,
        on: Expr,
        clauses: Vec<MergeIntoClause>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.check_writable()?;
        let session = Arc::new(session_state(state)?.clone());
        let (on, clauses) = match &self.merge {
            Some(merge) => (merge.on.clone(), merge.clauses.clone()),
            None => (on, clauses),
        };
        let statement = MergeStatement {
            table: self.table.clone(),
            base: None,
            session,
            source,
            schema: merge_schema,
            on,
            clauses,
            evolution: self.evolution.clone(),
        };
        Ok(plan_merge(statement, self.own.as_deref()).await?)
    }
}

/// DataFusion hands over only the filters that are left after optimisation, which may be none of those that were written: see
/// [`super::dml_rule`].
fn unregistered(statement: &str) -> DataFusionError {
    Error::invalid(format!("{statement} of a Delta table needs a session that Alluvial is registered with; call ctx.register_alluvial() first")).into()
}

/// The default values of a table's columns, by name. One that cannot be planned here is left out: the writer, which would need it, refuses
/// the table.
fn defaults(layout: &TableLayout) -> Vec<(String, Expr)> {
    // expressions of the log are planned with DataFusion's own functions, whatever the session adds
    static STATE: LazyLock<SessionState> =
        LazyLock::new(|| SessionStateBuilder::new_with_default_features().build());
    let columns = layout.computed().iter();
    columns
        .filter(|(_, computed)| matches!(computed, Computed::Default(_)))
        .filter_map(|(index, _)| {
            let value = default_value(layout, *index, &STATE).ok().flatten()?;
            Some((layout.schema().field(*index).name().clone(), value))
        })
        .collect()
}
