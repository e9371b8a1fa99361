//! The rows of one dump as a table that only the plans of snapshots can see.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::keys_exec::{KeysExec, KeysOf};
use crate::error::Result;
use crate::source::ChangeRead;
use crate::source::files::FilesNow;

/// What can be read of a dump.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub now: Arc<FilesNow>,
    /// What messages call the table and the dump.
    pub of: KeysOf,
    /// The versions of its files.
    pub versions: Vec<i64>,
    /// Positions among the columns of all files of those that the dump has, in ascending order.
    pub present: Vec<usize>,
    /// The positions of the key's columns.
    pub keys: Vec<usize>,
}

impl Content {
    /// Whether the dump has the column at a position.
    pub(super) fn has(&self, index: usize) -> bool {
        self.present.binary_search(&index).is_ok()
    }

    /// The position of a column that the dump has.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let index = self.now.held().index_of(name).ok();
        index.filter(|index| self.has(*index))
    }

    /// The columns that the dump has, with their positions.
    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, &FieldRef)> {
        let fields = self.now.held().fields();
        self.present.iter().map(|index| (*index, &fields[*index]))
    }
}

/// The rows of a dump: the columns that it has, and no others.
#[derive(Debug)]
pub(super) struct DumpTable {
    content: Content,
    checked: bool,
    schema: SchemaRef,
}

impl DumpTable {
    /// The rows of `content`; if it is to be `checked`, a key that is there twice ends the read.
    pub(super) fn new(content: Content, checked: bool) -> Self {
        let fields = content.columns().map(|(_, field)| Arc::clone(field));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self {
            content,
            checked,
            schema,
        }
    }

    /// With the check of its keys, which stand at the end of `read` where nobody else wants them.
    fn check(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        read: &[usize],
        state: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let content = &self.content;
        let keys = content.keys.iter();
        let keys = keys.filter_map(|key| read.iter().position(|index| index == key));
        let again = ChangeRead {
            state,
            projection: Some(&content.keys),
            filters: &[],
            limit: None,
        };
        let again = content.now.scan(&content.versions, &again)?;
        let of = content.of.clone();
        Ok(Arc::new(KeysExec::new(plan, keys.collect(), again, of)))
    }
}

#[async_trait]
impl TableProvider for DumpTable {
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
        let content = &self.content;
        let mut read: Vec<usize> = match projection {
            Some(projection) => projection.iter().map(|own| content.present[*own]).collect(),
            None => content.present.clone(),
        };
        let width = read.len();
        if self.checked {
            let keys = content.keys.iter().filter(|key| !read.contains(key));
            let keys: Vec<usize> = keys.copied().collect();
            read.extend(keys);
        }
        let wanted = ChangeRead {
            state,
            projection: Some(&read),
            filters,
            limit,
        };
        let plan = content.now.scan(&content.versions, &wanted)?;
        if !self.checked {
            return Ok(plan);
        }
        let checked = self.check(plan, &read, state)?;
        first_columns(checked, width)
    }
}

/// Without the columns after the first `width`.
fn first_columns(
    plan: Arc<dyn ExecutionPlan>,
    width: usize,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    if schema.fields().len() == width {
        return Ok(plan);
    }
    let kept = schema.fields().iter().take(width).enumerate();
    let kept = kept.map(|(index, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        (column, field.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(
        kept.collect::<Vec<_>>(),
        plan,
    )?))
}
