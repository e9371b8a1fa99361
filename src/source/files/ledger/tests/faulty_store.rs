//! A store in memory that fails or lies when it is told to, and lets others run between its operations.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

/// The path of a file that may not be read.
const UNREADABLE: &str = "drop/unreadable";

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is written.
    NotWritten,
    /// It is written, and the answer is lost.
    AnswerLost,
    /// It is written, the answer is lost, and the client writes again by itself.
    Repeated,
    /// It is written whatever its conditions.
    Overwritten,
    /// It is not known with conditions.
    NoConditions,
    /// It is not permitted.
    Forbidden,
}

/// A store, and what goes wrong in it.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: InMemory,
    fault: Option<Fault>,
    /// Which write it happens to, from 1; every one if absent.
    at: Option<usize>,
    writes: AtomicUsize,
    operations: AtomicUsize,
}

impl FaultyStore {
    /// A store without a fault.
    pub(super) fn healthy() -> Arc<Self> {
        Self::new(None, None)
    }

    /// A store in which something happens to one write.
    pub(super) fn at_write(fault: Fault, write: usize) -> Arc<Self> {
        Self::new(Some(fault), Some(write))
    }

    /// A store in which the same happens to every write.
    pub(super) fn always(fault: Fault) -> Arc<Self> {
        Self::new(Some(fault), None)
    }

    fn new(fault: Option<Fault>, at: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            fault,
            at,
            writes: AtomicUsize::new(0),
            operations: AtomicUsize::new(0),
        })
    }

    /// Lets an empty file land, or replaces it by another one; nothing goes wrong with that.
    pub(super) async fn land(&self, path: &str) {
        let path = Path::from(path);
        self.inner.put(&path, "".into()).await.unwrap();
    }

    /// Lets a file land that may not be read: get_opts refuses it by its name.
    pub(super) async fn land_unreadable(&self) {
        let path = Path::from(UNREADABLE);
        self.inner
            .put(&path, "no Parquet, and secret".into())
            .await
            .unwrap();
    }

    /// Removes a file.
    pub(super) async fn remove(&self, path: &str) {
        self.inner.delete(&Path::from(path)).await.unwrap();
    }

    /// Others go on for a while that is not always equally long, so that those who race do not take turns.
    async fn pause(&self) {
        let number = self.operations.fetch_add(1, Ordering::Relaxed);
        for _ in 0..number.wrapping_mul(7) % 5 {
            tokio::task::yield_now().await;
        }
    }

    /// Counts a write; what happens to it.
    fn fault(&self) -> Option<Fault> {
        let write = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        self.fault.filter(|_| self.at.is_none_or(|at| at == write))
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "FaultyStore",
        source: "the connection was lost".into(),
    }
}

fn forbidden(location: &Path) -> Error {
    Error::PermissionDenied {
        path: location.to_string(),
        source: "ask somebody else".into(),
    }
}

impl Display for FaultyStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.pause().await;
        let is_create = options.mode == PutMode::Create;
        match self.fault() {
            Some(Fault::NotWritten) => Err(lost()),
            Some(Fault::AnswerLost) => {
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(lost())
            }
            Some(Fault::Repeated) if is_create => {
                self.inner.put_opts(location, payload, options).await?;
                Err(Error::AlreadyExists {
                    path: location.to_string(),
                    source: "it was written a moment ago".into(),
                })
            }
            Some(Fault::Overwritten) => {
                let options = PutMode::Overwrite.into();
                self.inner.put_opts(location, payload, options).await
            }
            Some(Fault::NoConditions) if is_create => Err(Error::NotImplemented {
                operation: "put_opts with PutMode::Create".to_owned(),
                implementer: "FaultyStore".to_owned(),
            }),
            Some(Fault::Forbidden) => Err(forbidden(location)),
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pause().await;
        if location.as_ref() == UNREADABLE {
            return Err(forbidden(location));
        }
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
