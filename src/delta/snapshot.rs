//! One version of a Delta table: metadata, protocol and active files.
//!
//! Metadata and protocol are read at once, and out of as little of the log as will do ([`super::replay`]); reads of changes need no
//! more. The Delta kernel, which replays the log since the last checkpoint, is asked for the files when somebody wants them.

mod kernel;

use std::collections::HashSet;
use std::sync::Arc;

use delta_kernel::Snapshot as KernelSnapshot;
use object_store::ObjectMeta;
use tokio::sync::OnceCell;

use self::kernel::blocking;
use super::actions::{Action, Add, Metadata, Protocol};
use super::applications::{self, Applications, Known};
use super::engine::engine;
use super::features::check_readable;
use super::layout::TableLayout;
use super::log::{CommitRange, commit_timestamp, read_range};
use super::properties::TableProperties;
use super::replay::{self, LogState, Tail, commit_file};
use super::row_tracking::{NO_ROW_ID, ROW_TRACKING_DOMAIN, parse_high_water_mark};
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// After more commits than this all files are read anew.
const MAX_REPLAYED: i64 = 64;

/// The active files of a version.
#[derive(Clone)]
struct KnownFiles {
    version: i64,
    files: Arc<Vec<Arc<Add>>>,
}

/// What has been read of earlier versions, so that a later one need not read it again.
#[derive(Clone, Default)]
struct Earlier {
    kernel: Option<Arc<KernelSnapshot>>,
    files: Option<KnownFiles>,
    /// How far applications had got.
    applications: Option<Known>,
}

/// One version of a table; its file list is read at first use and kept.
pub(crate) struct Snapshot {
    table: DeltaTable,
    version: i64,
    metadata: Metadata,
    protocol: Protocol,
    layout: Arc<TableLayout>,
    properties: TableProperties,
    /// The commit file as it was found: another one of the same version is another table's.
    commit: Option<ObjectMeta>,
    kernel: OnceCell<Arc<KernelSnapshot>>,
    files: OnceCell<Arc<Vec<Arc<Add>>>>,
    applications: OnceCell<Arc<Applications>>,
    earlier: Earlier,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Snapshot({} version {})",
            self.table.name(),
            self.version
        )
    }
}

impl Snapshot {
    /// Loads a version, or the newest one.
    ///
    /// # Errors
    /// [`Error::TableNotFound`] when there is no log, [`Error::UnsupportedFeature`] for a table that we would misread.
    pub(crate) async fn load(table: &DeltaTable, version: Option<u64>) -> Result<Arc<Self>> {
        let wanted = version.map(i64::try_from).transpose();
        let wanted = wanted.map_err(Error::internal)?;
        if let Ok(Some(state)) = Box::pin(replay::find(table, wanted)).await {
            return Self::try_new(table, state, None, Earlier::default());
        }
        // the kernel reads what is unusual, or says what is wrong
        let kernel = kernel::load(table, version).await?;
        let state = kernel::state(table, &kernel).await?;
        Self::try_new(table, state, Some(kernel), Earlier::default())
    }

    /// The newest version, reading only the commits after this one.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<Arc<Self>> {
        let (commit, news) = futures::join!(
            commit_file(&self.table, self.version),
            replay::read_news(&self.table, self.version),
        );
        let commit = commit?;
        if let (Some(now), Some(then)) = (&commit, &self.commit)
            && is_same_file(now, then)
            && let Ok(Some(news)) = news
        {
            if news.version == self.version {
                return Ok(Arc::clone(self));
            }
            if let Ok(newer) = self.follow(news) {
                return Ok(newer);
            }
        }
        let anew = Self::load(&self.table, None).await?;
        // where the commit has been cleaned away the table is told by its id
        let is_this = anew.version == self.version
            && (&anew.metadata, &anew.protocol) == (&self.metadata, &self.protocol)
            && commit.is_none()
            && self.commit.is_none();
        Ok(if is_this { Arc::clone(self) } else { anew })
    }

    /// The version that some commits make of this one.
    fn follow(&self, news: Tail) -> Result<Arc<Self>> {
        let state = news.follow(&self.table, &self.metadata, &self.protocol)?;
        let earlier = Earlier {
            kernel: self.kernel.get().or(self.earlier.kernel.as_ref()).cloned(),
            files: self.known_files(),
            applications: self.known_applications(),
        };
        Self::try_new(&self.table, state, None, earlier)
    }

    fn try_new(
        table: &DeltaTable,
        state: LogState,
        kernel: Option<Arc<KernelSnapshot>>,
        earlier: Earlier,
    ) -> Result<Arc<Self>> {
        check_readable(table.name(), &state.protocol)?;
        let layout = Arc::new(TableLayout::try_new(table.name(), &state.metadata)?);
        let properties = TableProperties::new(&state.metadata, &state.protocol);
        Ok(Arc::new(Self {
            table: table.clone(),
            version: state.version,
            metadata: state.metadata,
            protocol: state.protocol,
            layout,
            properties,
            commit: state.commit,
            kernel: OnceCell::new_with(kernel),
            files: OnceCell::new(),
            applications: OnceCell::new(),
            earlier,
        }))
    }

    /// This version as it would be with other metadata: its commit and its files are the same.
    ///
    /// # Errors
    /// When the metadata is damaged, or needs what we cannot read.
    pub(crate) fn with_metadata(
        &self,
        metadata: Metadata,
        protocol: Protocol,
    ) -> Result<Arc<Self>> {
        check_readable(self.table.name(), &protocol)?;
        let layout = TableLayout::try_new(self.table.name(), &metadata)?;
        Ok(Arc::new(Self {
            table: self.table.clone(),
            version: self.version,
            properties: TableProperties::new(&metadata, &protocol),
            metadata,
            protocol,
            layout: Arc::new(layout),
            commit: self.commit.clone(),
            kernel: self.kernel.clone(),
            files: self.files.clone(),
            applications: self.applications.clone(),
            earlier: self.earlier.clone(),
        }))
    }

    /// The table this is a version of.
    pub(crate) fn table(&self) -> &DeltaTable {
        &self.table
    }

    /// The version.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// The `metaData` action in force.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The `protocol` action in force.
    pub(crate) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// Columns, physical names, partition columns.
    pub(crate) fn layout(&self) -> &Arc<TableLayout> {
        &self.layout
    }

    /// The table properties that we act on.
    pub(crate) fn properties(&self) -> &TableProperties {
        &self.properties
    }

    /// The kernel's view of this version.
    async fn kernel(&self) -> Result<Arc<KernelSnapshot>> {
        let read = || async {
            let earlier = self.earlier.kernel.clone();
            let kernel = kernel::at_version(&self.table, self.version, earlier).await?;
            if kernel.table_configuration().metadata().id() == self.metadata.id {
                return Ok(kernel);
            }
            Err(Error::Conflict {
                version: self.version,
                operation: "the creation of another table in its place".into(),
                detail: format!("{} is no longer what it was", self.table.name()),
            })
        };
        self.kernel.get_or_try_init(read).await.cloned()
    }

    /// The active files, each with its deletion vector.
    pub(crate) async fn files(&self) -> Result<Arc<Vec<Arc<Add>>>> {
        let read = || async {
            if let Some(known) = &self.earlier.files
                && let Some(files) = self.replay(known).await?
            {
                return Ok(Arc::new(files));
            }
            let (kernel, engine) = (self.kernel().await?, engine(&self.table));
            blocking(move || kernel::list_files(kernel, engine.as_ref()))
                .await
                .map(Arc::new)
        };
        self.files.get_or_try_init(read).await.cloned()
    }

    /// The files of an earlier version with what the commits since have done to them; `None` where it pays to read all anew.
    async fn replay(&self, known: &KnownFiles) -> Result<Option<Vec<Arc<Add>>>> {
        if self.version - known.version > MAX_REPLAYED {
            return Ok(None);
        }
        let range = read_range(self, known.version + 1, self.version).await?;
        let CommitRange::Whole(commits) = range else {
            return Ok(None);
        };
        // the newest commit that names a file is the one that counts, and its add if it has both
        let (mut seen, mut files) = (HashSet::new(), Vec::new());
        for commit in commits.into_iter().rev() {
            let mut removed = Vec::new();
            for action in commit.actions {
                match action {
                    Action::Add(mut add) if seen.insert(add.path.clone()) => {
                        add.data_change = true;
                        files.push(Arc::new(add));
                    }
                    Action::Remove(remove) => removed.push(remove.path),
                    _ => {}
                }
            }
            seen.extend(removed);
        }
        let kept = known.files.iter();
        files.extend(kept.filter(|file| !seen.contains(&file.path)).cloned());
        Ok(Some(files))
    }

    /// The files that a later version need not read again.
    fn known_files(&self) -> Option<KnownFiles> {
        match self.files.get() {
            Some(files) => Some(KnownFiles {
                version: self.version,
                files: Arc::clone(files),
            }),
            None => self.earlier.files.clone(),
        }
    }

    /// How far each application had got at this version.
    pub(crate) async fn applications(&self) -> Result<Arc<Applications>> {
        let read = || async {
            if let Some(known) = &self.earlier.applications
                && let Some(read) = applications::read_on(&self.table, known, self.version).await?
            {
                return Ok(read);
            }
            let (kernel, engine) = (self.kernel().await?, engine(&self.table));
            blocking(move || applications::replay(&kernel, engine.as_ref()))
                .await
                .map(Arc::new)
        };
        self.applications.get_or_try_init(read).await.cloned()
    }

    /// What a later version need not read again of them.
    fn known_applications(&self) -> Option<Known> {
        match self.applications.get() {
            Some(applications) => Some(Known {
                version: self.version,
                applications: Arc::clone(applications),
            }),
            None => self.earlier.applications.clone(),
        }
    }

    /// Milliseconds since the epoch at which this version was committed.
    pub(crate) async fn timestamp(&self) -> Result<i64> {
        if let Some(micros) = commit_timestamp(self, self.version).await? {
            return Ok(micros.div_euclid(1000));
        }
        // its commit has been cleaned away
        let (kernel, engine) = (self.kernel().await?, engine(&self.table));
        blocking(move || Ok(kernel.get_timestamp(engine.as_ref())?)).await
    }

    /// The highest row id that has been given out (*Row Tracking*).
    pub(crate) async fn highest_row_id(&self) -> Result<i64> {
        let (kernel, engine) = (self.kernel().await?, engine(&self.table));
        blocking(move || {
            let found =
                kernel.get_domain_metadata_internal(ROW_TRACKING_DOMAIN, engine.as_ref())?;
            found.map_or(Ok(NO_ROW_ID), |mark| parse_high_water_mark(&mark))
        })
        .await
    }

    /// Writes a checkpoint of this version.
    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        let (kernel, engine) = (self.kernel().await?, engine(&self.table));
        blocking(move || Ok(kernel.checkpoint(engine.as_ref(), None).map(|_| ())?)).await
    }
}

/// Whether a file is the one that was there before; not every way to read it tells its entity tag.
fn is_same_file(now: &ObjectMeta, then: &ObjectMeta) -> bool {
    let tags = now.e_tag.as_ref().zip(then.e_tag.as_ref());
    (now.size, now.last_modified) == (then.size, then.last_modified)
        && tags.is_none_or(|(now, then)| now == then)
}

#[cfg(test)]
mod tests;
