//! Which rows of a commit are changes: what it took away against what it brought.
//!
//! ```text
//!  rows (-1 | +1) ── GROUP BY version, row: sum(±1) ── is not 0 ── |sum| times ─┬─ no pairing: delete | insert
//!                                                                               │
//!                    _change_type ── (version, key, n): -1 beside +1? ── n-th of (version, key, ±1)
//! ```
//!
//! Grouping by whole rows is right whatever the rows are, keys that occur twice included, and it spills. It takes most of the
//! rows away; the sorting of the windows that pair what is left is for the changes only, and streams.

use datafusion::common::{Column, ScalarValue};
use datafusion::functions::expr_fn::abs;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::functions_nested::expr_fn::range;
use datafusion::functions_window::expr_fn::{lag, lead, row_number};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlanBuilder, WindowFrame, WindowFrameBound, WindowFrameUnits,
    ident, lit, when,
};

use crate::change::ChangeType;
use crate::error::Result;

/// Column with the version of the commit.
pub(super) const VERSION: &str = "__version";
/// Column with the side of the row: -1 of what a commit took away, 1 of what it brought.
pub(super) const SIDE: &str = "__alluvial_side";
/// Column with the row id, under [`Pairing::RowId`].
pub(super) const ROW_ID: &str = "__row_id";
/// Column of the result with the change type.
pub(super) const CHANGE: &str = "__change";

const BALANCE: &str = "__balance";
const TIME: &str = "__time";
const NUMBER: &str = "__number";
const PREVIOUS: &str = "__previous";
const NEXT: &str = "__next";

const REMOVED: i64 = -1;
const ADDED: i64 = 1;

/// What tells which added row a removed one has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pairing {
    /// Nothing does.
    None,
    /// The row id.
    RowId,
    /// The columns at these positions.
    Key(Vec<usize>),
}

/// What the column at a position is called in these plans.
pub(super) fn column_name(index: usize) -> String {
    format!("c{index}")
}

/// The column at a position.
pub(super) fn column(index: usize) -> Expr {
    ident(column_name(index))
}

/// The changes that `rows` of so many columns are, each commit by itself. They have [`VERSION`], the columns and [`CHANGE`].
pub(super) fn compare(
    rows: LogicalPlanBuilder,
    width: usize,
    pairing: &Pairing,
) -> Result<LogicalPlanBuilder> {
    let mut row = vec![ident(VERSION)];
    if *pairing == Pairing::RowId {
        row.push(ident(ROW_ID));
    }
    row.extend((0..width).map(column));
    let changed = rows
        .aggregate(row.clone(), vec![sum(ident(SIDE)).alias(BALANCE)])?
        .filter(ident(BALANCE).not_eq(lit(0_i64)))?;
    let side = when(ident(BALANCE).lt(lit(0_i64)), lit(REMOVED)).otherwise(lit(ADDED))?;
    let times = range(lit(0_i64), abs(ident(BALANCE)), lit(1_i64));
    row.extend([side.alias(SIDE), times.alias(TIME)]);
    let changed = changed
        .project(row)?
        .unnest_column(Column::new_unqualified(TIME))?;
    let (changes, kind) = paired(changed, width, pairing)?;
    let columns = (0..width).map(column);
    let output = [ident(VERSION), kind.alias(CHANGE)];
    Ok(changes.project(output.into_iter().chain(columns).collect::<Vec<_>>())?)
}

/// The rows, and the change that each of them is.
fn paired(
    rows: LogicalPlanBuilder,
    width: usize,
    pairing: &Pairing,
) -> Result<(LogicalPlanBuilder, Expr)> {
    let kind = |kind: ChangeType| lit(kind.as_str());
    let is_removed = || ident(SIDE).eq(lit(REMOVED));
    let (rows, place) = match pairing {
        Pairing::None => {
            let change =
                when(is_removed(), kind(ChangeType::Delete)).otherwise(kind(ChangeType::Insert))?;
            return Ok((rows, change));
        }
        Pairing::RowId => (rows, vec![ident(VERSION), ident(ROW_ID)]),
        Pairing::Key(key) => numbered(rows, width, key)?,
    };
    let beside = |function: Expr, name: &str| -> Result<Expr> {
        let order = vec![ident(SIDE).sort(true, true)];
        let function = function.partition_by(place.clone()).order_by(order);
        Ok(function.window_frame(so_far()).build()?.alias(name))
    };
    let rows = rows.window(vec![
        beside(lag(ident(SIDE), Some(1), None), PREVIOUS)?,
        beside(lead(ident(SIDE), Some(1), None), NEXT)?,
    ])?;
    let stays = is_removed().and(ident(NEXT).eq(lit(ADDED)));
    let change = when(stays, kind(ChangeType::UpdatePreimage))
        .when(is_removed(), kind(ChangeType::Delete))
        .when(
            ident(PREVIOUS).eq(lit(REMOVED)),
            kind(ChangeType::UpdatePostimage),
        )
        .otherwise(kind(ChangeType::Insert))?;
    Ok((rows, change))
}

/// Numbers the removed rows of a key, and the added ones, in the order of their other columns; the rows, and what those have in
/// common that belong together.
fn numbered(
    rows: LogicalPlanBuilder,
    width: usize,
    key: &[usize],
) -> Result<(LogicalPlanBuilder, Vec<Expr>)> {
    let mut place = vec![ident(VERSION)];
    place.extend(key.iter().copied().map(column));
    let others = (0..width).filter(|index| !key.contains(index));
    let order = others.map(|index| column(index).sort(true, true)).collect();
    let mut of_side = place.clone();
    of_side.push(ident(SIDE));
    let number = row_number().partition_by(of_side).order_by(order);
    let number = number.window_frame(so_far()).build()?.alias(NUMBER);
    place.push(ident(NUMBER));
    Ok((rows.window(vec![number])?, place))
}

/// The frame of functions that have none: that by ranges, which is the default, is refused for rows ordered by maps.
fn so_far() -> WindowFrame {
    WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow,
    )
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Compares the rows of a query with two columns.
    async fn changes(query: &str, pairing: Pairing) -> Vec<String> {
        let session = SessionContext::new();
        let rows = session.sql(query).await.unwrap().into_unoptimized_plan();
        let plan = compare(LogicalPlanBuilder::from(rows), 2, &pairing).unwrap();
        let names = [VERSION, "c0", "c1", CHANGE].map(ident);
        let plan = plan.project(names).unwrap().build().unwrap();
        let frame = session.execute_logical_plan(plan).await.unwrap();
        let mut found = Vec::new();
        for batch in frame.collect().await.unwrap() {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter();
                let values = values.map(|column| array_value_to_string(column, row).unwrap());
                found.push(values.collect::<Vec<_>>().join(" "));
            }
        }
        found.sort();
        found
    }

    /// Compares rows of (version, side, row id, two columns).
    async fn check(pairing: Pairing, rows: &str, expected: &[&str]) {
        let query =
            format!("SELECT * FROM (VALUES {rows}) AS v ({VERSION}, {SIDE}, {ROW_ID}, c0, c1)");
        assert_eq!(changes(&query, pairing).await, expected, "{rows}");
    }

    #[tokio::test]
    async fn rows_that_were_carried_over_are_no_changes() {
        let rows = "(1, -1, 0, 5, 'a'), (1, 1, 0, 5, 'a'), (1, -1, 0, NULL, NULL), (1, 1, 0, NULL, NULL), (1, -1, 0, 6, 'b')";
        check(Pairing::None, rows, &["1 6 b delete"]).await;
        let twice = "(1, -1, 0, 5, 'a'), (1, -1, 0, 5, 'a'), (1, -1, 0, 5, 'a'), (1, 1, 0, 5, 'a'), (2, 1, 0, 5, 'a')";
        let expected = ["1 5 a delete", "1 5 a delete", "2 5 a insert"];
        check(Pairing::None, twice, &expected).await;
    }

    #[tokio::test]
    async fn a_key_makes_updates() {
        let key = || Pairing::Key(vec![0]);
        let rows = "(1, -1, 0, 5, 'a'), (1, 1, 0, 5, 'b'), (1, -1, 0, 6, 'c'), (1, 1, 0, 7, 'c'), (2, 1, 0, 6, 'c')";
        let expected = [
            "1 5 a update_preimage",
            "1 5 b update_postimage",
            "1 6 c delete",
            "1 7 c insert",
            "2 6 c insert",
        ];
        check(key(), rows, &expected).await;
        let null = "(1, -1, 0, NULL, 'a'), (1, 1, 0, NULL, 'b'), (1, 1, 0, 1, 'b')";
        let expected = [
            "1  a update_preimage",
            "1  b update_postimage",
            "1 1 b insert",
        ];
        check(key(), null, &expected).await;
    }

    #[tokio::test]
    async fn the_nth_of_a_key_becomes_the_nth() {
        let rows = "(1, -1, 0, 5, 'b'), (1, -1, 0, 5, 'a'), (1, -1, 0, 5, 'a'), (1, 1, 0, 5, 'y'), (1, 1, 0, 5, 'x')";
        let expected = [
            "1 5 a update_preimage",
            "1 5 a update_preimage",
            "1 5 b delete",
            "1 5 x update_postimage",
            "1 5 y update_postimage",
        ];
        check(Pairing::Key(vec![0]), rows, &expected).await;
    }

    #[tokio::test]
    async fn row_ids_make_updates_of_rows_without_a_key() {
        let rows = "(1, -1, 7, 5, 'a'), (1, 1, 7, 6, 'b'), (1, -1, 8, 5, 'c'), (1, 1, 8, 5, 'c'), (1, -1, 9, 5, 'd'), (1, 1, 10, 5, 'd')";
        let expected = [
            "1 5 a update_preimage",
            "1 5 d delete",
            "1 5 d insert",
            "1 6 b update_postimage",
        ];
        check(Pairing::RowId, rows, &expected).await;
    }

    #[tokio::test]
    async fn nested_values_are_compared_whole() {
        let query = format!(
            "SELECT {VERSION}, {SIDE}, map(['k'], [n]) AS c0, named_struct('list', [n, NULL]) AS c1 \
             FROM (VALUES (1, -1, 1), (1, 1, 1), (1, -1, 2), (1, 1, 3)) AS v ({VERSION}, {SIDE}, n)"
        );
        let expected = [
            "1 {k: 2} {list: [2, ]} delete",
            "1 {k: 3} {list: [3, ]} insert",
        ];
        assert_eq!(changes(&query, Pairing::None).await, expected);
        let expected = [
            "1 {k: 2} {list: [2, ]} update_preimage",
            "1 {k: 3} {list: [3, ]} update_postimage",
        ];
        // a key of no column: all rows of a version have the same
        assert_eq!(changes(&query, Pairing::Key(vec![])).await, expected);
    }
}
