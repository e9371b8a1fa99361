//! `DESCRIBE HISTORY`: the commits that the log still has, newest first.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;

use crate::delta::DeltaTable;
use crate::delta::actions::CommitInfo;
use crate::delta::log::{Commit, list_commits, read_commits};
use crate::error::Result;

/// One row per version: version, timestamp, operation, its parameters and metrics as JSON, and who wrote it.
pub(crate) async fn history(table: &DeltaTable, limit: Option<usize>) -> Result<RecordBatch> {
    let snapshot = table.snapshot().await?;
    let mut files = list_commits(table, 0).await?;
    files.retain(|file| file.version <= snapshot.version());
    if let Some(limit) = limit {
        files.drain(..files.len().saturating_sub(limit));
    }
    let mut commits = read_commits(&snapshot, &files).await?;
    commits.reverse();
    let text = |value: fn(&CommitInfo) -> Option<String>| -> ArrayRef {
        Arc::new(
            commits
                .iter()
                .map(|commit| commit.info().and_then(value))
                .collect::<StringArray>(),
        )
    };
    let versions =
        Int64Array::from_iter_values(commits.iter().map(|commit: &Commit| commit.version));
    let timestamps =
        TimestampMicrosecondArray::from_iter_values(commits.iter().map(|commit| commit.timestamp))
            .with_timezone("UTC");
    let read_versions: Int64Array = commits
        .iter()
        .map(|commit| commit.info().and_then(|info| info.read_version))
        .collect();
    let blind: BooleanArray = commits
        .iter()
        .map(|commit| commit.info().and_then(|info| info.is_blind_append))
        .collect();
    Ok(RecordBatch::try_from_iter_with_nullable(vec![
        ("version", Arc::new(versions) as ArrayRef, false),
        ("timestamp", Arc::new(timestamps), false),
        ("operation", text(|info| info.operation.clone()), true),
        (
            "operationParameters",
            text(|info| json(info.operation_parameters.as_ref())),
            true,
        ),
        (
            "operationMetrics",
            text(|info| json(info.operation_metrics.as_ref())),
            true,
        ),
        ("readVersion", Arc::new(read_versions), true),
        (
            "isolationLevel",
            text(|info| info.isolation_level.clone()),
            true,
        ),
        ("isBlindAppend", Arc::new(blind), true),
        ("userName", text(|info| info.user_name.clone()), true),
        ("engineInfo", text(|info| info.engine_info.clone()), true),
    ])?)
}

fn json(values: Option<&serde_json::Map<String, serde_json::Value>>) -> Option<String> {
    values.and_then(|values| serde_json::to_string(values).ok())
}
