//! Files that are cut off, broken, empty or not to be read: the error names them, and others do not suffer.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Failed;

use super::landing::{CHANGES, Landing};
use super::{Check, always};

pub(super) const CASES: &[(&str, Check)] = &[
    ("truncated-parquet", |landing| {
        Box::pin(always(truncated_parquet(landing)))
    }),
    ("repaired-parquet", |landing| {
        Box::pin(always(repaired_parquet(landing)))
    }),
    ("set-aside-by-others", |landing| {
        Box::pin(always(set_aside_by_others(landing)))
    }),
    ("broken-page", |landing| {
        Box::pin(always(broken_page(landing)))
    }),
    ("broken-line", |landing| {
        Box::pin(always(broken_line(landing)))
    }),
    ("empty-csv", |landing| {
        Box::pin(always(empty_files(landing, "csv")))
    }),
    ("empty-json", |landing| {
        Box::pin(always(empty_files(landing, "json")))
    }),
    ("empty-avro", |landing| {
        Box::pin(always(empty_files(landing, "avro")))
    }),
    ("empty-parquet", |landing| {
        Box::pin(always(empty_files(landing, "parquet")))
    }),
    ("unreadable", |landing| Box::pin(unreadable(landing))),
    ("cut-gzip", |landing| Box::pin(always(cut_gzip(landing)))),
];

const PARQUET: &str = "format 'parquet'";
const LENIENT: &str = "format 'parquet', on_invalid 'quarantine'";
const REJECTED: &str = "SELECT file, row_number FROM \"landed$rejected\"";

/// Three Parquet files, the second of which is cut off; returns all of it.
async fn put_truncated(landing: &Landing) -> Result<Vec<u8>, Failed> {
    for file in 1..=3 {
        let query = format!("SELECT {file} AS id, 'n{file}' AS name");
        landing
            .put_query(&format!("{file}.parquet"), &query)
            .await?;
    }
    let whole = fs::read(landing.path("2.parquet"))?;
    landing.put("2.parquet", &whole[..whole.len() / 2])?;
    Ok(whole)
}

/// An error until it is whole, and no number before that.
async fn truncated_parquet(landing: Landing) -> Result<(), Failed> {
    let whole = put_truncated(&landing).await?;
    let expected = [
        "2.parquet of landed is no whole Parquet file",
        "on_invalid 'quarantine'",
    ];
    landing
        .check_refused("landed", "drop", PARQUET, &expected)
        .await?;
    landing.put("2.parquet", whole)?;
    landing.create(PARQUET).await?;
    let by_id = "SELECT id, name FROM landed ORDER BY id";
    landing
        .check(by_id, &[r#"[1,"n1"]"#, r#"[2,"n2"]"#, r#"[3,"n3"]"#])
        .await?;
    landing
        .check(
            "SELECT count(*) AS n FROM change_versions('landed')",
            &["[3]"],
        )
        .await
}

/// Set aside as a whole it has a version without rows; repaired it is another version, and what had no rows is not missed.
async fn repaired_parquet(landing: Landing) -> Result<(), Failed> {
    let whole = put_truncated(&landing).await?;
    landing.create(LENIENT).await?;
    let by_id = "SELECT id, name FROM table_changes('landed', 0) ORDER BY id";
    landing
        .check(by_id, &[r#"[1,"n1"]"#, r#"[3,"n3"]"#])
        .await?;
    landing.check(REJECTED, &[r#"["2.parquet",null]"#]).await?;
    landing.put("2.parquet", whole)?;
    let new = "SELECT * FROM table_changes('landed', 3)";
    landing.check(new, &[r#"[2,"n2","upsert",4]"#]).await?;
    landing
        .check(by_id, &[r#"[1,"n1"]"#, r#"[2,"n2"]"#, r#"[3,"n3"]"#])
        .await?;
    landing
        .check("SELECT count(*) AS n FROM landed", &["[3]"])
        .await?;
    landing.check(REJECTED, &[]).await
}

/// That one table sets a file aside does not hide it from another, to which it is an error.
async fn set_aside_by_others(landing: Landing) -> Result<(), Failed> {
    put_truncated(&landing).await?;
    landing.create(LENIENT).await?;
    landing
        .check("SELECT count(*) AS n FROM landed", &["[2]"])
        .await?;
    landing
        .check_refused(
            "strict",
            "drop",
            PARQUET,
            &["2.parquet", "no whole Parquet file"],
        )
        .await
}

/// The end of the file says that all is well; the error of the rows names the file, and other versions are read.
async fn broken_page(landing: Landing) -> Result<(), Failed> {
    let query = "SELECT value AS id, 'name ' || value AS name FROM generate_series(1, 5000)";
    for file in ["1.parquet", "2.parquet"] {
        landing.put_query(file, query).await?;
    }
    let whole = fs::read(landing.path("2.parquet"))?;
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle..middle + 400].fill(0xFF);
    landing.put("2.parquet", broken)?;
    landing.create(PARQUET).await?;
    let sums = |since: u32, until: u32| {
        format!(
            "SELECT count(*) AS n, sum(id) AS s, max(name) AS z FROM table_changes('landed', {since}, {until})"
        )
    };
    let expected = r#"[5000,12502500,"name 999"]"#;
    landing.check_error(&sums(0, 2), &["2.parquet"]).await?;
    landing.check(&sums(0, 1), &[expected]).await?;
    landing.put("2.parquet", whole)?;
    landing
        .check_error(&sums(0, 3), &["CHANGES_EXPIRED", "2.parquet", "version 2"])
        .await?;
    landing.check(&sums(2, 3), &[expected]).await
}

/// The line is named. Set aside, it takes no other row with it, and no row gets another number.
async fn broken_line(landing: Landing) -> Result<(), Failed> {
    const ROWS: usize = 900_010;
    // the header is line 1
    const BROKEN: usize = 899_999;
    let mut text = String::from("id,name\n");
    for id in 1..=ROWS {
        let row = match id {
            BROKEN => format!("{id},n,too many\n"),
            _ => format!("{id},n\n"),
        };
        text.push_str(&row);
    }
    landing.put("1.csv", text)?;
    landing.create("format 'csv'").await?;
    let reason = "1.csv line 900000: 3 fields where the header has 2";
    let count = "SELECT count(*) AS n, sum(CASE WHEN id = _change_ordinal THEN 0 ELSE 1 END) AS moved \
        FROM table_changes('landed', 0, metadata => 'full')";
    landing
        .check_error(count, &[reason, "on_invalid 'quarantine'"])
        .await?;
    landing.run("DROP TABLE landed").await?;
    landing
        .create("format 'csv', on_invalid 'quarantine'")
        .await?;
    // in the order of the columns' names
    landing
        .check(count, &[&format!("[0,{}]", ROWS - 1)])
        .await?;
    let rejected = "SELECT row_number AS a, reason AS b, raw AS c FROM \"landed$rejected\"";
    let expected = format!(
        r#"[{BROKEN},"line 900000: 3 fields where the header has 2","{BROKEN},n,too many"]"#
    );
    landing.check(rejected, &[&expected]).await
}

/// The smallest Avro file with columns: ids and names that are null or text, no compression.
fn avro(rows: &[(i64, &str)]) -> Vec<u8> {
    fn long(number: i64, bytes: &mut Vec<u8>) {
        let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    fn text(value: &str, bytes: &mut Vec<u8>) {
        long(value.len() as i64, bytes);
        bytes.extend_from_slice(value.as_bytes());
    }
    const SCHEMA: &str = r#"{"type":"record","name":"row","fields":[{"name":"id","type":"long"},{"name":"name","type":"string"}]}"#;
    const SYNC: [u8; 16] = *b"0123456789abcdef";
    let mut file = b"Obj\x01".to_vec();
    long(1, &mut file);
    text("avro.schema", &mut file);
    text(SCHEMA, &mut file);
    long(0, &mut file);
    file.extend(SYNC);
    let mut block = Vec::new();
    for (id, name) in rows {
        long(*id, &mut block);
        text(name, &mut block);
    }
    long(rows.len() as i64, &mut file);
    long(block.len() as i64, &mut file);
    file.extend(block);
    file.extend(SYNC);
    file
}

async fn put_row(landing: &Landing, format: &str, file: &str, id: i64) -> Result<(), Failed> {
    let content = match format {
        "csv" => format!("id,name\n{id},n\n").into_bytes(),
        "json" => format!("{{\"id\":{id},\"name\":\"n\"}}\n").into_bytes(),
        "avro" => avro(&[(id, "n")]),
        _ => {
            let query = format!("SELECT {id} AS id, 'n' AS name");
            return landing.put_query(file, &query).await;
        }
    };
    landing.put(file, content)?;
    Ok(())
}

/// A file without a byte is a version without rows: alone, first, in the middle and last.
async fn empty_files(landing: Landing, format: &str) -> Result<(), Failed> {
    let options = format!("format '{format}'");
    let file = |number: u32| format!("{number}.{format}");
    landing.put(&file(1), "")?;
    let unknown = ["no file yet", "its columns are not known"];
    landing
        .check_refused("landed", "drop", &options, &unknown)
        .await?;
    let declared = landing.create_table("declared (id BIGINT, name VARCHAR)", "drop", &options);
    landing.run(&declared).await?;
    landing.check("SELECT * FROM declared", &[]).await?;
    put_row(&landing, format, &file(2), 2).await?;
    landing.create(&options).await?;
    let second = r#"[2,"n","upsert",2]"#;
    landing.check(CHANGES, &[second]).await?;
    landing.put(&file(3), "")?;
    landing.check(CHANGES, &[second]).await?;
    put_row(&landing, format, &file(4), 4).await?;
    let fourth = r#"[4,"n","upsert",4]"#;
    landing.check(CHANGES, &[second, fourth]).await?;
    landing.put(&file(5), "")?;
    let versions =
        "SELECT version AS a, file AS b, rows AS c FROM change_versions('landed') ORDER BY version";
    let rows = [0, 1, 0, 1, 0].into_iter().zip(1..);
    let expected = rows.map(|(rows, version)| format!(r#"[{version},"{}",{rows}]"#, file(version)));
    let expected: Vec<String> = expected.collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    landing.check(versions, &expected).await?;
    // what had no rows is not missed
    fs::remove_file(landing.path(&file(3)))?;
    landing.check(CHANGES, &[second, fourth]).await?;
    let state = "SELECT id FROM declared ORDER BY id";
    landing.check(state, &["[2]", "[4]"]).await
}

/// A file that may not be read is an error that says so, and has no number before it is read.
async fn unreadable(landing: Landing) -> Result<Option<&'static str>, Failed> {
    landing.put("1.csv", "id\n1\n")?;
    landing.put("2.csv", "id\n2\n")?;
    let second = landing.path("2.csv");
    fs::set_permissions(&second, fs::Permissions::from_mode(0o0))?;
    if fs::read(&second).is_ok() {
        return Ok(Some("this user may read every file"));
    }
    let expected = [
        "cannot read 2.csv",
        "give the user of this process the permission to read",
    ];
    landing
        .check_refused("landed", "drop", "format 'csv'", &expected)
        .await?;
    // quarantine is for files that are not what they should be
    let lenient = "format 'csv', on_invalid 'quarantine'";
    landing
        .check_refused("landed", "drop", lenient, &["2.csv", "permission"])
        .await?;
    fs::set_permissions(&second, fs::Permissions::from_mode(0o644))?;
    landing.create("format 'csv'").await?;
    landing
        .check(CHANGES, &[r#"[1,"upsert",1]"#, r#"[2,"upsert",2]"#])
        .await?;
    Ok(None)
}

/// Whether it is cut off in its rows or before them, the error names the file, and other versions are read.
async fn cut_gzip(landing: Landing) -> Result<(), Failed> {
    let made = landing.beside("made.csv.gz");
    let query = "SELECT value AS id, 'name ' || value AS name FROM generate_series(1, 5000)";
    let copy = format!(
        "COPY ({query}) TO '{}' STORED AS CSV OPTIONS ('format.compression' 'gzip')",
        made.display()
    );
    landing.run(&copy).await?;
    let whole = fs::read(made)?;
    landing.put("1.csv.gz", &whole)?;
    landing.create("format 'csv'").await?;
    let count = |since: u32, until: u32| {
        format!("SELECT count(*) AS n FROM table_changes('landed', {since}, {until})")
    };
    landing.check(&count(0, 1), &["[5000]"]).await?;
    landing.put("2.csv.gz", &whole[..whole.len() / 2])?;
    let expected = [
        "2.csv.gz is cut off or is not gzip",
        "put it there again in one piece",
    ];
    landing.check_error(&count(0, 2), &expected).await?;
    landing.check(&count(0, 1), &["[5000]"]).await?;
    landing.put("2.csv.gz", &whole)?;
    landing.check(&count(2, 3), &["[5000]"]).await?;
    landing.put("3.csv.gz", &whole[..8])?;
    landing
        .check_error(
            "SELECT count(*) FROM table_changes('landed', 2)",
            &["3.csv.gz is cut off"],
        )
        .await
}
