//! Passes rows on and makes sure that no two have the same key, at the price of eight bytes a row.
//!
//! A first copy, and an INSERT into a tracked table, have no use for sorting: their rows have different keys, or something is wrong.
//! So 64 bits of each key are kept, the key itself where it is an integer, and looked through for equal ones at the end. Equal bits
//! end the statement with [`RepeatedKeys`], as a NULL does where there may be none; what is wrong, the slower way finds out.

use std::fmt::{self, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch};
use arrow::compute::kernels::cmp::{distinct, eq};
use arrow::compute::{and, cast, filter, or};
use arrow::datatypes::{DataType, Int8Type, Int64Type};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};

use super::row_format::RowAction;
use crate::error::{Error, Result};

/// Two rows may have the same key, or one has none, or there is no memory to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rows lack a key or share one, or there was no memory to make sure; report the statement")]
pub(crate) struct RepeatedKeys;

impl RepeatedKeys {
    /// Whether that is what went wrong.
    pub(crate) fn is_cause_of(error: &Error) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        if let Error::DataFusion(inner) = error {
            source = Some(inner.find_root());
        }
        while let Some(error) = source {
            if error.is::<Self>() {
                return true;
            }
            if let Some(DataFusionError::External(inner)) = error.downcast_ref::<DataFusionError>()
                && inner.is::<Self>()
            {
                return true;
            }
            source = error.source();
        }
        false
    }
}

/// The keys of the partitions that are done, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Done(Arc<Mutex<Vec<SortedKeys>>>);

pub(super) type SortedKeys = (Vec<u64>, MemoryReservation);

impl Done {
    fn lock(&self) -> MutexGuard<'_, Vec<SortedKeys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 64 bits of every key, in lists that are sorted, and what they hold of the memory.
    pub(super) fn take(&self) -> Vec<SortedKeys> {
        std::mem::take(&mut *self.lock())
    }
}

/// Which row changes put a key where none was: inserts, and updates that change it.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    /// The column with the [`RowAction`].
    pub action: usize,
    /// The columns of the present keys; empty where they are not known, so that each update counts.
    pub present: Vec<usize>,
}

impl Moved {
    fn select(&self, batch: &RecordBatch, keys: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        let actions = batch.column(self.action).as_primitive::<Int8Type>();
        let is = |action: RowAction| eq(actions, &Int8Array::new_scalar(action as i8));
        let mut changed = BooleanArray::from(vec![self.present.is_empty(); batch.num_rows()]);
        for (key, present) in keys.iter().zip(&self.present) {
            changed = or(&changed, &distinct(key, batch.column(*present))?)?;
        }
        let updated = or(&is(RowAction::Update)?, &is(RowAction::UpdateBySource)?)?;
        let updated = and(&updated, &changed)?;
        let moved = or(&is(RowAction::Insert)?, &updated)?;
        let selected = keys.iter().map(|key| filter(key, &moved));
        Ok(selected.collect::<Result<_, _>>()?)
    }
}

/// Checks that keys are there and differ.
#[derive(Debug)]
pub(crate) struct UniqueKeysExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<usize>,
    /// Which rows are looked at where these are row changes; all others.
    moved: Option<Moved>,
    not_null: Vec<usize>,
    done: Done,
    unfinished: Arc<AtomicUsize>,
    metrics: ExecutionPlanMetricsSet,
}

impl UniqueKeysExec {
    /// Checks the columns `keys` of `input`, and that there is no NULL in `not_null`.
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<usize>,
        not_null: Vec<usize>,
    ) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            input,
            keys,
            moved: None,
            not_null,
            done: Done::default(),
            unfinished: Arc::new(AtomicUsize::new(partitions)),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Looks only at these of the rows.
    pub(super) fn of_moved(self, moved: Moved) -> Self {
        Self {
            moved: Some(moved),
            ..self
        }
    }

    /// The keys that have passed, once all have.
    pub(super) fn seen(&self) -> Done {
        self.done.clone()
    }
}

impl DisplayAs for UniqueKeysExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let schema = self.input.schema();
        let names = self
            .keys
            .iter()
            .map(|index| schema.field(*index).name().as_str());
        write!(
            f,
            "UniqueKeysExec: keys=[{}]",
            names.collect::<Vec<_>>().join(", ")
        )
    }
}

impl ExecutionPlan for UniqueKeysExec {
    fn name(&self) -> &'static str {
        "UniqueKeysExec"
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
        _: &mut dyn FnMut(
            &Arc<dyn datafusion::physical_expr::PhysicalExpr>,
        ) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let mut replaced = Self::new(children.remove(0), self.keys.clone(), self.not_null.clone());
        // who waits for the keys waits for those of this one
        replaced.done = self.done.clone();
        replaced.moved.clone_from(&self.moved);
        Ok(Arc::new(replaced))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let check = Check {
            keys: self.keys.clone(),
            moved: self.moved.clone(),
            not_null: self.not_null.clone(),
            seen: vec![],
            reservation: MemoryConsumer::new("UniqueKeysExec").register(context.memory_pool()),
            done: self.done.clone(),
            unfinished: Arc::clone(&self.unfinished),
            rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let input = self.input.execute(partition, context)?;
        let schema = self.schema();
        let batches = stream::unfold(Some((check, input)), |state| async {
            let (mut check, mut input) = state?;
            match input.next().await {
                Some(batch) => {
                    let checked = batch.and_then(|batch| {
                        check.add(&batch)?;
                        Ok(batch)
                    });
                    Some((checked, Some((check, input))))
                }
                None => check.finish().err().map(|error| (Err(error.into()), None)),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The work on one partition.
struct Check {
    keys: Vec<usize>,
    moved: Option<Moved>,
    not_null: Vec<usize>,
    seen: Vec<u64>,
    reservation: MemoryReservation,
    done: Done,
    unfinished: Arc<AtomicUsize>,
    rows: Count,
}

impl Check {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows.add(batch.num_rows());
        let keys = self.keys.iter().map(|index| batch.column(*index));
        let mut keys: Vec<ArrayRef> = keys.map(Arc::clone).collect();
        if let Some(moved) = &self.moved {
            keys = moved.select(batch, keys)?;
        }
        let rows = keys.first().map_or(0, |key| key.len());
        if self
            .not_null
            .iter()
            .any(|index| batch.column(*index).null_count() > 0)
        {
            return Err(repeated());
        }
        if self.seen.len() + rows > self.seen.capacity() {
            let more = self.seen.capacity().max(rows);
            self.reservation
                .try_grow(more * size_of::<u64>())
                .map_err(|_| repeated())?;
            self.seen.reserve_exact(more);
        }
        key_bits(&keys, &mut self.seen)
    }

    fn finish(mut self) -> Result<()> {
        self.seen.sort_unstable();
        if has_repeated(&self.seen) {
            return Err(repeated());
        }
        let mut done = self.done.lock();
        done.push((self.seen, self.reservation));
        let is_last = self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last && have_common(&done) {
            return Err(repeated());
        }
        Ok(())
    }
}

/// Appends 64 bits of each row's key: the key itself where it is an integer, else a hash.
pub(super) fn key_bits(keys: &[ArrayRef], bits: &mut Vec<u64>) -> Result<()> {
    match keys {
        [only] if is_small_integer(only.data_type()) => {
            let values = cast(only, &DataType::Int64)?;
            let values = values.as_primitive::<Int64Type>().values();
            bits.extend(values.iter().map(|value| value.cast_unsigned()));
        }
        _ => {
            let (start, rows) = (bits.len(), keys.first().map_or(0, |key| key.len()));
            bits.resize(start + rows, 0);
            create_hashes(keys, &RandomState::with_seed(0), &mut bits[start..])?;
        }
    }
    Ok(())
}

/// What stands for equal bits.
pub(super) fn repeated() -> Error {
    DataFusionError::External(Box::new(RepeatedKeys)).into()
}

/// Whether the bits of a key of this type are the key itself.
pub(super) fn is_small_integer(data_type: &DataType) -> bool {
    data_type.is_integer() && *data_type != DataType::UInt64
}

fn has_repeated(sorted: &[u64]) -> bool {
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// Whether any two of the lists, each sorted and without repetition, have a value in common.
fn have_common(lists: &[(Vec<u64>, MemoryReservation)]) -> bool {
    lists.iter().enumerate().any(|(index, (left, _))| {
        lists[..index]
            .iter()
            .any(|(right, _)| have_common_value(left, right))
    })
}

fn have_common_value(left: &[u64], right: &[u64]) -> bool {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        match first.cmp(second) {
            std::cmp::Ordering::Less => left.next(),
            std::cmp::Ordering::Greater => right.next(),
            std::cmp::Ordering::Equal => return true,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_values_are_found() {
        assert!(have_common_value(&[1, 5, 9], &[2, 9]));
        assert!(!have_common_value(&[1, 5, 9], &[2, 6, 10]));
        assert!(!have_common_value(&[], &[1]));
        assert!(has_repeated(&[1, 2, 2]));
    }

    #[test]
    fn the_cause_is_found_however_it_is_wrapped() {
        let wrapped = DataFusionError::Context("a".into(), Box::new(repeated().into()));
        assert!(RepeatedKeys::is_cause_of(&wrapped.into()));
        assert!(!RepeatedKeys::is_cause_of(&Error::invalid("x")));
    }
}
