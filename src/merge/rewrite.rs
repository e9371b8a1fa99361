//! What becomes of the files that have marked rows: a new deletion vector, a copy without them, or nothing at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use roaring::RoaringTreemap;
use serde_json::{Map, Value};

use super::commit_exec::{CommitPlan, Files};
use super::write_exec::{Marks, RowCounts};
use crate::delta::actions::{Action, Add};
use crate::delta::data_file::{DataFileWriter, count_rows};
use crate::delta::deletion_vector;
use crate::delta::scan::{DeltaScan, RowMask, ScanFile};
use crate::delta::stats::{loosen, num_records};
use crate::error::{Error, Result};

/// How many files' earlier deletion vectors are read at once.
const CONCURRENT_READS: usize = 64;

/// The actions for the marked files.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    pub actions: Vec<Action>,
    /// Rows that were copied although nothing was done to them.
    pub rows_copied: u64,
}

/// A file and all rows that are no longer in it, those of its old deletion vector included.
struct Marked {
    file: ScanFile,
    gone: RoaringTreemap,
    rows: u64,
}

/// Decides for each file with marked rows, writes what is needed, and returns the actions.
pub(crate) async fn replace_files(
    plan: &CommitPlan,
    marks: BTreeMap<u32, Marks>,
    files: &mut Files,
) -> Result<Replaced> {
    let now = Utc::now().timestamp_millis();
    let (mut masked, mut copied) = (Vec::new(), Vec::new());
    let mut replaced = Replaced::default();
    let pending: Vec<_> = marks
        .into_iter()
        .filter(|(_, marks)| !marks.gone.is_empty())
        .map(|(ordinal, marks)| marked_file(plan, ordinal, marks.gone))
        .collect();
    let marked: Vec<Marked> = stream::iter(pending)
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    for marked in marked {
        replaced
            .actions
            .push(Action::Remove(marked.file.add.to_remove(now, true)));
        let left = marked.rows.saturating_sub(marked.gone.len());
        if left == 0 {
            continue;
        }
        if is_rewritten(plan, left, marked.rows) {
            replaced.rows_copied += left;
            copied.push(ScanFile {
                rows: RowMask::Except(marked.gone),
                ..marked.file
            });
        } else {
            masked.push(marked);
        }
    }
    replaced.actions.extend(mask(plan, masked, files).await?);
    replaced.actions.extend(copy(plan, copied, files).await?);
    Ok(replaced)
}

/// Deletion vectors off: always. On: when less than half of the rows are left, unless readers must infer the change rows.
fn is_rewritten(plan: &CommitPlan, left: u64, rows: u64) -> bool {
    let properties = &plan.write.target.properties;
    let inferred = properties.change_data_feed && !plan.write.change_rows;
    !properties.deletion_vectors || (left < rows / 2 && !inferred)
}

async fn marked_file(plan: &CommitPlan, ordinal: u32, gone: RoaringTreemap) -> Result<Marked> {
    let file = plan
        .scanned
        .get(ordinal as usize)
        .ok_or_else(|| Error::internal(format!("rows of the unknown file {ordinal} were marked")))?
        .clone();
    let rows = match num_records(&file.add) {
        Some(rows) => rows,
        None => count_rows(&plan.write.target.table, &file.add).await?,
    };
    let gone = match &file.add.deletion_vector {
        Some(before) => gone | deletion_vector::read(&plan.write.target.table, before).await?,
        None => gone,
    };
    Ok(Marked { file, gone, rows })
}

/// Adds the files again with their new deletion vectors, all of which stand in one file.
async fn mask(plan: &CommitPlan, marked: Vec<Marked>, files: &mut Files) -> Result<Vec<Action>> {
    if marked.is_empty() {
        return Ok(vec![]);
    }
    let (kept, bitmaps): (Vec<_>, Vec<_>) = marked
        .into_iter()
        .map(|marked| ((marked.file.add, marked.rows), marked.gone))
        .unzip();
    let (path, descriptors) =
        deletion_vector::write(plan.write.target.table.store().as_ref(), bitmaps).await?;
    files.push(path);
    let adds = kept
        .into_iter()
        .zip(descriptors)
        .map(|((add, rows), descriptor)| {
            // a file with a deletion vector must say how many rows it holds
            let stats = loosen(add.stats.as_deref().filter(|_| num_records(&add).is_some()));
            let stats =
                stats.unwrap_or_else(|| format!(r#"{{"numRecords":{rows},"tightBounds":false}}"#));
            Action::Add(Add {
                deletion_vector: Some(descriptor),
                stats: Some(stats),
                data_change: true,
                ..add
            })
        });
    Ok(adds.collect())
}

/// Writes the rows that are left of the files to new ones, in parallel.
async fn copy(plan: &CommitPlan, kept: Vec<ScanFile>, files: &mut Files) -> Result<Vec<Action>> {
    if kept.is_empty() {
        return Ok(vec![]);
    }
    let target = &plan.write.target;
    let scan = DeltaScan::new(&target.table, &target.layout, kept)
        .plan(plan.session.as_ref(), None, &[], None)
        .await?;
    let partitions = scan.properties().output_partitioning().partition_count();
    let copies = (0..partitions).map(|partition| {
        let (scan, context, mut writer) = (
            Arc::clone(&scan),
            plan.session.task_ctx(),
            DataFileWriter::new(target),
        );
        let copy = async move {
            let mut rows = scan.execute(partition, context)?;
            while let Some(batch) = rows.next().await {
                writer.write(&batch?).await?;
            }
            writer.close().await
        };
        async { tokio::spawn(copy).await.map_err(Error::internal)? }
    });
    let adds: Vec<Add> = try_join_all(copies).await?.into_iter().flatten().collect();
    adds.iter().for_each(|add| files.push_add(add));
    Ok(adds.into_iter().map(Action::Add).collect())
}

/// The commit's metrics, by the names that Delta gives them for the operation.
pub(crate) fn operation_metrics(
    operation: &str,
    counts: &RowCounts,
    actions: &[Action],
    rows_copied: u64,
) -> Map<String, Value> {
    let of =
        |wanted: fn(&Action) -> bool| actions.iter().filter(|action| wanted(action)).count() as u64;
    let added = of(|action| matches!(action, Action::Add(add) if add.deletion_vector.is_none()));
    let vectors = of(|action| matches!(action, Action::Add(add) if add.deletion_vector.is_some()));
    let removed = of(|action| matches!(action, Action::Remove(_))).saturating_sub(vectors);
    let change_files = of(|action| matches!(action, Action::Cdc(_)));
    let bytes: i64 = actions
        .iter()
        .map(|action| {
            if let Action::Add(add) = action
                && add.deletion_vector.is_none()
            {
                add.size
            } else {
                0
            }
        })
        .sum();
    let values: Vec<(&str, u64)> = match operation {
        "MERGE" | "SYNC" | "APPLY CHANGES" => vec![
            ("numTargetRowsInserted", counts.inserted),
            ("numTargetRowsUpdated", counts.updated),
            ("numTargetRowsDeleted", counts.deleted),
            ("numTargetRowsCopied", rows_copied),
            (
                "numOutputRows",
                counts.inserted + counts.updated + rows_copied,
            ),
            ("numTargetFilesAdded", added),
            ("numTargetFilesRemoved", removed),
            ("numTargetDeletionVectorsAdded", vectors),
            ("numTargetChangeFilesAdded", change_files),
        ],
        "UPDATE" => vec![
            ("numUpdatedRows", counts.updated),
            ("numCopiedRows", rows_copied),
            ("numAddedFiles", added),
            ("numRemovedFiles", removed),
            ("numDeletionVectorsAdded", vectors),
            ("numAddedChangeFiles", change_files),
        ],
        "DELETE" => vec![
            ("numDeletedRows", counts.deleted),
            ("numCopiedRows", rows_copied),
            ("numAddedFiles", added),
            ("numRemovedFiles", removed),
            ("numDeletionVectorsAdded", vectors),
            ("numAddedChangeFiles", change_files),
        ],
        _ => vec![
            ("numFiles", added),
            ("numOutputRows", counts.inserted),
            ("numOutputBytes", u64::try_from(bytes).unwrap_or(0)),
            ("numRemovedFiles", removed),
        ],
    };
    values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value.to_string())))
        .collect()
}
