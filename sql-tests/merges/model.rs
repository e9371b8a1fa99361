//! What statements do to a table: a list of rows, gone through from its beginning to its end.

use std::collections::BTreeSet;

use super::expression::{Expression, Rows};
use super::statement::{Action, Assignments, Clause, Merge, Statement, When};
use super::table::Table;
use super::value::{Row, Value, text_of};

/// A change row: `_change_type`, and the row.
pub(super) type Change = (&'static str, Row);

/// The table as it must be.
#[derive(Debug, Default)]
pub(super) struct Model {
    rows: Vec<Row>,
    version: u64,
    latest_changes: Vec<Change>,
}

/// What a statement does, if it is not refused.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// The rows that there are afterwards.
    pub rows: Vec<Row>,
    pub changes: Vec<Change>,
    /// How many rows are inserted, updated and deleted.
    pub count: u64,
}

/// The statement must fail with this word in its message, and change nothing.
#[derive(Debug)]
pub(super) struct Refused(pub &'static str);

impl Model {
    /// The rows in no order.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The version of the last commit.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The changes of the current version.
    pub(super) fn latest_changes(&self) -> &[Change] {
        &self.latest_changes
    }

    /// What the statement does to the rows that are there.
    pub(super) fn effect(&self, statement: &Statement, table: &Table) -> Result<Effect, Refused> {
        match statement {
            Statement::Insert(rows) => Ok(self.insert(rows, table)),
            Statement::Update { values, filter } => Ok(self.update(values, filter, table)),
            Statement::Delete { filter } => Ok(self.delete(filter)),
            Statement::Merge(merge) => self.merge(merge, table),
            Statement::Rearrange(_) => Ok(Effect {
                rows: self.rows.clone(),
                ..Effect::default()
            }),
        }
    }

    /// Makes the effect the state of the table, at a version.
    pub(super) fn commit(&mut self, effect: Effect, version: u64) {
        if version > self.version {
            self.latest_changes = effect.changes;
        }
        self.rows = effect.rows;
        self.version = version;
    }

    fn insert(&self, rows: &[Row], table: &Table) -> Effect {
        let mut effect = Effect {
            rows: self.rows.clone(),
            ..Effect::default()
        };
        for row in rows {
            effect.insert(table.stored(row.clone()));
        }
        effect
    }

    fn update(&self, values: &Assignments, filter: &Option<Expression>, table: &Table) -> Effect {
        let mut effect = Effect::default();
        for row in &self.rows {
            let rows = Rows {
                target: row,
                ..Rows::default()
            };
            if applies(filter, rows) {
                effect.update(row, assigned(values, rows), table, true);
            } else {
                effect.keep(row);
            }
        }
        effect
    }

    fn delete(&self, filter: &Option<Expression>) -> Effect {
        let mut effect = Effect::default();
        for row in &self.rows {
            let rows = Rows {
                target: row,
                ..Rows::default()
            };
            if applies(filter, rows) {
                effect.delete(row);
            } else {
                effect.keep(row);
            }
        }
        effect
    }

    fn merge(&self, merge: &Merge, table: &Table) -> Result<Effect, Refused> {
        let mut effect = Effect::default();
        let mut matched_sources = BTreeSet::new();
        for target in &self.rows {
            let sources = merge.source.rows.iter().enumerate();
            let matching = sources.filter(|(_, source)| merge.on.holds(Rows { target, source }));
            let matching: Vec<(usize, &Row)> = matching.collect();
            matched_sources.extend(matching.iter().map(|(index, _)| *index));
            if matching.len() > 1 && merge.needs_unique_matches() {
                return Err(Refused("MERGE_CARDINALITY"));
            }
            let source: Option<&Row> = matching.first().map(|(_, source)| *source);
            let when = match source {
                Some(_) => When::Matched,
                None => When::NotMatchedBySource,
            };
            let rows = Rows {
                target,
                source: source.map(Vec::as_slice).unwrap_or_default(),
            };
            match first_clause(merge, when, rows).map(|clause| &clause.action) {
                // old values are at hand, to be compared, only where the feed needs them
                Some(Action::Update(values, _)) => {
                    effect.update(target, assigned(values, rows), table, table.has_feed);
                }
                Some(Action::Delete) => effect.delete(target),
                Some(Action::Insert(..)) | None => effect.keep(target),
            }
        }
        for (index, source) in merge.source.rows.iter().enumerate() {
            let rows = Rows {
                target: &[],
                source,
            };
            let clause = first_clause(merge, When::NotMatched, rows);
            let action = clause.map(|clause| &clause.action);
            if let (false, Some(Action::Insert(values, _))) =
                (matched_sources.contains(&index), action)
            {
                effect.insert(table.stored(inserted(values, rows, table)));
            }
        }
        Ok(effect)
    }
}

impl Effect {
    fn keep(&mut self, row: &Row) {
        self.rows.push(row.clone());
    }

    fn insert(&mut self, row: Row) {
        self.changes.push(("insert", row.clone()));
        self.rows.push(row);
        self.count += 1;
    }

    fn delete(&mut self, row: &Row) {
        self.changes.push(("delete", row.clone()));
        self.count += 1;
    }

    /// `compares`: a row that gets the values that it has is not touched.
    fn update(&mut self, old: &Row, values: Vec<(usize, Value)>, table: &Table, compares: bool) {
        let mut new = old.clone();
        for (index, value) in values {
            new[index] = value;
        }
        if compares && text_of(old) == text_of(&new) {
            return self.keep(old);
        }
        let new = table.stored(new);
        self.changes.push(("update_preimage", old.clone()));
        self.changes.push(("update_postimage", new.clone()));
        self.rows.push(new);
        self.count += 1;
    }
}

/// The first clause of that kind whose condition holds.
fn first_clause<'a>(merge: &'a Merge, when: When, rows: Rows<'_>) -> Option<&'a Clause> {
    let mut clauses = merge.clauses.iter();
    clauses.find(|clause| clause.when == when && applies(&clause.condition, rows))
}

fn applies(condition: &Option<Expression>, rows: Rows<'_>) -> bool {
    condition
        .as_ref()
        .is_none_or(|condition| condition.holds(rows))
}

/// All values see the row as it was.
fn assigned(values: &Assignments, rows: Rows<'_>) -> Vec<(usize, Value)> {
    let values = values.iter();
    values
        .map(|(index, value)| (*index, value.eval(rows)))
        .collect()
}

/// Columns that are not named are NULL.
fn inserted(values: &Assignments, rows: Rows<'_>, table: &Table) -> Row {
    let mut row = vec![Value::Null; table.columns.len()];
    for (index, value) in assigned(values, rows) {
        row[index] = value;
    }
    row
}
