//! Readers of Parquet files that remember which files they have opened, so that an error can name them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::error::Result;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::ObjectStore;
use parquet::arrow::async_reader::AsyncFileReader;

/// How many files of a partition may be open: the one that is read, and the next.
const OPEN_FILES: usize = 2;

/// The files that were opened last, by partition.
#[derive(Debug, Default)]
pub(super) struct OpenedFiles(Mutex<HashMap<usize, Vec<String>>>);

impl OpenedFiles {
    fn add(&self, partition: usize, file: &PartitionedFile) {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let files = opened.entry(partition).or_default();
        if files.len() == OPEN_FILES {
            files.remove(0);
        }
        files.push(file.object_meta.location.to_string());
    }

    /// The files of which one is being read.
    pub(super) fn names(&self, partition: usize) -> String {
        let opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let files = opened.get(&partition).map_or(&[][..], Vec::as_slice);
        files.join(" or ")
    }
}

/// Makes readers of the files in a store.
#[derive(Debug)]
pub(super) struct NamedReaders {
    inner: DefaultParquetFileReaderFactory,
    opened: Arc<OpenedFiles>,
}

impl NamedReaders {
    /// Readers of the files in `store`.
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner: DefaultParquetFileReaderFactory::new(store),
            opened: Arc::default(),
        }
    }

    /// The files that these readers have opened.
    pub(super) fn opened(&self) -> Arc<OpenedFiles> {
        Arc::clone(&self.opened)
    }
}

impl ParquetFileReaderFactory for NamedReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        self.opened.add(partition, &file);
        self.inner
            .create_reader(partition, file, metadata_size_hint, metrics)
    }
}
