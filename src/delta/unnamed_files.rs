//! Files that a statement has written and that no commit names yet: they are removed unless the statement gets that far.
//!
//! Whoever writes files does so through [`UnnamedFiles::store`], which remembers each path before its first byte is sent. When the
//! statement fails, or its future is dropped, the files are removed in the background; [`removed`] waits for that.
//!
//! A request that makes a file cannot be taken back: a thread, or the store, goes on with it when nobody waits for it any more, and
//! the file would come after the removal. Such requests are tasks of their own, and a removal waits for their end.

use std::fmt::{self, Display, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::runtime::Handle;
use tokio::sync::RwLock;

/// How many statements of this process, or parts of them, have files that may still have to be removed.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Something that removes files when it is dropped. It counts from its beginning to the end of the removal: who waits for removals
/// must also wait for those that tasks on other threads have not come to.
#[derive(Debug)]
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits until the files of statements that were given up are gone, but not for longer than `limit`.
pub(crate) async fn removed(limit: Duration) {
    const STEP: Duration = Duration::from_millis(5);
    let started = tokio::time::Instant::now();
    while ALIVE.load(Ordering::Acquire) > 0 && started.elapsed() < limit {
        tokio::time::sleep(STEP).await;
    }
}

/// Files that are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct UnnamedFiles {
    store: Arc<dyn ObjectStore>,
    paths: Arc<Mutex<Vec<Path>>>,
    requests: Requests,
    alive: Option<Alive>,
}

/// The requests under way that make files.
#[derive(Debug, Clone, Default)]
struct Requests(Arc<RwLock<()>>);

impl Requests {
    /// Makes a request that goes on when nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let under_way = Arc::clone(&self.0).read_owned().await;
        let request = tokio::spawn(async move {
            let answer = request.await;
            drop(under_way);
            answer
        });
        Ok(request.await?)
    }

    /// Waits until none is under way.
    async fn end(&self) {
        drop(self.0.write().await);
    }
}

impl UnnamedFiles {
    /// None yet, in this store.
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            paths: Arc::default(),
            requests: Requests::default(),
            alive: Some(Alive::new()),
        }
    }

    /// The store, remembering what is written through it.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(RememberingStore {
            inner: Arc::clone(&self.store),
            paths: Arc::clone(&self.paths),
            requests: self.requests.clone(),
        })
    }

    /// Remembers files.
    pub(crate) fn extend(&self, paths: impl IntoIterator<Item = Path>) {
        lock(&self.paths).extend(paths);
    }

    /// Leaves the files to whoever knows their names by now; it can be given them again.
    pub(crate) fn keep(&self) -> Vec<Path> {
        std::mem::take(&mut *lock(&self.paths))
    }

    /// Removes the files, as far as the store lets us.
    pub(crate) async fn remove(self) {
        let paths = self.keep();
        self.requests.end().await;
        remove_all(self.store.as_ref(), paths).await;
    }
}

impl Drop for UnnamedFiles {
    fn drop(&mut self) {
        let paths = self.keep();
        let (false, Ok(runtime)) = (paths.is_empty(), Handle::try_current()) else {
            return;
        };
        let (store, alive) = (Arc::clone(&self.store), self.alive.take());
        let requests = self.requests.clone();
        runtime.spawn(async move {
            requests.end().await;
            remove_all(store.as_ref(), paths).await;
            drop(alive);
        });
    }
}

/// Removes files; that one cannot be is for VACUUM to mend.
pub(crate) async fn remove_all(store: &dyn ObjectStore, paths: impl IntoIterator<Item = Path>) {
    for path in paths {
        let _ = store.delete(&path).await;
    }
}

fn lock(paths: &Mutex<Vec<Path>>) -> MutexGuard<'_, Vec<Path>> {
    paths.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct RememberingStore {
    inner: Arc<dyn ObjectStore>,
    paths: Arc<Mutex<Vec<Path>>>,
    requests: Requests,
}

impl Display for RememberingStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for RememberingStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        lock(&self.paths).push(location.clone());
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        let put = async move { inner.put_opts(&location, payload, opts).await };
        self.requests.run(put).await?
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        lock(&self.paths).push(location.clone());
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(Upload {
            inner: Some(upload),
            requests: self.requests.clone(),
            alive: Some(Alive::new()),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload in parts that is aborted when it is dropped in the middle: stores keep, and charge for, the parts of others.
#[derive(Debug)]
struct Upload {
    /// Absent once it is complete or aborted.
    inner: Option<Box<dyn MultipartUpload>>,
    requests: Requests,
    alive: Option<Alive>,
}

impl Upload {
    fn ended() -> object_store::Error {
        object_store::Error::Generic {
            store: "upload",
            source: "the upload has ended".into(),
        }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match &mut self.inner {
            Some(inner) => inner.put_part(data),
            None => Box::pin(std::future::ready(Err(Self::ended()))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(mut inner) = self.inner.take() else {
            return Err(Self::ended());
        };
        let alive = self.alive.take();
        let complete = async move {
            let result = inner.complete().await;
            if result.is_err() {
                // nobody may be there any more to do it
                let _ = inner.abort().await;
            }
            drop(alive);
            result
        };
        self.requests.run(complete).await?
    }

    async fn abort(&mut self) -> Result<()> {
        match self.inner.take() {
            Some(mut inner) => inner.abort().await,
            None => Ok(()),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut inner), Ok(runtime)) = (self.inner.take(), Handle::try_current()) {
            let alive = self.alive.take();
            runtime.spawn(async move {
                let _ = inner.abort().await;
                drop(alive);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn files_that_nobody_keeps_are_removed() {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let exists = async |path: &str| memory.head(&Path::from(path)).await.is_ok();
        let kept = UnnamedFiles::new(Arc::clone(&memory));
        kept.store()
            .put(&Path::from("kept"), "a".into())
            .await
            .unwrap();
        kept.keep();
        drop(kept);
        let dropped = UnnamedFiles::new(Arc::clone(&memory));
        dropped
            .store()
            .put(&Path::from("dropped"), "a".into())
            .await
            .unwrap();
        assert!(exists("dropped").await);
        drop(dropped);
        removed(Duration::from_secs(10)).await;
        assert!(exists("kept").await && !exists("dropped").await);
    }
}
