//! What full dumps need of the files at a location: what there is at one moment, which columns it has, and its rows.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use serde::Deserialize;

use super::discovery::Discovered;
use super::inspect::folder_values;
use super::ledger::FileVersion;
use super::mark_exec::Wanted;
use super::{ChangeFiles, KnownFile};
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource};

/// The marker of files that have none, as plans show it.
pub(crate) const NO_MARKER: &str = "(none)";
/// How many entries of the ledger are read at once.
const CONCURRENT_READS: usize = 32;

/// The files of a location as they are at one moment.
#[derive(Debug)]
pub(crate) struct FilesNow {
    files: ChangeFiles,
    found: Arc<Discovered>,
    versions: Vec<FileVersion>,
    known: Vec<KnownFile>,
    held: SchemaRef,
}

impl ChangeFiles {
    /// The columns of the key; none where it is not given.
    pub(crate) fn key(&self) -> &[String] {
        &self.shared.options.key
    }

    /// The files as they are now.
    ///
    /// # Errors
    /// When the location cannot be listed, or the ledger cannot be kept.
    pub(crate) async fn now(&self) -> Result<FilesNow> {
        let files = self.pinned();
        let known = files.versions(true).await?;
        let found = files.current().await?;
        let last = found.ledger.versions();
        let versions = found.ledger.files(&files.shared.folder, 1, last).await?;
        let held = Arc::new(Schema::new(files.held(&found.ledger, last)?));
        Ok(FilesNow {
            files,
            found,
            versions,
            known,
            held,
        })
    }
}

impl FilesNow {
    /// Every version, and whether its file is there.
    pub(crate) fn known(&self) -> &[KnownFile] {
        &self.known
    }

    /// All columns that any of the files has or that are declared: a column has the type of the first file that has it.
    pub(crate) fn held(&self) -> &SchemaRef {
        &self.held
    }

    /// Tells the ledger from every other one.
    pub(crate) async fn identity(&self) -> Result<String> {
        self.files.identity().await
    }

    /// Positions among [`Self::held`] of the columns that some files have, in their rows or in their paths below the first `above`
    /// folders. Files without content have none.
    pub(crate) fn columns(&self, versions: &[i64], above: usize) -> Result<Vec<usize>> {
        let mut looked_at = HashSet::new();
        let mut found = BTreeSet::new();
        for version in versions {
            let file = self.file(*version)?;
            let below = file.path.splitn(above + 1, '/').nth(above);
            let in_path: Vec<String> = folder_values(below.unwrap_or_default())
                .map(|(name, _)| name)
                .collect();
            if !looked_at.contains(&(file.shape, in_path.clone())) {
                found.extend(self.columns_of(file, &in_path)?);
                looked_at.insert((file.shape, in_path));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Plans the read of the files of some versions: of each row [`Self::held`], and the columns of change reads.
    pub(crate) fn scan(
        &self,
        versions: &[i64],
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let files = versions.iter().map(|version| self.file(*version).cloned());
        let files = files.collect::<Result<Vec<_>>>()?;
        let ledger = &self.found.ledger;
        let last = ledger.versions();
        self.files.scan(ledger, last, files, read, Wanted::Changes)
    }

    /// The first version of each discovery, up to the one that has found `version`.
    pub(crate) async fn discoveries(&self, version: i64) -> Result<Vec<i64>> {
        let heads = stream::iter(1_i64..).map(|batch| self.batch_head(batch));
        let mut heads = heads.buffered(CONCURRENT_READS);
        let mut first = Vec::new();
        while let Some(head) = heads.try_next().await? {
            let Some(head) = head.filter(|head| head.first <= version) else {
                break;
            };
            if !head.continues {
                first.push(head.first);
            }
        }
        Ok(first)
    }

    fn file(&self, version: i64) -> Result<&FileVersion> {
        let index = usize::try_from(version - 1).ok();
        let file = index.and_then(|index| self.versions.get(index));
        file.ok_or_else(|| Error::internal(format!("no file has the version {version}")))
    }

    fn columns_of(&self, file: &FileVersion, in_path: &[String]) -> Result<Vec<usize>> {
        let shared = &self.files.shared;
        let shape = self.files.named(self.found.ledger.shape(file.shape)?);
        if !shape.has_rows() {
            return Ok(vec![]);
        }
        if let Some(column) = shape.find(&shared.options.marker) {
            return Err(Error::invalid(format!(
                "{} of {} has a column {:?}, a name that is taken; rename it",
                file.path, shared.name, column.name
            )));
        }
        let has = |name: &str| {
            let column = shape.find(name);
            column.is_some_and(|column| !column.in_path || in_path.contains(&column.name))
        };
        let fields = self.held.fields().iter().enumerate();
        let found = fields.filter(|(_, field)| has(field.name()));
        Ok(found.map(|(index, _)| index).collect())
    }

    /// What a batch of the ledger says of itself; `None` after the last.
    async fn batch_head(&self, batch: i64) -> Result<Option<BatchHead>> {
        let shared = &self.files.shared;
        let (store, path) = shared.folder.file(&format!("{batch:020}.json"));
        let read = async { store.get(&path).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(shared.location.explain("read the ledger", error)),
        };
        let line = bytes.split(|byte| *byte == b'\n').next();
        let head = serde_json::from_slice(line.unwrap_or_default()).map_err(|error| {
            Error::invalid(format!(
                "the ledger's file {path} is damaged ({error}); restore it from a copy, or remove the ledger and let every consumer begin anew"
            ))
        })?;
        Ok(Some(head))
    }
}

/// What stands at the beginning of a batch.
#[derive(Debug, Deserialize)]
struct BatchHead {
    /// The version of its first file.
    first: i64,
    /// Whether it goes on with what the discovery of the batch before it has found.
    #[serde(default)]
    continues: bool,
}
