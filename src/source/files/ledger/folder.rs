//! Where a ledger is kept: reading it on, adding to it, and summing it up in checkpoints.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::batch::{self, BatchHead};
use super::checkpoint::{self, CheckpointHead};
use super::{FileVersion, Files, Ledger};
use crate::error::{Error, Result};
use crate::source::files::discovery::{below, plain_tag};
use crate::source::files::location::Location;
use crate::source::files::shape::Shape;

/// The folder of the ledger below its location.
const FOLDER: &str = "_alluvial/ledger";
/// The file that names the newest checkpoint.
pub(super) const NEWEST_CHECKPOINT: &str = "checkpoint.json";
pub(super) const CHECKPOINT_SUFFIX: &str = ".checkpoint.parquet";
const BATCH_SUFFIX: &str = ".json";
/// Files per batch, so that none grows too large to be written at once.
const BATCH_FILES: usize = 50_000;
/// A checkpoint is written after so many batches,
pub(super) const CHECKPOINT_BATCHES: i64 = 64;
/// or after so many files, if they are not few beside those that the last one has.
pub(super) const CHECKPOINT_FILES: usize = 20_000;
const CONCURRENT_READS: usize = 32;
const WRITE_LEDGER: &str = "write the ledger (ledger '…' names another place for it)";

/// A file that has been found and has no version yet.
#[derive(Debug, Clone)]
pub(in crate::source::files) struct FoundFile {
    /// Relative to the location.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// When it was last changed, in microseconds since the epoch.
    pub modified: i64,
    /// The store's tag of the content, without quotes.
    pub e_tag: Option<String>,
    /// Its columns.
    pub shape: Arc<Shape>,
}

/// What became of an attempt to number files.
#[derive(Debug)]
pub(in crate::source::files) enum Appended {
    /// They have versions now.
    Done(Box<Ledger>),
    /// Another reader was faster: of a long list some may have versions, and the rest has none.
    Lost,
}

/// Where a ledger is kept.
#[derive(Debug, Clone)]
pub(in crate::source::files) struct LedgerFolder {
    location: Location,
    pattern: Option<String>,
    of: Option<String>,
}

impl LedgerFolder {
    /// The ledger below `location` of files that match `pattern`; `of` tells which files, where these are not at `location`.
    pub(in crate::source::files) fn new(
        location: Location,
        pattern: Option<String>,
        of: Option<String>,
    ) -> Self {
        Self {
            location: location.join(FOLDER),
            pattern,
            of,
        }
    }

    fn path(&self, name: &str) -> Path {
        below(self.location.prefix(), name)
    }

    /// Where it is, without secrets.
    pub(in crate::source::files) fn shown(&self) -> &str {
        self.location.shown()
    }

    /// A file of the ledger's location that is none of the ledger itself.
    pub(in crate::source::files) fn file(&self, name: &str) -> (Arc<dyn ObjectStore>, Path) {
        (self.store(), self.path(name))
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.location.store()
    }

    pub(super) async fn read(&self, name: &str) -> Result<Bytes> {
        let read = async { self.store().get(&self.path(name)).await?.bytes().await };
        read.await
            .map_err(|error| self.location.explain("read the ledger", error))
    }

    /// The ledger as it is now.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or numbers files of another pattern.
    pub(in crate::source::files) async fn refresh(&self, known: Option<&Ledger>) -> Result<Ledger> {
        if let Some(known) = known.filter(|known| known.last_batch > 0)
            && let Some(next) = self.read_on(known.clone()).await?
        {
            return Ok(next);
        }
        let start = match self.newest_checkpoint().await? {
            Some(head) => Ledger::from_checkpoint(head),
            None => Ledger::empty(),
        };
        let read = self.read_on(start).await?;
        let read = match read {
            Some(read) => read,
            None => self
                .read_on(Ledger::empty())
                .await?
                .unwrap_or_else(Ledger::empty),
        };
        if read.last_batch > 0 && read.of.is_some() && self.of.is_some() && read.of != self.of {
            return Err(Error::invalid(format!(
                "the ledger at {} numbers the files of {}, and not those of {}; give each location a ledger of its own",
                self.location.shown(),
                read.of.as_deref().unwrap_or_default(),
                self.of.as_deref().unwrap_or_default()
            )));
        }
        if read.last_batch > 0 && read.pattern != self.pattern {
            let shown = |pattern: &Option<String>| match pattern {
                Some(pattern) => format!("the pattern '{pattern}'"),
                None => "no pattern".to_owned(),
            };
            return Err(Error::invalid(format!(
                "the ledger of {} numbers files of {}, and this table has {}; use the same, or give this table a ledger of its own: ledger '…'",
                self.location.shown(),
                shown(&read.pattern),
                shown(&self.pattern)
            )));
        }
        Ok(read)
    }

    /// With the batches that have been added since; `None` where it turns out to be another ledger.
    pub(super) async fn read_on(&self, mut ledger: Ledger) -> Result<Option<Ledger>> {
        // the last one that is known is listed again: a ledger that was made anew has another one there
        let offset = self.path(&batch_name((ledger.last_batch - 1).max(0)));
        let store = self.store();
        let mut listed = store.list_with_offset(Some(self.location.prefix()), &offset);
        let mut batches = Vec::new();
        loop {
            match listed.try_next().await {
                Ok(Some(meta)) => {
                    let number = meta.location.filename().and_then(batch_number);
                    batches.extend(number.map(|number| (number, meta)));
                }
                Ok(None) | Err(object_store::Error::NotFound { .. }) => break,
                Err(error) => return Err(self.location.explain("list the ledger", error)),
            }
        }
        batches.sort_by_key(|(number, _)| *number);
        let mut new = batches.into_iter().peekable();
        if let Some((number, meta)) = new.peek() {
            let seen = Some((meta.size, tag_of(meta.e_tag.as_deref())));
            if *number == ledger.last_batch {
                if ledger.last_seen.is_some() && ledger.last_seen != seen {
                    return Ok(None);
                }
                ledger.last_seen = seen;
                new.next();
            } else if ledger.last_batch > 0 {
                return Ok(None);
            }
        } else if ledger.last_batch > 0 {
            return Ok(None);
        }
        // a listing is no moment: of two batches made meanwhile it may show the later one only
        let newest = new.last();
        let last = newest.as_ref().map_or(0, |(number, _)| *number);
        let names: Vec<String> = (ledger.last_batch + 1..=last).map(batch_name).collect();
        let texts = stream::iter(names)
            .map(|name| async move { Ok::<_, Error>((self.read(&name).await?, name)) })
            .buffered(CONCURRENT_READS);
        let texts: Vec<(Bytes, String)> = texts.try_collect().await?;
        for (text, name) in &texts {
            let (head, files) = batch::decode(name, text, ledger.time)?;
            ledger.add(head, files)?;
        }
        if let Some((_, meta)) = newest {
            ledger.last_seen = Some((meta.size, tag_of(meta.e_tag.as_deref())));
        }
        Ok(Some(ledger))
    }

    /// What is known of the newest checkpoint; none where that cannot be told.
    async fn newest_checkpoint(&self) -> Result<Option<CheckpointHead>> {
        match self.store().get(&self.path(NEWEST_CHECKPOINT)).await {
            Ok(found) => {
                let bytes = found.bytes().await?;
                // a hint: without it all batches are read
                Ok(serde_json::from_slice(&bytes).ok())
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.location.explain("read the ledger", error)),
        }
    }

    /// Gives the next versions to `found`, in this order.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(in crate::source::files) async fn append(
        &self,
        ledger: Ledger,
        found: Vec<FoundFile>,
    ) -> Result<Appended> {
        if ledger.last_batch == 0 {
            self.check_put_if_absent().await?;
        }
        let mut ledger = ledger;
        // a ledger without a file has an identity, too
        let beginning = (ledger.last_batch == 0 && found.is_empty()).then_some(found.as_slice());
        let chunks = beginning.into_iter().chain(found.chunks(BATCH_FILES));
        for (index, found) in chunks.enumerate() {
            let (mut head, files) = self.batch(&ledger, found);
            head.continues = index > 0;
            let name = batch_name(head.batch);
            let text = Bytes::from(batch::encode(&head, &files)?);
            let options = PutOptions::from(PutMode::Create);
            let (store, path) = self.file(&name);
            let mut seen = None;
            match store.put_opts(&path, text.clone().into(), options).await {
                Ok(put) => seen = tag_of(put.e_tag.as_deref()),
                Err(
                    object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. },
                ) => {
                    // the batch may be this one, written when the answer was lost on the way; or there may be none, where the store
                    // only says that others are writing, too
                    let there = async { store.get(&path).await?.bytes().await };
                    match there.await {
                        Ok(there) if there == text => {}
                        Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                            return Ok(Appended::Lost);
                        }
                        Err(error) => return Err(self.location.explain("read the ledger", error)),
                    }
                }
                Err(error) => return Err(self.location.explain(WRITE_LEDGER, error)),
            }
            ledger.add(head, files)?;
            ledger.last_seen = seen.map(|tag| (text.len() as u64, Some(tag)));
        }
        let ledger = self.checkpoint_if_due(ledger).await;
        Ok(Appended::Done(Box::new(ledger)))
    }

    fn batch(&self, ledger: &Ledger, found: &[FoundFile]) -> (BatchHead, Vec<FileVersion>) {
        let first = ledger.versions() + 1;
        let known = ledger.shapes.len() as u32;
        let mut numbers: HashMap<&Shape, u32> = ledger
            .shapes
            .iter()
            .enumerate()
            .map(|(number, (_, shape))| (shape, number as u32))
            .collect();
        let mut shapes = Vec::new();
        let now = Utc::now().timestamp_micros();
        let mut time = ledger.time;
        let mut files = Vec::with_capacity(found.len());
        for (file, version) in found.iter().zip(first..) {
            let shape = *numbers.entry(file.shape.as_ref()).or_insert_with(|| {
                shapes.push(file.shape.as_ref().clone());
                known + shapes.len() as u32 - 1
            });
            time = batch::commit_time(time, file.modified, now);
            files.push(FileVersion {
                version,
                path: file.path.as_str().into(),
                size: file.size,
                modified: file.modified,
                e_tag: file.e_tag.as_deref().map(Into::into),
                shape,
                time,
            });
        }
        let id = ledger.id.clone();
        let head = BatchHead {
            ledger: id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            batch: ledger.last_batch + 1,
            first,
            time: now,
            continues: false,
            files: files.len(),
            of: self.of.clone(),
            pattern: self.pattern.clone(),
            shapes,
        };
        (head, files)
    }

    /// Some stores take "only if absent" and overwrite all the same: numbers would not last there.
    async fn check_put_if_absent(&self) -> Result<()> {
        let probe = self.path(&format!(".probe-{}", Uuid::new_v4()));
        let put = || async {
            let options = PutOptions::from(PutMode::Create);
            self.store().put_opts(&probe, "probe".into(), options).await
        };
        let unfit = |why: &str| {
            Error::invalid(format!(
                "{} cannot keep the ledger: its store {why} (put-if-absent), so two readers could number files differently; give \
                 ledger '…', a place whose store can",
                self.location.shown()
            ))
        };
        let written = match put().await {
            Ok(_) => put().await,
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => {
                return Err(unfit("has no conditional write"));
            }
            Err(error) => {
                return Err(self.location.explain(WRITE_LEDGER, error));
            }
        };
        let _ = self.store().delete(&probe).await;
        match written {
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(()),
            Ok(_) => Err(unfit("overwrites what is there")),
            Err(error) => Err(self.location.explain(WRITE_LEDGER, error)),
        }
    }

    /// Writes a checkpoint where it pays, and returns the ledger that stands on it. It only saves time: a failure is nobody's
    /// concern.
    async fn checkpoint_if_due(&self, ledger: Ledger) -> Ledger {
        let last = ledger.checkpoint.as_ref();
        let batches = ledger.last_batch - last.map_or(0, |head| head.batch);
        let files = ledger.tail.versions.len();
        let many = files >= CHECKPOINT_FILES && files as i64 >= ledger.in_checkpoint() / 4;
        // the more files there are, the more a checkpoint costs
        let due = CHECKPOINT_BATCHES.max(ledger.versions() / CHECKPOINT_FILES as i64);
        if batches < due && !many {
            return ledger;
        }
        match self.write_checkpoint(&ledger).await {
            Ok(checkpointed) => checkpointed,
            Err(_) => ledger,
        }
    }

    async fn write_checkpoint(&self, ledger: &Ledger) -> Result<Ledger> {
        let Some(id) = ledger.id.clone() else {
            return Ok(ledger.clone());
        };
        let files = ledger.files(self, 1, ledger.versions()).await?;
        let head = CheckpointHead {
            ledger: id,
            batch: ledger.last_batch,
            versions: ledger.versions(),
            greatest: ledger.greatest.clone(),
            ordered: ledger.ordered,
            time: ledger.time,
            pattern: ledger.pattern.clone(),
            of: ledger.of.clone(),
            shapes: ledger.shapes.clone(),
        };
        let store = self.store();
        let path = self.path(&checkpoint_name(head.batch));
        store.put(&path, checkpoint::encode(&files)?.into()).await?;
        let text = serde_json::to_vec(&head)?;
        store
            .put(&self.path(NEWEST_CHECKPOINT), text.into())
            .await?;
        if let Some(before) = ledger.checkpoint.as_ref().map(|before| before.batch) {
            // whoever reads it now has to look again, or reads the batches
            let _ = store.delete(&self.path(&checkpoint_name(before))).await;
        }
        Ok(Ledger {
            checkpointed: Arc::new(OnceCell::new_with(Some(Files::new(files)))),
            before_discovery: ledger.before_discovery.clone(),
            ..Ledger::from_checkpoint(head)
        })
    }
}

fn tag_of(tag: Option<&str>) -> Option<String> {
    tag.map(|tag| plain_tag(tag).to_owned())
}

/// The file of a batch.
pub(super) fn batch_name(batch: i64) -> String {
    format!("{batch:020}{BATCH_SUFFIX}")
}

/// The file of the checkpoint that ends with a batch.
pub(super) fn checkpoint_name(batch: i64) -> String {
    format!("{batch:020}{CHECKPOINT_SUFFIX}")
}

fn batch_number(name: &str) -> Option<i64> {
    name.strip_suffix(BATCH_SUFFIX)?.parse().ok()
}
