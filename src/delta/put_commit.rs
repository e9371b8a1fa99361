//! Writing one commit file, and knowing what has become of it.
//!
//! ```text
//!  put-if-absent ─┬─ done, or the log has it afterwards ─────────────────────────────────> it is there
//!                 ├─ the version is taken ──────────────────────────────────────────────> it is not
//!                 ├─ an error, and the log has another's, or nothing and it was refused ──> it is not, and never will be
//!                 └─ any other error ─────────────────────────────────────────────────────> nobody knows
//! ```

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::CommitOrBytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use uuid::Uuid;

use super::actions::{Action, parse_commit};
use super::conflict::info;
use super::log::commit_path;
use super::never_happened::never_happened;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// The log store whose commit is one conditional put.
const ONE_PUT: &str = "DefaultLogStore";

/// Why there is an error instead of a commit.
pub(super) enum Failure {
    /// The commit is not there, and never will be.
    Certain(Error),
    /// Nobody knows whether it is there, or will be.
    InDoubt(Error),
}

/// Writes the transaction `id` as version `version`; `false` when that exists already.
pub(super) async fn put_commit(
    table: &DeltaTable,
    version: i64,
    bytes: Vec<u8>,
    id: Uuid,
) -> Result<bool, Failure> {
    let next = u64::try_from(version).map_err(Error::internal);
    let next = next.map_err(Failure::Certain)?;
    let log_store = table.log_store();
    // S3 may lack conditional puts; its log store renames a temporary file instead
    let staged = if [ONE_PUT, "LakeFSLogStore"].contains(&log_store.name().as_str()) {
        CommitOrBytes::LogBytes(bytes.into())
    } else {
        let path = Path::from(format!("_delta_log/_commit_{id}.json.tmp"));
        let put = table.store().put(&path, bytes.into()).await;
        put.map_err(|error| Failure::Certain(error.into()))?;
        CommitOrBytes::TmpCommit(path)
    };
    match log_store.write_commit_entry(next, staged.clone(), id).await {
        Ok(()) => Ok(true),
        Err(TransactionError::VersionAlreadyExists(_)) => {
            let _ = log_store.abort_commit_entry(next, staged, id).await;
            Ok(false)
        }
        Err(error) => {
            // the write may have landed and only its answer been lost: the log knows
            let found = read_commit(table, version).await;
            if matches!(&found, Ok(commit) if is_commit_of(commit, id)) {
                return Ok(true);
            }
            let _ = log_store.abort_commit_entry(next, staged, id).await;
            // other log stores write in several steps, of which the first may have been done
            let is_certain = log_store.name() == ONE_PUT && is_certain(&error, &found);
            let error = DeltaTableError::from(error).into();
            Err(match is_certain {
                true => Failure::Certain(error),
                false => Failure::InDoubt(error),
            })
        }
    }
}

/// Whether a put that has ended with `error`, while something else was `found` in its place, has had no effect and will have none.
fn is_certain(error: &TransactionError, found: &Result<Vec<Action>>) -> bool {
    match found {
        // one that is still on its way finds the place taken
        Ok(_) => true,
        Err(Error::ObjectStore(object_store::Error::NotFound { .. })) => {
            matches!(error, TransactionError::ObjectStore { source } if never_happened(source))
        }
        Err(_) => false,
    }
}

/// The commit of a version.
pub(super) async fn read_commit(table: &DeltaTable, version: i64) -> Result<Vec<Action>> {
    let found = table.store().get(&commit_path(version)).await?;
    parse_commit(table.name(), version, &found.bytes().await?)
}

/// Whether a commit is that of the transaction `id`.
pub(super) fn is_commit_of(commit: &[Action], id: Uuid) -> bool {
    let found = info(commit).and_then(|info| info.txn_id.as_ref());
    found == Some(&id.to_string())
}
