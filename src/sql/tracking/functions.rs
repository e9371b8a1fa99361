//! The functions of change tracking and CDC that look at a table.
//!
//! They are evaluated once for a statement, when it is about to run, as `now()` is: a view and a prepared statement ask anew each
//! time they are used. So they are volatile, and become literals where the optimizer knows when the statement runs.

mod call;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::catalog::CatalogProviderList;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use self::call::Call;
use super::mask_functions::is_bit_set_call;
use crate::error::Error;
use crate::sql::lookup::Lookup;

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    CurrentVersion,
    MinValidVersion,
    MinLsn,
    MaxLsn,
    TimeToLsn,
    LsnToTime,
    ColumnOrdinal,
    HasColumnChanged,
    ColumnProperty,
    ObjectId,
}

/// Name, how many arguments it takes, and how it is called.
const FUNCTIONS: [(Kind, &str, &[usize], &str); 10] = [
    (
        Kind::CurrentVersion,
        "change_tracking_current_version",
        &[0, 1],
        "('t')",
    ),
    (
        Kind::MinValidVersion,
        "change_tracking_min_valid_version",
        &[1],
        "('t')",
    ),
    (Kind::MinLsn, "fn_cdc_get_min_lsn", &[1], "('t')"),
    (Kind::MaxLsn, "fn_cdc_get_max_lsn", &[0, 1], "('t')"),
    (
        Kind::TimeToLsn,
        "fn_cdc_map_time_to_lsn",
        &[2, 3],
        "('smallest greater than or equal', timestamp, 't')",
    ),
    (
        Kind::LsnToTime,
        "fn_cdc_map_lsn_to_time",
        &[1, 2],
        "(lsn, 't')",
    ),
    (
        Kind::ColumnOrdinal,
        "fn_cdc_get_column_ordinal",
        &[2],
        "('t', 'column')",
    ),
    (
        Kind::HasColumnChanged,
        "fn_cdc_has_column_changed",
        &[3],
        "('t', 'column', \"__$update_mask\")",
    ),
    (
        Kind::ColumnProperty,
        "columnproperty",
        &[3],
        "(OBJECT_ID('t'), 'column', 'ColumnId')",
    ),
    (Kind::ObjectId, "object_id", &[1], "('t')"),
];

/// The functions over the tables of these catalogs.
pub(crate) fn table_functions(catalogs: &Arc<dyn CatalogProviderList>) -> Vec<ScalarUDF> {
    let function = |(kind, name, counts, usage)| {
        ScalarUDF::from(TableFunction {
            kind,
            name,
            counts,
            usage,
            catalogs: Arc::clone(catalogs),
            signature: Signature::user_defined(Volatility::Volatile),
        })
    };
    FUNCTIONS.into_iter().map(function).collect()
}

struct TableFunction {
    kind: Kind,
    name: &'static str,
    counts: &'static [usize],
    usage: &'static str,
    catalogs: Arc<dyn CatalogProviderList>,
    signature: Signature,
}

impl std::fmt::Debug for TableFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for TableFunction {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for TableFunction {}

impl Hash for TableFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl ScalarUDFImpl for TableFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        if self.counts.contains(&types.len()) {
            return Ok(types.to_vec());
        }
        let message = format!(
            "{name} is called as {name}{}; {} argument(s) were given",
            self.usage,
            types.len(),
            name = self.name.to_uppercase(),
        );
        Err(Error::invalid(message).into())
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(match self.kind {
            Kind::CurrentVersion | Kind::MinValidVersion => DataType::Int64,
            Kind::MinLsn | Kind::MaxLsn | Kind::TimeToLsn => DataType::Binary,
            Kind::LsnToTime => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Kind::ColumnOrdinal | Kind::HasColumnChanged | Kind::ColumnProperty => DataType::Int32,
            Kind::ObjectId => DataType::Utf8,
        })
    }

    fn simplify(
        &self,
        args: Vec<Expr>,
        info: &SimplifyContext,
    ) -> DataFusionResult<ExprSimplifyResult> {
        if info.query_execution_start_time().is_none() {
            return Ok(ExprSimplifyResult::Original(args));
        }
        let values = args.iter().map(|argument| match argument {
            Expr::Literal(value, _) => ColumnarValue::Scalar(value.clone()),
            // of the last one, a column, nothing is known here
            _ => ColumnarValue::Scalar(ScalarValue::Null),
        });
        let values: Vec<ColumnarValue> = values.collect();
        let call = Call {
            function: self,
            lookup: Lookup::new(Arc::clone(&self.catalogs), &info.config_options().catalog),
            arguments: &values,
        };
        let constants = match self.kind {
            Kind::HasColumnChanged => args.get(..2),
            _ => Some(args.as_slice()),
        };
        let is_literal = |argument: &Expr| matches!(argument, Expr::Literal(..));
        if !constants.is_some_and(|constants| constants.iter().all(is_literal)) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        let value = call.evaluate()?;
        let simplified = match (self.kind, args.get(2)) {
            (Kind::HasColumnChanged, Some(mask)) => {
                is_bit_set_call(lit(value.cast_to(&DataType::Int64)?), mask.clone())
            }
            _ => lit(value),
        };
        Ok(ExprSimplifyResult::Simplified(simplified))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let lookup = Lookup::new(
            Arc::clone(&self.catalogs),
            &arguments.config_options.catalog,
        );
        let call = Call {
            function: self,
            lookup,
            arguments: &arguments.args,
        };
        if self.kind == Kind::HasColumnChanged {
            return Ok(call.has_column_changed(arguments.number_rows)?);
        }
        if let (Kind::LsnToTime, Some(ColumnarValue::Array(lsns))) =
            (self.kind, arguments.args.first())
        {
            return Ok(call.lsns_to_times(lsns)?);
        }
        Ok(ColumnarValue::Scalar(call.evaluate()?))
    }
}
