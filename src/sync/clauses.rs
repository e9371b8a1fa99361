//! The MERGE that applies resolved events: its condition and its clauses.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions::string::expr_fn::{concat, concat_ws};
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::dml::{MergeIntoAction, MergeIntoClause, MergeIntoClauseKind};
use datafusion::logical_expr::{Expr, cast, lit, when};

use super::columns::{END_AT, START_AT};
use super::event::{END, LACKING, OP, Op, SEQUENCE};
use super::setup::Setup;
use super::tie::no_tie;
use crate::change::distinct;
use crate::error::Result;

/// The qualifier of the target's columns.
pub(super) const TARGET: &str = "target";
/// The qualifier of the events' columns.
pub(super) const SOURCE: &str = "source";

/// Condition and clauses.
pub(super) struct MergeClauses {
    pub on: Expr,
    pub clauses: Vec<MergeIntoClause>,
}

impl MergeClauses {
    /// The latest change of each key: a change that is older than what the target holds does nothing.
    pub(super) fn latest(setup: &Setup<'_>, truncated: Option<ScalarValue>) -> Result<Self> {
        let held = held_sequence(setup)?;
        let in_time = held
            .clone()
            .map(|held| held.clone().is_null().or(of_source(SEQUENCE).gt_eq(held)));
        let tie = match held.clone().filter(|_| setup.layout.refuses_ties) {
            Some(held) => Some(tie(setup, held)?),
            None => None,
        };
        // rows up to that moment are gone, so nothing of them is kept either
        let emptied = truncated.map(|truncated| match held {
            Some(held) => held.clone().is_null().or(held.lt_eq(lit(truncated))),
            None => lit(true),
        });
        let mut clauses: Vec<MergeIntoClause> = tie.into_iter().collect();
        clauses.extend(row_clauses(setup, in_time, None, emptied.as_ref())?);
        if let Some(older) = emptied {
            clauses.push(MergeIntoClause {
                kind: MergeIntoClauseKind::NotMatchedBySource,
                predicate: Some(older),
                action: MergeIntoAction::Delete,
            });
        }
        Ok(Self {
            on: keys_match(setup),
            clauses,
        })
    }

    /// All rows of the source: what is equal stays untouched.
    pub(super) fn compare(setup: &Setup<'_>) -> Result<Self> {
        let mut clauses = row_clauses(setup, None, Some(differs(setup)?), None)?;
        clauses.push(MergeIntoClause {
            kind: MergeIntoClauseKind::NotMatchedBySource,
            predicate: None,
            action: MergeIntoAction::Delete,
        });
        Ok(Self {
            on: keys_match(setup),
            clauses,
        })
    }

    /// Rows of a history that are new, different or gone.
    pub(super) fn history(setup: &Setup<'_>) -> Self {
        let mut values: Vec<(String, Expr)> = setup
            .layout
            .columns
            .iter()
            .map(|field| (field.name().clone(), of_source(field.name())))
            .collect();
        let is_key = |(name, _): &(String, Expr)| setup.keys.contains(name);
        let mut assigned: Vec<(String, Expr)> = values
            .iter()
            .filter(|value| !is_key(value))
            .cloned()
            .collect();
        assigned.push((END_AT.into(), of_source(END)));
        values.extend([
            (START_AT.into(), of_source(SEQUENCE)),
            (END_AT.into(), of_source(END)),
        ]);
        let clauses = vec![
            clause(
                MergeIntoClauseKind::Matched,
                is_delete(),
                MergeIntoAction::Delete,
            ),
            clause(
                MergeIntoClauseKind::Matched,
                is_write(),
                MergeIntoAction::Update(assigned),
            ),
            clause(
                MergeIntoClauseKind::NotMatchedByTarget,
                is_write(),
                insert(values),
            ),
        ];
        Self {
            on: keys_match(setup).and(of_target(START_AT).eq(of_source(SEQUENCE))),
            clauses,
        }
    }
}

/// Whether an update would change any value.
fn differs(setup: &Setup<'_>) -> Result<Expr> {
    let differs = values(setup, None)?.into_iter().zip(value_types(setup));
    let differs =
        differs.map(|((name, value), data_type)| distinct(of_target(&name), value, &data_type));
    Ok(differs.reduce(Expr::or).unwrap_or_else(|| lit(false)))
}

/// A clause that no row may come to: a change that differs from the row there is, with the sequence that it `held`.
fn tie(setup: &Setup<'_>, held: Expr) -> Result<MergeIntoClause> {
    let same = of_source(SEQUENCE).eq(held);
    let changed = is_delete().or(is_write().and(differs(setup)?));
    let keys = setup.keys.iter().map(|key| {
        let value = cast(of_source(key), arrow::datatypes::DataType::Utf8);
        concat(vec![lit(format!("{key}: ")), value])
    });
    let key = concat_ws(lit(", "), keys.collect());
    Ok(clause(
        MergeIntoClauseKind::Matched,
        no_tie(same.and(changed), key),
        MergeIntoAction::Delete,
    ))
}

/// Delete, update and insert, for rows that are `in_time` and differ.
fn row_clauses(
    setup: &Setup<'_>,
    in_time: Option<Expr>,
    differs: Option<Expr>,
    emptied: Option<&Expr>,
) -> Result<Vec<MergeIntoClause>> {
    let with =
        |condition: Expr, more: &Option<Expr>| more.iter().cloned().fold(condition, Expr::and);
    let mut clauses = vec![clause(
        MergeIntoClauseKind::Matched,
        with(is_delete(), &in_time),
        MergeIntoAction::Delete,
    )];
    let values = values(setup, emptied)?;
    if !values.is_empty() {
        clauses.push(clause(
            MergeIntoClauseKind::Matched,
            with(with(is_write(), &in_time), &differs),
            MergeIntoAction::Update(values),
        ));
    }
    let columns = setup.layout.columns.iter();
    let all = columns.map(|field| (field.name().clone(), of_source(field.name())));
    clauses.push(clause(
        MergeIntoClauseKind::NotMatchedByTarget,
        is_write(),
        insert(all.collect()),
    ));
    Ok(clauses)
}

/// The columns beside the key, and what an update makes of each; of a row that is `emptied` nothing is kept.
fn values(setup: &Setup<'_>, emptied: Option<&Expr>) -> Result<Vec<(String, Expr)>> {
    let layout = &setup.layout;
    let columns = layout.columns.iter().enumerate();
    let value = |(index, field): (usize, &arrow::datatypes::FieldRef)| {
        let (name, new) = (field.name(), of_source(field.name()));
        let new = if layout.may_lack[index] {
            let lacking = array_has(of_source(LACKING), lit(name.as_str()));
            when(lacking.is_true(), of_target(name)).otherwise(new)?
        } else {
            new
        };
        let value = if layout.ignore_null[index] {
            let kept = coalesce(vec![new.clone(), of_target(name)]);
            let anew = of_source(OP).eq(Op::Replace.literal());
            let anew = emptied.into_iter().cloned().fold(anew, Expr::or);
            when(anew, new).otherwise(kept)?
        } else {
            new
        };
        Ok((name.clone(), value))
    };
    columns
        .filter(|(index, _)| !layout.keys.contains(index))
        .map(value)
        .collect()
}

fn value_types(setup: &Setup<'_>) -> impl Iterator<Item = arrow::datatypes::DataType> {
    let columns = setup.layout.columns.iter().enumerate();
    columns
        .filter(|(index, _)| !setup.layout.keys.contains(index))
        .map(|(_, field)| field.data_type().clone())
}

/// What the target holds of SEQUENCE BY; `None` where versions order the changes or the target lacks a column of it.
fn held_sequence(setup: &Setup<'_>) -> Result<Option<Expr>> {
    if setup.sync.sequence_by.is_none() || !setup.held {
        return Ok(None);
    }
    let of_target = |node: Expr| match node {
        Expr::Column(column) => Ok(Transformed::yes(of_target(&column.name))),
        other => Ok(Transformed::no(other)),
    };
    let held = setup.sequence.expression.clone().transform(of_target)?.data;
    Ok(Some(cast(held, setup.layout.sequence.clone())))
}

fn keys_match(setup: &Setup<'_>) -> Expr {
    let keys = setup.keys.iter();
    keys.map(|key| of_target(key).eq(of_source(key)))
        .reduce(Expr::and)
        .unwrap_or_else(|| lit(false))
}

fn of_target(name: &str) -> Expr {
    Expr::Column(Column::new(Some(TARGET), name))
}

fn of_source(name: &str) -> Expr {
    Expr::Column(Column::new(Some(SOURCE), name))
}

fn is_delete() -> Expr {
    of_source(OP).eq(Op::Delete.literal())
}

fn is_write() -> Expr {
    of_source(OP).in_list([Op::Upsert, Op::Replace].map(Op::literal).to_vec(), false)
}

fn clause(kind: MergeIntoClauseKind, condition: Expr, action: MergeIntoAction) -> MergeIntoClause {
    MergeIntoClause {
        kind,
        predicate: Some(condition),
        action,
    }
}

fn insert(values: Vec<(String, Expr)>) -> MergeIntoAction {
    let (columns, values) = values.into_iter().unzip();
    MergeIntoAction::Insert { columns, values }
}
