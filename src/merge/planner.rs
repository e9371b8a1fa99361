//! Plans a MERGE on the newest version of its target, again if need be.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchemaRef, Statistics};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::logical_expr::dml::{MergeIntoAction, MergeIntoClause};
use datafusion::logical_expr::utils::{disjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::clause::{ClauseAction, ClauseKind, Clauses};
use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::estimate::MergeOutline;
use super::insert::{checks_keys, own_version, schema_changed, write_target};
use super::key_check::KeyCheck;
use super::key_collect::{KeyColumn, KeyPruning};
use super::keys::KeyKind;
use super::provenance::merge_operation;
use super::relation::{SourceRelation, TargetRelation};
use super::row_format::RowFormat;
use super::row_plan::{RowPlanner, Shape};
use super::row_rules::RowRules;
use super::subquery::has_subquery;
use super::write_exec::WriteSpec;
use crate::change::without_dynamic_filters;
use crate::delta::DeltaTable;
use crate::delta::actions::Action;
use crate::delta::computed::refuse_assignments;
use crate::delta::evolution::evolved;
use crate::delta::layout::TableLayout;
use crate::delta::own_reads::OwnReads;
use crate::delta::scan::DeltaScan;
use crate::delta::scan_source::{scans_of, versions_read};
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::ReadSet;
use crate::error::{Error, Result};

/// How often a statement is planned again when a commit has come between its reads of the table.
const MAX_PLANS: u32 = 10;

/// A MERGE as it arrives at the table.
#[derive(Debug, Clone)]
pub(crate) struct MergeStatement {
    pub table: DeltaTable,
    /// The version to plan on, where that is not for the planner to choose.
    pub base: Option<Arc<Snapshot>>,
    pub session: Arc<SessionState>,
    pub source: Arc<dyn ExecutionPlan>,
    /// The target's columns, then the source's, each qualified.
    pub schema: DFSchemaRef,
    pub on: Expr,
    pub clauses: Vec<MergeIntoClause>,
    /// Columns that the target gets with the same commit, where it lacks them.
    pub evolution: Option<SchemaRef>,
}

/// Plans the statement on the version of the target that its source reads, by `own` where that is known, else on the newest one;
/// nothing is read or written yet.
pub(crate) async fn plan_merge(
    statement: MergeStatement,
    own: Option<&OwnReads>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let read = own_version(&statement.table, own, &statement.source).await?;
    let Some(base) = read else {
        let (rows, plan) = statement.plan().await?;
        let commit = CommitExec::new(rows, plan, Some(Arc::new(statement)))?;
        return Ok(Arc::new(commit));
    };
    let statement = MergeStatement {
        base: Some(base),
        ..statement
    };
    let (rows, mut plan) = statement.plan().await?;
    // the source may have read any row, and its rows cannot be had anew
    plan.reads = ReadSet::Table;
    Ok(Arc::new(CommitExec::new(rows, plan, None)?))
}

#[async_trait]
impl Replan for MergeStatement {
    async fn replan(&self) -> Result<Option<(Arc<dyn ExecutionPlan>, CommitPlan)>> {
        let source = reset_plan_states(Arc::clone(&self.source))?;
        Self {
            source,
            ..self.clone()
        }
        .plan()
        .await
        .map(Some)
    }
}

impl MergeStatement {
    /// The row changes, and how to commit them.
    pub(crate) async fn plan(&self) -> Result<(Arc<dyn ExecutionPlan>, CommitPlan)> {
        for _ in 0..MAX_PLANS {
            match self.plan_once().await {
                Err(Error::Conflict { .. }) if self.base.is_none() => {}
                planned => return planned,
            }
        }
        self.plan_once().await
    }

    /// Whether ON, WHEN, SET or VALUES have a sub-query, which may read anything.
    fn has_subqueries(&self) -> bool {
        has_subquery(&self.on)
            || self.clauses.iter().any(|clause| {
                let values: Vec<&Expr> = match &clause.action {
                    MergeIntoAction::Update(assignments) => {
                        assignments.iter().map(|(_, value)| value).collect()
                    }
                    MergeIntoAction::Insert { values, .. } => values.iter().collect(),
                    MergeIntoAction::Delete => vec![],
                };
                clause.predicate.iter().chain(values).any(has_subquery)
            })
    }

    /// A sub-query has to read the version that was chosen, by whatever relation it gets at the target.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a commit has come in between.
    fn check_versions(&self, rows: &Arc<dyn ExecutionPlan>, base: &Snapshot) -> Result<()> {
        if !self.has_subqueries() {
            return Ok(());
        }
        let read = versions_read(rows, self.table.location());
        match read.into_iter().find(|version| *version != base.version()) {
            Some(version) => Err(Error::Conflict {
                version,
                operation: "a commit".into(),
                detail: "it came between two reads of the table by this statement".into(),
            }),
            None => Ok(()),
        }
    }

    async fn plan_once(&self) -> Result<(Arc<dyn ExecutionPlan>, CommitPlan)> {
        let snapshot = match &self.base {
            Some(base) => Arc::clone(base),
            None => self.table.snapshot().await?,
        };
        let own = Arc::new(OwnReads::at(Arc::clone(&snapshot)));
        let (snapshot, prelude) = self.evolved(snapshot).await?;
        let layout = snapshot.layout();
        let width = layout.schema().fields().len();
        if !self.is_planned_with(layout) {
            return Err(schema_changed(&self.table));
        }
        let clauses = Clauses::try_new(self.clauses.clone(), &self.schema, width)?;
        for assigned in clauses.assigned() {
            refuse_assignments(layout, &assigned)?;
        }
        let target = write_target(&snapshot, clauses.marks_rows())?;
        // without updates readers can infer the changes, unless files are rewritten
        let change_rows = target.properties.change_data_feed
            && (clauses.update() || (clauses.marks_rows() && !target.properties.deletion_vectors));
        let row_tracking = snapshot.properties().row_tracking.as_ref();
        let format = RowFormat::Actions {
            row_ids: row_tracking.is_some() && clauses.update(),
            new_values: clauses.writes_rows(),
            old_values: change_rows,
        };
        let shape = Shape::new(&clauses);
        let mut scan = DeltaScan::of_snapshot(&snapshot).await?;
        let scanned = snapshot.files().await?;
        let mut outline = self.outline(shape, &clauses);
        let anyway = self.wanted_by_source(&clauses, width);
        let mut columns = vec![];
        if shape.prunes_target() || anyway.is_some() {
            columns = self.key_columns(layout, format.has_row_ids());
        }
        let name = |key: &KeyColumn| layout.schema().field(key.target).name().clone();
        outline.keys = columns.iter().map(name).collect();
        let keys = Arc::new(KeyPruning::new(columns));
        if !outline.keys.is_empty() {
            scan.runtime_pruning = Some(Arc::clone(&keys) as _);
            scan.wanted_anyway = anyway;
        }
        let relation = TargetRelation::new(scan, row_tracking.filter(|_| format.has_row_ids()));
        let read = Arc::new(relation.rows_read(self.session.as_ref(), &[])?);
        let planner = RowPlanner {
            statement: self,
            layout,
            clauses: &clauses,
            shape,
            format,
        };
        let logical = planner.logical(
            relation,
            SourceRelation::new(Arc::clone(&self.source), Some(keys)),
        )?;
        let session = own.session(self.planning_session());
        let rows = session.create_physical_plan(&logical).await?;
        self.check_versions(&rows, &snapshot)?;
        let rules = RowRules::try_new(&target, &self.session)?;
        let unique_matches = clauses.unique_matches();
        let (rows, key_check) = self.key_check(rows, &snapshot, &clauses)?;
        let write = WriteSpec {
            target,
            format,
            rules,
            change_rows,
            unique_matches,
        };
        // which rows the source's rows meet is known only where they come from elsewhere
        let reads_once = scans_of(&rows, self.table.location()) == 1 && own.scans() == 0;
        let reads = if shape.prunes_target() && reads_once && key_check.is_none() {
            ReadSet::Rows {
                of: read,
                complete: shape.has_matched(),
            }
        } else {
            ReadSet::Table
        };
        let plan = CommitPlan {
            base: Some(snapshot),
            write,
            scanned,
            removal: Removal::Marked,
            key_check,
            prelude,
            operation: merge_operation(&self.on, &clauses, &self.schema)?,
            reads,
            outline: Some(outline),
            session: Arc::clone(&self.session),
        };
        Ok((rows, plan))
    }

    /// Whether the target's columns are still those before the source's.
    fn is_planned_with(&self, layout: &TableLayout) -> bool {
        let now = layout.schema().fields();
        let of_source = self.source.schema().fields().len();
        // a new column may look like the source's first
        let is_as_wide = self.schema.fields().len() == now.len() + of_source;
        is_as_wide
            && self.schema.fields().iter().zip(now).all(|(planned, now)| {
                planned.name() == now.name() && planned.data_type() == now.data_type()
            })
    }

    /// The version with the columns that the statement adds to it, and the actions that do that.
    async fn evolved(&self, snapshot: Arc<Snapshot>) -> Result<(Arc<Snapshot>, Vec<Action>)> {
        let Some(wanted) = &self.evolution else {
            return Ok((snapshot, vec![]));
        };
        // listed before, they are known to both
        snapshot.files().await?;
        let evolved = evolved(&snapshot, wanted)?;
        Ok(evolved.unwrap_or_else(|| (snapshot, vec![])))
    }

    /// What is known before the target's keys are.
    fn outline(&self, shape: Shape, clauses: &Clauses) -> MergeOutline {
        let source_rows = match shape.has_source() {
            true => source_statistics(&self.source)
                .map_or(Precision::Absent, |statistics| statistics.num_rows),
            false => Precision::Exact(0),
        };
        MergeOutline {
            join: shape.join_type(),
            keys: vec![],
            source_rows,
            by_source: !shape.prunes_target(),
            marks_rows: clauses.marks_rows(),
        }
    }

    /// The rows without a partner in the source that a clause applies to; `None` where that may be any row.
    fn wanted_by_source(&self, clauses: &Clauses, width: usize) -> Option<Expr> {
        let of_target = |condition: &&Expr| {
            let columns = condition.column_refs();
            let mut columns = columns.iter();
            !condition.is_volatile()
                && !has_subquery(condition)
                && columns.all(|column| {
                    let index = self.schema.index_of_column(column);
                    index.is_ok_and(|index| index < width)
                })
        };
        let clauses = clauses.iter().map(|(_, clause)| clause);
        let by_source = clauses.filter(|clause| clause.kind == ClauseKind::NotMatchedBySource);
        let conditions =
            by_source.map(|clause| clause.condition.as_ref().filter(of_target).cloned());
        disjunction(conditions.collect::<Option<Vec<_>>>()?)
    }

    /// Has the keys checked that the rows bring into a table with change tracking.
    fn key_check(
        &self,
        rows: Arc<dyn ExecutionPlan>,
        snapshot: &Snapshot,
        clauses: &Clauses,
    ) -> Result<(Arc<dyn ExecutionPlan>, Option<KeyCheck>)> {
        let layout = snapshot.layout();
        let columns = layout.schema();
        let keys = &snapshot.properties().primary_key;
        let positions: Vec<usize> = keys
            .iter()
            .filter_map(|key| columns.index_of(key).ok())
            .collect();
        let values = |index: usize| clauses.values_of(index);
        // an insertion that leaves the key out writes its default value
        let is_given = |index: usize| {
            clauses.iter().all(|(_, clause)| match &clause.action {
                ClauseAction::Insert(values) => values.iter().any(|(column, _)| *column == index),
                ClauseAction::Update(_) => !layout.is_recomputed(index),
                ClauseAction::Delete => true,
            })
        };
        let writes = |index: &usize| !is_given(*index) || !values(*index).is_empty();
        if !positions.iter().any(writes) || !checks_keys(snapshot)? {
            return Ok((rows, None));
        }
        // where rows are matched by the key, and by nothing else, one that is not matched is not there
        let matched = self.matched_columns();
        let is_matched = |index: &usize| {
            let source = matched.as_ref().and_then(|matched| matched.get(index));
            is_given(*index)
                && source.is_some_and(|source| {
                    let mut values = values(*index).into_iter();
                    values.all(|value| self.position(value) == Some(*source))
                })
        };
        let by_key = matched
            .as_ref()
            .is_some_and(|matched| matched.len() == positions.len());
        let may_be_there = !by_key || !positions.iter().all(is_matched);
        let (rows, check) = KeyCheck::of_actions(rows, columns, keys.clone(), may_be_there)?;
        Ok((rows, Some(check)))
    }

    /// The source's column that ON compares each of the target's with; `None` where ON is anything but such comparisons.
    fn matched_columns(&self) -> Option<HashMap<usize, usize>> {
        let pair = |expression: &Expr| {
            let Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Eq,
                right,
            }) = expression
            else {
                return None;
            };
            let (left, right) = (self.position(left)?, self.position(right)?);
            Some((left.min(right), left.max(right)))
        };
        split_conjunction(&self.on).into_iter().map(pair).collect()
    }

    /// The pairs of plain columns that ON compares for equality and whose statistics can rule files out. Row ids, where files
    /// have them, stand between the columns of the files and those of their folders.
    fn key_columns(&self, layout: &TableLayout, row_ids: bool) -> Vec<KeyColumn> {
        let width = layout.schema().fields().len();
        let order: Vec<Option<usize>> = layout
            .data_columns()
            .map(Some)
            .chain(row_ids.then_some(None))
            .chain(layout.partition_columns().iter().copied().map(Some))
            .collect();
        let pair = |expression: &Expr| {
            let Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Eq,
                right,
            }) = expression
            else {
                return None;
            };
            let (left, right) = (self.position(left)?, self.position(right)?);
            let (target, source) = if left < right {
                (left, right)
            } else {
                (right, left)
            };
            if target >= width || source < width {
                return None;
            }
            let kind = KeyKind::of(
                self.schema.field(source).data_type(),
                self.schema.field(target).data_type(),
            )?;
            Some(KeyColumn {
                source: source - width,
                target,
                statistics: order.iter().position(|index| *index == Some(target))?,
                in_files: !layout.is_partition(target),
                kind,
            })
        };
        split_conjunction(&self.on)
            .into_iter()
            .filter_map(pair)
            .collect()
    }

    /// The column that an expression is, looking through casts between integers or texts, which keep the order of values.
    fn position(&self, expression: &Expr) -> Option<usize> {
        match expression {
            Expr::Column(column) => self.schema.index_of_column(column).ok(),
            Expr::Cast(cast) => {
                let index = self.position(&cast.expr)?;
                KeyKind::of(self.schema.field(index).data_type(), cast.field.data_type())?;
                Some(index)
            }
            _ => None,
        }
    }

    /// The session with join settings for a small build side: repartitioning the whole target would cost more than sharing one
    /// hash table. Where the source may not fit into memory, a sort-merge join, which spills, takes its place.
    fn planning_session(&self) -> SessionState {
        let mut session = without_dynamic_filters(&self.session);
        let limit = match session.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(limit) => limit,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        let bytes = source_statistics(&self.source)
            .and_then(|statistics| statistics.total_byte_size.get_value().copied());
        // a source of unknown size may be too large for a limit that there is
        let fits = bytes.map_or(limit == usize::MAX, |bytes| bytes <= limit / 4);
        let optimizer = &mut session.config_mut().options_mut().optimizer;
        if fits {
            optimizer.hash_join_single_partition_threshold = limit / 4;
            optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
        } else {
            optimizer.prefer_hash_join = false;
        }
        session
    }
}

fn source_statistics(source: &Arc<dyn ExecutionPlan>) -> Option<Arc<Statistics>> {
    StatisticsContext::new()
        .compute(source.as_ref(), &StatisticsArgs::new())
        .ok()
}
