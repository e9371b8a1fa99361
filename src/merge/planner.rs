//! Plans a MERGE: one join, one clause number for each row, and the new values by it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::dml::MergeIntoClause;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, cast, col, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;

use super::clause::{ClauseAction, ClauseKind, Clauses};
use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::constraint::Constraints;
use super::insert::{schema_changed, write_target};
use super::key_collect::{KeyColumn, KeyKind, KeyPruning};
use super::relation::{SourceRelation, TargetRelation};
use super::row_format::{ACTION, FILE, ROW, RowAction, RowFormat, new_name, old_name};
use super::write_exec::WriteSpec;
use crate::delta::DeltaTable;
use crate::delta::layout::TableLayout;
use crate::delta::scan::{DeltaScan, ScanFile};
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::{Operation, ReadSet};
use crate::error::Result;

/// The clause that applies to a row; NULL for none.
const CLAUSE: &str = "__clause";
/// True in every row of the source, so that NULL says "no source row".
const SOURCE: &str = "__source";
/// The name of the source's scan, before its columns get their qualifiers back.
const SOURCE_SCAN: &str = "__merge_source";
/// A source below this share of the target's rows is sparse: filtering inside the Parquet reader pays.
const SPARSE_SHARE: usize = 20;

/// A MERGE as it arrives at the table.
#[derive(Debug, Clone)]
pub(crate) struct MergeStatement {
    pub table: DeltaTable,
    pub session: Arc<SessionState>,
    pub source: Arc<dyn ExecutionPlan>,
    /// The target's columns, then the source's, each qualified.
    pub schema: DFSchemaRef,
    pub on: Expr,
    pub clauses: Vec<MergeIntoClause>,
}

/// Plans the statement on the newest version; nothing is read or written yet.
pub(crate) async fn plan_merge(statement: MergeStatement) -> Result<Arc<dyn ExecutionPlan>> {
    let (rows, plan) = statement.plan().await?;
    Ok(Arc::new(CommitExec::new(rows, plan, Some(Arc::new(statement)))))
}

#[async_trait]
impl Replan for MergeStatement {
    async fn replan(&self) -> Result<(Arc<dyn ExecutionPlan>, CommitPlan)> {
        let source = reset_plan_states(Arc::clone(&self.source))?;
        Self { source, ..self.clone() }.plan().await
    }
}

impl MergeStatement {
    async fn plan(&self) -> Result<(Arc<dyn ExecutionPlan>, CommitPlan)> {
        let snapshot = self.table.snapshot().await?;
        let layout = snapshot.layout();
        let width = layout.schema().fields().len();
        let target_columns = (0..width.min(self.schema.fields().len())).map(|index| self.schema.field(index));
        if !target_columns.zip(layout.schema().fields()).all(|(planned, now)| planned.name() == now.name() && planned.data_type() == now.data_type()) {
            return Err(schema_changed(&self.table));
        }
        let clauses = Clauses::try_new(self.clauses.clone(), &self.schema, width)?;
        let target = write_target(&snapshot, clauses.marks_rows())?;
        // without updates readers can infer the changes, unless files are rewritten
        let change_rows = target.properties.change_data_feed && (clauses.update() || (clauses.marks_rows() && !target.properties.deletion_vectors));
        let format = RowFormat::Actions { new_values: clauses.writes_rows(), old_values: change_rows };
        let shape = Shape::new(&clauses);
        let keys = shape.prunes_target().then(|| self.key_columns(layout)).filter(|keys| !keys.is_empty()).map(|keys| Arc::new(KeyPruning::new(keys)));
        let mut scan = DeltaScan::of_snapshot(&snapshot).await?;
        scan.runtime_pruning = keys.clone().map(|keys| keys as _);
        scan.pushdown_filters = shape.prunes_target().then(|| self.is_sparse(&scan.files)).flatten();
        let scanned = Arc::new(scan.files.clone());
        let planner = Planner { statement: self, layout, clauses: &clauses, shape, format };
        let logical = planner.logical(TargetRelation::new(scan), SourceRelation::new(Arc::clone(&self.source), keys))?;
        let rows = self.planning_session().create_physical_plan(&logical).await?;
        let constraints = Constraints::try_new(&target, &self.session)?;
        let unique_matches = clauses.unique_matches();
        Ok((rows, self.commit_plan(snapshot, WriteSpec { target, format, constraints, change_rows, unique_matches }, scanned)))
    }

    fn commit_plan(&self, snapshot: Arc<Snapshot>, write: WriteSpec, scanned: Arc<Vec<ScanFile>>) -> CommitPlan {
        CommitPlan {
            base: Some(snapshot),
            write,
            scanned,
            removal: Removal::Marked,
            prelude: vec![],
            operation: Operation::new("MERGE").with_parameter("predicate", &self.on),
            reads: ReadSet::Table,
            session: Arc::clone(&self.session),
        }
    }

    /// The pairs of plain columns that ON compares for equality and whose statistics can rule files out.
    fn key_columns(&self, layout: &TableLayout) -> Vec<KeyColumn> {
        let width = layout.schema().fields().len();
        let order: Vec<usize> = layout.data_columns().chain(layout.partition_columns().iter().copied()).collect();
        let pair = |expression: &Expr| {
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expression else { return None };
            let (left, right) = (self.position(left)?, self.position(right)?);
            let (target, source) = if left < right { (left, right) } else { (right, left) };
            if target >= width || source < width {
                return None;
            }
            let kind = KeyKind::of(self.schema.field(source).data_type(), self.schema.field(target).data_type())?;
            Some(KeyColumn { source: source - width, statistics: order.iter().position(|index| *index == target)?, kind })
        };
        split_conjunction(&self.on).into_iter().filter_map(pair).collect()
    }

    fn position(&self, expression: &Expr) -> Option<usize> {
        let Expr::Column(column) = expression else { return None };
        self.schema.index_of_column(column).ok()
    }

    /// Whether few of the target's rows can be touched; `None` when nobody knows.
    fn is_sparse(&self, files: &[ScanFile]) -> Option<bool> {
        let source = source_statistics(&self.source)?.num_rows;
        let rows: u64 = files.iter().filter_map(|file| crate::delta::stats::live_records(&file.add)).sum();
        match source {
            Precision::Exact(source) | Precision::Inexact(source) => Some(source.saturating_mul(SPARSE_SHARE) < usize::try_from(rows).ok()?),
            Precision::Absent => None,
        }
    }

    /// The session with join settings for a small build side: repartitioning the whole target would cost more than sharing one
    /// hash table. Where the source may not fit into memory, a sort-merge join, which spills, takes its place.
    fn planning_session(&self) -> SessionState {
        let mut session = self.session.as_ref().clone();
        let statistics = source_statistics(&self.source);
        let bytes = statistics.and_then(|statistics| statistics.total_byte_size.get_value().copied()).unwrap_or(0);
        let limit = match session.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(limit) => limit,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        let options = session.config_mut().options_mut();
        if bytes > limit / 4 {
            options.optimizer.prefer_hash_join = false;
        } else {
            options.optimizer.hash_join_single_partition_threshold = limit / 4;
            options.optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
        }
        session
    }
}

fn source_statistics(source: &Arc<dyn ExecutionPlan>) -> Option<Arc<datafusion::common::Statistics>> {
    #[expect(deprecated, reason = "the context that replaces it is made by the optimizer only")]
    source.partition_statistics(None).ok()
}

/// Which sides of the join its rows have.
#[derive(Debug, Clone, Copy)]
struct Shape {
    matched: bool,
    by_target: bool,
    by_source: bool,
}

impl Shape {
    fn new(clauses: &Clauses) -> Self {
        Self {
            matched: clauses.any(ClauseKind::Matched),
            by_target: clauses.any(ClauseKind::NotMatchedByTarget),
            by_source: clauses.any(ClauseKind::NotMatchedBySource),
        }
    }

    /// The source is the left side, the one that a hash join builds from.
    fn join_type(self) -> JoinType {
        match (self.matched, self.by_target, self.by_source) {
            (true, false, false) => JoinType::Inner,
            (true, true, false) => JoinType::Left,
            (false, true, false) => JoinType::LeftAnti,
            (true, false, true) => JoinType::Right,
            (false, false, _) => JoinType::RightAnti,
            (_, true, true) => JoinType::Full,
        }
    }

    /// Target rows without a partner are of no interest.
    fn prunes_target(self) -> bool {
        !self.by_source
    }

    fn has_source(self) -> bool {
        self.join_type() != JoinType::RightAnti
    }

    fn has_target(self) -> bool {
        self.join_type() != JoinType::LeftAnti
    }
}

struct Planner<'a> {
    statement: &'a MergeStatement,
    layout: &'a TableLayout,
    clauses: &'a Clauses,
    shape: Shape,
    format: RowFormat,
}

impl Planner<'_> {
    fn logical(&self, target: TargetRelation, source: SourceRelation) -> Result<LogicalPlan> {
        let source = LogicalPlanBuilder::scan(SOURCE_SCAN, provider_as_source(Arc::new(source)), None)?.project(self.source_columns())?.build()?;
        let target = LogicalPlanBuilder::scan(self.target_name(), provider_as_source(Arc::new(target)), None)?.build()?;
        let joined = LogicalPlanBuilder::from(source).join_on(target, self.shape.join_type(), [self.statement.on.clone()])?;
        // the clause number is computed once, here; everything after refers to it
        let numbered = joined.project(self.all_columns().into_iter().chain([self.clause_number()?.alias(CLAUSE)]))?;
        let relevant = numbered.filter(self.relevant())?;
        let values = relevant.project(self.values()?)?;
        Ok(values.project(self.actions()?)?.build()?)
    }

    fn width(&self) -> usize {
        self.layout.schema().fields().len()
    }

    fn target_name(&self) -> TableReference {
        let (qualifier, _) = self.statement.schema.qualified_field(0);
        qualifier.cloned().unwrap_or_else(|| TableReference::bare("__target"))
    }

    fn schema(&self) -> &DFSchema {
        &self.statement.schema
    }

    fn column(&self, index: usize) -> Expr {
        let (qualifier, field) = self.schema().qualified_field(index);
        Expr::Column(Column::new(qualifier.cloned(), field.name()))
    }

    fn control(&self, name: &str) -> Expr {
        col(Column::new(Some(self.target_name()), name))
    }

    /// The source's columns with the qualifiers that the statement knows, and the mark that tells its rows.
    fn source_columns(&self) -> Vec<Expr> {
        let columns = (self.width()..self.schema().fields().len()).map(|index| {
            let (qualifier, field) = self.schema().qualified_field(index);
            col(Column::new(Some(SOURCE_SCAN), field.name())).alias_qualified(qualifier.cloned(), field.name())
        });
        columns.chain([lit(true).alias(SOURCE)]).collect()
    }

    fn all_columns(&self) -> Vec<Expr> {
        let mut columns = Vec::new();
        if self.shape.has_target() {
            columns.extend((0..self.width()).map(|index| self.column(index)));
            columns.extend([self.control(FILE), self.control(ROW)]);
        }
        if self.shape.has_source() {
            columns.extend((self.width()..self.schema().fields().len()).map(|index| self.column(index)));
            columns.push(col(SOURCE));
        }
        columns
    }

    fn in_target(&self) -> Expr {
        if self.shape.has_target() { self.control(ROW).is_not_null() } else { lit(false) }
    }

    fn in_source(&self) -> Expr {
        if self.shape.has_source() { col(SOURCE).is_not_null() } else { lit(false) }
    }

    fn clause_number(&self) -> Result<Expr> {
        let numbered = self.clauses.iter().map(|(number, clause)| {
            let side = match clause.kind {
                ClauseKind::Matched => self.in_target().and(self.in_source()),
                ClauseKind::NotMatchedByTarget => self.in_target().is_not_true(),
                ClauseKind::NotMatchedBySource => self.in_source().is_not_true(),
            };
            let applies = clause.condition.iter().cloned().fold(side, Expr::and);
            Ok((applies, lit(i32::try_from(number).map_err(crate::error::Error::internal)?)))
        });
        Ok(case(numbered.collect::<Result<Vec<_>>>()?, None)?)
    }

    /// Rows that a clause applies to, and matched rows that may not be matched twice.
    fn relevant(&self) -> Expr {
        let applied = col(CLAUSE).is_not_null();
        if self.clauses.unique_matches() { applied.or(self.in_target().and(self.in_source())) } else { applied }
    }

    /// Clause, address, new values, old values as far as they are needed.
    fn values(&self) -> Result<Vec<Expr>> {
        let mut columns = vec![col(CLAUSE)];
        if self.shape.has_target() {
            columns.extend([self.control(FILE).alias(FILE), self.control(ROW).alias(ROW)]);
        } else {
            columns.push(cast(lit(datafusion::common::ScalarValue::Null), arrow::datatypes::DataType::UInt32).alias(FILE));
            columns.push(cast(lit(datafusion::common::ScalarValue::Null), arrow::datatypes::DataType::Int64).alias(ROW));
        }
        if self.format.has_new_values() {
            for index in 0..self.width() {
                columns.push(self.new_value(index)?.alias(new_name(index)));
            }
        }
        let compared = self.compared();
        for index in (0..self.width()).filter(|index| self.format.has_old_values() || compared.contains(index)) {
            columns.push(self.old_value(index).alias(old_name(index)));
        }
        Ok(columns)
    }

    fn old_value(&self, index: usize) -> Expr {
        if self.shape.has_target() { self.column(index) } else { cast(lit(datafusion::common::ScalarValue::Null), self.schema().field(index).data_type().clone()) }
    }

    fn new_value(&self, index: usize) -> Result<Expr> {
        let data_type = self.schema().field(index).data_type().clone();
        let mut by_clause = Vec::new();
        for (number, clause) in self.clauses.iter() {
            let assigned = |values: &[(usize, Expr)]| values.iter().find(|(column, _)| *column == index).map(|(_, value)| value.clone());
            let value = match &clause.action {
                ClauseAction::Update(values) => assigned(values),
                ClauseAction::Insert(values) => Some(assigned(values).unwrap_or_else(|| lit(datafusion::common::ScalarValue::Null))),
                ClauseAction::Delete => None,
            };
            if let Some(value) = value {
                by_clause.push((col(CLAUSE).eq(lit(i32::try_from(number).unwrap_or(i32::MAX))), cast(value, data_type.clone())));
            }
        }
        Ok(cast(case(by_clause, Some(self.old_value(index)))?, data_type))
    }

    /// The columns that an update assigns and whose values can be compared: a row that an update leaves identical is not touched.
    fn compared(&self) -> Vec<usize> {
        (0..self.width()).filter(|index| self.is_assigned(*index) && is_comparable(self.schema().field(*index).data_type())).collect()
    }

    fn is_assigned(&self, index: usize) -> bool {
        self.clauses.iter().any(|(_, clause)| matches!(&clause.action, ClauseAction::Update(values) if values.iter().any(|(column, _)| *column == index)))
    }

    fn actions(&self) -> Result<Vec<Expr>> {
        let mut columns = vec![self.action()?.alias(ACTION), col(FILE), col(ROW)];
        if self.format.has_new_values() {
            columns.extend((0..self.width()).map(|index| col(new_name(index))));
        }
        if self.format.has_old_values() {
            columns.extend((0..self.width()).map(|index| col(old_name(index))));
        }
        Ok(columns)
    }

    fn action(&self) -> Result<Expr> {
        let compared = self.compared();
        let all_compared = (0..self.width()).filter(|index| self.is_assigned(*index)).all(|index| compared.contains(&index));
        let differs = compared.iter().map(|index| distinct(col(new_name(*index)), col(old_name(*index)))).reduce(Expr::or);
        let by_clause = self.clauses.iter().map(|(number, clause)| {
            let action = match &clause.action {
                ClauseAction::Delete => RowAction::Delete.literal(),
                ClauseAction::Insert(_) => RowAction::Insert.literal(),
                ClauseAction::Update(_) => match differs.clone().filter(|_| all_compared) {
                    Some(differs) => when(differs, RowAction::Update.literal()).otherwise(RowAction::Keep.literal())?,
                    None => RowAction::Update.literal(),
                },
            };
            Ok((col(CLAUSE).eq(lit(i32::try_from(number).unwrap_or(i32::MAX))), action))
        });
        Ok(case(by_clause.collect::<Result<Vec<_>>>()?, Some(RowAction::Keep.literal()))?)
    }
}

/// `CASE WHEN … THEN … [ELSE …] END`; the default alone where there is no branch.
fn case(branches: Vec<(Expr, Expr)>, default: Option<Expr>) -> datafusion::error::Result<Expr> {
    let mut builder: Option<CaseBuilder> = None;
    for (condition, value) in branches {
        builder = Some(match builder {
            None => when(condition, value),
            Some(mut builder) => builder.when(condition, value),
        });
    }
    match (builder, default) {
        (Some(mut builder), Some(default)) => builder.otherwise(default),
        (Some(builder), None) => builder.end(),
        (None, default) => Ok(default.unwrap_or_else(|| lit(datafusion::common::ScalarValue::Null))),
    }
}

/// `left IS DISTINCT FROM right`.
pub(crate) fn distinct(left: Expr, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::IsDistinctFrom, Box::new(right)))
}

/// Whether `IS DISTINCT FROM` is defined for the type.
pub(crate) fn is_comparable(data_type: &arrow::datatypes::DataType) -> bool {
    !data_type.is_nested()
}
