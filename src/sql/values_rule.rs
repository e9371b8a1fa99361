//! VALUES with sub-queries, which DataFusion plans and cannot run: it would compute the rows before the sub-queries.
//!
//! Such rows become projections of one row each, put together by UNION ALL; there sub-queries have their values.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, Values, cast};
use datafusion::optimizer::AnalyzerRule;

use crate::merge::has_subquery;

/// Writes VALUES with sub-queries out, wherever they are in a plan.
#[derive(Debug)]
pub(crate) struct ValuesRule;

impl AnalyzerRule for ValuesRule {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut is_changed = false;
        let rewritten = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Values(values) if values.values.iter().flatten().any(has_subquery) => {
                is_changed = true;
                Ok(Transformed::yes(written_out(&values)?))
            }
            // what is above has to know that values may be NULL, or no longer may
            node if is_changed => Ok(Transformed::yes(node.recompute_schema()?)),
            node => Ok(Transformed::no(node)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "values_with_subqueries"
    }
}

/// The rows with sub-queries one by one, in the types that all have together, and those between them as they are.
fn written_out(values: &Values) -> Result<LogicalPlan> {
    let is_plain = |row: &[Expr]| !row.iter().any(has_subquery);
    let together = |row: &Vec<Expr>, next: &Vec<Expr>| is_plain(row) && is_plain(next);
    let mut parts = Vec::new();
    for rows in values.values.chunk_by(together) {
        parts.push(match rows {
            [row] if !is_plain(row) => projected(row, values)?,
            rows => LogicalPlan::Values(Values {
                schema: Arc::clone(&values.schema),
                values: rows.to_vec(),
            }),
        });
    }
    match <[LogicalPlan; 1]>::try_from(parts) {
        Ok([part]) => Ok(part),
        // all at once: one UNION within the other for each row would take its square in time
        Err(parts) => {
            let parts = parts.into_iter().map(Arc::new).collect();
            Ok(LogicalPlan::Union(Union::try_new(parts)?))
        }
    }
}

/// One row, in the types of all.
fn projected(row: &[Expr], values: &Values) -> Result<LogicalPlan> {
    let columns = row.iter().zip(values.schema.fields());
    let columns: Vec<Expr> = columns
        .map(|(value, field)| cast(value.clone(), field.data_type().clone()).alias(field.name()))
        .collect();
    LogicalPlanBuilder::empty(true).project(columns)?.build()
}
