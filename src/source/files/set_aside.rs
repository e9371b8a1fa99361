//! Files that were set aside as a whole, as rows of `"t$rejected"`.

use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;

use super::mark::{MarkedFile, RejectedRow};
use super::rejected::{rejected_batch, rejected_schema};
use super::scan::ScannedFile;
use crate::error::Result;

/// One row for each file, without a row number.
pub(super) fn set_aside_files(files: &[ScannedFile]) -> Result<Arc<dyn ExecutionPlan>> {
    let batches = files.iter().map(|file| {
        let marked = MarkedFile {
            version: file.file.version,
            path: Arc::clone(&file.file.path),
            e_tag: None,
            time: file.file.time,
            has_marker: false,
            columns: Arc::new([]),
        };
        let row = RejectedRow {
            row: 0,
            reason: file.shape.unreadable.clone().unwrap_or_default(),
            raw: String::new(),
        };
        rejected_batch(&marked, &[row])
    });
    let batches = batches.collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(
        &[batches],
        rejected_schema(),
        None,
    )?)
}
