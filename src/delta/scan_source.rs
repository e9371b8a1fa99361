//! The data source that our scan hands to DataFusion: a `FileScanConfig` with a guard around it.
//!
//! The wrapper has four reasons. DataFusion's protobuf of the bare node drops row selections and virtual columns, which would
//! bring deleted rows back: the wrapper does not serialise. EXPLAIN shows the table and what was pruned instead of file names.
//! A join can hand its keys over between planning and reading, see [`RuntimePruning`]. And files have no statistics before they
//! are opened or sorted, see [`LogStatistics`].

use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Formatter};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::{DataSource, DataSourceExec, OpenArgs};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, DynamicFilterTracking};
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
use object_store::path::Path;
use url::Url;

use super::actions::Add;
use super::scan::{FilePruning, LogStatistics};
use super::stats::live_records;

/// So many files are shared evenly without being cut into pieces, for which DataFusion would copy their list twice.
const MANY_FILES: usize = 10_000;

/// Decides about a file when its turn comes, with what is known only then.
pub(crate) trait RuntimePruning: fmt::Debug + Send + Sync {
    /// Whether the file with these statistics (data columns, then partition columns) may hold a row that is wanted.
    fn may_match(&self, statistics: &Statistics) -> bool;

    /// Which of the table's `rows` are wanted, over the columns of the files; `None` where that cannot be said.
    fn predicate(&self, schema: &Schema, rows: Option<usize>) -> Option<RowPredicate>;
}

/// Which rows are wanted.
#[derive(Debug)]
pub(crate) struct RowPredicate {
    pub expression: Arc<dyn PhysicalExpr>,
    /// Whether so few that the rest is better left out by the Parquet reader: it decodes nothing else of it.
    pub sparse: bool,
}

/// What is wanted of a scan once the other side of a join is known.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub pruning: Arc<dyn RuntimePruning>,
    /// Rows that are wanted whatever the other side is.
    pub anyway: Option<Anyway>,
}

/// Rows that are wanted in any case.
#[derive(Debug, Clone)]
pub(super) struct Anyway {
    pub expression: Arc<dyn PhysicalExpr>,
    /// Tells which files may hold such rows.
    pub files: Arc<FilePruning>,
}

impl Wanted {
    fn may_match(&self, statistics: &Arc<Statistics>) -> bool {
        let holds = |anyway: &Anyway| anyway.files.may_match(statistics);
        self.pruning.may_match(statistics) || self.anyway.as_ref().is_some_and(holds)
    }

    /// The source with what prunes row groups, pages and, where few rows are left, rows.
    fn narrow(&self, source: &ParquetSource, rows: Option<usize>) -> Option<ParquetSource> {
        let schema = source.table_schema().schema_without_virtual_columns();
        let RowPredicate { expression, sparse } = self.pruning.predicate(schema, rows)?;
        let wanted = match &self.anyway {
            Some(anyway) => or(expression, Arc::clone(&anyway.expression)),
            None => expression,
        };
        let wanted = match source.filter() {
            // what is in the source is asked of the rows that are left
            Some(filter) => and(wanted, filter),
            None => wanted,
        };
        // a filter that the source has taken over is evaluated nowhere else
        let pushed = source.table_parquet_options().global.pushdown_filters;
        Some(
            source
                .with_predicate(wanted)
                .with_pushdown_filters(pushed || (sparse && self.anyway.is_none())),
        )
    }
}

fn and(left: Arc<dyn PhysicalExpr>, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, Operator::And, right))
}

fn or(left: Arc<dyn PhysicalExpr>, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, Operator::Or, right))
}

/// How many files of a table's newest version the scans in a plan have opened so far.
pub(crate) fn files_opened(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> usize {
    let scan = plan
        .downcast_ref::<DataSourceExec>()
        .and_then(|scan| scan.data_source().downcast_ref::<DeltaSource>())
        .filter(|source| source.read.location == *location && source.read.version.is_some());
    let below = plan.children().into_iter();
    let below: usize = below.map(|child| files_opened(child, location)).sum();
    below + scan.map_or(0, |source| lock(&source.opened).len())
}

/// What planning has left of a table's version to be scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FilesLeft {
    pub files: u64,
    pub bytes: u64,
    /// Absent where a file does not say.
    pub rows: Option<usize>,
}

/// What the scans of a version of the table at `location` have left in a plan.
pub(crate) fn files_left(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> FilesLeft {
    let mut files = HashMap::new();
    collect_files(plan, location, &mut files);
    FilesLeft {
        files: files.len() as u64,
        bytes: files.values().map(|(bytes, _)| bytes).sum(),
        rows: files.values().map(|(_, rows)| *rows).sum(),
    }
}

/// The files, each once, with their bytes and rows.
fn collect_files(
    plan: &Arc<dyn ExecutionPlan>,
    location: &Url,
    files: &mut HashMap<Path, (u64, Option<usize>)>,
) {
    let config = plan
        .downcast_ref::<DataSourceExec>()
        .and_then(|scan| scan.data_source().downcast_ref::<DeltaSource>())
        .filter(|source| source.read.location == *location && source.read.version.is_some())
        .and_then(DeltaSource::config);
    let groups = config.into_iter().flat_map(|config| &config.file_groups);
    for file in groups.flat_map(FileGroup::files) {
        let rows = file.extension::<Add>().and_then(live_records);
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let (meta, size) = (&file.object_meta, file.object_meta.size);
        files.insert(meta.location.clone(), (size, rows));
    }
    for child in plan.children() {
        collect_files(child, location, files);
    }
}

fn lock(opened: &Mutex<HashSet<Path>>) -> MutexGuard<'_, HashSet<Path>> {
    opened.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which version of which table a scan reads; no version for a scan of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedVersion {
    pub location: Url,
    pub version: Option<i64>,
}

/// The versions of the table at `location` that a plan reads.
pub(crate) fn versions_read(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> BTreeSet<i64> {
    reads_of(plan, location).into_iter().collect()
}

/// How often a plan scans the table at `location`.
pub(crate) fn scans_of(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> usize {
    reads_of(plan, location).len()
}

fn reads_of(plan: &Arc<dyn ExecutionPlan>, location: &Url) -> Vec<i64> {
    let mut versions = Vec::new();
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
    /// What the log says of the files, which have no statistics while they are planned.
    statistics: Arc<LogStatistics>,
    read: ScannedVersion,
    description: Arc<str>,
    wanted: Option<Wanted>,
    opened: Arc<Mutex<HashSet<Path>>>,
}

impl DeltaSource {
    /// Wraps the scan of those of `total` files that planning has left.
    pub(super) fn new(
        config: FileScanConfig,
        statistics: LogStatistics,
        table: &str,
        total: usize,
        read: ScannedVersion,
        wanted: Option<Wanted>,
    ) -> Self {
        let left: usize = config.file_groups.iter().map(FileGroup::len).sum();
        let description = format!("delta={table}, files={left} of {total}").into();
        Self {
            inner: Arc::new(config),
            statistics: Arc::new(statistics),
            read,
            description,
            wanted,
            opened: Arc::default(),
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

    /// The scan with the statistics of the files in these partitions.
    fn described(&self, config: &FileScanConfig, partitions: Range<usize>) -> FileScanConfig {
        let mut config = config.clone();
        for files in &mut config.file_groups[partitions] {
            *files = self.statistics.added_to(files);
        }
        config
    }

    /// The partition without what the join's keys rule out; called when the first row is asked for.
    fn pruned(&self, config: &FileScanConfig, partition: usize, wanted: &Wanted) -> FileScanConfig {
        let kept = config.file_groups[partition].iter().filter_map(|file| {
            let statistics = self.statistics.of(file);
            let known = statistics.as_ref();
            let is_wanted = known.is_none_or(|known| wanted.may_match(known));
            is_wanted.then(|| PartitionedFile {
                statistics,
                ..file.clone()
            })
        });
        let kept: FileGroup = kept.collect();
        let mut config = config.clone();
        config.file_groups[partition] = kept;
        let rows = config.statistics().num_rows.get_value().copied();
        let source = config.file_source().downcast_ref::<ParquetSource>();
        let narrowed = source.and_then(|source| wanted.narrow(source, rows));
        match narrowed {
            Some(narrowed) => FileScanConfigBuilder::from(config)
                .with_source(Arc::new(narrowed))
                .build(),
            None => config,
        }
    }

    /// Counts the files of the partition as opened.
    fn remember(&self, config: &FileScanConfig, partition: usize) {
        let files = config.file_groups[partition].iter();
        lock(&self.opened).extend(files.map(|file| file.object_meta.location.clone()));
    }
}

/// Whether a filter is about a floating-point column.
pub(super) fn mentions_float(filter: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let columns = collect_columns(filter);
    columns
        .iter()
        .any(|column| schema.field(column.index()).data_type().is_floating())
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
        let Some(config) = self.config() else {
            return self.inner.open_with_args(args);
        };
        let partition = args.partition;
        if self.wanted.is_none() {
            self.remember(config, partition);
            // files that the partitions share have been described before
            return match args.sibling_state {
                Some(_) => self.inner.open_with_args(args),
                None => self
                    .described(config, partition..partition + 1)
                    .open_with_args(args),
            };
        }
        let (source, schema) = (self.clone(), config.projected_schema()?);
        let opened = async move {
            let (Some(config), Some(wanted)) = (source.config(), &source.wanted) else {
                return source.inner.open_with_args(args);
            };
            let pruned = source.pruned(config, partition, wanted);
            source.remember(&pruned, partition);
            pruned.open_with_args(OpenArgs::new(partition, args.context))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            stream::once(opened).try_flatten(),
        )))
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        // the shared queue would hand out files before the keys are known
        if self.wanted.is_some() {
            return None;
        }
        match self.config() {
            Some(scan) if !scan.preserve_order => {
                let partitions = 0..scan.file_groups.len();
                let described = self.described(scan, partitions);
                described.create_sibling_state(config)
            }
            _ => self.inner.create_sibling_state(config),
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
        if self.wanted.is_some() {
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
        let is_shared = |config: &FileScanConfig| {
            let files: usize = config.file_groups.iter().map(FileGroup::len).sum();
            files >= MANY_FILES && config.file_groups.len() >= target
        };
        if self.config().is_some_and(is_shared) {
            return Ok(None);
        }
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
            // a join's own filter would ask again, row by row, what its keys have said already
            let is_known = self.wanted.is_some()
                && DynamicFilterTracking::classify(&filter).contains_dynamic_filter();
            if !is_known && !mentions_float(&filter, &schema) {
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
        // files are put in order by their bounds
        let described = self.config().map(|config| {
            let partitions = 0..config.file_groups.len();
            self.described(config, partitions)
        });
        let sorted = match described {
            Some(described) => described.try_pushdown_sort(order)?,
            None => self.inner.try_pushdown_sort(order)?,
        };
        Ok(match sorted {
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
