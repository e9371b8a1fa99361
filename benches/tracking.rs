//! Version-tracked tables: what tracking costs those who write, CHANGETABLE, net changes, the difference of two dumps.
//!
//! `cargo bench --bench tracking`; the comparison of whole processes, with larger tables, is in `benches/compare`.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::Path;

use alluvial::sql::{SessionBuilder, SessionContextExt};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROWS: u64 = 100_000;
const WRITTEN: u64 = 1_000;
const COMMITS: u64 = 200;

const ENABLE: &str = "ALTER TABLE t ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON)";
/// As many commits as enabling tracking.
const LEAVE: &str =
    "ALTER TABLE t SET TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 30 days')";

/// The ids of the table are even, so that odd ones are free to insert.
fn writing(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("1k rows, 100k in the table");
    group.sample_size(10);
    let (first, last) = (ROWS + 1, ROWS + WRITTEN);
    for (name, sql) in [
        (
            "INSERT, rising ids",
            format!(
                "INSERT INTO t SELECT value * 2, 'b', 0.5 FROM generate_series({first}, {last})"
            ),
        ),
        (
            "INSERT, random ids",
            // a prime: its multiples are all different
            format!(
                "INSERT INTO t SELECT value * 7919 % {ROWS} * 2 + 1, 'b', 0.5 FROM generate_series(1, {WRITTEN})"
            ),
        ),
        (
            "UPDATE",
            format!("UPDATE t SET v = 'b' WHERE id / 2 % {} = 0", ROWS / WRITTEN),
        ),
        (
            "DELETE",
            format!("DELETE FROM t WHERE id / 2 % {} = 0", ROWS / WRITTEN),
        ),
    ] {
        for (kind, prepare) in [("not tracked", LEAVE), ("tracked", ENABLE)] {
            group.bench_function(format!("{name}, {kind}"), |bencher| {
                bencher.iter_batched_ref(
                    || runtime.block_on(table(prepare)),
                    |(_folder, ctx)| runtime.block_on(run(ctx, &sql)),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

/// A table of [`ROWS`] rows in four files, by ranges of the key.
async fn table(prepare: &str) -> (TempDir, SessionContext) {
    let folder = TempDir::new().unwrap();
    let ctx = session(folder.path());
    fill(&ctx).await;
    run(&ctx, prepare).await;
    (folder, ctx)
}

async fn fill(ctx: &SessionContext) {
    run(
        ctx,
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v STRING, w DOUBLE)",
    )
    .await;
    for quarter in 0..4 {
        let (first, last) = (quarter * ROWS / 4 + 1, (quarter + 1) * ROWS / 4);
        let rows = format!("SELECT value * 2, 'a', 0.5 FROM generate_series({first}, {last})");
        run(ctx, &format!("INSERT INTO t {rows}")).await;
    }
}

fn reading(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let ctx = session(folder.path());
    let begin = runtime.block_on(history(&ctx));
    let since = |version: u64| {
        format!(
            "SELECT sum(sys_change_version), count(sys_change_columns), sum(id) FROM CHANGETABLE(CHANGES t, {version}) AS ct"
        )
    };
    let last = COMMITS + 1;
    let mut group = criterion.benchmark_group("100k rows updated, then 200 commits of one row");
    group.sample_size(10);
    for (name, sql) in [
        ("CHANGETABLE, the last 10 commits", since(last - 10)),
        ("CHANGETABLE, all", since(0)),
        (
            "table_changes, all",
            format!("SELECT sum(id), max(v), sum(w) FROM table_changes('t', {begin})"),
        ),
        (
            "table_changes, all, net",
            format!("SELECT sum(id), max(v), sum(w) FROM table_changes('t', {begin}, net => true)"),
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(run(&ctx, &sql)))
        });
    }
}

/// A tracked table with a large commit and many small ones; the Delta version that tracking begins with.
async fn history(ctx: &SessionContext) -> u64 {
    fill(ctx).await;
    run(ctx, ENABLE).await;
    run(ctx, "UPDATE t SET w = w + 1").await;
    for number in 1..=COMMITS {
        let sql = format!("UPDATE t SET v = 'b' WHERE id = {}", number * 2);
        run(ctx, &sql).await;
    }
    // CREATE TABLE is version 0, and four inserts come before ENABLE
    5
}

fn dumps(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let ctx = session(&folder.path().join("warehouse"));
    runtime.block_on(two_dumps(&ctx, folder.path()));
    let mut group = criterion.benchmark_group("two dumps of 100k rows, 1% changed");
    group.sample_size(10);
    for (name, sql) in [
        (
            "table_changes",
            "SELECT count(*), max(v), sum(w) FROM table_changes('dumps', 1)",
        ),
        (
            "full outer join of listing tables",
            "SELECT count(*), max(older.v), max(newer.v), sum(older.w), sum(newer.w) \
             FROM older FULL OUTER JOIN newer ON older.id = newer.id \
             WHERE older.id IS DISTINCT FROM newer.id OR older.v IS DISTINCT FROM newer.v OR older.w IS DISTINCT FROM newer.w",
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(run(&ctx, sql)))
        });
    }
}

/// Of a thousand rows of the older dump three are deleted, four are updated, and three new ones follow in the newer one.
async fn two_dumps(ctx: &SessionContext, folder: &Path) {
    let rows = format!("FROM generate_series(1, {ROWS})");
    let older = format!("SELECT value * 2 AS id, 'a' AS v, value * 0.5 AS w {rows}");
    let newer = format!(
        "SELECT value * 2 AS id, CASE WHEN value % 1000 BETWEEN 4 AND 7 THEN 'b' ELSE 'a' END AS v, value * 0.5 AS w \
         {rows} WHERE value % 1000 NOT BETWEEN 1 AND 3 \
         UNION ALL SELECT value * 2 + 1, 'a', value * 0.5 {rows} WHERE value % 1000 BETWEEN 8 AND 10"
    );
    let shown = folder.display();
    for (number, name, query) in [(1, "older", older), (2, "newer", newer)] {
        let dump = format!("{shown}/dumps/{number}");
        let copy = format!("COPY ({query}) TO '{dump}/rows.parquet' STORED AS PARQUET");
        run(ctx, &copy).await;
        let listing = format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{dump}/'");
        run(ctx, &listing).await;
    }
    let options = "OPTIONS (format 'parquet', key 'id')";
    let source = format!("STORED AS SNAPSHOTS LOCATION '{shown}/dumps/*/' {options}");
    run(ctx, &format!("CREATE EXTERNAL TABLE dumps {source}")).await;
}

fn session(warehouse: &Path) -> SessionContext {
    std::fs::create_dir_all(warehouse).unwrap();
    SessionBuilder::new()
        .with_warehouse(warehouse)
        .build()
        .unwrap()
}

async fn run(ctx: &SessionContext, sql: &str) {
    ctx.alluvial_sql(sql)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
}

criterion_group!(benches, writing, reading, dumps);
criterion_main!(benches);
