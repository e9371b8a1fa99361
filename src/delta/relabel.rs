//! Gives nested values other field names without touching their data.
//!
//! With column mapping the files name struct fields by their physical names. A cast would match fields by name and find none.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

/// `expression` with its type `from` renamed to `to`; the expression itself where nothing differs.
pub(crate) fn relabel(
    expression: Arc<dyn PhysicalExpr>,
    from: &DataType,
    to: &DataType,
) -> Arc<dyn PhysicalExpr> {
    if from == to {
        expression
    } else {
        Arc::new(RelabelExpr {
            expression,
            data_type: to.clone(),
        })
    }
}

/// An array whose type is `to`, which must be its own type but for the names of nested fields.
pub(crate) fn relabel_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(make_array(relabel_data(array.to_data(), to)?))
}

fn relabel_data(data: ArrayData, to: &DataType) -> Result<ArrayData> {
    let names: Vec<&DataType> = match to {
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::List(field) | DataType::Map(field, _) => vec![field.data_type()],
        _ => return Ok(data),
    };
    let children = data
        .child_data()
        .iter()
        .zip(names)
        .map(|(child, to)| relabel_data(child.clone(), to));
    let children = children.collect::<Result<Vec<_>>>()?;
    Ok(data
        .into_builder()
        .data_type(to.clone())
        .child_data(children)
        .build()?)
}

#[derive(Debug, Clone, Eq)]
struct RelabelExpr {
    expression: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl PartialEq for RelabelExpr {
    fn eq(&self, other: &Self) -> bool {
        self.expression.eq(&other.expression) && self.data_type == other.data_type
    }
}

impl std::hash::Hash for RelabelExpr {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.expression.hash(state);
        self.data_type.hash(state);
    }
}

impl Display for RelabelExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "relabel({})", self.expression)
    }
}

impl PhysicalExpr for RelabelExpr {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expression.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self
            .expression
            .evaluate(batch)?
            .into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(relabel_array(
            &array,
            &self.data_type,
        )?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.expression]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self {
            expression: children.remove(0),
            data_type: self.data_type.clone(),
        }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.expression.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array, StructArray};
    use arrow::datatypes::{Field, Fields};

    use super::*;

    #[test]
    fn nested_fields_get_their_new_names() {
        let data_type = |name: &str| {
            DataType::Struct(Fields::from(vec![Field::new(name, DataType::Int64, true)]))
        };
        let DataType::Struct(fields) = data_type("col-1") else {
            unreachable!()
        };
        let array: ArrayRef = Arc::new(StructArray::new(
            fields,
            vec![Arc::new(Int64Array::from(vec![1, 2]))],
            Some(vec![true, false].into()),
        ));
        let renamed = relabel_array(&array, &data_type("x")).unwrap();
        assert_eq!(renamed.data_type(), &data_type("x"));
        assert_eq!(renamed.null_count(), 1);
        assert_eq!(renamed.as_struct().column_by_name("x").unwrap().len(), 2);
    }
}
