//! What may be declared of computed columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;

use crate::delta::computed::Computed;
use crate::delta::create::delta_field;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::merge::{check_default, generation_type};

/// The computed columns of a new table as they stand in the log.
///
/// # Errors
/// When a generation expression or a default value cannot be evaluated here, or does not fit its column.
pub(super) fn check_computed(
    table: &str,
    columns: &[FieldRef],
    computed: Vec<(String, Computed)>,
    state: &SessionState,
) -> Result<Vec<(String, Computed)>> {
    if computed.is_empty() {
        return Ok(computed);
    }
    let columns = columns.iter().map(|column| delta_field(table, column));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let is_generated = |field: &&FieldRef| {
        let generated = |(name, computed): &(String, Computed)| {
            name == field.name() && computed.is_recomputed()
        };
        computed.iter().any(generated)
    };
    let given = columns.iter().filter(|field| !is_generated(field));
    let given = Schema::new(given.cloned().collect::<Vec<_>>());
    let given = DFSchema::try_from(Arc::new(given))?;
    let checked = computed.iter().map(|(name, computed)| {
        let column = columns.iter().find(|column| column.name() == name);
        let column = column.ok_or_else(|| Error::internal(format!("no column {name:?}")))?;
        let computed = match computed {
            Computed::Generated(text) => {
                Computed::Generated(check_generated(column, text, &given, state)?)
            }
            Computed::Default(text) => {
                check_value(column, text, state)?;
                computed.clone()
            }
            Computed::Identity(_) if *column.data_type() != DataType::Int64 => {
                return Err(Error::invalid(format!(
                    "column {name:?}: an identity column is of type BIGINT, not {}",
                    column.data_type()
                )));
            }
            Computed::Identity(_) => computed.clone(),
        };
        Ok((name.clone(), computed))
    });
    checked.collect()
}

/// Checks a default value that a column of an existing table is given.
///
/// # Errors
/// As [`check_computed`], and when the column is not there or is computed in another way.
pub(super) fn check_new_default(
    snapshot: &Snapshot,
    column: &str,
    text: Option<&str>,
    state: &SessionState,
) -> Result<()> {
    let layout = snapshot.layout();
    let table = snapshot.table().name();
    let Some((index, field)) = layout.schema().column_with_name(column) else {
        let names: Vec<&str> = layout
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        return Err(Error::invalid(format!(
            "{table} has no column {column:?}; its columns are {}",
            names.join(", ")
        )));
    };
    let other = layout
        .computed()
        .iter()
        .any(|(computed, how)| *computed == index && !matches!(how, Computed::Default(_)));
    if other {
        return Err(Error::invalid(format!(
            "column {column:?} of {table} is a generated or identity column, which has no default value"
        )));
    }
    match text {
        Some(text) => check_value(&Arc::new(field.clone()), text, state),
        None => Ok(()),
    }
}

fn check_value(column: &FieldRef, text: &str, state: &SessionState) -> Result<()> {
    check_default(text, column.data_type(), state).map_err(|error| {
        Error::invalid(format!(
            "column {:?}: DEFAULT {text} is not possible for {}: {error}",
            column.name(),
            column.data_type()
        ))
    })
}

/// The text of a generation expression, cast to the column's type where Spark would take it for another.
fn check_generated(
    column: &FieldRef,
    text: &str,
    given: &DFSchema,
    state: &SessionState,
) -> Result<String> {
    let refused = |reason: &str| {
        Error::invalid(format!(
            "column {:?}: GENERATED ALWAYS AS ({text}) is not possible: {reason}",
            column.name()
        ))
    };
    let found = generation_type(text, given, state).map_err(|error| {
        refused(&format!(
            "{error}; it is made of columns that are not generated themselves"
        ))
    })?;
    let wanted = column.data_type();
    match spark_number(wanted) {
        Some(name) if found.is_numeric() => {
            let has_literal = text.contains(|c: char| c.is_ascii_digit());
            let is_cast = text.to_uppercase().starts_with("CAST(");
            // a literal is INT in Spark and BIGINT here
            if found != *wanted || (has_literal && !is_cast) {
                return Ok(format!("CAST({text} AS {name})"));
            }
        }
        _ if is_like(&found, wanted) => {}
        _ => {
            return Err(refused(&format!(
                "its type is {found} and the column's is {wanted}; CAST it"
            )));
        }
    }
    Ok(text.to_owned())
}

/// Spark's name of a type of numbers.
fn spark_number(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        _ => return None,
    })
}

/// Whether a type is the column's but for how it is kept in memory.
fn is_like(found: &DataType, wanted: &DataType) -> bool {
    match (found, wanted) {
        (DataType::Timestamp(_, found), DataType::Timestamp(_, wanted)) => {
            found.is_some() == wanted.is_some()
        }
        (found, DataType::Utf8) => found.is_string() || found.is_null(),
        (found, wanted) => found == wanted || found.is_null(),
    }
}
