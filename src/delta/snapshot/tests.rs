//! Reading a table on, and the tables that are not read.

use std::sync::Arc;

use super::Snapshot;
use crate::delta::replay::test_log::{TestLog, add, commit, state};

async fn load(log: &TestLog) -> Arc<Snapshot> {
    Snapshot::load(&log.table, None).await.unwrap()
}

async fn check(snapshot: &Snapshot, version: i64, name: &str, files: &[&str]) {
    let found = snapshot.files().await.unwrap();
    let mut found: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
    found.sort_unstable();
    let called = snapshot.metadata().name.as_deref();
    assert_eq!((snapshot.version(), called), (version, Some(name)));
    assert_eq!(found, files);
}

#[tokio::test]
async fn a_snapshot_is_read_on() {
    let log = TestLog::with_commits("a", 1);
    let first = load(&log).await;
    assert!(Arc::ptr_eq(&first, &first.refresh().await.unwrap()));
    log.put(&commit(2), &add(2));
    // the files of the version before are not known yet
    let second = first.refresh().await.unwrap();
    check(&second, 2, "a", &["1.parquet", "2.parquet"]).await;
    let renamed = state("a").replace(r#""name":"a""#, r#""name":"b""#);
    let removed = r#"{"remove":{"path":"1.parquet","dataChange":true}}"#;
    log.put(&commit(3), &format!("{renamed}{removed}\n"));
    log.put(&commit(4), &add(4));
    let third = second.refresh().await.unwrap();
    check(&third, 4, "b", &["2.parquet", "4.parquet"]).await;
    check(&first, 1, "a", &["1.parquet"]).await;
    assert!(third.timestamp().await.unwrap() > 0);
}

#[tokio::test]
async fn a_commit_may_have_been_cleaned_away() {
    let log = TestLog::with_commits("a", 2);
    log.put_checkpoint("a", 2);
    let first = load(&log).await;
    log.remove_commits(0, 2);
    let second = first.refresh().await.unwrap();
    assert_eq!(second.version(), 2);
    assert!(Arc::ptr_eq(&second, &second.refresh().await.unwrap()));
}

#[tokio::test]
async fn another_table_in_the_same_place() {
    let log = TestLog::with_commits("a", 1);
    let first = load(&log).await;
    log.put(&commit(0), &state("another"));
    log.put(&commit(1), &format!("{}\n{}", add(1), add(5)));
    let error = first.files().await.unwrap_err().to_string();
    assert!(error.contains("CONCURRENT_WRITE"), "{error}");
    let second = first.refresh().await.unwrap();
    check(&second, 1, "another", &["1.parquet", "5.parquet"]).await;
}

async fn check_refused(protocol: &str, message: &str) {
    let log = TestLog::with_commits("a", 1);
    let known = r#"{"minReaderVersion":1,"minWriterVersion":2}"#;
    log.put(&commit(0), &state("a").replace(known, protocol));
    let error = Snapshot::load(&log.table, None).await.unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
}

#[tokio::test]
async fn what_we_would_misread_is_refused() {
    check_refused(
        r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["teleportation"],"writerFeatures":["teleportation"]}"#,
        "reader feature(s) teleportation",
    )
    .await;
    check_refused(
        r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["catalogManaged"],"writerFeatures":["catalogManaged","inCommitTimestamp"]}"#,
        "reader feature(s) catalogManaged",
    )
    .await;
    check_refused(
        r#"{"minReaderVersion":4,"minWriterVersion":7,"writerFeatures":[]}"#,
        "reader version 4",
    )
    .await;
}
