//! What every kind of location has to do alike.

use alluvial::sql::SessionContextExt;
use futures::StreamExt;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::Check;
use super::place::{Place, path_text};
use super::reader::{Reader, changes};
use super::versions::{half_written, overwritten, race, vanished};
use crate::run_statement;
use crate::tables::{check_same, execute, open, rows_of};

pub(super) const CASES: &[(&str, Check)] = &[
    ("first-read", |place| Box::pin(first_read(place))),
    ("bounds", |place| Box::pin(bounds(place))),
    ("overwritten", |place| Box::pin(overwritten(place))),
    ("parquet", |place| Box::pin(parquet(place))),
    ("half-written", |place| Box::pin(half_written(place))),
    ("race", |place| Box::pin(race(place))),
    ("sync", |place| Box::pin(sync(place))),
    ("vanished", |place| Box::pin(vanished(place))),
    ("odd-names", |place| Box::pin(odd_names(place))),
    ("nothing-there", |place| Box::pin(nothing_there(place))),
    ("cancelled", |place| Box::pin(cancelled(place))),
    ("secrets", |place| Box::pin(secrets(place))),
];

/// The first three files of most cases.
const FIRST: &str = "id,name,_change_request_type\n1,one,u\n2,two,u\n";
const SECOND: &str = "id,name,_change_request_type\n1,uno,U\n";
const THIRD: &str = "id,name,_change_request_type\n2,, d \n3,three,u\n";
/// Their changes.
pub(super) const CHANGES: &[&str] = &[
    r#"[1,"one","upsert",1]"#,
    r#"[2,"two","upsert",1]"#,
    r#"[1,"uno","upsert",2]"#,
    r#"[2,null,"delete",3]"#,
    r#"[3,"three","upsert",3]"#,
];
const STATE: &str = "SELECT * FROM landed ORDER BY id";

pub(super) async fn put_three(place: &Place) -> Result<(), Failed> {
    for (name, content) in [("1.csv", FIRST), ("2.csv", SECOND), ("3.csv", THIRD)] {
        place.put(name, content).await?;
    }
    Ok(())
}

/// Files are numbered once: every session sees the same versions, and a new file is the next one.
async fn first_read(place: Place) -> Result<(), Failed> {
    put_three(&place).await?;
    let reader = Reader::open(&place).await?;
    reader.check_changes(0, CHANGES).await?;
    reader
        .check(STATE, &[r#"[1,"uno"]"#, r#"[3,"three"]"#])
        .await?;
    let other = Reader::open(&place).await?;
    other.check_changes(0, CHANGES).await?;
    place.put("sub/4.csv", "id,name\n4,four\n").await?;
    for reader in [&reader, &other] {
        reader
            .check_changes(3, &[r#"[4,"four","upsert",4]"#])
            .await?;
        reader.check_changes(4, &[]).await?;
    }
    let files = "SELECT version, file, readable FROM change_versions('landed') ORDER BY version";
    let expected = [
        r#"["1.csv",true,1]"#,
        r#"["2.csv",true,2]"#,
        r#"["3.csv",true,3]"#,
        r#"["sub/4.csv",true,4]"#,
    ];
    other.check(files, &expected).await
}

/// Bounds are those of the contract, whether they are arguments or filters.
async fn bounds(place: Place) -> Result<(), Failed> {
    put_three(&place).await?;
    let reader = Reader::open(&place).await?;
    let second = [r#"[1,"uno","upsert",2]"#];
    reader
        .check("SELECT * FROM table_changes('landed', 1, 2)", &second)
        .await?;
    reader
        .check(
            "SELECT * FROM table_changes('landed', 0) WHERE _commit_version = 2",
            &second,
        )
        .await?;
    let of_key = "SELECT * FROM table_changes('landed', 0) WHERE id = 3";
    reader.check(of_key, &[r#"[3,"three","upsert",3]"#]).await?;
    let limited = reader
        .rows("SELECT * FROM table_changes('landed', 0) LIMIT 2")
        .await?;
    if limited.len() != 2 {
        return Err(format!("LIMIT 2 returned {limited:?}").into());
    }
    reader.check_changes(3, &[]).await?;
    let after = ["VERSION_NOT_FOUND", "current version 3"];
    reader.check_error(&changes(4), &after).await?;
    reader
        .check_error("SELECT * FROM table_changes('landed', 1, 4)", &after)
        .await?;
    reader
        .check_error(
            "SELECT * FROM table_changes('landed', 2, 2)",
            &["since_version"],
        )
        .await
}

async fn parquet(place: Place) -> Result<(), Failed> {
    let (warehouse, folder) = (TempDir::new()?, TempDir::new()?);
    let session = open(warehouse.path())?;
    let files = [
        (
            "1.parquet",
            "SELECT 1 AS id, 'one' AS name UNION ALL SELECT 2, 'two'",
        ),
        (
            "2.parquet",
            "SELECT 1 AS id, CAST(NULL AS VARCHAR) AS name, 'd' AS _change_request_type",
        ),
        (
            "3.parquet",
            "SELECT 3 AS id, 'three' AS name, 7 AS more, 'u' AS _change_request_type",
        ),
    ];
    for (name, query) in files {
        let file = folder.path().join(name);
        let target = path_text(&file)?;
        execute(
            &session,
            &format!("COPY ({query}) TO '{target}' STORED AS PARQUET"),
        )
        .await?;
        place.put(name, std::fs::read(&file)?).await?;
    }
    let place = place
        .with_option("format", "parquet")
        .with_option("pattern", "*.parquet");
    let reader = Reader::open(&place).await?;
    let expected = [
        r#"[1,null,"one","upsert",1]"#,
        r#"[2,null,"two","upsert",1]"#,
        r#"[1,null,null,"delete",2]"#,
        r#"[3,7,"three","upsert",3]"#,
    ];
    reader.check_changes(0, &expected).await?;
    reader
        .check(STATE, &[r#"[2,null,"two"]"#, r#"[3,7,"three"]"#])
        .await
}

/// A Delta table follows the files.
async fn sync(place: Place) -> Result<(), Failed> {
    put_three(&place).await?;
    let reader = Reader::open(&place).await?;
    reader.sync().await?;
    let rows = [r#"[1,"uno"]"#, r#"[3,"three"]"#].map(str::to_owned);
    check_same(
        "the target",
        &rows,
        &rows_of(&reader.session, "target").await?,
    )?;
    place
        .put(
            "4.csv",
            "id,name,_change_request_type\n3,,d\n4,four,u\n9,,d\n",
        )
        .await?;
    place
        .put("5.csv", "id,name,_change_request_type\n1,ein,u\n")
        .await?;
    let report = reader.sync().await?;
    if (
        report.rows.inserted,
        report.rows.updated,
        report.rows.deleted,
    ) != (1, 1, 1)
    {
        return Err(format!("one row each is inserted, updated and deleted: {report:?}").into());
    }
    let rows = [r#"[1,"ein"]"#, r#"[4,"four"]"#].map(str::to_owned);
    for reader in [reader.clone(), reader.another(&place).await?] {
        check_same(
            "the target",
            &rows,
            &rows_of(&reader.session, "target").await?,
        )?;
        let report = reader.sync().await?;
        if report.mode != "up to date" {
            return Err(format!("nothing is left to do: {report:?}").into());
        }
    }
    Ok(())
}

/// Names are what they are, in the location and below it; folders of Hive are columns.
async fn odd_names(place: Place) -> Result<(), Failed> {
    let place = place.at("Ablage für 100% #1/x=y & z");
    let files = [
        "land=50%25/a b.csv",
        "land=Köln am Rhein/größe=1/ä%20ö.csv",
        "land=__HIVE_DEFAULT_PARTITION__/it's [1] {2}.csv",
        "z+e & f#g?.csv",
    ];
    for (index, name) in files.iter().enumerate() {
        place
            .put(name, format!("id,name\n{index},n{index}\n"))
            .await?;
    }
    let expected = [
        r#"[null,0,"50%","n0","upsert",1]"#,
        r#"["1",1,"Köln am Rhein","n1","upsert",2]"#,
        r#"[null,2,null,"n2","upsert",3]"#,
        r#"[null,3,null,"n3","upsert",4]"#,
    ];
    let names = files.map(|name| format!("[{}]", serde_json::Value::from(name)));
    for _ in 0..2 {
        let reader = Reader::open(&place).await?;
        reader.check_changes(0, &expected).await?;
        let found = reader
            .rows("SELECT file FROM change_versions('landed') ORDER BY version")
            .await?;
        if found != names {
            return Err(format!("the files are {names:?}, not {found:?}").into());
        }
    }
    Ok(())
}

/// A folder that nobody has put anything into: with declared columns it is an empty table, which may fill.
async fn nothing_there(place: Place) -> Result<(), Failed> {
    let place = place.at("nowhere");
    if place.is_local() {
        // only a file system tells an empty folder from none
        Reader::check_refused(&place, &["is not there", "correct the LOCATION"]).await?;
        place.put("_kept", "").await?;
    }
    Reader::check_refused(
        &place,
        &["no file yet", "name them in CREATE EXTERNAL TABLE"],
    )
    .await?;
    let reader = Reader::declare(&place, "(id BIGINT, name VARCHAR)").await?;
    reader.check_changes(0, &[]).await?;
    reader.check(STATE, &[]).await?;
    reader
        .check_error(&changes(1), &["VERSION_NOT_FOUND", "current version 0"])
        .await?;
    place.put("1.csv", FIRST).await?;
    reader.check_changes(0, &CHANGES[..2]).await
}

/// A read that is given up leaves nothing behind that disturbs the next one.
async fn cancelled(place: Place) -> Result<(), Failed> {
    const ROWS: usize = 20_000;
    let rows: String = (0..ROWS).map(|id| format!("{id},name of {id}\n")).collect();
    for file in 1..=3 {
        place
            .put(&format!("{file}.csv"), format!("id,name\n{rows}"))
            .await?;
    }
    let reader = Reader::open(&place).await?;
    for _ in 0..3 {
        let frame = reader
            .session
            .alluvial_sql("SELECT * FROM table_changes('landed', 0)")
            .await?;
        let mut stream = frame.execute_stream().await?;
        if stream.next().await.transpose()?.is_none() {
            return Err("there were no rows".into());
        }
    }
    let count = "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM table_changes('landed', 0)";
    reader
        .check(count, &[&format!("[{ROWS},{}]", 3 * ROWS)])
        .await
}

/// What a session tells of its table has no credentials in it.
pub(super) async fn secrets(place: Place) -> Result<(), Failed> {
    place.put("1.csv", FIRST).await?;
    let reader = Reader::open(&place).await?;
    let statements = [
        "EXPLAIN SELECT * FROM landed",
        "EXPLAIN VERBOSE SELECT * FROM table_changes('landed', 0)",
        "EXPLAIN SYNC INTO target FROM landed KEYS (id)",
        "DESCRIBE landed",
        "SELECT * FROM change_versions('landed')",
    ];
    for sql in statements {
        reader.rows(sql).await?;
    }
    let metadata = "SELECT * FROM table_changes('landed', 0, metadata => 'full')";
    reader.rows(metadata).await?;
    // whether there are these is another matter
    for sql in [
        "SHOW CREATE TABLE landed",
        "SELECT * FROM information_schema.views",
    ] {
        if let Ok(answer) = run_statement(&reader.session, sql).await {
            reader.check_secrets(&format!("{:?}", answer.batches))?;
        }
    }
    let table = reader.session.table_provider("landed").await?;
    reader.check_secrets(&format!("{table:?}"))?;
    reader.check_secrets(table.get_table_definition().unwrap_or_default())
}
