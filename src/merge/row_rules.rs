//! What every new row must be and satisfy: computed columns (Delta protocol, *Generated Columns*, *Identity Columns*, *Default
//! Columns*), then NOT NULL, column invariants and CHECK constraints (*Column Invariants*, *CHECK Constraints*).
//!
//! An expression that is NULL is not satisfied. Default values are put in when a statement is planned: to a writer, NULL is NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::kernels::nullif::nullif;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{and, and_not, filter_record_batch, is_not_null, is_null, not, or_kleene};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use delta_kernel::schema::MetadataValue;

use super::identity_values::{IdentityValues, Sequence};
use super::spark_expression::{default_value, evaluable, plan_expression};
use crate::change::distinct_values;
use crate::delta::computed::Computed;
use crate::delta::data_file::WriteTarget;
use crate::delta::layout::TableLayout;
use crate::error::{Error, Result};

/// The rules of a table, ready to be applied.
#[derive(Debug, Clone)]
pub(crate) struct RowRules {
    table: String,
    schema: SchemaRef,
    /// The schema of rows that are not complete yet: everything may be NULL.
    incomplete: SchemaRef,
    partition_columns: Vec<usize>,
    generated: Vec<Generated>,
    checks: Vec<Check>,
}

#[derive(Debug, Clone)]
struct Check {
    name: String,
    expression: Arc<dyn PhysicalExpr>,
}

/// A column that is computed from others.
#[derive(Debug, Clone)]
struct Generated {
    column: usize,
    name: String,
    expression: Arc<dyn PhysicalExpr>,
}

impl RowRules {
    /// Plans the table's expressions.
    ///
    /// # Errors
    /// When one is in a dialect that does not parse here, or may mean something else here: such a table must not be written.
    pub(crate) fn try_new(target: &WriteTarget, state: &SessionState) -> Result<Self> {
        let schema = Arc::clone(target.layout.schema());
        let nullable = schema.fields().iter();
        let nullable = nullable.map(|field| field.as_ref().clone().with_nullable(true));
        let incomplete = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        Ok(Self {
            table: target.table.name().into(),
            generated: generated(target, &incomplete, state)?,
            checks: checks(target, state)?,
            partition_columns: target.layout.partition_columns().to_vec(),
            schema,
            incomplete,
        })
    }

    /// Gives identity and generated columns their values in new rows, which are in the table's columns.
    ///
    /// Identity columns get theirs only in rows that are `inserted` (all, if that is absent): others keep what they have. A
    /// generated column is computed where it is NULL.
    ///
    /// # Errors
    /// [`Error::Constraint`] when a value is given that must not be, or is not the one that the generation expression has.
    pub(crate) fn complete(
        &self,
        mut columns: Vec<ArrayRef>,
        inserted: Option<&BooleanArray>,
        identities: &mut IdentityValues,
    ) -> Result<Vec<ArrayRef>> {
        for sequence in identities.sequences() {
            columns[sequence.column] = self.number(sequence, &columns, inserted)?;
        }
        if self.generated.is_empty() {
            return Ok(columns);
        }
        for index in &self.partition_columns {
            columns[*index] = without_empty(&columns[*index])?;
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.incomplete), columns.clone())?;
        for generated in &self.generated {
            columns[generated.column] = self.generate(generated, &rows)?;
        }
        Ok(columns)
    }

    /// The identity column of `sequence` with a number in each inserted row that has none.
    fn number(
        &self,
        sequence: &mut Sequence,
        columns: &[ArrayRef],
        inserted: Option<&BooleanArray>,
    ) -> Result<ArrayRef> {
        let given = &columns[sequence.column];
        let is_inserted = |row: usize| inserted.is_none_or(|inserted| inserted.value(row));
        if !sequence.allow_explicit && given.null_count() < given.len() {
            let explicit = match inserted {
                Some(rows) => and(&is_not_null(given)?, rows)?,
                None => is_not_null(given)?,
            };
            if explicit.true_count() > 0 {
                let rule = format!(
                    "GENERATED ALWAYS AS IDENTITY (leave the column out) of column {:?}",
                    self.schema.field(sequence.column).name()
                );
                return Err(self.violation(rule, columns.to_vec(), &explicit));
            }
        }
        if given.null_count() == 0 {
            return Ok(Arc::clone(given));
        }
        let given = given
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| Error::internal("an identity column that is not BIGINT"))?;
        let values = (0..given.len()).map(|row| {
            if given.is_valid(row) {
                Ok(Some(given.value(row)))
            } else if is_inserted(row) {
                sequence.take().map(Some)
            } else {
                Ok(None)
            }
        });
        Ok(Arc::new(values.collect::<Result<Int64Array>>()?))
    }

    /// The generated column as it must be.
    fn generate(&self, generated: &Generated, rows: &RecordBatch) -> Result<ArrayRef> {
        let computed = generated
            .expression
            .evaluate(rows)?
            .into_array(rows.num_rows())?;
        let given = rows.column(generated.column);
        if given.null_count() == given.len() {
            return Ok(computed);
        }
        let wrong = and_not(&distinct_values(given, &computed)?, &is_null(given)?)?;
        if wrong.true_count() > 0 {
            return Err(self.violation(generated.name.clone(), rows.columns().to_vec(), &wrong));
        }
        if given.null_count() == 0 {
            return Ok(Arc::clone(given));
        }
        Ok(zip(&is_null(given)?, &computed, given)?)
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
                let nulls = is_null(column)?;
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
            let broken = or_kleene(&not(satisfied)?, &not(&known)?)?;
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
        let batch = RecordBatch::try_new(Arc::clone(&self.incomplete), columns);
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

/// Plans the generation expressions, and makes sure that default values can be planned.
fn generated(
    target: &WriteTarget,
    incomplete: &SchemaRef,
    state: &SessionState,
) -> Result<Vec<Generated>> {
    let layout: &TableLayout = &target.layout;
    let mut planned = vec![];
    if layout.computed().is_empty() {
        return Ok(planned);
    }
    let columns = DFSchema::try_from(Arc::clone(incomplete))?;
    for (column, computed) in layout.computed() {
        let field = incomplete.field(*column);
        match computed {
            Computed::Identity(_) => {}
            Computed::Default(text) => {
                default_value(layout, *column, state).map_err(|error| {
                    let what = format!("default value of column {:?}", field.name());
                    unsupported(target, &what, text, &error)
                })?;
            }
            Computed::Generated(text) => {
                let expression = plan_expression(text, &columns, field.data_type(), state)
                    .and_then(|expression| evaluable(expression, &columns, state))
                    .map_err(|error| {
                        let what = format!("generated column {:?}", field.name());
                        unsupported(target, &what, text, &error)
                    })?;
                planned.push(Generated {
                    column: *column,
                    name: format!("GENERATED ALWAYS AS ({text}) of column {:?}", field.name()),
                    expression,
                });
            }
        }
    }
    Ok(planned)
}

/// Plans the invariants and CHECK constraints.
fn checks(target: &WriteTarget, state: &SessionState) -> Result<Vec<Check>> {
    let schema = DFSchema::try_from(Arc::clone(target.layout.schema()))?;
    let fields = target.layout.kernel_schema().fields();
    let invariants = fields.filter_map(|field| match field.metadata().get("delta.invariants") {
        Some(MetadataValue::String(text)) => Some((
            format!("invariant of column {:?}", field.name()),
            invariant_expression(text),
        )),
        _ => None,
    });
    let declared = target.properties.constraints.iter();
    let declared = declared.map(|(name, text)| (format!("CHECK constraint {name}"), text.clone()));
    let plan = |(name, text): (String, String)| {
        let as_it_is = state
            .create_logical_expr(&text, &schema)
            .and_then(|expression| state.create_physical_expr(expression, &schema));
        // one that was declared in Spark may name columns and functions in Spark's way
        let as_in_spark = || {
            let planned = plan_expression(&text, &schema, &DataType::Boolean, state)?;
            evaluable(planned, &schema, state)
        };
        let expression = match as_it_is {
            Ok(expression) => expression,
            Err(error) => {
                as_in_spark().map_err(|_| unsupported(target, &name, &text, &error.into()))?
            }
        };
        Ok(Check {
            name: format!("{name} ({text})"),
            expression,
        })
    };
    invariants.chain(declared).map(plan).collect()
}

fn unsupported(target: &WriteTarget, what: &str, text: &str, error: &Error) -> Error {
    Error::UnsupportedFeature {
        table: target.table.name().into(),
        needs: format!("has the {what} ({text}), which cannot be evaluated here: {error}"),
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
