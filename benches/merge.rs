//! MERGE into a table of one million rows in four files, by how many keys change and where they lie.
//!
//! `cargo bench --bench merge`; the comparison with other engines is in `benches/compare`.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::Path;

use alluvial::sql::{SessionBuilder, SessionContextExt};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const ROWS: u64 = 1_000_000;
const CHANGES: u64 = 1_000;

fn merge(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
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
        let fresh = || runtime.block_on(table());
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                fresh,
                |(_folder, ctx)| runtime.block_on(run(&ctx, &sql)),
                BatchSize::PerIteration,
            );
        });
    }
}

/// A table of [`ROWS`] rows in four files, by ranges of the key.
async fn table() -> (TempDir, SessionContext) {
    let folder = TempDir::new().unwrap();
    let ctx = session(folder.path());
    run(&ctx, "CREATE TABLE t (id BIGINT PRIMARY KEY, v STRING) TBLPROPERTIES (delta.enableChangeDataFeed = false)").await;
    for quarter in 0..4 {
        let (low, high) = (quarter * ROWS / 4, (quarter + 1) * ROWS / 4 - 1);
        run(
            &ctx,
            &format!("INSERT INTO t SELECT value, 'a' FROM generate_series({low}, {high})"),
        )
        .await;
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

criterion_group!(benches, merge);
criterion_main!(benches);
