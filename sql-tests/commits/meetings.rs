//! Two statements write at one moment: the second has done everything but its commit when the first commits.
//!
//! Both are done, the second as if it had come after the first. Where the keys tell that the first has not touched what the second
//! has read, the second does not read or write its rows again. A statement whose rows are made of those of its own target is refused
//! instead.

use datafusion::error::DataFusionError;
use libtest_mimic::{Failed, Trial};
use object_store::path::Path;
use tempfile::TempDir;

use super::restore::restore;
use super::stage::{Stage, check_named, spawn, table};
use super::statements::{PLAIN, Statement};
use crate::RUNTIME;
use crate::faults::store::{Fault, Process};
use crate::patience;
use crate::tables::{check_same, execute};

/// Two statements, and what they come to.
struct Meeting {
    /// One statement, or several that are commits of their own, with `;` in between.
    first: &'static str,
    second: Statement,
    /// Rows of the table that are not there afterwards, and rows that are.
    gone: &'static [&'static str],
    come: &'static [&'static str],
    /// How many of the two have something to commit.
    commits: i64,
    /// Whether the second writes new rows twice; absent where it does not matter.
    again: Option<bool>,
}

pub(super) fn trials() -> impl Iterator<Item = Trial> {
    let refused = REFUSED.iter().map(|second| {
        let name = format!("commits::meetings::{}", second.name);
        patience::test(name, move || RUNTIME.block_on(check_refused(second)))
    });
    let meetings = MEETINGS.iter().map(|meeting| {
        let name = format!("commits::meetings::{}", meeting.second.name);
        patience::test(name, move || {
            RUNTIME.block_on(meeting.check()).map_err(|failed| {
                let message = failed.message().unwrap_or_default();
                let (first, second) = (meeting.first, meeting.second.sql);
                format!("{message}\n{first};\n{second};").into()
            })
        })
    });
    meetings.chain(refused)
}

/// How the second of two statements has ended.
struct Met {
    second: Result<(), DataFusionError>,
    /// Whether it has written new rows twice.
    again: bool,
}

/// Runs `first` when the statement of the stage has done everything but its commit.
async fn meet(stage: &Stage, copy: &TempDir, first: &str) -> Result<Met, Failed> {
    let process = stage.host.start(copy.path())?;
    let session = stage.open().await?;
    process.arm(Fault::StoppedBeforeCommit);
    let second = spawn(stage.run(&session), &process);
    process.wait_for_stop().await;
    if !process.was_hit() {
        second.await??;
        return Err("the second statement has committed nothing".into());
    }
    let written = data_files(&process);
    let first = meanwhile(stage, copy, first).await;
    process.go_on();
    let second = second.await?;
    first?;
    check_named(&table(copy.path())).await?;
    Ok(Met {
        second,
        again: data_files(&process) > written,
    })
}

/// What the first writer does, one statement after the other.
async fn meanwhile(stage: &Stage, copy: &TempDir, script: &str) -> Result<(), Failed> {
    stage.host.start(copy.path())?;
    let session = stage.open().await?;
    for sql in script.split(';').map(str::trim) {
        match sql.strip_prefix(RESTORE) {
            Some(version) => restore(&table(copy.path()), version.parse()?)?,
            None => drop(execute(&session, sql).await?),
        }
    }
    Ok(())
}

/// Makes sure that a statement whose rows are those of an overtaken version writes none of them.
async fn check_refused(second: &'static Statement) -> Result<(), Failed> {
    let stage = Stage::set_up(second, "meetings").await?;
    let copy = stage.host.copy()?;
    let mut expected = stage.read(copy.path()).await?.rows;
    let met = meet(&stage, &copy, INSERT_1_AT_50).await?;
    let message = met.second.err().map(|error| error.to_string());
    if !message
        .as_ref()
        .is_some_and(|message| message.contains("CONCURRENT_WRITE"))
    {
        return Err(format!(
            "CONCURRENT_WRITE was expected of {}: {message:?}",
            second.sql
        )
        .into());
    }
    expected.push(r#"[50,"p0","1"]"#.to_owned());
    expected.sort();
    let found = stage.read(copy.path()).await?;
    check_same("the table", &expected, &found.rows)
}

impl Meeting {
    async fn check(&'static self) -> Result<(), Failed> {
        let stage = Stage::set_up(&self.second, "meetings").await?;
        let copy = stage.host.copy()?;
        let before = stage.read(copy.path()).await?;
        let met = meet(&stage, &copy, self.first).await?;
        met.second?;
        let found = stage.read(copy.path()).await?;
        check_same("the table", &self.rows(&before.rows), &found.rows)?;
        if found.version != before.version + self.commits {
            let (before, now) = (before.version, found.version);
            return Err(format!("version {before} has become {now}").into());
        }
        if self.again.is_some_and(|expected| expected != met.again) {
            let not = if met.again { "" } else { "not " };
            return Err(format!("the second statement has {not}been planned again").into());
        }
        Ok(())
    }

    fn rows(&self, before: &[String]) -> Vec<String> {
        let mut rows = before.to_vec();
        rows.retain(|row| !self.gone.contains(&row.as_str()));
        rows.extend(self.come.iter().map(ToString::to_string));
        rows.sort();
        rows
    }
}

/// How many files of data a process has written.
fn data_files(process: &Process) -> usize {
    let is_data = |path: &Path| {
        let path = path.as_ref();
        path.ends_with(".parquet")
            && !path.contains("/_change_data/")
            && !path.contains("/_delta_log/")
    };
    process.puts().iter().filter(|path| is_data(path)).count()
}

/// What stands before the version in a statement of other engines.
const RESTORE: &str = "RESTORE TABLE t TO VERSION AS OF ";

const ONE_OLD: &str = r#"[1,"p1","old"]"#;
const TWO_OLD: &str = r#"[2,"p2","old"]"#;
const THREE_OLD: &str = r#"[3,"p0","old"]"#;
/// Which is gone when the statements begin.
const FIVE_OLD: &str = r#"[5,"p2","old"]"#;
const LAST_TWO_OLD: [&str; 2] = [r#"[21,"p1","old"]"#, r#"[22,"p2","old"]"#];

const APPEND_1_TO_ROW_1: &str = "MERGE INTO t USING (VALUES (1)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '1'";
const APPEND_2_TO_ROW_1: &str = "MERGE INTO t USING (VALUES (1)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '2'";
const APPEND_2_TO_ROW_2: &str = "MERGE INTO t USING (VALUES (2)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '2'";
const UPSERT_1_AT_50: &str = "MERGE INTO t USING (VALUES (50)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '1' \
    WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 'p0', '1')";
const UPSERT_2_AT_50: &str = "MERGE INTO t USING (VALUES (50)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '2' \
    WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 'p0', '2')";
const UPSERT_2_AT_51: &str = "MERGE INTO t USING (VALUES (51)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '2' \
    WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 'p0', '2')";
const UPSERT_2_AT_5: &str = "MERGE INTO t USING (VALUES (5)) AS s (id) ON t.id = s.id \
    WHEN MATCHED THEN UPDATE SET v = t.v || '2' \
    WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 'p2', '2')";
const INSERT_1_AT_50: &str = "INSERT INTO t VALUES (50, 'p0', '1')";
const COPY_ON_WRITE: &str = "TBLPROPERTIES (delta.enableDeletionVectors = false)";

const MEETINGS: &[Meeting] = &[
    Meeting {
        first: APPEND_1_TO_ROW_1,
        second: second("different-rows", APPEND_2_TO_ROW_2),
        gone: &[ONE_OLD, TWO_OLD],
        come: &[r#"[1,"p1","old1"]"#, r#"[2,"p2","old2"]"#],
        commits: 2,
        again: Some(false),
    },
    Meeting {
        first: APPEND_1_TO_ROW_1,
        second: second("same-row", APPEND_2_TO_ROW_1),
        gone: &[ONE_OLD],
        come: &[r#"[1,"p1","old12"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: APPEND_1_TO_ROW_1,
        second: Statement {
            table: COPY_ON_WRITE,
            ..second("different-rows-of-a-file-that-is-copied", APPEND_2_TO_ROW_2)
        },
        gone: &[ONE_OLD, TWO_OLD],
        come: &[r#"[1,"p1","old1"]"#, r#"[2,"p2","old2"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: "UPDATE t SET v = v || '1' WHERE id = 21",
        second: Statement {
            table: COPY_ON_WRITE,
            ..second("different-files-that-are-copied", APPEND_2_TO_ROW_2)
        },
        gone: &[r#"[21,"p1","old"]"#, TWO_OLD],
        come: &[r#"[21,"p1","old1"]"#, r#"[2,"p2","old2"]"#],
        commits: 2,
        again: None,
    },
    Meeting {
        first: UPSERT_1_AT_50,
        second: second("same-new-key", UPSERT_2_AT_50),
        gone: &[],
        come: &[r#"[50,"p0","12"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: UPSERT_1_AT_50,
        second: second("different-new-keys", UPSERT_2_AT_51),
        gone: &[],
        come: &[r#"[50,"p0","1"]"#, r#"[51,"p0","2"]"#],
        commits: 2,
        again: Some(false),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second("key-was-appended", UPSERT_2_AT_50),
        gone: &[],
        come: &[r#"[50,"p0","12"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second("other-key-was-appended", APPEND_2_TO_ROW_2),
        gone: &[TWO_OLD],
        come: &[r#"[50,"p0","1"]"#, r#"[2,"p2","old2"]"#],
        commits: 2,
        again: Some(false),
    },
    Meeting {
        first: "UPDATE t SET id = 51 WHERE id = 3",
        second: second("key-came-by-an-update", UPSERT_2_AT_51),
        gone: &[r#"[3,"p0","old"]"#],
        come: &[r#"[51,"p0","old2"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: "DELETE FROM t WHERE id = 1",
        second: second("row-was-deleted", APPEND_2_TO_ROW_1),
        gone: &[ONE_OLD],
        come: &[],
        commits: 1,
        again: None,
    },
    Meeting {
        first: "DELETE FROM t WHERE id = 1",
        second: second("deletes-in-one-file", "DELETE FROM t WHERE id = 2"),
        gone: &[ONE_OLD, TWO_OLD],
        come: &[],
        commits: 2,
        again: None,
    },
    Meeting {
        first: "DELETE FROM t WHERE id BETWEEN 1 AND 22",
        second: second("file-is-gone", APPEND_2_TO_ROW_2),
        gone: &[
            ONE_OLD,
            TWO_OLD,
            r#"[3,"p0","old"]"#,
            r#"[4,"p1","old"]"#,
            r#"[6,"p0","old"]"#,
            r#"[7,"p1","old"]"#,
            r#"[8,"p2","old"]"#,
            r#"[9,"p0","old"]"#,
            r#"[10,"p1","old"]"#,
            r#"[11,"p2","old"]"#,
            r#"[12,"p0","old"]"#,
            r#"[13,"p1","old"]"#,
            r#"[14,"p2","old"]"#,
            r#"[15,"p0","old"]"#,
            r#"[16,"p1","old"]"#,
            r#"[17,"p2","old"]"#,
            r#"[18,"p0","old"]"#,
            r#"[19,"p1","old"]"#,
            r#"[20,"p2","old"]"#,
            r#"[21,"p1","old"]"#,
            r#"[22,"p2","old"]"#,
        ],
        come: &[],
        commits: 1,
        again: None,
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second(
            "not-matched-by-source",
            "MERGE INTO t USING (VALUES (1)) AS s (id) ON t.id = s.id \
             WHEN NOT MATCHED BY SOURCE AND t.id > 20 THEN UPDATE SET v = t.v || '2'",
        ),
        gone: &[r#"[21,"p1","old"]"#, r#"[22,"p2","old"]"#],
        come: &[
            r#"[21,"p1","old2"]"#,
            r#"[22,"p2","old2"]"#,
            r#"[50,"p0","12"]"#,
        ],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second(
            "update-of-what-was-appended",
            "UPDATE t SET v = v || '2' WHERE id > 20",
        ),
        gone: &[r#"[21,"p1","old"]"#, r#"[22,"p2","old"]"#],
        come: &[
            r#"[21,"p1","old2"]"#,
            r#"[22,"p2","old2"]"#,
            r#"[50,"p0","12"]"#,
        ],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second(
            "update-by-a-sub-query",
            "UPDATE t SET v = 'n' || (SELECT max(id) FROM t) WHERE id = 2",
        ),
        gone: &[TWO_OLD],
        come: &[r#"[50,"p0","1"]"#, r#"[2,"p2","n50"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second(
            "update-by-a-count",
            "UPDATE t SET v = 'n' || (SELECT count(*) FROM t) WHERE id = 2",
        ),
        gone: &[TWO_OLD],
        come: &[r#"[50,"p0","1"]"#, r#"[2,"p2","n22"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: INSERT_1_AT_50,
        second: second(
            "merge-by-a-sub-query",
            "MERGE INTO t USING (VALUES (2)) AS s (id) ON t.id = s.id \
             WHEN MATCHED THEN UPDATE SET v = 'n' || (SELECT count(*) FROM t AS u)",
        ),
        gone: &[TWO_OLD],
        come: &[r#"[50,"p0","1"]"#, r#"[2,"p2","n22"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: "OPTIMIZE t",
        second: second("files-were-optimized", APPEND_2_TO_ROW_2),
        gone: &[TWO_OLD],
        come: &[r#"[2,"p2","old2"]"#],
        commits: 2,
        again: None,
    },
    Meeting {
        first: "OPTIMIZE t; DELETE FROM t WHERE id = 2",
        second: second("row-was-moved-and-deleted", APPEND_2_TO_ROW_2),
        gone: &[TWO_OLD],
        come: &[],
        commits: 2,
        again: None,
    },
    Meeting {
        first: "OPTIMIZE t; DELETE FROM t WHERE id = 1",
        second: second("row-was-moved", APPEND_2_TO_ROW_2),
        gone: &[ONE_OLD, TWO_OLD],
        come: &[r#"[2,"p2","old2"]"#],
        commits: 3,
        again: None,
    },
    Meeting {
        first: "DELETE FROM t WHERE id = 1; DELETE FROM t WHERE id = 3",
        second: second("different-rows-twice", APPEND_2_TO_ROW_2),
        gone: &[ONE_OLD, TWO_OLD, THREE_OLD],
        come: &[r#"[2,"p2","old2"]"#],
        commits: 3,
        again: Some(false),
    },
    Meeting {
        first: "DELETE FROM t WHERE id = 1; DELETE FROM t WHERE id = 2",
        second: second("same-row-the-second-time", APPEND_2_TO_ROW_2),
        gone: &[ONE_OLD, TWO_OLD],
        come: &[],
        commits: 2,
        again: None,
    },
    // version 1 has neither the deletion of row 5 nor rows 21 and 22
    Meeting {
        first: "RESTORE TABLE t TO VERSION AS OF 1",
        second: second("file-was-restored", APPEND_2_TO_ROW_2),
        gone: &[TWO_OLD, LAST_TWO_OLD[0], LAST_TWO_OLD[1]],
        come: &[r#"[2,"p2","old2"]"#, FIVE_OLD],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: "RESTORE TABLE t TO VERSION AS OF 1",
        second: second("key-was-restored", UPSERT_2_AT_5),
        gone: &LAST_TWO_OLD,
        come: &[r#"[5,"p2","old2"]"#],
        commits: 2,
        again: Some(true),
    },
    Meeting {
        first: "RESTORE TABLE t TO VERSION AS OF 2",
        second: second("row-went-with-a-restore", "DELETE FROM t WHERE id = 21"),
        gone: &LAST_TWO_OLD,
        come: &[],
        commits: 1,
        again: None,
    },
    Meeting {
        first: "RESTORE TABLE t TO VERSION AS OF 1",
        second: second(
            "insert-beside-a-restore",
            "INSERT INTO t VALUES (50, 'p0', '2')",
        ),
        gone: &LAST_TWO_OLD,
        come: &[r#"[50,"p0","2"]"#, FIVE_OLD],
        commits: 2,
        again: Some(false),
    },
    Meeting {
        first: "DELETE FROM t WHERE id = 21; RESTORE TABLE t TO VERSION AS OF 3",
        second: second(
            "row-went-and-came-back",
            "UPDATE t SET v = v || '2' WHERE id = 21",
        ),
        gone: &[LAST_TWO_OLD[0]],
        come: &[r#"[21,"p1","old2"]"#],
        commits: 3,
        again: Some(true),
    },
];

/// Statements whose rows are made of those of the table; another has inserted one meanwhile.
const REFUSED: &[Statement] = &[
    second(
        "insert-from-itself",
        "INSERT INTO t SELECT max(id) + 1, 'p0', '2' FROM t",
    ),
    second(
        "insert-by-a-sub-query",
        "INSERT INTO t SELECT value + (SELECT max(id) FROM t WHERE v > ''), 'p0', '2' FROM generate_series(1, 2)",
    ),
    second(
        "insert-by-a-count",
        "INSERT INTO t SELECT 100 + (SELECT count(*) FROM t), 'p0', '2'",
    ),
    second(
        "merge-from-a-sub-query",
        "MERGE INTO t USING (SELECT k + (SELECT max(id) FROM t) AS id FROM (VALUES (1)) AS v (k)) AS s ON t.id = s.id \
         WHEN NOT MATCHED THEN INSERT (id, p, v) VALUES (s.id, 'p0', '2')",
    ),
];

const fn second(name: &'static str, sql: &'static str) -> Statement {
    Statement {
        name,
        table: "",
        sql,
        ..PLAIN
    }
}
