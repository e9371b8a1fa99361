//! The data source that our scan hands to DataFusion: a `FileScanConfig` with a guard around it.
//!
//! The wrapper has three reasons. DataFusion's protobuf of the bare node drops row selections and virtual columns, which would
//! bring deleted rows back: the wrapper does not serialise. EXPLAIN shows the table and what was pruned instead of file names.
//! And a join can hand its keys over between planning and reading, see [`RuntimePruning`].

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::{DataSource, DataSourceExec, OpenArgs};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SortOrderPushdownResult,
};
use futures::{TryStreamExt, stream};
use url::Url;

/// Decides about a file when its turn comes, with what is known only then.
pub(crate) trait RuntimePruning: fmt::Debug + Send + Sync {
    /// Whether the file with these statistics (data columns, then partition columns) may hold a row that is wanted.
    fn may_match(&self, statistics: &Statistics) -> bool;
}

/// Which version of which table a scan reads; no version for a scan of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedVersion {
    pub location: Url,
    pub version: Option<i64>,
}

/// The versions of the table at `location` that a plan reads.
pub(crate) fn versions_read(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> BTreeSet<i64> {
    let mut versions = BTreeSet::new();
    let mut pending = vec![Arc::clone(plan)];
    while let Some(node) = pending.pop() {
        let source = node
            .downcast_ref::<DataSourceExec>()
            .and_then(|scan| scan.data_source().downcast_ref::<DeltaSource>());
        let read = source
            .map(|source| &source.read)
            .or_else(|| node.downcast_ref::<EmptyScan>().map(|empty| &empty.read));
        versions.extend(
            read.filter(|read| read.location == *location)
                .and_then(|read| read.version),
        );
        pending.extend(node.children().into_iter().cloned());
    }
    versions
}

/// A scan of the files of one Delta table.
#[derive(Debug, Clone)]
pub(crate) struct DeltaSource {
    inner: Arc<dyn DataSource>,
    read: ScannedVersion,
    description: Arc<str>,
    pruning: Option<Arc<dyn RuntimePruning>>,
}

impl DeltaSource {
    /// Wraps the scan of those of `total` files that planning has left.
    pub(crate) fn new(
        config: FileScanConfig,
        table: &str,
        total: usize,
        read: ScannedVersion,
        pruning: Option<Arc<dyn RuntimePruning>>,
    ) -> Self {
        let left: usize = config.file_groups.iter().map(FileGroup::len).sum();
        let description = format!("delta={table}, files={left} of {total}").into();
        Self {
            inner: Arc::new(config),
            read,
            description,
            pruning,
        }
    }

    fn wrap(&self, inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            ..self.clone()
        })
    }

    fn config(&self) -> Option<&FileScanConfig> {
        self.inner.downcast_ref::<FileScanConfig>()
    }
}

/// Whether a filter is about a floating-point column.
pub(super) fn mentions_float(filter: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let columns = collect_columns(filter);
    columns
        .iter()
        .any(|column| schema.field(column.index()).data_type().is_floating())
}

/// The partition with the files that the join's keys rule out left out; called when the first row is asked for.
fn pruned(
    config: &FileScanConfig,
    partition: usize,
    pruning: &dyn RuntimePruning,
) -> FileScanConfig {
    let mut config = config.clone();
    let files = config.file_groups[partition].files();
    let kept = files.iter().filter(|file| {
        file.statistics
            .as_ref()
            .is_none_or(|statistics| pruning.may_match(statistics))
    });
    config.file_groups[partition] = FileGroup::new(kept.cloned().collect());
    config
}

impl DataSource for DeltaSource {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        let (Some(pruning), Some(config)) = (&self.pruning, self.config()) else {
            return self.inner.open_with_args(args);
        };
        let (config, pruning) = (config.clone(), Arc::clone(pruning));
        let schema = config.projected_schema()?;
        let opened = async move {
            pruned(&config, args.partition, pruning.as_ref())
                .open_with_args(OpenArgs::new(args.partition, args.context))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            stream::once(opened).try_flatten(),
        )))
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        // the shared queue would hand out files before the keys are known
        if self.pruning.is_some() {
            None
        } else {
            self.inner.create_sibling_state(config)
        }
    }

    fn fmt_as(&self, t: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description)?;
        let Some(config) = self.config() else {
            return Ok(());
        };
        if t == DisplayFormatType::TreeRender {
            return writeln!(f);
        }
        if let Ok(schema) = config.projected_schema() {
            let names: Vec<&str> = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            write!(f, ", projection=[{}]", names.join(", "))?;
        }
        if let Some(limit) = config.limit {
            write!(f, ", limit={limit}")?;
        }
        if self.pruning.is_some() {
            write!(f, ", pruned_by=join keys")?;
        }
        config.file_source().fmt_extra(t, f)
    }

    fn repartitioned(
        &self,
        target: usize,
        min_size: usize,
        ordering: Option<LexOrdering>,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(self
            .inner
            .repartitioned(target, min_size, ordering)?
            .map(|inner| self.wrap(inner)))
    }

    fn output_partitioning(&self) -> Partitioning {
        self.inner.output_partitioning()
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.inner.eq_properties()
    }

    fn scheduling_type(&self) -> datafusion::physical_plan::execution_plan::SchedulingType {
        self.inner.scheduling_type()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        self.inner.with_fetch(limit).map(|inner| self.wrap(inner))
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(self
            .inner
            .try_swapping_with_projection(projection)?
            .map(|inner| self.wrap(inner)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        // bounds of floats leave NaN out: no filter on one may prune
        let schema = Arc::clone(self.eq_properties().schema());
        let (mut taken, mut answers) = (Vec::new(), vec![PushedDown::No; filters.len()]);
        for (index, filter) in filters.into_iter().enumerate() {
            if !mentions_float(&filter, &schema) {
                taken.push((index, filter));
            }
        }
        let (indices, filters): (Vec<usize>, Vec<_>) = taken.into_iter().unzip();
        let mut result = self.inner.try_pushdown_filters(filters, config)?;
        for (index, answer) in indices.into_iter().zip(result.filters) {
            answers[index] = answer;
        }
        result.filters = answers;
        result.updated_node = result.updated_node.map(|inner| self.wrap(inner));
        Ok(result)
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        Ok(match self.inner.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact {
                inner: self.wrap(inner),
            },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact {
                inner: self.wrap(inner),
            },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_preserve_order(preserve_order)
            .map(|inner| self.wrap(inner))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_new_state(state)
            .map(|inner| self.wrap(inner))
    }
}

/// A scan that has no file to read, and yet says what it would have read.
#[derive(Debug)]
pub(crate) struct EmptyScan {
    read: ScannedVersion,
    properties: Arc<PlanProperties>,
}

impl EmptyScan {
    /// No rows of this schema.
    pub(crate) fn new(schema: SchemaRef, read: ScannedVersion) -> Self {
        let empty = EmptyExec::new(schema);
        Self {
            read,
            properties: Arc::clone(empty.properties()),
        }
    }
}

impl DisplayAs for EmptyScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "EmptyScan")
    }
}

impl ExecutionPlan for EmptyScan {
    fn name(&self) -> &'static str {
        "EmptyScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        EmptyExec::new(self.schema()).execute(partition, context)
    }

    #[expect(
        deprecated,
        reason = "the replacement is given the context by the optimizer only"
    )]
    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        EmptyExec::new(self.schema()).partition_statistics(partition)
    }
}
