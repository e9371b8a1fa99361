//! The files that tell the changes of a range, as one scan of all of them.
//!
//! In a change file the change type stands beside each row; of a data file it is a constant. So there are two lanes.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use object_store::ObjectStoreExt;
use roaring::RoaringTreemap;

use super::DeltaFeed;
use super::actions::FileChange;
use super::history::{FeedCommit, Told};
use crate::change::{
    CHANGE_CONTEXT, CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType, change_columns,
    metadata_columns,
};
use crate::delta::actions::{Add, AddCdcFile, DeletionVectorDescriptor, Remove};
use crate::delta::layout::TableLayout;
use crate::delta::scan::{DeltaScan, RowMask, ScanFile};
use crate::delta::streamed_scan::{FileList, StreamedScan};
use crate::delta::{DeltaTable, Lane, deletion_vector};
use crate::error::{Error, Result};
use crate::source::ChangeRead;

/// The lane of data files, and that of change files.
const DATA: usize = 0;
const CHANGES: usize = 1;
/// How many files' statistics are looked at together.
const PRUNED_AT_ONCE: usize = 1024;
/// What a row of a change file takes, where nobody knows.
const GUESSED_ROW_BYTES: u64 = 32;

/// The files of a range.
#[derive(Debug)]
struct FeedFiles {
    feed: DeltaFeed,
    commits: Arc<Vec<FeedCommit>>,
    /// Which of them are read, by the position of the commit and that of the file in it.
    kept: Vec<(u32, u32)>,
    expired: Expired,
}

/// How to tell that a file has gone.
#[derive(Debug, Clone)]
pub(super) struct Expired {
    /// The lower bound, as it was asked for.
    pub requested: String,
    /// The newest version.
    pub current: i64,
}

impl Expired {
    /// What to tell of a file of `version`.
    pub(super) fn file_gone(
        &self,
        table: &DeltaTable,
        path: &str,
        version: i64,
        newest: i64,
    ) -> Error {
        Error::ChangesExpired {
            table: table.name().into(),
            requested: self.requested.clone(),
            oldest: newest.to_string(),
            current: self.current,
            reason: format!(
                "the file {path} of version {version} is gone (VACUUM removes files that the table no longer needs)"
            ),
        }
    }
}

/// Plans the read of all files that change files and data files tell the changes by; `None` where there are none to read. `commits`
/// are of `total`.
pub(super) async fn plan_files(
    feed: &DeltaFeed,
    layout: &Arc<TableLayout>,
    commits: Arc<Vec<FeedCommit>>,
    total: i64,
    expired: Expired,
    read: &ChangeRead<'_>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let lanes = [DATA, CHANGES].map(|lane| feed_scan(feed, layout, lane));
    let output = lanes[DATA].output(read.projection);
    let renamed = lanes[DATA].clone();
    let lanes = lanes
        .into_iter()
        .map(|scan| scan.into_lane(read.state, read.projection, read.filters))
        .collect::<Result<Vec<Lane>>>()?;
    let (kept, files, rows) = prune(&commits, &lanes, feed.contexts)?;
    if kept.is_empty() {
        return Ok(None);
    }
    let versions: HashSet<u32> = kept.iter().map(|(commit, _)| *commit).collect();
    let description = format!(
        "delta={}, commits={} of {total}, files={} of {files}",
        feed.table.name(),
        versions.len(),
        kept.len(),
    );
    let files = FeedFiles {
        feed: feed.clone(),
        commits,
        kept,
        expired,
    };
    let partitions = read.state.config().target_partitions();
    let scan = StreamedScan::new(
        lanes,
        Arc::new(files),
        COMMIT_VERSION,
        partitions,
        description,
    )
    .with_rows(read.limit, usize::try_from(rows).ok());
    let plan = renamed.rename(DataSourceExec::from_data_source(scan), &output)?;
    Ok(Some(plan))
}

/// Which files may have rows that are wanted, of how many, and how many rows these may have.
fn prune(
    commits: &[FeedCommit],
    lanes: &[Lane],
    contexts: bool,
) -> Result<(Vec<(u32, u32)>, usize, u64)> {
    let mut pruning = Pruning {
        lanes,
        contexts,
        kept: vec![],
        rows: 0,
        batch: vec![],
    };
    let mut total = 0;
    for (commit_index, commit) in (0_u32..).zip(commits) {
        for file_index in (0_u32..).take(file_count(commit)) {
            total += 1;
            pruning.add(commit, (commit_index, file_index))?;
        }
    }
    pruning.flush()?;
    Ok((pruning.kept, total, pruning.rows))
}

/// The files that may have rows that are wanted, found out for many at once.
struct Pruning<'a> {
    lanes: &'a [Lane],
    contexts: bool,
    kept: Vec<(u32, u32)>,
    rows: u64,
    /// Where each is, and what may be read of it.
    batch: Vec<((u32, u32), Vec<(usize, ScanFile)>)>,
}

impl Pruning<'_> {
    fn add(&mut self, commit: &FeedCommit, place: (u32, u32)) -> Result<()> {
        let files = candidates(commit, place.1, self.contexts);
        self.batch.push((place, files));
        if self.batch.len() >= PRUNED_AT_ONCE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let mut wanted = vec![false; batch.len()];
        for (index, lane) in self.lanes.iter().enumerate() {
            let (mut positions, mut files) = (Vec::new(), Vec::new());
            for (position, (_, candidates)) in batch.iter().enumerate() {
                for (_, file) in candidates.iter().filter(|(lane, _)| *lane == index) {
                    positions.push(position);
                    files.push(file.clone());
                }
            }
            for (position, may_match) in positions.into_iter().zip(lane.may_match(&files)?) {
                wanted[position] |= may_match;
            }
        }
        for ((place, candidates), wanted) in batch.into_iter().zip(wanted) {
            if wanted {
                self.kept.push(place);
                self.rows += candidates.first().map_or(0, |(_, file)| rows_of(file));
            }
        }
        Ok(())
    }
}

fn rows_of(file: &ScanFile) -> u64 {
    let guess = || 1 + u64::try_from(file.add.size).unwrap_or(0) / GUESSED_ROW_BYTES;
    file.row_count().unwrap_or_else(guess)
}

fn file_count(commit: &FeedCommit) -> usize {
    match &commit.told {
        Told::ChangeFiles(files) => files.len(),
        Told::DataFiles(changes) => changes.len(),
        Told::Comparison(..) => 0,
    }
}

/// What may be read of a file of a commit, as far as that is known without looking into anything.
fn candidates(commit: &FeedCommit, file: u32, contexts: bool) -> Vec<(usize, ScanFile)> {
    let constants = commit_constants(commit, contexts);
    let data =
        |add: Add, change: ChangeType| (DATA, data_file(add, RowMask::Live, change, &constants));
    match &commit.told {
        Told::ChangeFiles(files) => {
            vec![(CHANGES, change_file(&files[file as usize], constants))]
        }
        Told::DataFiles(changes) => match &changes[file as usize] {
            FileChange::Added(add) => vec![data(add.clone(), ChangeType::Insert)],
            FileChange::Removed(remove) => vec![data(as_add(remove), ChangeType::Delete)],
            FileChange::Masked(pair) => vec![
                data(pair.1.clone(), ChangeType::Delete),
                data(pair.1.clone(), ChangeType::Insert),
            ],
        },
        Told::Comparison(..) => vec![],
    }
}

#[async_trait]
impl FileList for FeedFiles {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn size(&self, index: usize) -> u64 {
        let (commit, file) = self.kept[index];
        match &self.commits[commit as usize].told {
            Told::ChangeFiles(files) => u64::try_from(files[file as usize].size).unwrap_or(0),
            Told::DataFiles(changes) => changes[file as usize].size(),
            Told::Comparison(..) => 0,
        }
    }

    async fn expand(&self, index: usize) -> Result<Vec<(usize, ScanFile)>> {
        let (commit, file) = self.kept[index];
        let commit = &self.commits[commit as usize];
        let Told::DataFiles(changes) = &commit.told else {
            return Ok(candidates(commit, file, self.feed.contexts));
        };
        let constants = commit_constants(commit, self.feed.contexts);
        let changes = changed_rows(&self.feed.table, &changes[file as usize]).await?;
        let file = |(add, rows, change)| (DATA, data_file(add, rows, change, &constants));
        Ok(changes.into_iter().map(file).collect())
    }

    async fn missing(&self, path: &str) -> Option<Error> {
        let mut gone: Option<(i64, &str)> = None;
        for commit in self.commits.iter() {
            for raw in commit.told.paths() {
                let location = self.feed.table.locate(raw).ok();
                if location.is_some_and(|location| path.ends_with(location.path.as_ref())) {
                    gone.get_or_insert((commit.version, raw));
                }
            }
        }
        let oldest = self.commits.first().map_or(-1, |commit| commit.version);
        let (version, raw) = gone.unwrap_or((oldest, path));
        let table = &self.feed.table;
        Some(self.expired.file_gone(table, raw, version, version))
    }
}

/// The rows that a file change inserts and deletes.
pub(super) async fn changed_rows(
    table: &DeltaTable,
    change: &FileChange,
) -> Result<Vec<(Add, RowMask, ChangeType)>> {
    Ok(match change {
        FileChange::Added(add) => vec![(add.clone(), RowMask::Live, ChangeType::Insert)],
        FileChange::Removed(remove) => {
            let add = sized(table, as_add(remove)).await?;
            vec![(add, RowMask::Live, ChangeType::Delete)]
        }
        FileChange::Masked(pair) => {
            let (remove, add) = pair.as_ref();
            let (old, new) = futures::try_join!(
                read_vector(table, remove.deletion_vector.as_ref()),
                read_vector(table, add.deletion_vector.as_ref()),
            )?;
            let changed = [
                (&new - &old, ChangeType::Delete),
                (&old - &new, ChangeType::Insert),
            ];
            changed
                .into_iter()
                .filter(|(rows, _)| !rows.is_empty())
                .map(|(rows, change)| (add.clone(), RowMask::Only(rows), change))
                .collect()
        }
    })
}

async fn read_vector(
    table: &DeltaTable,
    descriptor: Option<&DeletionVectorDescriptor>,
) -> Result<RoaringTreemap> {
    match descriptor {
        Some(descriptor) => deletion_vector::read(table, descriptor).await,
        None => Ok(RoaringTreemap::new()),
    }
}

/// A removed file as something to scan.
fn as_add(remove: &Remove) -> Add {
    Add {
        path: remove.path.clone(),
        partition_values: remove.partition_values.clone().unwrap_or_default(),
        size: remove.size.unwrap_or(0),
        deletion_vector: remove.deletion_vector.clone(),
        base_row_id: remove.base_row_id,
        default_row_commit_version: remove.default_row_commit_version,
        data_change: true,
        ..Add::default()
    }
}

/// The file with the size that the store knows, where the log does not say.
async fn sized(table: &DeltaTable, add: Add) -> Result<Add> {
    if add.size > 0 {
        return Ok(add);
    }
    let location = table.locate(&add.path)?;
    let meta = location.store_of(table).head(&location.path).await?;
    Ok(Add {
        size: i64::try_from(meta.size).unwrap_or(i64::MAX),
        ..add
    })
}

fn data_file(add: Add, rows: RowMask, change: ChangeType, of_commit: &[ScalarValue]) -> ScanFile {
    let mut constants = vec![ScalarValue::from(change.as_str())];
    constants.extend_from_slice(of_commit);
    ScanFile {
        add,
        rows,
        constants,
    }
}

fn change_file(file: &AddCdcFile, constants: Vec<ScalarValue>) -> ScanFile {
    let add = Add {
        path: file.path.clone(),
        partition_values: file.partition_values.clone(),
        size: file.size,
        ..Add::default()
    };
    ScanFile {
        add,
        rows: RowMask::Live,
        constants,
    }
}

fn commit_constants(commit: &FeedCommit, contexts: bool) -> Vec<ScalarValue> {
    let mut constants = vec![
        ScalarValue::Int64(Some(commit.version)),
        ScalarValue::TimestampMicrosecond(Some(commit.timestamp), Some("UTC".into())),
    ];
    if contexts {
        constants.push(ScalarValue::Binary(commit.context.clone()));
    }
    constants
}

/// The scan of files of a lane, without the files.
fn feed_scan(feed: &DeltaFeed, layout: &Arc<TableLayout>, lane: usize) -> DeltaScan {
    let mut constants = change_columns();
    if feed.contexts {
        constants.extend(context_column());
    }
    let mut scan = DeltaScan::new(&feed.table, layout, vec![]);
    if lane == CHANGES {
        constants.remove(0);
        scan.file_columns =
            vec![Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)) as FieldRef];
    }
    scan.constants = constants;
    scan
}

/// The column with what is said of a commit's origin.
pub(super) fn context_column() -> Option<FieldRef> {
    let mut columns = metadata_columns().into_iter();
    columns.find(|field| field.name() == CHANGE_CONTEXT)
}

/// Whether a filter is about anything but the commit and the kind of change.
pub(super) fn is_of_rows(filter: &Expr) -> bool {
    let of_commit = [
        CHANGE_TYPE,
        COMMIT_VERSION,
        COMMIT_TIMESTAMP,
        CHANGE_CONTEXT,
    ];
    let columns = filter.column_refs();
    let mut names = columns.iter();
    names.any(|column| !of_commit.contains(&column.name.as_str()))
}
