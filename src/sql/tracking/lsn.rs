//! LSNs: the versions of change tracking as SQL Server's CDC writes them, `binary(10)`.
//!
//! Two zero bytes and the version as eight bytes, big-endian, so that LSNs are ordered as the versions are.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::change::Hex;
use crate::error::{Error, Result};

/// How many bytes an LSN has.
pub(crate) const LSN_LENGTH: usize = 10;

/// The LSN of a version.
pub(crate) fn encode(version: i64) -> [u8; LSN_LENGTH] {
    let mut lsn = [0; LSN_LENGTH];
    lsn[2..].copy_from_slice(&version.to_be_bytes());
    lsn
}

/// The version of an LSN.
///
/// # Errors
/// [`Error::Invalid`] when these bytes are no LSN of a table here.
pub(crate) fn decode(lsn: &[u8]) -> Result<i64> {
    let Ok([first, second, version @ ..]) = <[u8; LSN_LENGTH]>::try_from(lsn) else {
        return Err(Error::invalid(format!(
            "{} is no LSN: it has {} bytes, not {LSN_LENGTH}; version 5 has the LSN {}",
            Hex(lsn),
            lsn.len(),
            Hex(&encode(5))
        )));
    };
    let version = i64::from_be_bytes(version);
    if (first, second) != (0, 0) || version < 0 {
        return Err(Error::invalid(format!(
            "{} is no LSN of a table here: these are two zero bytes and the version, so that version 5 has the LSN {}; LSNs of another \
             database mean nothing here, begin with fn_cdc_get_min_lsn('t')",
            Hex(lsn),
            Hex(&encode(5))
        )));
    }
    Ok(version)
}

/// The LSN of a version, as an expression.
pub(super) fn lsn_of(version: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(LsnOf::new()));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![version]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct LsnOf {
    signature: Signature,
}

impl LsnOf {
    fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Int64], Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for LsnOf {
    fn name(&self) -> &'static str {
        "lsn_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let versions = arrays[0].as_primitive::<Int64Type>();
        let mut lsns = BinaryBuilder::with_capacity(versions.len(), versions.len() * LSN_LENGTH);
        for version in versions {
            lsns.append_option(version.map(encode));
        }
        Ok(ColumnarValue::Array(Arc::new(lsns.finish()) as ArrayRef))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_lsns() {
        for (version, expected) in [
            (0, "0x00000000000000000000"),
            (5, "0x00000000000000000005"),
            (258, "0x00000000000000000102"),
            (i64::MAX, "0x00007FFFFFFFFFFFFFFF"),
        ] {
            let lsn = encode(version);
            assert_eq!(Hex(&lsn).to_string(), expected);
            assert_eq!(decode(&lsn).unwrap(), version);
        }
        assert!(encode(255) < encode(256));
    }

    #[test]
    fn other_bytes_are_refused() {
        let check = |lsn: &[u8], expected: &str| {
            let error = decode(lsn).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected:?}");
        };
        check(&[], "0x is no LSN: it has 0 bytes, not 10");
        check(&[0, 5], "0x0005 is no LSN: it has 2 bytes");
        check(&[0; 11], "version 5 has the LSN 0x00000000000000000005");
        check(
            &[0, 1, 0, 0, 0, 0, 0, 0, 0, 5],
            "0x00010000000000000005 is no LSN of a table here",
        );
        check(
            &[0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0],
            "0x00008000000000000000 is no LSN of a table here",
        );
    }
}
