//! The files that tell the changes of a range, as one scan of all of them.
//!
//! In a change file the change type stands beside each row; of a data file it is a constant. So there are two lanes.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
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
    change_schema, metadata_columns,
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
    commits: Vec<FeedCommit>,
    /// By the position of the commit and that of the file in it.
    files: Vec<(u32, u32)>,
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

/// The files of a range that may have rows that are wanted, and how they are read.
pub(super) struct FeedScan {
    feed: DeltaFeed,
    /// How columns of mapped files get their names back, and which columns are wanted.
    naming: (DeltaScan, Vec<usize>),
    lanes: Vec<Lane>,
    /// With these files only, and those of commits that are told by comparison.
    pub commits: Vec<FeedCommit>,
    /// How many files there were.
    total: usize,
    /// How many rows there may be.
    rows: u64,
}

impl FeedScan {
    /// Leaves out the files that have no rows that are wanted.
    pub(super) fn prune(
        feed: &DeltaFeed,
        layout: &Arc<TableLayout>,
        commits: Vec<FeedCommit>,
        read: &ChangeRead<'_>,
    ) -> Result<Self> {
        let lanes = [DATA, CHANGES].map(|lane| feed_scan(feed, layout, lane));
        let output = lanes[DATA].output(read.projection);
        let naming = (lanes[DATA].clone(), output);
        let lanes = lanes
            .into_iter()
            .map(|scan| scan.into_lane(read.state, read.projection, read.filters))
            .collect::<Result<Vec<Lane>>>()?;
        let total = commits.iter().map(FeedCommit::file_count).sum();
        let mut pruning = Pruning {
            lanes: &lanes,
            contexts: feed.contexts,
            kept: vec![],
            rows: 0,
            batch: vec![],
        };
        for commit in &commits {
            for file in 0..commit.file_count() {
                pruning.add(commit, file)?;
            }
        }
        pruning.flush()?;
        let (mut kept, rows) = (pruning.kept.into_iter(), pruning.rows);
        let mut is_kept = || kept.next().unwrap_or(true);
        let left = commits.into_iter().map(|mut commit| {
            commit.retain_files(&mut is_kept);
            commit
        });
        Ok(Self {
            commits: left.filter(|commit| !commit.told.is_empty()).collect(),
            feed: feed.clone(),
            naming,
            lanes,
            total,
            rows,
        })
    }

    /// Plans the read; `None` where there is no file to read. The files are of so many `versions`, or stand for the rows of one.
    pub(super) fn plan(
        self,
        versions: Option<i64>,
        expired: Expired,
        read: &ChangeRead<'_>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let files: Vec<(u32, u32)> = (0_u32..)
            .zip(&self.commits)
            .flat_map(|(index, commit)| {
                let files = (0_u32..).take(commit.file_count());
                files.map(move |file| (index, file))
            })
            .collect();
        if files.is_empty() {
            return Ok(None);
        }
        let read_commits = match versions {
            Some(versions) => {
                let read = self.commits.iter().filter(|commit| commit.file_count() > 0);
                format!(", commits={} of {versions}", read.count())
            }
            None => String::new(),
        };
        let (table, total) = (self.feed.table.name(), self.total);
        let description = format!(
            "delta={table}{read_commits}, files={} of {total}",
            files.len()
        );
        let files = Arc::new(FeedFiles {
            feed: self.feed,
            commits: self.commits,
            files,
            expired,
        });
        let partitions = read.state.config().target_partitions();
        let scan = StreamedScan::new(self.lanes, files, COMMIT_VERSION, partitions, description)
            .with_rows(read.limit, usize::try_from(self.rows).ok());
        let (naming, output) = self.naming;
        let plan = naming.rename(DataSourceExec::from_data_source(scan), &output)?;
        Ok(Some(plan))
    }
}

/// Finds out which files may have rows that are wanted, for many at once.
struct Pruning<'a> {
    lanes: &'a [Lane],
    contexts: bool,
    kept: Vec<bool>,
    rows: u64,
    /// What may be read of each, and how many rows that is.
    batch: Vec<(Vec<(usize, ScanFile)>, u64)>,
}

impl Pruning<'_> {
    fn add(&mut self, commit: &FeedCommit, file: usize) -> Result<()> {
        let candidates = candidates(commit, file, self.contexts);
        let rows = rows_of(commit, file, &candidates);
        self.batch.push((candidates, rows));
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
            for (position, (candidates, _)) in batch.iter().enumerate() {
                for (_, file) in candidates.iter().filter(|(lane, _)| *lane == index) {
                    positions.push(position);
                    files.push(file.clone());
                }
            }
            for (position, may_match) in positions.into_iter().zip(lane.may_match(&files)?) {
                wanted[position] |= may_match;
            }
        }
        for ((_, rows), wanted) in batch.into_iter().zip(wanted) {
            self.kept.push(wanted);
            self.rows += if wanted { rows } else { 0 };
        }
        Ok(())
    }
}

/// How many rows a file may tell changes of.
fn rows_of(commit: &FeedCommit, file: usize, candidates: &[(usize, ScanFile)]) -> u64 {
    if let Told::DataFiles(changes) = &commit.told
        && let FileChange::Masked(pair) = &changes[file]
    {
        let masked = |vector: &Option<DeletionVectorDescriptor>| {
            vector.as_ref().map_or(0, |vector| vector.cardinality)
        };
        return masked(&pair.0.deletion_vector).abs_diff(masked(&pair.1.deletion_vector));
    }
    candidates.first().map_or(0, |(_, file)| {
        let guess = || 1 + u64::try_from(file.add.size).unwrap_or(0) / GUESSED_ROW_BYTES;
        file.row_count().unwrap_or_else(guess)
    })
}

/// What may be read of a file of a commit, as far as that is known without looking into anything.
fn candidates(commit: &FeedCommit, file: usize, contexts: bool) -> Vec<(usize, ScanFile)> {
    let constants = commit_constants(commit, contexts);
    let data =
        |add: Add, change: ChangeType| (DATA, data_file(add, RowMask::Live, change, &constants));
    match &commit.told {
        Told::ChangeFiles(files) => {
            vec![(CHANGES, change_file(&files[file], constants))]
        }
        Told::DataFiles(changes) => match &changes[file] {
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

impl FeedFiles {
    /// A file's commit, and its position in that.
    fn place(&self, index: usize) -> (&FeedCommit, usize) {
        let (commit, file) = self.files[index];
        (&self.commits[commit as usize], file as usize)
    }
}

#[async_trait]
impl FileList for FeedFiles {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn size(&self, index: usize) -> u64 {
        let (commit, file) = self.place(index);
        match &commit.told {
            Told::ChangeFiles(files) => u64::try_from(files[file].size).unwrap_or(0),
            Told::DataFiles(changes) => changes[file].size(),
            Told::Comparison(..) => 0,
        }
    }

    async fn expand(&self, index: usize) -> Result<Vec<(usize, ScanFile)>> {
        let (commit, file) = self.place(index);
        let Told::DataFiles(changes) = &commit.told else {
            return Ok(candidates(commit, file, self.feed.contexts));
        };
        let constants = commit_constants(commit, self.feed.contexts);
        let changes = changed_rows(&self.feed.table, &changes[file]).await?;
        let file = |(add, rows, change)| (DATA, data_file(add, rows, change, &constants));
        Ok(changes.into_iter().map(file).collect())
    }

    async fn missing(&self, path: &str) -> Option<Error> {
        let table = &self.feed.table;
        for commit in &self.commits {
            for (raw, location) in commit.locations(table).ok()? {
                if path.ends_with(location.path.as_ref()) {
                    let version = commit.version;
                    return Some(self.expired.file_gone(table, &raw, version, version));
                }
            }
        }
        None
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
        add: Arc::new(add),
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
        add: Arc::new(add),
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
fn context_column() -> Option<FieldRef> {
    let mut columns = metadata_columns().into_iter();
    columns.find(|field| field.name() == CHANGE_CONTEXT)
}

/// The columns of the changes of a version.
pub(super) fn relation_schema(
    table: &DeltaTable,
    layout: &TableLayout,
    contexts: bool,
) -> Result<SchemaRef> {
    let schema = change_schema(table.name(), layout.schema())?;
    if !contexts {
        return Ok(schema);
    }
    let fields = schema.fields().iter().cloned();
    let fields = fields.chain(context_column());
    Ok(Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>())))
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
