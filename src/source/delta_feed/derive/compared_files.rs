//! The rows that some commits took away and brought, as a table that only the plans of derived changes can see.
//!
//! One scan reads both sides of all commits: what tells them apart is constant in each file.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ScalarValue, TableReference, project_schema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Expr, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, ident, when,
};
use datafusion::physical_plan::ExecutionPlan;

use super::Batch;
use super::compare::{ROW_ID, SIDE, VERSION, column_name};
use crate::change::{COMMIT_VERSION, fit};
use crate::delta::DeltaTable;
use crate::delta::actions::Add;
use crate::delta::layout::TableLayout;
use crate::delta::scan::{DeltaScan, RowMask, ScanFile};
use crate::error::Result;

/// The id of the first row of a file, and the position of a row in its file.
const BASE_ROW_ID: &str = "__alluvial_base_row_id";
const ROW_NUMBER: &str = "__alluvial_row_number";

/// The files of some commits.
#[derive(Debug)]
pub(super) struct ComparedFiles {
    scan: DeltaScan,
    schema: SchemaRef,
    row_ids: Option<String>,
}

impl ComparedFiles {
    /// The files of `batch`, with the columns of `layout`.
    pub(super) fn new(table: &DeltaTable, layout: &Arc<TableLayout>, batch: Batch) -> Self {
        let row_ids = batch.row_ids;
        let has_ids = row_ids.is_some();
        let mut files = Vec::new();
        for commit in batch.commits {
            let version = commit.version;
            let removed = commit.removed.into_iter().map(|file| (file, -1));
            let added = commit.added.into_iter().map(|file| (file, 1));
            files.extend(
                removed
                    .chain(added)
                    .map(|(file, side)| scan_file(file, version, side, has_ids)),
            );
        }
        let mut scan = DeltaScan::new(table, layout, files);
        scan.constants = vec![number(COMMIT_VERSION, false), number(SIDE, false)];
        if let Some(materialised) = &row_ids {
            scan.constants.push(number(BASE_ROW_ID, true));
            scan.file_columns = vec![number(materialised, true)];
            scan.row_number = Some(ROW_NUMBER.into());
        }
        Self {
            schema: scan.schema(),
            scan,
            row_ids,
        }
    }

    /// The rows for which the filters hold, as [`compare`](super::compare::compare) takes them.
    pub(super) fn rows(self, filters: Vec<Expr>) -> Result<LogicalPlanBuilder> {
        let own = self.scan.layout.schema().fields().iter().enumerate();
        let own = own.map(|(index, field)| ident(field.name()).alias(column_name(index)));
        let head = [
            ident(COMMIT_VERSION).alias(VERSION),
            ident(SIDE).alias(SIDE),
        ];
        let mut columns: Vec<Expr> = head.into_iter().chain(own).collect();
        if let Some(materialised) = &self.row_ids {
            // rows that have moved keep their id in the file; the others have that of their place (*Row IDs*)
            let of_place = ident(BASE_ROW_ID) + ident(ROW_NUMBER);
            let id =
                when(ident(materialised).is_not_null(), ident(materialised)).otherwise(of_place)?;
            columns.push(id.alias(ROW_ID));
        }
        let source = provider_as_source(Arc::new(self));
        let mut rows = LogicalPlanBuilder::scan(TableReference::bare("files"), source, None)?;
        for filter in filters {
            rows = rows.filter(filter)?;
        }
        Ok(rows.project(columns)?)
    }
}

fn number(name: &str, nullable: bool) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int64, nullable))
}

fn scan_file((add, rows): (Add, RowMask), version: i64, side: i64, has_ids: bool) -> ScanFile {
    let mut constants = vec![ScalarValue::from(version), ScalarValue::from(side)];
    if has_ids {
        constants.push(ScalarValue::Int64(add.base_row_id));
    }
    ScanFile {
        add: Arc::new(add),
        rows,
        constants,
    }
}

#[async_trait]
impl TableProvider for ComparedFiles {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wanted = project_schema(&self.schema, projection)?;
        let scan = self.scan.clone();
        let plan = scan.plan(state, projection, filters, limit).await?;
        Ok(fit(plan, &wanted)?)
    }
}
