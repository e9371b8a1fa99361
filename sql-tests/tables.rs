//! What tests of several statements ask of tables: rows as text, what a sync has reported, and whether two answers are equal.

use std::collections::BTreeMap;
use std::ops::Add;
use std::path::Path;

use alluvial::sql::SessionBuilder;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;

use crate::canonical::{self, CHANGE_TYPE, COMMIT_VERSION};
use crate::{Answer, run_statement};

/// A session on a warehouse that shares nothing with other sessions but the files.
pub(crate) fn open(warehouse: &Path) -> Result<SessionContext, Failed> {
    Ok(SessionBuilder::new().with_warehouse(warehouse).build()?)
}

/// Runs one statement; a failure shows it.
pub(crate) async fn execute(session: &SessionContext, sql: &str) -> Result<Answer, Failed> {
    run_statement(session, sql)
        .await
        .map_err(|error| format!("{}\n[SQL] {sql}", error.strip_backtrace()).into())
}

/// The rows of a query as canonical text, sorted.
pub(crate) async fn rows(session: &SessionContext, query: &str) -> Result<Vec<String>, Failed> {
    let answer = execute(session, query).await?;
    let mut rows = canonical::rows(&answer, &canonical::columns(&answer))?;
    rows.sort();
    Ok(rows)
}

/// The same with the columns in the order given.
pub(crate) async fn rows_in(
    session: &SessionContext,
    query: &str,
    columns: &[&str],
) -> Result<Vec<String>, Failed> {
    let answer = execute(session, query).await?;
    let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let mut rows = canonical::rows(&answer, &columns)?;
    rows.sort();
    Ok(rows)
}

/// The rows of a table as canonical text, sorted.
pub(crate) async fn rows_of(session: &SessionContext, table: &str) -> Result<Vec<String>, Failed> {
    rows(session, &format!("SELECT * FROM {table}")).await
}

/// A change of a row: its type and the row, both as canonical text.
pub(crate) type Change = (String, String);

/// All changes of a table since its creation, sorted, without their versions.
pub(crate) async fn feed(session: &SessionContext, table: &str) -> Result<Vec<Change>, Failed> {
    let sql = format!("SELECT * FROM table_changes('{table}', NULL)");
    let answer = execute(session, &sql).await?;
    let mut columns = canonical::columns(&answer);
    columns.retain(|name| ![CHANGE_TYPE, COMMIT_VERSION].contains(&name.as_str()));
    let types = canonical::rows(&answer, &[CHANGE_TYPE.to_owned()])?;
    let rows = canonical::rows(&answer, &columns)?;
    let mut changes: Vec<Change> = types.into_iter().zip(rows).collect();
    changes.sort();
    Ok(changes)
}

/// The rows that changes from the creation on add up to, sorted.
///
/// # Errors
/// When a row is removed more often than it is added.
pub(crate) fn net(feed: &[Change]) -> Result<Vec<String>, Failed> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for (change_type, row) in feed {
        let adds = ["[\"insert\"]", "[\"update_postimage\"]"].contains(&change_type.as_str());
        *counts.entry(row).or_default() += if adds { 1 } else { -1 };
    }
    let mut rows = Vec::new();
    for (row, count) in counts {
        let count = usize::try_from(count)
            .map_err(|_| format!("the change feed removes {row} more often than it adds it"))?;
        rows.extend(std::iter::repeat_n(row.to_owned(), count));
    }
    Ok(rows)
}

/// Makes sure that the change feed of a table, from its creation on, adds up to its rows.
pub(crate) async fn check_feed(session: &SessionContext, table: &str) -> Result<(), Failed> {
    let found = net(&feed(session, table).await?)?;
    let expected = rows_of(session, table).await?;
    check_same(
        &format!("the sum of the changes of {table}"),
        &expected,
        &found,
    )
}

/// Makes sure that two tables have the same rows.
pub(crate) async fn check_equal(
    session: &SessionContext,
    source: &str,
    target: &str,
) -> Result<(), Failed> {
    let expected = rows_of(session, source).await?;
    let found = rows_of(session, target).await?;
    check_same(target, &expected, &found)
}

/// Makes sure that two sorted lists are equal; the failure shows in what they differ.
pub(crate) fn check_same<T: Ord + std::fmt::Debug>(
    what: &str,
    expected: &[T],
    found: &[T],
) -> Result<(), Failed> {
    if expected == found {
        return Ok(());
    }
    let missing = without(expected, found);
    let superfluous = without(found, expected);
    Err(format!(
        "{what} is not as expected:\n  missing: {missing:?}\n  superfluous: {superfluous:?}"
    )
    .into())
}

/// What is in `all` more often than in `others`; both are sorted.
fn without<'a, T: Ord>(all: &'a [T], others: &[T]) -> Vec<&'a T> {
    let mut others = others.iter().peekable();
    let mut rest = Vec::new();
    for item in all {
        while others.next_if(|other| *other < item).is_some() {}
        if others.next_if(|other| *other == item).is_none() {
            rest.push(item);
        }
    }
    rest
}

/// How many rows have been inserted, updated and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            inserted: self.inserted + other.inserted,
            updated: self.updated + other.updated,
            deleted: self.deleted + other.deleted,
        }
    }
}

/// What a sync says that it has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub mode: String,
    pub rows: Counts,
    pub target_version: Option<i64>,
}

/// Runs a SYNC or APPLY CHANGES.
pub(crate) async fn sync(session: &SessionContext, sql: &str) -> Result<Report, Failed> {
    let answer = execute(session, sql).await?;
    let [batch] = answer.batches.as_slice() else {
        return Err(format!("{sql}: there is no report").into());
    };
    let number = |name: &str| {
        let column = batch.column_by_name(name)?;
        let numbers = column.as_primitive_opt::<Int64Type>()?;
        numbers.iter().next().flatten()
    };
    let count =
        |name: &str| number(name).ok_or_else(|| format!("{sql}: the report lacks {name:?}"));
    Ok(Report {
        mode: batch.column(0).as_string::<i32>().value(0).to_owned(),
        rows: Counts {
            inserted: count("rows_inserted")?,
            updated: count("rows_updated")?,
            deleted: count("rows_deleted")?,
        },
        target_version: number("target_version"),
    })
}
