//! Plans and expressions on their way from one relation, or one plan, to another.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column as PhysicalColumn};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::error::Result;

/// The expression over columns by their names alone, whatever relation they were of.
pub(crate) fn unqualified(expression: &Expr) -> Result<Expr> {
    let renamed = expression.clone().transform(|node| match node {
        Expr::Column(column) => {
            let column = Column::new_unqualified(column.name);
            Ok(Transformed::yes(Expr::Column(column)))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(renamed?.data)
}

/// The first key of a relation that more than one of its rows have.
pub(crate) fn repeated_key(rows: LogicalPlan, keys: Vec<Expr>) -> Result<LogicalPlan> {
    const ROWS: &str = "__alluvial_rows";
    Ok(LogicalPlanBuilder::from(rows)
        .aggregate(keys.clone(), vec![count(lit(1_i64)).alias(ROWS)])?
        .filter(ident(ROWS).gt(lit(1_i64)))?
        .project(keys)?
        .limit(0, Some(1))?
        .build()?)
}

/// The session for a plan that becomes part of a larger one, which is optimised again: a join that has its dynamic filter by then
/// could not be.
pub(crate) fn without_dynamic_filters(session: &SessionState) -> SessionState {
    const DYNAMIC_FILTERS: &str = "FilterPushdown(Post)";
    let rules = session.physical_optimizers().iter();
    let rules = rules
        .filter(|rule| rule.name() != DYNAMIC_FILTERS)
        .cloned()
        .collect();
    SessionStateBuilder::new_from_existing(session.clone())
        .with_physical_optimizer_rules(rules)
        .build()
}

/// Plans what becomes part of a larger plan.
pub(crate) async fn plan_inside(
    state: &dyn Session,
    plan: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(session) = state.as_any().downcast_ref::<SessionState>() else {
        return Ok(state.create_physical_plan(plan).await?);
    };
    Ok(without_dynamic_filters(session)
        .create_physical_plan(plan)
        .await?)
}

/// The plan with these columns exactly, by position: whoever reads them has been planned with them, and may take what cannot be
/// NULL in the table itself for what can be.
pub(crate) fn fit(
    plan: Arc<dyn ExecutionPlan>,
    wanted: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>> {
    let found = plan.schema();
    if found == *wanted {
        return Ok(plan);
    }
    let columns = wanted.fields().iter().enumerate().map(|(index, field)| {
        let has = found.field(index);
        let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(has.name(), index));
        let fits =
            has.data_type() == field.data_type() && (has.is_nullable() || !field.is_nullable());
        let value: Arc<dyn PhysicalExpr> = if fits {
            column
        } else {
            let field = Arc::clone(field);
            Arc::new(CastExpr::new_with_target_field(column, field, None))
        };
        (value, field.name().clone())
    });
    let columns: Vec<_> = columns.collect();
    let fitted = ProjectionExec::try_new_with_schema_metadata(columns, plan, wanted)?;
    Ok(Arc::new(fitted))
}
