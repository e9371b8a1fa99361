//! Handing a join's keys to the scan of its other side.
//!
//! A hash join reads its build side before its probe side. [`KeyCollectExec`] looks at the build side's key columns as they pass
//! and publishes the sorted keys when the last row has passed; the scan then opens only files in whose range a key lies. A range
//! from the lowest to the highest key would not do: two clusters of keys at both ends of a table would open all of it.

use std::fmt::{self, Formatter};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, binary, in_list, lit};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};

use super::key_set::{IsKey, KeySet};
use super::keys::{KeyKind, Keys};
use crate::delta::scan_source::{RowPredicate, RuntimePruning};

/// Below this share of the rows, filtering inside the Parquet reader pays: the other columns of the rest are not decoded.
const SPARSE_SHARE: usize = 20;
/// How many ranges stand for the keys where a test of each would not help: for row groups and pages.
const RANGES: usize = 32;
/// So few keys are looked for one by one, in bloom filters, too; DataFusion looks for no more.
const FEW: usize = 20;

/// The metric that counts the rows that have passed.
const SOURCE_ROWS: &str = "source_rows";

/// How many rows a source is taken to have that says nothing of itself.
const GUESSED_ROWS: usize = 1000;

/// A pair of columns that the join compares for equality.
#[derive(Debug, Clone)]
pub(crate) struct KeyColumn {
    /// Position in the source.
    pub source: usize,
    /// Position in the target.
    pub target: usize,
    /// Position in the statistics of the target's files.
    pub statistics: usize,
    /// Whether it stands in the files, as partition columns do not.
    pub in_files: bool,
    pub kind: KeyKind,
}

/// The keys of a join's source, once they are known.
#[derive(Debug)]
pub(crate) struct KeyPruning {
    columns: Vec<KeyColumn>,
    collecting: Mutex<Vec<Keys>>,
    published: OnceLock<Vec<KnownKeys>>,
    /// The plan is executed again: its source may give other keys, so none are known any more.
    repeated: AtomicBool,
}

impl KeyPruning {
    /// Waits for the keys of these columns.
    pub(crate) fn new(columns: Vec<KeyColumn>) -> Self {
        let collecting = columns
            .iter()
            .map(|column| Keys::new(column.kind))
            .collect();
        Self {
            columns,
            collecting: Mutex::new(collecting),
            published: OnceLock::new(),
            repeated: AtomicBool::new(false),
        }
    }

    /// The keys of one column of integers, which are known already.
    pub(crate) fn known(column: KeyColumn, sorted: Vec<i64>) -> Self {
        let known = Self::new(vec![column]);
        let keys = KnownKeys::new(Keys::Integers(sorted));
        let _ = known.published.set(vec![keys]);
        known
    }

    fn add(&self, local: Vec<Keys>) {
        let mut all = self
            .collecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (all, local) in all.iter_mut().zip(local) {
            all.merge(local);
        }
    }

    fn publish(&self) {
        let all = std::mem::take(
            &mut *self
                .collecting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let known = all.into_iter().map(KnownKeys::new).collect();
        let _ = self.published.set(known);
    }
}

impl KeyPruning {
    fn known_keys(&self) -> Option<&Vec<KnownKeys>> {
        let published = self.published.get();
        published.filter(|_| !self.repeated.load(Ordering::Acquire))
    }
}

/// What is known of the keys of one column.
#[derive(Debug)]
struct KnownKeys {
    keys: Keys,
    /// Made when rows are asked for one by one.
    set: OnceLock<Option<Arc<KeySet>>>,
}

impl KnownKeys {
    fn new(mut keys: Keys) -> Self {
        keys.sort();
        Self {
            keys,
            set: OnceLock::new(),
        }
    }

    fn set(&self) -> Option<Arc<KeySet>> {
        self.set
            .get_or_init(|| self.keys.set().map(Arc::new))
            .clone()
    }
}

/// The ranges in which the values of `column` have to lie to be keys, for row groups and pages; `None` where that says nothing.
fn in_ranges(
    column: &KeyColumn,
    keys: &Keys,
    schema: &Schema,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let field = schema.field(column.statistics);
    let value: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), column.statistics));
    let bound = |position| keys.value(position, field.data_type());
    let ranges = keys.ranges(RANGES);
    if keys.count() == Some(0) {
        return Ok(Some(lit(false)));
    }
    if let Some(few) = keys.count().filter(|count| *count <= FEW) {
        let values = (0..few).map(|position| Ok(lit(bound(position)?)));
        let values = values.collect::<Result<Vec<_>>>()?;
        return Ok(Some(in_list(value, values, &false, schema)?));
    }
    let mut all: Option<Arc<dyn PhysicalExpr>> = None;
    for (first, last) in ranges {
        let compare = |operator, position| {
            binary(Arc::clone(&value), operator, lit(bound(position)?), schema)
        };
        let (low, high) = (
            compare(Operator::GtEq, first)?,
            compare(Operator::LtEq, last)?,
        );
        let range = binary(low, Operator::And, high, schema)?;
        all = Some(match all {
            Some(all) => binary(all, Operator::Or, range, schema)?,
            None => range,
        });
    }
    Ok(all)
}

impl RuntimePruning for KeyPruning {
    fn predicate(&self, schema: &Schema, rows: Option<usize>) -> Option<RowPredicate> {
        let known = self.columns.iter().zip(self.known_keys()?);
        let known: Vec<_> = known.filter(|(column, _)| column.in_files).collect();
        let fewest = known
            .iter()
            .filter_map(|(_, known)| known.keys.count())
            .min()?;
        let sparse = rows.is_some_and(|rows| fewest.saturating_mul(SPARSE_SHARE) < rows);
        let (mut parts, mut ranges) = (Vec::new(), Vec::new());
        for (column, known) in known {
            ranges.extend(in_ranges(column, &known.keys, schema).ok().flatten());
            if let Some(keys) = known.set().filter(|_| sparse) {
                let name = schema.field(column.statistics).name();
                let value = Arc::new(Column::new(name, column.statistics));
                parts.push(Arc::new(IsKey::new(value, keys)) as Arc<dyn PhysicalExpr>);
            }
        }
        // the ranges are for row groups and pages: the few rows that get as far as them pass
        parts.extend(ranges);
        let expression = parts.into_iter().reduce(|both, part| {
            Arc::new(BinaryExpr::new(both, Operator::And, part)) as Arc<dyn PhysicalExpr>
        })?;
        Some(RowPredicate { expression, sparse })
    }

    fn may_match(&self, statistics: &Statistics) -> bool {
        let Some(published) = self.known_keys() else {
            return true;
        };
        self.columns.iter().zip(published).all(|(column, keys)| {
            match statistics.column_statistics.get(column.statistics) {
                Some(file) => keys.keys.any_between(&file.min_value, &file.max_value),
                None => true,
            }
        })
    }
}

/// Passes its input through and publishes its keys when all of it has passed.
#[derive(Debug)]
pub(crate) struct KeyCollectExec {
    input: Arc<dyn ExecutionPlan>,
    pruning: Arc<KeyPruning>,
    unfinished: Arc<AtomicUsize>,
    metrics: ExecutionPlanMetricsSet,
}

/// How many rows the sources in a plan have had so far.
pub(crate) fn source_rows(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.downcast_ref::<KeyCollectExec>().and_then(|source| {
        let rows = source.metrics.clone_inner().sum_by_name(SOURCE_ROWS)?;
        u64::try_from(rows.as_usize()).ok()
    });
    let below: u64 = plan.children().into_iter().map(source_rows).sum();
    own.unwrap_or(0) + below
}

impl KeyCollectExec {
    /// Collects the columns that `pruning` names from `input`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, pruning: Arc<KeyPruning>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            input,
            pruning,
            unfinished: Arc::new(AtomicUsize::new(partitions)),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for KeyCollectExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let schema = self.input.schema();
        let names: Vec<&str> = self
            .pruning
            .columns
            .iter()
            .map(|column| schema.field(column.source).name().as_str())
            .collect();
        write!(f, "KeyCollectExec: keys=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for KeyCollectExec {
    fn name(&self) -> &'static str {
        "KeyCollectExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(
            children.remove(0),
            Arc::clone(&self.pruning),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if self.pruning.published.get().is_some() {
            self.pruning.repeated.store(true, Ordering::Release);
        }
        let local = self
            .pruning
            .columns
            .iter()
            .map(|column| Keys::new(column.kind))
            .collect();
        Ok(Box::pin(KeyCollectStream {
            input: self.input.execute(partition, context)?,
            pruning: Arc::clone(&self.pruning),
            unfinished: Arc::clone(&self.unfinished),
            local: Some(local),
            rows: MetricBuilder::new(&self.metrics).counter(SOURCE_ROWS, partition),
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        if inputs[0].num_rows != Precision::Absent {
            return Ok(Arc::clone(&inputs[0]));
        }
        // of a side that nobody knows anything about a join would not build its table, and its keys would come too late
        let mut guess = inputs[0].as_ref().clone();
        guess.num_rows = Precision::Inexact(GUESSED_ROWS);
        guess.total_byte_size = Precision::Inexact(GUESSED_ROWS);
        Ok(Arc::new(guess))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}

struct KeyCollectStream {
    input: SendableRecordBatchStream,
    pruning: Arc<KeyPruning>,
    unfinished: Arc<AtomicUsize>,
    local: Option<Vec<Keys>>,
    rows: Count,
}

impl KeyCollectStream {
    fn take_keys(&mut self, batch: &RecordBatch) -> Result<()> {
        for (column, keys) in self
            .pruning
            .columns
            .iter()
            .zip(self.local.iter_mut().flatten())
        {
            keys.extend(batch.column(column.source))?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        let Some(local) = self.local.take() else {
            return;
        };
        self.pruning.add(local);
        let before = self
            .unfinished
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                count.checked_sub(1)
            });
        if before == Ok(1) {
            self.pruning.publish();
        }
    }
}

impl Stream for KeyCollectStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.input.poll_next_unpin(context);
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                let batch = batch.clone();
                self.rows.add(batch.num_rows());
                if let Err(error) = self.take_keys(&batch) {
                    return Poll::Ready(Some(Err(error)));
                }
            }
            Poll::Ready(None) => self.finish(),
            _ => {}
        }
        polled
    }
}

impl RecordBatchStream for KeyCollectStream {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
