//! The statements, as data that can be written as SQL; the model runs the same data.

use super::expression::Expression;
use super::source::Source;
use super::table::{Table, insert_sql};
use super::value::Row;

/// A statement on the table `t`.
#[derive(Debug)]
pub(super) enum Statement {
    Insert(Vec<Row>),
    Update {
        values: Assignments,
        filter: Option<Expression>,
    },
    Delete {
        filter: Option<Expression>,
    },
    Merge(Merge),
    /// What writes files anew and changes no row.
    Rearrange(&'static str),
}

/// The columns that get a value, by their positions, and the values.
pub(super) type Assignments = Vec<(usize, Expression)>;

/// A MERGE into `t`.
#[derive(Debug)]
pub(super) struct Merge {
    pub source: Source,
    pub on: Expression,
    pub clauses: Vec<Clause>,
}

/// A WHEN clause.
#[derive(Debug)]
pub(super) struct Clause {
    pub when: When,
    pub condition: Option<Expression>,
    pub action: Action,
}

/// The rows that a clause is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Matched,
    NotMatched,
    NotMatchedBySource,
}

/// What a clause does.
#[derive(Debug)]
pub(super) enum Action {
    Delete,
    Update(Assignments, Spelling),
    Insert(Assignments, Spelling),
}

/// How the columns of a clause are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Listed,
    /// All of them in order, without their names.
    Unnamed,
    Star,
}

impl Statement {
    /// The statement as SQL.
    pub(super) fn sql(&self, table: &Table) -> String {
        match self {
            Self::Insert(rows) => insert_sql("t", &table.columns, rows),
            Self::Update { values, filter } => {
                format!("UPDATE t SET {}{}", set(values, table), filtered(filter))
            }
            Self::Delete { filter } => format!("DELETE FROM t{}", filtered(filter)),
            Self::Merge(merge) => merge.sql(table),
            Self::Rearrange(sql) => (*sql).to_owned(),
        }
    }
}

impl Merge {
    fn sql(&self, table: &Table) -> String {
        let (source, on) = (&self.source.sql, self.on.sql());
        let clauses = self.clauses.iter().map(|clause| clause.sql(table));
        let clauses: String = clauses.collect();
        format!("MERGE INTO t USING {source} AS s ON {on}{clauses}")
    }

    /// Whether it depends on which of several source rows a target row is matched by: always, unless nothing happens to matched
    /// rows, or all of them are deleted.
    pub(super) fn needs_unique_matches(&self) -> bool {
        let matched = self.clauses.iter();
        let matched: Vec<&Clause> = matched
            .filter(|clause| clause.when == When::Matched)
            .collect();
        match matched.as_slice() {
            [] => false,
            [only] => only.condition.is_some() || !matches!(only.action, Action::Delete),
            _ => true,
        }
    }
}

impl Clause {
    fn sql(&self, table: &Table) -> String {
        let when = match self.when {
            When::Matched => "MATCHED",
            When::NotMatched => "NOT MATCHED",
            When::NotMatchedBySource => "NOT MATCHED BY SOURCE",
        };
        let condition = self.condition.as_ref();
        let condition = condition.map(|condition| format!(" AND {}", condition.sql()));
        let action = match &self.action {
            Action::Delete => "DELETE".to_owned(),
            Action::Update(_, Spelling::Star) => "UPDATE SET *".to_owned(),
            Action::Update(values, _) => format!("UPDATE SET {}", set(values, table)),
            Action::Insert(_, Spelling::Star) => "INSERT *".to_owned(),
            Action::Insert(values, Spelling::Unnamed) => {
                format!(
                    "INSERT VALUES ({})",
                    listed(values, |(_, value)| value.sql())
                )
            }
            Action::Insert(values, Spelling::Listed) => format!(
                "INSERT ({}) VALUES ({})",
                listed(values, |(index, _)| table.columns[*index].sql()),
                listed(values, |(_, value)| value.sql())
            ),
        };
        let condition = condition.unwrap_or_default();
        format!("\n  WHEN {when}{condition} THEN {action}")
    }
}

fn set(values: &Assignments, table: &Table) -> String {
    listed(values, |(index, value)| {
        format!("{} = {}", table.columns[*index].sql(), value.sql())
    })
}

fn listed(values: &Assignments, text: impl Fn(&(usize, Expression)) -> String) -> String {
    let texts: Vec<String> = values.iter().map(text).collect();
    texts.join(", ")
}

fn filtered(filter: &Option<Expression>) -> String {
    let filter = filter.as_ref();
    filter.map_or_else(String::new, |filter| format!(" WHERE {}", filter.sql()))
}
