//! Files that were set aside as a whole: rows of `"t$rejected"`, or only a number in a report.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream;

use super::mark::{MarkedFile, Marking, RejectedRow};
use super::mark_exec::Wanted;
use super::rejected::rejected_batch;
use super::scan::ScannedFile;
use crate::error::Result;

/// Returns one row for each file, without a row number, where such rows are wanted, and none otherwise.
#[derive(Debug)]
pub(super) struct SetAsideExec {
    marking: Marking,
    rows: Vec<RecordBatch>,
    wanted: Wanted,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SetAsideExec {
    /// The files that could not be read as what they should be.
    pub(super) fn try_new(files: &[ScannedFile], marking: Marking, wanted: Wanted) -> Result<Self> {
        let rows = files.iter().map(set_aside);
        let schema = wanted.schema(&marking.schema);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            rows: rows.collect::<Result<_>>()?,
            marking,
            wanted,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

fn set_aside(file: &ScannedFile) -> Result<RecordBatch> {
    let marked = MarkedFile {
        version: file.file.version,
        path: Arc::clone(&file.file.path),
        e_tag: None,
        time: file.file.time,
        has_marker: false,
        columns: Arc::new([]),
    };
    let row = RejectedRow {
        row: 0,
        reason: file.shape.unreadable.clone().unwrap_or_default(),
        raw: String::new(),
    };
    rejected_batch(&marked, &[row])
}

impl DisplayAs for SetAsideExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let (source, files) = (&self.marking.name, self.rows.len());
        write!(f, "SetAsideExec: source={source}, files={files}")
    }
}

impl ExecutionPlan for SetAsideExec {
    fn name(&self) -> &'static str {
        "SetAsideExec"
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
        _: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let rejected = self.marking.rejected(&self.metrics, partition);
        rejected.add(self.rows.len());
        let rows = match self.wanted {
            Wanted::Changes => vec![],
            Wanted::Rejected => self.rows.clone(),
        };
        let rows = stream::iter(rows.into_iter().map(Ok));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
