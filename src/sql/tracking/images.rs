//! What became of each key: the first and the last image of its row in a range, or in each version of it.
//!
//! A change is told by one number, its *step*: four times the tracking version, and what happened in the order in which it
//! happens within a version: 0 delete, 1 preimage, 2 insert, 3 postimage. The least and the greatest step of a key say everything
//! of what it has come to; that the steps are plain integers makes this cheap.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::functions_aggregate::first_last::{first_value, last_value};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use crate::change::{CHANGE_CONTEXT, CHANGE_TYPE, COMMIT_VERSION, ChangeType, distinct};
use crate::error::Result;

const STEP: &str = "__alluvial_step";
const FIRST_STEP: &str = "__alluvial_first_step";
const LAST_STEP: &str = "__alluvial_last_step";
const CREATED: &str = "__alluvial_created";
const VERSION: &str = "__alluvial_version";
/// What is in [`images`] of the context of the last change.
pub(super) const CONTEXT: &str = "__alluvial_context";

/// What is wanted of each key.
pub(super) struct Images<'a> {
    /// The columns that tell rows apart.
    pub keys: &'a [String],
    /// Each version for itself, or the range as a whole.
    pub by_version: bool,
    /// The columns whose first and last values are wanted.
    pub values: Vec<FieldRef>,
    /// The Delta version that tracking versions are counted from.
    pub begin: i64,
    /// Whether the changes have contexts.
    pub contexts: bool,
}

impl Images<'_> {
    /// The plan over the changes of a Delta feed.
    pub(super) fn plan(&self, changes: LogicalPlan) -> Result<LogicalPlanBuilder> {
        let version = || ident(COMMIT_VERSION) - lit(self.begin);
        let is = |kind: ChangeType| ident(CHANGE_TYPE).eq(lit(kind.as_str()));
        let order = when(is(ChangeType::Delete), lit(0_i64))
            .when(is(ChangeType::UpdatePreimage), lit(1_i64))
            .when(is(ChangeType::Insert), lit(2_i64))
            .otherwise(lit(3_i64))?;
        let created = when(is(ChangeType::Insert), version()).end()?;
        let values = self.values.iter().map(|field| ident(field.name()));
        let mut columns: Vec<Expr> = self.keys.iter().map(ident).chain(values).collect();
        columns.extend([
            (version() * lit(4_i64) + order).alias(STEP),
            created.alias(CREATED),
        ]);
        if self.by_version {
            columns.push(version().alias(VERSION));
        }
        if self.contexts {
            columns.push(ident(CHANGE_CONTEXT));
        }
        let mut groups: Vec<Expr> = self.keys.iter().map(ident).collect();
        if self.by_version {
            groups.push(ident(VERSION));
        }
        let by_step = || vec![ident(STEP).sort(true, true)];
        let mut aggregates = vec![
            min(ident(STEP)).alias(FIRST_STEP),
            max(ident(STEP)).alias(LAST_STEP),
            max(ident(CREATED)).alias(CREATED),
        ];
        for (index, field) in self.values.iter().enumerate() {
            let (first, last) = (first_name(index), last_name(index));
            let value = || ident(field.name());
            if self.by_version && !field.data_type().is_nested() {
                // within a version a key has one row before and one after it: no order is needed to find them
                let is_before = || (ident(STEP) % lit(4_i64)).lt(lit(2_i64));
                let before = when(is_before(), value()).end()?;
                let after = when(is_before().is_not_true(), value()).end()?;
                aggregates.extend([max(before).alias(first), max(after).alias(last)]);
            } else {
                aggregates.push(first_value(value(), by_step()).alias(first));
                aggregates.push(last_value(value(), by_step()).alias(last));
            }
        }
        if self.contexts {
            aggregates.push(last_value(ident(CHANGE_CONTEXT), by_step()).alias(CONTEXT));
        }
        let builder = LogicalPlanBuilder::from(changes).project(columns)?;
        Ok(builder.aggregate(groups, aggregates)?)
    }

    /// The same, and by these names whether each of the values differs.
    pub(super) fn with_differences(
        &self,
        changes: LogicalPlan,
        names: &[String],
    ) -> Result<LogicalPlanBuilder> {
        let images = self.plan(changes)?;
        let schema = Arc::clone(images.schema());
        let columns = schema.fields().iter().map(|field| ident(field.name()));
        let differs = names.iter().enumerate();
        let differs = differs.map(|(index, name)| self.differs(index).alias(name));
        let columns: Vec<Expr> = columns.chain(differs).collect();
        Ok(images.project(columns)?)
    }

    /// Whether a value differs between the first and the last image.
    pub(super) fn differs(&self, index: usize) -> Expr {
        let data_type = self.values[index].data_type();
        distinct(ident(first_name(index)), ident(last_name(index)), data_type)
    }

    /// The columns of `schema`, which are keys or values, of the first or of the last image.
    pub(super) fn image(&self, schema: &Schema, first: bool) -> Vec<Expr> {
        let column = |field: &FieldRef| {
            let of = |value: &FieldRef| value.name() == field.name();
            let image = match self.values.iter().position(of) {
                Some(index) if first => ident(first_name(index)),
                Some(index) => ident(last_name(index)),
                None => ident(field.name()),
            };
            image.alias(field.name())
        };
        schema.fields().iter().map(column).collect()
    }
}

/// Whether the key was there before the first step.
pub(super) fn existed() -> Expr {
    (ident(FIRST_STEP) % lit(4_i64)).lt(lit(2_i64))
}

/// Whether it is there after the last.
pub(super) fn exists() -> Expr {
    (ident(LAST_STEP) % lit(4_i64)).gt_eq(lit(2_i64))
}

/// The version of the last step.
pub(super) fn last_version() -> Expr {
    ident(LAST_STEP) / lit(4_i64)
}

/// The version of the last insert, NULL where there is none; of what [`over_versions`] returns.
pub(super) fn created_version() -> Expr {
    ident(CREATED)
}

/// The same within one version. A row that begins it with a postimage has got its key by an update.
fn created_in_version() -> Result<Expr> {
    let came_by_update = (ident(FIRST_STEP) % lit(4_i64)).eq(lit(3_i64));
    Ok(when(ident(CREATED).is_not_null(), ident(CREATED))
        .when(came_by_update, ident(FIRST_STEP) / lit(4_i64))
        .end()?)
}

/// Makes one of several versions of a key: `changed` are columns of which any version counts.
pub(super) fn over_versions(
    by_version: LogicalPlanBuilder,
    images: &Images<'_>,
    changed: &[String],
) -> Result<LogicalPlanBuilder> {
    use datafusion::functions_aggregate::expr_fn::bool_or;
    let mut aggregates = vec![
        min(ident(FIRST_STEP)).alias(FIRST_STEP),
        max(ident(LAST_STEP)).alias(LAST_STEP),
        max(ident(CREATED)).alias(CREATED),
    ];
    aggregates.extend(changed.iter().map(|name| bool_or(ident(name)).alias(name)));
    if images.contexts {
        let by_step = vec![ident(LAST_STEP).sort(true, true)];
        aggregates.push(last_value(ident(CONTEXT), by_step).alias(CONTEXT));
    }
    let keys: Vec<Expr> = images.keys.iter().map(ident).collect();
    Ok(by_version.aggregate(keys, aggregates)?)
}

/// The columns that [`over_versions`] needs beside those that say what changed.
pub(super) fn steps(images: &Images<'_>) -> Result<Vec<Expr>> {
    let mut steps: Vec<Expr> = images.keys.iter().map(ident).collect();
    steps.extend([FIRST_STEP, LAST_STEP].map(ident));
    steps.push(created_in_version()?.alias(CREATED));
    if images.contexts {
        steps.push(ident(CONTEXT));
    }
    Ok(steps)
}

fn first_name(index: usize) -> String {
    format!("__alluvial_first_{index}")
}

fn last_name(index: usize) -> String {
    format!("__alluvial_last_{index}")
}
