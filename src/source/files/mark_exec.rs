//! Marks the rows of Parquet files as they come from DataFusion's own reader.
//!
//! Every batch that comes in is of one file or of several that follow each other; its second last column is the version and its
//! last the row's number in the file, from 0.

use std::collections::HashMap;
use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricsSet,
};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::fit::fit;
use super::mark::{MarkedFile, Marking, RowNumbers};
use super::named_readers::OpenedFiles;
use super::rejected::{rejected_batch, rejected_schema};
use crate::error::{Error, Result};

/// The files of a scan, by version.
pub(super) type MarkedFiles = Arc<HashMap<i64, MarkedFile>>;

/// What a node returns of the rows that it marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The rows that can be understood.
    Changes,
    /// Those that are set aside.
    Rejected,
}

impl Wanted {
    /// The columns that come of it, where those of changes are `changes`.
    pub(super) fn schema(self, changes: &SchemaRef) -> SchemaRef {
        match self {
            Self::Changes => Arc::clone(changes),
            Self::Rejected => rejected_schema(),
        }
    }
}

/// Marks rows.
#[derive(Debug)]
pub(super) struct MarkExec {
    input: Arc<dyn ExecutionPlan>,
    marking: Arc<Marking>,
    files: MarkedFiles,
    /// The columns as the source holds them, where the files have other types.
    fitted: Option<SchemaRef>,
    wanted: Wanted,
    opened: Arc<OpenedFiles>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl MarkExec {
    /// Marks what `input` returns of `files`.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        marking: Arc<Marking>,
        files: MarkedFiles,
        fitted: Option<SchemaRef>,
        wanted: Wanted,
        opened: Arc<OpenedFiles>,
    ) -> Self {
        let schema = wanted.schema(&marking.schema);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.properties().output_partitioning().clone(),
            input.properties().emission_type,
            input.properties().boundedness,
        );
        Self {
            input,
            marking,
            files,
            fitted,
            wanted,
            opened,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for MarkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MarkExec: source={}, files={}, marker={}",
            self.marking.name,
            self.files.len(),
            self.marking.options.marker
        )
    }
}

impl ExecutionPlan for MarkExec {
    fn name(&self) -> &'static str {
        "MarkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    // the columns above are not those below: a sort must not be moved through
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
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
            Arc::clone(&self.marking),
            Arc::clone(&self.files),
            self.fitted.clone(),
            self.wanted,
            Arc::clone(&self.opened),
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let marker = Marker {
            marking: Arc::clone(&self.marking),
            files: Arc::clone(&self.files),
            fitted: self.fitted.clone(),
            wanted: self.wanted,
            metrics: BaselineMetrics::new(&self.metrics, partition),
            rejected: self.marking.rejected(&self.metrics, partition),
        };
        let input = self.input.execute(partition, context)?;
        let opened = Arc::clone(&self.opened);
        let batches = input
            .map(move |batch| {
                let batch = batch.map_err(|error| {
                    let files = opened.names(partition);
                    let doing = format!("reading {files} of {}", marker.marking.name);
                    error.context(doing)
                })?;
                let marked = marker.mark(&batch)?;
                Ok::<_, DataFusionError>(stream::iter(marked).map(Ok))
            })
            .try_flatten();
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
struct Marker {
    marking: Arc<Marking>,
    files: MarkedFiles,
    fitted: Option<SchemaRef>,
    wanted: Wanted,
    metrics: BaselineMetrics,
    rejected: Count,
}

impl Marker {
    /// A batch for each file that `batch` has rows of.
    fn mark(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let _timer = self.metrics.elapsed_compute().timer();
        let versions = batch
            .column(batch.num_columns() - 2)
            .as_primitive::<Int64Type>()
            .values();
        let mut marked = Vec::with_capacity(1);
        let mut start = 0;
        while start < versions.len() {
            let version = versions[start];
            // files follow each other: where first and last are of one, all are
            let length = if versions[versions.len() - 1] == version {
                versions.len() - start
            } else {
                let rows = versions[start..].iter();
                rows.take_while(|other| **other == version).count()
            };
            marked.extend(self.mark_rows(version, &batch.slice(start, length))?);
            start += length;
        }
        Ok(marked)
    }

    fn mark_rows(&self, version: i64, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let file = self
            .files
            .get(&version)
            .ok_or_else(|| Error::internal(format!("version {version} is not in the scan")))?;
        let numbers = batch
            .column(batch.num_columns() - 1)
            .as_primitive::<Int64Type>();
        let data: Vec<usize> = (0..batch.num_columns() - 2).collect();
        let data = batch.project(&data)?;
        let (data, misfits) = match &self.fitted {
            Some(wanted) => fit(&data, wanted)?,
            None => (data, vec![]),
        };
        let marked = self
            .marking
            .mark(file, &data, RowNumbers::Each(numbers), None, misfits)?;
        self.rejected.add(marked.rejected.len());
        let result = match self.wanted {
            Wanted::Changes => marked.batch,
            Wanted::Rejected => rejected_batch(file, &marked.rejected)?,
        };
        self.metrics.record_output(result.num_rows());
        Ok((result.num_rows() > 0).then_some(result))
    }
}
