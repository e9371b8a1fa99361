//! Where the columns of a scan lie in the files, and filters on the ones as filters on the others.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Statistics, plan_err};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use parquet::arrow::RowNumber;

use super::{DeltaScan, FilePruning};
use crate::error::Result;

/// Where each column of the scan lies in the Parquet source's schema.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(super) table_schema: TableSchema,
    /// For each column of the scan, its index in `table_schema`.
    pub(super) inner: Vec<usize>,
    logical: SchemaRef,
}

impl Columns {
    /// Where the columns of `scan` lie.
    pub(super) fn new(scan: &DeltaScan) -> Self {
        let layout = &scan.layout;
        let data: Vec<usize> = layout.data_columns().collect();
        let file_fields = data
            .iter()
            .map(|index| read_field(&layout.physical()[*index]))
            .chain(scan.file_columns.iter().cloned());
        let file_schema = Arc::new(Schema::new(file_fields.collect::<Vec<_>>()));
        let partitions = layout
            .partition_columns()
            .iter()
            .map(|index| read_field(&layout.physical()[*index]));
        let partitions: Vec<FieldRef> = partitions.chain(scan.constants.iter().cloned()).collect();
        let mut builder = TableSchema::builder(file_schema).with_table_partition_cols(partitions);
        if let Some(name) = &scan.row_number {
            builder = builder.with_virtual_columns(vec![Arc::new(
                Field::new(name, DataType::Int64, true).with_extension_type(RowNumber),
            )]);
        }
        let before_partitions = data.len() + scan.file_columns.len();
        let position = |index: usize| match data.iter().position(|column| *column == index) {
            Some(position) => position,
            None => {
                before_partitions
                    + layout
                        .partition_columns()
                        .iter()
                        .position(|column| *column == index)
                        .unwrap_or_default()
            }
        };
        let mut inner: Vec<usize> = (0..layout.schema().fields().len()).map(position).collect();
        inner.extend(data.len()..before_partitions);
        let constants = before_partitions + layout.partition_columns().len();
        inner.extend(
            constants..constants + scan.constants.len() + usize::from(scan.row_number.is_some()),
        );
        Self {
            table_schema: builder.build(),
            inner,
            logical: scan.schema(),
        }
    }

    /// Which of the files with these statistics may have rows that the predicate lets through.
    pub(crate) fn may_match(
        &self,
        statistics: Vec<Arc<Statistics>>,
        predicate: &Arc<dyn PhysicalExpr>,
    ) -> Vec<bool> {
        self.pruning(predicate).prune(statistics)
    }

    /// The predicate ready to rule files out.
    pub(super) fn pruning(&self, predicate: &Arc<dyn PhysicalExpr>) -> FilePruning {
        let schema = self.table_schema.schema_without_virtual_columns();
        FilePruning::new(predicate, schema)
    }

    /// The filters as one predicate over the Parquet source's schema; those on nested mapped columns are left to the plan above.
    pub(super) fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = self.table_schema.schema_without_virtual_columns();
        let rewritten = filters.iter().filter_map(|filter| self.rewrite(filter));
        let Some(filter) = conjunction(rewritten) else {
            return Ok(None);
        };
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        Ok(state.create_physical_expr(filter, &df_schema).ok())
    }

    /// The filter with the names that the source has for its columns; `None` where it may not prune.
    ///
    /// Bounds of floats leave NaN out, which sorts after every number here: no filter on a float may prune.
    fn rewrite(&self, filter: &Expr) -> Option<Expr> {
        let schema = self.table_schema.schema_without_virtual_columns();
        let renamed = filter.clone().transform(|node| match node {
            Expr::Column(column) => {
                let logical = self.logical.index_of(&column.name)?;
                let inner = self.inner[logical];
                if inner >= schema.fields().len()
                    || schema.field(inner).data_type().is_floating()
                    || schema.field(inner).data_type() != self.logical.field(logical).data_type()
                {
                    return plan_err!("not a filter for the source");
                }
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
                    schema.field(inner).name(),
                ))))
            }
            other => Ok(Transformed::no(other)),
        });
        renamed.ok().map(|renamed| renamed.data)
    }
}

/// The field as it is read: without field ids, which only writers need.
fn read_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        field.data_type().clone(),
        field.is_nullable(),
    ))
}
