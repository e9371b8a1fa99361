//! One way to read files within a scan of many: where their columns are, and the Parquet source that reads them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::common::Statistics;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::{DataSource, OpenArgs};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{reassign_expr_columns, split_conjunction};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{BoxStream, Peekable};
use futures::{StreamExt, TryStreamExt, stream};

use super::file_readers::{FileReaders, UpcomingFile};
use super::scan::{Columns, DeltaScan, ScanFile};
use crate::error::Error;

/// What a row takes at least, where nobody knows how many there are.
const SMALL_ROW_BYTES: u64 = 8;
/// A batch is made for so many rows at least.
const FEWEST_ROWS: usize = 64;

/// A file of a window.
#[derive(Debug)]
pub(super) struct WindowFile {
    file: PartitionedFile,
    upcoming: UpcomingFile,
    /// How many rows are read of it, or may be.
    rows: u64,
}

/// A kind of file: what a scan of them would be, were they known.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    /// Without its files.
    pub(super) scan: Arc<DeltaScan>,
    pub(super) columns: Arc<Columns>,
    pub(super) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// The scan of no file, with everything that the optimizer has put into it.
    pub(super) config: FileScanConfig,
}

impl Lane {
    /// The lane with another source for its files; `None` where that is no source for files.
    pub(super) fn with_source(&self, source: &dyn DataSource) -> Result<Option<Self>> {
        Ok(source.downcast_ref::<FileScanConfig>().map(|config| Self {
            config: config.clone(),
            ..self.clone()
        }))
    }

    /// Which of these files may have rows that the filters of the scan let through.
    pub(crate) fn may_match(&self, files: &[ScanFile]) -> crate::Result<Vec<bool>> {
        let Some(predicate) = &self.predicate else {
            return Ok(vec![true; files.len()]);
        };
        let statistics = files
            .iter()
            .map(|file| {
                self.scan
                    .statistics_of(&file.add, &file.constants)
                    .map(Arc::new)
            })
            .collect::<crate::Result<Vec<Arc<Statistics>>>>()?;
        Ok(self.columns.may_match(statistics, predicate))
    }

    /// Whether the source has been given a filter on its output already.
    pub(super) fn knows(&self, filter: &Arc<dyn PhysicalExpr>) -> Result<bool> {
        let source = self.config.file_source();
        let Some(known) = source.filter() else {
            return Ok(false);
        };
        let filter = match source.projection() {
            Some(projection) => projection.unproject_expr(filter)?,
            None => Arc::clone(filter),
        };
        let schema = source.table_schema().table_schema();
        let filter = reassign_expr_columns(filter, schema)?;
        let mut known = split_conjunction(&known).into_iter();
        Ok(known.any(|known| known.as_ref() == filter.as_ref()))
    }

    /// What is read of a file, and of the piece of it if there is one: the row groups whose middle lies in it.
    pub(super) async fn describe(
        &self,
        file: &ScanFile,
        piece: Option<Range<u64>>,
    ) -> crate::Result<WindowFile> {
        let (described, upcoming) = self.scan.describe(file).await?;
        let rows = file.row_count().unwrap_or(upcoming.size / SMALL_ROW_BYTES);
        let file = match piece {
            Some(Range { start, end }) => {
                let bytes = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
                described.with_range(bytes(start), bytes(end))
            }
            None => described,
        };
        Ok(WindowFile {
            file,
            upcoming,
            rows,
        })
    }

    /// Opens the files, one after another.
    fn open(
        &self,
        files: Vec<WindowFile>,
        readers: usize,
        context: &Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<SendableRecordBatchStream> {
        let most_rows = files.iter().map(|file| file.rows).max().unwrap_or(0);
        let files = files.into_iter().map(|file| (file.file, file.upcoming));
        let (files, upcoming): (Vec<PartitionedFile>, Vec<UpcomingFile>) = files.unzip();
        let readers = self.scan.readers().reading_ahead(upcoming, readers);
        let source = fresh(self.config.file_source().as_ref(), readers)?;
        let collected = WindowMetrics {
            from: source.metrics().clone(),
            into: metrics.clone(),
        };
        let config = FileScanConfigBuilder::from(self.config.clone())
            .with_source(source)
            .with_file_groups(vec![FileGroup::new(files)])
            .with_preserve_order(true)
            .with_batch_size(batch_size(most_rows, context))
            .build();
        let rows = config.open_with_args(OpenArgs::new(0, Arc::clone(context)))?;
        let schema = rows.schema();
        let rows = rows.inspect(move |_| {
            let _ = &collected;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Rows in a batch where no file has more than so many: readers make room for a whole batch of every column of every file.
fn batch_size(most_rows: u64, context: &TaskContext) -> Option<usize> {
    let wanted = context.session_config().batch_size();
    let rows = usize::try_from(most_rows).unwrap_or(usize::MAX);
    Some(rows.clamp(FEWEST_ROWS.min(wanted), wanted))
}

/// The source again, with metrics of its own: it makes some for every file, and nobody would ever drop them.
fn fresh(source: &dyn FileSource, readers: FileReaders) -> Result<Arc<dyn FileSource>> {
    let Some(parquet) = source.downcast_ref::<ParquetSource>() else {
        return Err(
            Error::internal("files of a table are read by another source than Parquet's").into(),
        );
    };
    let mut fresh = ParquetSource::new(parquet.table_schema().clone())
        .with_table_parquet_options(parquet.table_parquet_options().clone())
        .with_parquet_file_reader_factory(Arc::new(readers));
    if let Some(predicate) = parquet.filter() {
        fresh = fresh.with_predicate(predicate);
    }
    match parquet.projection() {
        Some(projection) => fresh
            .try_pushdown_projection(projection)?
            .ok_or_else(|| Error::internal("a projection that was taken is refused").into()),
        None => Ok(Arc::new(fresh)),
    }
}

/// Adds up what the files of a window have counted when it has been read, or left.
struct WindowMetrics {
    from: ExecutionPlanMetricsSet,
    into: ExecutionPlanMetricsSet,
}

impl Drop for WindowMetrics {
    fn drop(&mut self) {
        for metric in self.from.clone_inner().aggregate_by_name().iter() {
            self.into.register(Arc::clone(metric));
        }
    }
}

type Rows = BoxStream<'static, Result<RecordBatch>>;

/// What is read at one time.
pub(super) struct Window {
    /// By lane.
    pub files: Vec<Vec<WindowFile>>,
    /// The column by which the lanes are merged, of which each batch has one value.
    pub order: Option<usize>,
    /// How many windows are read at the same time.
    pub partitions: usize,
}

/// The rows of a window.
pub(super) fn open_window(
    lanes: &[Lane],
    window: Window,
    context: &Arc<TaskContext>,
    metrics: &ExecutionPlanMetricsSet,
) -> Result<Rows> {
    let mut streams: Vec<Rows> = Vec::new();
    let Window {
        files,
        order,
        partitions,
    } = window;
    let readers = partitions * files.iter().filter(|files| !files.is_empty()).count();
    for (lane, files) in lanes.iter().zip(files) {
        if !files.is_empty() {
            streams.push(lane.open(files, readers, context, metrics)?.boxed());
        }
    }
    Ok(match (order, streams.len()) {
        (_, 1) => streams.swap_remove(0),
        (Some(order), _) => merged(streams, order),
        (None, _) => stream::iter(streams).flatten().boxed(),
    })
}

/// The batches of several streams, each ascending by the first value in a column, ascending together.
fn merged(streams: Vec<Rows>, order: usize) -> Rows {
    let streams: Vec<Peekable<Rows>> = streams.into_iter().map(StreamExt::peekable).collect();
    stream::try_unfold(streams, move |mut streams| async move {
        let mut least: Option<(i64, usize)> = None;
        for (index, rows) in streams.iter_mut().enumerate() {
            // an error is passed on at once
            let position = match std::pin::Pin::new(rows).peek().await {
                Some(Ok(batch)) => (first_value(batch, order), index),
                Some(Err(_)) => (i64::MIN, index),
                None => continue,
            };
            least = Some(least.map_or(position, |least| least.min(position)));
        }
        let Some((_, index)) = least else {
            return Ok(None);
        };
        let batch = streams[index].try_next().await?;
        Ok(batch.map(|batch| (batch, streams)))
    })
    .boxed()
}

fn first_value(batch: &RecordBatch, order: usize) -> i64 {
    let values = batch.column(order).as_primitive_opt::<Int64Type>();
    match values {
        Some(values) if batch.num_rows() > 0 => values.value(0),
        _ => i64::MIN,
    }
}
