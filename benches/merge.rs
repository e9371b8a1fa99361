//! MERGE by how many keys change and where they lie, of one column among many, and with a whole new state of the table.
//!
//! `cargo bench --bench merge`; the comparison with other engines is in `benches/compare`.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::Path;

use alluvial::sql::{SessionBuilder, SessionContextExt};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROWS: u64 = 1_000_000;
const CHANGES: u64 = 1_000;
const WIDE_ROWS: u64 = 50_000;
const WIDE_COLUMNS: u64 = 100;
const WITHOUT_FEED: &str = "TBLPROPERTIES (delta.enableChangeDataFeed = false)";

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge 1k into 1M");
    group.sample_size(10);
    let spread = format!(
        "SELECT value * {} AS id, 'b' AS v FROM generate_series(0, {CHANGES} - 1)",
        ROWS / CHANGES
    );
    let recent = format!(
        "SELECT value AS id, 'b' AS v FROM generate_series({ROWS} - {CHANGES} / 2, {ROWS} + {CHANGES} / 2)"
    );
    for (name, source) in [("all over the table", &spread), ("at its end", &recent)] {
        let sql = format!(
            "MERGE INTO t USING ({source}) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v \
             WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)"
        );
        measure(&mut group, name, &table(), &sql);
    }
    let state = format!(
        "SELECT value AS id, CASE WHEN value % {} = 0 THEN 'b' ELSE 'a' END AS v FROM generate_series(500, {ROWS} + 500)",
        ROWS / CHANGES
    );
    let sql = format!(
        "MERGE INTO t USING ({state}) AS s ON t.id = s.id WHEN MATCHED AND t.v <> s.v THEN UPDATE SET v = s.v \
         WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v) WHEN NOT MATCHED BY SOURCE THEN DELETE"
    );
    measure(
        &mut group,
        "as the difference from a whole state",
        &table(),
        &sql,
    );
    group.finish();
}

fn wide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge 500 into 50k of 100 columns");
    group.sample_size(10);
    let sql = "MERGE INTO t USING (SELECT value * 100 AS id, -1 AS v FROM generate_series(0, 499)) AS s ON t.id = s.id \
               WHEN MATCHED THEN UPDATE SET c7 = s.v";
    measure(&mut group, "one column", &wide_table(), sql);
    group.finish();
}

/// Runs the statement on a new table each time; making the table is not measured.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, made_by: &[String], sql: &str) {
    let runtime = Runtime::new().unwrap();
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            || runtime.block_on(made(made_by)),
            |(folder, ctx)| {
                runtime.block_on(run(&ctx, sql));
                folder
            },
            BatchSize::PerIteration,
        );
    });
}

/// A table of [`ROWS`] rows in four files, by ranges of the key.
fn table() -> Vec<String> {
    let create = format!("CREATE TABLE t (id BIGINT PRIMARY KEY, v STRING) {WITHOUT_FEED}");
    let inserts = (0..4).map(|quarter| {
        let (low, high) = (quarter * ROWS / 4, (quarter + 1) * ROWS / 4 - 1);
        format!("INSERT INTO t SELECT value, 'a' FROM generate_series({low}, {high})")
    });
    [create].into_iter().chain(inserts).collect()
}

/// A table of [`WIDE_COLUMNS`] columns, whose values tell the columns apart.
fn wide_table() -> Vec<String> {
    let columns: Vec<String> = (1..WIDE_COLUMNS)
        .map(|column| format!("value * {column} % 1000 AS c{column}"))
        .collect();
    vec![format!(
        "CREATE TABLE t {WITHOUT_FEED} AS SELECT value AS id, {} FROM generate_series(0, {WIDE_ROWS} - 1)",
        columns.join(", ")
    )]
}

async fn made(by: &[String]) -> (TempDir, SessionContext) {
    let folder = TempDir::new().unwrap();
    let ctx = session(folder.path());
    for sql in by {
        run(&ctx, sql).await;
    }
    (folder, ctx)
}

fn session(folder: &Path) -> SessionContext {
    SessionBuilder::new()
        .with_warehouse(folder)
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

criterion_group!(benches, merge, wide);
criterion_main!(benches);
