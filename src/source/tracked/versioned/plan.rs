//! The plans over the rows of a table with a version column.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{ScalarValue, TableReference, project_schema};
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ident, lit, when};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::column::VersionColumn;
use crate::change::{
    CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeRange, ChangeType, change_schema, fit,
    plan_inside, unqualified,
};
use crate::error::{Error, Result};
use crate::source::ChangeRead;
use crate::source::delta_feed::version_bounds;
use crate::source::tracked::VersionBounds;

/// What [`Rows::versions`] says of each version.
const REMARK: &str =
    "rows deleted without a mark cannot be seen here; SYNC … DETECT DELETES finds them";
const ROWS: &str = "__alluvial_rows";
const DELETES: &str = "__alluvial_deletes";

/// The rows of a table, and what they say of versions.
#[derive(Debug)]
pub(super) struct Rows {
    /// What messages call the table.
    pub name: String,
    pub table: Arc<dyn TableProvider>,
    pub version: VersionColumn,
    /// Holds for rows that are deleted.
    pub deleted: Option<Expr>,
}

impl Rows {
    /// The versions that the rows have.
    ///
    /// # Errors
    /// When a row has none, or one that cannot be.
    pub(super) async fn bounds(&self, state: &SessionState) -> Result<VersionBounds> {
        let version = self.version.value();
        // counts of rows and values, unlike one of NULLs, are known from statistics where there are any
        let found = vec![
            max(version.clone()),
            min(version.clone()),
            count(lit(1_i64)),
            count(version),
        ];
        let plan = self.scan()?.aggregate(Vec::<Expr>::new(), found)?.build()?;
        let plan = state.create_physical_plan(&plan).await?;
        let batches = collect(plan, state.task_ctx()).await?;
        let batch = batches.iter().find(|batch| batch.num_rows() == 1);
        let batch = batch.ok_or_else(|| Error::internal("an aggregate without a row"))?;
        let counted = |index: usize| batch.column(index).as_primitive::<Int64Type>().value(0);
        let missing = counted(2) - counted(3);
        if missing > 0 {
            return Err(self.version.is_null(usize::try_from(missing).unwrap_or(0)));
        }
        let version = |index: usize| -> Result<Option<i64>> {
            let value = ScalarValue::try_from_array(batch.column(index), 0)?;
            self.version.version_of(&value)
        };
        let (newest, oldest) = (version(0)?, version(1)?);
        if let Some(oldest) = oldest.filter(|oldest| *oldest < 0) {
            return Err(self.version.is_negative(oldest));
        }
        Ok(VersionBounds {
            // an empty table is at no version: the first row may have version 0
            current: newest.unwrap_or(-1),
            min_valid: -1,
            reaches_creation: true,
        })
    }

    /// Plans the rows whose version lies in the range, as changes.
    pub(super) async fn changes(
        &self,
        range: ChangeRange,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = change_schema(&self.name, &self.table.schema())?;
        let wanted = project_schema(&schema, read.projection)?;
        let (low, high) = version_bounds(read.filters);
        let since = range.since().max(low.saturating_sub(1));
        let until = range.until().min(high);
        let version = self.version.value();
        let mut filters = Vec::with_capacity(2);
        let mut has_rows = since < until;
        if since >= 0 {
            match self.version.value_of(since) {
                Some(value) => filters.push(version.clone().gt(lit(value))),
                None => has_rows = false,
            }
        }
        if !has_rows {
            return Ok(Arc::new(EmptyExec::new(wanted)));
        }
        let last = self.version.value_of(until);
        filters.extend(last.map(|value| version.lt_eq(lit(value))));
        let columns = wanted
            .fields()
            .iter()
            .map(|field| self.column(field.name()));
        let columns = columns.collect::<Result<Vec<Expr>>>()?;
        self.plan(filters, columns, wanted, read).await
    }

    /// Plans the rows as they are, in the schema with which the statement was planned.
    pub(super) async fn current(
        &self,
        planned: &SchemaRef,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = project_schema(planned, read.projection)?;
        let now = self.table.schema();
        let mut columns = Vec::with_capacity(wanted.fields().len());
        for field in wanted.fields() {
            let found = now.field_with_name(field.name());
            if !found.is_ok_and(|found| found.data_type() == field.data_type()) {
                return Err(Error::invalid(format!(
                    "column {:?} of {} was changed or dropped since the statement was planned; plan it again",
                    field.name(),
                    self.name
                )));
            }
            columns.push(ident(field.name()));
        }
        self.plan(vec![], columns, wanted, read).await
    }

    /// Plans the versions, with how many rows have each.
    pub(super) async fn versions(&self, read: &ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = project_schema(&versions_schema(), read.projection)?;
        let deletes = self.either(lit(1_i64), lit(0_i64))?;
        let counted = self.scan()?.aggregate(
            vec![self.version.value()],
            vec![count(lit(1_i64)).alias(ROWS), sum(deletes).alias(DELETES)],
        )?;
        let columns = wanted.fields().iter().map(|field| {
            let value = match field.name().as_str() {
                "version" => self.version.version(),
                "timestamp" => self.version.time(),
                "readable" => lit(true),
                "reason" => lit(ScalarValue::Utf8(None)),
                "rows" => ident(ROWS),
                "upserts" => ident(ROWS) - ident(DELETES),
                "deletes" => ident(DELETES),
                _ => lit(REMARK),
            };
            value.alias(field.name())
        });
        let columns = some(columns.collect());
        let plan = counted.project(columns)?.build()?;
        fit(plan_inside(read.state, &plan).await?, &wanted)
    }

    fn scan(&self) -> Result<LogicalPlanBuilder> {
        let table = provider_as_source(Arc::clone(&self.table));
        let name = TableReference::bare(self.name.as_str());
        Ok(LogicalPlanBuilder::scan(name, table, None)?)
    }

    /// Plans `columns` of the rows for which the filters hold, those of the read included, in the schema `wanted`.
    async fn plan(
        &self,
        filters: Vec<Expr>,
        columns: Vec<Expr>,
        wanted: SchemaRef,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut rows = self.scan()?;
        for filter in filters.into_iter().chain(self.own(read.filters)?) {
            rows = rows.filter(filter)?;
        }
        // some of the filters may hold above only, and for other rows than the first ones
        if let Some(limit) = read.limit.filter(|_| read.filters.is_empty()) {
            rows = rows.limit(0, Some(limit))?;
        }
        let plan = rows.project(some(columns))?.build()?;
        fit(plan_inside(read.state, &plan).await?, &wanted)
    }

    /// A column of the change relation.
    fn column(&self, name: &str) -> Result<Expr> {
        let value = match name {
            CHANGE_TYPE => self.either(
                lit(ChangeType::Delete.as_str()),
                lit(ChangeType::Upsert.as_str()),
            )?,
            COMMIT_VERSION => self.version.version(),
            COMMIT_TIMESTAMP => self.version.time(),
            own => return Ok(ident(own)),
        };
        Ok(value.alias(name))
    }

    /// One value for rows that are deleted, another one for all others.
    fn either(&self, deleted: Expr, there: Expr) -> Result<Expr> {
        match &self.deleted {
            Some(condition) => Ok(when(condition.clone().is_true(), deleted).otherwise(there)?),
            None => Ok(there),
        }
    }

    /// Those of the filters that are about the table's own columns and mean the same below.
    fn own(&self, filters: &[Expr]) -> Result<Vec<Expr>> {
        let schema = self.table.schema();
        let is_foreign = |node: &Expr| {
            Ok(match node {
                Expr::Column(column) => schema.field_with_name(&column.name).is_err(),
                Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(_, _)
                | Expr::Placeholder(_) => true,
                _ => false,
            })
        };
        let mut own = Vec::with_capacity(filters.len());
        for filter in filters {
            if !filter.is_volatile() && !filter.exists(is_foreign)? {
                own.push(unqualified(filter)?);
            }
        }
        Ok(own)
    }
}

/// What [`Rows::versions`] returns.
pub(super) fn versions_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("version", DataType::Int64, false),
        Field::new("timestamp", time, true),
        Field::new("readable", DataType::Boolean, false),
        Field::new("reason", DataType::Utf8, true),
        Field::new("rows", DataType::Int64, false),
        Field::new("upserts", DataType::Int64, true),
        Field::new("deletes", DataType::Int64, true),
        Field::new("remark", DataType::Utf8, false),
    ]))
}

/// The columns; any one where there is none, since a projection of nothing has rows all the same.
fn some(columns: Vec<Expr>) -> Vec<Expr> {
    match columns.is_empty() {
        true => vec![lit(true)],
        false => columns,
    }
}
