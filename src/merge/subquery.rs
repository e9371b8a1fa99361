//! Sub-queries of a MERGE: what DataFusion plans as a filter only becomes a column here.
//!
//! ```text
//!  EXISTS (q)        the mark of a join with q; without correlation count(q) > 0, which is evaluated once
//!  x IN (q)          CASE WHEN EXISTS (q, q.v = x) THEN TRUE
//!                         WHEN x IS NULL AND EXISTS (q) OR EXISTS (q, q.v IS NULL) THEN NULL ELSE FALSE END
//!  x < ANY (q), …    likewise; ALL looks for a row that is FALSE
//!  (q)               stays: DataFusion joins values in projections itself
//! ```
//!
//! A mark join keeps the rows of its left side as they are and adds whether a partner was found, so that any condition of ON, WHEN
//! and SET may be one. Sub-queries of ON are computed below the join that ON is for, on the side whose columns they use.

mod correlation;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ExprSchema, ScalarValue, TableReference};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::logical_plan::check_subquery_expr;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, FetchType, JoinType, Limit, LogicalPlan,
    LogicalPlanBuilder, Operator, SkipType, Subquery, binary_expr, exists, lit, not,
    scalar_subquery, when,
};

use self::correlation::{check_value, separate};
use crate::error::{Error, Result};

/// The column of a mark join that says whether there is a partner.
const MARK: &str = "mark";

/// Whether an expression has a sub-query of any kind.
pub(crate) fn has_subquery(expression: &Expr) -> bool {
    let is_one = |node: &Expr| Ok(subquery(node).is_some());
    expression.exists(is_one).unwrap_or(true)
}

/// Computes the sub-queries of ON on the side whose columns they use: gives the condition without them, target and source.
///
/// # Errors
/// [`Error::Invalid`] when one uses columns of both sides, or cannot be joined.
pub(super) fn hoist(
    on: Expr,
    target: LogicalPlan,
    source: LogicalPlan,
) -> Result<(Expr, LogicalPlan, LogicalPlan)> {
    let mut target = Lowering::new(target, "target");
    let mut source = Lowering::new(source, "source");
    let on = on.transform_down(|node| {
        if subquery(&node).is_none() {
            return Ok(Transformed::no(node));
        }
        let columns = outer_columns(&node)?;
        let of = |side: &Lowering| {
            let schema = side.plan.schema();
            columns.iter().any(|column| schema.has_column(column))
        };
        let hoisted = match (of(&target), of(&source)) {
            (true, true) => return Err(of_both_sides(&columns).into()),
            (true, false) => target.column(node)?,
            (false, true) => source.column(node)?,
            (false, false) => source.value(node)?,
        };
        Ok(Transformed::new(hoisted, true, TreeNodeRecursion::Jump))
    })?;
    Ok((on.data, target.finish(), source.finish()))
}

/// Replaces sub-queries in expressions over a plan by columns that it joins to the plan.
#[derive(Debug)]
pub(super) struct Lowering {
    plan: LogicalPlan,
    /// Tells the names of one plan from those of another.
    place: &'static str,
    named: usize,
}

impl Lowering {
    /// For expressions over `plan`; `place` is part of the names of what is added.
    pub(super) fn new(plan: LogicalPlan, place: &'static str) -> Self {
        Self {
            plan,
            place,
            named: 0,
        }
    }

    /// The plan with all that the expressions need.
    pub(super) fn finish(self) -> LogicalPlan {
        self.plan
    }

    /// The expression with columns for its sub-queries.
    pub(super) fn value(&mut self, expression: Expr) -> Result<Expr> {
        let lowered = expression.transform_down(|node| {
            Ok(match node {
                Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
                    let column = self.predicate(node, false)?;
                    Transformed::new(column, true, TreeNodeRecursion::Jump)
                }
                Expr::ScalarSubquery(value) => {
                    check_value(&value.subquery)?;
                    let value = Expr::ScalarSubquery(value);
                    Transformed::new(value, false, TreeNodeRecursion::Jump)
                }
                node => Transformed::no(node),
            })
        })?;
        Ok(lowered.data)
    }

    /// As [`Self::value`], of a condition that is as good as FALSE where it is NULL.
    pub(super) fn condition(&mut self, expression: Expr) -> Result<Expr> {
        match expression {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, Operator::And | Operator::Or) =>
            {
                let left = self.condition(*left)?;
                Ok(binary_expr(left, op, self.condition(*right)?))
            }
            Expr::InSubquery(InSubquery { negated: false, .. }) | Expr::SetComparison(_) => {
                self.predicate(expression, true)
            }
            other => self.value(other),
        }
    }

    /// Has the plan compute the expression and gives the column.
    fn column(&mut self, expression: Expr) -> Result<Expr> {
        let value = self.value(expression)?;
        let name = self.next_name();
        let columns = self.plan.schema().columns().into_iter().map(Expr::from);
        let columns = columns.chain([value.alias(&name)]).collect::<Vec<_>>();
        self.plan = LogicalPlanBuilder::from(self.plan.clone())
            .project(columns)?
            .build()?;
        Ok(Expr::Column(Column::new_unqualified(name)))
    }

    fn next_name(&mut self) -> String {
        self.named += 1;
        format!("__alluvial_{}_{}", self.place, self.named)
    }

    /// A sub-query that is a condition; `only_true`: NULL may be FALSE.
    fn predicate(&mut self, node: Expr, only_true: bool) -> Result<Expr> {
        match node {
            Expr::Exists(Exists { subquery, negated }) => {
                let found = self.exists(Arc::unwrap_or_clone(subquery.subquery))?;
                Ok(if negated { not(found) } else { found })
            }
            Expr::InSubquery(InSubquery {
                expr,
                subquery,
                negated,
            }) => {
                let compared = SetComparison::new(expr, subquery, Operator::Eq, SetQuantifier::Any);
                let found = self.comparison(compared, only_true)?;
                Ok(if negated { not(found) } else { found })
            }
            Expr::SetComparison(compared) => self.comparison(compared, only_true),
            other => Ok(other),
        }
    }

    /// A comparison with the values of a sub-query, in three-valued logic.
    fn comparison(&mut self, compared: SetComparison, only_true: bool) -> Result<Expr> {
        let SetComparison {
            expr,
            subquery,
            op,
            quantifier,
        } = compared;
        let query = Arc::unwrap_or_clone(subquery.subquery);
        if is_single_row(&query) {
            return self.value(binary_expr(*expr, op, scalar_subquery(Arc::new(query))));
        }
        let operand = self.operand(*expr)?;
        let value = Expr::Column(Column::from(query.schema().qualified_field(0)));
        let decides = binary_expr(self.outside(&operand)?, op, value.clone());
        // one row that is TRUE decides ANY, one that is FALSE decides ALL
        let (decides, answer) = match (quantifier, op.negate()) {
            (SetQuantifier::Any, _) => (decides, true),
            (SetQuantifier::All, Some(negated)) => {
                let outside = self.outside(&operand)?;
                (binary_expr(outside, negated, value.clone()), false)
            }
            (SetQuantifier::All, None) => (not(decides), false),
        };
        let mut unknown = Vec::new();
        if !(only_true && answer) {
            if operand.nullable(self.plan.schema().as_ref())? {
                let any = self.exists(query.clone())?;
                unknown.push(operand.is_null().and(any));
            }
            if value.nullable(query.schema().as_ref())? {
                unknown.push(self.exists(filtered(query.clone(), value.is_null())?)?);
            }
        }
        let decided = self.exists(filtered(query, decides)?)?;
        let Some(unknown) = unknown.into_iter().reduce(Expr::or) else {
            return Ok(if answer { decided } else { not(decided) });
        };
        let null = lit(ScalarValue::Boolean(None));
        let mut cases = when(decided, lit(answer));
        Ok(cases.when(unknown, null).otherwise(lit(!answer))?)
    }

    /// The left side of a comparison as a column or a constant: what a sub-query can refer to.
    fn operand(&mut self, expression: Expr) -> Result<Expr> {
        match expression {
            Expr::Column(_) | Expr::Literal(..) => Ok(expression),
            other => self.column(other),
        }
    }

    /// The operand as a sub-query sees it.
    fn outside(&self, operand: &Expr) -> Result<Expr> {
        let Expr::Column(column) = operand else {
            return Ok(operand.clone());
        };
        let field = self.plan.schema().field_from_column(column)?;
        Ok(Expr::OuterReferenceColumn(
            Arc::clone(field),
            column.clone(),
        ))
    }

    /// Whether the query has a row; never NULL.
    fn exists(&mut self, query: LogicalPlan) -> Result<Expr> {
        let query = rows_of(query)?;
        if is_single_row(&query) {
            return Ok(lit(true));
        }
        if query.all_out_ref_exprs().is_empty() {
            return any_row(query);
        }
        check_subquery_expr(&self.plan, &query, &exists(Arc::new(query.clone())))?;
        let name = TableReference::bare(self.next_name());
        let separated = separate(query, &name)?;
        let found = if separated.joined.is_empty() {
            any_row(separated.rows)?
        } else {
            self.plan = LogicalPlanBuilder::from(self.plan.clone())
                .join_on(separated.rows, JoinType::LeftMark, separated.joined)?
                .build()?;
            Expr::Column(Column::new(Some(name), MARK))
        };
        let outer = separated.outer.into_iter();
        Ok(outer.fold(found, |found, condition| found.and(condition.is_true())))
    }
}

/// The sub-query that a node is, if it is one.
fn subquery(node: &Expr) -> Option<&Subquery> {
    match node {
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(compared) => Some(&compared.subquery),
        Expr::SetComparison(compared) => Some(&compared.subquery),
        Expr::ScalarSubquery(value) => Some(value),
        _ => None,
    }
}

/// The columns that a sub-query uses of the relation that it is about, with those that are compared with it.
pub(super) fn outer_columns(node: &Expr) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    node.apply(|part| {
        if let Expr::Column(column) = part {
            columns.push(column.clone());
        }
        let query = subquery(part).map(|query| &query.subquery);
        let outer = query.map(|query| query.all_out_ref_exprs());
        for reference in outer.into_iter().flatten() {
            if let Expr::OuterReferenceColumn(_, column) = reference {
                columns.push(column);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

fn of_both_sides(columns: &[Column]) -> Error {
    let columns: Vec<String> = columns.iter().map(Column::flat_name).collect();
    Error::invalid(format!(
        "ON of the MERGE has a sub-query on columns of both sides ({}), which would have to be asked for every pair of rows; ask it in the clauses \
         (WHEN MATCHED AND …), or look its rows up in the source and compare them: USING (SELECT s.*, d.a FROM s JOIN d ON …) AS s ON t.a = s.a",
        columns.join(", ")
    ))
}

/// The query without what changes neither whether it has a row nor its filters.
fn rows_of(mut query: LogicalPlan) -> Result<LogicalPlan> {
    loop {
        query = match query {
            LogicalPlan::Projection(projection) => Arc::unwrap_or_clone(projection.input),
            LogicalPlan::SubqueryAlias(alias) => Arc::unwrap_or_clone(alias.input),
            LogicalPlan::Distinct(Distinct::All(input)) => Arc::unwrap_or_clone(input),
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => Arc::unwrap_or_clone(sort.input),
            LogicalPlan::Limit(limit) if keeps_first(&limit)? => Arc::unwrap_or_clone(limit.input),
            other => return Ok(other),
        };
    }
}

/// Whether a limit keeps the first row.
fn keeps_first(limit: &Limit) -> Result<bool> {
    let skips_none = matches!(limit.get_skip_type()?, SkipType::Literal(0));
    let fetches_none = matches!(
        limit.get_fetch_type()?,
        FetchType::Literal(Some(0)) | FetchType::UnsupportedExpr
    );
    Ok(skips_none && !fetches_none)
}

/// Whether the query is an aggregate of all rows, which has one row whatever there is.
fn is_single_row(query: &LogicalPlan) -> bool {
    match query {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => is_single_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_single_row(&alias.input),
        _ => false,
    }
}

fn filtered(query: LogicalPlan, filter: Expr) -> Result<LogicalPlan> {
    Ok(LogicalPlanBuilder::from(query).filter(filter)?.build()?)
}

/// Whether a query that is not correlated has a row; it is asked once.
fn any_row(query: LogicalPlan) -> Result<Expr> {
    let counted = LogicalPlanBuilder::from(query)
        .limit(0, Some(1))?
        .aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64))])?
        .build()?;
    Ok(scalar_subquery(Arc::new(counted)).gt(lit(0_i64)))
}

#[cfg(test)]
mod tests;
