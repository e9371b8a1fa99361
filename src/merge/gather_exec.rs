//! Brings the rows of small writes together, so that they become one file and not one for each partition.
//!
//! Every partition holds its first rows back. One that gets more than a few lets them go and passes the rest on: it fills files of
//! its own. One that ends before leaves its rows to the partition that ends last.

use std::fmt::{self, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};

/// What a partition holds back, in memory.
const SMALL_BYTES: usize = 16 << 20;

/// Moves the rows of partitions with few of them to one partition.
#[derive(Debug)]
pub(crate) struct GatherExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    left: Arc<Left>,
}

/// What partitions have left behind.
#[derive(Debug)]
struct Left {
    rows: Mutex<Vec<RecordBatch>>,
    partitions: usize,
    unfinished: AtomicUsize,
}

impl Left {
    /// Leaves these rows; to the last partition all of them are given.
    fn finish(&self, rows: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let mut all = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(rows);
        match self.unfinished.fetch_sub(1, Ordering::AcqRel) {
            1 => {
                // the plan may be executed again
                self.unfinished.store(self.partitions, Ordering::Release);
                std::mem::take(&mut *all)
            }
            _ => vec![],
        }
    }
}

impl GatherExec {
    /// Gathers the rows of `input`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self {
            properties: Arc::clone(input.properties()),
            input,
            left: Arc::new(Left {
                rows: Mutex::default(),
                partitions,
                unfinished: AtomicUsize::new(partitions),
            }),
        }
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
        Ok(Arc::new(Self::new(children.remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let left = Arc::clone(&self.left);
        let gathered = async move { gather(input, left).await };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream::once(gathered).try_flatten(),
        )))
    }
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

async fn gather(mut input: SendableRecordBatchStream, left: Arc<Left>) -> Result<Rows> {
    let (mut held, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = input.next().await {
        let batch = batch?;
        bytes += batch.get_array_memory_size();
        held.push(batch);
        if bytes > SMALL_BYTES {
            let rows = batches(held).chain(input);
            // what others have left may be for this one to take along
            let rest = stream::once(async move { batches(left.finish(vec![])) }).flatten();
            return Ok(rows.chain(rest).boxed());
        }
    }
    Ok(batches(left.finish(held)).boxed())
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

    async fn check(partitions: &[usize], expected: &[usize]) {
        let batches: Vec<_> = partitions.iter().map(|count| vec![rows(*count)]).collect();
        let input = MemorySourceConfig::try_new_exec(&batches, rows(0).schema(), None).unwrap();
        let gathered = collect_partitioned(
            Arc::new(GatherExec::new(input)),
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
        let many = SMALL_BYTES / size_of::<i64>() + 1;
        check(&[1, 2, 3], &[6]).await;
        check(&[], &[]).await;
        check(&[many, many], &[many, many]).await;
    }
}
