//! The change relation of a source, with the bounds that a statement gives.
//!
//! Bounds that are constants are checked when the statement is planned. Parameters of a prepared statement are not known then:
//! they travel as filters made of [`super::functions::bound`] and are checked when the scan is planned. The upper bound, where
//! none is given, is the version that is current at that moment, so that a view reads on and a query reads one version.
//!
//! Of `"t$changes"` the bounds are what filters on `_commit_version` and `_commit_timestamp` leave, see [`FilterRange`]. They choose
//! commits; the columns are always those of the current version.

mod filter_range;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ScalarValue, project_schema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, ident, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;

pub(super) use self::filter_range::FilterRange;
use super::arguments::{as_typed, bound_of, merge_bounds};
use super::functions::as_bound;
use crate::change::{Bound, COMMIT_VERSION, ChangeBounds, ChangeRange};
use crate::error::Error;
use crate::source::{ChangeRead, ChangeSource};

/// The changes of a source as a table.
#[derive(Debug, Clone)]
pub(crate) struct ChangesTable {
    source: Arc<dyn ChangeSource>,
    schema: SchemaRef,
    /// The bounds, as far as they were constants.
    bounds: ChangeBounds,
    /// Who bounds them further.
    bounded_by: BoundedBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BoundedBy {
    /// The arguments of a call: a bound that cannot be kept is an error.
    Arguments,
    /// Conditions on the columns of the change: they leave what there is of it, or nothing.
    Filters,
}

impl ChangesTable {
    /// The changes of `source` between `bounds`, with the schema they have now.
    pub(crate) fn new(
        source: Arc<dyn ChangeSource>,
        schema: SchemaRef,
        bounds: ChangeBounds,
    ) -> Self {
        Self {
            source,
            schema,
            bounds,
            bounded_by: BoundedBy::Arguments,
        }
    }

    /// The changes of `source` that filters ask for, with the schema they have now.
    pub(crate) fn by_filters(source: Arc<dyn ChangeSource>, schema: SchemaRef) -> Self {
        Self {
            source,
            schema,
            bounds: open_bounds(),
            bounded_by: BoundedBy::Filters,
        }
    }

    /// Whose changes they are.
    pub(crate) fn source(&self) -> Arc<dyn ChangeSource> {
        Arc::clone(&self.source)
    }

    /// The bounds, as far as they were constants.
    pub(crate) fn bounds_given(&self) -> ChangeBounds {
        self.bounds.clone()
    }

    /// The same changes within other bounds.
    pub(crate) fn with_bounds(&self, bounds: ChangeBounds) -> Self {
        Self {
            bounds,
            ..self.clone()
        }
    }

    /// What is to be read; `None` if the filters leave nothing of it.
    async fn reading(
        &self,
        source: &dyn ChangeSource,
        filters: &[Expr],
    ) -> crate::Result<Option<Reading>> {
        let (range, last) = match self.bounded_by {
            BoundedBy::Arguments => {
                let bounds = with_parameters(&self.bounds, filters)?;
                let range = source.resolve(&bounds).await;
                let late = filters.iter().filter_map(as_bound).map(|(kind, ..)| kind);
                (range.map_err(|error| as_typed(error, late))?, None)
            }
            BoundedBy::Filters => {
                let left = FilterRange::of(filters).resolve(source, &self.bounds).await;
                let Some(left) = left.map_err(|error| self.explained(error))? else {
                    return Ok(None);
                };
                let ends_earlier = left.until < left.range.until();
                (left.range, ends_earlier.then_some(left.until))
            }
        };
        Ok(Some(Reading {
            range,
            schema: source.schema(Some(range.until())).await?,
            last,
        }))
    }

    /// Who reads all changes there ever were by a name alone has not been told how to ask for fewer.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::ChangesExpired {
                table,
                requested,
                oldest,
                current,
                reason,
            } if self.bounded_by == BoundedBy::Filters && oldest.parse::<i64>().is_ok() => {
                Error::ChangesExpired {
                    reason: format!(
                        "{reason} (a query with WHERE _commit_version > {oldest} reads what is left)"
                    ),
                    table,
                    requested,
                    oldest,
                    current,
                }
            }
            other => other,
        }
    }
}

/// Bounds, and those of them that have come as filters.
pub(super) fn with_parameters(
    bounds: &ChangeBounds,
    filters: &[Expr],
) -> crate::Result<ChangeBounds> {
    let mut bounds = bounds.clone();
    for (kind, unit, value) in filters.iter().filter_map(as_bound) {
        let Expr::Literal(value, _) = value else {
            return Err(Error::invalid(format!(
                "a bound of table_changes must be a constant or a parameter with a value, not {value}"
            )));
        };
        merge_bounds(&mut bounds, kind, bound_of(&value, unit)?)?;
    }
    Ok(bounds)
}

#[async_trait]
impl TableProvider for ChangesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            if as_bound(filter).is_some() {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Inexact
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let at_once = self.source.at_once();
        let source = at_once.unwrap_or_else(|| Arc::clone(&self.source));
        let Some(Reading {
            range,
            schema: now,
            last,
        }) = self.reading(source.as_ref(), filters).await?
        else {
            let nothing = project_schema(&self.schema, projection)?;
            return Ok(Arc::new(EmptyExec::new(nothing)));
        };
        let is_current = now == self.schema;
        // conditions on columns that have another type by now, or are gone, mean nothing to the source
        let mut filters: Vec<Expr> = filters
            .iter()
            .filter(|filter| is_current && as_bound(filter).is_none())
            .cloned()
            .collect();
        filters.extend(last.map(|last| ident(COMMIT_VERSION).lt_eq(lit(last))));
        let planned: Vec<usize> = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        if is_current {
            let read = ChangeRead {
                state,
                projection: Some(&planned),
                filters: &filters,
                limit,
            };
            let changes = source.changes(range, read).await;
            return Ok(changes.map_err(|error| self.explained(error))?);
        }
        let (indices, expressions) = carry_over(&self.schema, &now, &planned)?;
        let read = ChangeRead {
            state,
            projection: Some(&indices),
            filters: &filters,
            limit,
        };
        let changes = source.changes(range, read).await;
        let plan = changes.map_err(|error| self.explained(error))?;
        Ok(Arc::new(ProjectionExec::try_new(expressions, plan)?))
    }
}

/// What is to be read of a source.
struct Reading {
    range: ChangeRange,
    /// The columns that its rows have by now.
    schema: SchemaRef,
    /// The last version that filters let through, where the range goes on.
    last: Option<i64>,
}

type Named = (Arc<dyn PhysicalExpr>, String);

/// Reads the planned columns out of the schema that the range has by now: by name, NULL where a column is gone.
fn carry_over(
    planned: &SchemaRef,
    now: &SchemaRef,
    wanted: &[usize],
) -> crate::Result<(Vec<usize>, Vec<Named>)> {
    let (mut indices, mut expressions) = (Vec::new(), Vec::new());
    for index in wanted {
        let field = planned.field(*index);
        let expression: Arc<dyn PhysicalExpr> = match now.index_of(field.name()) {
            Ok(found) => {
                indices.push(found);
                let column: Arc<dyn PhysicalExpr> =
                    Arc::new(Column::new(field.name(), indices.len() - 1));
                if now.field(found).data_type() == field.data_type() {
                    column
                } else {
                    Arc::new(CastExpr::new(column, field.data_type().clone(), None))
                }
            }
            Err(_) => {
                let null = ScalarValue::try_from(field.data_type())?;
                Arc::new(Literal::new(null))
            }
        };
        expressions.push((expression, field.name().clone()));
    }
    Ok((indices, expressions))
}

/// Bounds that say nothing: everything that can be known is still to come as filters.
pub(crate) fn open_bounds() -> ChangeBounds {
    ChangeBounds {
        since: Bound::Beginning,
        until: None,
    }
}
