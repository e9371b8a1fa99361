//! Reading a history from a store that takes 20 ms for each request, beside delta-rs.
//!
//! `cargo bench --bench throttled`. Every run opens the table anew and reads all columns; both readers share one store in memory.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its figures, and may panic"
)]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use alluvial::sql::{SessionBuilder, SessionContextExt};
use datafusion::arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore,
    logstore_factories, object_store_factories,
};
use deltalake::{DeltaResult, DeltaTableBuilder};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use tokio::runtime::Runtime;
use url::Url;

const SCHEME: &str = "throttled://";
const REQUEST: Duration = Duration::from_millis(20);
const COMMITS: u64 = 200;
const LAST: u64 = 10;
const RUNS: usize = 7;
/// delta-rs takes seconds, so that a few runs tell enough.
const PEER_RUNS: usize = 3;
/// The tables, and after how many commits each gets a checkpoint.
const TABLES: [(&str, u64); 2] = [("plain", 1_000), ("checkpointed", 50)];

/// Slow once the tables are made.
static STORE: LazyLock<Arc<ThrottledStore<InMemory>>> = LazyLock::new(|| {
    Arc::new(ThrottledStore::new(
        InMemory::new(),
        ThrottleConfig::default(),
    ))
});

fn main() {
    let runtime = Runtime::new().unwrap();
    register_scheme();
    for (table, interval) in TABLES {
        runtime.block_on(write_commits(table, interval));
    }
    store().config_mut(|config| *config = slow());
    println!("medians, of tables of {COMMITS} commits of one row, {REQUEST:?} a request");
    for (table, interval) in TABLES {
        for since in [0, COMMITS - LAST] {
            let ours = median(RUNS, || runtime.block_on(read(table, since)));
            let theirs = median(PEER_RUNS, || {
                runtime.block_on(read_by_delta_rs(table, since))
            });
            let (ours, theirs) = (ours.as_secs_f64(), theirs.as_secs_f64());
            println!(
                "a checkpoint every {interval:>5} commits, the last {:>3}: alluvial {ours:.3} s, delta-rs {theirs:.3} s, {:.1} x",
                COMMITS - since,
                theirs / ours
            );
        }
    }
}

/// The middle of the times that `read` takes.
fn median(runs: usize, read: impl Fn()) -> Duration {
    let time = || {
        let start = Instant::now();
        read();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..runs).map(|_| time()).collect();
    times.sort();
    times[runs / 2]
}

fn location(table: &str) -> String {
    format!("{SCHEME}bench/{table}")
}

/// A table without deletion vectors, which delta-rs would not write.
async fn write_commits(table: &str, checkpoint_interval: u64) {
    let ctx = SessionBuilder::new().build().unwrap();
    let properties = format!(
        "'delta.checkpointInterval' = '{checkpoint_interval}', 'delta.enableDeletionVectors' = 'false', \
         'delta.enableChangeDataFeed' = 'true'"
    );
    let columns = "id BIGINT, v STRING, w DOUBLE";
    let location = location(table);
    run(
        &ctx,
        &format!(
            "CREATE TABLE {table} ({columns}) TBLPROPERTIES ({properties}) LOCATION '{location}'"
        ),
    )
    .await;
    for id in 1..=COMMITS {
        let insert = format!("INSERT INTO {table} VALUES ({id}, 'a-{id}', 0.5)");
        run(&ctx, &insert).await;
    }
}

async fn read(table: &str, since: u64) {
    let ctx = SessionBuilder::new().build().unwrap();
    let location = location(table);
    let open = format!("CREATE EXTERNAL TABLE {table} STORED AS DELTA LOCATION '{location}'");
    run(&ctx, &open).await;
    let select = format!("SELECT * FROM table_changes('{table}', {since})");
    check_rows(since, &run(&ctx, &select).await);
}

async fn read_by_delta_rs(table: &str, since: u64) {
    let url = Url::parse(&location(table)).unwrap();
    let builder = DeltaTableBuilder::from_url(url).unwrap();
    let table = Box::pin(builder.load()).await.unwrap();
    let changes = table.scan_cdf().with_starting_version(since + 1);
    let provider = DeltaCdfTableProvider::try_new(changes).unwrap();
    let relation = SessionContext::new()
        .read_table(Arc::new(provider))
        .unwrap();
    check_rows(since, &relation.collect().await.unwrap());
}

fn check_rows(since: u64, batches: &[RecordBatch]) {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(u64::try_from(rows), Ok(COMMITS - since));
}

async fn run(ctx: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    ctx.alluvial_sql(sql)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
}

// ---- the store

/// What each request costs, however large its answer is.
fn slow() -> ThrottleConfig {
    ThrottleConfig {
        wait_get_per_call: REQUEST,
        wait_list_per_call: REQUEST,
        wait_list_with_delimiter_per_call: REQUEST,
        wait_put_per_call: REQUEST,
        wait_delete_per_call: REQUEST,
        ..ThrottleConfig::default()
    }
}

fn store() -> Arc<ThrottledStore<InMemory>> {
    Arc::clone(&STORE)
}

/// Teaches deltalake the scheme.
fn register_scheme() {
    let scheme = Url::parse(SCHEME).unwrap();
    object_store_factories().insert(scheme.clone(), Arc::new(Factory));
    logstore_factories().insert(scheme, Arc::new(Factory));
}

/// Hands out the one store, and log stores like those of other object stores.
struct Factory;

impl ObjectStoreFactory for Factory {
    fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let store: ObjectStoreRef = store();
        Ok((store, Path::from_url_path(url.path())?))
    }
}

impl LogStoreFactory for Factory {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(
            prefixed_store,
            root_store,
            location,
            options,
        ))
    }
}
