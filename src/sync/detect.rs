//! `DETECT DELETES`: rows that a source has lost without a change that says so, found by comparing keys and nothing else.
//!
//! ```text
//!  keys of the target's version ─ without ─ keys of the source ──> deletes at the version reached, beside the changes
//! ```
//!
//! The target's version is pinned before the source's keys are read: what the source gets meanwhile is not in it, and not deleted.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when};

use super::event::EventLayout;
use super::event_plan::{as_type, column, deletes_at, history, not_of_keys};
use super::relation::{Read, scan_source};
use super::setup::Target;
use super::spec::Sync;
use crate::change::{
    Bound, CHANGE_ORDINAL, CHANGE_TYPE, COMMIT_VERSION, ChangeBounds, ChangeRange, ChangeType,
    VersionClock,
};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::source::ChangeSource;

/// Refuses a source that has no rows to compare with, and a target whose rows are not all the source's.
pub(super) async fn check_detectable(
    sync: &Sync,
    target: &Target,
    source: &dyn ChangeSource,
) -> Result<()> {
    if source.sequence().is_some() || is_feed(source).await? {
        return Err(Error::invalid(format!(
            "DETECT DELETES compares the keys of {} with those that its source has now, and {} sees deletes itself: its changes say what is \
             deleted, and a row that they no longer mention is not gone; leave DETECT DELETES out",
            sync.target,
            source.name()
        )));
    }
    let others = target.other_syncs(&sync.name);
    if !others.is_empty() {
        return Err(Error::invalid(format!(
            "{} is also written by the sync(s) {}, so DETECT DELETES cannot tell which of its rows {} no longer has; leave it out, or give {} a \
             target of its own",
            sync.target,
            others.join(", "),
            source.name(),
            source.name()
        )));
    }
    Ok(())
}

/// Whether the source has changes only, of which several may be of one key.
async fn is_feed(source: &dyn ChangeSource) -> Result<bool> {
    if source.has_rows() {
        return Ok(false);
    }
    let schema = source.schema(None).await?;
    Ok(schema.field_with_name(CHANGE_ORDINAL).is_ok())
}

/// Deletes, at `version`, of the keys that a target has and the source has not. A row without a key is nobody's.
pub(super) async fn lost_events(
    layout: &EventLayout,
    target: &Arc<Snapshot>,
    source: &Arc<dyn ChangeSource>,
    version: i64,
) -> Result<LogicalPlan> {
    let mut rows = LogicalPlanBuilder::from(history(target).await?);
    for key in layout.key_names() {
        rows = rows.filter(ident(key).is_not_null())?;
    }
    let there = source_keys(layout, source, version).await?;
    let lost = not_of_keys(layout, rows.build()?, there)?;
    deletes_at(layout, keys_only(layout, lost)?, version)
}

/// The keys that the source has, in the target's types.
async fn source_keys(
    layout: &EventLayout,
    source: &Arc<dyn ChangeSource>,
    version: i64,
) -> Result<LogicalPlan> {
    let rows = if source.has_rows() {
        scan_source(source, Read::Rows(version), version).await?.0
    } else {
        let all = everything(source.as_ref()).await?;
        let (changes, _) = scan_source(source, Read::Changes(all), version).await?;
        latest_there(layout, changes)?
    };
    let schema = Arc::clone(rows.schema());
    let keys = layout.keys.iter().map(|index| {
        let field = &layout.columns[*index];
        let found = column(&schema, field.name())
            .ok_or_else(|| Error::internal(format!("the source lacks {:?}", field.name())))?;
        Ok(as_type(found, field.data_type(), &schema)?.alias(field.name()))
    });
    let keys = keys.collect::<Result<Vec<Expr>>>()?;
    Ok(LogicalPlanBuilder::from(rows).project(keys)?.build()?)
}

/// The keys whose latest change is no delete.
fn latest_there(layout: &EventLayout, changes: LogicalPlan) -> Result<LogicalPlan> {
    const WRITTEN: &str = "__alluvial_written";
    const DELETED: &str = "__alluvial_deleted";
    let gone = [ChangeType::Delete, ChangeType::UpdatePreimage].map(|kind| lit(kind.as_str()));
    let is_gone = || ident(CHANGE_TYPE).in_list(gone.to_vec(), false);
    let written = when(is_gone().is_not_true(), ident(COMMIT_VERSION)).end()?;
    let deleted = when(is_gone(), ident(COMMIT_VERSION)).end()?;
    let schema = Arc::clone(changes.schema());
    let keys = layout.key_names().into_iter().map(|key| {
        column(&schema, key).ok_or_else(|| Error::internal(format!("the source lacks {key:?}")))
    });
    let keys = keys.collect::<Result<Vec<Expr>>>()?;
    let latest = vec![max(written).alias(WRITTEN), max(deleted).alias(DELETED)];
    let is_there = ident(WRITTEN).is_not_null().and(
        ident(DELETED)
            .is_null()
            .or(ident(WRITTEN).gt(ident(DELETED))),
    );
    Ok(LogicalPlanBuilder::from(changes)
        .aggregate(keys, latest)?
        .filter(is_there)?
        .build()?)
}

/// The rows with NULL in all columns but the keys, so that no other column is read.
fn keys_only(layout: &EventLayout, rows: LogicalPlan) -> Result<LogicalPlan> {
    let columns = layout.columns.iter().enumerate().map(|(index, field)| {
        let value = if layout.keys.contains(&index) {
            ident(field.name())
        } else {
            cast(lit(ScalarValue::Null), field.data_type().clone())
        };
        value.alias(field.name())
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
}

/// All changes since the beginning, those of versions to come included: a row that is updated while it is looked for has a later
/// version than the one reached, and is still there.
async fn everything(source: &dyn ChangeSource) -> Result<ChangeRange> {
    let bounds = ChangeBounds {
        since: Bound::Beginning,
        until: None,
    };
    // whether the source reaches back so far, it says itself
    source.resolve(&bounds).await?;
    bounds.resolve(&WithoutEnd(source.name()))
}

/// The versions of a source that goes on and on.
struct WithoutEnd<'a>(&'a str);

impl VersionClock for WithoutEnd<'_> {
    fn table(&self) -> &str {
        self.0
    }

    fn current(&self) -> i64 {
        i64::MAX
    }

    fn at_or_before(&self, _: i64) -> i64 {
        i64::MAX
    }

    fn earliest(&self) -> i64 {
        -1
    }
}
