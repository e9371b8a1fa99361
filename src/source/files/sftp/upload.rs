//! Writing: the content goes to a hidden file in the same folder first, which then gets the name.
//!
//! ```text
//!  begin ── write, write, … ── publish ──┬─ replace  rename over what is there
//!   .name.<uuid>.tmp                     └─ claim    link, or rename where that refuses to replace
//! ```
//!
//! Writes say where their bytes go, so that they may be repeated and come in any order. A claim whose answer was lost is settled by
//! comparing contents: it neither takes somebody else's file for its own nor its own for somebody else's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, PutPayload, PutResult, Result};
use russh_sftp::protocol::StatusCode;
use tokio::runtime::Handle as Runtime;

use super::failure::Failure;
use super::identity::Identity;
use super::paths::{folders_of, server_path, temporary_path};
use super::pool::Pool;
use super::read::get;
use super::remote_file::{Purpose, RemoteFile};
use super::retry::Turn;

/// How many writes of one file are under way at once.
const CONCURRENT_WRITES: usize = 16;

/// What happens to a file that has the name already.
pub(super) enum Publish<'a> {
    /// It is replaced.
    Replace,
    /// It stays, and the upload, of this content, fails.
    Create(&'a PutPayload),
}

/// How an attempt to get an unused name ended.
enum Claim {
    Ours,
    Taken(Failure),
    /// Something has the name, and it may be our own file, of an attempt whose answer was lost.
    Unclear,
}

/// A file that is being written.
pub(super) struct Upload {
    pool: Arc<Pool>,
    location: Path,
    target: String,
    file: RemoteFile,
    /// Whether the hidden file is gone, or about to be removed.
    is_settled: AtomicBool,
}

impl Upload {
    /// Makes the hidden file, and the folders that it needs.
    pub(super) async fn begin(pool: &Arc<Pool>, location: &Path) -> Result<Self> {
        let target = server_path(location);
        let file = RemoteFile::new(pool, temporary_path(&target), Purpose::Write);
        let upload = Self {
            pool: Arc::clone(pool),
            location: location.clone(),
            target,
            file,
            is_settled: AtomicBool::new(false),
        };
        match upload.file.handle().await {
            Err(failure) if failure.is(StatusCode::NoSuchFile) => {
                make_folders(pool, &upload.target).await?;
                let opened = upload.file.handle().await;
                opened.map_err(|failure| failure.at(&upload.target))?;
            }
            opened => {
                opened.map_err(|failure| failure.at(&upload.target))?;
            }
        }
        Ok(upload)
    }

    /// Writes `payload` at `offset`.
    pub(super) async fn write(&self, offset: u64, payload: PutPayload) -> Result<()> {
        let handle = self
            .file
            .handle()
            .await
            .map_err(|failure| self.at(failure))?;
        let most = handle.write_bytes() as usize;
        drop(handle);
        let pieces = pieces(offset, payload, most);
        stream::iter(pieces.into_iter().map(Ok::<_, Failure>))
            .try_for_each_concurrent(CONCURRENT_WRITES, |(offset, piece)| {
                self.file.write(offset, piece)
            })
            .await
            .map_err(|failure| self.at(failure))
    }

    /// Gives the file, of which `size` bytes were written, its name.
    pub(super) async fn publish(&self, size: u64, mode: Publish<'_>) -> Result<PutResult> {
        let published = self.try_publish(size, &mode).await;
        if published.is_ok() && matches!(mode, Publish::Replace) {
            self.is_settled.store(true, Ordering::Relaxed);
        } else {
            // A file left behind costs space only: it is hidden, and left out of listings.
            let _ = self.discard().await;
        }
        published
    }

    /// Removes the hidden file.
    pub(super) async fn discard(&self) -> Result<()> {
        self.is_settled.store(true, Ordering::Relaxed);
        let path = self.file.path();
        remove(&self.pool, path)
            .await
            .map_err(|failure| failure.at(path))
    }

    async fn try_publish(&self, size: u64, mode: &Publish<'_>) -> Result<PutResult> {
        let finished = self.file.finish().await;
        let identity = finished.map_err(|failure| self.at(failure))?;
        if identity.size != size {
            return Err(self.at(Failure::fatal(format!(
                "{}: the server holds {} bytes of the {size} that were written; write the file again",
                self.target, identity.size
            ))));
        }
        match mode {
            Publish::Replace => self.replace(identity).await?,
            Publish::Create(content) => self.create(content).await?,
        }
        Ok(PutResult {
            e_tag: Some(identity.e_tag()),
            version: None,
        })
    }

    async fn replace(&self, identity: Identity) -> Result<()> {
        let (from, to) = (self.file.path(), self.target.as_str());
        self.pool
            .run(|lease, turn| async move {
                match lease.replace(from, to).await {
                    // Renamed by the attempt whose answer was lost?
                    Err(failure)
                        if turn == Turn::Repeated && failure.is(StatusCode::NoSuchFile) =>
                    {
                        let now = Identity::of(&lease.stat(to).await?, to)?;
                        if now == identity {
                            Ok(())
                        } else {
                            Err(failure)
                        }
                    }
                    replaced => replaced,
                }
            })
            .await
            .map_err(|failure| self.at(failure))
    }

    async fn create(&self, content: &PutPayload) -> Result<()> {
        match self.claim().await.map_err(|failure| self.at(failure))? {
            Claim::Ours => Ok(()),
            Claim::Unclear if self.target_holds(content).await? => Ok(()),
            Claim::Unclear => Err(Error::AlreadyExists {
                path: self.target.clone(),
                source: "it has another content".into(),
            }),
            Claim::Taken(failure) => Err(Error::AlreadyExists {
                path: self.target.clone(),
                source: Box::new(self.at(failure)),
            }),
        }
    }

    async fn claim(&self) -> Result<Claim, Failure> {
        let (from, to) = (self.file.path(), self.target.as_str());
        self.pool
            .run(|lease, turn| async move {
                match lease.claim(from, to).await {
                    Ok(()) => Ok(Claim::Ours),
                    Err(failure @ Failure::Status(_)) => {
                        if !lease.exists(to).await? {
                            return Err(failure);
                        }
                        Ok(match turn {
                            Turn::First => Claim::Taken(failure),
                            Turn::Repeated => Claim::Unclear,
                        })
                    }
                    Err(failure) => Err(failure),
                }
            })
            .await
    }

    async fn target_holds(&self, content: &PutPayload) -> Result<bool> {
        let found = get(&self.pool, &self.location, GetOptions::new()).await?;
        if found.meta.size != content.content_length() as u64 {
            return Ok(false);
        }
        Ok(found.bytes().await? == Bytes::from(content.clone()))
    }

    fn at(&self, failure: Failure) -> Error {
        failure.at(&self.target)
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Upload")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_settled.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = Runtime::try_current() {
            let pool = Arc::clone(&self.pool);
            let path = self.file.path().to_owned();
            runtime.spawn(async move {
                let _ = remove(&pool, &path).await;
            });
        }
    }
}

/// Removes a file that may be gone already.
async fn remove(pool: &Pool, path: &str) -> Result<(), Failure> {
    let removed = pool
        .run(|lease, _| async move { lease.remove(path).await })
        .await;
    match removed {
        Err(failure) if failure.is(StatusCode::NoSuchFile) => Ok(()),
        removed => removed,
    }
}

async fn make_folders(pool: &Pool, target: &str) -> Result<()> {
    for folder in folders_of(target) {
        let made = pool
            .run(|lease, _| async move {
                match lease.make_folder(folder).await {
                    // Servers do not say that there is one already; somebody else may just have made it.
                    Err(failure @ Failure::Status(_)) => {
                        if lease.exists(folder).await? {
                            Ok(())
                        } else {
                            Err(failure)
                        }
                    }
                    made => made,
                }
            })
            .await;
        made.map_err(|failure| failure.at(folder))?;
    }
    Ok(())
}

/// What to write where, in pieces of at most `most` bytes.
fn pieces(offset: u64, payload: PutPayload, most: usize) -> Vec<(u64, Bytes)> {
    let mut pieces = Vec::new();
    let mut position = offset;
    for mut block in payload {
        while !block.is_empty() {
            let piece = block.split_to(block.len().min(most.max(1)));
            let length = piece.len() as u64;
            pieces.push((position, piece));
            position += length;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_cut_into_pieces() {
        let payload: PutPayload = [Bytes::from("abcde"), Bytes::new(), Bytes::from("f")]
            .into_iter()
            .collect();
        let pieces = pieces(10, payload, 3);
        let expected = [(10, "abc"), (13, "de"), (15, "f")];
        assert_eq!(
            pieces,
            expected.map(|(offset, text)| (offset, Bytes::from(text)))
        );
    }
}
