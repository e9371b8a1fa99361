//! `IS DISTINCT FROM` for every type, nested ones included, which SQL's operator leaves out.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, make_array};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

/// `left IS DISTINCT FROM right`, both of `data_type`: NULL equals NULL, at every level.
pub(crate) fn distinct(left: Expr, right: Expr, data_type: &DataType) -> Expr {
    if data_type.is_nested() {
        let function = Arc::new(ScalarUDF::from(NestedDistinct::new()));
        Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![left, right]))
    } else {
        Expr::BinaryExpr(BinaryExpr::new(
            Box::new(left),
            Operator::IsDistinctFrom,
            Box::new(right),
        ))
    }
}

/// The same values in a type that has an order: maps as the lists of their entries.
pub(crate) fn comparable(array: &ArrayRef) -> Result<ArrayRef> {
    if array.data_type().is_nested() {
        Ok(make_array(without_maps(array.to_data())?))
    } else {
        Ok(Arc::clone(array))
    }
}

/// Compares two arrays value by value.
pub(crate) fn distinct_values(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray> {
    let (left, right) = (
        without_maps(left.to_data())?,
        without_maps(right.to_data())?,
    );
    let converter = RowConverter::new(vec![SortField::new(left.data_type().clone())])?;
    let (left, right) = (
        converter.convert_columns(&[make_array(left)])?,
        converter.convert_columns(&[make_array(right)])?,
    );
    Ok(left
        .iter()
        .zip(&right)
        .map(|(left, right)| Some(left != right))
        .collect())
}

/// Maps as the lists of entries that they are: maps have no order that rows could be compared by.
fn without_maps(data: ArrayData) -> Result<ArrayData> {
    let data_type = without_map_types(data.data_type());
    let children = data
        .child_data()
        .iter()
        .cloned()
        .map(without_maps)
        .collect::<Result<Vec<_>>>()?;
    Ok(data
        .into_builder()
        .data_type(data_type)
        .child_data(children)
        .build()?)
}

fn without_map_types(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        Arc::new(Field::new(
            field.name(),
            without_map_types(field.data_type()),
            field.is_nullable(),
        ))
    };
    match data_type {
        DataType::Map(entries, _) => DataType::List(inner(entries)),
        DataType::List(field) => DataType::List(inner(field)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NestedDistinct {
    signature: Signature,
}

impl NestedDistinct {
    fn new() -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for NestedDistinct {
    fn name(&self) -> &'static str {
        "nested_is_distinct_from"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        Ok(ColumnarValue::Array(Arc::new(distinct_values(
            &arrays[0], &arrays[1],
        )?)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Builder, MapBuilder, StringBuilder};

    use super::*;

    fn map(rows: &[Option<&[(&str, i32)]>]) -> ArrayRef {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        for row in rows {
            for (key, value) in row.unwrap_or_default() {
                builder.keys().append_value(key);
                builder.values().append_value(*value);
            }
            builder.append(row.is_some()).unwrap();
        }
        Arc::new(builder.finish())
    }

    #[test]
    fn nested_values_are_compared_whole() {
        let left = map(&[Some(&[("a", 1)]), Some(&[("a", 1)]), None, None, Some(&[])]);
        let right = map(&[
            Some(&[("a", 1)]),
            Some(&[("a", 2)]),
            None,
            Some(&[]),
            Some(&[]),
        ]);
        let found: Vec<bool> = distinct_values(&left, &right)
            .unwrap()
            .iter()
            .flatten()
            .collect();
        assert_eq!(found, [false, true, false, true, false]);
    }
}
