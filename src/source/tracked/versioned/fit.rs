//! Plans that become part of a larger one.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::error::Result;

/// Plans what becomes part of a larger plan, which is optimised again: a join that has its dynamic filter by then could not be.
pub(super) async fn plan_inside(
    state: &dyn Session,
    plan: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    const DYNAMIC_FILTERS: &str = "FilterPushdown(Post)";
    let Some(session) = state.as_any().downcast_ref::<SessionState>() else {
        return Ok(state.create_physical_plan(plan).await?);
    };
    let rules = session.physical_optimizers().iter();
    let rules = rules.filter(|rule| rule.name() != DYNAMIC_FILTERS);
    let session = SessionStateBuilder::new_from_existing(session.clone())
        .with_physical_optimizer_rules(rules.cloned().collect())
        .build();
    Ok(session.create_physical_plan(plan).await?)
}

/// The plan with these columns exactly, by position: whoever reads them has been planned with them, and may take what cannot be
/// NULL in the table itself for what can be.
pub(super) fn fit(
    plan: Arc<dyn ExecutionPlan>,
    wanted: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>> {
    let found = plan.schema();
    if found == *wanted {
        return Ok(plan);
    }
    let columns = wanted.fields().iter().enumerate().map(|(index, field)| {
        let has = found.field(index);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(has.name(), index));
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
