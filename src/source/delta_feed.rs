//! The change data feed of a Delta table (Delta protocol, *Add CDC File*, *Reader Requirements for AddCDCFile*).
//!
//! ```text
//!  commits of the range ── History: per commit, cdc files │ adds as inserts, removes as deletes │ differences of DVs
//!                              │
//!                           FeedLog ── every version can be read, every file is there
//!                              │
//!                 UnionExec ── StreamedScan of change files and data files, in version order
//!                           └─ comparison of the rows of commits of which no changes were recorded (derive)
//! ```

mod actions;
mod bounds;
mod derive;
mod feed_files;
mod history;
mod preflight;
mod schema;
mod versions;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::project_schema;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use self::actions::FileChange;
pub(in crate::source) use self::bounds::version_bounds;
pub(crate) use self::derive::Derivation;
use self::derive::{ComparedCommit, plan_compared};
use self::feed_files::{Expired, FeedScan, changed_rows, is_of_rows, relation_schema};
use self::history::{FeedCommit, Found, Told, read_history};
use self::preflight::{Preflight, missing_files};
use self::schema::{check_schemas, compare_rewrites, feed_on_since, first_without_feed, states};
use super::{ChangeRead, ChangeSource, Clock};
use crate::change::{Bound, ChangeBounds, ChangeRange, ChangeType};
use crate::delta::DeltaTable;
use crate::delta::create::TableDefinition;
use crate::delta::log::{CommitFile, commit_fingerprint, commit_path, list_commits, version_at};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// How many rewritten commits are looked into at once.
const CONCURRENT_READS: usize = 64;

/// The change data feed of one table.
#[derive(Debug, Clone)]
pub(crate) struct DeltaFeed {
    table: DeltaTable,
    /// The version that is current for as long as this handle lives, once it has been looked up; absent for a handle that looks
    /// each time.
    pinned: Option<Arc<OnceCell<Arc<Snapshot>>>>,
    /// Whether changes say in which context they were made.
    contexts: bool,
    /// How changes are found that were not recorded; absent where they are refused.
    derivation: Option<Arc<Derivation>>,
}

impl DeltaFeed {
    /// The feed of `table`; whether there is one is found out when a range is resolved.
    pub(crate) fn new(table: DeltaTable) -> Self {
        Self {
            table,
            pinned: None,
            contexts: false,
            derivation: None,
        }
    }

    /// The feed of `table` as it stands when it is first asked: all answers are of the same moment, and none costs a look at the
    /// log again.
    pub(crate) fn pinned(table: DeltaTable) -> Self {
        Self {
            pinned: Some(Arc::default()),
            ..Self::new(table)
        }
    }

    /// The same feed with the column `_change_context`.
    pub(crate) fn with_contexts(self) -> Self {
        Self {
            contexts: true,
            ..self
        }
    }

    /// The same feed, which finds changes out where none were recorded.
    pub(crate) fn deriving(self, derivation: Derivation) -> Self {
        Self {
            derivation: Some(Arc::new(derivation)),
            ..self
        }
    }

    /// The newest version.
    pub(crate) async fn current(&self) -> Result<Arc<Snapshot>> {
        match &self.pinned {
            Some(pinned) => pinned
                .get_or_try_init(|| self.table.snapshot())
                .await
                .cloned(),
            None => self.table.snapshot().await,
        }
    }

    /// The snapshot whose schema the rows of a range have.
    pub(crate) async fn snapshot(&self, version: Option<i64>) -> Result<Arc<Snapshot>> {
        let current = self.current().await?;
        match version {
            Some(version) if version != current.version() => self.at(version, &current).await,
            _ => Ok(current),
        }
    }

    /// The snapshot at an older version.
    async fn at(&self, version: i64, current: &Snapshot) -> Result<Arc<Snapshot>> {
        match self.table.snapshot_at(version).await {
            // nothing tells any more what the table was
            Err(Error::Invalid(reason)) if version >= 0 => {
                let files = list_commits(&self.table, 0).await?;
                Err(Error::ChangesExpired {
                    table: self.table.name().into(),
                    requested: (version - 1).to_string(),
                    oldest: (self.oldest_known(&files, current).await - 1).to_string(),
                    current: current.version(),
                    reason,
                })
            }
            found => found,
        }
    }

    /// The oldest version since which every commit is there and of which it is known what the table was.
    async fn oldest_known(&self, files: &[CommitFile], current: &Snapshot) -> i64 {
        let mut low = oldest_contiguous(files, current.version());
        let mut high = current.version();
        let found = read_history(current, low, high, false).await;
        let never_changed =
            matches!(&found, Ok(Found::Whole(history)) if history.states.is_empty());
        if never_changed || self.table.snapshot_at(low).await.is_ok() {
            return low;
        }
        while low < high {
            let middle = i64::midpoint(low, high);
            match self.table.snapshot_at(middle).await {
                Ok(_) => high = middle,
                Err(_) => low = middle + 1,
            }
        }
        low
    }

    /// Reads what the log says of a range; its rows are still to be planned.
    ///
    /// # Errors
    /// [`Error::ChangesExpired`], [`Error::ChangesNotEnabled`] or [`Error::IncompatibleSchema`].
    pub(crate) async fn read_log(&self, range: ChangeRange) -> Result<FeedLog> {
        self.read_log_of(range, (i64::MIN, i64::MAX), true).await
    }

    /// The same, of the versions within `wanted` alone; with the bounds of the files' values if `keep_stats`.
    async fn read_log_of(
        &self,
        range: ChangeRange,
        wanted: (i64, i64),
        keep_stats: bool,
    ) -> Result<FeedLog> {
        let current = self.current().await?;
        let snapshot = match range.until() == current.version() {
            true => Arc::clone(&current),
            false => self.at(range.until(), &current).await?,
        };
        let (first, last) = (range.first().max(wanted.0), range.until().min(wanted.1));
        let expired = Expired {
            requested: if range.from_creation() {
                "NULL".into()
            } else {
                range.since().to_string()
            },
            current: current.version(),
        };
        let mut log = FeedLog {
            feed: self.clone(),
            range,
            snapshot,
            current,
            commits: Arc::default(),
            oldest: i64::MAX,
            vacuumed: false,
            expired,
        };
        if first > range.first() {
            log.check_begin().await?;
        }
        if first > last {
            return Ok(log);
        }
        let found = read_history(&log.current, first, last, keep_stats).await?;
        let mut history = match found {
            Found::Whole(history) => history,
            Found::Missing(version) => return Err(log.gone(version).await?),
        };
        let upper = log.snapshot.as_ref();
        let found = states(&self.table, upper, (first, last), &history.states).await;
        let states = match found {
            Err(Error::Invalid(_)) => return Err(log.gone(first).await?),
            found => found?,
        };
        if self.derivation.is_some() {
            compare_rewrites(&mut history.commits, &states);
        } else if let Some(version) = first_without_feed(&states) {
            return Err(Error::ChangesNotEnabled {
                table: self.table.name().into(),
                version,
            });
        }
        check_schemas(&self.table, upper, &history, (&states, last)).await?;
        log.oldest = history.oldest.unwrap_or(i64::MAX);
        log.vacuumed = history.vacuumed;
        log.commits = Arc::new(history.commits);
        Ok(log)
    }

    fn schema_of(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        relation_schema(&self.table, snapshot.layout(), self.contexts)
    }

    /// The oldest version from which the log is whole, the feed was never off (or changes are found out) and every file is there.
    async fn oldest_readable(&self, snapshot: &Snapshot, files: &[CommitFile]) -> Result<i64> {
        let current = snapshot.version();
        let contiguous = self.oldest_known(files, snapshot).await;
        let history = match read_history(snapshot, contiguous, current, false).await? {
            Found::Whole(history) => history,
            Found::Missing(version) => {
                return Err(Error::DamagedLog {
                    table: self.table.name().into(),
                    detail: format!("the commit of version {version} has just gone"),
                });
            }
        };
        let range = (contiguous, current);
        let states = states(&self.table, snapshot, range, &history.states).await?;
        let on_since = match self.derivation {
            Some(_) => contiguous,
            None => feed_on_since(&states, current),
        };
        let mut commits = history.commits;
        commits.retain(|commit| commit.version >= on_since);
        let gone = missing_files(&self.table, &commits).await?;
        let after = gone.into_iter().map(|(version, _)| version + 1).max();
        Ok(after.unwrap_or(on_since))
    }
}

#[async_trait]
impl ChangeSource for DeltaFeed {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn location(&self) -> String {
        self.table.location().to_string()
    }

    async fn current_version(&self) -> Result<i64> {
        Ok(self.current().await?.version())
    }

    async fn identity(&self) -> Result<String> {
        Ok(self.current().await?.metadata().id.clone())
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        commit_fingerprint(&self.table, version).await
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        let snapshot = self.snapshot(Some(version)).await?;
        Ok(Some(snapshot.timestamp().await?.saturating_mul(1000)))
    }

    async fn definition(&self, version: i64) -> Result<TableDefinition> {
        Ok(TableDefinition::copy_of(
            self.snapshot(Some(version)).await?.as_ref(),
        ))
    }

    async fn check_followable(&self) -> Result<()> {
        let snapshot = self.current().await?;
        if snapshot.properties().change_data_feed || self.derivation.is_some() {
            return Ok(());
        }
        Err(Error::ChangesNotEnabled {
            table: self.table.name().into(),
            version: snapshot.version(),
        })
    }

    fn at_once(&self) -> Option<Arc<dyn ChangeSource>> {
        let pinned = Some(self.pinned.clone().unwrap_or_default());
        Some(Arc::new(Self {
            pinned,
            ..self.clone()
        }))
    }

    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange> {
        let snapshot = self.current().await?;
        let mut clock = Clock::new(self.table.name(), snapshot.version());
        let all = [Some(&bounds.since), bounds.until.as_ref()];
        if all
            .iter()
            .flatten()
            .any(|bound| matches!(bound, Bound::Timestamp(_) | Bound::Earliest))
        {
            let files = list_commits(&self.table, 0).await?;
            for bound in all.into_iter().flatten() {
                if let Bound::Timestamp(micros) = bound {
                    clock
                        .instants
                        .insert(*micros, version_at(&snapshot, &files, *micros).await?);
                }
            }
            if bounds.since == Bound::Earliest {
                clock.earliest = self.oldest_readable(&snapshot, &files).await? - 1;
            }
        }
        bounds.resolve(&clock)
    }

    async fn schema(&self, version: Option<i64>) -> Result<SchemaRef> {
        self.schema_of(self.snapshot(version).await?.as_ref())
    }

    async fn has_changes(&self, range: ChangeRange) -> Result<bool> {
        if range.is_empty() {
            return Ok(false);
        }
        let current = self.current().await?;
        let found = read_history(&current, range.first(), range.until(), false).await?;
        // whatever is missing is told by whoever reads the changes
        Ok(match found {
            Found::Whole(history) => !history.commits.is_empty(),
            Found::Missing(_) => true,
        })
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        Ok(self.current().await?.properties().primary_key.clone())
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if range.is_empty() {
            return empty(&self.schema(Some(range.until())).await?, &read);
        }
        let wanted = version_bounds(read.filters);
        let keep_stats = read.filters.iter().any(is_of_rows);
        let log = self.read_log_of(range, wanted, keep_stats).await?;
        log.plan(read).await
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot(Some(version)).await?;
        let timestamp = snapshot.timestamp().await?.saturating_mul(1000);
        let adds = snapshot.files().await?;
        let adds = adds.iter().map(|add| add.as_ref().clone());
        let inserted = adds.map(FileChange::Added);
        let commit = FeedCommit {
            version,
            timestamp,
            context: None,
            keeps_row_ids: true,
            told: Told::DataFiles(inserted.collect()),
        };
        let expired = Expired {
            requested: version.to_string(),
            current: version,
        };
        let scan = FeedScan::prune(self, snapshot.layout(), vec![commit], &read)?;
        match scan.plan(None, expired, &read)? {
            Some(plan) => Ok(plan),
            None => empty(&self.schema_of(&snapshot)?, &read),
        }
    }
}

/// What the log says of a range.
#[derive(Debug, Clone)]
pub(crate) struct FeedLog {
    feed: DeltaFeed,
    range: ChangeRange,
    snapshot: Arc<Snapshot>,
    current: Arc<Snapshot>,
    /// Those that change rows.
    commits: Arc<Vec<FeedCommit>>,
    oldest: i64,
    vacuumed: bool,
    expired: Expired,
}

impl FeedLog {
    /// Whether any of the commits says in which context it was made.
    pub(crate) fn has_contexts(&self) -> bool {
        self.commits.iter().any(|commit| commit.context.is_some())
    }

    /// Plans the read of the changes, once every file is known to be there.
    pub(crate) async fn plan(self, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let preflight = Preflight {
            table: &self.feed.table,
            current: &self.current,
            until: self.range.until(),
            oldest: self.oldest,
            vacuumed: self.vacuumed,
        };
        let commits = Arc::unwrap_or_clone(self.commits);
        let scan = FeedScan::prune(&self.feed, self.snapshot.layout(), commits, &read)?;
        preflight.check(&scan.commits, &self.expired).await?;
        let context = (&self.feed, self.snapshot.as_ref());
        let compared = compared(context, &scan.commits, &read).await?;
        let versions = self.range.until() - self.range.since();
        let files = scan.plan(Some(versions), self.expired, &read)?;
        let mut plans = files.into_iter().chain(compared);
        match (plans.next(), plans.next()) {
            (Some(first), Some(second)) => Ok(UnionExec::try_new(vec![first, second])?),
            (Some(only), None) => Ok(only),
            _ => empty(&self.feed.schema_of(&self.snapshot)?, &read),
        }
    }

    /// Refuses a range whose first commit is gone, if it is not read anyway.
    async fn check_begin(&self) -> Result<()> {
        let first = self.range.first();
        match self.feed.table.store().head(&commit_path(first)).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => Err(self.gone(first).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// What to tell where the commit of `version` is gone.
    async fn gone(&self, version: i64) -> Result<Error> {
        let files = list_commits(&self.feed.table, 0).await?;
        let oldest = self.feed.oldest_known(&files, &self.current).await;
        Ok(Error::ChangesExpired {
            table: self.feed.table.name().into(),
            requested: self.expired.requested.clone(),
            oldest: (oldest - 1).to_string(),
            current: self.expired.current,
            reason: format!("the log of version {version} is gone"),
        })
    }
}

/// The changes of which nothing but their outcome is known.
async fn compared(
    (feed, snapshot): (&DeltaFeed, &Snapshot),
    commits: &[FeedCommit],
    read: &ChangeRead<'_>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(derivation) = &feed.derivation else {
        return Ok(None);
    };
    let (low, high) = version_bounds(read.filters);
    let wanted = commits.iter().filter_map(|commit| match &commit.told {
        Told::Comparison(changes, row_ids) if (low..=high).contains(&commit.version) => {
            Some((commit, changes.as_slice(), row_ids.clone()))
        }
        _ => None,
    });
    let table = &feed.table;
    let reads: Vec<_> = wanted
        .map(|(commit, changes, row_ids)| rewritten(table, commit, (changes, row_ids)))
        .collect();
    let compared: Vec<ComparedCommit> = futures::stream::iter(reads)
        .buffered(CONCURRENT_READS)
        .try_collect()
        .await?;
    if compared.is_empty() {
        return Ok(None);
    }
    let (layout, contexts) = (snapshot.layout(), feed.contexts);
    plan_compared(table, layout, compared, derivation, contexts, read)
        .await
        .map(Some)
}

/// The rows that a commit took away, and those that it brought.
async fn rewritten(
    table: &DeltaTable,
    commit: &FeedCommit,
    (changes, row_ids): (&[FileChange], Option<String>),
) -> Result<ComparedCommit> {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for change in changes {
        for (add, rows, change_type) in changed_rows(table, change).await? {
            match change_type {
                ChangeType::Delete => removed.push((add, rows)),
                _ => added.push((add, rows)),
            }
        }
    }
    Ok(ComparedCommit {
        version: commit.version,
        timestamp: commit.timestamp,
        context: commit.context.clone(),
        removed,
        added,
        row_ids,
    })
}

fn empty(schema: &SchemaRef, read: &ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
    let projected = project_schema(schema, read.projection)?;
    Ok(Arc::new(EmptyExec::new(projected)))
}

/// The oldest version from which every commit up to `current` is still there.
pub(super) fn oldest_contiguous(files: &[CommitFile], current: i64) -> i64 {
    let mut oldest = current + 1;
    for file in files.iter().rev().filter(|file| file.version <= current) {
        if file.version != oldest - 1 {
            break;
        }
        oldest = file.version;
    }
    oldest
}
