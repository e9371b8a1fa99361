//! Folders, links, ledgers and many files: whatever leads to a file, it has one number, and only one.

use std::fs;
use std::os::unix::fs::symlink;

use libtest_mimic::Failed;

use super::landing::{CHANGES, Landing, check_in, rows_in_order, says, text};
use super::{Check, always};
use crate::run_statement;
use crate::tables::execute;

pub(super) const CASES: &[(&str, Check)] = &[
    ("many-files", |landing| {
        Box::pin(always(many_files(landing)))
    }),
    ("file-for-a-folder", |landing| {
        Box::pin(always(file_for_a_folder(landing)))
    }),
    ("links", |landing| Box::pin(always(links(landing)))),
    ("two-tables", |landing| {
        Box::pin(always(two_tables(landing)))
    }),
    ("one-ledger-for-two-folders", |landing| {
        Box::pin(always(one_ledger_for_two_folders(landing)))
    }),
    ("corrected-options", |landing| {
        Box::pin(always(corrected_options(landing)))
    }),
    ("ledger-beside", |landing| {
        Box::pin(always(ledger_beside(landing)))
    }),
];

const CSV: &str = "format 'csv'";

/// The files of a ledger below a folder.
fn ledger_files(landing: &Landing, folder: &str) -> Result<Vec<String>, Failed> {
    let mut names = Vec::new();
    for entry in fs::read_dir(landing.beside(folder).join("_alluvial/ledger"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// All are found at once; who looks again finds nothing new, and writes nothing.
async fn many_files(landing: Landing) -> Result<(), Failed> {
    const FILES: usize = 5000;
    for file in 1..=FILES {
        landing.put(&format!("{file:05}.csv"), format!("id\n{file}\n"))?;
    }
    landing.create(CSV).await?;
    let sums = "SELECT count(*) AS a, count(DISTINCT _commit_version) AS b, max(_commit_version) AS c, sum(id) AS d \
        FROM table_changes('landed', 0)";
    let sum = FILES * (FILES + 1) / 2;
    let expected = format!("[{FILES},{FILES},{FILES},{sum}]");
    landing.check(sums, &[&expected]).await?;
    let ledger = ledger_files(&landing, "drop")?;
    let other = landing.another_session()?;
    execute(&other, &landing.create_table("landed", "drop", CSV)).await?;
    check_in(&other, sums, &[&expected]).await?;
    landing.check(sums, &[&expected]).await?;
    if ledger_files(&landing, "drop")? != ledger {
        return Err("a look that found nothing wrote to the ledger".into());
    }
    landing.put("00000.csv", "id\n0\n")?;
    let new = format!("SELECT * FROM table_changes('landed', {FILES})");
    let row = format!(r#"[0,"upsert",{}]"#, FILES + 1);
    landing.check(&new, &[&row]).await?;
    check_in(&other, &new, &[&row]).await
}

async fn file_for_a_folder(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id\n1\n")?;
    let expected = ["1.csv\" is a file, give its folder", "pattern '…'"];
    landing
        .check_refused("landed", "drop/1.csv", CSV, &expected)
        .await?;
    landing
        .check_refused(
            "landed",
            "nowhere",
            CSV,
            &["nowhere", "is not there", "LOCATION"],
        )
        .await?;
    // a ledger cannot be kept in a file
    let ledger = landing.path("1.csv");
    let options = format!("{CSV}, ledger '{}'", text(&ledger)?);
    landing
        .check_refused("landed", "drop", &options, &["1.csv", "is a file"])
        .await?;
    // and a folder named like a file is none
    fs::create_dir(landing.path("2.csv"))?;
    landing.create(CSV).await?;
    landing.check(CHANGES, &[r#"[1,"upsert",1]"#]).await
}

/// Links are what they lead to, and lead nowhere if there is nothing.
async fn links(landing: Landing) -> Result<(), Failed> {
    landing.put_into("elsewhere", "a.csv", "id\n1\n")?;
    landing.put_into("elsewhere", "b.csv", "id\n2\n")?;
    symlink(landing.beside("elsewhere/a.csv"), landing.path("1.csv"))?;
    symlink(landing.beside("elsewhere"), landing.path("sub"))?;
    symlink(landing.beside("nowhere"), landing.path("3.csv"))?;
    symlink(landing.beside("drop"), landing.beside("link"))?;
    landing.create(CSV).await?;
    let files =
        "SELECT file, count(*) AS n FROM change_versions('landed') GROUP BY file ORDER BY file";
    let expected = [r#"["1.csv",1]"#, r#"["sub/a.csv",1]"#, r#"["sub/b.csv",1]"#];
    landing.check(files, &expected).await?;
    // the same place by another name has the same ledger
    let linked = landing.create_table("linked", "link", CSV);
    landing.run(&linked).await?;
    let versions = |table: &str| {
        format!("SELECT version AS a, file AS b FROM change_versions('{table}') ORDER BY version")
    };
    let found = rows_in_order(&landing.session, &versions("landed")).await?;
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    landing.check(&versions("linked"), &found).await?;
    // what a link leads to is replaced
    landing.put_into("elsewhere", "b.csv", "id\n22\n")?;
    let new = "SELECT * FROM table_changes('landed', 3)";
    landing.check(new, &[r#"[22,"upsert",4]"#]).await?;
    // a circle of links is an error, not an endless folder
    symlink(landing.beside("drop"), landing.path("circle"))?;
    landing.check_error(new, &["circle"]).await?;
    fs::remove_file(landing.path("circle"))?;
    landing.check(new, &[r#"[22,"upsert",4]"#]).await
}

/// Tables of two sessions, by different names and with different options, are numbered alike.
async fn two_tables(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id,n\n1,1\n")?;
    landing.create(CSV).await?;
    let other = landing.another_session()?;
    let options = "format 'csv', sequence 'n', on_tie 'last'";
    execute(&other, &landing.create_table("other", "drop", options)).await?;
    let theirs = CHANGES.replace("landed", "other");
    let mut expected: Vec<String> = vec![r#"[1,1,"upsert",1]"#.to_owned()];
    for file in 2..=6 {
        landing.put(
            &format!("{}.csv", 10 - file),
            format!("id,n\n{file},{file}\n"),
        )?;
        expected.push(format!(r#"[{file},{file},"upsert",{file}]"#));
        let rows: Vec<&str> = expected.iter().map(String::as_str).collect();
        // now the one finds it first, now the other
        if file % 2 == 0 {
            landing.check(CHANGES, &rows).await?;
            check_in(&other, &theirs, &rows).await?;
        } else {
            check_in(&other, &theirs, &rows).await?;
            landing.check(CHANGES, &rows).await?;
        }
    }
    landing.check_error(&theirs, &["other"]).await
}

/// A ledger numbers the files of one folder: for those of another it is refused, or another one.
async fn one_ledger_for_two_folders(landing: Landing) -> Result<(), Failed> {
    landing.put_into("left", "1.csv", "id\n1\n")?;
    landing.put_into("right", "1.csv", "id\n2\n")?;
    landing.put_into("right", "2.csv", "id\n3\n")?;
    let ledger = landing.beside("ledger");
    fs::create_dir(&ledger)?;
    let options = format!("{CSV}, ledger '{}'", text(&ledger)?);
    let left = landing.create_table("landed", "left", &options);
    landing.run(&left).await?;
    let of_left = [r#"[1,"upsert",1]"#];
    landing.check(CHANGES, &of_left).await?;
    let right = landing.create_table("other", "right", &options);
    let of_right = CHANGES.replace("landed", "other");
    let refused = match run_statement(&landing.session, &right).await {
        Err(error) => Some(error),
        Ok(_) => run_statement(&landing.session, &of_right).await.err(),
    };
    match refused {
        Some(error) => says(&error.strip_backtrace(), &["ledger"])?,
        None => {
            let rows = [r#"[2,"upsert",1]"#, r#"[3,"upsert",2]"#];
            landing.check(&of_right, &rows).await?;
        }
    }
    for _ in 0..2 {
        landing.check(CHANGES, &of_left).await?;
    }
    landing
        .check(
            "SELECT count(*) AS n FROM change_versions('landed')",
            &["[1]"],
        )
        .await
}

/// A statement that was wrong about the format can be corrected: what it has found out of the files is not in the way, or the
/// error says that it is.
async fn corrected_options(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id;name\n1;one\n")?;
    let wrong = landing.create_table("wrong", "drop", "format 'csv'");
    let keyless = wrong.replacen("key 'id', ", "", 1);
    landing.run(&keyless).await?;
    let right = landing.create_table("landed", "drop", "format 'csv', delimiter ';'");
    match run_statement(&landing.session, &right).await {
        Ok(_) => landing.check(CHANGES, &[r#"[1,"one","upsert",1]"#]).await,
        Err(error) => says(&error.strip_backtrace(), &["ledger"]),
    }
}

/// Where the ledger is elsewhere, nothing is written to the folder of the files.
async fn ledger_beside(landing: Landing) -> Result<(), Failed> {
    landing.put("1.csv", "id\n1\n")?;
    let options = format!("{CSV}, ledger '{}'", text(&landing.beside("ledger"))?);
    landing.create(&options).await?;
    landing.check(CHANGES, &[r#"[1,"upsert",1]"#]).await?;
    landing.check("SELECT id FROM landed", &["[1]"]).await?;
    landing.run("SYNC INTO target FROM landed").await?;
    let entries = fs::read_dir(landing.beside("drop"))?.count();
    if entries != 1 {
        return Err(format!("there are {entries} entries in the folder of one file").into());
    }
    if ledger_files(&landing, "ledger")?.len() != 1 {
        return Err("the ledger has one entry".into());
    }
    Ok(())
}
