//! The WHEN clauses of a MERGE, checked and by column position.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::dml::{MergeIntoAction, MergeIntoClause, MergeIntoClauseKind};

use super::subquery::outer_columns;
use crate::error::{Error, Result};

/// Which rows of the join a clause is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClauseKind {
    /// Rows of both sides.
    Matched,
    /// Rows of the source alone.
    NotMatchedByTarget,
    /// Rows of the target alone.
    NotMatchedBySource,
}

/// What a clause does with its rows.
#[derive(Debug, Clone)]
pub(crate) enum ClauseAction {
    /// New values by column; columns that are not named keep theirs.
    Update(Vec<(usize, Expr)>),
    /// Values by column; columns that are not named are NULL.
    Insert(Vec<(usize, Expr)>),
    Delete,
}

/// One WHEN clause.
#[derive(Debug, Clone)]
pub(crate) struct Clause {
    pub kind: ClauseKind,
    pub condition: Option<Expr>,
    pub action: ClauseAction,
}

/// The clauses of a statement, in order; the first that applies to a row wins.
#[derive(Debug, Clone)]
pub(crate) struct Clauses(Vec<Clause>);

impl Clauses {
    /// Checks the clauses against the target's columns, the first `width` of `target`.
    ///
    /// # Errors
    /// When there is none, one can never apply, or a column is unknown or assigned twice.
    pub(crate) fn try_new(
        clauses: Vec<MergeIntoClause>,
        target: &DFSchema,
        width: usize,
    ) -> Result<Self> {
        if clauses.is_empty() {
            return Err(Error::invalid(
                "MERGE has no WHEN clause; add one, such as WHEN MATCHED THEN UPDATE SET …",
            ));
        }
        let mut checked: Vec<Clause> = Vec::with_capacity(clauses.len());
        for clause in clauses {
            let kind = match clause.kind.canonical() {
                MergeIntoClauseKind::Matched => ClauseKind::Matched,
                MergeIntoClauseKind::NotMatchedBySource => ClauseKind::NotMatchedBySource,
                MergeIntoClauseKind::NotMatchedByTarget | MergeIntoClauseKind::NotMatched => {
                    ClauseKind::NotMatchedByTarget
                }
            };
            if checked
                .iter()
                .any(|earlier| earlier.kind == kind && earlier.condition.is_none())
            {
                return Err(Error::invalid(format!(
                    "a {kind} clause follows one without a condition and can never apply; put the unconditional one last"
                )));
            }
            let clause = Clause {
                kind,
                condition: clause.predicate,
                action: action(clause.action, target, width)?,
            };
            clause.check(target, width)?;
            checked.push(clause);
        }
        Ok(Self(checked))
    }

    /// The clauses with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Clause)> {
        self.0.iter().enumerate()
    }

    /// Whether any clause is of the kind.
    pub(crate) fn any(&self, kind: ClauseKind) -> bool {
        self.0.iter().any(|clause| clause.kind == kind)
    }

    /// What clauses write into the column at a position.
    pub(crate) fn values_of(&self, index: usize) -> Vec<&Expr> {
        let values = self.0.iter().flat_map(|clause| match &clause.action {
            ClauseAction::Update(values) | ClauseAction::Insert(values) => values.as_slice(),
            ClauseAction::Delete => &[],
        });
        let of_column = values.filter(|(column, _)| *column == index);
        of_column.map(|(_, value)| value).collect()
    }

    /// The positions of the columns that each update assigns to.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = Vec<usize>> {
        self.0.iter().filter_map(|clause| match &clause.action {
            ClauseAction::Update(values) => {
                Some(values.iter().map(|(column, _)| *column).collect())
            }
            ClauseAction::Insert(_) | ClauseAction::Delete => None,
        })
    }

    /// Whether any clause updates rows.
    pub(crate) fn update(&self) -> bool {
        self.0
            .iter()
            .any(|clause| matches!(clause.action, ClauseAction::Update(_)))
    }

    /// Whether any clause writes rows.
    pub(crate) fn writes_rows(&self) -> bool {
        self.0
            .iter()
            .any(|clause| !matches!(clause.action, ClauseAction::Delete))
    }

    /// Whether any clause takes rows away from where they are.
    pub(crate) fn marks_rows(&self) -> bool {
        self.0
            .iter()
            .any(|clause| !matches!(clause.action, ClauseAction::Insert(_)))
    }

    /// Whether a target row may be matched by one source row at most: always, unless there is nothing that the order of the
    /// source rows could change (Delta's rule).
    pub(crate) fn unique_matches(&self) -> bool {
        let mut matched = self
            .0
            .iter()
            .filter(|clause| clause.kind == ClauseKind::Matched);
        match (matched.next(), matched.next()) {
            (None, _) => false,
            (Some(only), None) => {
                only.condition.is_some() || !matches!(only.action, ClauseAction::Delete)
            }
            _ => true,
        }
    }
}

impl Clause {
    /// Condition and values.
    fn expressions(&self) -> impl Iterator<Item = &Expr> {
        let values = match &self.action {
            ClauseAction::Update(values) | ClauseAction::Insert(values) => values.as_slice(),
            ClauseAction::Delete => &[],
        };
        let values = values.iter().map(|(_, value)| value);
        self.condition.iter().chain(values)
    }

    /// Refuses what has no value for a single row, and columns of a side that has no row there: they would be NULL.
    fn check(&self, schema: &DFSchema, width: usize) -> Result<()> {
        let (absent, side) = match self.kind {
            ClauseKind::Matched => (0..0, ""),
            ClauseKind::NotMatchedByTarget => (0..width, "target"),
            ClauseKind::NotMatchedBySource => (width..schema.fields().len(), "source"),
        };
        for expression in self.expressions() {
            let is_of_many = |part: &Expr| {
                Ok(matches!(
                    part,
                    Expr::AggregateFunction(_) | Expr::WindowFunction(_)
                ))
            };
            if expression.exists(is_of_many)? {
                return Err(Error::invalid(format!(
                    "{} has {expression}, which is no value of one row; compute it in the source",
                    self.kind
                )));
            }
            for column in outer_columns(expression)? {
                let index = schema.index_of_column(&column);
                if index.is_ok_and(|index| absent.contains(&index)) {
                    return Err(Error::invalid(format!(
                        "{} uses {}, a column of the {side}, which has no row there; use columns of the other side",
                        self.kind,
                        column.flat_name()
                    )));
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for ClauseKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Matched => "WHEN MATCHED",
            Self::NotMatchedByTarget => "WHEN NOT MATCHED",
            Self::NotMatchedBySource => "WHEN NOT MATCHED BY SOURCE",
        })
    }
}

fn action(action: MergeIntoAction, target: &DFSchema, width: usize) -> Result<ClauseAction> {
    Ok(match action {
        MergeIntoAction::Delete => ClauseAction::Delete,
        MergeIntoAction::Update(assignments) => {
            ClauseAction::Update(by_position(assignments, target, width)?)
        }
        MergeIntoAction::Insert { columns, values } => {
            let columns = if columns.is_empty() {
                (0..width)
                    .map(|index| target.field(index).name().clone())
                    .collect()
            } else {
                columns
            };
            if columns.len() != values.len() {
                return Err(Error::invalid(format!(
                    "INSERT names {} columns and has {} values",
                    columns.len(),
                    values.len()
                )));
            }
            ClauseAction::Insert(by_position(
                columns.into_iter().zip(values).collect(),
                target,
                width,
            )?)
        }
    })
}

fn by_position(
    assignments: Vec<(String, Expr)>,
    target: &DFSchema,
    width: usize,
) -> Result<Vec<(usize, Expr)>> {
    let mut positions: Vec<(usize, Expr)> = Vec::with_capacity(assignments.len());
    for (name, value) in assignments {
        let found = (0..width).find(|index| target.field(*index).name() == &name);
        let index = found.ok_or_else(|| {
            let names: Vec<&str> = (0..width)
                .map(|index| target.field(index).name().as_str())
                .collect();
            Error::invalid(format!(
                "the target has no column {name:?}; its columns are {}",
                names.join(", ")
            ))
        })?;
        if positions.iter().any(|(taken, _)| *taken == index) {
            return Err(Error::invalid(format!(
                "column {name:?} is assigned twice in one clause"
            )));
        }
        positions.push((index, value));
    }
    Ok(positions)
}
