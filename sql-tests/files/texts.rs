//! Encodings, and values that are out of the ordinary.

use libtest_mimic::Failed;

use super::landing::{CHANGES, Landing};
use super::{Check, always};

pub(super) const CASES: &[(&str, Check)] = &[
    ("latin1", |landing| Box::pin(always(latin1(landing)))),
    ("utf-16", |landing| Box::pin(always(utf_16(landing)))),
    ("byte-order-marks", |landing| {
        Box::pin(always(byte_order_marks(landing)))
    }),
    ("huge-lines", |landing| {
        Box::pin(always(huge_lines(landing)))
    }),
    ("changed-type-csv", |landing| {
        Box::pin(always(changed_type_csv(landing)))
    }),
    ("changed-type-json", |landing| {
        Box::pin(always(changed_type_json(landing)))
    }),
    ("changed-type-parquet", |landing| {
        Box::pin(always(changed_type_parquet(landing)))
    }),
];

const STATE: &str = "SELECT * FROM landed ORDER BY id";

fn utf_16_bytes(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Taken for UTF-8 it is an error that names line and column; with its encoding it is read.
async fn latin1(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", b"id,name\n1,plain\n2,Gr\xfc\xdfe\n")?;
    let expected = ["1.csv line 3", "\"name\"", "UTF-8"];
    landing
        .check_refused("landed", "drop", "format 'csv'", &expected)
        .await?;
    landing.create("format 'csv', encoding 'latin1'").await?;
    landing
        .check(STATE, &[r#"[1,"plain"]"#, r#"[2,"Grüße"]"#])
        .await
}

async fn utf_16(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", utf_16_bytes("id,name\n1,Größe\n2,日\n"))?;
    landing.put("2.csv", utf_16_bytes("id,name\n3,\"two\nlines\"\n"))?;
    landing.create("format 'csv', encoding 'utf-16le'").await?;
    let expected = [r#"[1,"Größe"]"#, r#"[2,"日"]"#, r#"[3,"two\nlines"]"#];
    landing.check(STATE, &expected).await
}

/// A mark tells the encoding, and is no part of the first column's name.
async fn byte_order_marks(landing: Landing) -> Result<(), Failed> {
    let marked = |mark: &[u8], text: Vec<u8>| [mark, text.as_slice()].concat();
    landing.put("1.csv", "id,name\n1,plain\n")?;
    landing.put("2.csv", marked(b"\xef\xbb\xbf", "id,name\n2,ü\n".into()))?;
    landing.put("3.csv", marked(b"\xff\xfe", utf_16_bytes("id,name\n3,ü\n")))?;
    landing.create("format 'csv'").await?;
    let expected = [r#"[1,"plain"]"#, r#"[2,"ü"]"#, r#"[3,"ü"]"#];
    landing.check(STATE, &expected).await
}

async fn huge_lines(landing: Landing) -> Result<(), Failed> {
    const LENGTH: usize = 8_000_000;
    let huge = "x".repeat(LENGTH);
    landing.put("1.csv", format!("id,name\n1,a\n2,{huge}\n3,c\n"))?;
    landing.create("format 'csv'").await?;
    let lengths = "SELECT id, length(name) AS n FROM landed ORDER BY id";
    let expected = [
        "[1,1]".to_owned(),
        format!("[2,{LENGTH}]"),
        "[3,1]".to_owned(),
    ];
    let expected = expected.each_ref().map(String::as_str);
    landing.check(lengths, &expected).await?;
    landing.run("DROP TABLE landed").await?;
    let row = |id: u32, name: &str| format!("{{\"id\":{id},\"name\":\"{name}\"}}\n");
    let text = [row(1, "a"), row(2, &huge), row(3, "c")].concat();
    landing.put_into("json", "1.json", text)?;
    landing
        .run(&landing.create_table("landed", "json", "format 'json'"))
        .await?;
    landing.check(lengths, &expected).await
}

/// The value that does not fit is named; set aside, the other rows of its file are there under their own numbers.
async fn changed_type_csv(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id,n\n1,10\n")?;
    landing.put("2.csv", "id,n\n2,abc\n3,12\n")?;
    changed_type(landing, "csv", "2.csv line 2").await
}

async fn changed_type_json(landing: Landing) -> Result<(), Failed> {
    landing.put("1.json", "{\"id\":1,\"n\":10}\n")?;
    landing.put("2.json", "{\"id\":2,\"n\":\"abc\"}\n{\"id\":3,\"n\":12}\n")?;
    changed_type(landing, "json", "2.json line 1").await
}

async fn changed_type_parquet(landing: Landing) -> Result<(), Failed> {
    landing
        .put_query("1.parquet", "SELECT 1 AS id, 10 AS n")
        .await?;
    let text = "SELECT * FROM (VALUES (2, 'abc'), (3, '12')) AS v (id, n)";
    landing.put_query("2.parquet", text).await?;
    changed_type(landing, "parquet", "2.parquet of landed, row 1").await
}

async fn changed_type(landing: Landing, format: &str, place: &str) -> Result<(), Failed> {
    landing.create(&format!("format '{format}'")).await?;
    landing
        .check_error(CHANGES, &[place, "\"n\"", "abc", "Int64"])
        .await?;
    let before = "SELECT * FROM table_changes('landed', 0, 1)";
    let first = r#"[1,10,"upsert",1]"#;
    landing.check(before, &[first]).await?;
    landing.run("DROP TABLE landed").await?;
    landing
        .create(&format!("format '{format}', on_invalid 'quarantine'"))
        .await?;
    landing
        .check(CHANGES, &[first, r#"[3,12,"upsert",2]"#])
        .await?;
    let ordinals =
        "SELECT id, _change_ordinal AS n FROM table_changes('landed', 1, metadata => 'full')";
    landing.check(ordinals, &["[3,2]"]).await?;
    let rejected = "SELECT row_number FROM \"landed$rejected\" WHERE reason LIKE '%abc%'";
    landing.check(rejected, &["[1]"]).await?;
    // what is asked for does not change what is set aside
    let count = "SELECT count(*) AS n FROM table_changes('landed', 0)";
    landing.check(count, &["[2]"]).await?;
    landing
        .check("SELECT id FROM landed ORDER BY id", &["[1]", "[3]"])
        .await?;
    let counts = "SELECT version AS a, rows AS b, upserts AS c, rejected AS d \
        FROM change_versions('landed') ORDER BY version";
    landing.check(counts, &["[1,1,1,0]", "[2,2,1,1]"]).await
}
