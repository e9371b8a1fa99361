//! Which version is found, and what is in force at it, for logs of every shape.

use super::find;
use super::test_log::{TestLog, add, commit, state};
use crate::delta::snapshot::Snapshot;

/// What is found without the kernel: the version, and the table's name at it.
async fn check(log: &TestLog, version: Option<i64>, expected: Option<(i64, &str)>) {
    let found = find(&log.table, version).await.ok().flatten();
    let found = found.map(|state| (state.version, state.metadata.name.unwrap_or_default()));
    let found = found
        .as_ref()
        .map(|(version, name)| (*version, name.as_str()));
    assert_eq!(found, expected, "version {version:?}");
}

#[tokio::test]
async fn commits_alone() {
    let log = TestLog::with_commits("a", 3);
    log.put(&commit(2), &state("b"));
    check(&log, None, Some((3, "b"))).await;
    check(&log, Some(2), Some((2, "b"))).await;
    check(&log, Some(1), Some((1, "a"))).await;
    check(&log, Some(4), None).await;
    log.remove(&commit(1));
    check(&log, None, None).await;
    log.remove(&commit(0));
    check(&log, None, None).await;
}

#[tokio::test]
async fn no_log() {
    let log = TestLog::new();
    check(&log, None, None).await;
    log.put(&commit(0), &add(0));
    check(&log, None, None).await;
}

#[tokio::test]
async fn the_last_checkpoint_and_what_follows() {
    let log = TestLog::with_commits("a", 12);
    log.put_checkpoint("b", 2);
    log.remove_commits(0, 1);
    check(&log, None, Some((12, "b"))).await;
    check(&log, Some(2), Some((2, "b"))).await;
    check(&log, Some(7), Some((7, "b"))).await;
    check(&log, Some(1), None).await;
    log.put(&commit(13), &state("c"));
    check(&log, None, Some((13, "c"))).await;
    log.remove_commits(3, 13);
    check(&log, None, Some((2, "b"))).await;
    log.remove(&commit(2));
    check(&log, None, Some((2, "b"))).await;
}

#[tokio::test]
async fn a_last_checkpoint_that_is_old_or_damaged() {
    let log = TestLog::with_commits("a", 6);
    log.put_checkpoint("b", 5);
    log.put_checkpoint("a", 1);
    check(&log, None, Some((6, "a"))).await;
    // the log has been cleaned past it
    log.remove_commits(0, 4);
    check(&log, None, Some((6, "b"))).await;
    for damaged in [
        "",
        "{",
        "{}",
        r#"{"version":3,"size":1}"#,
        r#"{"version":9,"size":1}"#,
    ] {
        log.put("_last_checkpoint", damaged);
        check(&log, None, Some((6, "b"))).await;
        check(&log, Some(5), Some((5, "b"))).await;
    }
    log.remove("_last_checkpoint");
    check(&log, None, Some((6, "b"))).await;
    // the beginning and the checkpoint do not meet
    log.remove(&commit(6));
    log.put(&commit(7), &add(7));
    check(&log, None, None).await;
}

#[tokio::test]
async fn a_gap_is_no_end() {
    let log = TestLog::with_commits("a", 6);
    log.put_checkpoint("a", 2);
    log.remove(&commit(4));
    check(&log, None, None).await;
}

#[tokio::test]
async fn long_tails_are_listed() {
    let log = TestLog::with_commits("a", 400);
    log.put_checkpoint("b", 390);
    log.put_checkpoint("a", 1);
    check(&log, None, Some((400, "b"))).await;
    check(&log, Some(200), Some((200, "a"))).await;
    check(&log, Some(395), Some((395, "b"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_checkpoints() {
    let log = TestLog::with_commits("a", 4);
    let snapshot = Snapshot::load(&log.table, Some(3)).await.unwrap();
    snapshot.write_checkpoint().await.unwrap();
    log.remove_commits(0, 2);
    check(&log, None, Some((4, "a"))).await;
    // nearby, and not the last one
    log.put("_last_checkpoint", r#"{"version":9,"size":1}"#);
    check(&log, Some(3), Some((3, "a"))).await;
    // in parts
    let classic = format!("{:020}.checkpoint.parquet", 3);
    let part = |part: i64| format!("{:020}.checkpoint.{part:010}.0000000002.parquet", 3);
    log.copy(&classic, &part(1));
    log.copy(&classic, &part(2));
    log.remove(&classic);
    check(&log, None, Some((4, "a"))).await;
    log.put("_last_checkpoint", r#"{"version":3,"size":1,"parts":2}"#);
    check(&log, None, Some((4, "a"))).await;
    log.remove(&part(2));
    log.remove("_last_checkpoint");
    check(&log, None, None).await;
}
