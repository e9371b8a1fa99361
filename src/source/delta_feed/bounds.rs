//! The versions that filters let through: commits beyond them need not be read.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

use crate::change::COMMIT_VERSION;

/// The lowest and highest `_commit_version` that the filters let through.
pub(in crate::source) fn version_bounds(filters: &[Expr]) -> (i64, i64) {
    let (mut low, mut high) = (i64::MIN, i64::MAX);
    for (operator, version) in filters.iter().filter_map(version_comparison) {
        match operator {
            Operator::Gt => low = low.max(version.saturating_add(1)),
            Operator::GtEq => low = low.max(version),
            Operator::Lt => high = high.min(version.saturating_sub(1)),
            Operator::LtEq => high = high.min(version),
            Operator::Eq => (low, high) = (low.max(version), high.min(version)),
            _ => {}
        }
    }
    (low, high)
}

fn version_comparison(filter: &Expr) -> Option<(Operator, i64)> {
    let Expr::BinaryExpr(binary) = filter else {
        return None;
    };
    match (binary.left.as_ref(), binary.right.as_ref()) {
        (Expr::Column(column), Expr::Literal(ScalarValue::Int64(Some(version)), _))
            if column.name == COMMIT_VERSION =>
        {
            Some((binary.op, *version))
        }
        (Expr::Literal(ScalarValue::Int64(Some(version)), _), Expr::Column(column))
            if column.name == COMMIT_VERSION =>
        {
            Some((binary.op.swap()?, *version))
        }
        _ => None,
    }
}
