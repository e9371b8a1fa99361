//! What every source keeps of the change contract (its sections 1 and 2): one suite, run on each of them.
//!
//! A source passes where [`check`] returns. What it has to return is given version by version; the suite asks for it in all the
//! ways in which it can be asked for.

mod change;
mod suite;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::prelude::SessionContext;

use self::change::ExpectedVersion;
use self::suite::check;
use super::tracked::{ScriptedChange, ScriptedTable};
use super::{ChangeFiles, ChangeSource, DeltaFeed, DeltaTracking, Tracked};
use crate::change::ChangeType;
use crate::delta::DeltaTable;
use crate::sql::{SessionBuilder, SessionContextExt, SourceTable};

#[tokio::test(flavor = "multi_thread")]
async fn delta_tables_conform() {
    let folder = tempfile::tempdir().unwrap();
    let session = SessionBuilder::new().with_warehouse(folder.path());
    let ctx = session.build().unwrap();
    for sql in [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name STRING)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        "UPDATE t SET name = 'B' WHERE id = 2",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (1, 'c')",
    ] {
        let done = ctx.alluvial_sql(sql).await.unwrap();
        done.collect().await.unwrap();
    }
    let location = folder.path().join("t");
    let table = DeltaTable::new("t", location.to_str().unwrap(), HashMap::new());
    let expected = [
        ExpectedVersion::new(0, &[]),
        ExpectedVersion::new(
            1,
            &["insert id=1 name=a", "insert id=2 name=b", "insert id=3"],
        ),
        ExpectedVersion::new(
            2,
            &[
                "update_preimage id=2 name=b",
                "update_postimage id=2 name=B",
            ],
        ),
        ExpectedVersion::new(3, &["delete id=1 name=a"]),
        ExpectedVersion::new(4, &["insert id=1 name=c"]),
    ];
    let table = table.unwrap();
    check(Arc::new(DeltaFeed::new(table.clone())), &expected).await;
    check(Arc::new(DeltaFeed::pinned(table)), &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_tables_with_change_tracking_conform() {
    let folder = tempfile::tempdir().unwrap();
    let session = SessionBuilder::new().with_warehouse(folder.path());
    let ctx = session.build().unwrap();
    for sql in [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, name STRING)",
        "ALTER TABLE t SET TBLPROPERTIES ('delta.checkpointInterval' = '3')",
        "ALTER TABLE t ENABLE CHANGE_TRACKING",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        "DELETE FROM t WHERE id = 1",
        "UPDATE t SET name = 'B' WHERE id = 2",
    ] {
        let done = ctx.alluvial_sql(sql).await.unwrap();
        done.collect().await.unwrap();
    }
    let location = folder.path().join("t");
    let table = DeltaTable::new("t", location.to_str().unwrap(), HashMap::new());
    let expected = [
        ExpectedVersion::new(
            1,
            &["insert id=1 name=a", "insert id=2 name=b", "insert id=3"],
        ),
        ExpectedVersion::new(2, &["delete id=1 name=a"]),
        ExpectedVersion::new(
            3,
            &[
                "update_preimage id=2 name=b",
                "update_postimage id=2 name=B",
            ],
        ),
    ];
    let tracking = DeltaTracking::new(table.unwrap());
    check(Arc::new(Tracked(tracking)), &expected).await;
}

/// Runs the statements, and returns the source that the last one has made by the name `s`, with the session that it lives in.
async fn source_of(folder: &Path, statements: &[&str]) -> (Arc<dyn ChangeSource>, SessionContext) {
    let session = SessionBuilder::new().with_warehouse(folder);
    let ctx = session.build().unwrap();
    for sql in statements {
        let done = ctx.alluvial_sql(sql).await.unwrap();
        done.collect().await.unwrap();
    }
    let provider = ctx.table_provider("s").await.unwrap();
    let source = SourceTable::of(provider.as_ref()).unwrap().source();
    (source, ctx)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_with_a_version_column_conform() {
    let folder = tempfile::tempdir().unwrap();
    let statements = [
        "CREATE TABLE t (id BIGINT, name STRING, at BIGINT, gone BOOLEAN)",
        "INSERT INTO t VALUES (1, 'a', 1, false), (2, 'b', 1, NULL), (3, NULL, 4, false), (4, 'd', 7, true)",
        "CREATE EXTERNAL TABLE s STORED AS VERSIONED OPTIONS (table 't', version 'at', key 'id', deleted 'gone')",
    ];
    let (source, _session) = source_of(folder.path(), &statements).await;
    let expected = [
        ExpectedVersion::new(
            1,
            &[
                "upsert id=1 name=a at=1 gone=false",
                "upsert id=2 name=b at=1",
            ],
        ),
        ExpectedVersion::new(4, &["upsert id=3 at=4 gone=false"]),
        ExpectedVersion::new(7, &["delete id=4 name=d at=7 gone=true"]),
    ];
    check(source, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_dumps_conform() {
    let folder = tempfile::tempdir().unwrap();
    let dumps = folder.path().join("dumps");
    std::fs::create_dir(&dumps).unwrap();
    for (name, rows) in [
        ("1.csv", "1,a\n2,b\n"),
        ("2.csv", "1,A\n2,b\n3,\n"),
        ("3.csv", "3,\n1,A\n"),
    ] {
        std::fs::write(dumps.join(name), format!("id,name\n{rows}")).unwrap();
    }
    let create = format!(
        "CREATE EXTERNAL TABLE s STORED AS SNAPSHOTS LOCATION '{}' OPTIONS (format 'csv', key 'id')",
        dumps.display()
    );
    let warehouse = folder.path().join("warehouse");
    let (source, _session) = source_of(&warehouse, &[&create]).await;
    let expected = [
        ExpectedVersion::new(1, &["insert id=1 name=a", "insert id=2 name=b"]),
        ExpectedVersion::new(
            2,
            &[
                "update_preimage id=1 name=a",
                "update_postimage id=1 name=A",
                "insert id=3",
            ],
        ),
        ExpectedVersion::new(3, &["delete id=2 name=b"]),
    ];
    check(source, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_change_markers_conform() {
    let folder = tempfile::tempdir().unwrap();
    for (name, rows) in [
        ("1.csv", "1,a,u\n2,b,u\n"),
        ("2.csv", "1,A,u\n3,,u\n"),
        ("3.csv", "2,b,d\n"),
    ] {
        let text = format!("id,name,_change_request_type\n{rows}");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let options = [("format", "csv"), ("key", "id")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let location = folder.path().to_str().unwrap();
    let declared = Arc::new(Schema::empty());
    let files = ChangeFiles::try_new("landed", location, &HashMap::from(options), declared);
    let expected = [
        ExpectedVersion::new(1, &["upsert id=1 name=a", "upsert id=2 name=b"]),
        ExpectedVersion::new(2, &["upsert id=1 name=A", "upsert id=3"]),
        ExpectedVersion::new(3, &["delete id=2 name=b"]),
    ];
    let files = files.unwrap();
    check(Arc::new(files.clone()), &expected).await;
    check(Arc::new(files.pinned()), &expected).await;
}

fn script() -> Vec<Vec<ScriptedChange>> {
    use ChangeType::{Delete, Insert, UpdatePostimage, UpdatePreimage};
    vec![
        vec![(Insert, 1, Some("a")), (Insert, 2, None)],
        vec![
            (UpdatePreimage, 1, Some("a")),
            (UpdatePostimage, 1, Some("A")),
        ],
        vec![(Delete, 2, None), (Insert, 3, Some("c"))],
        vec![],
    ]
}

fn scripted_versions() -> Vec<ExpectedVersion> {
    vec![
        ExpectedVersion::new(1, &["insert id=1 name=a", "insert id=2"]),
        ExpectedVersion::new(
            2,
            &[
                "update_preimage id=1 name=a",
                "update_postimage id=1 name=A",
            ],
        ),
        ExpectedVersion::new(3, &["delete id=2", "insert id=3 name=c"]),
        ExpectedVersion::new(4, &[]),
    ]
}

#[tokio::test]
async fn scripted_tables_conform() {
    for min_valid in 0..3 {
        let source = Tracked(ScriptedTable::new(script(), min_valid));
        let expected = scripted_versions().split_off(min_valid as usize);
        check(Arc::new(source), &expected).await;
    }
}
