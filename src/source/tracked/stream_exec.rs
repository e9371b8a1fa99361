//! A stream of batches as a plan: what a remote system answers, or a log tells, asked when the plan runs.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

use crate::error::{Error, Result};

/// Begins a stream; called once for each run of the plan.
type Open = dyn Fn(Arc<TaskContext>) -> Result<SendableRecordBatchStream> + Send + Sync;

/// Reads a stream, in one partition.
pub(crate) struct StreamExec {
    open: Arc<Open>,
    shown: String,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl StreamExec {
    /// Reads what `open` returns, whose columns are those of `schema`. EXPLAIN shows `shown`, what will be asked, without secrets.
    pub(crate) fn new(
        schema: SchemaRef,
        shown: impl Into<String>,
        open: impl Fn(Arc<TaskContext>) -> Result<SendableRecordBatchStream> + Send + Sync + 'static,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            open: Arc::new(open),
            shown: shown.into(),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same plan, whose rows come in ascending order of the column with this index.
    pub(crate) fn sorted_by(self, index: usize) -> Self {
        let schema = self.schema();
        let column: Arc<dyn PhysicalExpr> =
            Arc::new(Column::new(schema.field(index).name(), index));
        let order = [PhysicalSortExpr::new(
            column,
            SortOptions::new(false, false),
        )];
        let ordered = EquivalenceProperties::new_with_orderings(schema, [order]);
        let properties = self.properties.as_ref().clone();
        Self {
            properties: Arc::new(properties.with_eq_properties(ordered)),
            ..self
        }
    }
}

impl fmt::Debug for StreamExec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamExec")
            .field("shown", &self.shown)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for StreamExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "StreamExec: {}", self.shown)
    }
}

impl ExecutionPlan for StreamExec {
    fn name(&self) -> &'static str {
        "StreamExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let schema = self.schema();
        let batches = (self.open)(context)?;
        check_columns(&schema, &batches.schema())?;
        let batches = batches.inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Refuses an answer with other columns than were asked for: those above would read it as something else.
fn check_columns(asked: &Schema, answered: &Schema) -> Result<()> {
    let columns = |schema: &Schema| {
        let columns = schema.fields().iter();
        let columns = columns.map(|field| format!("{} {}", field.name(), field.data_type()));
        columns.collect::<Vec<_>>().join(", ")
    };
    let (asked, answered) = (columns(asked), columns(answered));
    if asked == answered {
        return Ok(());
    }
    Err(Error::internal(format!(
        "asked for the columns {asked}, a source has answered with {answered}"
    )))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field};
    use datafusion::physical_plan::{collect, displayable};
    use futures::{StreamExt, stream};

    use super::*;

    /// Two batches of three rows in all, in a column `id`.
    fn plan(asked: DataType) -> Arc<dyn ExecutionPlan> {
        let batch = |ids: Vec<i64>| {
            let ids: ArrayRef = Arc::new(Int64Array::from(ids));
            RecordBatch::try_from_iter([("id", ids)]).unwrap()
        };
        let batches = vec![batch(vec![1, 2]), batch(vec![3])];
        let schema = Arc::new(Schema::new(vec![Field::new("id", asked, true)]));
        Arc::new(StreamExec::new(schema, "SELECT id FROM t", move |_| {
            let schema = batches[0].schema();
            let batches = stream::iter(batches.clone()).map(Ok);
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
        }))
    }

    #[tokio::test]
    async fn rows_are_read_at_each_run_and_counted() {
        let plan = plan(DataType::Int64);
        for run in 1..=2 {
            let batches = collect(Arc::clone(&plan), Arc::default()).await.unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
            assert_eq!(plan.metrics().unwrap().output_rows(), Some(3 * run));
        }
        let shown = displayable(plan.as_ref()).one_line().to_string();
        assert_eq!(shown.trim(), "StreamExec: SELECT id FROM t");
    }

    #[tokio::test]
    async fn other_columns_are_refused() {
        let error = collect(plan(DataType::Utf8), Arc::default()).await;
        let error = error.unwrap_err().to_string();
        let expected = "asked for the columns id Utf8, a source has answered with id Int64";
        assert!(error.contains(expected), "{error}");
    }
}
