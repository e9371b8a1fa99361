//! Casts that give another value in Spark.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::error::{Error, Result};

/// Refuses an expression with such casts, whether they are written or implied.
pub(super) fn refuse_other_casts(expression: &Expr, schema: &DFSchema) -> Result<()> {
    expression.apply(|node| {
        let Expr::Cast(cast) = node else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let (from, to) = (cast.expr.get_type(schema)?, cast.field.data_type());
        if is_other(&from, to) {
            return Err(Error::invalid(format!(
                "a cast of {from} to {to} gives another value in Spark"
            ))
            .into());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn is_other(from: &DataType, to: &DataType) -> bool {
    use DataType::Timestamp;
    match (from, to) {
        // texts are written otherwise
        (Timestamp(..), to) if to.is_string() => true,
        (from, to) if from.is_floating() && to.is_string() => true,
        // seconds there, the type's own unit here
        (Timestamp(..), to) => to.is_numeric(),
        (from, Timestamp(..)) => from.is_numeric(),
        (DataType::Date32, to) => to.is_numeric(),
        (from, DataType::Date32) => from.is_numeric(),
        // a half is rounded by the digits there, by the binary value here
        (from, to) => from.is_floating() && to.is_decimal(),
    }
}
