//! A second group column beside the keys, of one value.
//!
//! The optimizer takes the columns of a GROUP BY for a key of everything that comes after it, an unnest included, and drops sort and
//! group columns that such a key determines. A key that has a column nobody else sees ends where that column is left out.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The same value for every row; it takes a column, one that is not grouped by itself, because the optimizer would leave out what is
/// constant, or follows from the other group columns.
pub(super) fn one_group(column: Expr) -> Expr {
    ScalarUDF::from(OneGroup {
        signature: Signature::any(1, Volatility::Immutable),
    })
    .call(vec![column])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneGroup {
    signature: Signature,
}

impl ScalarUDFImpl for OneGroup {
    fn name(&self) -> &'static str {
        "one_group"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
    }
}
