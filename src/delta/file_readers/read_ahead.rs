//! Fetches small files whole, many at a time, before their turn comes.
//!
//! Files are announced in the order in which they are asked for. One that is passed over is forgotten: it is read plainly if it is
//! asked for after all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use object_store::ObjectStore;
use object_store::path::Path;

use super::UpcomingFile;

/// Larger files are read by ranges: not all of their bytes may be needed.
const SMALL_FILE: u64 = 1024 * 1024;
/// How many files all that share the limits hold or have under way at once; each may have a few.
const FEWEST_AHEAD: usize = 4;
const FILES_AHEAD: usize = 64;
/// How many bytes they may take.
const BYTES_AHEAD: u64 = 32 * 1024 * 1024;

/// A file that is being fetched, or has been: its bytes, or nothing if that failed. It ends when the last copy is dropped.
pub(super) type Fetch = Shared<BoxFuture<'static, Option<Bytes>>>;

/// What a reader knows of its file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    /// Whether it lies in another store than the table's.
    pub elsewhere: bool,
    pub path: Path,
}

/// The files that have been announced and not asked for yet.
pub(super) struct ReadAhead {
    store: Arc<dyn ObjectStore>,
    waiting: VecDeque<Waiting>,
    /// How many at the front of `waiting` have been begun, or left to be read by ranges.
    begun: usize,
    /// Of those begun, how many are held or under way,
    files: usize,
    /// and their bytes.
    bytes: u64,
    /// How many share the limits.
    sharers: usize,
    /// What readers hold: a file may get a second reader while it has the first.
    taken: HashMap<FileKey, WeakShared<BoxFuture<'static, Option<Bytes>>>>,
}

struct Waiting {
    file: UpcomingFile,
    fetch: Option<Fetch>,
}

impl Waiting {
    fn is(&self, key: &FileKey) -> bool {
        let location = &self.file.location;
        location.store.is_some() == key.elsewhere && location.path == key.path
    }
}

impl ReadAhead {
    /// Nothing is under way yet.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        files: Vec<UpcomingFile>,
        sharers: usize,
    ) -> Self {
        let waiting = files.into_iter().map(|file| Waiting { file, fetch: None });
        Self {
            store,
            waiting: waiting.collect(),
            begun: 0,
            files: 0,
            bytes: 0,
            sharers: sharers.max(1),
            taken: HashMap::new(),
        }
    }

    /// Hands a file over to its reader, and begins with those after it; `None` for one that is to be read plainly.
    pub(super) fn take(&mut self, key: &FileKey) -> Option<Fetch> {
        let position = self.waiting.iter().position(|waiting| waiting.is(key));
        if position != Some(0)
            && let Some(held) = self.taken.get(key).and_then(WeakShared::upgrade)
        {
            return Some(held);
        }
        for _ in 0..position? {
            drop(self.pop());
        }
        self.fetch_ahead();
        let fetch = self.pop();
        self.fetch_ahead();
        let weak = fetch.as_ref().and_then(Shared::downgrade);
        self.taken.extend(weak.map(|weak| (key.clone(), weak)));
        fetch
    }

    fn pop(&mut self) -> Option<Fetch> {
        let next = self.waiting.pop_front()?;
        self.begun = self.begun.saturating_sub(1);
        if next.fetch.is_some() {
            self.files -= 1;
            self.bytes -= next.file.size;
        }
        next.fetch
    }

    /// Begins with as many files as may be under way.
    fn fetch_ahead(&mut self) {
        while let Some(next) = self.waiting.get_mut(self.begun) {
            let size = next.file.size;
            if size > 0 && size <= SMALL_FILE {
                let files = (FILES_AHEAD / self.sharers).max(FEWEST_AHEAD);
                let bytes = (BYTES_AHEAD / self.sharers as u64).max(SMALL_FILE);
                if self.files >= files || self.bytes + size > bytes {
                    return;
                }
                next.fetch = Some(fetch(&self.store, &next.file));
                self.files += 1;
                self.bytes += size;
            }
            self.begun += 1;
        }
    }
}

fn fetch(table_store: &Arc<dyn ObjectStore>, file: &UpcomingFile) -> Fetch {
    let location = &file.location;
    let store = Arc::clone(location.store.as_ref().unwrap_or(table_store));
    let (path, size) = (location.path.clone(), file.size);
    let task = SpawnedTask::spawn(async move {
        // one request, and on a local disk one visit to the threads that may block
        let all = 0..size;
        let read = store.get_ranges(&path, std::slice::from_ref(&all)).await;
        let bytes = read.ok()?.into_iter().next()?;
        (bytes.len() as u64 == size).then_some(bytes)
    });
    async move { task.await.ok().flatten() }.boxed().shared()
}
