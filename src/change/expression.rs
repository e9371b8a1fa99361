//! Expressions on their way from one relation to another.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::Expr;

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
