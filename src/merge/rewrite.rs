//! What becomes of the files that have marked rows: a new deletion vector, a copy without them, or nothing at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use chrono::Utc;
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, case, col, is_not_null};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::{StreamExt, TryStreamExt, stream};
use roaring::RoaringTreemap;
use tokio::task::JoinSet;

use super::commit_exec::CommitPlan;
use super::row_format::ROW;
use super::write_exec::Marks;
use super::zorder::sort_rows;
use crate::delta::actions::{Action, Add};
use crate::delta::data_file::{DataFileWriter, WriteTarget, count_rows};
use crate::delta::deletion_vector;
use crate::delta::reconcile::TouchedRows;
use crate::delta::row_tracking::RowTracking;
use crate::delta::scan::{DeltaScan, RowMask, ScanFile};
use crate::delta::stats::{loosen, num_records};
use crate::delta::unnamed_files::UnnamedFiles;
use crate::error::{Error, Result};

/// How many files' earlier deletion vectors are read at once.
const CONCURRENT_READS: usize = 64;

/// The actions for the marked files.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    pub actions: Vec<Action>,
    /// Files whose remaining rows were copied.
    pub files_copied: u64,
    /// Rows that were copied although nothing was done to them.
    pub rows_copied: u64,
    /// The rows that were matched in each file, by its path.
    pub touched: HashMap<String, TouchedRows>,
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
    written: &UnnamedFiles,
) -> Result<Replaced> {
    let now = Utc::now().timestamp_millis();
    let (mut masked, mut copied) = (Vec::new(), Vec::new());
    let mut replaced = Replaced::default();
    let mut pending = Vec::with_capacity(marks.len());
    for (ordinal, marks) in marks {
        let file = scanned(plan, ordinal)?;
        if !marks.gone.is_empty() {
            pending.push(marked_file(plan, file.clone(), marks.gone.clone()));
        }
        let touched = TouchedRows {
            gone: marks.gone,
            kept: marks.kept,
            before: file.add.deletion_vector.clone(),
            stays: false,
        };
        replaced.touched.insert(file.add.path.clone(), touched);
    }
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
            replaced.files_copied += 1;
            replaced.rows_copied += left;
            copied.push(ScanFile {
                rows: RowMask::Except(marked.gone),
                ..marked.file
            });
        } else {
            if let Some(touched) = replaced.touched.get_mut(&marked.file.add.path) {
                touched.stays = true;
            }
            masked.push(marked);
        }
    }
    replaced.actions.extend(mask(masked, written).await?);
    let target = &plan.write.target;
    let copies = copy_rows(target, &plan.session, copied, None, written).await?;
    replaced.actions.extend(copies.into_iter().map(Action::Add));
    Ok(replaced)
}

fn scanned(plan: &CommitPlan, ordinal: u32) -> Result<ScanFile> {
    let file = plan.scanned.get(ordinal as usize).cloned();
    let file = file.map(ScanFile::live);
    file.ok_or_else(|| Error::internal(format!("rows of the unknown file {ordinal} were marked")))
}

/// Deletion vectors off: always. On: when less than half of the rows are left, unless readers must infer the change rows.
fn is_rewritten(plan: &CommitPlan, left: u64, rows: u64) -> bool {
    let properties = &plan.write.target.properties;
    let inferred = properties.change_data_feed && !plan.write.change_rows;
    !properties.deletion_vectors || (left < rows / 2 && !inferred)
}

async fn marked_file(plan: &CommitPlan, file: ScanFile, gone: RoaringTreemap) -> Result<Marked> {
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
async fn mask(marked: Vec<Marked>, written: &UnnamedFiles) -> Result<Vec<Action>> {
    if marked.is_empty() {
        return Ok(vec![]);
    }
    let (kept, bitmaps): (Vec<_>, Vec<_>) = marked
        .into_iter()
        .map(|marked| ((marked.file.add, marked.rows), marked.gone))
        .unzip();
    let (_, descriptors) = deletion_vector::write(written.store().as_ref(), bitmaps).await?;
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
                ..Arc::unwrap_or_clone(add)
            })
        });
    Ok(adds.collect())
}

/// In which order rows are copied.
#[derive(Debug, Clone)]
pub(crate) enum SortKey {
    /// Along a Z-order curve over the columns at these positions.
    ZOrder(Vec<usize>),
}

/// Writes the rows that are left of files to new ones, in parallel; the rows keep their ids where the table keeps those.
///
/// # Errors
/// When a file cannot be read or written; `written` knows what was by then.
pub(crate) async fn copy_rows(
    target: &WriteTarget,
    session: &Arc<SessionState>,
    files: Vec<ScanFile>,
    order: Option<SortKey>,
    written: &UnnamedFiles,
) -> Result<Vec<Add>> {
    if files.is_empty() {
        return Ok(vec![]);
    }
    let tracking = target.properties.row_tracking.as_ref();
    let mut scan = DeltaScan::new(&target.table, &target.layout, files);
    if let Some(tracking) = tracking {
        with_defaults(&mut scan, tracking);
    }
    let rows = scan.plan(session.as_ref(), None, &[], None).await?;
    let mut rows = match tracking {
        Some(tracking) => with_row_ids(rows, target, tracking)?,
        None => rows,
    };
    if let Some(SortKey::ZOrder(columns)) = order {
        rows = sort_rows(rows, &columns, session)?;
    }
    let more: Vec<FieldRef> = tracking.map_or_else(Vec::new, |tracking| {
        vec![tracking.row_id(), tracking.commit_version()]
    });
    let mut copies = JoinSet::new();
    for partition in 0..rows.properties().output_partitioning().partition_count() {
        let (rows, context) = (Arc::clone(&rows), session.task_ctx());
        let mut writer = DataFileWriter::new(target, more.clone(), written);
        copies.spawn(async move {
            let mut rows = rows.execute(partition, context)?;
            while let Some(batch) = rows.next().await {
                writer.write(&batch?).await?;
            }
            writer.close().await
        });
    }
    let mut adds = Vec::new();
    while let Some(copy) = copies.join_next().await {
        adds.extend(copy.map_err(Error::internal)??);
    }
    Ok(adds)
}

/// The first row id of a file.
pub(super) const BASE_ROW_ID: &str = "__alluvial_base_row_id";
/// The version that added a file.
const FILE_VERSION: &str = "__alluvial_file_version";

/// Has the scan read what row ids and row versions are made of.
fn with_defaults(scan: &mut DeltaScan, tracking: &RowTracking) {
    let number = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    scan.file_columns = vec![tracking.row_id(), tracking.commit_version()];
    scan.constants = vec![number(BASE_ROW_ID), number(FILE_VERSION)];
    scan.row_number = Some(ROW.into());
    for file in &mut scan.files {
        file.constants = vec![
            ScalarValue::Int64(file.add.base_row_id),
            ScalarValue::Int64(file.add.default_row_commit_version),
        ];
    }
}

/// The table's columns, then the id of each row and the version that changed it last.
fn with_row_ids(
    rows: Arc<dyn ExecutionPlan>,
    target: &WriteTarget,
    tracking: &RowTracking,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let position = first_id_and_position(&schema)?;
    let version = col(FILE_VERSION, &schema)?;
    let tracked = [
        (tracking.row_id(), position),
        (tracking.commit_version(), version),
    ];
    let columns = target.layout.schema().fields().iter();
    let mut columns = columns
        .map(|field| Ok((col(field.name(), &schema)?, field.name().clone())))
        .collect::<Result<Vec<_>>>()?;
    for (field, default) in tracked {
        columns.push((or_default(&field, default, &schema)?, field.name().clone()));
    }
    Ok(Arc::new(ProjectionExec::try_new(columns, rows)?))
}

/// The id that a row has by its place: the file's first one and the row's position.
pub(super) fn first_id_and_position(rows: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let (first, position) = (col(BASE_ROW_ID, rows)?, col(ROW, rows)?);
    Ok(binary(first, Operator::Plus, position, rows)?)
}

/// What a file keeps of its rows, and the default where that is NULL.
pub(super) fn or_default(
    kept: &Field,
    default: Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let kept = col(kept.name(), schema)?;
    let is_kept = is_not_null(Arc::clone(&kept))?;
    Ok(case(None, vec![(is_kept, kept)], Some(default))?)
}
