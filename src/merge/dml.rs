//! UPDATE and DELETE, rewritten before optimisation into an insertion of row changes into a sink.
//!
//! `TableProvider::update` and `delete_from` receive the filters that are left after optimisation. A filter with a sub-query has
//! become a join by then, and is simply missing: `DELETE … WHERE id IN (SELECT …)` would delete every row. So the statement is
//! taken up while it is whole: its scan of the target is replaced by one with row addresses, and what it selects goes to
//! [`RowChangeSink`] through the same executor as a MERGE.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
    WriteOp, col, when,
};
use datafusion::physical_plan::ExecutionPlan;

use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::constraint::Constraints;
use super::insert::{base_version, schema_changed, write_target};
use super::key_check::KeyCheck;
use super::relation::TargetRelation;
use super::row_format::{ACTION, FILE, ROW, RowAction, RowFormat, file_field, new_name, old_name};
use super::write_exec::WriteSpec;
use crate::change::distinct;
use crate::delta::DeltaTable;
use crate::delta::properties::TableProperties;
use crate::delta::scan::{DeltaScan, ScanFile};
use crate::delta::snapshot::Snapshot;
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

/// Rewrites an UPDATE or DELETE of `table`, whose schema the statement was planned with.
pub(crate) fn rewrite_dml(
    table: &DeltaTable,
    schema: &SchemaRef,
    kind: DmlKind,
    statement: &DmlStatement,
) -> Result<LogicalPlan> {
    let target = Arc::new(DmlTarget::new(table.clone(), schema));
    let selected = with_addresses(
        statement.input.as_ref().clone(),
        &statement.table_name,
        &target,
    )?;
    let (rows, assigned) = match kind {
        DmlKind::Delete { images } => (delete_rows(selected, schema, images)?, vec![]),
        DmlKind::Update => update_rows(selected, schema)?,
    };
    let sink = RowChangeSink {
        schema: Arc::clone(rows.schema().inner()),
        kind,
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
    let [file, row] = addresses(&selected)?;
    let mut columns = vec![
        RowAction::Delete.literal().alias(ACTION),
        file.clone().alias(FILE),
        row.alias(ROW),
    ];
    let qualifier = qualifier(&file);
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
fn update_rows(selected: LogicalPlan, schema: &Schema) -> Result<(LogicalPlan, Vec<usize>)> {
    let LogicalPlan::Projection(projection) = selected else {
        return Err(Error::internal("UPDATE without a projection"));
    };
    let input = Arc::unwrap_or_clone(projection.input);
    let [file, row] = addresses(&input)?;
    let qualifier = qualifier(&file);
    let old = |field: &Field| col(Column::new(qualifier.clone(), field.name()));
    let mut values = vec![file.alias(FILE), row.alias(ROW)];
    let (mut differs, mut assigned): (Option<Expr>, Vec<usize>) = (None, vec![]);
    for (index, (field, value)) in schema.fields().iter().zip(projection.expr).enumerate() {
        let value = value.unalias();
        if value != old(field) {
            assigned.push(index);
            let different = distinct(
                col(new_name(index)),
                col(old_name(index)),
                field.data_type(),
            );
            differs = Some(differs.map_or(different.clone(), |differs| differs.or(different)));
        }
        values.push(value.alias(new_name(index)));
    }
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
    let all = [col(FILE), col(ROW)]
        .into_iter()
        .chain((0..width).map(|index| col(new_name(index))))
        .chain((0..width).map(|index| col(old_name(index))));
    let columns = std::iter::once(action.alias(ACTION)).chain(all);
    let rows = LogicalPlanBuilder::from(input)
        .project(values)?
        .project(columns)?;
    Ok((rows.build()?, assigned))
}

/// The columns that hold the address of a row in `plan`.
fn addresses(plan: &LogicalPlan) -> Result<[Expr; 2]> {
    let find = |name: &str| {
        let found = plan.schema().iter().find(|(_, field)| field.name() == name);
        found
            .map(|(qualifier, field)| col(Column::new(qualifier.cloned(), field.name())))
            .ok_or_else(|| Error::internal(format!("the plan has lost {name}")))
    };
    Ok([find(FILE)?, find(ROW)?])
}

fn qualifier(address: &Expr) -> Option<TableReference> {
    match address {
        Expr::Column(column) => column.relation.clone(),
        _ => None,
    }
}

/// The version that a statement reads, and the files of its scan.
#[derive(Debug, Clone)]
struct Pinned {
    snapshot: Arc<Snapshot>,
    files: Arc<Vec<ScanFile>>,
}

/// The target as the statement reads it: the newest version at planning, with row addresses.
#[derive(Debug)]
struct DmlTarget {
    table: DeltaTable,
    columns: SchemaRef,
    /// The same with row addresses.
    schema: SchemaRef,
    /// What was planned last, until its commit is planned.
    pinned: Mutex<Option<Pinned>>,
}

impl DmlTarget {
    fn new(table: DeltaTable, schema: &SchemaRef) -> Self {
        let row = Arc::new(Field::new(ROW, arrow::datatypes::DataType::Int64, true));
        let fields = schema
            .fields()
            .iter()
            .cloned()
            .chain([file_field(), row])
            .collect::<Vec<_>>();
        Self {
            table,
            columns: Arc::clone(schema),
            schema: Arc::new(Schema::new(fields)),
            pinned: Mutex::new(None),
        }
    }
}

impl DmlTarget {
    fn pinned(&self) -> MutexGuard<'_, Option<Pinned>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
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
        let snapshot = self.table.snapshot().await?;
        if snapshot.layout().schema() != &self.columns {
            return Err(schema_changed(&self.table).into());
        }
        let scan = DeltaScan::of_snapshot(&snapshot).await?;
        *self.pinned() = Some(Pinned {
            snapshot,
            files: Arc::new(scan.files.clone()),
        });
        TargetRelation::new(scan)
            .scan(state, projection, filters, limit)
            .await
    }
}

/// Takes row changes and commits them.
#[derive(Debug, Clone)]
struct RowChangeSink {
    schema: SchemaRef,
    kind: DmlKind,
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
        let (columns, properties) = (base.layout().schema(), base.properties());
        let is_key = |index: &usize| {
            let name = columns.field(*index).name();
            properties.primary_key.contains(name)
        };
        if properties.tracking.is_none() || !self.assigned.iter().any(is_key) {
            return Ok(rows);
        }
        let keys = properties.primary_key.clone();
        let (rows, check) = KeyCheck::of_actions(rows, columns, keys, true)?;
        plan.key_check = Some(check);
        Ok(rows)
    }

    /// How the rows of the scan that was planned last are committed.
    async fn commit_plan(
        &self,
        rows: &Arc<dyn ExecutionPlan>,
        session: &Arc<SessionState>,
    ) -> Result<CommitPlan> {
        // sub-queries on the target must have read the same version
        base_version(&self.target.table, rows).await?;
        // a statement that can select nothing (WHERE false) has no scan
        let pinned = self.target.pinned().take();
        let pinned = match pinned {
            Some(pinned) => pinned,
            None => Pinned {
                snapshot: self.target.table.snapshot().await?,
                files: Arc::default(),
            },
        };
        let target = write_target(&pinned.snapshot, true)?;
        let update = self.kind == DmlKind::Update;
        let images = self.kind != DmlKind::Delete { images: false };
        let change_rows = match self.kind {
            DmlKind::Update => target.properties.change_data_feed,
            DmlKind::Delete { .. } => {
                DmlKind::delete(&target.properties) == DmlKind::Delete { images: true }
            }
        };
        if change_rows && !images {
            return Err(schema_changed(&self.target.table));
        }
        let constraints = Constraints::try_new(&target, session)?;
        let format = RowFormat::Actions {
            new_values: update,
            old_values: images,
        };
        Ok(CommitPlan {
            base: Some(pinned.snapshot),
            write: WriteSpec {
                target,
                format,
                constraints,
                change_rows,
                unique_matches: update,
            },
            scanned: pinned.files,
            removal: Removal::Marked,
            key_check: None,
            prelude: vec![],
            operation: Operation::new(if update { "UPDATE" } else { "DELETE" }),
            reads: ReadSet::Table,
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
        let mut plan = self.commit_plan(&input, &session).await?;
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
        let rows = self.session.create_physical_plan(&self.sink.rows).await?;
        let mut plan = self.sink.commit_plan(&rows, &self.session).await?;
        let rows = self.sink.check_keys(rows, &mut plan)?;
        Ok(Some((rows, plan)))
    }
}

/// DataFusion's own session behind the trait: planning a statement inside a statement needs all of it.
pub(crate) fn session_state(state: &dyn Session) -> Result<&SessionState> {
    state.as_any().downcast_ref::<SessionState>().ok_or_else(|| Error::invalid("writing to Delta tables needs DataFusion's own SessionState, and this session is another implementation"))
}
