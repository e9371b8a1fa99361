//! Passes the rows of a dump on and makes sure that no two have the same key, at the price of eight bytes a row.
//!
//! 64 bits of each key are kept and looked through for equal ones when all rows have passed. Where there are any, the keys are
//! read once more: they may be the bits of different keys.

use std::collections::HashSet;
use std::fmt::{self, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion::common::Statistics;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};

use crate::error::{Error, Result};

/// Whose keys they are.
#[derive(Debug, Clone)]
pub(super) struct KeysOf {
    /// What messages call the table.
    pub source: Arc<str>,
    /// The name of the dump.
    pub dump: Arc<str>,
}

/// The keys of the partitions that are done, sorted.
type Done = Arc<Mutex<Vec<(Vec<u64>, MemoryReservation)>>>;

/// Checks that keys differ. NULL is refused where the files are read.
#[derive(Debug)]
pub(super) struct KeysExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<usize>,
    /// Reads the columns of the key once more.
    again: Arc<dyn ExecutionPlan>,
    of: KeysOf,
    done: Done,
    unfinished: Arc<AtomicUsize>,
    metrics: ExecutionPlanMetricsSet,
}

impl KeysExec {
    /// Checks the columns `keys` of `input`, which `again` reads once more where they seem to be equal.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<usize>,
        again: Arc<dyn ExecutionPlan>,
        of: KeysOf,
    ) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            input,
            keys,
            again,
            of,
            done: Done::default(),
            unfinished: Arc::new(AtomicUsize::new(partitions)),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for KeysExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let schema = self.again.schema();
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        write!(
            f,
            "KeysExec: dump={}, keys=[{}]",
            self.of.dump,
            names.join(", ")
        )
    }
}

impl ExecutionPlan for KeysExec {
    fn name(&self) -> &'static str {
        "KeysExec"
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
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(
            children.remove(0),
            self.keys.clone(),
            Arc::clone(&self.again),
            self.of.clone(),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let check = Check {
            keys: self.keys.clone(),
            again: Arc::clone(&self.again),
            of: self.of.clone(),
            seen: vec![],
            reservation: MemoryConsumer::new("KeysExec").register(context.memory_pool()),
            done: Arc::clone(&self.done),
            unfinished: Arc::clone(&self.unfinished),
            context: Arc::clone(&context),
            rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let input = self.input.execute(partition, context)?;
        let schema = self.schema();
        let batches = stream::unfold(Some((check, input)), |state| async move {
            let (mut check, mut input) = state?;
            match input.next().await {
                Some(batch) => {
                    let checked = batch.and_then(|batch| {
                        check.add(&batch)?;
                        Ok(batch)
                    });
                    Some((checked, Some((check, input))))
                }
                None => {
                    let finished = check.finish().await;
                    finished.err().map(|error| (Err(error.into()), None))
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The work on one partition.
struct Check {
    keys: Vec<usize>,
    again: Arc<dyn ExecutionPlan>,
    of: KeysOf,
    seen: Vec<u64>,
    reservation: MemoryReservation,
    done: Done,
    unfinished: Arc<AtomicUsize>,
    context: Arc<TaskContext>,
    rows: Count,
}

impl Check {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        self.rows.add(rows);
        if self.seen.len() + rows > self.seen.capacity() {
            let more = self.seen.capacity().max(rows);
            self.reservation.try_grow(more * size_of::<u64>())?;
            self.seen.reserve_exact(more);
        }
        let keys = self.keys.iter().map(|index| batch.column(*index));
        let keys: Vec<ArrayRef> = keys.map(Arc::clone).collect();
        add_hashes(&mut self.seen, &keys)
    }

    async fn finish(mut self) -> Result<()> {
        self.seen.sort_unstable();
        let lists = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((self.seen, self.reservation));
            if self.unfinished.fetch_sub(1, Ordering::AcqRel) != 1 {
                return Ok(());
            }
            std::mem::take(&mut *done)
        };
        let suspects = repeated(&lists);
        drop(lists);
        if suspects.is_empty() {
            return Ok(());
        }
        match repeated_key(&self.again, &suspects, &self.context).await? {
            None => Ok(()),
            Some(key) => Err(Error::invalid(format!(
                "DUPLICATE_KEY: the dump {:?} of {} has more than one row with the key ({key}), and a key tells the rows of a dump apart; mend the \
                 dump, or name more columns in the option key",
                self.of.dump, self.of.source
            ))),
        }
    }
}

/// 64 bits of each key, added to those that are there.
fn add_hashes(hashes: &mut Vec<u64>, keys: &[ArrayRef]) -> Result<()> {
    let start = hashes.len();
    let rows = keys.first().map_or(0, |column| column.len());
    hashes.resize(start + rows, 0);
    create_hashes(keys, &RandomState::with_seed(0), &mut hashes[start..])?;
    Ok(())
}

/// The values that are there more than once, in lists that are each sorted.
fn repeated(lists: &[(Vec<u64>, MemoryReservation)]) -> HashSet<u64> {
    let mut found = HashSet::new();
    for (index, (list, _)) in lists.iter().enumerate() {
        let pairs = list.windows(2).filter(|pair| pair[0] == pair[1]);
        found.extend(pairs.map(|pair| pair[0]));
        for (before, _) in &lists[..index] {
            add_common(&mut found, before, list);
        }
    }
    found
}

fn add_common(found: &mut HashSet<u64>, left: &[u64], right: &[u64]) {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        match first.cmp(second) {
            std::cmp::Ordering::Less => left.next(),
            std::cmp::Ordering::Greater => right.next(),
            std::cmp::Ordering::Equal => {
                found.insert(**first);
                left.next()
            }
        };
    }
}

/// The first key that is there more than once, as messages show it, of those whose bits are suspect.
async fn repeated_key(
    again: &Arc<dyn ExecutionPlan>,
    suspects: &HashSet<u64>,
    context: &Arc<TaskContext>,
) -> Result<Option<String>> {
    let schema = again.schema();
    let types = schema.fields().iter().map(|field| field.data_type());
    let types = types.map(|data_type| SortField::new(data_type.clone()));
    let converter = RowConverter::new(types.collect())?;
    let mut met: HashSet<OwnedRow> = HashSet::new();
    for partition in 0..again.properties().output_partitioning().partition_count() {
        let mut batches = again.execute(partition, Arc::clone(context))?;
        while let Some(batch) = batches.next().await {
            let batch = suspect_rows(&batch?, suspects)?;
            let rows = converter.convert_columns(batch.columns())?;
            for (index, row) in rows.iter().enumerate() {
                if !met.insert(row.owned()) {
                    return shown(&batch, index).map(Some);
                }
            }
        }
    }
    Ok(None)
}

fn suspect_rows(batch: &RecordBatch, suspects: &HashSet<u64>) -> Result<RecordBatch> {
    let mut hashes = Vec::with_capacity(batch.num_rows());
    add_hashes(&mut hashes, batch.columns())?;
    let is_suspect: BooleanArray = hashes
        .iter()
        .map(|hash| Some(suspects.contains(hash)))
        .collect();
    Ok(filter_record_batch(batch, &is_suspect)?)
}

/// A key as `a = 1, b = x`.
fn shown(keys: &RecordBatch, row: usize) -> Result<String> {
    let schema = keys.schema();
    let values = schema.fields().iter().zip(keys.columns());
    let values = values.map(|(field, column)| {
        let value = array_value_to_string(column, row)?;
        Ok(format!("{} = {value}", field.name()))
    });
    Ok(values.collect::<Result<Vec<_>>>()?.join(", "))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;

    use super::*;

    fn rows(ids: &[i64], names: &[&str]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids.to_vec())),
            Arc::new(StringArray::from(names.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    async fn check(partitions: Vec<Vec<RecordBatch>>, keys: &[usize], expected: Option<&str>) {
        let schema = rows(&[], &[]).schema();
        let plan = |projection: Option<Vec<usize>>| {
            let schema = Arc::clone(&schema);
            MemorySourceConfig::try_new_exec(&partitions, schema, projection).unwrap()
        };
        let of = KeysOf {
            source: "s".into(),
            dump: "d".into(),
        };
        let again = plan(Some(keys.to_vec()));
        let checked = KeysExec::new(plan(None), keys.to_vec(), again, of);
        let context = SessionContext::new().task_ctx();
        let found = collect(Arc::new(checked), context).await;
        let found = found.map_err(|error| error.to_string()).err();
        match (&found, expected) {
            (None, None) => {}
            (Some(error), Some(part)) => assert!(error.contains(part), "{error}"),
            _ => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[tokio::test]
    async fn equal_keys_are_named() {
        let first = rows(&[1, 2], &["a", "b"]);
        check(vec![vec![first.clone()]], &[0], None).await;
        let other = rows(&[3, 1], &["c", "c"]);
        let both = vec![vec![first.clone()], vec![other.clone()]];
        check(
            both.clone(),
            &[0],
            Some("has more than one row with the key (id = 1)"),
        )
        .await;
        check(both, &[0, 1], None).await;
        let one = vec![vec![first.clone(), other.clone()]];
        check(one, &[0], Some("the dump \"d\" of s")).await;
        check(vec![vec![other]], &[1], Some("(name = c)")).await;
        let twice = vec![vec![first.clone()], vec![first]];
        check(twice, &[0, 1], Some("name = ")).await;
    }

    #[test]
    fn common_values_are_found() {
        let check = |left: &[u64], right: &[u64], expected: &[u64]| {
            let mut found = HashSet::new();
            add_common(&mut found, left, right);
            let expected: HashSet<u64> = expected.iter().copied().collect();
            assert_eq!(found, expected);
        };
        check(&[1, 5, 9], &[2, 9], &[9]);
        check(&[1, 5, 9], &[2, 6, 10], &[]);
        check(&[1, 1, 2], &[1, 2], &[1, 2]);
        check(&[], &[1], &[]);
    }
}
