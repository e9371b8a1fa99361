//! Changes that are found out against changes that were recorded: random statements run on a table with the change data feed and
//! on one without.
//!
//! ```text
//!  statements ─┬─ recorded ── table_changes(…) ── rows that a version both removed and added cancelled ─┐
//!              └─ plain ───── table_changes(…, derive => true[, key => 'id']) ──────────────────────────┴─ the same
//! ```
//!
//! Rows and ids repeat, and ids may be NULL. A failure shows its seed and the statements that led to it. `ALLUVIAL_TEST_SEEDS`, as
//! `7` or `1..500`, replaces the seeds that are listed here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter::repeat_n;

use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::RUNTIME;
use crate::canonical::{self, CHANGE_TYPE, COMMIT_VERSION};
use crate::patience;
use crate::random::{Random, seeds};
use crate::tables::{check_same, execute, open, rows};

/// The seeds of every trial.
const SEEDS: [u64; 3] = [1, 2, 3];
const STATEMENTS: usize = 24;
const WORDS: [&str; 4] = ["NULL", "'x'", "'y'", "''"];
/// Filters for which there is a change or other.
const FILTERS: [&str; 5] = [
    "a = 1",
    "id = 3",
    "b IS NULL",
    "p = 0 AND a <> 2",
    "_change_type LIKE 'update%'",
];

/// The kinds of tables.
struct Shape {
    name: &'static str,
    clauses: &'static str,
    deletion_vectors: bool,
    /// Whether the plain table has its feed on and off.
    gaps: bool,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "deletion-vectors",
        clauses: "",
        deletion_vectors: true,
        gaps: false,
    },
    Shape {
        name: "copied-files",
        clauses: "",
        deletion_vectors: false,
        gaps: false,
    },
    Shape {
        name: "partitions",
        clauses: " PARTITIONED BY (p)",
        deletion_vectors: true,
        gaps: false,
    },
    Shape {
        name: "copied-partitions",
        clauses: " PARTITIONED BY (p)",
        deletion_vectors: false,
        gaps: false,
    },
    Shape {
        name: "gaps",
        clauses: "",
        deletion_vectors: true,
        gaps: true,
    },
];

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |shape: &'static Shape| {
        patience::test(format!("derive::{}", shape.name), move || {
            for seed in seeds(&SEEDS)? {
                let mut tables = Tables::new()?;
                let outcome = RUNTIME.block_on(tables.check(shape, &mut Random::new(seed)));
                outcome.map_err(|failed| {
                    let message = failed.message().unwrap_or_default();
                    format!("seed {seed}: {message}\n\n{}", tables.script())
                })?;
            }
            Ok(())
        })
    };
    SHAPES.iter().map(trial).collect()
}

/// A change, all of it as canonical text.
#[derive(Debug)]
struct Change {
    version: i64,
    id: String,
    row: String,
    kind: String,
}

impl Change {
    fn is_removed(&self) -> bool {
        ["delete", "update_preimage"].contains(&self.kind.as_str())
    }
}

/// A row that a version has removed (-1) or added (1): version, id, row, side.
type Moved = (i64, String, String, i64);

/// The tables `recorded` and `plain`, and what has been done to them.
struct Tables {
    /// Only here so that it is removed at the end.
    _warehouse: TempDir,
    session: SessionContext,
    statements: Vec<String>,
    feed_is_on: bool,
}

impl Tables {
    fn new() -> Result<Self, Failed> {
        let warehouse = TempDir::new()?;
        Ok(Self {
            session: open(warehouse.path())?,
            _warehouse: warehouse,
            statements: vec![],
            feed_is_on: false,
        })
    }

    /// The statements so far, as a script.
    fn script(&self) -> String {
        self.statements.iter().fold(String::new(), |mut text, sql| {
            let _ = writeln!(text, "{sql};");
            text
        })
    }

    async fn run(&mut self, sql: String) -> Result<(), Failed> {
        self.statements.push(sql.clone());
        execute(&self.session, &sql).await.map(|_| ())
    }

    /// Runs a statement on both tables, which it calls `{t}`.
    async fn run_on_both(&mut self, sql: &str) -> Result<(), Failed> {
        for table in ["recorded", "plain"] {
            self.run(sql.replace("{t}", table)).await?;
        }
        Ok(())
    }

    async fn check(&mut self, shape: &Shape, random: &mut Random) -> Result<(), Failed> {
        for (table, feed) in [("recorded", true), ("plain", false)] {
            self.run(format!(
                "CREATE TABLE {table} (id BIGINT, a BIGINT, b STRING, p BIGINT){} \
                 TBLPROPERTIES ('delta.enableChangeDataFeed' = '{feed}', 'delta.enableDeletionVectors' = '{}')",
                shape.clauses, shape.deletion_vectors
            ))
            .await?;
        }
        self.run_on_both(&insert(random)).await?;
        for _ in 0..STATEMENTS {
            if shape.gaps && random.percent(20) {
                self.switch_feed().await?;
            }
            self.run_on_both(&statement(random)).await?;
        }
        let recorded = self.changes("table_changes('recorded', 0)").await?;
        if shape.gaps {
            self.check_gaps(&recorded).await
        } else {
            self.check_derived(&recorded, random).await
        }
    }

    /// Switches the feed of the plain table; the other one gets a commit, too, so that versions stay the same.
    async fn switch_feed(&mut self) -> Result<(), Failed> {
        self.feed_is_on = !self.feed_is_on;
        let count = self.statements.len();
        let property = format!("'delta.enableChangeDataFeed' = '{}'", self.feed_is_on);
        self.run(format!(
            "ALTER TABLE recorded SET TBLPROPERTIES ('note' = '{count}')"
        ))
        .await?;
        self.run(format!("ALTER TABLE plain SET TBLPROPERTIES ({property})"))
            .await
    }

    /// Recorded and found changes in turn: what they come to.
    async fn check_gaps(&self, recorded: &[Change]) -> Result<(), Failed> {
        let source = "table_changes('plain', 0, derive => true, key => 'id')";
        let found = self.changes(source).await?;
        check_same(source, &moved(recorded), &moved(&found))
    }

    async fn check_derived(&self, recorded: &[Change], random: &mut Random) -> Result<(), Failed> {
        let last = recorded.iter().map(|change| change.version).max();
        let last = u64::try_from(last.unwrap_or(1))?;
        let since = random.below(last);
        let until = since + 1 + random.below(last - since);
        for (since, until) in [(0, last), (since, until)] {
            let range = i64::try_from(since)? + 1..=i64::try_from(until)?;
            let mut expected = moved(recorded);
            expected.retain(|(version, ..)| range.contains(version));
            for key in ["", ", key => 'id'"] {
                let source =
                    format!("table_changes('plain', {since}, {until}, derive => true{key})");
                let found = self.changes(&source).await?;
                check_same(&source, &expected, &all(&found))?;
                let kinds = kinds(&expected, !key.is_empty());
                check_same(&format!("kinds of {source}"), &kinds, &kinds_of(&found))?;
                self.check_filter(&source, random.pick(&FILTERS)).await?;
            }
        }
        Ok(())
    }

    /// A filter, wherever it is applied, keeps those changes for which it holds.
    async fn check_filter(&self, source: &str, filter: &str) -> Result<(), Failed> {
        // no filter passes a limit
        let all = format!("SELECT * FROM (SELECT * FROM {source} LIMIT 1000000) WHERE {filter}");
        let expected = rows(&self.session, &all).await?;
        let filtered = format!("SELECT * FROM {source} WHERE {filter}");
        let found = rows(&self.session, &filtered).await?;
        check_same(&filtered, &expected, &found)
    }

    async fn changes(&self, source: &str) -> Result<Vec<Change>, Failed> {
        let answer = execute(&self.session, &format!("SELECT * FROM {source}")).await?;
        let text = |columns: &[&str]| {
            let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
            canonical::rows(&answer, &columns)
        };
        let (versions, kinds) = (text(&[COMMIT_VERSION])?, text(&[CHANGE_TYPE])?);
        let (ids, rows) = (text(&["id"])?, text(&["id", "a", "b", "p"])?);
        let mut changes = Vec::with_capacity(rows.len());
        for (((version, kind), id), row) in versions.iter().zip(kinds).zip(ids).zip(rows) {
            changes.push(Change {
                version: version.trim_matches(['[', ']']).parse()?,
                kind: kind.trim_matches(['[', ']', '"']).to_owned(),
                id,
                row,
            });
        }
        Ok(changes)
    }
}

/// The rows that were removed or added, those not that a version has both removed and added; sorted.
fn moved(changes: &[Change]) -> Vec<Moved> {
    let mut balances: BTreeMap<(i64, &str, &str), i64> = BTreeMap::new();
    for change in changes {
        let side = if change.is_removed() { -1 } else { 1 };
        let row = (change.version, change.id.as_str(), change.row.as_str());
        *balances.entry(row).or_default() += side;
    }
    let mut moved = Vec::new();
    for ((version, id, row), balance) in balances {
        let times = usize::try_from(balance.unsigned_abs()).unwrap_or_default();
        let one = (version, id.to_owned(), row.to_owned(), balance.signum());
        moved.extend(repeat_n(one, times));
    }
    moved.sort();
    moved
}

/// All rows that were removed or added, as they are; sorted.
fn all(changes: &[Change]) -> Vec<Moved> {
    let moved = changes.iter().map(|change| {
        let side = if change.is_removed() { -1 } else { 1 };
        (change.version, change.id.clone(), change.row.clone(), side)
    });
    let mut moved: Vec<Moved> = moved.collect();
    moved.sort();
    moved
}

/// Version, id and kind that the changes must have, `paired` by their ids or not; sorted.
fn kinds(moved: &[Moved], paired: bool) -> Vec<(i64, String, String)> {
    let mut counts: BTreeMap<(i64, &str), (usize, usize)> = BTreeMap::new();
    for (version, id, _, side) in moved {
        let count = counts.entry((*version, id)).or_default();
        if *side < 0 {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }
    let mut kinds = Vec::new();
    for ((version, id), (removed, added)) in counts {
        let updated = if paired { removed.min(added) } else { 0 };
        for (kind, count) in [
            ("update_preimage", updated),
            ("update_postimage", updated),
            ("delete", removed - updated),
            ("insert", added - updated),
        ] {
            kinds.extend(repeat_n((version, id.to_owned(), kind.to_owned()), count));
        }
    }
    kinds.sort();
    kinds
}

/// Version, id and kind that changes have; sorted.
fn kinds_of(changes: &[Change]) -> Vec<(i64, String, String)> {
    let kinds = changes
        .iter()
        .map(|change| (change.version, change.id.clone(), change.kind.clone()));
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort();
    kinds
}

/// A statement on the table `{t}`; it may change nothing.
fn statement(random: &mut Random) -> String {
    match random.below(100) {
        0..20 => insert(random),
        20..45 => update(random),
        45..60 => format!("DELETE FROM {{t}} WHERE id IN ({})", ids(random)),
        60..62 => "DELETE FROM {t}".to_owned(),
        62..85 => merge(random),
        _ => overwrite(random),
    }
}

fn insert(random: &mut Random) -> String {
    let rows: Vec<String> = (0..1 + random.index(6)).map(|_| values(random)).collect();
    format!("INSERT INTO {{t}} VALUES {}", rows.join(", "))
}

fn update(random: &mut Random) -> String {
    let set = match random.below(5) {
        0 => format!("a = {}", random.below(3)),
        1 => format!("b = {}", random.pick(&WORDS)),
        2 => format!("p = {}, a = NULL", random.below(2)),
        3 => "id = id + 1".to_owned(),
        _ => "a = a".to_owned(),
    };
    if random.percent(20) {
        return format!("UPDATE {{t}} SET {set}");
    }
    format!("UPDATE {{t}} SET {set} WHERE id IN ({})", ids(random))
}

/// Deletes matched rows whose new `a` is 0, updates the others, and inserts what is not there.
fn merge(random: &mut Random) -> String {
    let mut ids: Vec<u64> = (1..=9).collect();
    let rows: Vec<String> = random
        .take(&mut ids, 3)
        .into_iter()
        .map(|id| {
            let (a, b, p) = (random.below(3), random.pick(&WORDS), random.below(2));
            format!("({id}, {a}, {b}, {p})")
        })
        .collect();
    format!(
        "MERGE INTO {{t}} AS t USING (SELECT CAST(id AS BIGINT) AS id, CAST(a AS BIGINT) AS a, CAST(b AS STRING) AS b, CAST(p AS BIGINT) AS p \
         FROM (VALUES {}) AS v(id, a, b, p)) AS s ON t.id = s.id WHEN MATCHED AND s.a = 0 THEN DELETE \
         WHEN MATCHED THEN UPDATE SET a = s.a, b = s.b, p = s.p \
         WHEN NOT MATCHED THEN INSERT (id, a, b, p) VALUES (s.id, s.a, s.b, s.p)",
        rows.join(", ")
    )
}

/// Puts all rows there anew, some of them changed, left out or added.
fn overwrite(random: &mut Random) -> String {
    let (changed, dropped) = (random.below(9), random.below(9));
    let mut sql = format!(
        "INSERT OVERWRITE {{t}} SELECT id, CASE WHEN id = {changed} THEN a + 1 ELSE a END AS a, b, p FROM {{t}} \
         WHERE id <> {dropped} OR id IS NULL"
    );
    if random.percent(30) {
        let _ = write!(
            sql,
            " UNION ALL SELECT id, a, b, p FROM (VALUES {}) AS v(id, a, b, p)",
            values(random)
        );
    }
    sql
}

fn values(random: &mut Random) -> String {
    let id = if random.percent(10) {
        "NULL".to_owned()
    } else {
        random.below(9).to_string()
    };
    let (a, b, p) = (random.below(3), random.pick(&WORDS), random.below(2));
    format!("({id}, {a}, {b}, {p})")
}

fn ids(random: &mut Random) -> String {
    let ids = [random.below(9), random.below(9), random.below(9)];
    ids.map(|id| id.to_string()).join(", ")
}
