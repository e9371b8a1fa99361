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

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::error::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};

use crate::delta::scan_source::RuntimePruning;

/// Beyond so many keys nearly every file holds one: pruning is given up.
const MAX_KEYS: usize = 4_000_000;

/// How many rows a source is taken to have that says nothing of itself.
const GUESSED_ROWS: usize = 1000;

/// A pair of columns that the join compares for equality.
#[derive(Debug, Clone)]
pub(crate) struct KeyColumn {
    /// Position in the source.
    pub source: usize,
    /// Position in the statistics of the target's files.
    pub statistics: usize,
    pub kind: KeyKind,
}

/// How keys of a column are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Integer,
    Text,
}

impl KeyKind {
    /// The kind of a pair of columns; `None` where their statistics are no help.
    pub(crate) fn of(source: &DataType, target: &DataType) -> Option<Self> {
        match (Self::of_type(source)?, Self::of_type(target)?) {
            (Self::Integer, Self::Integer) if source.is_integer() == target.is_integer() => {
                Some(Self::Integer)
            }
            (Self::Text, Self::Text) => Some(Self::Text),
            _ => None,
        }
    }

    fn of_type(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Date32 => Some(Self::Integer),
            DataType::UInt64 => None,
            other if other.is_integer() => Some(Self::Integer),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            _ => None,
        }
    }
}

/// The keys of a join's source, once they are known.
#[derive(Debug)]
pub(crate) struct KeyPruning {
    columns: Vec<KeyColumn>,
    collecting: Mutex<Vec<Keys>>,
    published: OnceLock<Vec<Keys>>,
    /// The plan is executed again: its source may give other keys, so none are known any more.
    repeated: AtomicBool,
}

#[derive(Debug, Clone)]
enum Keys {
    Integers(Vec<i64>),
    Texts(Vec<String>),
    TooMany,
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
        let mut keys = Keys::Integers(sorted);
        keys.sort();
        let known = Self::new(vec![column]);
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
        let mut all = std::mem::take(
            &mut *self
                .collecting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        all.iter_mut().for_each(Keys::sort);
        let _ = self.published.set(all);
    }
}

impl RuntimePruning for KeyPruning {
    fn may_match(&self, statistics: &Statistics) -> bool {
        let Some(published) = self
            .published
            .get()
            .filter(|_| !self.repeated.load(Ordering::Acquire))
        else {
            return true;
        };
        self.columns.iter().zip(published).all(|(column, keys)| {
            match statistics.column_statistics.get(column.statistics) {
                Some(file) => keys.any_between(&file.min_value, &file.max_value),
                None => true,
            }
        })
    }
}

impl Keys {
    fn new(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Integer => Self::Integers(vec![]),
            KeyKind::Text => Self::Texts(vec![]),
        }
    }

    fn extend(&mut self, array: &ArrayRef) -> Result<()> {
        match self {
            Self::Integers(keys) => {
                let values = match array.data_type() {
                    DataType::Date32 => cast(&cast(array, &DataType::Int32)?, &DataType::Int64)?,
                    _ => cast(array, &DataType::Int64)?,
                };
                keys.extend(values.as_primitive::<Int64Type>().iter().flatten());
            }
            Self::Texts(keys) => {
                let values = cast(array, &DataType::Utf8)?;
                keys.extend(
                    values
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .map(str::to_owned),
                );
            }
            Self::TooMany => {}
        }
        self.give_up_if_too_many();
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Integers(all), Self::Integers(more)) => all.extend(more),
            (Self::Texts(all), Self::Texts(more)) => all.extend(more),
            (this, _) => *this = Self::TooMany,
        }
        self.give_up_if_too_many();
    }

    fn give_up_if_too_many(&mut self) {
        let count = match self {
            Self::Integers(keys) => keys.len(),
            Self::Texts(keys) => keys.len(),
            Self::TooMany => 0,
        };
        if count > MAX_KEYS {
            *self = Self::TooMany;
        }
    }

    fn sort(&mut self) {
        match self {
            Self::Integers(keys) => {
                keys.sort_unstable();
                keys.dedup();
            }
            Self::Texts(keys) => {
                keys.sort_unstable();
                keys.dedup();
            }
            Self::TooMany => {}
        }
    }

    fn any_between(&self, low: &Precision<ScalarValue>, high: &Precision<ScalarValue>) -> bool {
        let (Some(low), Some(high)) = (low.get_value(), high.get_value()) else {
            return true;
        };
        match self {
            Self::Integers(keys) => match (integer(low), integer(high)) {
                (Some(low), Some(high)) => keys
                    .get(keys.partition_point(|key| *key < low))
                    .is_some_and(|key| *key <= high),
                _ => true,
            },
            Self::Texts(keys) => match (low.try_as_str().flatten(), high.try_as_str().flatten()) {
                (Some(low), Some(high)) => keys
                    .get(keys.partition_point(|key| key.as_str() < low))
                    .is_some_and(|key| key.as_str() <= high),
                _ => true,
            },
            Self::TooMany => true,
        }
    }
}

fn integer(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int8(value) => value.map(i64::from),
        ScalarValue::Int16(value) => value.map(i64::from),
        ScalarValue::Int32(value) | ScalarValue::Date32(value) => value.map(i64::from),
        ScalarValue::Int64(value) => *value,
        _ => None,
    }
}

/// Passes its input through and publishes its keys when all of it has passed.
#[derive(Debug)]
pub(crate) struct KeyCollectExec {
    input: Arc<dyn ExecutionPlan>,
    pruning: Arc<KeyPruning>,
    unfinished: Arc<AtomicUsize>,
}

impl KeyCollectExec {
    /// Collects the columns that `pruning` names from `input`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, pruning: Arc<KeyPruning>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            input,
            pruning,
            unfinished: Arc::new(AtomicUsize::new(partitions)),
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
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[i64], low: i64, high: i64, expected: bool) {
        let mut keys = Keys::Integers(keys.to_vec());
        keys.sort();
        let exact = |value| Precision::Exact(ScalarValue::Int64(Some(value)));
        assert_eq!(
            keys.any_between(&exact(low), &exact(high)),
            expected,
            "{keys:?} in {low}..={high}"
        );
    }

    #[test]
    fn a_file_between_two_clusters_of_keys_is_left_alone() {
        check(&[1, 2, 900], 0, 10, true);
        check(&[1, 2, 900], 3, 899, false);
        check(&[1, 2, 900], 900, 1000, true);
        check(&[], 0, 10, false);
    }
}
