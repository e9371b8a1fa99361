//! A scan of any number of files in a given order, which takes them a window at a time.
//!
//! ```text
//!  files ── window ── expand: deletion vectors, per-file constants ── one FileScanConfig per lane ── merged by the order ──> rows
//! ```
//!
//! DataFusion's own scan has a description, statistics and metrics of every file before it reads the first one. A long history has
//! tens of thousands of small files: what this scan knows of them is what its [`FileList`] keeps, and only the files of a window
//! are described. Small ones are fetched ahead, many at a time. Files are of several [`Lane`]s, which have the same columns and
//! find them in different places.

use std::any::Any;
use std::fmt::{self, Debug, Formatter};
use std::ops::Range;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source::{DataSource, OpenArgs};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::limit::LimitStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};

use super::lane::{Lane, Window, WindowFile, open_window};
use super::scan::ScanFile;
use super::scan_source::mentions_float;
use crate::error::Error;

/// How many files are described at once.
const WINDOW_FILES: usize = 256;
/// So many windows are made ready at once: the one that is read, and the next.
const WINDOWS_AHEAD: usize = 2;
/// How many files all partitions together look into at once.
const CONCURRENT_READS: usize = 64;
/// So many each of them does at least.
const FEWEST_READS: usize = 4;
/// Files are cut in pieces for several partitions only if they are larger than this.
const SMALLEST_PIECE: u64 = 8 * 1024 * 1024;

/// The files of a scan, in the order in which they are read.
#[async_trait]
pub(crate) trait FileList: Debug + Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// How many bytes one takes.
    fn size(&self, index: usize) -> u64;

    /// What is to be read of one, and by which lane: nothing, or the same file several times with other rows.
    async fn expand(&self, index: usize) -> crate::Result<Vec<(usize, ScanFile)>>;

    /// What to tell when a file that is to be read is not there.
    async fn missing(&self, path: &str) -> Option<Error>;
}

/// A part of a file list, for one partition: whole files, but for pieces of large ones at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    file: usize,
    /// In bytes; absent for a whole file.
    piece: Option<Range<u64>>,
}

/// The scan.
#[derive(Debug, Clone)]
pub(crate) struct StreamedScan {
    lanes: Vec<Lane>,
    files: Arc<dyn FileList>,
    partitions: Arc<Vec<Vec<Slice>>>,
    /// The constant column by whose values the files ascend.
    order: &'static str,
    /// How many rows are wanted.
    limit: Option<usize>,
    /// How many rows there may be.
    rows: Option<usize>,
    description: Arc<str>,
    metrics: ExecutionPlanMetricsSet,
}

impl StreamedScan {
    /// A scan of `files`, in about `target_partitions` partitions; `order` is a column that all lanes have, by which they ascend.
    pub(crate) fn new(
        lanes: Vec<Lane>,
        files: Arc<dyn FileList>,
        order: &'static str,
        target_partitions: usize,
        description: String,
    ) -> Self {
        let sizes: Vec<u64> = (0..files.len()).map(|index| files.size(index)).collect();
        Self {
            lanes,
            partitions: Arc::new(slices(&sizes, target_partitions)),
            files,
            order,
            limit: None,
            rows: None,
            description: description.into(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same scan, which ends after so many rows a partition, and is known to have about so many.
    pub(crate) fn with_rows(self, limit: Option<usize>, rows: Option<usize>) -> Self {
        Self {
            limit,
            rows,
            ..self
        }
    }

    fn schema(&self) -> Result<SchemaRef> {
        self.lanes[0].config.projected_schema()
    }

    fn with_lanes(&self, lanes: Vec<Lane>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            lanes,
            ..self.clone()
        })
    }

    /// The lanes, each with what `change` makes of its source; `None` where one of them cannot.
    fn changed(
        &self,
        change: impl Fn(&Lane) -> Result<Option<Arc<dyn DataSource>>>,
    ) -> Result<Option<Vec<Lane>>> {
        let changed = self.lanes.iter().map(|lane| match change(lane)? {
            Some(source) => lane.with_source(source.as_ref()),
            None => Ok(None),
        });
        changed.collect()
    }

    /// Where the column of the order is in what is read, if it is.
    fn order_index(&self) -> Option<usize> {
        let config = &self.lanes[0].config;
        let wanted = config.file_source().table_schema().table_schema();
        let wanted = wanted.index_of(self.order).ok()?;
        let projection = config.file_source().projection()?;
        projection.as_ref().iter().position(|output| {
            let column = output.expr.downcast_ref::<Column>();
            column.is_some_and(|column| column.index() == wanted)
        })
    }
}

/// Shares the files out by size, in their order. Large files are cut.
fn slices(sizes: &[u64], partitions: usize) -> Vec<Vec<Slice>> {
    let total: u64 = sizes.iter().sum();
    let partitions = partitions.clamp(1, sizes.len().max((total / SMALLEST_PIECE) as usize).max(1));
    let share = (total / partitions as u64).max(1);
    let mut shared: Vec<Vec<Slice>> = vec![vec![]; partitions];
    let (mut partition, mut filled) = (0, 0);
    for (file, size) in sizes.iter().enumerate() {
        let mut start = 0;
        while partition + 1 < partitions && filled + (size - start) > share {
            let end = (start + share.saturating_sub(filled)).min(*size);
            // a cut that leaves little on either side is not worth it
            if end - start >= SMALLEST_PIECE && size - end >= SMALLEST_PIECE {
                shared[partition].push(Slice {
                    file,
                    piece: Some(start..end),
                });
                start = end;
            } else if filled * 2 < share {
                break;
            }
            partition += 1;
            filled = 0;
        }
        let piece = (start > 0).then_some(start..*size);
        shared[partition].push(Slice { file, piece });
        filled += size - start;
        if filled >= share && partition + 1 < partitions {
            partition += 1;
            filled = 0;
        }
    }
    shared.retain(|slices| !slices.is_empty());
    if shared.is_empty() {
        shared.push(vec![]);
    }
    shared
}

/// What a window reads, with what must be fetched for that.
async fn prepare(
    lanes: Vec<Lane>,
    files: Arc<dyn FileList>,
    window: Vec<Slice>,
    at_once: usize,
) -> crate::Result<Vec<Vec<WindowFile>>> {
    let (lanes, files) = (&lanes, &files);
    let described = stream::iter(window).map(|slice| async move {
        let mut described = Vec::new();
        for (lane, file) in files.expand(slice.file).await? {
            let file = lanes[lane].describe(&file, slice.piece.clone()).await?;
            described.push((lane, file));
        }
        Ok::<_, Error>(described)
    });
    let described: Vec<Vec<(usize, WindowFile)>> =
        described.buffered(at_once).try_collect().await?;
    let mut ready: Vec<Vec<WindowFile>> = lanes.iter().map(|_| vec![]).collect();
    for (lane, file) in described.into_iter().flatten() {
        ready[lane].push(file);
    }
    Ok(ready)
}

/// What an error means: a file that is not there has been removed.
async fn explained(files: Arc<dyn FileList>, error: DataFusionError) -> DataFusionError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut path = None;
    while let Some(current) = cause {
        if let Some(object_store::Error::NotFound { path: gone, .. }) =
            current.downcast_ref::<object_store::Error>()
        {
            path = Some(gone.clone());
        }
        cause = current.source();
    }
    let Some(path) = path else {
        return error;
    };
    match files.missing(&path).await {
        Some(explained) => explained.into(),
        None => error,
    }
}

impl DataSource for StreamedScan {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema()?;
        let (lanes, files) = (self.lanes.clone(), Arc::clone(&self.files));
        let slices = self.partitions.get(partition).cloned().unwrap_or_default();
        let windows: Vec<Vec<Slice>> = slices.chunks(WINDOW_FILES).map(<[_]>::to_vec).collect();
        let (order, metrics) = (self.order_index(), self.metrics.clone());
        let at_once = (CONCURRENT_READS / self.partitions.len()).max(FEWEST_READS);
        let prepared = stream::iter(windows)
            .map({
                let (lanes, files) = (lanes.clone(), Arc::clone(&files));
                move |window| {
                    let (lanes, files) = (lanes.clone(), Arc::clone(&files));
                    SpawnedTask::spawn(prepare(lanes, files, window, at_once))
                }
            })
            .buffered(WINDOWS_AHEAD)
            .boxed();
        let partitions = self.partitions.len();
        let rows = prepared
            .map(move |prepared| {
                let prepared = prepared.map_err(|error| DataFusionError::External(error.into()))?;
                let window = Window {
                    files: prepared?,
                    order,
                    partitions,
                };
                open_window(&lanes, window, &context, &metrics)
            })
            .try_flatten()
            .or_else(move |error| {
                let files = Arc::clone(&files);
                async move { Err(explained(files, error).await) }
            });
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        Ok(match self.limit {
            Some(limit) => {
                let counted = BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), partition);
                Box::pin(LimitStream::new(rows, 0, Some(limit), counted))
            }
            None => rows,
        })
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        self.open(args.partition, args.context)
    }

    fn create_sibling_state(&self, _: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    fn fmt_as(&self, t: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description)?;
        if t == DisplayFormatType::TreeRender {
            return writeln!(f);
        }
        if let Ok(schema) = self.schema() {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            write!(f, ", projection=[{}]", names.collect::<Vec<_>>().join(", "))?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        self.lanes[0].config.file_source().fmt_extra(t, f)
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions.len())
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let Ok(schema) = self.schema() else {
            return EquivalenceProperties::new(Arc::new(arrow::datatypes::Schema::empty()));
        };
        let ordered = self.order_index().and_then(|index| {
            let column: Arc<dyn PhysicalExpr> =
                Arc::new(Column::new(schema.field(index).name(), index));
            LexOrdering::new([PhysicalSortExpr::new(
                column,
                SortOptions::new(false, false),
            )])
        });
        EquivalenceProperties::new_with_orderings(Arc::clone(&schema), ordered)
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(self.schema()?.as_ref());
        if let (Some(rows), None) = (self.rows, partition) {
            statistics.num_rows = Precision::Inexact(rows);
            let bytes: u64 = (0..self.files.len())
                .map(|file| self.files.size(file))
                .sum();
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            statistics.total_byte_size = Precision::Inexact(bytes);
        }
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self {
            limit,
            ..self.clone()
        }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let lanes = self.changed(|lane| lane.config.try_swapping_with_projection(projection))?;
        Ok(lanes.map(|lanes| self.with_lanes(lanes)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let schema = self.schema()?;
        // bounds of floats leave NaN out: no filter on one may prune
        let usable = |filter: &Arc<dyn PhysicalExpr>| !mentions_float(filter, &schema);
        let taken: Vec<usize> = (0..filters.len())
            .filter(|index| usable(&filters[*index]))
            .collect();
        let mut answers = vec![PushedDown::No; filters.len()];
        let (mut lanes, mut exact) = (Vec::new(), vec![true; taken.len()]);
        for lane in &self.lanes {
            // each pass of the optimizer offers what stays above the scan once more
            let mut new = Vec::new();
            for (position, index) in taken.iter().enumerate() {
                match lane.knows(&filters[*index])? {
                    true => exact[position] = false,
                    false => new.push(position),
                }
            }
            let offered = new
                .iter()
                .map(|position| Arc::clone(&filters[taken[*position]]));
            let result = lane
                .config
                .try_pushdown_filters(offered.collect(), config)?;
            for (position, answer) in new.into_iter().zip(&result.filters) {
                exact[position] &= matches!(answer, PushedDown::Yes);
            }
            let changed = match result.updated_node {
                Some(source) => lane.with_source(source.as_ref())?,
                None => None,
            };
            lanes.push(changed.unwrap_or_else(|| lane.clone()));
        }
        for (index, exact) in taken.into_iter().zip(exact) {
            if exact {
                answers[index] = PushedDown::Yes;
            }
        }
        let node = self.with_lanes(lanes);
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(answers).with_updated_node(node))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.lanes[0].config.apply_expressions(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// The partitions as text: files, and of which the piece in MiB.
    fn check(sizes: &[u64], partitions: usize, expected: &[&str]) {
        let text = |slice: &Slice| match &slice.piece {
            Some(piece) => format!("{}[{}..{}]", slice.file, piece.start / MIB, piece.end / MIB),
            None => slice.file.to_string(),
        };
        let found: Vec<String> = slices(sizes, partitions)
            .iter()
            .map(|slices| slices.iter().map(text).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(found, expected, "{sizes:?} in {partitions}");
    }

    #[test]
    fn files_are_shared_out_in_their_order() {
        check(&[], 2, &[""]);
        check(&[5], 2, &["0"]);
        check(&[5, 5, 5, 5], 2, &["0 1", "2 3"]);
        check(&[0, 0], 2, &["0 1"]);
        check(&[1, 100, 1], 2, &["0 1", "2"]);
        check(&[100 * MIB], 2, &["0[0..50]", "0[50..100]"]);
        check(
            &[100 * MIB],
            4,
            &["0[0..25]", "0[25..50]", "0[50..75]", "0[75..100]"],
        );
        check(&[40 * MIB, 60 * MIB], 2, &["0 1[0..10]", "1[10..60]"]);
        check(&[MIB; 6], 3, &["0 1", "2 3", "4 5"]);
    }
}
