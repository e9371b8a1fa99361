//! VALUES with sub-queries, which DataFusion plans and cannot run: it would compute the rows before the sub-queries.
//!
//! Such rows become projections of one row each, put together by UNION ALL; there sub-queries have their values.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Values, cast};
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

/// The rows one by one, in the types that they have together.
fn written_out(values: &Values) -> Result<LogicalPlan> {
    let mut rows: Option<LogicalPlanBuilder> = None;
    for row in &values.values {
        let columns = row.iter().zip(values.schema.fields());
        let columns: Vec<Expr> = columns
            .map(|(value, field)| {
                cast(value.clone(), field.data_type().clone()).alias(field.name())
            })
            .collect();
        let row = LogicalPlanBuilder::empty(true).project(columns)?;
        rows = Some(match rows {
            None => row,
            Some(rows) => rows.union(row.build()?)?,
        });
    }
    match rows {
        Some(rows) => rows.build(),
        None => LogicalPlanBuilder::empty(false).build(),
    }
}
