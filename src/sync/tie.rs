//! A condition that no row may meet: a change that differs from what the target holds and has the same sequence.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::Error;

/// False for every row; an error for the first that meets `condition`, naming its `key`, a text.
pub(super) fn no_tie(condition: Expr, key: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(NoTie::new()));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![condition, key]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NoTie {
    signature: Signature,
}

impl NoTie {
    fn new() -> Self {
        // volatile: it must not be moved to where it would see other rows
        Self {
            signature: Signature::any(2, Volatility::Volatile),
        }
    }
}

impl ScalarUDFImpl for NoTie {
    fn name(&self) -> &'static str {
        "no_tie"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let ties = columns[0].as_boolean();
        let tie = (0..ties.len()).find(|row| ties.is_valid(*row) && ties.value(*row));
        if let Some(row) = tie {
            let key = arrow::util::display::array_value_to_string(&columns[1], row)?;
            return Err(Error::invalid(format!(
                "AMBIGUOUS_CHANGES: the change of the key {key} has the sequence that the target holds of an earlier change, and differs from it, \
                 so nobody knows which of the two counts; let the later one count with the option on_tie 'last', order the changes with a \
                 SEQUENCE BY that tells them apart, or correct the source and begin anew (DROP SYNC)"
            ))
            .into());
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(vec![
            false;
            rows
        ]))))
    }
}
