//! OPTIMIZE, REORG and VACUUM: statements that act at once and return what they did.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;

use super::ddl::delta_table;
use super::maintenance_parser::Maintenance;
use crate::delta::vacuum::{Vacuumed, find_garbage};
use crate::error::Result;
use crate::merge::{Optimize, Optimized, Rewrite};

/// Runs the statement.
///
/// # Errors
/// When there is no such table, it may not be written, or other writers were in the way.
pub(super) async fn maintain(ctx: &SessionContext, statement: Maintenance) -> Result<DataFrame> {
    let rows = match statement {
        Maintenance::Optimize {
            table,
            predicate,
            z_order,
        } => {
            let rewrite = if z_order.is_empty() {
                Rewrite::Compact
            } else {
                Rewrite::ZOrder(z_order)
            };
            optimize(ctx, &table, rewrite, predicate).await?
        }
        Maintenance::Purge { table, predicate } => {
            optimize(ctx, &table, Rewrite::Purge, predicate).await?
        }
        Maintenance::Vacuum {
            table,
            retention,
            dry_run,
        } => {
            let garbage = find_garbage(&delta_table(ctx, &table).await?, retention).await?;
            if dry_run {
                found(garbage.paths())?
            } else {
                deleted(garbage.delete().await?)?
            }
        }
    };
    Ok(ctx.read_batch(rows)?)
}

async fn optimize(
    ctx: &SessionContext,
    table: &TableReference,
    rewrite: Rewrite,
    predicate: Option<String>,
) -> Result<RecordBatch> {
    let statement = Optimize {
        table: delta_table(ctx, table).await?,
        session: Arc::new(ctx.state()),
        rewrite,
        predicate,
    };
    rewritten(statement.run().await?)
}

/// One row: what became of the files, and the version.
fn rewritten(optimized: Optimized) -> Result<RecordBatch> {
    numbers([
        ("files_added", Some(optimized.files_added)),
        ("files_removed", Some(optimized.files_removed)),
        ("bytes_added", Some(optimized.bytes_added)),
        ("bytes_removed", Some(optimized.bytes_removed)),
        (
            "deletion_vectors_removed",
            Some(optimized.deletion_vectors_removed),
        ),
        ("rows", Some(optimized.rows)),
        ("version", optimized.version),
    ])
}

/// One row: what was deleted, and the version.
fn deleted(vacuumed: Vacuumed) -> Result<RecordBatch> {
    numbers([
        ("files_deleted", i64::try_from(vacuumed.files).ok()),
        ("bytes_deleted", i64::try_from(vacuumed.bytes).ok()),
        ("version", vacuumed.version),
    ])
}

/// One row for each file that would be deleted.
fn found<'a>(paths: impl Iterator<Item = &'a str>) -> Result<RecordBatch> {
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(paths));
    let schema = Schema::new(vec![Field::new("path", DataType::Utf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![paths])?)
}

fn numbers<const WIDTH: usize>(row: [(&str, Option<i64>); WIDTH]) -> Result<RecordBatch> {
    let columns = row.map(|(name, value)| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        (name, column, name == "version")
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
