//! Removing change data that is older than a tracked table keeps it (SQL Server: `AUTO_CLEANUP`).
//!
//! Only change files go that a commit past the retention names: no version of the table needs them, and the changes that they tell
//! can no longer be asked for. Files that no commit names are VACUUM's.

use std::collections::HashSet;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::actions::{Action, decode_path};
use super::log::{CommitRange, commit_path, newest_until, read_range};
use super::snapshot::Snapshot;
use crate::error::Result;

const CHANGE_DATA: &str = "_change_data";
const CONCURRENT_DELETES: usize = 64;

/// Removes what has expired by now.
pub(super) async fn remove_expired_changes(snapshot: &Snapshot) -> Result<()> {
    let Some(tracking) = &snapshot.properties().tracking else {
        return Ok(());
    };
    let Some(retention) = tracking.retention_micros() else {
        return Ok(());
    };
    let horizon = Utc::now().timestamp_micros().saturating_sub(retention);
    let store = snapshot.table().store();
    // what was written before tracking began is not its
    let began = match store.head(&commit_path(tracking.begin_version)).await {
        Ok(meta) => meta.last_modified.timestamp_micros(),
        Err(object_store::Error::NotFound { .. }) => i64::MIN,
        Err(error) => return Err(error.into()),
    };
    let mut listed = store.list(Some(&Path::from(CHANGE_DATA)));
    let (mut old, mut oldest) = (HashSet::new(), i64::MAX);
    while let Some(file) = listed.try_next().await? {
        let modified = file.last_modified.timestamp_micros();
        if (began..=horizon).contains(&modified) {
            oldest = oldest.min(modified);
            old.insert(file.location);
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    let (first, current) = (tracking.begin_version + 1, snapshot.version());
    let last = newest_until(snapshot, first, current, horizon).await?;
    // a change file is not younger than the commit that names it, of which only the millisecond is known
    let before = oldest.div_euclid(1000) * 1000 - 1;
    let first = newest_until(snapshot, first, last, before).await? + 1;
    let CommitRange::Whole(commits) = read_range(snapshot, first, last).await? else {
        return Ok(());
    };
    let mut expired = Vec::new();
    for action in commits.iter().flat_map(|commit| &commit.actions) {
        if let Action::Cdc(file) = action {
            let path = decode_path(snapshot.table().name(), &file.path)?;
            expired.extend(old.take(&path));
        }
    }
    let deletes = futures::stream::iter(expired).map(|path| {
        let store = &store;
        async move { store.delete(&path).await }
    });
    deletes
        .buffer_unordered(CONCURRENT_DELETES)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}
