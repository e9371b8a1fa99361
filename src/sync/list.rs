//! What is known of the syncs into a table: SHOW SYNCS and DROP SYNC.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use chrono::Utc;
use datafusion::common::TableReference;

use super::position::{Position, Registration, property};
use super::session::SyncSession;
use super::spec::SourceSpec;
use crate::change::{Bound, ChangeBounds};
use crate::delta::DeltaTable;
use crate::delta::alter::commit_metadata;
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::source::{ChangeSource, open_source};

/// How often a sync is dropped again after another writer got in the way.
const MAX_ATTEMPTS: usize = 20;

/// One sync as SHOW SYNCS has it.
struct Listed {
    name: String,
    target: String,
    source: String,
    position: Option<Position>,
    current: Option<i64>,
    lag: Option<Lag>,
}

/// The syncs into `targets`, one row each: name, target, source, position, the source's current version, lag in versions and in
/// seconds (the age of the oldest change that has not been applied), and when the position was last moved.
///
/// Source and lag are NULL where the source cannot be reached any more.
pub(crate) async fn show_syncs(
    session: &impl SyncSession,
    targets: &[(TableReference, DeltaTable)],
) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    for (target, table) in targets {
        let snapshot = table.snapshot().await?;
        for (name, registration) in Registration::all(snapshot.metadata()) {
            let position = registration.position(&name, &snapshot).await?;
            let source = find_source(session, &registration).await;
            let current = match &source {
                Some(source) => source.current_version().await.ok(),
                None => None,
            };
            let lag = match (&source, position) {
                (Some(source), Some(position)) => lag(source.as_ref(), position.version).await.ok(),
                _ => None,
            };
            rows.push(Listed {
                name,
                target: target.to_string(),
                source: registration.source,
                position,
                current,
                lag,
            });
        }
    }
    listing(&rows)
}

/// The source under the name it was given, or where it was, if it still is that source.
async fn find_source(
    session: &impl SyncSession,
    registration: &Registration,
) -> Option<Arc<dyn ChangeSource>> {
    let name = TableReference::parse_str(&registration.source);
    let named = session.sync_source(&SourceSpec::Table(name)).await.ok();
    let there = open_source(&registration.source, &registration.location).ok();
    for source in named.into_iter().chain(there) {
        if matches!(source.identity().await, Ok(identity) if identity == registration.identity) {
            return Some(source);
        }
    }
    None
}

/// How far a target is behind: not at all while nothing has changed, however many versions that took.
#[derive(Debug, Clone, Copy, Default)]
struct Lag {
    versions: i64,
    /// The age of the oldest change that has not been applied.
    seconds: Option<f64>,
}

async fn lag(source: &dyn ChangeSource, position: i64) -> Result<Lag> {
    let since = ChangeBounds {
        since: Bound::Version(position),
        until: None,
    };
    let range = source.resolve(&since).await?;
    if !matches!(source.has_changes(range).await, Ok(true) | Err(_)) {
        return Ok(Lag {
            versions: 0,
            seconds: Some(0.0),
        });
    }
    let next = source.commit_time(position + 1).await.ok().flatten();
    let age = |next: i64| Utc::now().timestamp_micros().saturating_sub(next).max(0);
    Ok(Lag {
        versions: range.until() - position,
        seconds: next.map(|next| age(next) as f64 / 1e6),
    })
}

fn listing(rows: &[Listed]) -> Result<RecordBatch> {
    let text = |value: fn(&Listed) -> &str| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(value(row)))
                .collect::<StringArray>(),
        )
    };
    let number = |value: &dyn Fn(&Listed) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Int64Array>())
    };
    let position = |row: &Listed| row.position.map(|position| position.version);
    let lag = |row: &Listed| row.lag.map(|lag| lag.versions);
    let seconds: Float64Array = rows.iter().map(|row| row.lag?.seconds).collect();
    let last_run = rows
        .iter()
        .map(|row| Some(row.position?.recorded?.saturating_mul(1000)));
    let last_run = last_run
        .collect::<TimestampMicrosecondArray>()
        .with_timezone("UTC");
    Ok(RecordBatch::try_from_iter_with_nullable(vec![
        ("name", text(|row| &row.name), false),
        ("target", text(|row| &row.target), false),
        ("source", text(|row| &row.source), false),
        ("position", number(&position), true),
        ("source_version", number(&|row| row.current), true),
        ("lag_versions", number(&lag), true),
        ("lag_seconds", Arc::new(seconds), true),
        ("last_run", Arc::new(last_run), true),
    ])?)
}

/// Ends a sync: the target keeps its rows and forgets the position.
///
/// # Errors
/// When the table has no sync of that name.
pub(crate) async fn drop_sync(
    target: &TableReference,
    table: &DeltaTable,
    name: &str,
    if_exists: bool,
) -> Result<()> {
    for attempt in 0.. {
        let snapshot = table.snapshot().await?;
        let mut metadata = snapshot.metadata().clone();
        if metadata.configuration.remove(&property(name)).is_none() {
            if if_exists {
                return Ok(());
            }
            let names: Vec<String> = Registration::all(&metadata)
                .into_iter()
                .map(|(name, _)| format!("{name:?}"))
                .collect();
            let known = if names.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            return Err(Error::invalid(format!(
                "{target} has no sync {name:?}; {known}"
            )));
        }
        let operation = Operation::new("DROP SYNC").with_parameter("name", name);
        match commit_metadata(&snapshot, metadata, operation).await {
            Err(Error::Conflict { .. }) if attempt < MAX_ATTEMPTS => {}
            outcome => return outcome,
        }
    }
    Ok(())
}
