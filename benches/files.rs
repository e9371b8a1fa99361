//! Change-marked files: reading them beside DataFusion's own listing table, their state by key, and looking for new ones.
//!
//! `cargo bench --bench files`; the comparison of whole processes, with more files, is in `benches/compare`.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::Path;

use alluvial::sql::{SessionBuilder, SessionContextExt};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LARGE_FILES: u64 = 10;
const ROWS: u64 = 100_000;
const SMALL_FILES: usize = 2_000;

/// Of twenty rows one deletes.
const COLUMNS: &str = "value AS id, CAST(value % 1000 AS INT) AS k, concat('b-', value % 97) AS v, value * 0.5 AS w, \
     to_timestamp_micros(value * 1000000) AS t, CASE WHEN value % 20 = 0 THEN 'd' ELSE 'u' END AS _change_request_type";
const OVER_ALL_COLUMNS: &str = "SELECT sum(id), sum(k), max(v), sum(w), max(t)";
const COUNT_OF_FILES: &str = "SELECT count(version) FROM change_versions('many')";

fn reading(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let ctx = session(&folder.path().join("warehouse"));
    for format in ["parquet", "csv"] {
        runtime.block_on(large_files(&ctx, &folder.path().join(format), format));
    }
    let mut group = criterion.benchmark_group("1M rows in 10 files");
    group.sample_size(10);
    for (name, sql) in [
        (
            "Parquet, changes",
            format!("{OVER_ALL_COLUMNS} FROM table_changes('parquet', 0)"),
        ),
        (
            "Parquet, listing table",
            format!("{OVER_ALL_COLUMNS} FROM parquet_listed"),
        ),
        (
            "CSV, changes",
            format!("{OVER_ALL_COLUMNS} FROM table_changes('csv', 0)"),
        ),
        (
            "CSV, listing table",
            format!("{OVER_ALL_COLUMNS} FROM csv_listed"),
        ),
        (
            "Parquet, state by key",
            "SELECT count(*), sum(w) FROM parquet".to_owned(),
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(run(&ctx, &sql)))
        });
    }
}

/// Files of [`ROWS`] rows, as a source that has the name of its format, and as a listing table beside it.
async fn large_files(ctx: &SessionContext, folder: &Path, format: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let shown = folder.display();
    for file in 0..LARGE_FILES {
        let (first, last) = (file * ROWS, (file + 1) * ROWS - 1);
        let rows = format!("SELECT {COLUMNS} FROM generate_series({first}, {last})");
        let copy = format!("COPY ({rows}) TO '{shown}/{file}.{format}' STORED AS {format}");
        run(ctx, &copy).await;
    }
    let source =
        format!("STORED AS CHANGE_FILES LOCATION '{shown}' OPTIONS (format '{format}', key 'id')");
    run(ctx, &format!("CREATE EXTERNAL TABLE {format} {source}")).await;
    let listing = format!("STORED AS {format} LOCATION '{shown}/'");
    run(
        ctx,
        &format!("CREATE EXTERNAL TABLE {format}_listed {listing}"),
    )
    .await;
}

fn looking(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let drop = folder.path().join("drop");
    std::fs::create_dir_all(&drop).unwrap();
    for file in 0..SMALL_FILES {
        land(&drop, file);
    }
    let open = || {
        let ctx = session(&folder.path().join("warehouse"));
        let options = "OPTIONS (format 'csv', key 'id')";
        let sql = format!(
            "CREATE EXTERNAL TABLE many STORED AS CHANGE_FILES LOCATION '{}' {options}",
            drop.display()
        );
        (ctx, sql)
    };
    let mut group = criterion.benchmark_group("2,000 files of 10 rows");
    group.sample_size(10);
    group.bench_function("first look", |bencher| {
        let without_ledger = || {
            let ledger = drop.join("_alluvial");
            if ledger.exists() {
                std::fs::remove_dir_all(ledger).unwrap();
            }
            open()
        };
        bencher.iter_batched(
            without_ledger,
            |(ctx, sql)| runtime.block_on(run(&ctx, &sql)),
            BatchSize::PerIteration,
        );
    });
    let (ctx, sql) = open();
    runtime.block_on(run(&ctx, &sql));
    group.bench_function("nothing new", |bencher| {
        bencher.iter(|| runtime.block_on(run(&ctx, COUNT_OF_FILES)));
    });
    group.bench_function("read", |bencher| {
        let sql = "SELECT count(*), sum(id) FROM table_changes('many', 0)";
        bencher.iter(|| runtime.block_on(run(&ctx, sql)));
    });
    let mut landed = SMALL_FILES;
    group.bench_function("one new file", |bencher| {
        let one_more = || {
            land(&drop, landed);
            landed += 1;
        };
        bencher.iter_batched(
            one_more,
            |()| runtime.block_on(run(&ctx, COUNT_OF_FILES)),
            BatchSize::PerIteration,
        );
    });
}

/// Puts a file of ten rows into a folder.
fn land(folder: &Path, number: usize) {
    let rows = (number * 10..number * 10 + 10).map(|id| format!("{id},name of {id},u\n"));
    let text = format!("id,name,_change_request_type\n{}", rows.collect::<String>());
    std::fs::write(folder.join(format!("{number:06}.csv")), text).unwrap();
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

criterion_group!(benches, reading, looking);
criterion_main!(benches);
