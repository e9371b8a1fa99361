//! An object store that fails when it is told to: a local folder under `fault://<host>/…`.
//!
//! ```text
//!  session ── DeltaTable at fault://<host>/t ── FaultStore ── Process ─ counts, and decides what becomes of each operation
//!                                                   └ LocalFileSystem
//! ```
//!
//! A store belongs to the process that ran on its host when the session opened the table. A process that has been killed stays
//! dead, whatever its tasks still try, while the next process on that host works on the same folder.

mod life;

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path as Folder;
use std::sync::{Arc, LazyLock, Mutex, Once};

use async_trait::async_trait;
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore,
    logstore_factories, object_store_factories,
};
use deltalake::{DeltaResult, DeltaTableError};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, UploadPart,
};
use url::Url;

use self::life::{Fate, lock, no_answer};
pub(crate) use self::life::{Fault, Kind, Operations, Process, Trouble};

/// The scheme of such stores.
const SCHEME: &str = "fault://";

/// Each host as the process sees it that runs there now.
static HOSTS: LazyLock<Mutex<HashMap<String, FaultStore>>> = LazyLock::new(Mutex::default);

impl Process {
    /// Begins to run on `host`, whose files are in `folder`. The process before it is no longer known by the host's name.
    pub(crate) fn start(host: &str, folder: &Folder) -> Result<Arc<Self>> {
        register_scheme();
        let process = Self::new();
        let store = FaultStore {
            process: Arc::clone(&process),
            folder: LocalFileSystem::new_with_prefix(folder)?,
        };
        lock(&HOSTS).insert(host.to_owned(), store);
        Ok(process)
    }
}

/// Teaches deltalake the scheme, once.
fn register_scheme() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        silence_aborts();
        if let Ok(scheme) = Url::parse(SCHEME) {
            object_store_factories().insert(scheme.clone(), Arc::new(Factory));
            logstore_factories().insert(scheme, Arc::new(Factory));
        }
    });
}

/// When the upload of a data file fails, deltalake aborts what it has shut down already, and catches the panic of object_store's
/// `BufWriter` at that. Nobody need read about it each time.
fn silence_aborts() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map(std::panic::Location::file);
        if !file.is_some_and(|file| file.contains("object_store-") && file.ends_with("buffered.rs"))
        {
            hook(info);
        }
    }));
}

/// Makes stores for deltalake, and log stores like those of other file systems.
struct Factory;

impl ObjectStoreFactory for Factory {
    fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let unknown = || DeltaTableError::InvalidTableLocation(url.to_string());
        let host = url.host_str().ok_or_else(unknown)?;
        let store = lock(&HOSTS).get(host).cloned().ok_or_else(unknown)?;
        let path = Path::from_url_path(url.path()).map_err(Error::from)?;
        Ok((Arc::new(store), path))
    }
}

impl LogStoreFactory for Factory {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(
            prefixed_store,
            root_store,
            location,
            options,
        ))
    }
}

/// A folder as one process sees it.
#[derive(Debug, Clone)]
struct FaultStore {
    process: Arc<Process>,
    folder: LocalFileSystem,
}

impl Display for FaultStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "FaultStore({})", self.folder)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fate = self.process.admit(Kind::Put, Some(location));
        match fate {
            Fate::WorksTwice => {
                // the client has given up waiting for the first answer
                let first = self
                    .folder
                    .put_opts(location, payload.clone(), options.clone());
                let _ = first.await;
            }
            Fate::WorksLate => return self.put_late(location, payload, options).await,
            _ => {}
        }
        let put = self.folder.put_opts(location, payload, options);
        self.process.meet(fate, put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // the folder shows nothing of an upload before it is complete
        let begun = self.folder.put_multipart_opts(location, options);
        let upload = self.process.perform(Kind::Part, None, begun).await?;
        Ok(Box::new(FaultUpload {
            process: Arc::clone(&self.process),
            location: location.clone(),
            upload,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.process.admit(Kind::Get, Some(location));
        let get = self.folder.get_opts(location, options);
        match fate {
            Fate::WorksUnanswered => cut(get.await?).await,
            _ => self.process.meet(fate, get).await,
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.and_then(move |path| {
            let store = store.clone();
            async move {
                let delete = store.folder.delete(&path);
                let deleted = store.process.perform(Kind::Delete, Some(&path), delete);
                deleted.await?;
                Ok(path)
            }
        });
        deleted.boxed()
    }

    /// In the order of paths, as the kernel expects it of everything but `file://`.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, found) = (self.clone(), self.folder.list(prefix));
        let listed = async move {
            let list = store.process.perform(Kind::List, None, found.try_collect());
            let mut found: Vec<ObjectMeta> = list.await?;
            found.sort_by(|left, right| left.location.cmp(&right.location));
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let list = self.folder.list_with_delimiter(prefix);
        self.process.perform(Kind::List, None, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = self.folder.copy_opts(from, to, options);
        self.process.perform(Kind::Put, Some(to), copy).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let rename = self.folder.rename_opts(from, to, options);
        self.process.perform(Kind::Put, Some(to), rename).await
    }
}

impl FaultStore {
    /// Puts once the process is told to go on, and then says that the process has ended.
    async fn put_late(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let (store, location) = (self.clone(), location.clone());
        let put = tokio::spawn(async move {
            store.process.stop().await;
            let result = store.folder.put_opts(&location, payload, options).await;
            store.process.end();
            result
        });
        put.await?
    }
}

/// An answer that breaks off in the middle.
async fn cut(found: GetResult) -> Result<GetResult> {
    let (meta, range) = (found.meta.clone(), found.range.clone());
    let attributes = found.attributes.clone();
    let bytes = found.bytes().await?;
    let half = bytes.slice(..bytes.len() / 2);
    let parts = stream::iter([Ok(half), Err(no_answer())]);
    Ok(GetResult {
        payload: GetResultPayload::Stream(parts.boxed()),
        meta,
        range,
        attributes,
    })
}

/// An upload in parts, which takes effect when it is complete.
#[derive(Debug)]
struct FaultUpload {
    process: Arc<Process>,
    location: Path,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (process, part) = (Arc::clone(&self.process), self.upload.put_part(data));
        Box::pin(async move { process.perform(Kind::Part, None, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let complete = self.upload.complete();
        let performed = self
            .process
            .perform(Kind::Put, Some(&self.location), complete);
        performed.await
    }

    async fn abort(&mut self) -> Result<()> {
        let abort = self.upload.abort();
        self.process.perform(Kind::Part, None, abort).await
    }
}
