//! Evens out what the writers get: the rows of small writes become one file and not one for each partition, and the rows that a join
//! gives out at once, as no row matches them, are written by all partitions.
//!
//! ```text
//!  few rows      held back ── end ── left to the partition that ends last
//!  more          let go, the rest is passed on: this partition fills files of its own
//!  large batch   cut into ranges ── whoever is free takes the next one, so that each file has rows that stood together
//! ```
//!
//! A partition that has ended waits for ranges until all have ended, or failed: the partitions must be executed side by side.

use std::collections::VecDeque;
use std::fmt::{self, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Partitioning, PhysicalExpr};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::row_format::FILE;

/// A range of rows that is worth a writer of its own.
const RANGE_ROWS: usize = 64 << 10;
/// What a partition holds back, in memory.
const SMALL_BYTES: usize = 16 << 20;

/// Moves rows from partitions with few of them to one, and from one with a large batch to those that have none.
#[derive(Debug)]
pub(crate) struct GatherExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    execution: Mutex<Execution>,
}

/// An execution, and how many of its partitions have begun: the plan may be executed again, also after one that failed.
#[derive(Debug)]
struct Execution {
    shared: Arc<Shared>,
    begun: usize,
    /// Tells executions apart, of which one may have failed before all partitions had begun.
    context: Weak<TaskContext>,
}

/// What the partitions of one execution hand to each other.
#[derive(Debug)]
struct Shared {
    /// How many partitions there are.
    partitions: usize,
    state: Mutex<State>,
    /// There are new ranges, or all partitions have ended.
    news: Notify,
}

#[derive(Debug)]
struct State {
    /// The rows of partitions that had few.
    left: Vec<RecordBatch>,
    /// Parts of large batches that nobody has taken yet.
    ranges: VecDeque<RecordBatch>,
    /// Partitions whose input has not ended.
    unfinished: usize,
}

/// A partition whose input has not ended; it has when this is dropped, as it is when the partition fails.
#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    has_ended: bool,
}

impl Member {
    /// Leaves these rows; to the last partition all of them are given.
    fn end(mut self, rows: Vec<RecordBatch>) -> Vec<RecordBatch> {
        self.has_ended = true;
        self.shared.end(rows)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.has_ended {
            drop(self.shared.end(vec![]));
        }
    }
}

/// What a partition that has ended does next.
enum Next {
    Write(RecordBatch),
    Wait,
    End,
}

impl Shared {
    fn new(partitions: usize) -> Arc<Self> {
        Arc::new(Self {
            partitions,
            state: Mutex::new(State {
                left: vec![],
                ranges: VecDeque::new(),
                unfinished: partitions,
            }),
            news: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, rows: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let mut state = self.state();
        state.left.extend(rows);
        state.unfinished = state.unfinished.saturating_sub(1);
        if state.unfinished > 0 {
            return vec![];
        }
        self.news.notify_waiters();
        std::mem::take(&mut state.left)
    }

    /// The first of the ranges of a large batch, the others are for whoever is free; the batch itself if it is none.
    fn cut(&self, batch: RecordBatch) -> RecordBatch {
        let rows = batch.num_rows();
        let ranges = self.partitions.min(rows / RANGE_ROWS);
        if ranges < 2 || !are_inserts(&batch) {
            return batch;
        }
        let bound = |range: usize| rows * range / ranges;
        let range = |range| batch.slice(bound(range), bound(range + 1) - bound(range));
        self.state().ranges.extend((1..ranges).map(range));
        self.news.notify_waiters();
        range(0)
    }

    fn has_ranges(&self) -> bool {
        !self.state().ranges.is_empty()
    }

    fn take(&self) -> Option<RecordBatch> {
        self.state().ranges.pop_front()
    }

    fn next(&self) -> Next {
        let mut state = self.state();
        match state.ranges.pop_front() {
            Some(range) => Next::Write(range),
            None if state.unfinished == 0 => Next::End,
            None => Next::Wait,
        }
    }

    /// The ranges that come up until all partitions have ended.
    fn help(self: Arc<Self>) -> Rows {
        let next = |shared: Arc<Self>| async move {
            loop {
                // registered before it is looked whether to wait, so that nothing is missed in between
                let news = shared.news.notified();
                match shared.next() {
                    Next::Write(range) => return Some((Ok(range), Arc::clone(&shared))),
                    Next::End => return None,
                    Next::Wait => news.await,
                }
            }
        };
        stream::unfold(self, next).boxed()
    }
}

/// Whether the rows are new ones: those of files stay together, lest a row that comes twice be overlooked.
fn are_inserts(rows: &RecordBatch) -> bool {
    rows.column_by_name(FILE)
        .is_none_or(|file| file.logical_null_count() == rows.num_rows())
}

impl GatherExec {
    /// Evens out the rows of `input` over at least `partitions`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, partitions: usize) -> Self {
        let inputs = input.properties().output_partitioning().partition_count();
        let partitions = partitions.max(inputs);
        let properties = PlanProperties::clone(input.properties());
        Self {
            properties: Arc::new(
                properties.with_partitioning(Partitioning::UnknownPartitioning(partitions)),
            ),
            input,
            execution: Mutex::new(Execution {
                shared: Shared::new(partitions),
                begun: 0,
                context: Weak::new(),
            }),
        }
    }

    /// Begins a partition.
    fn member(&self, context: &Arc<TaskContext>) -> Member {
        let execution = self.execution.lock();
        let mut execution = execution.unwrap_or_else(PoisonError::into_inner);
        let is_same = execution.context.as_ptr() == Arc::as_ptr(context);
        if !is_same || execution.begun == self.partitions() {
            *execution = Execution {
                shared: Shared::new(self.partitions()),
                begun: 0,
                context: Arc::downgrade(context),
            };
        }
        execution.begun += 1;
        Member {
            shared: Arc::clone(&execution.shared),
            has_ended: false,
        }
    }

    fn partitions(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }
}

impl DisplayAs for GatherExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "GatherExec")
    }
}

impl ExecutionPlan for GatherExec {
    fn name(&self) -> &'static str {
        "GatherExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        Ok(Arc::new(Self::new(children.remove(0), self.partitions())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let member = self.member(&context);
        let inputs = self.input.properties().output_partitioning();
        let input = match partition < inputs.partition_count() {
            true => self.input.execute(partition, context)?,
            false => Box::pin(EmptyRecordBatchStream::new(self.schema())),
        };
        let gathered = async move { gather(input, member).await };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream::once(gathered).try_flatten(),
        )))
    }
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

async fn gather(mut input: SendableRecordBatchStream, member: Member) -> Result<Rows> {
    let (mut held, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = input.next().await {
        let batch = batch?;
        bytes += batch.get_array_memory_size();
        held.push(batch);
        if bytes > SMALL_BYTES {
            let shared = Arc::clone(&member.shared);
            let rows = evened_out(batches(held).chain(input).boxed(), shared);
            // what others have left may be for this one to take along
            let rest = stream::once(async move { rest(vec![], member) }).flatten();
            return Ok(rows.chain(rest).boxed());
        }
    }
    Ok(rest(held, member))
}

/// What a partition that has ended writes: the rows that are left, if it is the last one, and ranges of others.
fn rest(held: Vec<RecordBatch>, member: Member) -> Rows {
    let shared = Arc::clone(&member.shared);
    batches(member.end(held)).chain(shared.help()).boxed()
}

/// The rows of one partition, large batches cut into ranges that others may take.
fn evened_out(rows: Rows, shared: Arc<Shared>) -> Rows {
    let next = |(mut rows, shared): (Rows, Arc<Shared>)| async move {
        if let Some(range) = shared.take() {
            return Ok(Some((range, (rows, shared))));
        }
        match rows.try_next().await? {
            Some(batch) => {
                let range = shared.cut(batch);
                if shared.has_ranges() {
                    // whom this thread has woken it runs itself, but not while it encodes
                    yield_now().await;
                }
                Ok(Some((range, (rows, shared))))
            }
            None => Ok(None),
        }
    };
    stream::try_unfold((rows, shared), next).boxed()
}

fn batches(rows: Vec<RecordBatch>) -> impl Stream<Item = Result<RecordBatch>> + Send {
    stream::iter(rows.into_iter().map(Ok))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::catalog::memory::MemorySourceConfig;
    use datafusion::physical_plan::collect_partitioned;

    use super::*;

    fn rows(count: usize) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![7; count]));
        RecordBatch::try_from_iter([("v", values)]).unwrap()
    }

    fn input(partitions: &[usize]) -> Arc<dyn ExecutionPlan> {
        let batches: Vec<_> = partitions.iter().map(|count| vec![rows(*count)]).collect();
        MemorySourceConfig::try_new_exec(&batches, rows(0).schema(), None).unwrap()
    }

    async fn check(partitions: &[usize], writers: usize, expected: &[usize]) {
        let input = input(partitions);
        let gathered = collect_partitioned(
            Arc::new(GatherExec::new(input, writers)),
            Arc::new(TaskContext::default()),
        );
        let counts = gathered.await.unwrap().into_iter().map(|batches| {
            let rows = batches.iter().map(RecordBatch::num_rows);
            rows.sum::<usize>()
        });
        let mut counts: Vec<usize> = counts.filter(|count| *count > 0).collect();
        counts.sort_unstable();
        assert_eq!(counts, expected);
    }

    #[tokio::test]
    async fn few_rows_come_out_of_one_partition() {
        check(&[1, 2, 3], 1, &[6]).await;
        check(&[], 1, &[]).await;
        check(&[1, 2], 3, &[3]).await;
    }

    #[tokio::test]
    async fn nobody_waits_for_a_partition_that_failed() {
        let gather = GatherExec::new(input(&[1, 2]), 3);
        let context = Arc::new(TaskContext::default());
        drop(gather.execute(0, Arc::clone(&context)).unwrap());
        let rest = [1, 2].map(|partition| {
            let stream = gather.execute(partition, Arc::clone(&context)).unwrap();
            tokio::spawn(stream.try_collect::<Vec<_>>())
        });
        let mut rows = 0;
        for partition in rest {
            let batches = partition.await.unwrap().unwrap();
            rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        }
        assert_eq!(rows, 2);
    }

    /// Who takes how many ranges is up to the threads, but none gets lost and none comes twice.
    #[tokio::test]
    async fn a_large_batch_is_cut_for_all() {
        let many = 4 * RANGE_ROWS + 7;
        let batch = rows(many);
        let shared = Shared::new(4);
        let first = shared.cut(batch.clone());
        let mut cut = vec![first];
        cut.extend(std::iter::from_fn(|| shared.take()));
        assert_eq!(cut.len(), 4);
        assert_eq!(
            arrow::compute::concat_batches(&batch.schema(), &cut).unwrap(),
            batch
        );
        assert_eq!(shared.cut(rows(RANGE_ROWS)).num_rows(), RANGE_ROWS);

        let large = SMALL_BYTES / size_of::<i64>() + 1;
        let gather: Arc<dyn ExecutionPlan> = Arc::new(GatherExec::new(input(&[large, 5]), 3));
        for _ in 0..2 {
            let context = Arc::new(TaskContext::default());
            let gathered = collect_partitioned(Arc::clone(&gather), context).await;
            let batches = gathered.unwrap().into_iter().flatten();
            assert_eq!(
                batches.map(|batch| batch.num_rows()).sum::<usize>(),
                large + 5
            );
        }
    }
}
