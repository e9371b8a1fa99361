//! Fetching commits by their names, many at once, in version order.
//!
//! On an object store each is a request of its own. On a local disk a request costs less than handing it to the threads that may
//! block, so these take some dozens of commits at a time, and parse them, too.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::log::commit_path;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// How many commits are fetched at once.
pub(super) const CONCURRENT_READS: usize = 64;
/// How many of them one thread reads from a local disk.
const LOCAL_BATCH: usize = 32;
/// How many threads do so.
const LOCAL_READERS: usize = 4;

/// A commit file.
#[derive(Debug)]
pub(crate) struct FoundCommit {
    pub version: i64,
    /// Without an entity tag where the table is on a local disk.
    pub meta: ObjectMeta,
    pub bytes: Bytes,
}

/// What `read` makes of the commits of these versions; `None` for one that is not there.
pub(crate) fn fetch_commits<T: Send + 'static>(
    table: &DeltaTable,
    versions: Range<i64>,
    read: impl Fn(FoundCommit) -> Result<T> + Send + Sync + 'static,
) -> BoxStream<'static, Result<Option<T>>> {
    let read = Arc::new(read);
    match local_folder(table) {
        Some(folder) => {
            let end = versions.end;
            let batches = versions.step_by(LOCAL_BATCH).map(move |first| {
                let last = end.min(first + LOCAL_BATCH as i64);
                (first..last, folder.clone(), Arc::clone(&read))
            });
            let batches = stream::iter(batches).map(|(versions, folder, read)| {
                SpawnedTask::spawn_blocking(move || {
                    let found = versions.map(|version| read_local(&folder, version));
                    let read = |found: FoundCommit| read(found);
                    let parsed = found.map(|found| found?.map(read).transpose());
                    parsed.collect::<Vec<_>>()
                })
            });
            batches
                .buffered(LOCAL_READERS)
                .flat_map(|batch| {
                    let failed = |error| vec![Err(Error::internal(error))];
                    stream::iter(batch.unwrap_or_else(failed))
                })
                .boxed()
        }
        None => {
            let store = table.store();
            let reads =
                versions.map(move |version| (version, Arc::clone(&store), Arc::clone(&read)));
            stream::iter(reads)
                .map(|(version, store, read)| {
                    // parsing runs on the workers, beside the other fetches
                    SpawnedTask::spawn(async move {
                        let found = find(store.as_ref(), version).await?;
                        found.map(|found| read(found)).transpose()
                    })
                })
                .buffered(CONCURRENT_READS)
                .map(|found| found.map_err(Error::internal)?)
                .boxed()
        }
    }
}

/// Where the log of a table on a local disk is.
fn local_folder(table: &DeltaTable) -> Option<PathBuf> {
    let location = table.location();
    let is_local = location.scheme() == "file";
    let folder = is_local.then(|| location.to_file_path().ok()).flatten();
    folder.map(|folder| folder.join("_delta_log"))
}

fn read_local(folder: &std::path::Path, version: i64) -> Result<Option<FoundCommit>> {
    let mut file = match File::open(folder.join(format!("{version:020}.json"))) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    let meta = ObjectMeta {
        location: commit_path(version),
        last_modified: metadata.modified()?.into(),
        size: metadata.len(),
        e_tag: None,
        version: None,
    };
    Ok(Some(FoundCommit {
        version,
        meta,
        bytes: bytes.into(),
    }))
}

async fn find(store: &dyn ObjectStore, version: i64) -> Result<Option<FoundCommit>> {
    let found = match store.get(&commit_path(version)).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(FoundCommit {
        version,
        meta: found.meta.clone(),
        bytes: found.bytes().await?,
    }))
}
