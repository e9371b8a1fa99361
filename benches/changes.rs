//! Reading a change feed: one large commit, and many small ones.
//!
//! `cargo bench --bench changes`; the comparison with other engines is in `benches/compare`.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use alluvial::sql::{SessionBuilder, SessionContextExt};
use criterion::{Criterion, criterion_group, criterion_main};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn changes(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let ctx = SessionBuilder::new()
        .with_warehouse(folder.path())
        .build()
        .unwrap();
    runtime.block_on(histories(&ctx));
    let mut group = criterion.benchmark_group("table_changes");
    group.sample_size(10);
    for (name, sql) in [
        (
            "1M rows in one commit",
            "SELECT sum(id) FROM table_changes('large', 0)",
        ),
        (
            "200 commits of one row",
            "SELECT sum(id) FROM table_changes('small', 0)",
        ),
        (
            "the last 10 of 200 commits",
            "SELECT sum(id) FROM table_changes('small', 190)",
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(run(&ctx, sql)))
        });
    }
}

async fn histories(ctx: &SessionContext) {
    run(ctx, "CREATE TABLE large (id BIGINT)").await;
    run(
        ctx,
        "INSERT INTO large SELECT value FROM generate_series(1, 1000000)",
    )
    .await;
    run(ctx, "CREATE TABLE small (id BIGINT)").await;
    for id in 1..=200 {
        run(ctx, &format!("INSERT INTO small VALUES ({id})")).await;
    }
}

async fn run(ctx: &SessionContext, sql: &str) {
    ctx.alluvial_sql(sql)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
}

criterion_group!(benches, changes);
criterion_main!(benches);
