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
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{BoxStream, Peekable};
use futures::{StreamExt, TryStreamExt, stream};

use super::file_readers::{FileReaders, UpcomingFile};
use super::scan::{Columns, DeltaScan, ScanFile};
use crate::error::Error;

/// A file of a window.
#[derive(Debug)]
pub(super) struct WindowFile {
    file: PartitionedFile,
    upcoming: UpcomingFile,
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
            .map(|file| self.scan.statistics_of(file))
            .collect::<crate::Result<Vec<Arc<Statistics>>>>()?;
        Ok(self.columns.may_match(statistics, predicate))
    }

    /// What is read of a file, and of the piece of it if there is one: the row groups whose middle lies in it.
    pub(super) async fn describe(
        &self,
        file: &ScanFile,
        piece: Option<Range<u64>>,
    ) -> crate::Result<WindowFile> {
        let (described, upcoming) = self.scan.describe(file).await?;
        let file = match piece {
            Some(Range { start, end }) => {
                let bytes = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
                described.with_range(bytes(start), bytes(end))
            }
            None => described,
        };
        Ok(WindowFile { file, upcoming })
    }

    /// Opens the files, one after another.
    fn open(
        &self,
        files: Vec<WindowFile>,
        context: &Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<SendableRecordBatchStream> {
        let files = files.into_iter().map(|file| (file.file, file.upcoming));
        let (files, upcoming): (Vec<PartitionedFile>, Vec<UpcomingFile>) = files.unzip();
        let readers = self.scan.readers().reading_ahead(upcoming);
        let source = fresh(self.config.file_source().as_ref(), readers)?;
        let collected = WindowMetrics {
            from: source.metrics().clone(),
            into: metrics.clone(),
        };
        let config = FileScanConfigBuilder::from(self.config.clone())
            .with_source(source)
            .with_file_groups(vec![FileGroup::new(files)])
            .with_preserve_order(true)
            .build();
        let rows = config.open_with_args(OpenArgs::new(0, Arc::clone(context)))?;
        let schema = rows.schema();
        let rows = rows.inspect(move |_| {
            let _ = &collected;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
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

/// The rows of a window, `files` by lane; merged by the column at `order`, of which each batch has one value.
pub(super) fn open_window(
    lanes: &[Lane],
    files: Vec<Vec<WindowFile>>,
    order: Option<usize>,
    context: &Arc<TaskContext>,
    metrics: &ExecutionPlanMetricsSet,
) -> Result<Rows> {
    let mut streams: Vec<Rows> = Vec::new();
    for (lane, files) in lanes.iter().zip(files) {
        if !files.is_empty() {
            streams.push(lane.open(files, context, metrics)?.boxed());
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
