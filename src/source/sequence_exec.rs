//! Runs the plans of several versions one after the other, so that no more than one of them takes memory at once.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{TryStreamExt, stream};

/// One plan for each version.
#[derive(Debug)]
pub(super) struct SequenceExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// What is shown of them.
    label: String,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SequenceExec {
    /// Runs `inputs`, which have the columns of `schema` and perhaps more after them. Which of these can be NULL, the schema says.
    pub(super) fn new(
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        schema: SchemaRef,
        label: String,
    ) -> Self {
        let partitions = inputs.iter().map(partitions).max().unwrap_or(1);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            inputs,
            label,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().output_partitioning().partition_count()
}

impl DisplayAs for SequenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "SequenceExec: {}", self.label)
    }
}

impl ExecutionPlan for SequenceExec {
    fn name(&self) -> &'static str {
        "SequenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(
            children,
            self.schema(),
            self.label.clone(),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let inputs = self.inputs.iter();
        let inputs = inputs.filter(|input| partition < partitions(input));
        let inputs: Vec<Arc<dyn ExecutionPlan>> = inputs.map(Arc::clone).collect();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let schema = self.schema();
        let started = inputs
            .into_iter()
            .map(move |input| input.execute(partition, Arc::clone(&context)));
        let batches = stream::iter(started).try_flatten().map_ok(move |batch| {
            metrics.record_output(batch.num_rows());
            batch
        });
        let relabelled = Arc::clone(&schema);
        let batches = batches
            .and_then(move |batch| std::future::ready(relabel(&batch, Arc::clone(&relabelled))));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn child_stats_requests(&self, _: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(None); self.inputs.len()]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        arguments: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        let unknown = Statistics::new_unknown(&self.schema());
        if arguments.partition().is_some() {
            return Ok(Arc::new(unknown));
        }
        let sum = |size: &dyn Fn(&Statistics) -> Precision<usize>| {
            let sizes = inputs.iter().map(|input| size(input));
            sizes.fold(Precision::Inexact(0), |sum, size| sum.add(&size))
        };
        Ok(Arc::new(Statistics {
            num_rows: sum(&|input| input.num_rows),
            total_byte_size: sum(&|input| input.total_byte_size),
            ..unknown
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The columns of a schema, and its word on which of them can be NULL.
fn relabel(batch: &RecordBatch, schema: SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let columns = batch.columns().iter().take(schema.fields().len());
    let columns = columns.map(Arc::clone).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let relabelled = RecordBatch::try_new_with_options(schema, columns, &options);
    Ok(relabelled?)
}
