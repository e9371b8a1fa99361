//! The functions that change reads need in expressions and in the list of functions.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    ident, lit,
};

use super::arguments::BoundUnit;
use crate::change::BoundKind;

const NAME: &str = "change_bound";

/// The bound as a filter that the optimizer carries to the scan and cannot look into; it names a column so that it is not folded.
pub(crate) fn bound(column: &str, kind: BoundKind, unit: BoundUnit, value: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(ChangeBound::new()));
    let (kind, unit) = (lit(kind_name(kind)), lit(unit.name()));
    Expr::ScalarFunction(ScalarFunction::new_udf(
        function,
        vec![ident(column), kind, unit, value],
    ))
}

/// Reads [`bound`] back.
pub(crate) fn as_bound(filter: &Expr) -> Option<(BoundKind, BoundUnit, Expr)> {
    let Expr::ScalarFunction(function) = filter else {
        return None;
    };
    if function.func.name() != NAME {
        return None;
    }
    let [_, kind, unit, value] = function.args.as_slice() else {
        return None;
    };
    Some((
        kind_of(&text(kind)?)?,
        BoundUnit::of(&text(unit)?)?,
        value.clone(),
    ))
}

fn text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    }
}

fn kind_name(kind: BoundKind) -> &'static str {
    match kind {
        BoundKind::Since => "since",
        BoundKind::Starting => "starting",
        BoundKind::Until => "until",
        BoundKind::Before => "before",
    }
}

fn kind_of(name: &str) -> Option<BoundKind> {
    let kinds = [
        BoundKind::Since,
        BoundKind::Starting,
        BoundKind::Until,
        BoundKind::Before,
    ];
    kinds.into_iter().find(|kind| kind_name(*kind) == name)
}

/// A condition that is never evaluated: the scan of the change relation takes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ChangeBound {
    signature: Signature,
}

impl ChangeBound {
    fn new() -> Self {
        Self {
            signature: Signature::any(4, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for ChangeBound {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        datafusion::common::internal_err!(
            "a bound of table_changes did not reach the scan; report the statement"
        )
    }
}

/// A function such as `table_changes` in the list of table functions; statements are planned by [`super::relation_planner`], which
/// sees named arguments and parameters.
#[derive(Debug)]
pub(crate) struct ListedFunction(pub &'static str);

impl TableFunctionImpl for ListedFunction {
    fn call_with_args(&self, _: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        datafusion::common::plan_err!(
            "{} needs Alluvial's relation planner; call ctx.register_alluvial()",
            self.0
        )
    }
}
