//! Makes of each key's changes what the target must do about it: one row per key, or one per changed row of its history.
//!
//! The input is sorted by key within each partition and all rows of a key are in one, so memory holds one key at a time, however
//! long the range; sorting spills.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Field, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr,
    PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements,
    PlanProperties,
};
use futures::{StreamExt, stream};

use super::event::{END, EventLayout, SEQUENCE};
use super::key_groups::{Groups, KeyGroups};
use super::{latest, timeline};
use crate::error::Result;
use crate::merge::RowCounts;

/// Name of the metric that counts keys with changes.
const CHANGED_KEYS: &str = "changed_keys";
/// Name of the metric that counts those of them whose latest change is a delete.
const DELETED_KEYS: &str = "deleted_keys";
/// Name of the metric that counts keys whose changes leave their history as it is.
const UNCHANGED_KEYS: &str = "unchanged_keys";

/// What is made of the changes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// The latest change.
    Latest,
    /// The rows of its history that differ from what is there.
    Timeline,
}

/// Rows that an operator has made, and of how many keys.
pub(super) struct Resolved {
    pub batch: RecordBatch,
    /// Keys with changes, or, for histories, those whose changes change nothing.
    pub counted_keys: usize,
    /// Keys whose latest change is a delete.
    pub deleted_keys: usize,
}

/// Resolves the changes of each key.
#[derive(Debug)]
pub(super) struct ResolveChangesExec {
    input: Arc<dyn ExecutionPlan>,
    layout: Arc<EventLayout>,
    resolution: Resolution,
    /// Whether the statistics of the input say how many rows there are.
    estimated: bool,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ResolveChangesExec {
    /// Resolves events in the columns of `layout`. The result has the layout's columns, the op, the sequence and, for a history,
    /// the end of each row.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        layout: Arc<EventLayout>,
        resolution: Resolution,
    ) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(output_schema(&layout, resolution)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            input,
            layout,
            resolution,
            estimated: true,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same over an input whose statistics are no guide: a join must not take it for the larger side.
    pub(super) fn without_estimate(self) -> Self {
        Self {
            estimated: false,
            ..self
        }
    }

    fn column(&self, index: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.input.schema().field(index).name(), index))
    }
}

/// How many keys had changes that changed nothing, once the plan has run and so many rows have changed.
pub(super) fn ignored_keys(plan: &Arc<dyn ExecutionPlan>, rows: &RowCounts) -> u64 {
    let counted = |name: &str| {
        let metrics = plan
            .downcast_ref::<ResolveChangesExec>()
            .and_then(|_| plan.metrics())?;
        metrics
            .sum_by_name(name)
            .map(|count| count.as_usize() as u64)
    };
    match (counted(CHANGED_KEYS), counted(UNCHANGED_KEYS)) {
        (_, Some(unchanged)) => unchanged,
        (Some(changed), None) => {
            // a TRUNCATE deletes rows without a change of their own
            let deleted = rows.deleted.min(counted(DELETED_KEYS).unwrap_or(0));
            changed.saturating_sub(rows.inserted + rows.updated + deleted)
        }
        (None, None) => plan
            .children()
            .into_iter()
            .map(|child| ignored_keys(child, rows))
            .max()
            .unwrap_or(0),
    }
}

fn output_schema(layout: &EventLayout, resolution: Resolution) -> SchemaRef {
    let mut more = vec![Field::new(SEQUENCE, layout.sequence.clone(), true)];
    if resolution == Resolution::Timeline {
        more.push(Field::new(END, layout.sequence.clone(), true));
    }
    layout.output(more)
}

impl DisplayAs for ResolveChangesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ResolveChangesExec: keys=[{}], {}",
            self.layout.key_names().join(", "),
            match self.resolution {
                Resolution::Latest => "latest change",
                Resolution::Timeline => "history",
            }
        )
    }
}

impl ExecutionPlan for ResolveChangesExec {
    fn name(&self) -> &'static str {
        "ResolveChangesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys = self.layout.keys.iter().map(|index| self.column(*index));
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(keys.collect())])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let layout = &self.layout;
        let order = [layout.version(), layout.ordinal(), layout.sequence()];
        let sorted = layout
            .keys
            .iter()
            .copied()
            .chain(order)
            .map(|index| PhysicalSortExpr::new(self.column(index), SortOptions::default()));
        vec![LexOrdering::new(sorted).map(OrderingRequirements::from)]
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
        let resolve = Self::new(
            children.remove(0),
            Arc::clone(&self.layout),
            self.resolution,
        );
        Ok(Arc::new(Self {
            estimated: self.estimated,
            ..resolve
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let resolver = Resolver {
            groups: KeyGroups::try_new(&self.layout.keys, &self.input.schema())?,
            layout: Arc::clone(&self.layout),
            resolution: self.resolution,
            schema: self.schema(),
            deleted_keys: MetricBuilder::new(&self.metrics).counter(DELETED_KEYS, partition),
            counted_keys: MetricBuilder::new(&self.metrics).counter(
                match self.resolution {
                    Resolution::Latest => CHANGED_KEYS,
                    Resolution::Timeline => UNCHANGED_KEYS,
                },
                partition,
            ),
        };
        let input = self.input.execute(partition, context)?;
        let batches = stream::unfold(Some((resolver, input)), |state| async {
            let (mut resolver, mut input) = state?;
            loop {
                let resolved = match input.next().await {
                    Some(batch) => batch.and_then(|batch| Ok(resolver.push(batch)?)),
                    None => return Some((resolver.finish().transpose()?, None)),
                };
                if let Some(resolved) = resolved.transpose() {
                    return Some((resolved, Some((resolver, input))));
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        if !self.estimated {
            return Ok(Arc::new(Statistics::new_unknown(&self.schema())));
        }
        Ok(Arc::new(Statistics {
            num_rows: inputs[0].num_rows.to_inexact(),
            total_byte_size: inputs[0].total_byte_size.to_inexact(),
            ..Statistics::new_unknown(&self.schema())
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The work on one partition.
struct Resolver {
    groups: KeyGroups,
    layout: Arc<EventLayout>,
    resolution: Resolution,
    schema: SchemaRef,
    counted_keys: Count,
    deleted_keys: Count,
}

impl Resolver {
    fn push(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>> {
        let groups = self.groups.push(batch)?;
        self.resolve(groups)
    }

    fn finish(&mut self) -> DataFusionResult<Option<RecordBatch>> {
        let groups = self.groups.finish()?;
        Ok(self.resolve(groups)?)
    }

    fn resolve(&self, groups: Option<Groups>) -> Result<Option<RecordBatch>> {
        let Some(groups) = groups else {
            return Ok(None);
        };
        let resolved = match self.resolution {
            Resolution::Latest => latest::resolve(&self.layout, &groups, &self.schema)?,
            Resolution::Timeline => timeline::resolve(&self.layout, &groups, &self.schema)?,
        };
        self.counted_keys.add(resolved.counted_keys);
        self.deleted_keys.add(resolved.deleted_keys);
        Ok(Some(resolved.batch))
    }
}
