//! The source of a MERGE: rows, and a relation that has them.

use super::expression::{Expression, Rows, Side};
use super::model::Model;
use super::scope::column;
use super::table::{Column, Table, create_sql, insert_sql, names_sql, values_sql};
use super::value::{Kind, Row, Value};
use crate::random::Random;

/// The column that only sources have.
const FLAG: Column = Column {
    name: "flag",
    kind: Kind::Flag,
};

/// The rows of a source, and where they come from.
#[derive(Debug)]
pub(super) struct Source {
    /// The target's columns in any order, and `flag`.
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// The statements that make the relation.
    pub setup: Vec<String>,
    /// The relation, without a name.
    pub sql: String,
}

impl Source {
    /// A source for the `step`-th statement on the table.
    pub(super) fn random(random: &mut Random, table: &Table, model: &Model, step: usize) -> Self {
        match random.below(100) {
            0..15 => return Self::target_itself(random, table, model),
            15..25 if table.has_feed => return Self::latest_changes(random, table, model),
            _ => {}
        }
        let columns = columns(random, table);
        let count = random.index(9);
        let rows = rows(random, &columns, table, count);
        if rows.is_empty() || random.percent(50) {
            Self::in_tables(random, columns, rows, step)
        } else {
            Self::in_values(columns, rows)
        }
    }

    /// A source of one row.
    pub(super) fn single(random: &mut Random, table: &Table) -> Self {
        let columns = columns(random, table);
        let rows = rows(random, &columns, table, 1);
        Self::in_values(columns, rows)
    }

    fn in_values(columns: Vec<Column>, rows: Vec<Row>) -> Self {
        let typed = columns.iter().map(|column| {
            let (name, data_type) = (column.sql(), column.kind.sql());
            if column.kind.is_nested() {
                format!("s.{name}")
            } else {
                format!("CAST(s.{name} AS {data_type}) AS {name}")
            }
        });
        let typed = typed.collect::<Vec<_>>().join(", ");
        let (values, names) = (values_sql(&columns, &rows), names_sql(&columns, ""));
        let sql = format!("(SELECT {typed} FROM (VALUES {values}) AS s({names}))");
        Self {
            columns,
            rows,
            setup: vec![],
            sql,
        }
    }

    /// A table, a view of it, or its changes: rows that have the flag are deleted again.
    fn in_tables(
        random: &mut Random,
        columns: Vec<Column>,
        mut rows: Vec<Row>,
        step: usize,
    ) -> Self {
        let name = format!("s{step}");
        let mut setup = vec![create_sql(&name, &columns)];
        if !rows.is_empty() {
            setup.push(insert_sql(&name, &columns, &rows));
        }
        let sql = match random.below(3) {
            0 => name,
            1 => {
                setup.push(format!("CREATE VIEW v{step} AS SELECT * FROM {name}"));
                format!("v{step}")
            }
            _ => {
                setup.push(format!("DELETE FROM {name} WHERE flag"));
                rows = deleted_again(rows);
                let names = names_sql(&columns[..columns.len() - 1], "s.");
                format!(
                    "(SELECT {names}, s._change_type = 'delete' AS flag FROM table_changes('{name}', 0) AS s)"
                )
            }
        };
        Self {
            columns,
            rows,
            setup,
            sql,
        }
    }

    /// Rows of the target with a few keys.
    fn target_itself(random: &mut Random, table: &Table, model: &Model) -> Self {
        let key = table.columns[0].kind;
        let keys = [(); 2].map(|()| key.nth(random.below(table.keys)));
        let keys = keys.map(|value| Expression::Literal(key, value));
        let filter = Expression::In(
            Box::new(column(Side::Source, 0, &table.columns)),
            keys.into(),
        );
        let is_chosen = |row: &&Row| {
            filter.holds(Rows {
                source: row,
                ..Rows::default()
            })
        };
        let chosen = model.rows().iter().filter(is_chosen);
        let rows = chosen.map(|row| flagged(row, true)).collect();
        let (names, filter) = (names_sql(&table.columns, "s."), filter.sql());
        Self {
            columns: all_columns(table),
            rows,
            setup: vec![],
            sql: format!("(SELECT {names}, true AS flag FROM t AS s WHERE {filter})"),
        }
    }

    /// What the target's last commit has changed; mostly one side of it.
    fn latest_changes(random: &mut Random, table: &Table, model: &Model) -> Self {
        let removed_only = random.percent(60);
        let changes = model.latest_changes().iter();
        let chosen = changes.filter(|(kind, _)| !removed_only || is_removed(kind));
        let rows = chosen.map(|(kind, row)| flagged(row, is_removed(kind)));
        let names = names_sql(&table.columns, "s.");
        let removed = "(s._change_type IN ('delete', 'update_preimage'))";
        let filter = if removed_only {
            format!(" WHERE {removed}")
        } else {
            String::new()
        };
        let since = model.version() - 1;
        let sql = format!(
            "(SELECT {names}, {removed} AS flag FROM table_changes('t', {since}) AS s{filter})"
        );
        Self {
            columns: all_columns(table),
            rows: rows.collect(),
            setup: vec![],
            sql,
        }
    }
}

fn is_removed(kind: &str) -> bool {
    ["delete", "update_preimage"].contains(&kind)
}

fn all_columns(table: &Table) -> Vec<Column> {
    table.columns.iter().copied().chain([FLAG]).collect()
}

fn flagged(row: &[Value], flag: bool) -> Row {
    row.iter().cloned().chain([Value::Flag(flag)]).collect()
}

/// The target's columns in another order, integers of another width; the flag is the last.
fn columns(random: &mut Random, table: &Table) -> Vec<Column> {
    let mut columns = table.columns.clone();
    random.shuffle(&mut columns);
    for column in &mut columns {
        if Kind::Int.takes(column.kind) {
            column.kind = random.pick(&[Kind::Int, Kind::Long]);
        }
    }
    columns.push(FLAG);
    columns
}

/// Up to so many rows, whose `k` is mostly another one in each.
fn rows(random: &mut Random, columns: &[Column], table: &Table, count: usize) -> Vec<Row> {
    let repeats = random.percent(12);
    let mut numbers: Vec<u64> = (0..table.keys).collect();
    let numbers = random.take(&mut numbers, count);
    let has_null = random.percent(30);
    let mut rows = Vec::with_capacity(count);
    for (position, number) in numbers.into_iter().enumerate() {
        let number = if repeats { number % 3 } else { number };
        let row = columns.iter().map(|column| match column.name {
            "k" if has_null && position == 0 => Value::Null,
            "k" => column.kind.nth(number),
            _ => column.value(random, 0, table.keys),
        });
        rows.push(row.collect());
    }
    rows
}

/// The changes of a table that has got these rows and lost those with a flag: the flag is what was lost.
fn deleted_again(rows: Vec<Row>) -> Vec<Row> {
    let with = |row: &Row, flag| flagged(&row[..row.len() - 1], flag);
    let lost = |row: &&Row| matches!(row.last(), Some(Value::Flag(true)));
    let inserted = rows.iter().map(|row| with(row, false));
    let deleted = rows.iter().filter(lost).map(|row| with(row, true));
    inserted.chain(deleted).collect()
}
