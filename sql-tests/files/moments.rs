//! Files that go or change after a statement has been planned: what is read is what the version stands for, or nothing.

use std::fs::{self, OpenOptions};
use std::io::Write;

use alluvial::sql::SessionContextExt;
use futures::TryStreamExt;
use libtest_mimic::Failed;

use super::landing::{CHANGES, Landing, says};
use super::{Check, always};

pub(super) const CASES: &[(&str, Check)] = &[
    ("vanished-csv", |landing| {
        Box::pin(always(vanished(landing, "csv")))
    }),
    ("vanished-parquet", |landing| {
        Box::pin(always(vanished(landing, "parquet")))
    }),
    ("replaced-csv", |landing| {
        Box::pin(always(replaced(landing, "csv")))
    }),
    ("replaced-parquet", |landing| {
        Box::pin(always(replaced(landing, "parquet")))
    }),
    ("appended", |landing| Box::pin(always(appended(landing)))),
    ("appended-while-read", |landing| {
        Box::pin(always(appended_while_read(landing)))
    }),
];

const READ: &str = "SELECT * FROM table_changes('landed', 0)";
const FIRST: &str = r#"[1,"one","upsert",1]"#;

/// Lets a file with one row land.
async fn put(landing: &Landing, format: &str, file: u32, name: &str) -> Result<(), Failed> {
    let path = format!("{file}.{format}");
    if format == "csv" {
        landing.put(&path, format!("id,name\n{file},{name}\n"))?;
        return Ok(());
    }
    let query = format!("SELECT {file} AS id, '{name}' AS name");
    landing.put_query(&path, &query).await
}

async fn put_two(landing: &Landing, format: &str) -> Result<(), Failed> {
    put(landing, format, 1, "one").await?;
    put(landing, format, 2, "two").await?;
    landing.create(&format!("format '{format}'")).await
}

/// The error names the file; the next statement says so before it reads anything.
async fn vanished(landing: Landing, format: &str) -> Result<(), Failed> {
    put_two(&landing, format).await?;
    let file = format!("2.{format}");
    let plan = landing.plan(READ).await?;
    fs::remove_file(landing.path(&file))?;
    says(&landing.failure(plan).await?, &[&file])?;
    landing
        .check_error(READ, &["CHANGES_EXPIRED", &file, "version 2"])
        .await?;
    let before = "SELECT * FROM table_changes('landed', 0, 1)";
    landing.check(before, &[FIRST]).await?;
    put(&landing, format, 2, "again").await?;
    let after = "SELECT * FROM table_changes('landed', 2)";
    landing.check(after, &[r#"[2,"again","upsert",3]"#]).await
}

/// What has been planned is not what is there now; the next statement reads that as another version.
async fn replaced(landing: Landing, format: &str) -> Result<(), Failed> {
    put_two(&landing, format).await?;
    let file = format!("2.{format}");
    // of the same size, so that only the time and the tag tell
    for (version, name) in [(2, "TWO"), (3, "zwo")] {
        let since = format!("SELECT * FROM table_changes('landed', {})", version - 1);
        let plan = landing.plan(&since).await?;
        put(&landing, format, 2, name).await?;
        let replaced = format!("has been replaced since it became version {version}");
        says(
            &landing.failure(plan).await?,
            &[&file, &replaced, "run the statement again"],
        )?;
        let new = format!(r#"[2,"{name}","upsert",{}]"#, version + 1);
        let after = format!("SELECT * FROM table_changes('landed', {version})");
        landing.check(&after, &[&new]).await?;
        landing
            .check_error(&since, &["CHANGES_EXPIRED", &file])
            .await?;
    }
    landing
        .check("SELECT * FROM table_changes('landed', 0, 1)", &[FIRST])
        .await
}

fn append(landing: &Landing, name: &str, rows: &str) -> Result<(), Failed> {
    let mut file = OpenOptions::new().append(true).open(landing.path(name))?;
    file.write_all(rows.as_bytes())?;
    Ok(())
}

/// A file that grows in place is another one, and has all its rows there.
async fn appended(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id,name\n1,one\n")?;
    landing.create("format 'csv'").await?;
    let plan = landing.plan(READ).await?;
    append(&landing, "1.csv", "2,two\n")?;
    let error = landing.failure(plan).await?;
    says(
        &error,
        &["1.csv", "has been replaced since it became version 1"],
    )?;
    landing
        .check_error(CHANGES, &["CHANGES_EXPIRED", "1.csv", "version 1"])
        .await?;
    let after = "SELECT * FROM table_changes('landed', 1) ORDER BY id";
    let rows = [r#"[1,"one","upsert",2]"#, r#"[2,"two","upsert",2]"#];
    landing.check(after, &rows).await
}

/// In the middle of a read it is the same: all rows of before, or an error, and nothing of both.
async fn appended_while_read(landing: Landing) -> Result<(), Failed> {
    const ROWS: usize = 300_000;
    let rows = (1..=ROWS).map(|id| format!("{id},the name of {id}\n"));
    let text: String = ["id,name\n".to_owned()].into_iter().chain(rows).collect();
    landing.put("1.csv", text)?;
    landing.create("format 'csv'").await?;
    let frame = landing.session.alluvial_sql(READ).await?;
    let mut stream = frame.execute_stream().await?;
    let first = stream.try_next().await?.ok_or("there are no rows")?;
    append(&landing, "1.csv", "0,late\n")?;
    let rest = stream.try_fold(first.num_rows(), |rows, batch| async move {
        Ok(rows + batch.num_rows())
    });
    match rest.await {
        Ok(ROWS) => {}
        Ok(rows) => return Err(format!("there were {rows} rows of {ROWS}, and no error").into()),
        Err(error) => says(&error.strip_backtrace(), &["1.csv", "has been replaced"])?,
    }
    let counts = "SELECT count(*) AS n, min(id) AS least FROM table_changes('landed', 1)";
    landing.check(counts, &[&format!("[0,{}]", ROWS + 1)]).await
}
