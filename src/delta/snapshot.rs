//! One version of a Delta table: metadata, protocol and active files, read by the Delta kernel.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, MapArray, RecordBatch, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::{Engine, Snapshot as KernelSnapshot};
use object_store::{ObjectMeta, ObjectStoreExt};
use tokio::sync::OnceCell;

use super::actions::{Action, Add, DeletionVectorDescriptor, Metadata, Protocol};
use super::applications::{self, Applications, Known};
use super::engine::engine;
use super::layout::TableLayout;
use super::log::{CommitRange, commit_path, read_range};
use super::properties::TableProperties;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// After more commits than this all files are read anew.
const MAX_REPLAYED: i64 = 64;

/// The active files of a version.
#[derive(Clone)]
struct KnownFiles {
    version: i64,
    files: Arc<Vec<Add>>,
}

/// One version of a table; its file list is read at first use and kept.
pub(crate) struct Snapshot {
    table: DeltaTable,
    kernel: Arc<KernelSnapshot>,
    metadata: Metadata,
    protocol: Protocol,
    layout: Arc<TableLayout>,
    properties: TableProperties,
    /// The commit file as it was found: another one of the same version is another table's.
    commit: Option<ObjectMeta>,
    files: OnceCell<Arc<Vec<Add>>>,
    /// The files of an earlier version, if they were read.
    known_files: Option<KnownFiles>,
    /// How far applications had got at an earlier version, if that was read.
    known: Option<Known>,
    applications: OnceCell<Arc<Applications>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Snapshot({} version {})",
            self.table.name(),
            self.version()
        )
    }
}

impl Snapshot {
    /// Loads a version, or the newest one.
    pub(crate) async fn load(table: &DeltaTable, version: Option<u64>) -> Result<Arc<Self>> {
        let mut built = build(table, version).await?;
        if built.is_err() {
            if !table.exists().await? {
                return Err(Error::TableNotFound {
                    table: table.name().into(),
                    hint: format!(": there is no Delta table at {}", table.location()),
                });
            }
            // it may have been created since
            built = build(table, version).await?;
        }
        Self::try_new(table, built?, (None, None)).await
    }

    /// The newest version, reading only the commits after this one.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<Arc<Self>> {
        let (commit, next) = futures::try_join!(
            commit_file(&self.table, self.version()),
            commit_file(&self.table, self.version() + 1),
        )?;
        if commit != self.commit {
            return Self::load(&self.table, None).await;
        }
        // a listing goes through the whole log where the store cannot begin at a name
        if commit.is_some() && next.is_none() {
            return Ok(Arc::clone(self));
        }
        let known = Arc::clone(&self.kernel);
        let engine = self.engine();
        match blocking(move || Ok(KernelSnapshot::builder_from(known).build(engine.as_ref())))
            .await?
        {
            Ok(newer) if newer.version() == self.kernel.version() => Ok(Arc::clone(self)),
            Ok(newer) => {
                let known = (self.known(), self.known_files());
                Self::try_new(&self.table, newer, known).await
            }
            // the log was cleaned or replaced under us: begin anew
            Err(_) => Self::load(&self.table, None).await,
        }
    }

    async fn try_new(
        table: &DeltaTable,
        kernel: Arc<KernelSnapshot>,
        (known, known_files): (Option<Known>, Option<KnownFiles>),
    ) -> Result<Arc<Self>> {
        let configuration = kernel.table_configuration();
        let metadata: Metadata =
            serde_json::from_value(serde_json::to_value(configuration.metadata())?)?;
        let protocol: Protocol =
            serde_json::from_value(serde_json::to_value(configuration.protocol())?)?;
        let layout = Arc::new(TableLayout::try_new(table.name(), &metadata)?);
        let properties = TableProperties::new(&metadata, &protocol);
        let version = i64::try_from(kernel.version()).unwrap_or(i64::MAX);
        let commit = commit_file(table, version).await?;
        Ok(Arc::new(Self {
            table: table.clone(),
            kernel,
            metadata,
            protocol,
            layout,
            properties,
            commit,
            files: OnceCell::new(),
            known_files,
            known,
            applications: OnceCell::new(),
        }))
    }

    /// The table this is a version of.
    pub(crate) fn table(&self) -> &DeltaTable {
        &self.table
    }

    /// The version.
    pub(crate) fn version(&self) -> i64 {
        i64::try_from(self.kernel.version()).unwrap_or(i64::MAX)
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

    /// The active files, each with its deletion vector.
    pub(crate) async fn files(&self) -> Result<Arc<Vec<Add>>> {
        let read = || async {
            if let Some(known) = &self.known_files
                && let Some(files) = self.replay(known).await?
            {
                return Ok(Arc::new(files));
            }
            let kernel = Arc::clone(&self.kernel);
            let engine = self.engine();
            blocking(move || list_files(kernel, engine.as_ref()))
                .await
                .map(Arc::new)
        };
        self.files.get_or_try_init(read).await.cloned()
    }

    /// The files of an earlier version with what the commits since have done to them; `None` where it pays to read all anew.
    async fn replay(&self, known: &KnownFiles) -> Result<Option<Vec<Add>>> {
        if self.version() - known.version > MAX_REPLAYED {
            return Ok(None);
        }
        let range = read_range(self, known.version + 1, self.version()).await?;
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
                        files.push(add);
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
                version: self.version(),
                files: Arc::clone(files),
            }),
            None => self.known_files.clone(),
        }
    }

    /// How far each application had got at this version.
    pub(crate) async fn applications(&self) -> Result<Arc<Applications>> {
        let read = || async {
            if let Some(known) = &self.known
                && let Some(read) =
                    applications::read_on(&self.table, known, self.version()).await?
            {
                return Ok(read);
            }
            let kernel = Arc::clone(&self.kernel);
            let engine = self.engine();
            blocking(move || applications::replay(&kernel, engine.as_ref()))
                .await
                .map(Arc::new)
        };
        self.applications.get_or_try_init(read).await.cloned()
    }

    /// What a later version need not read again.
    fn known(&self) -> Option<Known> {
        match self.applications.get() {
            Some(applications) => Some(Known {
                version: self.version(),
                applications: Arc::clone(applications),
            }),
            None => self.known.clone(),
        }
    }

    /// Milliseconds since the epoch at which this version was committed.
    pub(crate) async fn timestamp(&self) -> Result<i64> {
        let kernel = Arc::clone(&self.kernel);
        let engine = self.engine();
        blocking(move || Ok(kernel.get_timestamp(engine.as_ref())?)).await
    }

    /// Writes a checkpoint of this version.
    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        let kernel = Arc::clone(&self.kernel);
        let engine = self.engine();
        blocking(move || Ok(kernel.checkpoint(engine.as_ref(), None).map(|_| ())?)).await
    }

    fn engine(&self) -> Arc<dyn Engine> {
        engine(&self.table)
    }
}

/// What the kernel finds in the log.
async fn build(
    table: &DeltaTable,
    version: Option<u64>,
) -> Result<delta_kernel::DeltaResult<Arc<KernelSnapshot>>> {
    let (root, engine) = (table.location().clone(), engine(table));
    blocking(move || {
        let builder = KernelSnapshot::builder_for(root);
        let builder = match version {
            Some(version) => builder.at_version(version),
            None => builder,
        };
        Ok(builder.build(engine.as_ref()))
    })
    .await
}

/// The commit file of a version; it may have been cleaned away behind a checkpoint.
async fn commit_file(table: &DeltaTable, version: i64) -> Result<Option<ObjectMeta>> {
    match table.store().head(&commit_path(version)).await {
        Ok(meta) => Ok(Some(meta)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs the kernel's blocking code off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}

fn list_files(snapshot: Arc<KernelSnapshot>, engine: &dyn Engine) -> Result<Vec<Add>> {
    let scan = snapshot.scan_builder().without_row_transforms().build()?;
    let mut files = Vec::new();
    for batch in scan.scan_metadata(engine)? {
        let selected = batch?.scan_files.apply_selection_vector()?;
        append_files(&selected.try_into_record_batch()?, &mut files)?;
    }
    Ok(files)
}

/// Reads the kernel's scan rows (`scan_row_schema`) as `add` actions.
fn append_files(batch: &RecordBatch, files: &mut Vec<Add>) -> Result<()> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::internal(format!("the kernel's scan rows lack {name}")))
    };
    let (paths, stats) = (
        column("path")?.as_string::<i32>(),
        column("stats")?.as_string::<i32>(),
    );
    let sizes = column("size")?.as_primitive::<Int64Type>();
    let times = column("modificationTime")?.as_primitive::<Int64Type>();
    let vectors = column("deletionVector")?.as_struct();
    let constants = column("fileConstantValues")?.as_struct();
    for row in 0..batch.num_rows() {
        files.push(Add {
            path: paths.value(row).into(),
            partition_values: map_value(constants, "partitionValues", row).unwrap_or_default(),
            size: sizes.value(row),
            modification_time: if times.is_valid(row) {
                times.value(row)
            } else {
                0
            },
            data_change: true,
            stats: stats.is_valid(row).then(|| stats.value(row).into()),
            tags: map_value(constants, "tags", row).filter(|tags| !tags.is_empty()),
            deletion_vector: descriptor(vectors, row),
            base_row_id: long_value(constants, "baseRowId", row),
            default_row_commit_version: long_value(constants, "defaultRowCommitVersion", row),
            clustering_provider: text_value(constants, "clusteringProvider", row),
        });
    }
    Ok(())
}

fn descriptor(vectors: &StructArray, row: usize) -> Option<DeletionVectorDescriptor> {
    let int_value = |name: &str| {
        let values = vectors.column_by_name(name)?.as_primitive::<Int32Type>();
        values.is_valid(row).then(|| values.value(row))
    };
    if vectors.is_null(row) {
        return None;
    }
    Some(DeletionVectorDescriptor {
        storage_type: text_value(vectors, "storageType", row)?,
        path_or_inline_dv: text_value(vectors, "pathOrInlineDv", row)?,
        offset: int_value("offset"),
        size_in_bytes: int_value("sizeInBytes")?,
        cardinality: long_value(vectors, "cardinality", row)?,
    })
}

fn text_value(parent: &StructArray, name: &str, row: usize) -> Option<String> {
    let values = parent.column_by_name(name)?.as_string_opt::<i32>()?;
    (parent.is_valid(row) && values.is_valid(row)).then(|| values.value(row).into())
}

fn long_value(parent: &StructArray, name: &str, row: usize) -> Option<i64> {
    let values = parent
        .column_by_name(name)?
        .as_primitive_opt::<Int64Type>()?;
    (parent.is_valid(row) && values.is_valid(row)).then(|| values.value(row))
}

fn map_value(
    parent: &StructArray,
    name: &str,
    row: usize,
) -> Option<HashMap<String, Option<String>>> {
    let maps: &MapArray = parent.column_by_name(name)?.as_map_opt()?;
    if parent.is_null(row) || maps.is_null(row) {
        return None;
    }
    let entries = maps.value(row);
    let (keys, values) = (
        entries.column(0).as_string_opt::<i32>()?,
        entries.column(1).as_string_opt::<i32>()?,
    );
    Some(
        (0..entries.len())
            .map(|i| {
                (
                    keys.value(i).to_owned(),
                    values.is_valid(i).then(|| values.value(i).to_owned()),
                )
            })
            .collect(),
    )
}
