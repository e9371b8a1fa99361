//! Removing change data that is older than a tracked table keeps it (SQL Server: `AUTO_CLEANUP`).
//!
//! Only change files go that a commit past the retention names: no version of the table needs them, and the changes that they tell
//! can no longer be asked for. How far that has got is remembered beside the log, so that a commit costs one look at it and one
//! at the oldest version that is kept. Files that no commit names are VACUUM's.

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::actions::{Action, decode_path};
use super::log::{CommitRange, list_commits, newest_until, read_range};
use super::snapshot::Snapshot;
use crate::error::Result;

/// Where it is remembered, relative to the table; VACUUM leaves such folders alone.
const REMEMBERED: &str = "_alluvial/change_tracking/cleanup.json";
/// A statement clears so many versions at most; the next one goes on.
const MAX_VERSIONS: i64 = 1000;
const CONCURRENT_DELETES: usize = 64;

/// How far clean-up has got.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cleaned {
    /// The table's id: one that was made anew in its place begins anew.
    table: String,
    /// The newest Delta version whose change data has gone.
    version: i64,
}

/// Removes what has expired by now.
pub(super) async fn remove_expired_changes(snapshot: &Snapshot) -> Result<()> {
    let Some(tracking) = &snapshot.properties().tracking else {
        return Ok(());
    };
    let Some(retention) = tracking.retention_micros() else {
        return Ok(());
    };
    let store = snapshot.table().store();
    let done = match cleaned(store.as_ref()).await? {
        Some(cleaned) if cleaned.table == snapshot.metadata().id => cleaned.version,
        // what was written before tracking began is not its
        _ => tracking.begin_version,
    };
    let horizon = Utc::now().timestamp_micros().saturating_sub(retention);
    let last = snapshot.version().min(done + MAX_VERSIONS);
    let last = newest_until(snapshot, done + 1, last, horizon).await?;
    if last <= done {
        return Ok(());
    }
    let commits = match read_range(snapshot, done + 1, last).await? {
        CommitRange::Whole(commits) => commits,
        CommitRange::Missing => {
            // the log has been cleaned, too: nobody knows any more what those commits named
            let kept = list_commits(snapshot.table(), done + 1).await?;
            let first = kept.first().map_or(last + 1, |commit| commit.version);
            match read_range(snapshot, first, last).await? {
                CommitRange::Whole(commits) => commits,
                CommitRange::Missing => return Ok(()),
            }
        }
    };
    let mut expired = Vec::new();
    for action in commits.iter().flat_map(|commit| &commit.actions) {
        if let Action::Cdc(file) = action {
            expired.push(decode_path(snapshot.table().name(), &file.path)?);
        }
    }
    let deletes = futures::stream::iter(expired).map(|path| {
        let store = &store;
        async move {
            match store.delete(&path).await {
                // another writer was faster
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                answer => answer,
            }
        }
    });
    deletes
        .buffer_unordered(CONCURRENT_DELETES)
        .try_collect::<Vec<()>>()
        .await?;
    let cleaned = Cleaned {
        table: snapshot.metadata().id.clone(),
        version: last,
    };
    let bytes = serde_json::to_vec(&cleaned)?;
    store.put(&Path::from(REMEMBERED), bytes.into()).await?;
    Ok(())
}

/// What is remembered; a file that makes no sense is as good as none.
async fn cleaned(store: &dyn ObjectStore) -> Result<Option<Cleaned>> {
    match store.get(&Path::from(REMEMBERED)).await {
        Ok(found) => Ok(serde_json::from_slice(&found.bytes().await?).ok()),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
