//! The WHERE of OPTIMIZE and REORG, which chooses partitions.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt64Array};
use arrow::datatypes::{DataType, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::prelude::SessionContext;

use crate::delta::actions::Add;
use crate::delta::layout::TableLayout;
use crate::delta::snapshot::Snapshot;
use crate::delta::stats::partition_value;
use crate::error::{Error, Result};

/// The number of a file among those that are looked at.
const FILE: &str = "__alluvial_file";

/// The files of the partitions for which the predicate is true.
///
/// # Errors
/// When it is no condition, or is about other columns than the ones that the table is partitioned by.
pub(super) async fn chosen_files(
    snapshot: &Snapshot,
    session: &SessionState,
    predicate: &str,
    files: Vec<Arc<Add>>,
) -> Result<Vec<Arc<Add>>> {
    let table = snapshot.table().name();
    let condition = condition(table, snapshot.layout(), session, predicate)?;
    if files.is_empty() {
        return Ok(files);
    }
    let partitions = partitions(table, snapshot.layout(), &files)?;
    let chosen = SessionContext::new_with_state(session.clone())
        .read_batch(partitions)?
        .filter(condition)?
        .select_columns(&[FILE])?
        .collect()
        .await?;
    let mut numbers: HashSet<u64> = HashSet::new();
    for batch in &chosen {
        let column = batch.column(0).as_primitive::<UInt64Type>();
        numbers.extend(column.values().iter().copied());
    }
    let numbered = (0..).zip(files);
    Ok(numbered
        .filter_map(|(number, file)| numbers.contains(&number).then_some(file))
        .collect())
}

/// The predicate over the columns by which the table is partitioned.
fn condition(
    table: &str,
    layout: &TableLayout,
    session: &SessionState,
    predicate: &str,
) -> Result<Expr> {
    let schema = DFSchema::try_from_qualified_schema(TableReference::bare(table), layout.schema())?;
    let condition = session.create_logical_expr(predicate, &schema)?;
    let partition_columns: Vec<&str> = layout
        .partition_columns()
        .iter()
        .map(|index| layout.schema().field(*index).name().as_str())
        .collect();
    let names = condition.column_refs().into_iter();
    let names = names.map(|column| column.name.clone());
    let other = names
        .filter(|name| !partition_columns.contains(&name.as_str()))
        .min();
    if let Some(other) = other {
        let known = match partition_columns.as_slice() {
            [] => "is not partitioned".to_owned(),
            names => format!("is partitioned by {}", names.join(", ")),
        };
        return Err(Error::invalid(format!(
            "WHERE {predicate}: OPTIMIZE and REORG choose whole partitions, {table} {known}, and {other:?} is another column; leave it out"
        )));
    }
    let data_type = condition.get_type(&schema)?;
    if ![DataType::Boolean, DataType::Null].contains(&data_type) {
        let column = partition_columns.first().unwrap_or(&"column");
        return Err(Error::invalid(format!(
            "WHERE {predicate}: its type is {data_type}, and a condition, which is true or false, was expected; compare it with something, as in \
             {column} = …"
        )));
    }
    Ok(unnormalize_col(condition))
}

/// The values by which each file is partitioned, and its number.
fn partitions(table: &str, layout: &TableLayout, files: &[Arc<Add>]) -> Result<RecordBatch> {
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    for index in layout.partition_columns() {
        let values = files
            .iter()
            .map(|file| partition_value(table, layout, *index, file))
            .collect::<Result<Vec<_>>>()?;
        let name = layout.schema().field(*index).name();
        columns.push((name, ScalarValue::iter_to_array(values)?));
    }
    let numbers = UInt64Array::from_iter_values(0..files.len() as u64);
    columns.push((FILE, Arc::new(numbers)));
    Ok(RecordBatch::try_from_iter(columns)?)
}
