//! The two relations that a MERGE joins, as tables that only its plan can see.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, col};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::key_collect::{KeyCollectExec, KeyPruning};
use super::rewrite::{BASE_ROW_ID, first_id_and_position, or_default};
use super::row_format::{ROW, ROW_ID, file_field};
use crate::delta::row_tracking::RowTracking;
use crate::delta::scan::{DeltaScan, FileFilter};

/// The rows of the target with the address of each, and where the table keeps row ids the id.
#[derive(Debug)]
pub(crate) struct TargetRelation {
    /// Its files have no constants yet.
    scan: DeltaScan,
    /// The column of the files that holds ids.
    row_id: Option<FieldRef>,
    schema: SchemaRef,
}

impl TargetRelation {
    /// Adds file ordinal, row number and, given where they are kept, ids to the scan.
    pub(crate) fn new(mut scan: DeltaScan, row_ids: Option<&RowTracking>) -> Self {
        scan.constants = vec![file_field()];
        scan.row_number = Some(ROW.into());
        let row_id = row_ids.map(RowTracking::row_id);
        if let Some(column) = &row_id {
            let base = Field::new(BASE_ROW_ID, DataType::Int64, true);
            scan.constants.push(Arc::new(base));
            scan.file_columns = vec![Arc::clone(column)];
        }
        Self {
            schema: address_schema(scan.layout.schema(), row_id.is_some()),
            row_id,
            scan,
        }
    }

    /// Tells by a file's statistics whether it may hold rows that the statement reads.
    pub(crate) fn rows_read(&self, state: &dyn Session, filters: &[Expr]) -> Result<FileFilter> {
        Ok(FileFilter::try_new(
            self.scan.without_files(),
            state,
            filters,
        )?)
    }

    /// The scan, with the constants of each file.
    fn addressed(&self) -> DeltaScan {
        let mut scan = self.scan.clone();
        for (ordinal, file) in scan.files.iter_mut().enumerate() {
            let mut constants = Vec::with_capacity(scan.constants.len());
            constants.push(ScalarValue::UInt32(u32::try_from(ordinal).ok()));
            if self.row_id.is_some() {
                constants.push(ScalarValue::Int64(file.add.base_row_id));
            }
            file.constants = constants;
        }
        scan
    }

    /// The columns of the scan that these of ours are made of.
    fn scanned(&self, wanted: &[usize]) -> Result<Vec<usize>> {
        let (scanned, mut columns) = (self.scan.schema(), Vec::with_capacity(wanted.len()));
        let mut push = |name: &str| {
            let index = scanned.index_of(name)?;
            if !columns.contains(&index) {
                columns.push(index);
            }
            Ok::<_, DataFusionError>(())
        };
        let width = self.scan.layout.schema().fields().len();
        for index in wanted {
            match (self.schema.field(*index).name().as_str(), &self.row_id) {
                (ROW_ID, Some(column)) if *index >= width => {
                    push(column.name())?;
                    push(BASE_ROW_ID)?;
                    push(ROW)?;
                }
                (name, _) => push(name)?,
            }
        }
        Ok(columns)
    }

    /// One of our columns over the rows of the scan.
    fn column(&self, index: usize, rows: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
        let name = self.schema.field(index).name();
        let Some(kept) = self.row_id.as_ref().filter(|_| name == ROW_ID) else {
            return col(name, rows);
        };
        Ok(or_default(kept, first_id_and_position(rows)?, rows)?)
    }
}

/// The table's columns, then file and row, and the row's id if asked for.
pub(crate) fn address_schema(columns: &Schema, row_ids: bool) -> SchemaRef {
    let number = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
    let fields = columns.fields().iter().cloned();
    let fields = fields.chain([file_field(), number(ROW)]);
    let fields = fields.chain(row_ids.then(|| number(ROW_ID)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[async_trait]
impl TableProvider for TargetRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let scanned = self.scanned(&wanted)?;
        let scan = self.addressed();
        let rows = scan.plan(state, Some(&scanned), filters, limit).await?;
        if self.row_id.is_none() {
            return Ok(rows);
        }
        let columns = wanted.iter().map(|index| {
            let column = self.column(*index, &rows.schema())?;
            Ok((column, self.schema.field(*index).name().clone()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, rows)?))
    }
}

/// The source, whose physical plan DataFusion has made already.
#[derive(Debug)]
pub(crate) struct SourceRelation {
    plan: Arc<dyn ExecutionPlan>,
    keys: Option<Arc<KeyPruning>>,
}

impl SourceRelation {
    /// The source; `keys`, if given, are collected on the way.
    pub(crate) fn new(plan: Arc<dyn ExecutionPlan>, keys: Option<Arc<KeyPruning>>) -> Self {
        Self { plan, keys }
    }
}

#[async_trait]
impl TableProvider for SourceRelation {
    fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plan = Arc::clone(&self.plan);
        if let Some(keys) = &self.keys {
            plan = Arc::new(KeyCollectExec::new(plan, Arc::clone(keys)));
        }
        let Some(projection) = projection else {
            return Ok(plan);
        };
        let schema = plan.schema();
        let columns = projection.iter().map(|index| {
            let name = schema.field(*index).name();
            (
                Arc::new(Column::new(name, *index)) as Arc<dyn PhysicalExpr>,
                name.clone(),
            )
        });
        Ok(Arc::new(ProjectionExec::try_new(
            columns.collect::<Vec<_>>(),
            plan,
        )?))
    }
}
