//! Readers of a table's Parquet files: each in the store it lies in, small ones fetched before they are asked for.
//!
//! ```text
//!  create_reader ── announced and small ──> ReadAhead ──> slices of the whole file
//!               └── otherwise ──────────────────────────> requests of the ranges asked for
//! ```
//!
//! DataFusion opens one file after another and makes several requests for each. Where there are many small files that is mostly
//! waiting.

mod read_ahead;

use std::fmt::{self, Debug, Formatter};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::FieldRef;
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ObjectStoreFetch;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use self::read_ahead::{Fetch, FileKey, ReadAhead};
use super::field_ids::{FieldIds, without_arrow_schema};
use super::location::DataFileLocation;

/// So much of a file's end is read at once: its footer, with luck.
const FOOTER_GUESS: usize = 64 * 1024;

/// Opens the files of a scan. A file in another store than the table's has a [`DataFileLocation`] among its extensions.
pub(crate) struct FileReaders {
    store: Arc<dyn ObjectStore>,
    ahead: Mutex<ReadAhead>,
    ids: Option<Arc<FieldIds>>,
}

/// A file that will be read.
#[derive(Debug, Clone)]
pub(crate) struct UpcomingFile {
    pub location: DataFileLocation,
    /// In bytes.
    pub size: u64,
}

impl FileReaders {
    /// Readers of files in `store`, the table's own.
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            ahead: Mutex::new(ReadAhead::new(Arc::clone(&store), vec![], 1)),
            store,
            ids: None,
        }
    }

    /// The columns of the files are those of `columns` that have their field ids, whatever the files call them.
    pub(crate) fn by_field_ids(self, columns: &[FieldRef]) -> Self {
        Self {
            ids: Some(Arc::new(FieldIds::new(columns))),
            ..self
        }
    }

    /// Files that will be asked for, in this order: small ones are fetched whole, many at a time, before they are.
    ///
    /// Nothing is fetched before the first file is asked for. `sharers` read ahead at the same time, and share the limits.
    pub(crate) fn reading_ahead(self, files: Vec<UpcomingFile>, sharers: usize) -> Self {
        Self {
            ahead: Mutex::new(ReadAhead::new(Arc::clone(&self.store), files, sharers)),
            ..self
        }
    }
}

// not derived: stores print how they were configured
impl Debug for FileReaders {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReaders").finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for FileReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let meta = file.object_meta.clone();
        let elsewhere = file
            .extension::<DataFileLocation>()
            .and_then(|location| location.store.as_ref());
        let key = FileKey {
            elsewhere: elsewhere.is_some(),
            path: meta.location.clone(),
        };
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(FileReader {
            metrics: ParquetFileMetrics::new(partition_index, meta.location.as_ref(), metrics),
            store: Arc::clone(elsewhere.unwrap_or(&self.store)),
            fetch: ahead.take(&key),
            ids: self.ids.clone(),
            footer_guess: metadata_size_hint.unwrap_or(FOOTER_GUESS),
            meta,
        }))
    }
}

/// Reads one file.
struct FileReader {
    metrics: ParquetFileMetrics,
    store: Arc<dyn ObjectStore>,
    meta: ObjectMeta,
    /// The whole file, where it is being fetched; kept, so that a second reader of the file finds it.
    fetch: Option<Fetch>,
    ids: Option<Arc<FieldIds>>,
    footer_guess: usize,
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.metrics.bytes_scanned.add(length(&range));
        let fetch = self.fetch.clone();
        async move {
            match whole(fetch).await {
                Some(bytes) => slice(&bytes, &range),
                None => {
                    let read = self.store.get_range(&self.meta.location, range).await;
                    read.map_err(of_store)
                }
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        let total: usize = ranges.iter().map(length).sum();
        self.metrics.bytes_scanned.add(total);
        let fetch = self.fetch.clone();
        async move {
            match whole(fetch).await {
                Some(bytes) => ranges.iter().map(|range| slice(&bytes, range)).collect(),
                None => {
                    let read = self.store.get_ranges(&self.meta.location, &ranges).await;
                    read.map_err(of_store)
                }
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let fetch = self.fetch.clone();
        async move {
            let bytes = whole(fetch).await;
            let metadata = self.decoded(options, bytes.as_ref()).await;
            metadata
                .map(Arc::new)
                .map_err(|error| named(error, &self.meta))
        }
        .boxed()
    }
}

impl FileReader {
    /// The metadata, with the columns under the table's names.
    async fn decoded(
        &self,
        options: Option<&ArrowReaderOptions>,
        whole: Option<&Bytes>,
    ) -> Result<ParquetMetaData> {
        let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
        let metadata = self.load(reader, whole).await?;
        let schema = metadata.file_metadata().schema_descr();
        let renamed = match &self.ids {
            Some(ids) => ids.renamed(schema)?,
            None => None,
        };
        let Some(renamed) = renamed else {
            return Ok(metadata);
        };
        let decoding = options.map(|options| options.metadata_options().clone());
        let reader = ParquetMetaDataReader::new()
            .with_arrow_reader_options(options)
            .with_metadata_options(Some(decoding.unwrap_or_default().with_schema(renamed)));
        Ok(without_arrow_schema(self.load(reader, whole).await?))
    }

    async fn load(
        &self,
        reader: ParquetMetaDataReader,
        whole: Option<&Bytes>,
    ) -> Result<ParquetMetaData> {
        match whole {
            Some(bytes) => reader.parse_and_finish(bytes),
            None => {
                let fetch = ObjectStoreFetch::new(self.store.as_ref(), &self.meta);
                let reader = reader.with_prefetch_hint(Some(self.footer_guess));
                reader.load_and_finish(fetch, self.meta.size).await
            }
        }
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        let ratio = &self.metrics.scan_efficiency_ratio;
        ratio.add_part(self.metrics.bytes_scanned.value());
        // a file has several readers: the total is its size all the same
        ratio.set_total(usize::try_from(self.meta.size).unwrap_or(usize::MAX));
    }
}

/// The bytes of a file that has been fetched. One that could not be is read plainly, which says why.
async fn whole(fetch: Option<Fetch>) -> Option<Bytes> {
    fetch?.await
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
    if start > end || end > bytes.len() {
        return Err(ParquetError::EOF(format!(
            "bytes {start} to {end} of a file of {}",
            bytes.len()
        )));
    }
    Ok(bytes.slice(start..end))
}

/// The store's error as it is: whoever asks further up must be able to tell that a file is not there.
fn of_store(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The error with the file that it is about, which errors of stores name themselves.
fn named(error: ParquetError, file: &ObjectMeta) -> ParquetError {
    match error {
        ParquetError::External(_) => error,
        other => ParquetError::General(format!("{}: {other}", file.location)),
    }
}

#[cfg(test)]
mod tests;
