//! Others read what we write, and we write what others made.
//!
//! - `interop::written_tables_read_by_others`: each of [`CASES`] is one table. After each statement of its script the table is
//!   read by alluvial, delta-rs and DuckDB, and for [`WITH_FEED`] its changes by alluvial's `table_changes` and delta-rs'
//!   `load_cdf`; `interop/read_back.py` compares them.
//! - `interop::writes::…`, `interop::own_rows::…` ([`writes`], [`own_rows`]): statements on copies of tables that Spark and others
//!   wrote, with every commit held against the Delta protocol ([`protocol`]).
//!
//! The Python is `ALLUVIAL_TEST_PYTHON`, or `python3`, with the packages of `interop/requirements.txt`. Spark reads and writes
//! our tables in `interop/spark_writes.py`, a command of its own.

mod fixture;
mod own_rows;
mod protocol;
mod readers;
mod writes;

use std::error::Error;
use std::num::ParseIntError;

use libtest_mimic::{Completion, Failed, Trial};

use crate::patience;
use crate::{Answer, Warehouse};

/// Tables with the script that makes and changes each: statements, each followed by a line `-- <n> rows`, the number that
/// the table has then.
const CASES: &[(&str, &str)] = &[
    ("plain", PLAIN),
    ("partitioned", PARTITIONED),
    ("odd_partitions", ODD_PARTITIONS),
    ("copy_on_write", COPY_ON_WRITE),
    ("types", TYPES),
    ("nested", NESTED),
    ("two words", TWO_WORDS),
    ("tracked", TRACKED),
];

/// The tables whose changes are compared with delta-rs' `load_cdf`. It is wrong for others: it looks for partition folders
/// under their percent-encoded name, and where a commit without cdc files removes a file that has a deletion vector, it
/// returns the rows deleted before. So none of these scripts empties such a file by a statement that only deletes.
const WITH_FEED: &[&str] = &["plain", "partitioned", "copy_on_write", "types", "tracked"];

const PLAIN: &str = "
CREATE TABLE plain (id BIGINT PRIMARY KEY, name STRING NOT NULL, amount DOUBLE)
-- 0 rows
INSERT INTO plain VALUES (1, 'one', 1.5), (2, 'two', NULL), (3, 'three', 3e20),
  (4, 'four', 0.0000001), (5, 'five', -5.0), (6, 'six', 6.0), (7, 'seven', 7.0), (8, 'eight', 8.0)
-- 8 rows
UPDATE plain SET amount = amount + 1 WHERE id IN (5, 8)
-- 8 rows
DELETE FROM plain WHERE id = 2
-- 7 rows
MERGE INTO plain AS t
  USING (VALUES (1, 'uno', 10.0, 'u'), (3, '', 0.0, 'd'), (9, 'nine', 9.0, 'u')) AS s(id, name, amount, op)
  ON t.id = s.id
  WHEN MATCHED AND s.op = 'd' THEN DELETE
  WHEN MATCHED THEN UPDATE SET name = s.name, amount = s.amount
  WHEN NOT MATCHED AND s.op <> 'd' THEN INSERT (id, name, amount) VALUES (s.id, s.name, s.amount)
-- 7 rows
MERGE INTO plain AS t
  USING (VALUES (1, 'eins', 11.0), (4, 'vier', 4.0)) AS s(id, name, amount)
  ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET name = s.name, amount = s.amount
  WHEN NOT MATCHED BY SOURCE AND t.id > 7 THEN DELETE
  WHEN NOT MATCHED BY SOURCE AND t.id = 7 THEN UPDATE SET amount = NULL
-- 5 rows
INSERT INTO plain SELECT id + 100, name, amount FROM plain
-- 10 rows
";

const PARTITIONED: &str = "
CREATE TABLE partitioned (id BIGINT, region STRING, day DATE, note STRING)
  PARTITIONED BY (region, day)
-- 0 rows
INSERT INTO partitioned VALUES
  (1, 'eu', DATE '2024-01-01', 'a'), (2, 'eu', DATE '2024-01-01', 'b'), (3, 'us', DATE '2024-01-02', 'c'),
  (4, 'us', DATE '2024-01-02', 'd'), (5, 'us', DATE '2024-02-29', 'e')
-- 5 rows
UPDATE partitioned SET note = 'changed' WHERE region = 'us' AND id = 3
-- 5 rows
UPDATE partitioned SET region = 'eu' WHERE id = 4
-- 5 rows
DELETE FROM partitioned WHERE id = 1
-- 4 rows
MERGE INTO partitioned AS t
  USING (VALUES (2, 'eu', DATE '2024-01-01', 'merged'), (6, 'ap', DATE '2024-03-01', 'new'))
  AS s(id, region, day, note)
  ON t.id = s.id AND t.region = s.region
  WHEN MATCHED THEN UPDATE SET note = s.note
  WHEN NOT MATCHED THEN INSERT (id, region, day, note) VALUES (s.id, s.region, s.day, s.note)
-- 5 rows
MERGE INTO partitioned AS t USING (VALUES (3), (5)) AS s(id) ON t.id = s.id
  WHEN MATCHED THEN DELETE
-- 3 rows
";

const ODD_PARTITIONS: &str = r"
CREATE TABLE odd_partitions (id BIGINT, label STRING, amount DECIMAL(10, 2))
  PARTITIONED BY (label)
-- 0 rows
INSERT INTO odd_partitions VALUES
  (1, 'a b/c=d%20', 1.25), (2, 'it''s', 2.5), (3, 'ünï', 3.0), (4, NULL, 4.0), (5, NULL, NULL)
-- 5 rows
UPDATE odd_partitions SET label = 'a:b\c' WHERE id = 2
-- 5 rows
MERGE INTO odd_partitions AS t
  USING (VALUES (1, 'a b/c=d%20', 9.99), (6, '100%', 6.0)) AS s(id, label, amount)
  ON t.label = s.label
  WHEN MATCHED THEN UPDATE SET amount = s.amount
  WHEN NOT MATCHED THEN INSERT (id, label, amount) VALUES (s.id, s.label, s.amount)
-- 6 rows
DELETE FROM odd_partitions WHERE label IS NULL AND id = 5
-- 5 rows
DELETE FROM odd_partitions
-- 0 rows
";

const COPY_ON_WRITE: &str = "
CREATE TABLE copy_on_write (id BIGINT, name STRING)
  TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')
-- 0 rows
INSERT INTO copy_on_write VALUES (1, 'one'), (2, 'two'), (3, 'three')
-- 3 rows
INSERT INTO copy_on_write VALUES (4, 'four'), (5, 'five')
-- 5 rows
UPDATE copy_on_write SET name = upper(name) WHERE id = 1
-- 5 rows
DELETE FROM copy_on_write WHERE id IN (2, 4)
-- 3 rows
MERGE INTO copy_on_write AS t USING (VALUES (3, 'drei'), (7, 'sieben')) AS s(id, name)
  ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET name = s.name
  WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name)
  WHEN NOT MATCHED BY SOURCE AND t.id = 5 THEN DELETE
-- 3 rows
DELETE FROM copy_on_write
-- 0 rows
";

const TYPES: &str = r#"
CREATE TABLE types (id BIGINT, tiny TINYINT, small SMALLINT, whole INT, ratio FLOAT, price DECIMAL(20, 4),
  flag BOOLEAN, day DATE, moment TIMESTAMP, text STRING, payload BYTEA)
-- 0 rows
INSERT INTO types VALUES
  (1, -128, 32767, -1, 0.1, 12345678.9012, true, DATE '1999-12-31',
  TIMESTAMP '2024-02-29 12:34:56.789012', 'it''s "quoted" \ and ünïcode', X'00ff'),
  (2, 127, -32768, 0, -2.5, -0.0001, false, DATE '1969-12-31',
  TIMESTAMP '1969-12-31 23:59:59.5', '', X'20'),
  (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
-- 3 rows
UPDATE types SET price = price * 2, moment = NULL, text = 'new' WHERE id = 1
-- 3 rows
DELETE FROM types WHERE tiny = 127
-- 2 rows
MERGE INTO types AS t USING (VALUES (3, 'filled'), (4, 'added')) AS s(id, text)
  ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET text = s.text, flag = true, day = DATE '2024-02-29'
  WHEN NOT MATCHED THEN INSERT (id, text) VALUES (s.id, s.text)
-- 3 rows
"#;

const NESTED: &str = "
CREATE TABLE nested AS
  SELECT column1 AS id, named_struct('a', column1, 'b', column2) AS pair,
  make_array(column1, NULL, column1 + 1) AS items, map(make_array(column2), make_array(column1)) AS lookup
  FROM (VALUES (1, 'x'), (2, 'y'), (3, 'z'))
-- 3 rows
INSERT INTO nested
  SELECT 4, named_struct('a', CAST(NULL AS BIGINT), 'b', ''), make_array(CAST(7 AS BIGINT)),
  map(make_array('k', 'j'), make_array(CAST(1 AS BIGINT), CAST(NULL AS BIGINT)))
-- 4 rows
UPDATE nested SET items = make_array(id, 0) WHERE id = 2
-- 4 rows
MERGE INTO nested AS t USING (VALUES (3, 'm'), (5, 'n')) AS s(id, word)
  ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET pair = named_struct('a', s.id, 'b', s.word)
  WHEN NOT MATCHED THEN INSERT (id, pair) VALUES (s.id, named_struct('a', s.id, 'b', s.word))
-- 5 rows
DELETE FROM nested WHERE id = 1
-- 4 rows
";

const TWO_WORDS: &str = r#"
CREATE TABLE "two words" ("Key" BIGINT, "Value" STRING)
-- 0 rows
INSERT INTO "two words" VALUES (1, 'one'), (2, 'two'), (3, 'three')
-- 3 rows
UPDATE "two words" SET "Value" = 'deux' WHERE "Key" = 2
-- 3 rows
MERGE INTO "two words" AS t USING (VALUES (3, 'trois'), (4, 'quatre')) AS s(id, word)
  ON t."Key" = s.id
  WHEN MATCHED THEN UPDATE SET "Value" = s.word
  WHEN NOT MATCHED THEN INSERT ("Key", "Value") VALUES (s.id, s.word)
-- 4 rows
DELETE FROM "two words" WHERE "Key" = 1
-- 3 rows
"#;

const TRACKED: &str = "
CREATE TABLE tracked (id BIGINT, name STRING)
-- 0 rows
INSERT INTO tracked VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')
-- 4 rows
ALTER TABLE tracked ADD PRIMARY KEY (id)
-- 4 rows
ALTER TABLE tracked ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON, CHANGE_RETENTION = 2 DAYS)
-- 4 rows
WITH CHANGE_TRACKING_CONTEXT (0x0102) UPDATE tracked SET name = 'zwei' WHERE id = 2
-- 4 rows
INSERT INTO tracked VALUES (5, 'five')
-- 5 rows
DELETE FROM tracked WHERE id = 1
-- 4 rows
ALTER TABLE tracked DISABLE CHANGE_TRACKING
-- 4 rows
";

pub(crate) fn trials() -> Result<Vec<Trial>, Box<dyn Error>> {
    let read_by_others = patience::ignorable_test("interop::written_tables_read_by_others", || {
        if let Some(reason) = readers::missing() {
            return Ok(Completion::ignored_with(format!("skipped: {reason}")));
        }
        for (table, script) in CASES {
            run_case(table, script)?;
        }
        Ok(Completion::Completed)
    });
    let mut trials = vec![read_by_others];
    trials.extend(writes::trials());
    trials.extend(own_rows::trials()?);
    Ok(trials)
}

fn run_case(table: &str, script: &str) -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    for (statement, row_count) in steps(script)? {
        let place = |failed: Failed| {
            let message = failed.message().unwrap_or_default();
            format!("{message}\n[SQL] {statement}")
        };
        warehouse
            .run(statement)
            .map_err(|error| place(error.into()))?;
        compare(&warehouse, table, row_count).map_err(place)?;
    }
    Ok(())
}

fn steps(script: &str) -> Result<Vec<(&str, usize)>, ParseIntError> {
    let steps = script
        .split_terminator(" rows\n")
        .filter_map(|step| step.rsplit_once("\n-- "));
    steps
        .map(|(statement, rows)| Ok((statement.trim(), rows.parse()?)))
        .collect()
}

fn compare(warehouse: &Warehouse, table: &str, row_count: usize) -> Result<(), Failed> {
    let answer = warehouse.run(&format!("SELECT * FROM \"{table}\""))?;
    let found = answer.row_count();
    if found != row_count {
        return Err(format!("alluvial reads {found} rows, not {row_count}").into());
    }
    let changes = changes(warehouse, table)?;
    let folder = warehouse.table_folder(table);
    let problems = readers::problems(&folder, &answer, changes.as_ref())?;
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n").into()),
    }
}

/// The changes to compare, where they are.
fn changes(warehouse: &Warehouse, table: &str) -> Result<Option<Answer>, Failed> {
    if !WITH_FEED.contains(&table) {
        return Ok(None);
    }
    let changes = warehouse.run(&format!("SELECT * FROM table_changes('{table}', NULL)"))?;
    Ok(Some(changes))
}
