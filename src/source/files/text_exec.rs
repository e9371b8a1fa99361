//! Reads CSV, JSON lines and Avro files, marking their rows.
//!
//! Each partition has files that follow each other and reads them in that order; the next ones are opened while one is read.

use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricsSet,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::location::Location;
use super::mark::{MarkedFile, Marking, RejectedRow, RowNumbers};
use super::mark_exec::Wanted;
use super::reader::{Item, ReadSpec, Rejected, read_file};
use super::rejected::rejected_batch;
use super::stored::stored_bytes;
use crate::error::{Error, Result};

/// How many files of a partition are open at once.
const OPEN_FILES: usize = 8;
/// What a row takes in a file, where nobody knows.
const GUESSED_ROW_BYTES: u64 = 64;

/// A file to read.
#[derive(Debug, Clone)]
pub(super) struct TextFile {
    pub path: Path,
    pub size: u64,
    pub file: Arc<MarkedFile>,
}

/// What to read, and how.
#[derive(Debug)]
pub(super) struct TextScan {
    pub location: Location,
    pub store: Arc<dyn ObjectStore>,
    pub spec: ReadSpec,
    pub marking: Marking,
    pub wanted: Wanted,
}

/// Reads files, partition by partition.
#[derive(Debug)]
pub(super) struct TextExec {
    scan: Arc<TextScan>,
    partitions: Vec<Vec<TextFile>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TextExec {
    /// Reads `files`, in at most so many partitions of about equal size.
    pub(super) fn new(scan: TextScan, files: Vec<TextFile>, partitions: usize) -> Self {
        let schema = scan.wanted.schema(&scan.marking.schema);
        let partitions = split(files, partitions.max(1));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            scan: Arc::new(scan),
            partitions,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

/// Files in their order, in so many parts of about equal size.
pub(super) fn split(files: Vec<TextFile>, parts: usize) -> Vec<Vec<TextFile>> {
    // a file costs something even if it is tiny
    const FILE_COST: u64 = 4096;
    let cost = |file: &TextFile| file.size + FILE_COST;
    let total: u64 = files.iter().map(cost).sum();
    let share = total.div_ceil(parts as u64).max(1);
    let mut split: Vec<Vec<TextFile>> = vec![vec![]];
    let mut spent = 0;
    for file in files {
        if spent >= share * split.len() as u64 && split.last().is_some_and(|part| !part.is_empty())
        {
            split.push(vec![]);
        }
        spent += cost(&file);
        if let Some(part) = split.last_mut() {
            part.push(file);
        }
    }
    split
}

impl DisplayAs for TextExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.scan.spec.columns.fields().iter();
        let columns: Vec<&str> = columns.map(|field| field.name().as_str()).collect();
        write!(
            f,
            "TextExec: source={}, format={}, files={}, columns=[{}]",
            self.scan.marking.name,
            self.scan.marking.options.format,
            self.partitions.iter().map(Vec::len).sum::<usize>(),
            columns.join(", ")
        )
    }
}

impl ExecutionPlan for TextExec {
    fn name(&self) -> &'static str {
        "TextExec"
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
        let reader = Arc::new(FileReader {
            scan: Arc::clone(&self.scan),
            spec: Arc::new(self.scan.spec.clone()),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            rejected: self.scan.marking.rejected(&self.metrics, partition),
        });
        let files = self.partitions[partition].clone();
        let batches = stream::iter(files)
            .map(move |file| Arc::clone(&reader).open(file))
            .buffered(OPEN_FILES)
            .try_flatten()
            .map_err(Into::into);
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> DataFusionResult<Arc<Statistics>> {
        let bytes: u64 = self.partitions.iter().flatten().map(|file| file.size).sum();
        let rows = usize::try_from(bytes / GUESSED_ROW_BYTES).unwrap_or(usize::MAX);
        Ok(Arc::new(Statistics {
            num_rows: Precision::Inexact(rows),
            total_byte_size: Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX)),
            ..Statistics::new_unknown(&self.schema())
        }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Reads the files of one partition.
struct FileReader {
    scan: Arc<TextScan>,
    spec: Arc<ReadSpec>,
    metrics: BaselineMetrics,
    rejected: Count,
}

impl FileReader {
    async fn open(
        self: Arc<Self>,
        file: TextFile,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        if file.size == 0 {
            return Ok(stream::empty().boxed());
        }
        let found = self.scan.store.get(&file.path).await;
        let found = found.map_err(|error| self.explain(&file, error))?;
        let scan = Arc::clone(&self.scan);
        let checked = file.clone();
        // a store whose files are changed in place may have mixed two contents
        let unchanged =
            stream::once(async move { scan.store.head(&checked.path).await.map(|_| None) });
        let bytes = stored_bytes(found).map_ok(Some);
        let bytes = if self.scan.location.replaces_whole_files() {
            bytes.boxed()
        } else {
            bytes.chain(unchanged).boxed()
        };
        let bytes = bytes.try_filter_map(|bytes| async { Ok(bytes) }).boxed();
        let items = read_file(Arc::clone(&self.spec), file.file.path.to_string(), bytes);
        Ok(self.mark(file, items).boxed())
    }

    fn explain(&self, file: &TextFile, error: object_store::Error) -> Error {
        let doing = format!("read {}", file.file.path);
        self.scan.location.explain(&doing, error)
    }

    fn mark(
        self: Arc<Self>,
        file: TextFile,
        items: BoxStream<'static, Result<Item>>,
    ) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
        items
            .map(move |item| {
                let item = match item {
                    Err(Error::ObjectStore(error)) => Err(self.explain(&file, error)),
                    // what cannot be read on is set aside from there on
                    Err(Error::Invalid(reason)) if self.spec.quarantine => {
                        Ok(Item::Rejected(Rejected {
                            row: 0,
                            reason,
                            raw: String::new(),
                        }))
                    }
                    other => other,
                };
                self.marked(&file.file, item?)
            })
            .try_filter_map(|batch| async { Ok(batch) })
    }

    fn marked(&self, file: &MarkedFile, item: Item) -> Result<Option<RecordBatch>> {
        let _timer = self.metrics.elapsed_compute().timer();
        let (batch, rejected) = match item {
            Item::Rows(rows) => {
                let numbers = RowNumbers::From(rows.first_row.cast_signed());
                let marking = &self.scan.marking;
                let marked = marking.mark(file, &rows.batch, numbers, rows.raw.as_ref(), vec![])?;
                (Some(marked.batch), marked.rejected)
            }
            Item::Rejected(row) => {
                let row = RejectedRow {
                    row: row.row.cast_signed(),
                    reason: row.reason,
                    raw: row.raw,
                };
                (None, vec![row])
            }
        };
        self.rejected.add(rejected.len());
        let result = match self.scan.wanted {
            Wanted::Changes => batch,
            Wanted::Rejected => Some(rejected_batch(file, &rejected)?),
        };
        let result = result.filter(|batch| batch.num_rows() > 0);
        self.metrics
            .record_output(result.as_ref().map_or(0, RecordBatch::num_rows));
        Ok(result)
    }
}
