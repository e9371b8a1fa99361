//! Files with change markers that land in a folder or a bucket (change contract, section 4).
//!
//! ```text
//!  location ── Discovery ──> Ledger: file -> version, for ever ──> ChangeRange ── FileScan ──> MarkExec / TextExec
//!                 └ Inspector: the columns of new files                                         _change_type, _commit_version, …
//! ```
//!
//! Version 0 is the empty source; each file that is found is one version more. What a version stands for never changes, so the
//! same range is always the same rows; where its file is gone or has been replaced, reading it is an error.

mod discovery;
mod dumps;
mod fit;
mod guarded_store;
mod heads;
mod inspect;
mod io_runtime;
mod ledger;
mod location;
mod mark;
mod mark_exec;
mod named_readers;
mod options;
mod reader;
mod rejected;
mod scan;
mod set_aside;
mod sftp;
mod shape;
mod source;
mod stored;
mod text_exec;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use self::discovery::{Discovered, Discovery, below, seen};
use self::guarded_store::is_unchanged;
use self::heads::KnownHeads;
use self::inspect::Inspector;
use self::ledger::{FileVersion, Ledger, LedgerFolder};
use self::mark_exec::Wanted;
use self::options::{FileFormat, FileOptions, OnMissing};
use self::reader::{CsvFormat, TextFormat};
use self::scan::{FileScan, ScannedFile};
use self::shape::{Shape, find, held_columns, viewed};
use super::ChangeRead;
use crate::change::{ChangeRange, change_schema, metadata_columns};
use crate::error::{Error, Result};

pub(crate) use self::location::Location;
pub(crate) use dumps::{FilesNow, NO_MARKER};
pub(crate) use rejected::rejected_schema;

/// How many files are looked for at once.
const CONCURRENT_HEADS: usize = 64;
/// More files than this are listed rather than looked for one by one.
const MANY_FILES: usize = 1000;

/// The files at one location.
#[derive(Debug, Clone)]
pub(crate) struct ChangeFiles {
    shared: Arc<Shared>,
    /// What there is for as long as this handle lives, once it has been looked up; absent for a handle that looks each time.
    pinned: Option<Arc<OnceCell<Arc<Discovered>>>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    location: Location,
    folder: LedgerFolder,
    options: Arc<FileOptions>,
    declared: SchemaRef,
    /// What the last look has found.
    last: Mutex<Option<Arc<Discovered>>>,
}

/// What is known of a version's file.
#[derive(Debug, Clone)]
pub(crate) struct KnownFile {
    pub version: i64,
    /// Relative to the location.
    pub path: Arc<str>,
    /// In bytes.
    pub size: u64,
    /// The store's tag of the content.
    pub e_tag: Option<Arc<str>>,
    /// In microseconds since the epoch.
    pub time: i64,
    /// Whether it is there, unchanged.
    pub is_there: bool,
}

impl ChangeFiles {
    /// The files at `location`. `declared` are the columns that the user has given, none if they are to be found out; `options`
    /// those of the statement, credentials included. Nothing is looked at yet.
    ///
    /// # Errors
    /// When the location or an option cannot be understood.
    pub(crate) fn try_new(
        name: &str,
        location: &str,
        options: &HashMap<String, String>,
        declared: SchemaRef,
    ) -> Result<Self> {
        let options = FileOptions::try_new(location, options)?;
        let place = Location::try_new(location, &options.store)?;
        let ledger = match &options.ledger {
            Some(ledger) => Location::try_new(ledger, &options.store)?,
            None => place.clone(),
        };
        // a ledger that lies elsewhere must not be taken for that of another location
        let of = options.ledger.as_ref().map(|_| place.shown().to_owned());
        let pattern = options
            .pattern
            .as_ref()
            .map(|pattern| pattern.as_str().to_owned());
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                location: place,
                folder: LedgerFolder::new(ledger, pattern, of),
                options: Arc::new(options),
                declared,
                last: Mutex::default(),
            }),
            pinned: None,
        })
    }

    /// The same files as they are when they are first asked for: all answers are of the same moment.
    pub(crate) fn pinned(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            pinned: Some(Arc::default()),
        }
    }

    /// The source's own columns at the newest version.
    pub(crate) async fn columns(&self) -> Result<SchemaRef> {
        let found = self.current().await?;
        let held = self.held(&found.ledger, found.ledger.versions())?;
        Ok(Arc::new(Schema::new(held)))
    }

    /// All versions, with their files; whether these are there only if that is to be `checked`.
    pub(crate) async fn versions(&self, checked: bool) -> Result<Vec<KnownFile>> {
        let found = self.current().await?;
        let last = found.ledger.versions();
        let files = found.ledger.files(&self.shared.folder, 1, last).await?;
        let there = match checked {
            true => self.are_there(&found, &files).await?,
            false => vec![true; files.len()],
        };
        let known = files
            .into_iter()
            .zip(there)
            .map(|(file, is_there)| KnownFile {
                version: file.version,
                path: file.path,
                size: file.size,
                e_tag: file.e_tag,
                time: file.time,
                is_there,
            });
        Ok(known.collect())
    }

    /// Plans the read of the rows that were set aside.
    pub(crate) async fn rejected(&self, state: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let found = self.current().await?;
        let last = found.ledger.versions();
        let files = found.ledger.files(&self.shared.folder, 1, last).await?;
        let there = self.are_there(&found, &files).await?;
        // what was set aside of a file that is gone or was mended is gone, too
        let loaded = found.ledger.load(&self.shared.folder).await?;
        let files = files.into_iter().zip(there);
        let files = files.filter(|(file, there)| *there && found.ledger.is_newest(&loaded, file));
        let files = files.map(|(file, _)| file);
        let read = ChangeRead {
            state,
            projection: None,
            filters: &[],
            limit: None,
        };
        self.scan(
            &found.ledger,
            last,
            files.collect(),
            &read,
            Wanted::Rejected,
        )
    }

    /// What there is now, or when this handle was first asked.
    async fn current(&self) -> Result<Arc<Discovered>> {
        match &self.pinned {
            Some(pinned) => pinned.get_or_try_init(|| self.discover()).await.cloned(),
            None => self.discover().await,
        }
    }

    async fn discover(&self) -> Result<Arc<Discovered>> {
        let shared = &self.shared;
        let inspector = Inspector {
            name: &shared.name,
            location: &shared.location,
            options: &shared.options,
        };
        let discovery = Discovery {
            location: &shared.location,
            folder: &shared.folder,
            options: &shared.options,
            inspector: &inspector,
            known_heads: KnownHeads::default(),
            check: &|shapes| self.check_columns(&self.held_by(shapes)?),
        };
        let known = self.last().as_ref().map(|last| Arc::clone(&last.ledger));
        let found = Arc::new(Box::pin(discovery.run(known.as_deref())).await?);
        let held = self.held(&found.ledger, found.ledger.versions())?;
        self.check_columns(&held).map_err(|error| {
            Error::invalid(format!(
                "{error}. The columns were found out when the first file was, and are kept in the ledger: if the options were wrong then, remove \
                 {}, and every reader begins anew",
                shared.folder.shown()
            ))
        })?;
        *self.last() = Some(Arc::clone(&found));
        Ok(found)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Arc<Discovered>>> {
        self.shared
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found when a version was known to be there, without another look.
    async fn found_with(&self, version: i64) -> Result<Arc<Discovered>> {
        if self.pinned.is_some() {
            return self.current().await;
        }
        let last = self.last().as_ref().map(Arc::clone);
        match last.filter(|last| last.ledger.versions() >= version) {
            Some(last) => Ok(last),
            None => self.discover().await,
        }
    }

    fn held(&self, ledger: &Ledger, version: i64) -> Result<Vec<FieldRef>> {
        // before the first file the columns are those that are known now
        let first = ledger.first_with_rows().unwrap_or(version);
        let version = version.max(first);
        self.held_by(&ledger.shapes(version).collect::<Vec<_>>())
    }

    fn held_by(&self, shapes: &[&Shape]) -> Result<Vec<FieldRef>> {
        let shared = &self.shared;
        for shape in shapes {
            self.check_shape(shape)?;
        }
        let shapes: Vec<Shape> = shapes.iter().map(|shape| self.named(shape)).collect();
        let held = held_columns(&shared.declared, &shared.options.marker, shapes.iter())?;
        match &shared.options.format {
            FileFormat::Parquet => Ok(held.iter().map(viewed).collect()),
            FileFormat::Text(_) => Ok(held),
        }
    }

    fn is_headless(&self) -> bool {
        matches!(
            &self.shared.options.format,
            FileFormat::Text(TextFormat::Csv(CsvFormat { header: false, .. }))
        )
    }

    /// Refuses files whose marker would be overlooked.
    fn check_shape(&self, shape: &Shape) -> Result<()> {
        let shared = &self.shared;
        let (marker, name) = (&shared.options.marker, &shared.name);
        if shape.find(marker).is_some_and(|column| column.in_path) {
            return Err(Error::invalid(format!(
                "the marker {marker:?} of {name} stands in the path of a file ({marker}=…/), and it is read from rows only; land upserts and \
                 deletes with a marker column, or give marker '…' another name"
            )));
        }
        let own = shape
            .columns
            .iter()
            .filter(|column| !column.in_path)
            .count();
        let declared = shared.declared.fields().len();
        if self.is_headless() && declared > 0 && own > declared {
            return Err(Error::invalid(format!(
                "the files of {name} have {own} fields in a row, and {declared} columns are declared; without a header every field needs its \
                 column, the marker too"
            )));
        }
        Ok(())
    }

    /// A shape by the names that its columns have here.
    fn named(&self, shape: &Shape) -> Shape {
        match self.is_headless() {
            true => shape.clone().named(&self.shared.declared),
            false => shape.clone(),
        }
    }

    /// The key and the sequence must be columns.
    fn check_columns(&self, held: &[FieldRef]) -> Result<()> {
        let options = &self.shared.options;
        let keys = options.key.iter().map(|key| ("key", key));
        let sequence = options.sequence.iter().map(|name| ("sequence", name));
        for (option, name) in keys.chain(sequence) {
            let known = held.iter().map(|field| field.name().as_str());
            if held.is_empty() || known.clone().any(|known| known == name) {
                continue;
            }
            let meant = find(known.clone(), name).map(|index| held[index].name());
            let hint = meant.map(|meant| format!("; is {meant:?} meant?"));
            return Err(Error::invalid(format!(
                "{option} {name:?} is no column of {}, which has {}{}",
                self.shared.name,
                known.collect::<Vec<_>>().join(", "),
                hint.unwrap_or_default()
            )));
        }
        Ok(())
    }

    fn change_schema(&self, held: Vec<FieldRef>) -> Result<SchemaRef> {
        if held.is_empty() {
            return Err(Error::invalid(format!(
                "{} has no file yet ({}), so its columns are not known; name them in CREATE EXTERNAL TABLE {} (…), or wait for the first file",
                self.shared.name,
                self.shared.location.shown(),
                self.shared.name
            )));
        }
        let change = change_schema(&self.shared.name, &Schema::new(held))?;
        let fields = change.fields().iter().cloned().chain(metadata_columns());
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    /// For each file, whether it is there, unchanged; one without content need not be.
    async fn are_there(&self, found: &Discovered, files: &[FileVersion]) -> Result<Vec<bool>> {
        // what was set aside as a whole has no rows, either
        let has_nothing = |file: &FileVersion| file.size == 0 || found.ledger.is_set_aside(file);
        if let Some(present) = &found.present {
            let is_there = |file: &FileVersion| {
                let listed = usize::try_from(file.version - 1).ok();
                let listed = listed.and_then(|index| present.get(index).copied());
                has_nothing(file) || listed.unwrap_or(false)
            };
            return Ok(files.iter().map(is_there).collect());
        }
        if files.len() > MANY_FILES {
            let listed = self.listed().await?;
            let is_there = |file: &FileVersion| {
                let there = listed.get(file.path.as_ref());
                let there = there.is_some_and(|there| there.is_same_file(file));
                has_nothing(file) || there
            };
            return Ok(files.iter().map(is_there).collect());
        }
        let wanted = files.iter().map(|file| (file.clone(), has_nothing(file)));
        let wanted: Vec<(FileVersion, bool)> = wanted.collect();
        let heads = stream::iter(wanted).map(|(file, has_nothing)| async move {
            if has_nothing {
                return Ok(true);
            }
            let path = below(self.shared.location.prefix(), &file.path);
            match self.shared.location.store().head(&path).await {
                Ok(meta) => Ok(is_unchanged(&file, &meta)),
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(error) => {
                    let doing = format!("look for {}", file.path);
                    Err(self.shared.location.explain(&doing, error))
                }
            }
        });
        heads.buffered(CONCURRENT_HEADS).try_collect().await
    }

    /// All files that are there, by path.
    async fn listed(&self) -> Result<HashMap<Arc<str>, FileVersion>> {
        let location = &self.shared.location;
        let listed = location.store().list(Some(location.prefix()));
        let listed = listed.try_filter_map(|meta| {
            let path = location.relative(&meta.location);
            std::future::ready(Ok(path.map(|path| seen(path, &meta))))
        });
        let files: Vec<FileVersion> = listed
            .try_collect()
            .await
            .map_err(|error| location.explain("list", error))?;
        let by_path = files.into_iter().map(|file| (Arc::clone(&file.path), file));
        Ok(by_path.collect())
    }

    /// The files of a range, all of them or an error.
    async fn files(&self, found: &Discovered, range: &ChangeRange) -> Result<Vec<FileVersion>> {
        let (first, last) = (range.first(), range.until());
        let mut files = found.ledger.files(&self.shared.folder, first, last).await?;
        self.forget_mended(found, &mut files).await?;
        let there = self.are_there(found, &files).await?;
        let gone = files.iter().zip(&there).filter(|(_, there)| !**there);
        let gone: Vec<&FileVersion> = gone.map(|(file, _)| file).collect();
        let Some(oldest) = gone.first() else {
            return Ok(files);
        };
        if self.shared.options.on_missing == OnMissing::Skip {
            let there = files.iter().zip(there).filter(|(_, there)| *there);
            return Ok(there.map(|(file, _)| file.clone()).collect());
        }
        let requested = if range.from_creation() {
            "NULL".into()
        } else {
            range.since().to_string()
        };
        Err(Error::ChangesExpired {
            table: self.shared.name.clone(),
            requested,
            oldest: self.earliest(found).await?.to_string(),
            current: found.ledger.versions(),
            reason: format!(
                "the file {} of version {} has been removed or replaced since (on_missing 'skip' in the table's OPTIONS reads what is still there)",
                oldest.path, oldest.version
            ),
        })
    }

    /// The version from which every file is there.
    async fn earliest(&self, found: &Discovered) -> Result<i64> {
        let last = found.ledger.versions();
        let files = found.ledger.files(&self.shared.folder, 1, last).await?;
        let there = self.are_there(found, &files).await?;
        let gone = there.iter().rposition(|there| !there);
        Ok(gone.map_or(0, |index| index as i64 + 1))
    }

    /// Leaves out files that were set aside as a whole and have been mended since: what they should have said, they say in a
    /// version of their own.
    async fn forget_mended(&self, found: &Discovered, files: &mut Vec<FileVersion>) -> Result<()> {
        let ledger = &found.ledger;
        if files.iter().any(|file| ledger.is_set_aside(file)) {
            let loaded = ledger.load(&self.shared.folder).await?;
            files.retain(|file| !ledger.is_set_aside(file) || ledger.is_newest(&loaded, file));
        }
        Ok(())
    }

    fn scan(
        &self,
        ledger: &Ledger,
        version: i64,
        files: Vec<FileVersion>,
        read: &ChangeRead<'_>,
        wanted: Wanted,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut shapes: HashMap<u32, Arc<Shape>> = HashMap::new();
        let mut scanned = Vec::with_capacity(files.len());
        for file in files.into_iter().filter(|file| file.size > 0) {
            let shape = match shapes.get(&file.shape) {
                Some(shape) => Arc::clone(shape),
                None => {
                    let shape = Arc::new(self.named(ledger.shape(file.shape)?));
                    shapes.insert(file.shape, Arc::clone(&shape));
                    shape
                }
            };
            scanned.push(ScannedFile { file, shape });
        }
        let held = self.held(ledger, version)?;
        let schema = match wanted {
            // files that were set aside have rows to show without any column
            Wanted::Rejected if held.is_empty() => rejected_schema(),
            _ => self.change_schema(held.clone())?,
        };
        let scan = FileScan {
            name: &self.shared.name,
            location: &self.shared.location,
            options: &self.shared.options,
            held: &held,
            schema: &schema,
            files: scanned,
            wanted,
        };
        scan.plan(read)
    }
}
