//! A query over the changes of one source, as a source of changes itself.
//!
//! The query says from where on its first run reads; later runs read its `table_changes(…)` from the position on, wherever a bound
//! such as `'earliest'` may have moved by then.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::{provider_as_source, source_as_provider};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::changes_table::{ChangesTable, FilterRange};
use crate::change::{
    Bound, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_VERSION, ChangeBounds, ChangeRange, change_columns,
    metadata_columns, without_dynamic_filters,
};
use crate::delta::create::TableDefinition;
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource};

/// A query over changes.
#[derive(Debug)]
pub(crate) struct QuerySource {
    plan: LogicalPlan,
    source: Arc<dyn ChangeSource>,
    /// The bounds that the query gives.
    bounds: ChangeBounds,
    schema: SchemaRef,
    state: Arc<SessionState>,
}

impl QuerySource {
    /// The query `plan`.
    ///
    /// # Errors
    /// When it does not read the changes of exactly one source, or does not return what kind of change each row is.
    pub(crate) fn try_new(plan: LogicalPlan, state: Arc<SessionState>) -> Result<Self> {
        let (mut found, mut limits) = (Vec::new(), false);
        plan.apply_with_subqueries(|node| {
            limits |= matches!(node, LogicalPlan::Limit(_));
            found.extend(changes_table(node).map(|table| (table.source(), table.bounds_given())));
            Ok(TreeNodeRecursion::Continue)
        })?;
        if limits {
            return Err(Error::invalid(
                "the query has a LIMIT, and the changes beyond it would be lost; leave it out",
            ));
        }
        if found.len() > 1 {
            return Err(Error::invalid(
                "the query reads changes more than once, and a position is a version of one source; sync each source by a statement of its own",
            ));
        }
        let Some((source, bounds)) = found.pop() else {
            return Err(Error::invalid(
                "the query reads no changes, so there is no position to go on from; select from table_changes('…', NULL), or apply the rows once \
                 with APPLY CHANGES INTO",
            ));
        };
        if bounds.until.is_some() {
            return Err(Error::invalid(
                "the query has an upper bound in its table_changes(…), beyond which nothing would ever be followed; leave it out",
            ));
        }
        if is_bounded_by_filters(&state.optimize(&plan)?)? {
            return Err(Error::invalid(
                "the query has an upper bound on _commit_version or _commit_timestamp, beyond which nothing would ever be followed; leave it out",
            ));
        }
        let schema = Arc::new(plan.schema().as_arrow().clone());
        if schema.field_with_name(CHANGE_TYPE).is_err() {
            return Err(Error::invalid(
                "the query does not return _change_type, without which an insert looks like a delete; select it, and _commit_version",
            ));
        }
        if schema.field_with_name(COMMIT_VERSION).is_err() {
            return Err(Error::invalid(
                "the query does not return _commit_version, without which nobody knows which preimage belongs to which update; select it, too",
            ));
        }
        Ok(Self {
            plan,
            source,
            bounds,
            schema,
            state,
        })
    }

    /// The plan with its changes read in this range.
    fn bounded(&self, range: &ChangeRange) -> Result<LogicalPlan> {
        let bounds = ChangeBounds {
            since: Bound::Version(range.since()),
            until: Some(Bound::Version(range.until())),
        };
        let bounded = self.plan.clone().transform_up_with_subqueries(|node| {
            let Some(table) = changes_table(&node) else {
                return Ok(Transformed::no(node));
            };
            let LogicalPlan::TableScan(scan) = &node else {
                return Ok(Transformed::no(node));
            };
            let provider = provider_as_source(Arc::new(table.with_bounds(bounds.clone())));
            let scan = LogicalPlanBuilder::scan_with_filters(
                scan.table_name.clone(),
                provider,
                scan.projection.clone(),
                vec![],
            )?;
            Ok(Transformed::yes(scan.build()?))
        })?;
        Ok(bounded.data)
    }

    fn own_columns(&self) -> impl Iterator<Item = &arrow::datatypes::FieldRef> {
        let metadata: Vec<_> = change_columns()
            .into_iter()
            .chain(metadata_columns())
            .collect();
        self.schema
            .fields()
            .iter()
            .filter(move |field| !metadata.iter().any(|own| own.name() == field.name()))
    }
}

/// Refuses a query over changes that do not carry all columns if it does not return which they carry: NULL would be taken for a
/// value.
fn check_carried(source: &str, absent: &[String], schema: &Schema) -> Result<()> {
    let returned = |name: &&String| schema.field_with_name(name).is_ok();
    let Some(column) = absent.iter().find(returned) else {
        return Ok(());
    };
    if schema.field_with_name(CHANGED_COLUMNS).is_ok() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "some changes of {source} do not carry the column {column:?}, and the query does not return {CHANGED_COLUMNS}, so that NULL would be \
         taken for its value; select that, too, from table_changes('{source}', …, metadata => 'full')"
    )))
}

/// The same for the changes that a plan reads as a whole.
pub(super) async fn check_all_carried(plan: &LogicalPlan) -> Result<()> {
    let mut read = Vec::new();
    plan.apply_with_subqueries(|node| {
        read.extend(changes_table(node));
        Ok(TreeNodeRecursion::Continue)
    })?;
    for table in read {
        let source = table.source();
        let range = source.resolve(&table.bounds_given()).await?;
        let absent = source.absent_columns(range).await?;
        check_carried(source.name(), &absent, plan.schema().as_arrow())?;
    }
    Ok(())
}

/// Whether conditions keep the changes beyond some version out of a query, which has been optimised: they stand at the scan.
fn is_bounded_by_filters(plan: &LogicalPlan) -> Result<bool> {
    let mut is_bounded = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && changes_table(node).is_some()
        {
            is_bounded |= FilterRange::of(&scan.filters).is_bounded_above();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(is_bounded)
}

/// The changes that a node reads, if it does.
fn changes_table(node: &LogicalPlan) -> Option<ChangesTable> {
    let LogicalPlan::TableScan(scan) = node else {
        return None;
    };
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<ChangesTable>().cloned()
}

#[async_trait]
impl ChangeSource for QuerySource {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn location(&self) -> String {
        self.source.location()
    }

    async fn current_version(&self) -> Result<i64> {
        self.source.current_version().await
    }

    async fn identity(&self) -> Result<String> {
        self.source.identity().await
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        self.source.fingerprint(version).await
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        self.source.commit_time(version).await
    }

    async fn definition(&self, _: i64) -> Result<TableDefinition> {
        let columns: Vec<_> = self.own_columns().cloned().collect();
        let keys = self.source.primary_key().await?;
        let has_key = |key: &String| columns.iter().any(|field| field.name() == key);
        Ok(TableDefinition {
            primary_key: if keys.iter().all(has_key) {
                keys
            } else {
                vec![]
            },
            columns,
            partition_columns: vec![],
            properties: HashMap::new(),
            comment: None,
        })
    }

    async fn check_followable(&self) -> Result<()> {
        self.source.check_followable().await
    }

    fn sequence(&self) -> Option<&str> {
        let sequence = self.source.sequence()?;
        let is_selected = self.schema.field_with_name(sequence).is_ok();
        is_selected.then_some(sequence)
    }

    fn refuses_ties(&self) -> bool {
        self.source.refuses_ties()
    }

    async fn absent_columns(&self, range: ChangeRange) -> Result<Vec<String>> {
        let absent = self.source.absent_columns(range).await?;
        if absent.is_empty() {
            return Ok(absent);
        }
        check_carried(self.source.name(), &absent, &self.schema)?;
        // an expression may be made of any of them
        Ok(self
            .own_columns()
            .map(|field| field.name().clone())
            .collect())
    }

    fn sets_rows_aside(&self) -> bool {
        self.source.sets_rows_aside()
    }

    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange> {
        match bounds.since {
            Bound::Version(_) => self.source.resolve(bounds).await,
            _ => self.source.resolve(&self.bounds).await,
        }
    }

    async fn schema(&self, _: Option<i64>) -> Result<SchemaRef> {
        Ok(Arc::clone(&self.schema))
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        self.source.primary_key().await
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if range.is_empty() {
            let empty = EmptyExec::new(Arc::clone(&self.schema));
            return project(Arc::new(empty), read.projection);
        }
        let session = without_dynamic_filters(&self.state);
        let plan = session.create_physical_plan(&self.bounded(&range)?).await?;
        project(plan, read.projection)
    }

    fn has_rows(&self) -> bool {
        false
    }

    async fn rows(&self, _: i64, _: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::internal(
            "a query over changes has no rows of its own",
        ))
    }
}

/// The plan's columns at these positions.
pub(super) fn project(
    plan: Arc<dyn ExecutionPlan>,
    projection: Option<&Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(indices) = projection else {
        return Ok(plan);
    };
    let schema: Arc<Schema> = plan.schema();
    let columns = indices.iter().map(|index| {
        let name = schema.field(*index).name();
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, *index));
        (column, name.clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(
        columns.collect::<Vec<_>>(),
        plan,
    )?))
}
