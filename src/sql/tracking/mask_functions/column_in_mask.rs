//! `change_tracking_is_column_in_mask(column, mask)`: columns by id, or by name where the mask says of which table it is.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::{as_int64_array, as_string_array};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};

use super::{COLUMNS_KEY, bytes, integer, to_binary, wrong_count};
use crate::change::is_column_in_mask;
use crate::error::Error;

/// `change_tracking_is_column_in_mask(column, mask)`: 1 where the column, given by id or name, may have changed, else 0.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct IsColumnInMask {
    signature: Signature,
}

impl IsColumnInMask {
    /// The function.
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for IsColumnInMask {
    fn name(&self) -> &'static str {
        "change_tracking_is_column_in_mask"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        // a name that is no column is an error of the statement
        if let ([Some(name), _], [_, mask]) = (args.scalar_arguments, args.arg_fields)
            && let Some(name) = name.try_as_str().flatten()
            && let Some(columns) = columns_of(mask)?
        {
            id_of(name, Some(&columns))?;
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Int32, true)))
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [column, mask] = given else {
            return wrong_count(self.name(), "a column and a mask", given);
        };
        let column = match column {
            column if column.is_string() => DataType::Utf8,
            column => integer(self.name(), "the id of a column, or its name", column)?,
        };
        // a cast of the mask could lose the names that come with it
        let mask = match mask {
            mask if mask.is_binary() => mask.clone(),
            mask => bytes(self.name(), "sys_change_columns of CHANGETABLE", mask)?,
        };
        Ok(vec![column, mask])
    }

    /// A name becomes an id while the plan still says which table the mask is of: where projections are merged, what comes with a
    /// column is lost.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let [Expr::Literal(name, _), mask] = args.as_slice() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let name = name.try_as_str().flatten();
        let field = mask.to_field(info.schema().as_ref()).ok();
        let (Some(name), Some((_, field))) = (name, field) else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let Some(columns) = columns_of(&field)? else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let arguments = vec![lit(id_of(name, Some(&columns))?), mask.clone()];
        let function = Arc::new(ScalarUDF::from(Self::new()));
        let call = ScalarFunction::new_udf(function, arguments);
        Ok(ExprSimplifyResult::Simplified(Expr::ScalarFunction(call)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [column, mask] = arguments.args.as_slice() else {
            return wrong_count(self.name(), "a column and a mask", &arguments.args);
        };
        let ids = match column.data_type() {
            DataType::Utf8 => ids_of(column, &arguments.arg_fields[1], rows)?,
            _ => as_int64_array(&column.to_array_of_size(rows)?)?.clone(),
        };
        let masks = to_binary(mask, rows)?;
        let found = ids.iter().zip(&masks);
        let found = found.map(|(id, mask)| may_have_changed(id, mask));
        let found = found.collect::<Result<Int32Array>>()?;
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

fn may_have_changed(id: Option<i64>, mask: Option<&[u8]>) -> Result<Option<i32>> {
    match (id, mask) {
        (None, _) => Ok(None),
        // nobody knows which columns have changed
        (Some(_), None) => Ok(Some(1)),
        (Some(id), Some(mask)) => Ok(Some(is_column_in_mask(mask, id)?.into())),
    }
}

/// The ids of columns that are given by name.
fn ids_of(names: &ColumnarValue, mask: &Field, rows: usize) -> crate::Result<Int64Array> {
    let columns = columns_of(mask)?;
    let id_of = |name: &str| id_of(name, columns.as_deref());
    match names {
        ColumnarValue::Scalar(name) => {
            let id = name.try_as_str().flatten().map(id_of).transpose()?;
            Ok(repeat_n(id, rows).collect())
        }
        ColumnarValue::Array(names) => {
            let names = as_string_array(names)?.iter();
            names.map(|name| name.map(id_of).transpose()).collect()
        }
    }
}

/// The columns of the table that a mask is of, where it says so.
fn columns_of(mask: &Field) -> crate::Result<Option<Vec<String>>> {
    match mask.metadata().get(COLUMNS_KEY) {
        Some(columns) => Ok(Some(serde_json::from_str(columns)?)),
        None => Ok(None),
    }
}

/// The id of a column: that of exactly this name, else of the only one that differs in case.
fn id_of(name: &str, columns: Option<&[String]>) -> crate::Result<i64> {
    let Some(columns) = columns else {
        return Err(Error::invalid(format!(
            "the mask does not say of which table it is, so nobody knows the id of its column {name:?}: give \
             COLUMNPROPERTY(OBJECT_ID('t'), '{name}', 'ColumnId') in place of the name, or sys_change_columns as CHANGETABLE returns it"
        )));
    };
    let exact = columns.iter().position(|column| column == name);
    let mut alike = (0..columns.len()).filter(|index| columns[*index].eq_ignore_ascii_case(name));
    match (exact, alike.next(), alike.next()) {
        (Some(index), _, _) | (None, Some(index), None) => Ok(index as i64 + 1),
        _ => Err(Error::invalid(format!(
            "{name:?} is no column of the table that the mask is of, which has {}",
            columns.join(", ")
        ))),
    }
}
