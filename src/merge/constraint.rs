//! What every new row must satisfy: NOT NULL, column invariants and CHECK constraints (Delta protocol, *Column Invariants*,
//! *CHECK Constraints*). An expression that is NULL is not satisfied.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::kernels::nullif::nullif;
use arrow::compute::{filter_record_batch, is_not_null, not};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use delta_kernel::schema::MetadataValue;

use crate::delta::data_file::WriteTarget;
use crate::error::{Error, Result};

/// The constraints of a table, ready to be checked.
#[derive(Debug, Clone)]
pub(crate) struct Constraints {
    table: String,
    schema: SchemaRef,
    partition_columns: Vec<usize>,
    checks: Vec<Check>,
}

#[derive(Debug, Clone)]
struct Check {
    name: String,
    expression: Arc<dyn PhysicalExpr>,
}

impl Constraints {
    /// Plans the table's constraints.
    ///
    /// # Errors
    /// When an expression is in a dialect that does not parse here: such a table must not be written.
    pub(crate) fn try_new(target: &WriteTarget, state: &SessionState) -> Result<Self> {
        let schema = Arc::clone(target.layout.schema());
        let df_schema = DFSchema::try_from(Arc::clone(&schema))?;
        let invariants = target.layout.kernel_schema().fields().filter_map(|field| {
            match field.metadata().get("delta.invariants") {
                Some(MetadataValue::String(text)) => Some((
                    format!("invariant of column {:?}", field.name()),
                    invariant_expression(text),
                )),
                _ => None,
            }
        });
        let declared = target
            .properties
            .constraints
            .iter()
            .map(|(name, expression)| (format!("CHECK constraint {name}"), expression.clone()));
        let plan = |(name, text): (String, String)| {
            let planned = state
                .create_logical_expr(&text, &df_schema)
                .and_then(|expr| state.create_physical_expr(expr, &df_schema));
            let expression = planned.map_err(|error| Error::UnsupportedFeature {
                table: target.table.name().into(),
                needs: format!(
                    "has the {name} ({text}), which cannot be evaluated here: {}",
                    error.strip_backtrace()
                ),
            })?;
            Ok(Check {
                name: format!("{name} ({text})"),
                expression,
            })
        };
        let checks = invariants
            .chain(declared)
            .map(plan)
            .collect::<Result<_>>()?;
        Ok(Self {
            table: target.table.name().into(),
            schema,
            partition_columns: target.layout.partition_columns().to_vec(),
            checks,
        })
    }

    /// Checks new rows and gives them the table's exact schema.
    ///
    /// # Errors
    /// [`Error::Constraint`], naming the constraint and the first row that breaks it.
    pub(crate) fn check(&self, mut columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        for index in &self.partition_columns {
            columns[*index] = without_empty(&columns[*index])?;
        }
        for (field, column) in self.schema.fields().iter().zip(&columns) {
            if !field.is_nullable() && column.null_count() > 0 {
                let nulls = arrow::compute::is_null(column)?;
                return Err(self.violation(
                    format!("NOT NULL of column {:?}", field.name()),
                    columns.clone(),
                    &nulls,
                ));
            }
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        for check in &self.checks {
            let result = check
                .expression
                .evaluate(&batch)?
                .into_array(batch.num_rows())?;
            let satisfied = result.as_boolean_opt().ok_or_else(|| {
                Error::invalid(format!(
                    "{} of {} is not a condition",
                    check.name, self.table
                ))
            })?;
            let known = is_not_null(satisfied)?;
            let broken = arrow::compute::or_kleene(&not(satisfied)?, &not(&known)?)?;
            if broken.true_count() > 0 {
                return Err(self.violation(check.name.clone(), batch.columns().to_vec(), &broken));
            }
        }
        Ok(batch)
    }

    fn violation(
        &self,
        constraint: String,
        columns: Vec<ArrayRef>,
        broken: &BooleanArray,
    ) -> Error {
        let nullable: Vec<_> = self
            .schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let batch =
            RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(nullable)), columns);
        let row = batch
            .and_then(|batch| filter_record_batch(&batch, broken))
            .map(|rows| first_row(&rows));
        Error::Constraint {
            table: self.table.clone(),
            constraint,
            row: row.unwrap_or_default(),
        }
    }
}

/// A partition value that is empty text is NULL (*Partition Value Serialization*).
fn without_empty(column: &ArrayRef) -> Result<ArrayRef> {
    let empty = match column.data_type() {
        DataType::Utf8 => eq(column.as_string::<i32>(), &StringArray::new_scalar(""))?,
        DataType::Binary => eq(column.as_binary::<i32>(), &BinaryArray::new_scalar(b""))?,
        _ => return Ok(Arc::clone(column)),
    };
    Ok(nullif(column, &empty)?)
}

/// The SQL in `{"expression": {"expression": "x > 3"}}`.
fn invariant_expression(text: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    value["expression"]["expression"]
        .as_str()
        .unwrap_or(text)
        .to_owned()
}

fn first_row(batch: &RecordBatch) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let values = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let value = ArrayFormatter::try_new(column, &options)
                .map(|formatter| formatter.value(0).to_string());
            format!("{}: {}", field.name(), value.unwrap_or_default())
        })
        .collect::<Vec<_>>();
    format!("({})", values.join(", "))
}
