//! One file that stays open across lost connections.
//!
//! A request that loses its connection is sent again on another one, after the file was opened anew there. What counts is progress:
//! any answer starts the count of failures anew. A file that is being read has to be in the state in which it was first opened; a
//! file that is being written must still be there.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::future::try_join;
use object_store::Error;
use russh_sftp::protocol::OpenFlags;
use tokio::sync::Mutex;

use super::failure::Failure;
use super::handle::{FileHandle, Target};
use super::identity::Identity;
use super::pool::Pool;
use super::retry::Attempts;

/// The length of a read after a connection broke, so that there is some progress between frequent failures.
const CAREFUL_LENGTH: u32 = 32 * 1024;

/// What a file is open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To read one state of it.
    Read,
    /// To make it and write it.
    Write,
}

/// A file on the server.
pub(super) struct RemoteFile {
    pool: Arc<Pool>,
    path: String,
    purpose: Purpose,
    handle: Mutex<Option<Arc<FileHandle>>>,
    attempts: Attempts,
    was_opened: AtomicBool,
    first_seen: OnceLock<Identity>,
}

impl RemoteFile {
    /// The file at `path`; opened at the first request.
    pub(super) fn new(pool: &Arc<Pool>, path: String, purpose: Purpose) -> Self {
        Self {
            pool: Arc::clone(pool),
            path,
            purpose,
            handle: Mutex::new(None),
            attempts: Attempts::default(),
            was_opened: AtomicBool::new(false),
            first_seen: OnceLock::new(),
        }
    }

    /// Where it is on the server.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The open handle, opened anew where that is needed.
    pub(super) async fn handle(&self) -> Result<Arc<FileHandle>, Failure> {
        let mut place = self.handle.lock().await;
        loop {
            if let Some(handle) = place.as_ref() {
                return Ok(Arc::clone(handle));
            }
            match self.open().await {
                Ok(handle) => *place = Some(Arc::new(handle)),
                Err(Failure::Lost(error)) => self.attempts.wait(error).await?,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The state in which the file was opened to be read.
    pub(super) async fn identity(&self) -> Result<Identity, Failure> {
        self.handle().await?;
        match self.first_seen.get() {
            Some(identity) => Ok(*identity),
            None => self.identity_now().await,
        }
    }

    /// All bytes of `range`, which has to lie within the file.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes, Failure> {
        let mut buffer = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let wanted = range.end - position;
            let data = self
                .request(|handle| {
                    let length = self.read_length(&handle, wanted);
                    async move { handle.read(position, length).await }
                })
                .await?;
            if data.is_empty() {
                return Err(self.changed(&format!("it ends at byte {position} now")));
            }
            position += data.len() as u64;
            if buffer.is_empty() {
                buffer = data;
            } else {
                buffer.extend_from_slice(&data);
            }
        }
        Ok(buffer.into())
    }

    /// As [`Self::read`], and an error where the file was changed since it was opened.
    pub(super) async fn read_last(&self, range: Range<u64>) -> Result<Bytes, Failure> {
        let (data, now) = try_join(self.read(range), self.identity_now()).await?;
        match self.first_seen.get() {
            Some(before) if *before != now => Err(self.changed("its size or time is another one")),
            _ => Ok(data),
        }
    }

    /// Writes `data` at `offset`.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Result<(), Failure> {
        self.request(|handle| {
            let data = data.to_vec();
            async move { handle.write(offset, data).await }
        })
        .await
    }

    /// Brings what was written to the disk, closes the file and says its state.
    pub(super) async fn finish(&self) -> Result<Identity, Failure> {
        self.request(|handle| async move { handle.sync().await })
            .await?;
        let identity = self.identity_now().await?;
        let handle = self.handle.lock().await.take();
        match handle.and_then(Arc::into_inner) {
            Some(handle) => match handle.close().await {
                // Everything was written and seen; a server closes the files of a connection that breaks.
                Err(Failure::Lost(_)) => Ok(identity),
                closed => closed.map(|()| identity),
            },
            None => Ok(identity),
        }
    }

    async fn identity_now(&self) -> Result<Identity, Failure> {
        let attributes = self
            .request(|handle| async move { handle.attributes().await })
            .await?;
        Identity::of(&attributes, &self.path)
    }

    /// Sends a request until there is an answer. Each is a task of its own: transfers take turns, and one that is not polled, as its
    /// stream waits to be read, must not keep its turn from those that somebody waits for.
    async fn request<T, F, Answer>(&self, request: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Fn(Arc<FileHandle>) -> Answer,
        Answer: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        loop {
            let handle = self.handle().await?;
            let answer = SpawnedTask::spawn(request(Arc::clone(&handle))).await;
            match answer.map_err(|error| Failure::fatal(error.to_string()))? {
                Err(Failure::Lost(error)) => self.give_up(&handle, error).await?,
                answer => {
                    self.attempts.reset();
                    return answer;
                }
            }
        }
    }

    /// Forgets a handle whose connection broke. Of the many requests that may find out, one waits and counts.
    async fn give_up(&self, lost: &Arc<FileHandle>, error: io::Error) -> Result<(), Failure> {
        let mut place = self.handle.lock().await;
        if place
            .as_ref()
            .is_some_and(|handle| Arc::ptr_eq(handle, lost))
        {
            *place = None;
            self.attempts.wait(error).await?;
        }
        Ok(())
    }

    async fn open(&self) -> Result<FileHandle, Failure> {
        let lease = self.pool.lease().await?;
        let target = Target::File(self.path.clone(), self.flags());
        let handle = FileHandle::open(lease, target).await?;
        if self.purpose == Purpose::Read {
            let found = Identity::of(&handle.attributes().await?, &self.path)?;
            if *self.first_seen.get_or_init(|| found) != found {
                return Err(self.changed("its size or time is another one"));
            }
        }
        self.was_opened.store(true, Ordering::Relaxed);
        Ok(handle)
    }

    fn flags(&self) -> OpenFlags {
        match self.purpose {
            Purpose::Read => OpenFlags::READ,
            // Making it again would hide that somebody removed what was written.
            Purpose::Write if self.was_opened.load(Ordering::Relaxed) => OpenFlags::WRITE,
            Purpose::Write => OpenFlags::WRITE | OpenFlags::CREATE,
        }
    }

    fn read_length(&self, handle: &FileHandle, wanted: u64) -> u32 {
        let most = if self.attempts.is_failing() {
            handle.read_bytes().min(CAREFUL_LENGTH)
        } else {
            handle.read_bytes()
        };
        u32::try_from(wanted).unwrap_or(most).min(most)
    }

    fn changed(&self, how: &str) -> Failure {
        Failure::Fatal(Error::Precondition {
            path: self.path.clone(),
            source: format!(
                "the file was replaced or changed while it was read ({how}); read it again"
            )
            .into(),
        })
    }
}
