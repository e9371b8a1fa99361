//! The change data feed of a Delta table (Delta protocol, *Add CDC File*, *Reader Requirements for AddCDCFile*).
//!
//! ```text
//!  commits of the range ── FeedPlan: per commit, cdc files │ adds as inserts, removes as deletes │ differences of DVs
//!                              │
//!                 UnionExec ── DeltaScan of change files   (_change_type stands in the file)
//!                           └─ DeltaScan of data files     (_change_type is a constant of each file)
//! ```

mod actions;
mod schema;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::Utc;
use datafusion::common::{ScalarValue, project_schema};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use self::actions::{FeedFiles, inserted_file, plan_commits};
use self::schema::{FeedCheck, check_range};
use super::{ChangeRead, ChangeSource, Clock};
use crate::change::{
    Bound, CHANGE_CONTEXT, CHANGE_TYPE, COMMIT_VERSION, ChangeBounds, ChangeRange, change_columns,
    change_schema, metadata_columns,
};
use crate::delta::DeltaTable;
use crate::delta::actions::decode_path;
use crate::delta::create::TableDefinition;
use crate::delta::layout::TableLayout;
use crate::delta::log::{
    Commit, CommitFile, CommitRange, commit_fingerprint, list_commits, read_commits, read_range,
    version_at,
};
use crate::delta::scan::{DeltaScan, ScanFile};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// How many files are looked for at once.
const CONCURRENT_HEADS: usize = 64;
/// So few files are always looked for before the first row is returned; more only where VACUUM may have been at work.
const ALWAYS_CHECKED_FILES: usize = 256;

/// The change data feed of one table.
#[derive(Debug, Clone)]
pub(crate) struct DeltaFeed {
    table: DeltaTable,
    /// The version that is current for as long as this handle lives, once it has been looked up; absent for a handle that looks
    /// each time.
    pinned: Option<Arc<OnceCell<Arc<Snapshot>>>>,
    /// Whether changes say in which context they were made.
    contexts: bool,
}

impl DeltaFeed {
    /// The feed of `table`; whether there is one is found out when a range is resolved.
    pub(crate) fn new(table: DeltaTable) -> Self {
        Self {
            table,
            pinned: None,
            contexts: false,
        }
    }

    /// The feed of `table` as it stands when it is first asked: all answers are of the same moment, and none costs a look at the
    /// log again.
    pub(crate) fn pinned(table: DeltaTable) -> Self {
        Self {
            table,
            pinned: Some(Arc::default()),
            contexts: false,
        }
    }

    /// The same feed with the column `_change_context`.
    pub(crate) fn with_contexts(self) -> Self {
        Self {
            contexts: true,
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
            Some(version) if version != current.version() => self.table.snapshot_at(version).await,
            _ => Ok(current),
        }
    }

    fn expired(&self, range: &ChangeRange, oldest: &str, current: i64, reason: String) -> Error {
        let requested = if range.from_creation() {
            "NULL".into()
        } else {
            range.since().to_string()
        };
        Error::ChangesExpired {
            table: self.table.name().into(),
            requested,
            oldest: oldest.into(),
            current,
            reason,
        }
    }

    /// The commits of the range, all of them or an error.
    async fn commits(&self, range: &ChangeRange, current: &Snapshot) -> Result<Vec<Commit>> {
        match read_range(current, range.first(), range.until()).await? {
            CommitRange::Whole(commits) => Ok(commits),
            CommitRange::Missing(version) => {
                let files = list_commits(&self.table, 0).await?;
                let oldest = oldest_contiguous(&files, current.version());
                Err(self.expired(
                    range,
                    &(oldest - 1).to_string(),
                    current.version(),
                    format!("the log of version {version} is gone"),
                ))
            }
        }
    }

    /// Reads what the log says of a range; its rows are still to be planned.
    pub(crate) async fn read_log(&self, range: ChangeRange) -> Result<FeedLog> {
        let snapshot = self.snapshot(Some(range.until())).await?;
        let current = self.current().await?;
        let commits = self.commits(&range, &current).await?;
        let check = FeedCheck {
            table: &self.table,
            snapshot: &snapshot,
            since: range.since(),
        };
        check_range(&check, &commits).await?;
        Ok(FeedLog {
            feed: self.clone(),
            range,
            snapshot,
            current,
            commits: Arc::new(commits),
        })
    }

    fn schema_of(&self, snapshot: &Snapshot) -> Result<SchemaRef> {
        let schema = change_schema(self.table.name(), snapshot.layout().schema())?;
        if !self.contexts {
            return Ok(schema);
        }
        let fields = schema.fields().iter().cloned();
        let fields: Vec<FieldRef> = fields.chain(context_column()).collect();
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Refuses a range of which a file is gone, where one may be.
    async fn check_files(
        &self,
        range: &ChangeRange,
        files: &FeedFiles,
        oldest_commit: i64,
        current: &Snapshot,
    ) -> Result<()> {
        let age = Utc::now().timestamp_micros() - oldest_commit;
        let properties = current.properties();
        // change data that has expired is removed long before VACUUM would
        let cleans_up = properties
            .tracking
            .as_ref()
            .is_some_and(|tracking| tracking.retention_micros().is_some());
        if files.len() > ALWAYS_CHECKED_FILES
            && age <= properties.deleted_file_retention_micros
            && !cleans_up
        {
            return Ok(());
        }
        let gone = self.missing_files(files).await?;
        let (Some((version, path)), Some((newest, _))) = (gone.iter().min(), gone.iter().max())
        else {
            return Ok(());
        };
        let reason = format!(
            "the file {path} of version {version} is gone (VACUUM removes files that the table no longer needs)"
        );
        Err(self.expired(range, &newest.to_string(), current.version(), reason))
    }

    /// The files that the store does not have, with their versions.
    async fn missing_files(&self, files: &FeedFiles) -> Result<Vec<(i64, String)>> {
        let store = self.table.store();
        let paths: Vec<(i64, String)> = files
            .paths()
            .map(|(version, path)| (version, path.to_owned()))
            .collect();
        let heads = futures::stream::iter(paths).map(|(version, raw)| {
            let store = Arc::clone(&store);
            async move {
                match store.head(&decode_path(self.table.name(), &raw)?).await {
                    Ok(_) => Ok(None),
                    Err(object_store::Error::NotFound { .. }) => Ok(Some((version, raw))),
                    Err(error) => Err(Error::from(error)),
                }
            }
        });
        let gone: Vec<Option<(i64, String)>> =
            heads.buffered(CONCURRENT_HEADS).try_collect().await?;
        Ok(gone.into_iter().flatten().collect())
    }

    /// The oldest version from which the log is whole, the feed was never off and every file is there.
    async fn oldest_readable(&self, snapshot: &Snapshot, files: &[CommitFile]) -> Result<i64> {
        let current = snapshot.version();
        let contiguous = oldest_contiguous(files, current);
        let kept = files
            .iter()
            .filter(|file| (contiguous..=current).contains(&file.version));
        let kept: Vec<CommitFile> = kept.cloned().collect();
        let commits = read_commits(snapshot, &kept).await?;
        let on_since = schema::feed_on_since(&self.table, contiguous, &commits).await?;
        let feed = plan_commits(&self.table, contiguous - 1, commits, (on_since, current)).await?;
        let gone = self.missing_files(&feed).await?;
        Ok(gone
            .into_iter()
            .map(|(version, _)| version + 1)
            .max()
            .unwrap_or(on_since))
    }

    async fn plan(
        &self,
        snapshot: &Snapshot,
        files: FeedFiles,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let layout = Arc::new(snapshot.layout().as_ref().clone());
        let mut plans = Vec::new();
        for (files, from_file) in [(files.data, false), (files.cdc, true)] {
            if !files.is_empty() {
                let scan = feed_scan(self, &layout, files, from_file);
                plans.push(
                    scan.plan(read.state, read.projection, read.filters, read.limit)
                        .await?,
                );
            }
        }
        match (plans.pop(), plans.pop()) {
            (Some(last), Some(first)) => Ok(UnionExec::try_new(vec![first, last])?),
            (Some(only), None) => Ok(only),
            _ => empty(&self.schema_of(snapshot)?, read),
        }
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
        if snapshot.properties().change_data_feed {
            return Ok(());
        }
        Err(Error::ChangesNotEnabled {
            table: self.table.name().into(),
            version: snapshot.version(),
        })
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
            clock.earliest = self.oldest_readable(&snapshot, &files).await? - 1;
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
        let commits = self.commits(&range, &current).await?;
        let wanted = (range.first(), range.until());
        let files = plan_commits(&self.table, range.since(), commits, wanted).await?;
        Ok(files.len() > 0)
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
        self.read_log(range).await?.plan(read).await
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot(Some(version)).await?;
        let timestamp = snapshot.timestamp().await?.saturating_mul(1000);
        let adds = snapshot.files().await?;
        let files = FeedFiles {
            data: adds
                .iter()
                .map(|add| inserted_file(add.clone(), version, timestamp))
                .collect(),
            cdc: vec![],
        };
        self.plan(&snapshot, files, &read).await
    }
}

/// What the log says of a range.
#[derive(Debug, Clone)]
pub(crate) struct FeedLog {
    feed: DeltaFeed,
    range: ChangeRange,
    snapshot: Arc<Snapshot>,
    current: Arc<Snapshot>,
    commits: Arc<Vec<Commit>>,
}

impl FeedLog {
    /// Whether any of the commits says in which context it was made.
    pub(crate) fn has_contexts(&self) -> bool {
        self.commits.iter().any(|commit| commit.context().is_some())
    }

    /// Plans the read of the changes, once every file is known to be there.
    pub(crate) async fn plan(self, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let oldest_commit = self.commits.first();
        let oldest_commit = oldest_commit.map_or(i64::MAX, |commit| commit.timestamp);
        let wanted = version_bounds(read.filters);
        let (feed, range) = (self.feed, self.range);
        let commits = Arc::unwrap_or_clone(self.commits);
        let files = plan_commits(&feed.table, range.since(), commits, wanted).await?;
        feed.check_files(&range, &files, oldest_commit, &self.current)
            .await?;
        feed.plan(&self.snapshot, files, &read).await
    }
}

/// The scan of change files, whose change type stands in the file, or of data files, for which it is a constant.
fn feed_scan(
    feed: &DeltaFeed,
    layout: &Arc<TableLayout>,
    mut files: Vec<ScanFile>,
    from_file: bool,
) -> DeltaScan {
    let mut constants = change_columns();
    if feed.contexts {
        constants.extend(context_column());
    } else {
        for file in &mut files {
            file.constants.pop();
        }
    }
    let mut scan = DeltaScan::new(&feed.table, layout, files);
    if from_file {
        constants.remove(0);
        scan.file_columns =
            vec![Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)) as FieldRef];
    }
    scan.constants = constants;
    scan
}

fn context_column() -> Option<FieldRef> {
    let mut columns = metadata_columns().into_iter();
    columns.find(|field| field.name() == CHANGE_CONTEXT)
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

/// The lowest and highest `_commit_version` that the filters let through.
pub(super) fn version_bounds(filters: &[Expr]) -> (i64, i64) {
    let (mut low, mut high) = (i64::MIN, i64::MAX);
    for (operator, version) in filters.iter().filter_map(version_comparison) {
        match operator {
            Operator::Gt => low = low.max(version.saturating_add(1)),
            Operator::GtEq => low = low.max(version),
            Operator::Lt => high = high.min(version.saturating_sub(1)),
            Operator::LtEq => high = high.min(version),
            Operator::Eq => (low, high) = (low.max(version), high.min(version)),
            _ => {}
        }
    }
    (low, high)
}

fn version_comparison(filter: &Expr) -> Option<(Operator, i64)> {
    let Expr::BinaryExpr(binary) = filter else {
        return None;
    };
    match (binary.left.as_ref(), binary.right.as_ref()) {
        (Expr::Column(column), Expr::Literal(ScalarValue::Int64(Some(version)), _))
            if column.name == COMMIT_VERSION =>
        {
            Some((binary.op, *version))
        }
        (Expr::Literal(ScalarValue::Int64(Some(version)), _), Expr::Column(column))
            if column.name == COMMIT_VERSION =>
        {
            Some((binary.op.swap()?, *version))
        }
        _ => None,
    }
}
