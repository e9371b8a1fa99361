//! Operators that DataFusion's grammar has no token for.

use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// `IS DISTINCT FROM` as one operator, which binds tighter than AND.
pub(crate) const IS_DISTINCT_FROM: &str = "IS DISTINCT FROM";

/// Plans these operators.
#[derive(Debug)]
pub(crate) struct OperatorPlanner;

impl ExprPlanner for OperatorPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        match &expr.op {
            BinaryOperator::Custom(name) if name == IS_DISTINCT_FROM => {
                Ok(PlannerResult::Planned(Expr::BinaryExpr(BinaryExpr::new(
                    Box::new(expr.left),
                    Operator::IsDistinctFrom,
                    Box::new(expr.right),
                ))))
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
}
