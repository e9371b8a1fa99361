//! Reading metadata and protocol out of a Parquet checkpoint: two columns, and only the row groups that have any.
//!
//! The end of the file comes with the first request, which is all of it for most tables.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, is_not_null, or};
use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;

use super::Found;
use crate::error::{Error, Result};

/// How much of the end of a file the first request is for.
const END_BYTES: u64 = 256 * 1024;
/// Columns that are never NULL in a row that is such an action.
const REQUIRED: [&str; 2] = ["metaData.id", "protocol.minReaderVersion"];

/// What a Parquet checkpoint says.
pub(super) async fn read_parquet(store: Arc<dyn ObjectStore>, path: Path) -> Result<Found> {
    let mut file = CheckpointFile::open(store, path).await?;
    // types as Parquet has them: what Arrow schema the writer has left behind does not matter
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load_async(&mut file, options)
        .await
        .map_err(Error::parquet)?;
    let columns = ProjectionMask::columns(metadata.parquet_schema(), ["metaData", "protocol"]);
    let groups = metadata.metadata().row_groups().iter().enumerate();
    let groups = groups
        .filter(|(_, group)| may_hold(group))
        .map(|(index, _)| index)
        .collect();
    let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(file, metadata)
        .with_projection(columns)
        .with_row_groups(groups)
        .build()
        .map_err(Error::parquet)?;
    let mut found = Found::default();
    while let Some(batch) = batches.try_next().await.map_err(Error::parquet)? {
        found = found.or(Found::read(&lines(&batch)?)?);
        if found.is_whole() {
            break;
        }
    }
    Ok(found)
}

/// Whether a row group can have such an action, by how many of its rows are NULL where these are not.
fn may_hold(group: &RowGroupMetaData) -> bool {
    let rows = u64::try_from(group.num_rows()).ok();
    let is_empty = |column: &ColumnChunkMetaData| {
        column.statistics().and_then(Statistics::null_count_opt) == rows
    };
    group
        .columns()
        .iter()
        .filter(|column| REQUIRED.contains(&column.column_path().string().as_str()))
        .any(|column| !is_empty(column))
}

/// The rows that are such an action, as a commit would have them.
fn lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut held = BooleanArray::from(vec![false; batch.num_rows()]);
    for column in batch.columns() {
        held = or(&held, &is_not_null(column.as_ref())?)?;
    }
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&filter_record_batch(batch, &held)?)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// A file whose end is at hand.
struct CheckpointFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    end: Bytes,
}

impl CheckpointFile {
    async fn open(store: Arc<dyn ObjectStore>, path: Path) -> Result<Self> {
        let options = |range| GetOptions {
            range: Some(range),
            ..GetOptions::default()
        };
        let end = options(GetRange::Suffix(END_BYTES));
        let found = match store.get_opts(&path, end).await {
            // Azure knows no such requests
            Err(object_store::Error::NotSupported { .. }) => {
                let size = store.head(&path).await?.size;
                let end = GetRange::Bounded(size.saturating_sub(END_BYTES)..size);
                store.get_opts(&path, options(end)).await?
            }
            found => found?,
        };
        let size = found.meta.size;
        let end = found.bytes().await?;
        Ok(Self {
            store,
            path,
            size,
            end,
        })
    }

    /// A range that lies in the end of the file.
    fn held(&self, range: &Range<u64>) -> Option<Bytes> {
        let length = u64::try_from(self.end.len()).ok()?;
        let start = self.size.checked_sub(length)?;
        let first = usize::try_from(range.start.checked_sub(start)?).ok()?;
        let last = usize::try_from(range.end.checked_sub(start)?).ok()?;
        (first <= last && last <= self.end.len()).then(|| self.end.slice(first..last))
    }
}

impl AsyncFileReader for CheckpointFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        Box::pin(async move {
            match self.held(&range) {
                Some(bytes) => Ok(bytes),
                None => self
                    .store
                    .get_range(&self.path, range)
                    .await
                    .map_err(of_store),
            }
        })
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        Box::pin(async move {
            let held: Option<Vec<Bytes>> = ranges.iter().map(|range| self.held(range)).collect();
            match held {
                Some(held) => Ok(held),
                None => self
                    .store
                    .get_ranges(&self.path, &ranges)
                    .await
                    .map_err(of_store),
            }
        })
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        Box::pin(async move {
            let (size, length) = (self.size, self.end.len());
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(length));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        })
    }
}

fn of_store(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
