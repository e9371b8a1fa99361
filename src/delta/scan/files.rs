//! The files of a scan, and what DataFusion is told to read of each.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::RowSelection;
use roaring::RoaringTreemap;

use super::DeltaScan;
use crate::delta::actions::Add;
use crate::delta::data_file::count_rows;
use crate::delta::deletion_vector::{self, row_selection};
use crate::delta::file_readers::UpcomingFile;
use crate::delta::stats::{live_records, num_records, partition_value};
use crate::delta::table::DeltaTable;
use crate::error::Result;

/// How many files are looked into at once.
const CONCURRENT_READS: usize = 64;

/// Which rows of a file are read.
#[derive(Debug, Clone)]
pub(crate) enum RowMask {
    /// All that the file's own deletion vector leaves; it is read when the file has not been pruned.
    Live,
    /// All but these.
    Except(RoaringTreemap),
    /// Only these.
    Only(RoaringTreemap),
}

/// One file of a scan.
#[derive(Debug, Clone)]
pub(crate) struct ScanFile {
    pub add: Arc<Add>,
    pub rows: RowMask,
    /// The value of each of the scan's constant columns in this file.
    pub constants: Vec<ScalarValue>,
}

impl ScanFile {
    /// A file as it stands in the table.
    pub(crate) fn live(add: Arc<Add>) -> Self {
        Self {
            add,
            rows: RowMask::Live,
            constants: vec![],
        }
    }

    pub(crate) fn row_count(&self) -> Option<u64> {
        match &self.rows {
            RowMask::Live => live_records(&self.add),
            RowMask::Except(bitmap) => num_records(&self.add)?.checked_sub(bitmap.len()),
            RowMask::Only(bitmap) => Some(bitmap.len()),
        }
    }
}

impl DeltaScan {
    /// The files as DataFusion reads them, each with what [`LogStatistics`](super::LogStatistics) makes statistics of.
    pub(super) async fn partitioned_files(&self) -> Result<Vec<PartitionedFile>> {
        let selections = self.selections().await?;
        let mut files = Vec::with_capacity(self.files.len());
        for (file, selection) in self.files.iter().zip(selections) {
            let mut partitioned = self.partitioned_file(file, selection)?;
            partitioned.extensions.insert_arc(Arc::clone(&file.add));
            files.push(partitioned);
        }
        Ok(files)
    }

    /// A file as DataFusion reads it, with what must be fetched for that.
    pub(crate) async fn describe(
        &self,
        file: &ScanFile,
    ) -> Result<(PartitionedFile, UpcomingFile)> {
        let selection = selection(&self.table, &file.add, file.rows.clone()).await?;
        let upcoming = UpcomingFile {
            location: self.table.locate(&file.add.path)?,
            size: u64::try_from(file.add.size).unwrap_or(0),
        };
        Ok((self.partitioned_file(file, selection)?, upcoming))
    }

    fn partitioned_file(
        &self,
        file: &ScanFile,
        selection: Option<RowSelection>,
    ) -> Result<PartitionedFile> {
        let partitions = self.layout.partition_columns();
        let mut values = Vec::with_capacity(partitions.len() + file.constants.len());
        for index in partitions {
            let (table, layout) = (self.table.name(), &self.layout);
            values.push(partition_value(table, layout, *index, &file.add)?);
        }
        values.extend(file.constants.iter().cloned());
        let size = u64::try_from(file.add.size).unwrap_or(0);
        let location = self.table.locate(&file.add.path)?;
        let mut partitioned =
            PartitionedFile::new(String::new(), size).with_partition_values(values);
        partitioned.object_meta.location = location.path.clone();
        if location.store.is_some() {
            partitioned = partitioned.with_extension(location);
        }
        if let Some(selection) = selection {
            partitioned = partitioned.with_extension(ParquetRowSelection::new(selection));
        }
        Ok(partitioned)
    }

    /// The rows that are read of each file, where not all are; what must be fetched for that is fetched many at a time.
    async fn selections(&self) -> Result<Vec<Option<RowSelection>>> {
        let wanted: Vec<(Arc<Add>, RowMask)> = self
            .files
            .iter()
            .map(|file| (Arc::clone(&file.add), file.rows.clone()))
            .collect();
        futures::stream::iter(wanted)
            .map(|(add, rows)| {
                let table = self.table.clone();
                async move { selection(&table, &add, rows).await }
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await
    }
}

/// The rows of a file that are read; `None` for all of them.
async fn selection(table: &DeltaTable, add: &Add, rows: RowMask) -> Result<Option<RowSelection>> {
    let (bitmap, marked) = match (rows, &add.deletion_vector) {
        (RowMask::Live, None) => return Ok(None),
        (RowMask::Live, Some(vector)) => (deletion_vector::read(table, vector).await?, false),
        (RowMask::Except(bitmap), _) => (bitmap, false),
        (RowMask::Only(bitmap), _) => (bitmap, true),
    };
    let rows = match num_records(add) {
        Some(rows) => rows,
        None => count_rows(table, add).await?,
    };
    Ok(Some(row_selection(&bitmap, rows, marked)))
}
