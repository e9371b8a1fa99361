//! The difference of two dumps, as a plan that reads each of them once.
//!
//! ```text
//!  old ── each key once ──┐                                                      ┌ old image: delete, update_preimage
//!                         ├─ FULL JOIN on the key ── one is missing, or differs ─┤
//!  new ── each key once ──┘                                                      └ new image: insert, update_postimage
//! ```
//!
//! Rows are compared in the columns that either dump has; a column that a dump has not got is NULL in it. So a column that is
//! renamed is an update of every row that has a value in it.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{Column, JoinType, ScalarValue, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::dump_table::{Content, DumpTable};
use crate::change::{
    CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType, distinct, unqualified,
};
use crate::error::Result;

/// What the columns of the older dump are called in a plan, followed by their position; and those of the newer.
const OLD: &str = "__old_";
const NEW: &str = "__new_";
/// The image that a row of the result shows: 0 the old one, 1 the new one.
const SIDE: &str = "__side";

/// What a version has changed.
#[derive(Debug)]
pub(super) struct Difference<'a> {
    pub version: i64,
    /// In microseconds since the epoch.
    pub time: i64,
    /// The dump before it; absent where that has no rows.
    pub old: Option<Content>,
    /// Its own dump; absent where that has no rows.
    pub new: Option<Content>,
    /// Filters that may leave out rows; they are evaluated again above.
    pub filters: &'a [Expr],
    /// Whether a key that is there twice is an error.
    pub checked: bool,
}

impl Difference<'_> {
    /// Plans it with columns of the change relation; `None` where there is nothing to read. Where no column is wanted there is one
    /// all the same, which only counts the rows.
    pub(super) fn plan(&self, wanted: &[FieldRef]) -> Result<Option<LogicalPlan>> {
        match (&self.old, &self.new) {
            (None, None) => Ok(None),
            (None, Some(new)) => self.all_of(new, ChangeType::Insert, wanted).map(Some),
            (Some(old), None) => self.all_of(old, ChangeType::Delete, wanted).map(Some),
            (Some(old), Some(new)) => self.compared(old, new, wanted).map(Some),
        }
    }

    /// Every row of a dump as the same change.
    fn all_of(
        &self,
        content: &Content,
        change: ChangeType,
        wanted: &[FieldRef],
    ) -> Result<LogicalPlan> {
        let rows = self.rows(content, NEW, &|name| content.position(name).is_some())?;
        let image = |field: &FieldRef| -> Result<Expr> { value(content, NEW, field) };
        let output = self.output(wanted, &lit(change.as_str()), &image)?;
        Ok(rows.project(output)?.build()?)
    }

    fn compared(&self, old: &Content, new: &Content, wanted: &[FieldRef]) -> Result<LogicalPlan> {
        // of a row that is left out on one side only it would seem to be missing there
        let held = new.now.held();
        let is_key = |name: &str| {
            let index = held.index_of(name).ok();
            index.is_some_and(|index| new.keys.contains(&index))
        };
        let before = self.rows(old, OLD, &is_key)?;
        let after = self.rows(new, NEW, &is_key)?.build()?;
        let joined = before.join(
            after,
            JoinType::Full,
            (keys(new, OLD), keys(new, NEW)),
            None,
        )?;
        let changed = joined.filter(differs(old, new))?.build()?;
        let sides = LogicalPlanBuilder::values(vec![vec![lit(0_i64)], vec![lit(1_i64)]])?
            .project(vec![ident("column1").alias(SIDE)])?;
        let of_old = || ident(SIDE).eq(lit(0_i64));
        let of_new = || ident(SIDE).eq(lit(1_i64));
        let (was, is) = (|| is_there(new, OLD), || is_there(new, NEW));
        let images = sides
            .cross_join(changed)?
            .filter(of_old().and(was()).or(of_new().and(is())))?;
        let change = |change: ChangeType| lit(change.as_str());
        let change = when(of_old().and(is()), change(ChangeType::UpdatePreimage))
            .when(of_old(), change(ChangeType::Delete))
            .when(was(), change(ChangeType::UpdatePostimage))
            .otherwise(change(ChangeType::Insert))?;
        let image = |field: &FieldRef| -> Result<Expr> {
            let (before, after) = (value(old, OLD, field)?, value(new, NEW, field)?);
            Ok(when(of_old(), before).otherwise(after)?)
        };
        let output = self.output(wanted, &change, &image)?;
        Ok(images.project(output)?.build()?)
    }

    /// The rows of a dump, its columns called by their positions. Filters may be applied whose columns all are `filtered`.
    fn rows(
        &self,
        content: &Content,
        prefix: &str,
        filtered: &dyn Fn(&str) -> bool,
    ) -> Result<LogicalPlanBuilder> {
        let table = provider_as_source(Arc::new(DumpTable::new(content.clone(), self.checked)));
        let mut plan = LogicalPlanBuilder::scan(TableReference::bare("dump"), table, None)?;
        for filter in self.filters {
            let columns = filter.column_refs();
            if !columns.is_empty() && columns.iter().all(|column| filtered(&column.name)) {
                plan = plan.filter(unqualified(filter)?)?;
            }
        }
        let columns = content.columns();
        let columns =
            columns.map(|(index, field)| ident(field.name()).alias(format!("{prefix}{index}")));
        Ok(plan.project(columns.collect::<Vec<_>>())?)
    }

    fn output(
        &self,
        wanted: &[FieldRef],
        change: &Expr,
        image: &dyn Fn(&FieldRef) -> Result<Expr>,
    ) -> Result<Vec<Expr>> {
        if wanted.is_empty() {
            return Ok(vec![lit(self.version).alias(COMMIT_VERSION)]);
        }
        let time = ScalarValue::TimestampMicrosecond(Some(self.time), Some("UTC".into()));
        let column = |field: &FieldRef| -> Result<Expr> {
            let value = match field.name().as_str() {
                CHANGE_TYPE => change.clone(),
                COMMIT_VERSION => lit(self.version),
                COMMIT_TIMESTAMP => lit(time.clone()),
                _ => image(field)?,
            };
            Ok(value.alias(field.name()))
        };
        wanted.iter().map(column).collect()
    }
}

/// A column of a dump's row; NULL where the dump has not got it.
fn value(content: &Content, prefix: &str, field: &FieldRef) -> Result<Expr> {
    match content.position(field.name()) {
        Some(index) => Ok(ident(format!("{prefix}{index}"))),
        None => Ok(lit(ScalarValue::try_from(field.data_type())?)),
    }
}

/// The columns of the key.
fn keys(content: &Content, prefix: &str) -> Vec<Column> {
    let keys = content.keys.iter();
    keys.map(|index| Column::new_unqualified(format!("{prefix}{index}")))
        .collect()
}

/// Whether there is a row on one side of the join: no key is NULL.
fn is_there(content: &Content, prefix: &str) -> Expr {
    let keys = keys(content, prefix).into_iter();
    let keys = keys.map(|key| Expr::Column(key).is_not_null());
    keys.reduce(Expr::and).unwrap_or_else(|| lit(true))
}

/// Whether a row is missing on one side of the join, or is not the same on both.
fn differs(old: &Content, new: &Content) -> Expr {
    let missing = |prefix| Expr::Not(Box::new(is_there(new, prefix)));
    let fields = new.now.held().fields().iter().enumerate();
    let fields = fields.filter(|(index, _)| !new.keys.contains(index));
    let columns = fields.filter_map(|(index, field)| {
        let (before, after) = (
            ident(format!("{OLD}{index}")),
            ident(format!("{NEW}{index}")),
        );
        match (old.has(index), new.has(index)) {
            (true, true) => Some(distinct(before, after, field.data_type())),
            (true, false) => Some(before.is_not_null()),
            (false, true) => Some(after.is_not_null()),
            (false, false) => None,
        }
    });
    columns.fold(missing(OLD).or(missing(NEW)), Expr::or)
}
