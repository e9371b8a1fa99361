//! Change tracking where time, other writers or a missing log come into play.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use libtest_mimic::{Failed, Trial};

use crate::Warehouse;
use crate::patience;

/// The trials.
pub(super) fn trials() -> Vec<Trial> {
    vec![
        patience::test("tracking::retention", retention),
        patience::test("tracking::cleaned-log", cleaned_log),
        patience::test("tracking::concurrent-inserts", concurrent_inserts),
        patience::test("tracking::plain-sql", plain_sql),
    ]
}

/// Makes the commits up to a version, and the change data that is there, as old as said.
fn age(table: &Path, last: u32, by: Duration) -> Result<(), Failed> {
    let then = SystemTime::now() - by;
    for version in 0..=last {
        let commit = table.join(format!("_delta_log/{version:020}.json"));
        fs::File::options()
            .write(true)
            .open(commit)?
            .set_modified(then)?;
    }
    for file in change_files(table)? {
        fs::File::options()
            .write(true)
            .open(file)?
            .set_modified(then)?;
    }
    Ok(())
}

fn change_files(table: &Path) -> Result<Vec<std::path::PathBuf>, Failed> {
    let folder = table.join("_change_data");
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    Ok(files)
}

fn number(warehouse: &Warehouse, sql: &str) -> Result<i64, Failed> {
    let answer = warehouse.run(sql)?;
    let text = arrow::util::display::array_value_to_string(answer.batches[0].column(0), 0)?;
    Ok(text.parse()?)
}

fn refused(warehouse: &Warehouse, sql: &str, part: &str) -> Result<(), Failed> {
    match warehouse.run(sql) {
        Ok(answer) => Err(format!("{sql} returned {} row(s)", answer.row_count()).into()),
        Err(error) if error.to_string().contains(part) => Ok(()),
        Err(error) => Err(format!("{sql}: {error} lacks {part:?}").into()),
    }
}

/// Change data past the retention goes with the next write, and reads below it are an error, never part of the changes.
fn retention() -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    for sql in [
        "CREATE TABLE t (id INT PRIMARY KEY, name STRING)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "UPDATE t SET name = 'before' WHERE id = 1",
        "ALTER TABLE t ENABLE CHANGE_TRACKING WITH (CHANGE_RETENTION = 2 HOURS)",
        "UPDATE t SET name = 'x' WHERE id = 1",
        "UPDATE t SET name = 'y' WHERE id = 2",
    ] {
        warehouse.run(sql)?;
    }
    let table = warehouse.table_folder("t");
    assert_eq!(change_files(&table)?.len(), 3);
    let all = "SELECT * FROM CHANGETABLE(CHANGES t, 0) AS ct";
    assert_eq!(warehouse.run(all)?.row_count(), 2);
    // versions 0 and 1 are past the retention, 2 is not
    age(&table, 4, Duration::from_secs(3 * 3600))?;
    for file in change_files(&table)? {
        fs::File::options()
            .write(true)
            .open(file)?
            .set_modified(SystemTime::now() - Duration::from_secs(3 * 3600))?;
    }
    let min_valid = "SELECT CHANGE_TRACKING_MIN_VALID_VERSION(t)";
    assert_eq!(number(&warehouse, min_valid)?, 1);
    refused(
        &warehouse,
        all,
        "CHANGES_EXPIRED: changes of t after version 0 were asked for, but the minimum valid version is 1",
    )?;
    assert_eq!(
        warehouse
            .run("SELECT * FROM CHANGETABLE(CHANGES t, 1) AS ct")?
            .row_count(),
        1
    );
    // what has expired stays so, whatever the retention becomes
    warehouse.run("ALTER TABLE t SET CHANGE_TRACKING (CHANGE_RETENTION = 2 DAYS)")?;
    assert_eq!(number(&warehouse, min_valid)?, 1);
    assert_eq!(change_files(&table)?.len(), 3);
    warehouse.run("ALTER TABLE t SET CHANGE_TRACKING (CHANGE_RETENTION = 2 HOURS)")?;
    // a file that no commit names is VACUUM's
    let orphan = table.join("_change_data/orphan.parquet");
    fs::write(&orphan, "x")?;
    warehouse.run("INSERT INTO t VALUES (3, 'c')")?;
    // what was written before tracking began, and what is kept, stay
    assert_eq!(change_files(&table)?.len(), 3);
    assert!(orphan.is_file());
    assert!(
        table
            .join("_alluvial/change_tracking/cleanup.json")
            .is_file()
    );
    let rows = warehouse.run("SELECT * FROM CHANGETABLE(CHANGES t, 1) AS ct")?;
    assert_eq!(rows.row_count(), 2);
    refused(&warehouse, all, "CHANGES_EXPIRED")
}

/// What `ctx.sql()` of a session that Alluvial is registered with knows.
fn plain_sql() -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    warehouse.run("CREATE TABLE t (id INT PRIMARY KEY, name STRING)")?;
    warehouse.run("ALTER TABLE t ENABLE CHANGE_TRACKING")?;
    warehouse.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")?;
    for (sql, rows) in [
        ("SELECT * FROM changetable_changes('t', 0)", 2),
        ("SELECT * FROM changetable_changes(t, 1) AS ct", 0),
        ("SELECT * FROM changetable_version('t', (id), (2))", 1),
        (
            "SELECT * FROM change_tracking_tables WHERE current_version = 1",
            1,
        ),
        (
            "SELECT * FROM fn_cdc_get_all_changes('t', fn_cdc_get_min_lsn('t'), fn_cdc_get_max_lsn('t'), 'all')",
            2,
        ),
        (
            "SELECT 1 WHERE change_tracking_current_version('t') = 1 AND change_tracking_min_valid_version(object_id('t')) = 0",
            1,
        ),
    ] {
        let found =
            crate::RUNTIME.block_on(async { warehouse.session.sql(sql).await?.count().await });
        let found = found.map_err(|error| format!("{sql}: {error}"))?;
        assert_eq!(found, rows, "{sql}");
    }
    Ok(())
}

/// A log that has been cleaned raises the minimum valid version.
fn cleaned_log() -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    for sql in [
        "CREATE TABLE t (id INT PRIMARY KEY) TBLPROPERTIES ('delta.checkpointInterval' = '4')",
        "ALTER TABLE t ENABLE CHANGE_TRACKING",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (2)",
        "INSERT INTO t VALUES (3)",
        "INSERT INTO t VALUES (4)",
    ] {
        warehouse.run(sql)?;
    }
    let log = warehouse.table_folder("t").join("_delta_log");
    for version in 0..=3 {
        fs::remove_file(log.join(format!("{version:020}.json")))?;
    }
    assert_eq!(
        number(&warehouse, "SELECT CHANGE_TRACKING_MIN_VALID_VERSION(t)")?,
        2
    );
    refused(
        &warehouse,
        "SELECT * FROM CHANGETABLE(CHANGES t, 1) AS ct",
        "CHANGES_EXPIRED",
    )?;
    let rows = warehouse.run("SELECT * FROM CHANGETABLE(CHANGES t, 2) AS ct")?;
    assert_eq!(rows.row_count(), 2);
    Ok(())
}

/// Of many who insert the same keys at once each key gets in once.
fn concurrent_inserts() -> Result<(), Failed> {
    const WRITERS: usize = 4;
    let warehouse = Warehouse::new()?;
    warehouse.run("CREATE TABLE t (id INT PRIMARY KEY, writer INT)")?;
    warehouse.run("ALTER TABLE t ENABLE CHANGE_TRACKING")?;
    let inserted = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let warehouse = &warehouse;
                scope.spawn(move || {
                    let mut inserted = 0;
                    for id in 0..6 {
                        let sql = format!("INSERT INTO t VALUES ({id}, {writer})");
                        match warehouse.run(&sql) {
                            Ok(_) => inserted += 1,
                            Err(error) if error.to_string().contains("DUPLICATE_KEY") => {}
                            Err(error) => return Err(error.to_string()),
                        }
                    }
                    Ok(inserted)
                })
            })
            .collect();
        let counts = writers.into_iter().map(|writer| match writer.join() {
            Ok(count) => count,
            Err(_) => Err("a writer panicked".into()),
        });
        counts.collect::<Result<Vec<usize>, String>>()
    })?;
    assert_eq!(inserted.iter().sum::<usize>(), 6);
    assert_eq!(number(&warehouse, "SELECT count(*) FROM t")?, 6);
    assert_eq!(number(&warehouse, "SELECT count(DISTINCT id) FROM t")?, 6);
    Ok(())
}
