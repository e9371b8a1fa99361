//! Takes the correlation out of a sub-query: what its filters compare with columns of outside becomes a condition of a join.
//!
//! DataFusion finds and pulls up these filters, by the names of their columns. A name may mean one thing inside and another outside
//! (`t.id IN (SELECT t.id FROM t)`), so the outer columns get names of their own meanwhile.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use super::has_subquery;
use crate::error::{Error, Result};

/// What the outer columns are called while filters are pulled up; their number follows.
const OUTER: &str = "__alluvial_outer_";

/// A query without its correlation.
#[derive(Debug)]
pub(super) struct Separated {
    /// The rows; where there are conditions of them, only the columns that those compare.
    pub rows: LogicalPlan,
    /// Conditions of rows and outer columns.
    pub joined: Vec<Expr>,
    /// Conditions of outer columns alone.
    pub outer: Vec<Expr>,
}

/// Takes the correlation out of `query`, whose rows are called `name` in the conditions.
///
/// # Errors
/// [`Error::Invalid`] where the outer columns are used elsewhere than in filters that can be pulled up.
pub(super) fn separate(query: LogicalPlan, name: &TableReference) -> Result<Separated> {
    let (query, outer) = mark_outer(query)?;
    let mut correlation = PullUpCorrelatedExpr::new();
    let rows = query.rewrite(&mut correlation)?.data;
    let filters = correlation.join_filters;
    if !correlation.can_pull_up
        || correlation.pulled_up_scalar_agg
        || filters.iter().any(has_subquery)
    {
        return Err(inseparable(&outer));
    }
    let mut inner: Vec<Column> = Vec::new();
    let mut separated = Separated {
        rows: rows.clone(),
        joined: vec![],
        outer: vec![],
    };
    for filter in filters {
        let mut of_rows = false;
        let filter = filter.transform_up(|node| {
            let Expr::Column(column) = node else {
                return Ok(Transformed::no(node));
            };
            if let Some(column) = marked(&column, &outer) {
                return Ok(Transformed::yes(Expr::Column(column.clone())));
            }
            of_rows = true;
            let column = find(rows.schema(), &column).ok_or_else(|| inseparable(&outer))?;
            let known = inner.iter().position(|known| *known == column);
            let index = known.unwrap_or_else(|| {
                inner.push(column);
                inner.len() - 1
            });
            let column = Column::new(Some(name.clone()), inner_name(index));
            Ok(Transformed::yes(Expr::Column(column)))
        })?;
        if of_rows {
            separated.joined.push(filter.data);
        } else {
            separated.outer.push(filter.data);
        }
    }
    if !inner.is_empty() {
        let columns = inner.into_iter().enumerate();
        let columns = columns.map(|(index, column)| Expr::Column(column).alias(inner_name(index)));
        separated.rows = LogicalPlanBuilder::from(rows)
            .project(columns)?
            .alias(name.clone())?
            .build()?;
    }
    Ok(separated)
}

/// Checks that DataFusion can join a sub-query that yields a value.
///
/// # Errors
/// [`Error::Invalid`] where it is correlated by anything but equality.
pub(super) fn check_value(query: &LogicalPlan) -> Result<()> {
    let (query, outer) = mark_outer(query.clone())?;
    if outer.is_empty() {
        return Ok(());
    }
    let mut correlation = PullUpCorrelatedExpr::new().with_need_handle_count_bug(true);
    query.rewrite(&mut correlation)?;
    if correlation.can_pull_up {
        return Ok(());
    }
    let columns = names(&outer);
    Err(Error::invalid(format!(
        "a sub-query of the MERGE yields a value by {columns}, which it may only compare with = in its WHERE clause, without LIMIT; \
         compute the value in the source: USING (SELECT s.*, max(d.v) AS v FROM s LEFT JOIN d ON … GROUP BY …) AS s"
    )))
}

/// The query with numbered names for the outer columns, and these.
fn mark_outer(query: LogicalPlan) -> Result<(LogicalPlan, Vec<Column>)> {
    let mut outer: Vec<Column> = Vec::new();
    let marked = query.transform_up(|node| {
        node.map_expressions(|expression| {
            expression.transform_up(|part| {
                let Expr::OuterReferenceColumn(field, column) = part else {
                    return Ok(Transformed::no(part));
                };
                let known = outer.iter().position(|known| *known == column);
                let index = known.unwrap_or_else(|| {
                    outer.push(column);
                    outer.len() - 1
                });
                let column = Column::new_unqualified(format!("{OUTER}{index}"));
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            })
        })
    })?;
    Ok((marked.data, outer))
}

/// The outer column that a numbered name stands for.
fn marked<'a>(column: &Column, outer: &'a [Column]) -> Option<&'a Column> {
    let number = column.name.strip_prefix(OUTER)?;
    outer.get(number.parse::<usize>().ok()?)
}

/// The column as the rows have it, which may have got another qualifier on its way up.
fn find(rows: &DFSchema, column: &Column) -> Option<Column> {
    if let Some(index) = rows.maybe_index_of_column(column) {
        return Some(Column::from(rows.qualified_field(index)));
    }
    match rows
        .qualified_fields_with_unqualified_name(&column.name)
        .as_slice()
    {
        [only] => Some(Column::from(*only)),
        _ => None,
    }
}

fn inner_name(index: usize) -> String {
    format!("c{index}")
}

fn names(columns: &[Column]) -> String {
    let names: Vec<String> = columns.iter().map(Column::flat_name).collect();
    names.join(", ")
}

fn inseparable(outer: &[Column]) -> Error {
    let columns = names(outer);
    Error::invalid(format!(
        "a sub-query of the MERGE uses {columns} in a way that cannot be turned into a join; use outer columns only in its WHERE clause, below no \
         LIMIT, UNION, window or aggregate without GROUP BY, or look its rows up in the source: USING (SELECT s.*, d.v FROM s LEFT JOIN d ON …) AS s"
    ))
}
