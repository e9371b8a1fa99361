//! Answers of sub-queries in a projection, where DataFusion itself has no plan for them.

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int64Type;
use datafusion::prelude::{DataFrame, SessionContext};

use super::*;

/// The tables: `t` has 1, 2, 3 and NULL; `d` has pairs of a group and a value; `filled` has no NULL.
async fn context() -> Result<SessionContext> {
    let ctx = SessionContext::new();
    let tables = [
        "CREATE TABLE t AS SELECT * FROM (VALUES (1, 1), (2, 2), (3, 3), (4, NULL)) AS v (id, x)",
        "CREATE TABLE d AS SELECT * FROM (VALUES (1, 1), (1, 3), (2, NULL), (3, 7)) AS v (k, x)",
        "CREATE TABLE filled AS SELECT * FROM (VALUES (1), (3)) AS v (x)",
        "CREATE TABLE empty AS SELECT * FROM (VALUES (1)) AS v (x) WHERE x > 1",
    ];
    for table in tables {
        ctx.sql(table).await?.collect().await?;
    }
    Ok(ctx)
}

/// What `expression` is for each row of `t`, as T, F and - for NULL.
async fn answers(expression: &str) -> Result<String> {
    let ctx = context().await?;
    let sql = format!("SELECT id, {expression} AS answer FROM t");
    let LogicalPlan::Projection(projection) = ctx.state().create_logical_plan(&sql).await? else {
        return Err(Error::internal("not a projection"));
    };
    let mut lowering = Lowering::new(Arc::unwrap_or_clone(projection.input), "test");
    let columns = projection.expr.into_iter();
    let columns = columns
        .map(|column| lowering.value(column))
        .collect::<Result<Vec<_>>>()?;
    let plan = LogicalPlanBuilder::from(lowering.finish())
        .project(columns)?
        .build()?;
    let batches = DataFrame::new(ctx.state(), plan).collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let answers: &BooleanArray = batch.column(1).as_boolean();
        rows.extend(ids.iter().zip(answers.iter()));
    }
    rows.sort_unstable();
    let letter = |answer| match answer {
        Some(true) => 'T',
        Some(false) => 'F',
        None => '-',
    };
    Ok(rows.into_iter().map(|(_, answer)| letter(answer)).collect())
}

async fn check(expression: &str, expected: &str) {
    assert_eq!(answers(expression).await.unwrap(), expected, "{expression}");
}

async fn check_refused(expression: &str, expected: &str) {
    let error = answers(expression).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{expression}: {error}");
}

#[tokio::test]
async fn membership_is_three_valued() {
    check("t.x IN (SELECT x FROM filled)", "TFT-").await;
    check("t.x NOT IN (SELECT x FROM filled)", "FTF-").await;
    check("t.x IN (SELECT x FROM d)", "T-T-").await;
    check("t.x NOT IN (SELECT x FROM d)", "F-F-").await;
    check("t.x IN (SELECT x FROM empty)", "FFFF").await;
    check("t.x NOT IN (SELECT x FROM empty)", "TTTT").await;
    check("NULL IN (SELECT x FROM filled)", "----").await;
    check("3 IN (SELECT x FROM d)", "TTTT").await;
    check("t.x + 1 IN (SELECT x FROM filled)", "FTF-").await;
    check("CAST(t.x AS SMALLINT) IN (SELECT x FROM filled)", "TFT-").await;
}

#[tokio::test]
async fn membership_by_outer_columns() {
    check("t.x IN (SELECT d.x FROM d WHERE d.k = t.id)", "T-FF").await;
    check("t.x NOT IN (SELECT d.x FROM d WHERE d.k = t.id)", "F-TT").await;
    check("t.x IN (SELECT d.k FROM d WHERE d.x > t.id)", "TFT-").await;
    check("t.x IN (SELECT max(d.x) FROM d WHERE d.k = t.id)", "F-F-").await;
}

#[tokio::test]
async fn names_mean_one_thing_inside_and_another_outside() {
    check("t.x IN (SELECT t.x FROM t)", "TTT-").await;
    check("t.x IN (SELECT t.id FROM t WHERE t.x = 3)", "FFT-").await;
    check("EXISTS (SELECT 1 FROM t WHERE t.id > 3)", "TTTT").await;
}

#[tokio::test]
async fn existence() {
    check("EXISTS (SELECT * FROM d WHERE d.k = t.id)", "TTTF").await;
    check("NOT EXISTS (SELECT * FROM d WHERE d.k = t.id)", "FFFT").await;
    check("EXISTS (SELECT 1 FROM d WHERE d.x < t.x)", "FTTF").await;
    check("EXISTS (SELECT 1 FROM d WHERE t.x > 1)", "FTTF").await;
    check("EXISTS (SELECT 1 FROM d WHERE d.k = t.id LIMIT 1)", "TTTF").await;
    check("EXISTS (SELECT max(x) FROM d WHERE d.k = t.id)", "TTTT").await;
    check("EXISTS (SELECT x FROM empty)", "FFFF").await;
    let grouped = "EXISTS (SELECT d.k FROM d WHERE d.k = t.id GROUP BY d.k HAVING count(*) > 1)";
    check(grouped, "TFFF").await;
    let both = "EXISTS (SELECT 1 FROM d WHERE d.k = t.id) AND t.x NOT IN (SELECT x FROM filled)";
    check(both, "FTFF").await;
}

#[tokio::test]
async fn comparison_with_any_and_all() {
    check("t.x = ANY (SELECT x FROM filled)", "TFT-").await;
    check("t.x > ANY (SELECT x FROM filled)", "FTT-").await;
    check("t.x >= ALL (SELECT x FROM filled)", "FFT-").await;
    check("t.x <> ALL (SELECT x FROM d)", "F-F-").await;
    check("t.x > ALL (SELECT x FROM empty)", "TTTT").await;
}

#[tokio::test]
async fn a_value_by_outer_columns() {
    check("t.x = (SELECT min(d.x) FROM d WHERE d.k = t.id)", "T-F-").await;
    check("(SELECT count(*) FROM d WHERE d.k = t.id) > 1", "TFFF").await;
}

#[tokio::test]
async fn what_cannot_be_joined_is_refused() {
    let by_range = "(SELECT max(d.x) FROM d WHERE d.k < t.id) > 1";
    check_refused(by_range, "compare with = in its WHERE clause").await;
    let limited = "t.x IN (SELECT d.x FROM d WHERE d.k = t.id LIMIT 1)";
    check_refused(limited, "in a way that cannot be turned into a join").await;
    let either = "EXISTS (SELECT d.x FROM d WHERE d.k = t.id UNION SELECT 1)";
    check_refused(either, "uses t.id in a way that cannot be turned").await;
}

#[test]
fn only_sub_queries_count_as_such() {
    assert!(!has_subquery(&lit(1).eq(lit(2))));
    let empty = LogicalPlanBuilder::empty(true).build().unwrap();
    assert!(has_subquery(&not(exists(Arc::new(empty)))));
}
