//! `ALTER TABLE`: metadata-only commits.

use std::collections::HashMap;

use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;

use super::computed::check_new_default;
use super::{delta_table, nothing, tracking};
use crate::change::refuse_reserved_columns;
use crate::delta::actions::Metadata;
use crate::delta::alter::{commit_metadata, wanted_protocol, with_columns, with_not_null};
use crate::delta::computed::set_default;
use crate::delta::features::check_writable;
use crate::delta::layout::TableLayout;
use crate::delta::properties::{
    CONSTRAINT_PREFIX, ENABLE_CHANGE_DATA_FEED, PRIMARY_KEY, TARGET_FILE_SIZE, TOMBSTONE_RETENTION,
    byte_count, change_data_feed, interval_micros,
};
use crate::delta::row_tracking::{ENABLE_ROW_TRACKING, ROW_TRACKING_PREFIX, name_columns};
use crate::delta::snapshot::Snapshot;
use crate::delta::tracking::{TRACKING_PREFIX, TrackingOptions, disable};
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::has_keys_to_check;
use crate::sql::parser::TableChange;

/// Properties that Delta knows and this build honours or leaves to others.
const KNOWN: [&str; 18] = [
    "delta.appendOnly",
    "delta.autoOptimize.autoCompact",
    "delta.autoOptimize.optimizeWrite",
    "delta.checkpoint.writeStatsAsJson",
    "delta.checkpoint.writeStatsAsStruct",
    "delta.checkpointInterval",
    "delta.checkpointRetentionDuration",
    "delta.dataSkippingNumIndexedCols",
    "delta.dataSkippingStatsColumns",
    "delta.deletedFileRetentionDuration",
    "delta.enableChangeDataFeed",
    "delta.enableDeletionVectors",
    "delta.enableExpiredLogCleanup",
    "delta.enableInCommitTimestamps",
    ENABLE_ROW_TRACKING,
    "delta.isolationLevel",
    "delta.logRetentionDuration",
    TARGET_FILE_SIZE,
];
/// Those of them that are true or false.
const FLAGS: [&str; 5] = [
    "delta.appendOnly",
    "delta.enableChangeDataFeed",
    "delta.enableDeletionVectors",
    "delta.enableInCommitTimestamps",
    ENABLE_ROW_TRACKING,
];
/// Those of them that are numbers.
const NUMBERS: [&str; 2] = [
    "delta.checkpointInterval",
    "delta.dataSkippingNumIndexedCols",
];

/// Changes the table in one commit.
pub(crate) async fn alter_table(
    ctx: &SessionContext,
    name: &TableReference,
    change: TableChange,
) -> Result<DataFrame> {
    let table = delta_table(ctx, name).await?;
    let snapshot = table.snapshot().await?;
    check_writable(table.name(), snapshot.protocol(), snapshot.layout())?;
    if let TableChange::AddConstraint {
        name: constraint,
        expression,
    } = &change
    {
        check_rows(ctx, name, constraint, expression).await?;
    }
    if let TableChange::SetDefault { column, expression } = &change {
        check_new_default(&snapshot, column, expression.as_deref(), &ctx.state())?;
    }
    if let TableChange::SetProperties(properties) = &change {
        refuse_row_tracking(&snapshot, properties).await?;
    }
    let changed = match tracking_change(ctx, name, &snapshot, &change).await? {
        Some(changed) => changed,
        None => changed(&snapshot, change)?,
    };
    let Some((metadata, operation)) = changed else {
        return nothing(ctx);
    };
    commit_metadata(&snapshot, metadata, operation).await?;
    nothing(ctx)
}

/// Rows that are there have no ids, and nothing gives them any later.
async fn refuse_row_tracking(
    snapshot: &Snapshot,
    properties: &HashMap<String, String>,
) -> Result<()> {
    let is_on = |value: &String| value.eq_ignore_ascii_case("true");
    let wanted = properties.get(ENABLE_ROW_TRACKING).is_some_and(is_on);
    if !wanted || snapshot.properties().row_tracking.is_some() || snapshot.files().await?.is_empty()
    {
        return Ok(());
    }
    let table = snapshot.table().name();
    Err(Error::invalid(format!(
        "row tracking of {table} cannot be switched on: the rows that are there have no ids, or may have lost them while it was off, and this build does not number them; \
         make a new table with CREATE TABLE … TBLPROPERTIES ('{ENABLE_ROW_TRACKING}' = 'true') AS SELECT * FROM {table}"
    )))
}

/// Refuses a property that statements of its own keep.
fn check_by_hand(key: &str) -> Result<()> {
    if key.starts_with(ROW_TRACKING_PREFIX) {
        return Err(Error::invalid(format!(
            "the table property {key:?} is kept by whoever writes the table; switch row ids with {ENABLE_ROW_TRACKING:?}"
        )));
    }
    if key.starts_with(TRACKING_PREFIX) || key == PRIMARY_KEY {
        return Err(Error::invalid(format!(
            "the table property {key:?} is not set or unset by hand; use ALTER TABLE … ENABLE, SET or DISABLE CHANGE_TRACKING, or ADD PRIMARY KEY"
        )));
    }
    Ok(())
}

/// What the metadata becomes, and what the commit says of it; `None` when nothing changes.
type Changed = Option<(Metadata, Operation)>;

/// The changes that are about keys and change tracking, for which rows may have to be looked at; `None` for others.
async fn tracking_change(
    ctx: &SessionContext,
    name: &TableReference,
    snapshot: &Snapshot,
    change: &TableChange,
) -> Result<Option<Changed>> {
    let is_tracked = snapshot.properties().tracking.is_some();
    let changed = match change {
        TableChange::AddPrimaryKey(keys) => Some(add_primary_key(ctx, name, snapshot, keys).await?),
        TableChange::EnableTracking { if_not_tracked, .. } if is_tracked => {
            if !if_not_tracked {
                return Err(Error::invalid(format!(
                    "change tracking of {name} is enabled already; its options are changed with ALTER TABLE {name} SET CHANGE_TRACKING (…)"
                )));
            }
            None
        }
        TableChange::EnableTracking { options, .. } => {
            let mut metadata = snapshot.metadata().clone();
            tracking::enable_tracking(ctx, name, snapshot, options.clone(), &mut metadata).await?;
            Some((metadata, Operation::new("ENABLE CHANGE TRACKING")))
        }
        TableChange::SetTracking(options) => {
            Some(tracking::set_tracking(snapshot, options.clone()).await?)
        }
        TableChange::DisableTracking { if_tracked } if !is_tracked => {
            if !if_tracked {
                return Err(Error::invalid(format!(
                    "change tracking of {name} is not enabled, so it cannot be disabled"
                )));
            }
            None
        }
        TableChange::DisableTracking { .. } => {
            let mut metadata = snapshot.metadata().clone();
            disable(&mut metadata);
            Some((metadata, Operation::new("DISABLE CHANGE TRACKING")))
        }
        TableChange::SetProperties(properties) => {
            let on = properties.get(ENABLE_CHANGE_DATA_FEED);
            let on = on.map(|value| value.eq_ignore_ascii_case("true"));
            return feed_switched(ctx, name, snapshot, change, on).await;
        }
        TableChange::UnsetProperties { keys, .. } => {
            let is_feed = |key: &String| key == ENABLE_CHANGE_DATA_FEED;
            let off = keys.iter().any(is_feed).then_some(false);
            return feed_switched(ctx, name, snapshot, change, off).await;
        }
        _ => return Ok(None),
    };
    Ok(Some(
        changed.filter(|(metadata, _)| metadata != snapshot.metadata()),
    ))
}

/// Databricks' way: who switches the feed of a table with a primary key has it tracked, if it can be.
async fn feed_switched(
    ctx: &SessionContext,
    name: &TableReference,
    snapshot: &Snapshot,
    change: &TableChange,
    on: Option<bool>,
) -> Result<Option<Changed>> {
    let Some(on) = on else {
        return Ok(None);
    };
    let known = snapshot.properties();
    let can_be_tracked = !known.primary_key.is_empty() && has_keys_to_check(snapshot).is_ok();
    if on == known.tracking.is_some() || (on && !can_be_tracked) {
        return Ok(None);
    }
    let (mut metadata, operation) = changed(snapshot, change.clone())?.unwrap_or_else(|| {
        (
            snapshot.metadata().clone(),
            Operation::new("SET TBLPROPERTIES"),
        )
    });
    if on {
        let options = TrackingOptions::default();
        tracking::enable_tracking(ctx, name, snapshot, options, &mut metadata).await?;
    } else {
        disable(&mut metadata);
    }
    Ok(Some(Some((metadata, operation))))
}

/// Declares the primary key of a table that has none.
async fn add_primary_key(
    ctx: &SessionContext,
    name: &TableReference,
    snapshot: &Snapshot,
    keys: &[String],
) -> Result<(Metadata, Operation)> {
    let known = &snapshot.properties().primary_key;
    if !known.is_empty() {
        return Err(Error::invalid(format!(
            "{name} has the primary key ({}) already",
            known.join(", ")
        )));
    }
    if let Some(key) = keys
        .iter()
        .enumerate()
        .find(|(index, key)| keys[..*index].contains(key))
    {
        return Err(Error::invalid(format!(
            "PRIMARY KEY has the column {:?} twice",
            key.1
        )));
    }
    let schema = with_not_null(snapshot, keys)?;
    tracking::check_keys(ctx, name, keys).await?;
    let mut metadata = snapshot.metadata().clone();
    metadata.schema_string = serde_json::to_string(&schema)?;
    let columns = serde_json::to_string(keys)?;
    metadata
        .configuration
        .insert(PRIMARY_KEY.into(), columns.clone());
    Ok((
        metadata,
        Operation::new("ADD CONSTRAINT").with_parameter("primaryKey", columns),
    ))
}

/// Refuses properties that Delta does not know or this build does not honour.
///
/// # Errors
/// [`Error::Invalid`], naming the property and what is known.
pub(super) fn check_properties(properties: &HashMap<String, String>) -> Result<()> {
    for (key, value) in properties {
        let known = !key.starts_with("delta.")
            || key.starts_with(CONSTRAINT_PREFIX)
            || KNOWN.contains(&key.as_str());
        check_by_hand(key)?;
        if !known {
            return Err(Error::invalid(format!(
                "the table property {key:?} is not one that this build honours; it knows {}",
                KNOWN.join(", ")
            )));
        }
        if FLAGS.contains(&key.as_str())
            && !["true", "false"].contains(&value.to_lowercase().as_str())
        {
            return Err(Error::invalid(format!(
                "the table property {key:?} is true or false, not {value:?}"
            )));
        }
        let levels = ["Serializable", "WriteSerializable"];
        if key == "delta.isolationLevel" && !levels.contains(&value.as_str()) {
            return Err(Error::invalid(format!(
                "the table property {key:?} is {}, not {value:?}",
                levels.join(" or ")
            )));
        }
        if key == TOMBSTONE_RETENTION && interval_micros(value).is_none() {
            return Err(Error::invalid(format!(
                "the table property {key:?} is a duration such as 'interval 7 days', not {value:?}"
            )));
        }
        if key == TARGET_FILE_SIZE && byte_count(value).is_none() {
            return Err(Error::invalid(format!(
                "the table property {key:?} is a number of bytes such as '104857600', '100mb' or '1g', not {value:?}"
            )));
        }
        let lowest = if key == "delta.dataSkippingNumIndexedCols" {
            -1
        } else {
            1
        };
        if NUMBERS.contains(&key.as_str())
            && value
                .parse::<i64>()
                .ok()
                .is_none_or(|number| number < lowest)
        {
            return Err(Error::invalid(format!(
                "the table property {key:?} is a number of at least {lowest}, not {value:?}"
            )));
        }
    }
    Ok(())
}

/// The metadata after the change, and what the commit says of it; `None` when nothing changes.
fn changed(snapshot: &Snapshot, change: TableChange) -> Result<Changed> {
    let mut metadata = snapshot.metadata().clone();
    let operation = match change {
        TableChange::SetProperties(properties) => {
            check_properties(&properties)?;
            if let Some(key) = properties
                .keys()
                .find(|key| key.starts_with(CONSTRAINT_PREFIX))
            {
                return Err(Error::invalid(format!(
                    "{key:?} is a constraint; use ALTER TABLE … ADD CONSTRAINT, which checks the rows that are there"
                )));
            }
            let text = serde_json::to_string(&properties)?;
            metadata.configuration.extend(properties);
            name_columns(&mut metadata.configuration);
            Operation::new("SET TBLPROPERTIES").with_parameter("properties", text)
        }
        TableChange::UnsetProperties { keys, if_exists } => {
            for key in &keys {
                check_by_hand(key)?;
                if metadata.configuration.remove(key).is_none() && !if_exists {
                    return Err(Error::invalid(format!(
                        "{} has no table property {key:?}; use UNSET TBLPROPERTIES IF EXISTS to ignore that",
                        snapshot.table().name()
                    )));
                }
            }
            Operation::new("UNSET TBLPROPERTIES")
                .with_parameter("properties", serde_json::to_string(&keys)?)
        }
        TableChange::AddColumns {
            columns,
            if_not_exists,
        } => {
            let Some(schema) = with_columns(snapshot, columns, if_not_exists)? else {
                return Ok(None);
            };
            metadata.schema_string = serde_json::to_string(&schema)?;
            Operation::new("ADD COLUMNS")
        }
        TableChange::SetDefault { column, expression } => {
            set_default(&mut metadata, &column, expression.as_deref())?;
            Operation::new("CHANGE COLUMN").with_parameter("column", column)
        }
        TableChange::AddConstraint { name, expression } => {
            let key = format!("{CONSTRAINT_PREFIX}{name}");
            if metadata
                .configuration
                .insert(key, expression.clone())
                .is_some()
            {
                return Err(Error::invalid(format!(
                    "{} has a constraint {name} already; drop it first",
                    snapshot.table().name()
                )));
            }
            Operation::new("ADD CONSTRAINT")
                .with_parameter("name", name)
                .with_parameter("expr", expression)
        }
        TableChange::DropConstraint { name, if_exists } => {
            if metadata
                .configuration
                .remove(&format!("{CONSTRAINT_PREFIX}{name}"))
                .is_none()
                && !if_exists
            {
                return Err(Error::invalid(format!(
                    "{} has no constraint {name}",
                    snapshot.table().name()
                )));
            }
            Operation::new("DROP CONSTRAINT").with_parameter("name", name)
        }
        TableChange::AddPrimaryKey(_)
        | TableChange::EnableTracking { .. }
        | TableChange::SetTracking(_)
        | TableChange::DisableTracking { .. } => {
            return Err(Error::internal("a change of tracking came the wrong way"));
        }
    };
    if change_data_feed(&metadata.configuration, &wanted_protocol(&metadata)?) {
        let layout = TableLayout::try_new(snapshot.table().name(), &metadata)?;
        refuse_reserved_columns(snapshot.table().name(), layout.schema())?;
    }
    Ok((metadata != *snapshot.metadata()).then_some((metadata, operation)))
}

/// A constraint holds for every row from the start.
async fn check_rows(
    ctx: &SessionContext,
    table: &TableReference,
    name: &str,
    expression: &str,
) -> Result<()> {
    let rows = ctx.table(table.clone()).await?;
    let condition = rows.parse_sql_expr(expression)?;
    let broken = rows
        .filter(condition.is_not_true())?
        .limit(0, Some(1))?
        .collect()
        .await?;
    if broken.iter().any(|batch| batch.num_rows() > 0) {
        let row = arrow::util::pretty::pretty_format_batches(&broken)?;
        return Err(Error::invalid(format!(
            "CHECK constraint {name} ({expression}) does not hold for the rows of {table}, for example\n{row}"
        )));
    }
    Ok(())
}
