//! How far each application has got, as a version of the table says (*Transaction Identifiers*).
//!
//! The latest `txn` of an application counts, whatever `delta.setTransactionRetentionDuration` says of its age: a position is
//! of use as long as it is there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::schema::{DataType, StructField, StructType};
use delta_kernel::{Engine, Snapshot as KernelSnapshot};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use super::actions::{Action, Txn, parse_commit};
use super::log::commit_path;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// The latest `txn` of each application, by `appId`.
pub(crate) type Applications = HashMap<String, Txn>;

/// So many commits are read one by one rather than the log from its last checkpoint on.
const MAX_COMMITS: i64 = 64;

/// What was known of an earlier version.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub version: i64,
    pub applications: Arc<Applications>,
}

/// Reads on from what was known, up to `version`; `None` when that would not be cheaper than reading the log.
pub(crate) async fn read_on(
    table: &DeltaTable,
    known: &Known,
    version: i64,
) -> Result<Option<Arc<Applications>>> {
    if known.version == version {
        return Ok(Some(Arc::clone(&known.applications)));
    }
    if version < known.version || version - known.version > MAX_COMMITS {
        return Ok(None);
    }
    let store = table.store();
    let reads = futures::stream::iter(known.version + 1..=version).map(|version| {
        let store = Arc::clone(&store);
        async move {
            let bytes = match store.get(&commit_path(version)).await {
                Ok(found) => found.bytes().await?,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(Error::from(error)),
            };
            parse_commit(table.name(), version, &bytes).map(Some)
        }
    });
    let commits: Vec<Option<Vec<Action>>> = reads.buffered(64).try_collect().await?;
    let mut applications = known.applications.as_ref().clone();
    for commit in commits {
        let Some(actions) = commit else {
            return Ok(None);
        };
        for action in actions {
            if let Action::Txn(txn) = action {
                applications.insert(txn.app_id.clone(), txn);
            }
        }
    }
    Ok(Some(Arc::new(applications)))
}

/// Reads the whole log that a snapshot stands on, newest first.
pub(crate) fn replay(snapshot: &KernelSnapshot, engine: &dyn Engine) -> Result<Applications> {
    let txn = StructType::try_new([
        StructField::not_null("appId", DataType::STRING),
        StructField::not_null("version", DataType::LONG),
        StructField::nullable("lastUpdated", DataType::LONG),
    ])?;
    let schema = Arc::new(StructType::try_new([StructField::nullable("txn", txn)])?);
    let mut applications = Applications::new();
    for batch in snapshot.log_segment().read_actions(engine, schema)? {
        append(&batch?.actions.try_into_record_batch()?, &mut applications)?;
    }
    Ok(applications)
}

fn append(batch: &RecordBatch, applications: &mut Applications) -> Result<()> {
    let missing = || Error::internal("the kernel's log lacks txn");
    let txns = batch.column_by_name("txn").ok_or_else(missing)?.as_struct();
    let column = |name: &str| txns.column_by_name(name).ok_or_else(missing);
    let ids = column("appId")?.as_string::<i32>();
    let versions = column("version")?.as_primitive::<Int64Type>();
    let times = column("lastUpdated")?.as_primitive::<Int64Type>();
    for row in (0..batch.num_rows()).filter(|row| txns.is_valid(*row) && ids.is_valid(*row)) {
        applications
            .entry(ids.value(row).to_owned())
            .or_insert_with(|| Txn {
                app_id: ids.value(row).to_owned(),
                version: versions.value(row),
                last_updated: times.is_valid(row).then(|| times.value(row)),
            });
    }
    Ok(())
}
