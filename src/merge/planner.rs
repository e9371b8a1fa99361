//! Plans a MERGE on the newest version of its target, again if need be.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchemaRef, Statistics};
use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::logical_expr::dml::MergeIntoClause;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::clause::{Clauses, refuse_subquery};
use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::constraint::Constraints;
use super::insert::{base_version, schema_changed, write_target};
use super::key_check::KeyCheck;
use super::key_collect::{KeyColumn, KeyKind, KeyPruning};
use super::relation::{SourceRelation, TargetRelation};
use super::row_format::RowFormat;
use super::row_plan::{RowPlanner, Shape};
use super::write_exec::WriteSpec;
use crate::change::without_dynamic_filters;
use crate::delta::DeltaTable;
use crate::delta::layout::TableLayout;
use crate::delta::scan::{DeltaScan, ScanFile};
use crate::delta::scan_source::versions_read;
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::{Operation, ReadSet};
use crate::error::Result;

/// A source below this share of the target's rows is sparse: filtering inside the Parquet reader pays.
const SPARSE_SHARE: usize = 20;

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
}

/// Plans the statement on the newest version; nothing is read or written yet.
pub(crate) async fn plan_merge(statement: MergeStatement) -> Result<Arc<dyn ExecutionPlan>> {
    let (rows, plan) = statement.plan().await?;
    Ok(Arc::new(CommitExec::new(
        rows,
        plan,
        Some(Arc::new(statement)),
    )?))
}

#[async_trait]
impl Replan for MergeStatement {
    async fn replan(&self) -> Result<Option<(Arc<dyn ExecutionPlan>, CommitPlan)>> {
        if !versions_read(&self.source, self.table.location()).is_empty() {
            // the source's rows are those of the version that has been overtaken
            return Ok(None);
        }
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
        let snapshot = match &self.base {
            Some(base) => Arc::clone(base),
            None => base_version(&self.table, &self.source).await?.0,
        };
        let layout = snapshot.layout();
        let width = layout.schema().fields().len();
        let target_columns =
            (0..width.min(self.schema.fields().len())).map(|index| self.schema.field(index));
        if !target_columns
            .zip(layout.schema().fields())
            .all(|(planned, now)| {
                planned.name() == now.name() && planned.data_type() == now.data_type()
            })
        {
            return Err(schema_changed(&self.table));
        }
        let clauses = Clauses::try_new(self.clauses.clone(), &self.schema, width)?;
        let target = write_target(&snapshot, clauses.marks_rows())?;
        // without updates readers can infer the changes, unless files are rewritten
        let change_rows = target.properties.change_data_feed
            && (clauses.update() || (clauses.marks_rows() && !target.properties.deletion_vectors));
        let format = RowFormat::Actions {
            new_values: clauses.writes_rows(),
            old_values: change_rows,
        };
        let shape = Shape::new(&clauses);
        if !shape.is_inner() {
            refuse_subquery("ON", &self.on)?;
        }
        let keys = shape
            .prunes_target()
            .then(|| self.key_columns(layout))
            .filter(|keys| !keys.is_empty())
            .map(|keys| Arc::new(KeyPruning::new(keys)));
        let mut scan = DeltaScan::of_snapshot(&snapshot).await?;
        scan.runtime_pruning = keys.clone().map(|keys| keys as _);
        scan.pushdown_filters = shape
            .prunes_target()
            .then(|| self.is_sparse(&scan.files))
            .flatten();
        let scanned = Arc::new(scan.files.clone());
        let planner = RowPlanner {
            statement: self,
            layout,
            clauses: &clauses,
            shape,
            format,
        };
        let logical = planner.logical(
            TargetRelation::new(scan),
            SourceRelation::new(Arc::clone(&self.source), keys),
        )?;
        let rows = self
            .planning_session()
            .create_physical_plan(&logical)
            .await?;
        let constraints = Constraints::try_new(&target, &self.session)?;
        let unique_matches = clauses.unique_matches();
        let (rows, key_check) = self.key_check(rows, &snapshot, &clauses)?;
        let write = WriteSpec {
            target,
            format,
            constraints,
            change_rows,
            unique_matches,
        };
        let plan = self.commit_plan(snapshot, write, scanned);
        Ok((rows, CommitPlan { key_check, ..plan }))
    }

    /// Has the keys checked that the rows bring into a table with change tracking.
    fn key_check(
        &self,
        rows: Arc<dyn ExecutionPlan>,
        snapshot: &Snapshot,
        clauses: &Clauses,
    ) -> Result<(Arc<dyn ExecutionPlan>, Option<KeyCheck>)> {
        let columns = snapshot.layout().schema();
        let keys = &snapshot.properties().primary_key;
        let positions: Vec<usize> = keys
            .iter()
            .filter_map(|key| columns.index_of(key).ok())
            .collect();
        let values = |index: usize| clauses.values_of(index);
        let writes_keys = positions.iter().any(|index| !values(*index).is_empty());
        if snapshot.properties().tracking.is_none() || !writes_keys {
            return Ok((rows, None));
        }
        // where rows are matched by the key, and by nothing else, one that is not matched is not there
        let matched = self.matched_columns();
        let is_matched = |index: &usize| {
            let source = matched.as_ref().and_then(|matched| matched.get(index));
            source.is_some_and(|source| {
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

    fn commit_plan(
        &self,
        snapshot: Arc<Snapshot>,
        write: WriteSpec,
        scanned: Arc<Vec<ScanFile>>,
    ) -> CommitPlan {
        CommitPlan {
            base: Some(snapshot),
            write,
            scanned,
            removal: Removal::Marked,
            key_check: None,
            prelude: vec![],
            operation: Operation::new("MERGE").with_parameter("predicate", &self.on),
            reads: ReadSet::Table,
            session: Arc::clone(&self.session),
        }
    }

    /// The pairs of plain columns that ON compares for equality and whose statistics can rule files out.
    fn key_columns(&self, layout: &TableLayout) -> Vec<KeyColumn> {
        let width = layout.schema().fields().len();
        let order: Vec<usize> = layout
            .data_columns()
            .chain(layout.partition_columns().iter().copied())
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
                statistics: order.iter().position(|index| *index == target)?,
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

    /// Whether few of the target's rows can be touched; `None` when nobody knows.
    fn is_sparse(&self, files: &[ScanFile]) -> Option<bool> {
        let source = source_statistics(&self.source)?.num_rows;
        let rows: u64 = files
            .iter()
            .filter_map(|file| crate::delta::stats::live_records(&file.add))
            .sum();
        match source {
            Precision::Exact(source) | Precision::Inexact(source) => {
                Some(source.saturating_mul(SPARSE_SHARE) < usize::try_from(rows).ok()?)
            }
            Precision::Absent => None,
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
