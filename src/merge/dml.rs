//! UPDATE and DELETE, rewritten before optimisation into an insertion of row changes into a sink.
//!
//! `TableProvider::update` and `delete_from` receive the filters that are left after optimisation. A filter with a sub-query has
//! become a join by then, and is simply missing: `DELETE … WHERE id IN (SELECT …)` would delete every row. So the statement is
//! taken up while it is whole: its scan of the target is replaced by one with row addresses, and what it selects goes to
//! [`RowChangeSink`] through the same executor as a MERGE.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
    WriteOp, cast, col, lit, when,
};
use datafusion::physical_plan::ExecutionPlan;

use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::insert::{checks_keys, own_version, schema_changed, write_target};
use super::key_check::KeyCheck;
use super::provenance::dml_operation;
use super::relation::{TargetRelation, address_schema};
use super::row_format::{ACTION, FILE, ROW, ROW_ID, RowAction, RowFormat, new_name, old_name};
use super::row_rules::RowRules;
use super::write_exec::WriteSpec;
use crate::change::distinct;
use crate::delta::DeltaTable;
use crate::delta::computed::refuse_assignments;
use crate::delta::layout::TableLayout;
use crate::delta::own_reads::{OwnReads, TargetScan};
use crate::delta::properties::TableProperties;
use crate::delta::scan::DeltaScan;
use crate::delta::scan_source::scans_of;
use crate::delta::transaction::{Operation, ReadSet};
use crate::error::{Error, Result};

/// Which statement is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DmlKind {
    Update,
    /// `images`: whether change rows must be written, for which all columns are read.
    Delete {
        images: bool,
    },
}

impl DmlKind {
    /// A deletion from a table with these properties: readers infer it from deletion vectors, but not from rewritten files.
    pub(crate) fn delete(properties: &TableProperties) -> Self {
        Self::Delete {
            images: properties.change_data_feed && !properties.deletion_vectors,
        }
    }
}

/// Rewrites an UPDATE or DELETE of a table, whose schema and properties the statement was planned with; its other reads of the table
/// are part of `own` already.
pub(crate) fn rewrite_dml(
    own: Arc<OwnReads>,
    (layout, properties): (&TableLayout, &TableProperties),
    kind: DmlKind,
    statement: &DmlStatement,
) -> Result<LogicalPlan> {
    let schema = layout.schema();
    let row_ids = properties.row_tracking.is_some();
    let target = Arc::new(DmlTarget::new(own, schema, row_ids));
    let selected = with_addresses(
        statement.input.as_ref().clone(),
        &statement.table_name,
        &target,
    )?;
    let (rows, assigned) = match kind {
        DmlKind::Delete { images } => (delete_rows(selected, schema, images)?, vec![]),
        DmlKind::Update => update_rows(selected, layout)?,
    };
    let operation = match kind {
        DmlKind::Update => "UPDATE",
        DmlKind::Delete { .. } => "DELETE",
    };
    let sink = RowChangeSink {
        schema: Arc::clone(rows.schema().inner()),
        kind,
        operation: dml_operation(operation, &statement.input)?,
        assigned,
        target,
        rows: Arc::new(rows.clone()),
    };
    let sink = provider_as_source(Arc::new(sink));
    Ok(LogicalPlan::Dml(DmlStatement::new(
        statement.table_name.clone(),
        sink,
        WriteOp::Insert(InsertOp::Append),
        Arc::new(rows),
    )))
}

/// The statement's input with the scan of its target replaced by one that has row addresses.
fn with_addresses(
    input: LogicalPlan,
    name: &TableReference,
    target: &Arc<DmlTarget>,
) -> Result<LogicalPlan> {
    let mut replaced = false;
    let rewritten = input.transform_up(|node| match node {
        LogicalPlan::TableScan(scan) if !replaced && scan.table_name.resolved_eq(name) => {
            replaced = true;
            let source = provider_as_source(Arc::clone(target) as Arc<dyn TableProvider>);
            Ok(Transformed::yes(
                LogicalPlanBuilder::scan(scan.table_name.clone(), source, None)?.build()?,
            ))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    if replaced {
        Ok(rewritten.data)
    } else {
        Err(Error::internal(format!(
            "{name} is not in the plan of its own statement"
        )))
    }
}

/// Address and, if wanted, present values of every selected row.
fn delete_rows(selected: LogicalPlan, schema: &Schema, images: bool) -> Result<LogicalPlan> {
    let address = addresses(&selected);
    let qualifier = qualifier(&address)?;
    let mut columns = vec![RowAction::Delete.literal().alias(ACTION)];
    // a row that goes has no use for its id
    columns.extend(address.into_iter().take(2));
    let fields = schema.fields().iter().filter(|_| images);
    columns.extend(fields.enumerate().map(|(index, field)| {
        col(Column::new(qualifier.clone(), field.name())).alias(old_name(index))
    }));
    Ok(LogicalPlanBuilder::from(selected)
        .project(columns)?
        .build()?)
}

/// Address, new and present values, and the positions of the columns that are assigned to; the statement's own projection gives the
/// new values in the order of the table's columns.
fn update_rows(selected: LogicalPlan, layout: &TableLayout) -> Result<(LogicalPlan, Vec<usize>)> {
    let schema = layout.schema();
    let LogicalPlan::Projection(projection) = selected else {
        return Err(Error::internal("UPDATE without a projection"));
    };
    let input = Arc::unwrap_or_clone(projection.input);
    let mut values = addresses(&input);
    let address = values.iter().map(|value| value.schema_name().to_string());
    let address: Vec<String> = address.collect();
    let qualifier = qualifier(&values)?;
    let old = |field: &Field| col(Column::new(qualifier.clone(), field.name()));
    let (mut differs, mut assigned): (Option<Expr>, Vec<usize>) = (None, vec![]);
    for (index, (field, value)) in schema.fields().iter().zip(projection.expr).enumerate() {
        let mut value = value.unalias();
        if value == old(field) {
            if layout.is_recomputed(index) {
                // the writer computes what is NULL
                value = lit(ScalarValue::Null);
            }
        } else {
            assigned.push(index);
            let different = distinct(
                col(new_name(index)),
                col(old_name(index)),
                field.data_type(),
            );
            differs = Some(differs.map_or(different.clone(), |differs| differs.or(different)));
        }
        // compared and written as what it becomes
        values.push(cast(value, field.data_type().clone()).alias(new_name(index)));
    }
    refuse_assignments(layout, &assigned)?;
    values.extend(
        schema
            .fields()
            .iter()
            .enumerate()
            .map(|(index, field)| old(field).alias(old_name(index))),
    );
    let action = match differs {
        Some(differs) => {
            when(differs, RowAction::Update.literal()).otherwise(RowAction::Keep.literal())?
        }
        None => RowAction::Keep.literal(),
    };
    let width = schema.fields().len();
    let all = address
        .iter()
        .map(|name| col(Column::new_unqualified(name)))
        .chain((0..width).map(|index| col(new_name(index))))
        .chain((0..width).map(|index| col(old_name(index))));
    let columns = std::iter::once(action.alias(ACTION)).chain(all);
    let rows = LogicalPlanBuilder::from(input)
        .project(values)?
        .project(columns)?;
    Ok((rows.build()?, assigned))
}

/// The columns that hold the address of a row in `plan`, and its id if it has one, without their qualifier.
fn addresses(plan: &LogicalPlan) -> Vec<Expr> {
    let find = |name: &&str| {
        let found = plan.schema().iter().find(|(_, field)| field.name() == name);
        found.map(|(qualifier, field)| {
            col(Column::new(qualifier.cloned(), field.name())).alias(*name)
        })
    };
    [FILE, ROW, ROW_ID].iter().filter_map(find).collect()
}

/// The qualifier of the target's columns.
fn qualifier(address: &[Expr]) -> Result<Option<TableReference>> {
    match address.first().map(|address| address.clone().unalias()) {
        Some(Expr::Column(column)) if address.len() >= 2 => Ok(column.relation),
        _ => Err(Error::internal("the plan has lost the address of its rows")),
    }
}

/// The target as the statement reads it: the newest version at planning, with row addresses.
#[derive(Debug)]
struct DmlTarget {
    /// The reads of the first planning; later ones have theirs.
    own: Arc<OwnReads>,
    columns: SchemaRef,
    row_ids: bool,
    /// The same with row addresses.
    schema: SchemaRef,
}

impl DmlTarget {
    fn new(own: Arc<OwnReads>, schema: &SchemaRef, row_ids: bool) -> Self {
        Self {
            own,
            columns: Arc::clone(schema),
            row_ids,
            schema: address_schema(schema, row_ids),
        }
    }

    fn table(&self) -> &DeltaTable {
        self.own.table()
    }
}

#[async_trait]
impl TableProvider for DmlTarget {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let own = OwnReads::of(state, self.table().location());
        let own = own.unwrap_or_else(|| Arc::clone(&self.own));
        let snapshot = own.pin().await?;
        let row_tracking = snapshot.properties().row_tracking.as_ref();
        if snapshot.layout().schema() != &self.columns || row_tracking.is_some() != self.row_ids {
            return Err(schema_changed(self.table()).into());
        }
        let scan = DeltaScan::of_snapshot(&snapshot).await?;
        let target = TargetRelation::new(scan, row_tracking);
        let read = target.rows_read(state, filters)?;
        own.set_target(TargetScan {
            files: snapshot.files().await?,
            read: Arc::new(read),
        });
        target.scan(state, projection, filters, limit).await
    }
}

/// Takes row changes and commits them.
#[derive(Debug, Clone)]
struct RowChangeSink {
    schema: SchemaRef,
    kind: DmlKind,
    operation: Operation,
    /// The columns that an UPDATE assigns to.
    assigned: Vec<usize>,
    target: Arc<DmlTarget>,
    rows: Arc<LogicalPlan>,
}

impl RowChangeSink {
    /// Has the keys checked that an UPDATE changes in a table with change tracking.
    fn check_keys(
        &self,
        rows: Arc<dyn ExecutionPlan>,
        plan: &mut CommitPlan,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(base) = &plan.base else {
            return Ok(rows);
        };
        let (layout, properties) = (base.layout(), base.properties());
        let columns = layout.schema();
        let is_written =
            |index: usize| layout.is_recomputed(index) || self.assigned.contains(&index);
        let writes_keys = columns.fields().iter().enumerate().any(|(index, field)| {
            properties.primary_key.contains(field.name()) && is_written(index)
        });
        if self.kind != DmlKind::Update || !writes_keys || !checks_keys(base)? {
            return Ok(rows);
        }
        let keys = properties.primary_key.clone();
        let (rows, check) = KeyCheck::of_actions(rows, columns, keys, true)?;
        plan.key_check = Some(check);
        Ok(rows)
    }

    /// How `rows`, which were planned with `own`, are committed.
    async fn commit_plan(
        &self,
        rows: &Arc<dyn ExecutionPlan>,
        own: &OwnReads,
        session: &Arc<SessionState>,
    ) -> Result<CommitPlan> {
        let table = self.target.table();
        let base = match own_version(table, Some(own), rows).await? {
            Some(read) => read,
            None => table.snapshot().await?,
        };
        // a statement that can select nothing (WHERE false) has no scan
        let scan = own.target();
        // what a second scan reads may be anywhere
        let reads_once = own.scans() == 1 && scans_of(rows, table.location()) == 1;
        let reads = match &scan {
            Some(scan) if reads_once => ReadSet::Rows {
                of: Arc::clone(&scan.read),
                complete: true,
            },
            _ => ReadSet::Table,
        };
        let target = write_target(&base, true)?;
        let update = self.kind == DmlKind::Update;
        let images = self.kind != DmlKind::Delete { images: false };
        let change_rows = match self.kind {
            DmlKind::Update => target.properties.change_data_feed,
            DmlKind::Delete { .. } => {
                DmlKind::delete(&target.properties) == DmlKind::Delete { images: true }
            }
        };
        if change_rows && !images {
            return Err(schema_changed(table));
        }
        let rules = RowRules::try_new(&target, session)?;
        let format = RowFormat::Actions {
            row_ids: self.target.row_ids && update,
            new_values: update,
            old_values: images,
        };
        Ok(CommitPlan {
            base: Some(base),
            write: WriteSpec {
                target,
                format,
                rules,
                change_rows,
                unique_matches: update,
            },
            scanned: scan.map(|scan| scan.files).unwrap_or_default(),
            removal: Removal::Marked,
            key_check: None,
            prelude: vec![],
            operation: self.operation.clone(),
            reads,
            outline: None,
            session: Arc::clone(session),
        })
    }
}

#[async_trait]
impl TableProvider for RowChangeSink {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        datafusion::common::internal_err!("a sink cannot be read")
    }

    async fn insert_into(
        &self,
        state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        _: InsertOp,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let session = Arc::new(session_state(state)?.clone());
        let own = &self.target.own;
        let mut plan = self.commit_plan(&input, own, &session).await?;
        let input = self.check_keys(input, &mut plan)?;
        let statement = DmlStatementPlan {
            sink: self.clone(),
            session,
        };
        Ok(Arc::new(CommitExec::new(
            input,
            plan,
            Some(Arc::new(statement)),
        )?))
    }
}

/// An UPDATE or DELETE that can be planned again.
#[derive(Debug)]
struct DmlStatementPlan {
    sink: RowChangeSink,
    session: Arc<SessionState>,
}

#[async_trait]
impl Replan for DmlStatementPlan {
    async fn replan(&self) -> Result<Option<(Arc<dyn ExecutionPlan>, CommitPlan)>> {
        let own = Arc::new(OwnReads::new(self.sink.target.table().clone()));
        let session = own.session(self.session.as_ref().clone());
        let rows = session.create_physical_plan(&self.sink.rows).await?;
        let mut plan = self.sink.commit_plan(&rows, &own, &self.session).await?;
        let rows = self.sink.check_keys(rows, &mut plan)?;
        Ok(Some((rows, plan)))
    }
}

/// DataFusion's own session behind the trait: planning a statement inside a statement needs all of it.
pub(crate) fn session_state(state: &dyn Session) -> Result<&SessionState> {
    state.as_any().downcast_ref::<SessionState>().ok_or_else(|| Error::invalid("writing to Delta tables needs DataFusion's own SessionState, and this session is another implementation"))
}
