//! `_commit_version` as an expression over a version column.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::column::VersionColumn;

const NAME: &str = "commit_version";

/// The version that a value of a version column is; a row without one is an error, so that the result is never NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CommitVersion {
    column: VersionColumn,
    signature: Signature,
}

impl CommitVersion {
    /// Those of `column`.
    pub(super) fn new(column: VersionColumn) -> Self {
        Self {
            column,
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for CommitVersion {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Field::new(NAME, DataType::Int64, false).into())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [values] = args.args.as_slice() else {
            return internal_err!("{NAME} takes one argument");
        };
        let versions = self.column.versions(&values.to_array(args.number_rows)?)?;
        Ok(ColumnarValue::Array(Arc::new(versions)))
    }
}
