//! The current state of a source that has changes only: the latest change of each key, deletes applied.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::catalog::Session;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast, ident, lit, when};
use datafusion::physical_expr::expressions::{Column, InListExpr, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::event::{CARRIED, END, EventLayout, OP, ORDINAL, Op, SEQUENCE, VERSION};
use super::relation::{Read, SourceRelation};
use super::resolve_exec::{Resolution, ResolveChangesExec};
use crate::change::{
    Bound, CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_VERSION, ChangeBounds, ChangeRange,
    ChangeType, unqualified,
};
use crate::error::{Error, Result};
use crate::source::ChangeSource;

/// The state of a source.
pub(crate) struct CurrentRows<'a> {
    pub source: Arc<dyn ChangeSource>,
    /// Its own columns, as the plan is to have them.
    pub columns: &'a SchemaRef,
}

impl CurrentRows<'_> {
    /// Plans the state as of now; `projection` and `filters` are over the source's own columns.
    ///
    /// # Errors
    /// When the source has no key, or its changes cannot be read from the first on.
    pub(crate) async fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = self.source.primary_key().await?;
        if keys.is_empty() {
            return Err(Error::invalid(format!(
                "{} has no key, so nobody knows which of its changes are about the same row; give CREATE EXTERNAL TABLE the option key 'id', or \
                 read all changes with table_changes('{}', 0)",
                self.source.name(),
                self.source.name()
            )));
        }
        let bounds = ChangeBounds {
            since: Bound::Beginning,
            until: None,
        };
        let range = self.source.resolve(&bounds).await?;
        let wanted: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.columns.fields().len()).collect(),
        };
        let layout = Arc::new(self.layout(&wanted, &keys, range).await?);
        let events = self.events(state, &layout, range, &keys, filters).await?;
        let latest = ResolveChangesExec::new(events, Arc::clone(&layout), Resolution::Latest);
        rows(Arc::new(latest), &layout, self.columns, &wanted)
    }

    async fn layout(
        &self,
        wanted: &[usize],
        keys: &[String],
        range: ChangeRange,
    ) -> Result<EventLayout> {
        let fields = self.columns.fields();
        let is_wanted = |(index, field): &(usize, &FieldRef)| {
            wanted.contains(index) || keys.contains(field.name())
        };
        let columns = fields.iter().enumerate().filter(is_wanted);
        let columns: Vec<FieldRef> = columns.map(|(_, field)| Arc::clone(field)).collect();
        let position = |key: &String| columns.iter().position(|field| field.name() == key);
        let sequence = match self.source.sequence() {
            Some(name) => self.columns.field_with_name(name)?.data_type().clone(),
            None => DataType::Int64,
        };
        let absent = self.source.absent_columns(range).await?;
        Ok(EventLayout {
            keys: keys.iter().filter_map(position).collect(),
            ignore_null: vec![false; columns.len()],
            tracked: vec![false; columns.len()],
            may_lack: columns
                .iter()
                .map(|field| absent.contains(field.name()))
                .collect(),
            refuses_ties: self.source.sequence().is_some() && self.source.refuses_ties(),
            checked: true,
            sequence,
            columns,
        })
    }

    async fn events(
        &self,
        state: &dyn Session,
        layout: &EventLayout,
        range: ChangeRange,
        keys: &[String],
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.source.schema(Some(range.until())).await?;
        let read = Read::Changes(range);
        let relation = SourceRelation::new(Arc::clone(&self.source), read, schema);
        let provider = provider_as_source(Arc::new(relation));
        let mut plan = LogicalPlanBuilder::scan("changes", provider, None)?;
        // a filter on anything but the key would hide the change that counts
        let of_key = |filter: &&Expr| {
            let mut columns = filter.column_refs().into_iter();
            columns.all(|column| keys.contains(&column.name))
        };
        for filter in filters.iter().filter(of_key) {
            plan = plan.filter(unqualified(filter)?)?;
        }
        let is_delete = ident(CHANGE_TYPE).eq(lit(ChangeType::Delete.as_str()));
        let op = when(is_delete, Op::Delete.literal()).otherwise(Op::Upsert.literal())?;
        let sequence = self.source.sequence().unwrap_or(COMMIT_VERSION);
        let columns = layout.columns.iter().map(|field| ident(field.name()));
        let mut events: Vec<Expr> = columns.collect();
        events.extend([
            op.alias(OP),
            ident(sequence).alias(SEQUENCE),
            cast(
                lit(datafusion::common::ScalarValue::Null),
                layout.sequence.clone(),
            )
            .alias(END),
            ident(COMMIT_VERSION).alias(VERSION),
            ident(CHANGE_ORDINAL).alias(ORDINAL),
        ]);
        if layout.carried().is_some() {
            events.push(ident(CHANGED_COLUMNS).alias(CARRIED));
        }
        let plan = plan.project(events)?.build()?;
        Ok(state.create_physical_plan(&plan).await?)
    }
}

/// The rows that are written and not deleted, with the wanted columns.
fn rows(
    latest: Arc<dyn ExecutionPlan>,
    layout: &EventLayout,
    columns: &SchemaRef,
    wanted: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let op = Arc::new(Column::new(OP, layout.op()));
    let written = [Op::Upsert, Op::Replace].map(|op| {
        let value = datafusion::common::ScalarValue::Int8(Some(op as i8));
        Arc::new(Literal::new(value)) as _
    });
    let schema = latest.schema();
    let is_written = InListExpr::try_new(op, written.to_vec(), false, &schema)?;
    let filtered = FilterExec::try_new(Arc::new(is_written), latest)?;
    let projected = wanted.iter().map(|index| {
        let name = columns.field(*index).name();
        let position = schema.index_of(name)?;
        let column: Arc<dyn datafusion::physical_expr::PhysicalExpr> =
            Arc::new(Column::new(name, position));
        Ok((column, name.clone()))
    });
    let projected = projected.collect::<Result<Vec<_>, arrow::error::ArrowError>>()?;
    Ok(Arc::new(ProjectionExec::try_new(
        projected,
        Arc::new(filtered),
    )?))
}
