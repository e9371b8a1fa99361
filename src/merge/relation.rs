//! The two relations that a MERGE joins, as tables that only its plan can see.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::key_collect::{KeyCollectExec, KeyPruning};
use super::row_format::{ROW, file_field};
use crate::delta::scan::DeltaScan;

/// The rows of the target with the address of each.
#[derive(Debug)]
pub(crate) struct TargetRelation {
    scan: DeltaScan,
    schema: SchemaRef,
}

impl TargetRelation {
    /// Adds file ordinal and row number to the scan.
    pub(crate) fn new(mut scan: DeltaScan) -> Self {
        scan.constants = vec![file_field()];
        scan.row_number = Some(ROW.into());
        for (ordinal, file) in scan.files.iter_mut().enumerate() {
            file.constants = vec![ScalarValue::UInt32(u32::try_from(ordinal).ok())];
        }
        Self {
            schema: scan.schema(),
            scan,
        }
    }
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
        Ok(self
            .scan
            .clone()
            .plan(state, projection, filters, limit)
            .await?)
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
