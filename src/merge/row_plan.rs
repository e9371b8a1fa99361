//! The logical plan of a MERGE's row changes: one join, one clause number for each row, and the new values by it.
//!
//! ```text
//!  Projection   action, file, row, new values [, old values]
//!   └ Projection   new and old values by the clause number
//!     └ Filter       rows that a clause applies to, or that may not be matched twice
//!       └ Projection   the clause number, computed once
//!         └ Join         source with target, of the kind that the clauses need
//! ```

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::{
    Expr, JoinType, LogicalPlan, LogicalPlanBuilder, cast, col, lit, when,
};

use super::clause::{ClauseAction, ClauseKind, Clauses};
use super::planner::MergeStatement;
use super::relation::{SourceRelation, TargetRelation};
use super::row_format::{ACTION, FILE, ROW, ROW_ID, RowAction, RowFormat, new_name, old_name};
use super::spark_expression::default_value;
use super::subquery::{Lowering, hoist};
use crate::change::distinct;
use crate::delta::layout::TableLayout;
use crate::error::{Error, Result};

/// The clause that applies to a row; NULL for none.
const CLAUSE: &str = "__alluvial_clause";
/// True in every row of the source, so that NULL says "no source row".
const SOURCE: &str = "__alluvial_source";
/// The name of the source's scan, before its columns get their qualifiers back.
const SOURCE_SCAN: &str = "__alluvial_merge_source";
/// Which sides of the join its rows have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    matched: bool,
    by_target: bool,
    by_source: bool,
}

impl Shape {
    pub(super) fn new(clauses: &Clauses) -> Self {
        Self {
            matched: clauses.any(ClauseKind::Matched),
            by_target: clauses.any(ClauseKind::NotMatchedByTarget),
            by_source: clauses.any(ClauseKind::NotMatchedBySource),
        }
    }

    /// Rows of both sides are of interest.
    pub(super) fn has_matched(self) -> bool {
        self.matched
    }

    /// The source is the left side, the one that a hash join builds from.
    pub(super) fn join_type(self) -> JoinType {
        match (self.matched, self.by_target, self.by_source) {
            (true, false, false) => JoinType::Inner,
            (true, true, false) => JoinType::Left,
            (false, true, false) => JoinType::LeftAnti,
            (true, false, true) => JoinType::Right,
            (false, false, _) => JoinType::RightAnti,
            (_, true, true) => JoinType::Full,
        }
    }

    /// Target rows without a partner are of no interest.
    pub(super) fn prunes_target(self) -> bool {
        !self.by_source
    }

    /// Rows of the source are of interest.
    pub(super) fn has_source(self) -> bool {
        self.join_type() != JoinType::RightAnti
    }

    fn has_target(self) -> bool {
        self.join_type() != JoinType::LeftAnti
    }
}

/// Builds the plan of a statement's row changes.
pub(super) struct RowPlanner<'a> {
    pub statement: &'a MergeStatement,
    pub layout: &'a TableLayout,
    pub clauses: &'a Clauses,
    pub shape: Shape,
    pub format: RowFormat,
}

impl RowPlanner<'_> {
    /// The row changes in the columns of `format`.
    pub(super) fn logical(
        &self,
        target: TargetRelation,
        source: SourceRelation,
    ) -> Result<LogicalPlan> {
        let source =
            LogicalPlanBuilder::scan(SOURCE_SCAN, provider_as_source(Arc::new(source)), None)?
                .project(self.source_columns())?
                .build()?;
        let target = LogicalPlanBuilder::scan(
            self.target_name(),
            provider_as_source(Arc::new(target)),
            None,
        )?
        .build()?;
        let (on, target, source) = hoist(self.statement.on.clone(), target, source)?;
        let joined =
            LogicalPlanBuilder::from(source).join_on(target, self.shape.join_type(), [on])?;
        // the clause number is computed once, here; everything after refers to it
        let mut joined = Lowering::new(joined.build()?, "clause");
        let number = self.clause_number(&mut joined)?.alias(CLAUSE);
        let numbered = LogicalPlanBuilder::from(joined.finish())
            .project(self.all_columns().into_iter().chain([number]))?;
        let relevant = numbered.filter(self.relevant())?;
        let mut relevant = Lowering::new(relevant.build()?, "value");
        let values = self.values()?.into_iter();
        let values = values
            .map(|value| relevant.value(value))
            .collect::<Result<Vec<_>>>()?;
        let values = LogicalPlanBuilder::from(relevant.finish()).project(values)?;
        Ok(values.project(self.actions()?)?.build()?)
    }

    fn width(&self) -> usize {
        self.layout.schema().fields().len()
    }

    fn target_name(&self) -> TableReference {
        let (qualifier, _) = self.statement.schema.qualified_field(0);
        qualifier
            .cloned()
            .unwrap_or_else(|| TableReference::bare("__target"))
    }

    fn schema(&self) -> &DFSchema {
        &self.statement.schema
    }

    fn column(&self, index: usize) -> Expr {
        let (qualifier, field) = self.schema().qualified_field(index);
        Expr::Column(Column::new(qualifier.cloned(), field.name()))
    }

    fn control(&self, name: &str) -> Expr {
        col(Column::new(Some(self.target_name()), name))
    }

    /// The source's columns with the qualifiers that the statement knows, and the mark that tells its rows.
    fn source_columns(&self) -> Vec<Expr> {
        let columns = (self.width()..self.schema().fields().len()).map(|index| {
            let (qualifier, field) = self.schema().qualified_field(index);
            col(Column::new(Some(SOURCE_SCAN), field.name()))
                .alias_qualified(qualifier.cloned(), field.name())
        });
        columns.chain([lit(true).alias(SOURCE)]).collect()
    }

    fn all_columns(&self) -> Vec<Expr> {
        let mut columns = Vec::new();
        if self.shape.has_target() {
            columns.extend((0..self.width()).map(|index| self.column(index)));
            columns.extend(self.address().into_iter().map(|name| self.control(name)));
        }
        if self.shape.has_source() {
            columns.extend(
                (self.width()..self.schema().fields().len()).map(|index| self.column(index)),
            );
            columns.push(col(SOURCE));
        }
        columns
    }

    /// The columns that say which row of the target it is.
    fn address(&self) -> Vec<&'static str> {
        let row_id = self.format.has_row_ids().then_some(ROW_ID);
        [FILE, ROW].into_iter().chain(row_id).collect()
    }

    fn in_target(&self) -> Expr {
        if self.shape.has_target() {
            self.control(ROW).is_not_null()
        } else {
            lit(false)
        }
    }

    fn in_source(&self) -> Expr {
        if self.shape.has_source() {
            col(SOURCE).is_not_null()
        } else {
            lit(false)
        }
    }

    /// The number of the first clause that applies to a row of the join.
    fn clause_number(&self, joined: &mut Lowering) -> Result<Expr> {
        let numbered = self.clauses.iter().map(|(number, clause)| {
            let side = match clause.kind {
                ClauseKind::Matched => self.in_target().and(self.in_source()),
                ClauseKind::NotMatchedByTarget => self.in_target().is_not_true(),
                ClauseKind::NotMatchedBySource => self.in_source().is_not_true(),
            };
            let applies = clause.condition.iter().cloned().fold(side, Expr::and);
            Ok((
                joined.condition(applies)?,
                lit(i32::try_from(number).map_err(Error::internal)?),
            ))
        });
        Ok(case(numbered.collect::<Result<Vec<_>>>()?, None)?)
    }

    /// Rows that a clause applies to, and matched rows that may not be matched twice.
    fn relevant(&self) -> Expr {
        let applied = col(CLAUSE).is_not_null();
        if self.clauses.unique_matches() {
            applied.or(self.in_target().and(self.in_source()))
        } else {
            applied
        }
    }

    /// Clause, address, new values, old values as far as they are needed.
    fn values(&self) -> Result<Vec<Expr>> {
        let mut columns = vec![col(CLAUSE)];
        columns.extend(self.address().into_iter().map(|name| {
            let data_type = if name == FILE {
                DataType::UInt32
            } else {
                DataType::Int64
            };
            let value = if self.shape.has_target() {
                self.control(name)
            } else {
                cast(lit(ScalarValue::Null), data_type)
            };
            value.alias(name)
        }));
        if self.format.has_new_values() {
            for index in 0..self.width() {
                columns.push(self.new_value(index)?.alias(new_name(index)));
            }
        }
        for index in (0..self.width()).filter(|_| self.format.has_old_values()) {
            columns.push(self.old_value(index).alias(old_name(index)));
        }
        Ok(columns)
    }

    fn old_value(&self, index: usize) -> Expr {
        if self.shape.has_target() {
            self.column(index)
        } else {
            cast(
                lit(ScalarValue::Null),
                self.schema().field(index).data_type().clone(),
            )
        }
    }

    fn new_value(&self, index: usize) -> Result<Expr> {
        let data_type = self.schema().field(index).data_type().clone();
        // a column that every update assigns need not be read: rows that are deleted or kept have no use for new values
        let is_recomputed = self.layout.is_recomputed(index);
        let is_kept = !is_recomputed
            && self.clauses.iter().any(|(_, clause)| match &clause.action {
                ClauseAction::Update(values) => values.iter().all(|(column, _)| *column != index),
                ClauseAction::Insert(_) | ClauseAction::Delete => false,
            });
        let kept = if is_kept {
            self.old_value(index)
        } else {
            lit(ScalarValue::Null)
        };
        let mut by_clause = Vec::new();
        for (number, clause) in self.clauses.iter() {
            let assigned = |values: &[(usize, Expr)]| {
                values
                    .iter()
                    .find(|(column, _)| *column == index)
                    .map(|(_, value)| value.clone())
            };
            let value = match &clause.action {
                // the writer computes what is NULL
                ClauseAction::Update(values) => {
                    assigned(values).or_else(|| is_recomputed.then(|| lit(ScalarValue::Null)))
                }
                ClauseAction::Insert(values) => Some(match assigned(values) {
                    Some(value) => value,
                    None => self.default_value(index)?,
                }),
                ClauseAction::Delete => None,
            };
            if let Some(value) = value {
                by_clause.push((
                    col(CLAUSE).eq(lit(i32::try_from(number).unwrap_or(i32::MAX))),
                    cast(value, data_type.clone()),
                ));
            }
        }
        Ok(cast(case(by_clause, Some(kept))?, data_type))
    }

    /// What an inserted row has in a column that the clause leaves out.
    fn default_value(&self, index: usize) -> Result<Expr> {
        let default = default_value(self.layout, index, &self.statement.session)?;
        Ok(default.unwrap_or_else(|| lit(ScalarValue::Null)))
    }

    /// The columns that decide whether an update changes anything: a row that it leaves identical is not touched.
    ///
    /// Only where the change feed needs the old values anyway. Elsewhere nobody sees such an update, and reading the columns that
    /// it assigns would cost a sparse MERGE more than everything else it does.
    fn compared(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.width()).filter(|index| {
            self.format.has_old_values()
                && self.is_assigned(*index)
                && !self.layout.is_recomputed(*index)
        })
    }

    fn is_assigned(&self, index: usize) -> bool {
        self.clauses.iter().any(|(_, clause)| matches!(&clause.action, ClauseAction::Update(values) if values.iter().any(|(column, _)| *column == index)))
    }

    fn actions(&self) -> Result<Vec<Expr>> {
        let mut columns = vec![self.action()?.alias(ACTION)];
        columns.extend(self.address().into_iter().map(col));
        if self.format.has_new_values() {
            columns.extend((0..self.width()).map(|index| col(new_name(index))));
        }
        if self.format.has_old_values() {
            columns.extend((0..self.width()).map(|index| col(old_name(index))));
        }
        Ok(columns)
    }

    fn action(&self) -> Result<Expr> {
        let differs = self.compared().map(|index| {
            distinct(
                col(new_name(index)),
                col(old_name(index)),
                self.schema().field(index).data_type(),
            )
        });
        let differs = differs.reduce(Expr::or);
        let by_clause = self.clauses.iter().map(|(number, clause)| {
            let by_source = clause.kind == ClauseKind::NotMatchedBySource;
            let (update, delete) = match by_source {
                true => (RowAction::UpdateBySource, RowAction::DeleteBySource),
                false => (RowAction::Update, RowAction::Delete),
            };
            let action = match &clause.action {
                ClauseAction::Delete => delete.literal(),
                ClauseAction::Insert(_) => RowAction::Insert.literal(),
                ClauseAction::Update(_) => match differs.clone() {
                    Some(differs) => {
                        when(differs, update.literal()).otherwise(RowAction::Keep.literal())?
                    }
                    None => update.literal(),
                },
            };
            Ok((
                col(CLAUSE).eq(lit(i32::try_from(number).unwrap_or(i32::MAX))),
                action,
            ))
        });
        Ok(case(
            by_clause.collect::<Result<Vec<_>>>()?,
            Some(RowAction::Keep.literal()),
        )?)
    }
}

/// `CASE WHEN … THEN … [ELSE …] END`; the default alone where there is no branch.
fn case(branches: Vec<(Expr, Expr)>, default: Option<Expr>) -> datafusion::error::Result<Expr> {
    let mut builder: Option<CaseBuilder> = None;
    for (condition, value) in branches {
        builder = Some(match builder {
            None => when(condition, value),
            Some(mut builder) => builder.when(condition, value),
        });
    }
    match (builder, default) {
        (Some(mut builder), Some(default)) => builder.otherwise(default),
        (Some(builder), None) => builder.end(),
        (None, default) => Ok(default.unwrap_or_else(|| lit(ScalarValue::Null))),
    }
}
