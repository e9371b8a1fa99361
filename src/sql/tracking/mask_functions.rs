//! The functions about masks and LSNs that look at nothing but their arguments.
//!
//! [`mask_functions`] are for whoever writes SQL; [`change_columns_mask`] and [`update_mask`] are for the plans of CHANGETABLE and
//! of `fn_cdc_get_all_changes`, which know the ids of the columns.

mod column_in_mask;

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, BinaryBuilder, Int32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::cast::{as_binary_array, as_boolean_array, as_int64_array};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use self::column_in_mask::IsColumnInMask;
use super::lsn::{self, LSN_LENGTH};
use crate::change::{ChangeMask, Hex, is_bit_set};
use crate::error::Error;

/// The key, in the metadata of a field with masks, of the names of the table's columns: a JSON array, in which the column with the
/// id 1 comes first.
pub(crate) const COLUMNS_KEY: &str = "alluvial.columns";

/// The functions that SQL may call.
pub(crate) fn mask_functions() -> Vec<ScalarUDF> {
    vec![
        IsColumnInMask::new().into(),
        LsnStep::new("fn_cdc_increment_lsn", 1).into(),
        LsnStep::new("fn_cdc_decrement_lsn", -1).into(),
        IsBitSet::new().into(),
    ]
}

/// `fn_cdc_is_bit_set(ordinal, mask)`.
pub(super) fn is_bit_set_call(ordinal: Expr, mask: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::from(IsBitSet::new()));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![ordinal, mask]))
}

/// `change_columns_mask(changed_1, …, changed_n)`: the mask of change tracking for as many columns, whose ids are `ids`; NULL where
/// all of them have changed.
pub(crate) fn change_columns_mask(ids: Vec<u32>) -> ScalarUDF {
    MaskOf::new("change_columns_mask", ChangeMask::Tracking, ids).into()
}

/// `update_mask(changed_1, …, changed_n)`: the mask of CDC for as many columns, whose ordinals are `ids`, of a table that has
/// `columns` of them.
pub(crate) fn update_mask(ids: Vec<u32>, columns: usize) -> ScalarUDF {
    MaskOf::new("update_mask", ChangeMask::Capture { columns }, ids).into()
}

/// Makes masks of booleans, of which NULL is false.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MaskOf {
    name: &'static str,
    mask: ChangeMask,
    ids: Vec<u32>,
    signature: Signature,
}

impl MaskOf {
    fn new(name: &'static str, mask: ChangeMask, ids: Vec<u32>) -> Self {
        Self {
            name,
            mask,
            ids,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for MaskOf {
    fn name(&self) -> &'static str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if given.len() != self.ids.len() {
            return plan_err!(
                "{} is made for {} columns, not {}",
                self.name,
                self.ids.len(),
                given.len()
            );
        }
        Ok(vec![DataType::Boolean; given.len()])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let changed = arguments.args.iter().map(|given| are_true(given, rows));
        let changed = changed.collect::<Result<Vec<_>>>()?;
        let mut masks = BinaryBuilder::with_capacity(rows, rows * size_of::<u64>());
        let mut mask = Vec::new();
        for row in 0..rows {
            let is_list = self.mask == ChangeMask::Tracking;
            if is_list && changed.iter().all(|changed| changed.value(row)) {
                masks.append_null();
                continue;
            }
            let columns = self.ids.iter().zip(&changed);
            let columns = columns.filter(|(_, changed)| changed.value(row));
            self.mask.write(columns.map(|(id, _)| *id), &mut mask);
            masks.append_value(&mask);
        }
        Ok(ColumnarValue::Array(Arc::new(masks.finish())))
    }
}

/// `fn_cdc_increment_lsn(lsn)` and `fn_cdc_decrement_lsn(lsn)`: the LSN next to another one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct LsnStep {
    name: &'static str,
    step: i64,
    aliases: Vec<String>,
    signature: Signature,
}

impl LsnStep {
    fn new(name: &'static str, step: i64) -> Self {
        Self {
            name,
            step,
            aliases: with_schema(name),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn step(&self, from: &[u8]) -> crate::Result<[u8; LSN_LENGTH]> {
        let version = lsn::decode(from)?;
        let next = version.checked_add(self.step).filter(|next| *next >= 0);
        next.map(lsn::encode).ok_or_else(|| {
            let (end, side) = match self.step {
                ..0 => ("lowest", "before"),
                _ => ("highest", "after"),
            };
            Error::invalid(format!(
                "{} is the {end} LSN, so {} finds none {side} it",
                Hex(from),
                self.name
            ))
        })
    }
}

impl ScalarUDFImpl for LsnStep {
    fn name(&self) -> &'static str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [lsn] = given else {
            return wrong_count(self.name, "an LSN", given);
        };
        Ok(vec![bytes(self.name, "an LSN", lsn)?])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let mut steps = BinaryBuilder::with_capacity(rows, rows * LSN_LENGTH);
        for lsn in &to_binary(&arguments.args[0], rows)? {
            match lsn {
                Some(lsn) => steps.append_value(self.step(lsn)?),
                None => steps.append_null(),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(steps.finish())))
    }
}

/// `fn_cdc_is_bit_set(ordinal, mask)`: 1 where the column has changed, else 0; NULL where nobody knows.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IsBitSet {
    aliases: Vec<String>,
    signature: Signature,
}

impl IsBitSet {
    const NAME: &'static str = "fn_cdc_is_bit_set";

    fn new() -> Self {
        Self {
            aliases: with_schema(Self::NAME),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for IsBitSet {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [ordinal, mask] = given else {
            return wrong_count(Self::NAME, "a column's ordinal and a mask", given);
        };
        let ordinal = integer(Self::NAME, "a column's ordinal", ordinal)?;
        let mask = bytes(Self::NAME, "__$update_mask of CDC", mask)?;
        Ok(vec![ordinal, mask])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let ordinals = arguments.args[0].to_array_of_size(rows)?;
        let masks = to_binary(&arguments.args[1], rows)?;
        let pairs = as_int64_array(&ordinals)?.iter().zip(&masks);
        let found = pairs.map(|(ordinal, mask)| Some(i32::from(is_bit_set(mask?, ordinal?))));
        let found: Int32Array = found.collect();
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

/// What SQL Server calls a function of CDC: with the schema that it is in.
fn with_schema(name: &str) -> Vec<String> {
    ["sys", "cdc"]
        .map(|schema| format!("{schema}.{name}"))
        .to_vec()
}

fn wrong_count<T, G>(function: &str, wanted: &str, given: &[G]) -> Result<T> {
    plan_err!("{function} takes {wanted}, not {} arguments", given.len())
}

/// The type of an argument that is an integer.
fn integer(function: &str, wanted: &str, given: &DataType) -> Result<DataType> {
    match given.is_integer() || given.is_null() {
        true => Ok(DataType::Int64),
        false => plan_err!("{function} takes {wanted}; this is of the type {given}"),
    }
}

/// The type of an argument that is bytes.
fn bytes(function: &str, wanted: &str, given: &DataType) -> Result<DataType> {
    match given.is_binary() || given.is_null() {
        true => Ok(DataType::Binary),
        false => plan_err!(
            "{function} takes {wanted}, a binary such as 0x0102; this is of the type {given}"
        ),
    }
}

/// An argument that is bytes, in one type.
fn to_binary(argument: &ColumnarValue, rows: usize) -> Result<BinaryArray> {
    let array = cast(&argument.to_array_of_size(rows)?, &DataType::Binary)?;
    Ok(as_binary_array(&array)?.clone())
}

/// The rows that are true.
fn are_true(argument: &ColumnarValue, rows: usize) -> Result<BooleanBuffer> {
    let array = argument.to_array_of_size(rows)?;
    let array = as_boolean_array(&array)?;
    Ok(match array.nulls() {
        Some(valid) => array.values() & valid.inner(),
        None => array.values().clone(),
    })
}

#[cfg(test)]
mod tests;
