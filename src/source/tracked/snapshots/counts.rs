//! What each dump has in it, and what it has changed, in numbers.

use arrow::array::AsArray;
use arrow::datatypes::{FieldRef, Int64Type};
use datafusion::catalog::Session;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{LogicalPlanBuilder, ident, lit};
use datafusion::physical_plan::collect;

use super::Snapshots;
use super::difference::Difference;
use super::dumps::Dumps;
use crate::change::{CHANGE_TYPE, ChangeType, change_columns};
use crate::error::Result;

/// How many rows a dump has, and how many of them are new, other than before, or gone; absent where that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DumpCounts {
    pub rows: Option<i64>,
    pub inserts: Option<i64>,
    pub updates: Option<i64>,
    pub deletes: Option<i64>,
}

/// Rows of a difference that are new, other than before, and gone.
#[derive(Debug, Default)]
struct Changed {
    inserts: i64,
    updates: i64,
    deletes: i64,
}

impl Snapshots {
    /// Counts every dump by reading it, one after the other.
    ///
    /// # Errors
    /// When a dump that is there cannot be read.
    pub(crate) async fn counts(&self, state: &dyn Session) -> Result<Vec<DumpCounts>> {
        let dumps = self.dumps().await?;
        let mut counts = Vec::with_capacity(dumps.all().len());
        // there are no rows before the first dump
        let (mut rows, mut is_there) = (Some(0), true);
        for (dump, version) in dumps.all().iter().zip(1_i64..) {
            let was_there = std::mem::replace(&mut is_there, dump.missing().is_none());
            let mut counted = DumpCounts::default();
            if is_there && was_there {
                let changed = changed(&dumps, version, Some(version - 1), state).await?;
                counted.rows = rows.map(|rows| rows + changed.inserts - changed.deletes);
                counted.inserts = Some(changed.inserts);
                counted.updates = Some(changed.updates);
                counted.deletes = Some(changed.deletes);
            } else if is_there {
                let all = changed(&dumps, version, None, state).await?;
                counted.rows = Some(all.inserts);
            }
            rows = counted.rows;
            counts.push(counted);
        }
        Ok(counts)
    }
}

/// What `version` has changed since another one, or since there was nothing.
async fn changed(
    dumps: &Dumps,
    version: i64,
    since: Option<i64>,
    state: &dyn Session,
) -> Result<Changed> {
    let difference = Difference {
        version,
        time: 0,
        old: match since {
            Some(since) => dumps.content(since)?,
            None => None,
        },
        new: dumps.content(version)?,
        filters: &[],
        checked: true,
    };
    let mut changed = Changed::default();
    let wanted = change_columns().into_iter();
    let wanted: Vec<FieldRef> = wanted.filter(|field| field.name() == CHANGE_TYPE).collect();
    let Some(plan) = difference.plan(&wanted)? else {
        return Ok(changed);
    };
    let counted = LogicalPlanBuilder::from(plan)
        .aggregate(vec![ident(CHANGE_TYPE)], vec![count(lit(1_i64))])?
        .build()?;
    let plan = state.create_physical_plan(&counted).await?;
    for batch in collect(plan, state.task_ctx()).await? {
        let (kinds, rows) = (batch.column(0).as_string::<i32>(), batch.column(1));
        let rows = rows.as_primitive::<Int64Type>();
        for (row, kind) in kinds.iter().enumerate() {
            let counter = match kind {
                Some(kind) if kind == ChangeType::Insert.as_str() => &mut changed.inserts,
                Some(kind) if kind == ChangeType::UpdatePostimage.as_str() => &mut changed.updates,
                Some(kind) if kind == ChangeType::Delete.as_str() => &mut changed.deletes,
                _ => continue,
            };
            *counter += rows.value(row);
        }
    }
    Ok(changed)
}
