//! Random statements on a table.

use super::Theme;
use super::expression::{Expression, Operator, Side};
use super::model::Model;
use super::scope::{Scope, column};
use super::source::Source;
use super::statement::{Action, Assignments, Clause, Merge, Spelling, Statement, When};
use super::table::{Column, Table};
use super::value::{Kind, Row};
use crate::random::Random;

/// What statements are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generator<'a> {
    pub theme: &'a Theme,
    pub table: &'a Table,
    /// The values of `other.k`, a column of the type of `t.k`.
    pub other: &'a Row,
}

impl Generator<'_> {
    /// The `step`-th statement on the table.
    pub(super) fn statement(self, random: &mut Random, model: &Model, step: usize) -> Statement {
        let target = self.in_filters(Scope::of(Side::Target, &self.table.columns));
        match random.below(100) {
            0..10 => Statement::Insert(self.table.rows(random)),
            10..20 => Statement::Update {
                values: self.assignments(random, target),
                filter: random.percent(85).then(|| target.filter(random)),
            },
            20..30 => Statement::Delete {
                filter: random.percent(95).then(|| target.filter(random)),
            },
            30..45 if !self.theme.rearrange.is_empty() => {
                Statement::Rearrange(random.pick(self.theme.rearrange))
            }
            _ => Statement::Merge(self.merge(random, model, step)),
        }
    }

    /// With sub-queries, which UPDATE and DELETE always know.
    fn in_filters<'b>(&'b self, scope: Scope<'b>) -> Scope<'b> {
        Scope {
            other: Some((self.table.columns[0].kind, self.other)),
            ..scope
        }
    }

    fn in_clauses<'b>(&'b self, scope: Scope<'b>) -> Scope<'b> {
        if self.theme.sub_queries {
            self.in_filters(scope)
        } else {
            scope
        }
    }

    fn merge(self, random: &mut Random, model: &Model, step: usize) -> Merge {
        let is_by_key = random.percent(90);
        let is_single = !is_by_key && random.percent(70);
        let source = if is_single {
            Source::single(random, self.table)
        } else {
            Source::random(random, self.table, model, step)
        };
        let on = if is_by_key {
            self.on_keys(random, &source.columns)
        } else {
            self.on_anything(random, &source.columns)
        };
        let mut clauses: Vec<Clause> = Vec::new();
        for _ in 0..1 + random.below(5) {
            let when = random.pick(&[
                When::Matched,
                When::Matched,
                When::NotMatched,
                When::NotMatchedBySource,
            ]);
            let is_over = |clause: &Clause| clause.when == when && clause.condition.is_none();
            if !clauses.iter().any(is_over) {
                clauses.push(self.clause(random, when, &source.columns));
            }
        }
        Merge {
            source,
            on,
            clauses,
        }
    }

    fn clause(self, random: &mut Random, when: When, source: &[Column]) -> Clause {
        let target = &self.table.columns;
        let scope = self.in_clauses(match when {
            When::Matched => self.both(source),
            When::NotMatched => Scope::of(Side::Source, source),
            When::NotMatchedBySource => Scope::of(Side::Target, target),
        });
        let condition = random.percent(60).then(|| scope.filter(random));
        let action = match (when, random.below(100)) {
            (When::NotMatched, chance) => self.insert(random, scope, chance),
            (_, 0..30) => Action::Delete,
            (When::Matched, 30..50) => Action::Update(by_name(target, source), Spelling::Star),
            _ => Action::Update(self.assignments(random, scope), Spelling::Listed),
        };
        Clause {
            when,
            condition,
            action,
        }
    }

    fn insert(self, random: &mut Random, scope: Scope<'_>, chance: u64) -> Action {
        let columns = &self.table.columns;
        match chance {
            0..30 => Action::Insert(by_name(columns, scope.source), Spelling::Star),
            30..45 => {
                let value = |(index, column): (usize, &Column)| {
                    (index, scope.value(random, column.kind, 1))
                };
                let values = columns.iter().enumerate().map(value);
                Action::Insert(values.collect(), Spelling::Unnamed)
            }
            _ => Action::Insert(self.assignments(random, scope), Spelling::Listed),
        }
    }

    /// Values for some of the columns, in any order.
    fn assignments(self, random: &mut Random, scope: Scope<'_>) -> Assignments {
        let columns = &self.table.columns;
        let mut positions: Vec<usize> = (0..columns.len()).collect();
        let count = 1 + random.index(columns.len());
        let chosen = random.take(&mut positions, count);
        let value = |index: usize| {
            let value = scope.value(random, columns[index].kind, 1);
            (index, value)
        };
        chosen.into_iter().map(value).collect()
    }

    /// The condition of a MERGE that keys are equal, with something more or not.
    fn on_keys(self, random: &mut Random, source: &[Column]) -> Expression {
        let target = &self.table.columns;
        let mut on = self.same_key(random, "k", source);
        if target.iter().any(|column| column.name == "k2") && random.percent(60) {
            let second = self.same_key(random, "k2", source);
            on = Expression::binary(Operator::And, on, second);
        }
        let more = match random.below(100) {
            0..15 => Scope::of(Side::Target, target),
            15..25 => Scope::of(Side::Source, source),
            25..32 => self.both(source),
            _ => return on,
        };
        let more = self.in_clauses(more).condition(random, 1);
        if random.percent(50) {
            Expression::binary(Operator::And, on, more)
        } else {
            Expression::binary(Operator::And, more, on)
        }
    }

    /// One that no keys can be taken from.
    fn on_anything(self, random: &mut Random, source: &[Column]) -> Expression {
        match random.below(100) {
            0..25 => Expression::constant(random.percent(40)),
            25..65 => self.both(source).condition(random, 1),
            _ => {
                let key = self.same_key(random, "k", source);
                let other = self.both(source).condition(random, 0);
                Expression::binary(Operator::Or, key, other)
            }
        }
    }

    fn both<'b>(&'b self, source: &'b [Column]) -> Scope<'b> {
        Scope {
            source,
            ..Scope::of(Side::Target, &self.table.columns)
        }
    }

    /// That both sides have the same key, or that one comes after the other.
    fn same_key(self, random: &mut Random, name: &str, source: &[Column]) -> Expression {
        let position = |columns: &[Column]| columns.iter().position(|column| column.name == name);
        let target = self.table.columns.as_slice();
        let (own, other) = (
            position(target).unwrap_or_default(),
            position(source).unwrap_or_default(),
        );
        let kind = target[own].kind;
        let (mut left, mut right) = (
            column(Side::Target, own, target),
            column(Side::Source, other, source),
        );
        if Kind::Int.takes(kind) && random.percent(12) {
            let one = Expression::Literal(kind, kind.nth(1));
            right = Expression::binary(Operator::Plus, right, one);
        }
        if random.percent(50) {
            (left, right) = (right, left);
        }
        let operator = if random.percent(20) {
            Operator::Same
        } else {
            Operator::Equal
        };
        Expression::binary(operator, left, right)
    }
}

/// What a star stands for.
fn by_name(target: &[Column], source: &[Column]) -> Assignments {
    let position = |name: &str| source.iter().position(|column| column.name == name);
    let columns = target.iter().enumerate();
    let values = columns.filter_map(|(index, own)| {
        let other = position(own.name)?;
        Some((index, column(Side::Source, other, source)))
    });
    values.collect()
}
