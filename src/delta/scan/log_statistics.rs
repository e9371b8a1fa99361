//! What the log says of a scan's files, for those who are about to read them.
//!
//! As DataFusion's statistics it takes many times the room that it has in the log. So a plan has the log's own text only, which it
//! shares with the snapshot, and statistics are made of it for the files of a partition when that is opened.

use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;

use super::DeltaScan;
use crate::delta::actions::Add;
use crate::delta::stats::for_reader;

/// Makes the statistics of the files of a scan, each of which has its [`Add`] among its extensions.
#[derive(Debug)]
pub(crate) struct LogStatistics {
    /// Without its files.
    scan: DeltaScan,
}

impl LogStatistics {
    /// Statistics of the files of `scan`.
    pub(super) fn new(scan: &DeltaScan) -> Self {
        Self {
            scan: scan.without_files(),
        }
    }

    /// What is known of a file, by the columns of the Parquet source, as far as its reader may rely on it.
    pub(crate) fn of(&self, file: &PartitionedFile) -> Option<Arc<Statistics>> {
        if let Some(known) = &file.statistics {
            return Some(Arc::clone(known));
        }
        let (scan, add) = (&self.scan, file.extension::<Add>()?);
        let partitions = scan.layout.partition_columns().len();
        let constants = file.partition_values.get(partitions..)?;
        let statistics = scan.statistics_of(add, constants).ok()?;
        let data_columns = scan.layout.data_columns().count() + scan.file_columns.len();
        Some(Arc::new(for_reader(statistics, data_columns)))
    }

    /// The files with their statistics.
    pub(crate) fn added_to(&self, files: &FileGroup) -> FileGroup {
        let described = files.iter().map(|file| PartitionedFile {
            statistics: self.of(file),
            ..file.clone()
        });
        described.collect()
    }
}
