//! An object store that fails when it is told to: a local folder under `fault://<host>/…`.
//!
//! ```text
//!  session ── DeltaTable at fault://<host>/t ── FaultStore ── Process ─ counts, and decides what becomes of each operation
//!                                                   └ LocalFileSystem
//! ```
//!
//! A store belongs to the process that ran on its host when the session opened the table. A process that has been killed stays
//! dead, whatever its tasks still try, while the next process on that host works on the same folder.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path as Folder;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};

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
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use tokio::sync::Notify;
use url::Url;

/// The scheme of such stores.
const SCHEME: &str = "fault://";

/// What goes wrong in a process, counted from when it is armed; operations and writes are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It is killed before this operation does anything.
    KilledBefore(usize),
    /// It is killed before this write does anything.
    KilledBeforeWrite(usize),
    /// It is killed once this write has been done, and before it is told so.
    KilledAfterWrite(usize),
    /// It stops before this operation, until it is told to go on.
    StoppedBefore(usize),
    /// This write is done, but its answer and those of so many operations after it are lost; then the store is back.
    Outage {
        /// The write.
        write: usize,
        /// How many operations after it fail.
        lost: usize,
    },
}

/// How many operations there have been, and how many of them were writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Operations {
    pub all: usize,
    pub writes: usize,
}

/// One life of a host.
#[derive(Debug)]
pub(super) struct Process {
    state: Mutex<State>,
    stopped: Notify,
    goes_on: Notify,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    done: Operations,
    /// The number of the operation that the fault hit.
    hit: Option<usize>,
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    WorksUnanswered,
    Waits,
    Fails,
}

/// Each host as the process sees it that runs there now.
static HOSTS: LazyLock<Mutex<HashMap<String, FaultStore>>> = LazyLock::new(Mutex::default);

impl Process {
    /// Begins to run on `host`, whose files are in `folder`. The process before it is no longer known by the host's name.
    pub(super) fn start(host: &str, folder: &Folder) -> Result<Arc<Self>> {
        register_scheme();
        let process = Arc::new(Self {
            state: Mutex::new(State {
                fault: Fault::None,
                done: Operations::default(),
                hit: None,
            }),
            stopped: Notify::new(),
            goes_on: Notify::new(),
        });
        let store = FaultStore {
            process: Arc::clone(&process),
            folder: LocalFileSystem::new_with_prefix(folder)?,
        };
        lock(&HOSTS).insert(host.to_owned(), store);
        Ok(process)
    }

    /// Counts anew, and lets `fault` happen.
    pub(super) fn arm(&self, fault: Fault) {
        *lock(&self.state) = State {
            fault,
            done: Operations::default(),
            hit: None,
        };
    }

    /// What has been counted.
    pub(super) fn operations(&self) -> Operations {
        lock(&self.state).done
    }

    /// Whether the fault has happened.
    pub(super) fn was_hit(&self) -> bool {
        lock(&self.state).hit.is_some()
    }

    /// Says that there is nothing more to come, in case it should have stopped later.
    pub(super) fn end(&self) {
        self.stopped.notify_one();
    }

    /// Waits until it has stopped, or ended.
    pub(super) async fn wait_for_stop(&self) {
        self.stopped.notified().await;
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) {
        self.goes_on.notify_one();
    }

    fn admit(&self, is_write: bool) -> Fate {
        let mut state = lock(&self.state);
        state.done.all += 1;
        state.done.writes += usize::from(is_write);
        let (operation, write) = (state.done.all, is_write.then_some(state.done.writes));
        if let Some(hit) = state.hit {
            return match state.fault {
                Fault::Outage { lost, .. } if operation > hit + lost => Fate::Works,
                Fault::StoppedBefore(_) => Fate::Works,
                _ => Fate::Fails,
            };
        }
        let fate = match state.fault {
            Fault::KilledBefore(number) if operation == number => Fate::Fails,
            Fault::StoppedBefore(number) if operation == number => Fate::Waits,
            Fault::KilledBeforeWrite(number) if write == Some(number) => Fate::Fails,
            Fault::KilledAfterWrite(number) if write == Some(number) => Fate::WorksUnanswered,
            Fault::Outage { write: number, .. } if write == Some(number) => Fate::WorksUnanswered,
            _ => return Fate::Works,
        };
        state.hit = Some(operation);
        fate
    }

    async fn perform<T>(
        &self,
        is_write: bool,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.admit(is_write) {
            Fate::Works => return operation.await,
            Fate::Waits => {
                self.stopped.notify_one();
                self.goes_on.notified().await;
                return operation.await;
            }
            Fate::WorksUnanswered => {
                let _ = operation.await;
            }
            Fate::Fails => {}
        }
        Err(Error::Generic {
            store: "fault",
            source: "no answer".into(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

impl FaultStore {
    async fn read<T>(&self, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.process.perform(false, operation).await
    }

    async fn write<T>(&self, operation: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.process.perform(true, operation).await
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
        self.write(self.folder.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // the folder shows nothing of an upload before it is complete
        let upload = self
            .read(self.folder.put_multipart_opts(location, options))
            .await?;
        Ok(Box::new(FaultUpload {
            process: Arc::clone(&self.process),
            upload,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(self.folder.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.and_then(move |path| {
            let store = store.clone();
            async move {
                store.write(store.folder.delete(&path)).await?;
                Ok(path)
            }
        });
        deleted.boxed()
    }

    /// In the order of paths, as the kernel expects it of everything but `file://`.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, found) = (self.clone(), self.folder.list(prefix));
        let listed = async move {
            let mut found: Vec<ObjectMeta> = store.read(found.try_collect()).await?;
            found.sort_by(|left, right| left.location.cmp(&right.location));
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(self.folder.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write(self.folder.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.write(self.folder.rename_opts(from, to, options)).await
    }
}

/// An upload in parts, which takes effect when it is complete.
#[derive(Debug)]
struct FaultUpload {
    process: Arc<Process>,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        let (process, part) = (Arc::clone(&self.process), self.upload.put_part(data));
        Box::pin(async move { process.perform(false, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.process.perform(true, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.process.perform(false, self.upload.abort()).await
    }
}
