//! A Delta table: where it is and how to get at its versions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use datafusion::datasource::object_store::ObjectStoreUrl;
use deltalake::DeltaTableBuilder;
use deltalake::logstore::LogStoreRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use url::Url;

use super::snapshot::Snapshot;
use crate::error::{Error, Result};

/// A handle on a Delta table; cheap to clone, and sharing what it has read of the log.
#[derive(Clone)]
pub struct DeltaTable {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    location: Url,
    log_store: LogStoreRef,
    store_url: ObjectStoreUrl,
    latest: Mutex<Option<Arc<Snapshot>>>,
}

impl std::fmt::Debug for DeltaTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeltaTable({})", self.inner.name)
    }
}

impl DeltaTable {
    /// A handle on the table at `location`, a local path or a URL (`file`, `s3`, `abfss`, `az`, `gs`); nothing is read yet.
    ///
    /// `name` is what messages call it; `options` are object_store's, credentials included, on top of the environment.
    ///
    /// # Errors
    /// If the location is no path and no URL that a store is known for.
    pub fn new(
        name: impl Into<String>,
        location: &str,
        options: HashMap<String, String>,
    ) -> Result<Self> {
        register_stores();
        let location = parse_location(location)?;
        let log_store = DeltaTableBuilder::from_url(location.clone())?
            .with_storage_options(options)
            .build_storage()?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.into(),
                store_url: store_url(&location)?,
                location,
                log_store,
                latest: Mutex::new(None),
            }),
        })
    }

    /// What messages call the table.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The table's root.
    pub fn location(&self) -> &Url {
        &self.inner.location
    }

    /// The newest version, its log read only as far as it is not known yet.
    ///
    /// # Errors
    /// [`Error::TableNotFound`] when there is no log at the location.
    // the type is erased: whoever waits for it would have to be compiled with all that is in it
    pub(crate) fn snapshot(&self) -> BoxFuture<'_, Result<Arc<Snapshot>>> {
        self.newest().boxed()
    }

    async fn newest(&self) -> Result<Arc<Snapshot>> {
        // the lock is not held while waiting: a planner that blocks its thread must not wait for one that cannot go on
        let known = self.latest().clone();
        let snapshot = match &known {
            Some(known) => known.refresh().await?,
            None => Snapshot::load(self, None).await?,
        };
        let mut latest = self.latest();
        let superseded = latest.as_ref().is_some_and(|latest| {
            latest.version() > snapshot.version() && latest.metadata().id == snapshot.metadata().id
        });
        if !superseded {
            *latest = Some(Arc::clone(&snapshot));
        }
        Ok(snapshot)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Arc<Snapshot>>> {
        self.inner
            .latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as it was at `version`.
    ///
    /// # Errors
    /// [`Error::VersionNotFound`] for a version that is not there yet, [`Error::Invalid`] for one whose log is gone.
    pub(crate) fn snapshot_at(&self, version: i64) -> BoxFuture<'_, Result<Arc<Snapshot>>> {
        self.older(version).boxed()
    }

    async fn older(&self, version: i64) -> Result<Arc<Snapshot>> {
        let latest = self.snapshot().await?;
        if version == latest.version() {
            return Ok(latest);
        }
        if version > latest.version() {
            return Err(Error::VersionNotFound {
                table: self.name().into(),
                what: "version",
                requested: version.to_string(),
                current: latest.version(),
                hint: "ask for an earlier version",
            });
        }
        let wanted = u64::try_from(version).map_err(|_| {
            Error::invalid(format!(
                "{version} is not a version of {}: versions start at 0",
                self.name()
            ))
        })?;
        Snapshot::load(self, Some(wanted)).await.map_err(|error| {
            Error::invalid(format!("version {version} of {} can no longer be read ({error}); DESCRIBE HISTORY shows the versions there are", self.name()))
        })
    }

    /// Whether there is a transaction log at the location.
    pub(crate) async fn exists(&self) -> Result<bool> {
        // the store cannot list what is a file
        let is_file = self
            .location()
            .to_file_path()
            .is_ok_and(|path| path.components().collect::<std::path::PathBuf>().is_file());
        Ok(!is_file && self.inner.log_store.is_delta_table_location().await?)
    }

    /// Makes the folder of a local table that is about to be created.
    pub(crate) fn create_folder(&self) -> Result<()> {
        if let Ok(folder) = self.location().to_file_path() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(())
    }

    /// Removes the local folder of a table that did not come about.
    pub(crate) fn discard_folder(&self) {
        if let Ok(folder) = self.location().to_file_path()
            && !folder.join("_delta_log").is_dir()
        {
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// deltalake's access to the log.
    pub(crate) fn log_store(&self) -> &LogStoreRef {
        &self.inner.log_store
    }

    /// The object store, rooted at the table.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        self.inner.log_store.object_store(None)
    }

    /// The URL under which DataFusion's runtime knows [`Self::store`].
    pub(crate) fn store_url(&self) -> &ObjectStoreUrl {
        &self.inner.store_url
    }
}

/// Teaches deltalake the stores of every cloud, once.
fn register_stores() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        deltalake::aws::register_handlers(None);
        deltalake::azure::register_handlers(None);
        deltalake::gcp::register_handlers(None);
    });
}

fn parse_location(location: &str) -> Result<Url> {
    let bad = |reason: String| {
        Error::invalid(format!(
            "{:?} is no table location ({reason}); give a folder or a URL such as s3://bucket/path",
            without_secrets(location)
        ))
    };
    let escaped = |three: &[u8]| {
        three[0] == b'%' && three[1].is_ascii_hexdigit() && three[2].is_ascii_hexdigit()
    };
    let is_url = location.contains("://")
        || location
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case("file:/"));
    if !is_url && location.as_bytes().windows(3).any(escaped) {
        return Err(bad(
            "a folder with an escape such as %20 in its name would be misread".into(),
        ));
    }
    let mut url = if is_url {
        Url::parse(location).map_err(|error| bad(error.to_string()))?
    } else {
        let path = std::path::absolute(location).map_err(|error| bad(error.to_string()))?;
        Url::from_directory_path(&path).map_err(|()| bad("not an absolute path".into()))?
    };
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// As much of a location as may be shown: what looks like a URL and has a `@` or a `?` may hold a password or a key.
fn without_secrets(location: &str) -> Cow<'_, str> {
    let is_path = location.starts_with(['/', '.']);
    match location.find([':', '/', '@', '?']) {
        Some(end) if !is_path && location.contains(['@', '?']) => {
            Cow::Owned(format!("{}…", &location[..end]))
        }
        _ => Cow::Borrowed(location),
    }
}

/// A URL of its own for each table: DataFusion looks stores up by scheme and host, so the whole location becomes the host.
fn store_url(location: &Url) -> Result<ObjectStoreUrl> {
    let host: String = location
        .as_str()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(ObjectStoreUrl::parse(format!("delta://{host}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_never_share_a_store_url() {
        let url = |location| store_url(&parse_location(location).unwrap()).unwrap();
        assert_ne!(url("/w/a-b"), url("/w/a/b"));
        assert_eq!(url("/w/a"), url("/w/a/"));
        assert!(
            parse_location("://")
                .unwrap_err()
                .to_string()
                .contains("no table location")
        );
    }

    #[test]
    fn errors_show_no_secrets() {
        for location in ["S3://key:hush@bu cket/t", "https://a:99999/t?sig=hush"] {
            let error = parse_location(location).unwrap_err().to_string();
            assert!(error.contains("…\" is no table location"), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
        assert_eq!(
            parse_location("file:/w/t").unwrap(),
            parse_location("/w/t").unwrap()
        );
    }
}
