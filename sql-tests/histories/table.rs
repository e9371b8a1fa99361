//! Tables that change at random, their copies, the copies' copies, and the history of their rows.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use libtest_mimic::Failed;

use super::transcript::Transcript;
use crate::canonical;
use crate::random::Random;
use crate::tables::{check_equal, check_feed, check_same, execute, rows_in};

const COMMITS: usize = 24;
const WORDS: [&str; 4] = ["NULL", "'x'", "'y'", "''"];
/// What the source is created with.
const CLAUSES: [&str; 4] = [
    "",
    " PARTITIONED BY (p)",
    " TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')",
    " PARTITIONED BY (p) TBLPROPERTIES ('delta.enableDeletionVectors' = 'false', 'delta.checkpointInterval' = '5')",
];

/// The table `source` (id, a, b, p), which changes at random.
struct Source {
    ids: BTreeSet<i64>,
}

impl Source {
    async fn create(transcript: &mut Transcript, random: &mut Random) -> Result<Self, Failed> {
        let clauses = random.pick(&CLAUSES);
        let sql = format!(
            "CREATE TABLE source (id BIGINT PRIMARY KEY, a BIGINT, b STRING, p BIGINT){clauses}"
        );
        transcript.run(sql).await?;
        let mut source = Self {
            ids: BTreeSet::new(),
        };
        let insert = source.insert(random);
        transcript.run(insert).await?;
        Ok(source)
    }

    /// Changes some rows; with a probability of so many percent in a gap, that is while the changes are not recorded. Whether
    /// there was one.
    async fn change(
        &mut self,
        transcript: &mut Transcript,
        random: &mut Random,
        gaps_percent: u64,
    ) -> Result<bool, Failed> {
        let record = |on: bool| {
            format!("ALTER TABLE source SET TBLPROPERTIES ('delta.enableChangeDataFeed' = '{on}')")
        };
        let is_gap = random.percent(gaps_percent);
        if is_gap {
            transcript.run(record(false)).await?;
            let statement = self.statement(random);
            transcript.run(statement).await?;
        }
        let statement = self.statement(random);
        transcript.run(statement).await?;
        if is_gap {
            transcript.run(record(true)).await?;
        }
        Ok(is_gap)
    }

    /// A statement that changes some row or other.
    fn statement(&mut self, random: &mut Random) -> String {
        if self.ids.is_empty() {
            return self.insert(random);
        }
        match random.below(100) {
            0..25 => self.insert(random),
            25..45 => self.update(random),
            45..60 => self.update_keys(random),
            60..75 => self.delete(random),
            75..78 => {
                self.ids.clear();
                "DELETE FROM source".to_owned()
            }
            _ => self.merge(random),
        }
    }

    /// So many ids that are not there; some of them may have been before.
    fn new_ids(&self, random: &mut Random, count: usize) -> Vec<i64> {
        let mut unused: Vec<i64> = (1..=30).filter(|id| !self.ids.contains(id)).collect();
        random.take(&mut unused, count)
    }

    /// Up to so many ids that are there.
    fn some_ids(&self, random: &mut Random, count: usize) -> Vec<i64> {
        let mut ids: Vec<i64> = self.ids.iter().copied().collect();
        random.take(&mut ids, count)
    }

    fn insert(&mut self, random: &mut Random) -> String {
        let count = 1 + random.index(4);
        let ids = self.new_ids(random, count);
        let rows: Vec<String> = ids.iter().map(|id| values(*id, random)).collect();
        if rows.is_empty() {
            return "UPDATE source SET a = 0".to_owned();
        }
        self.ids.extend(ids);
        format!("INSERT INTO source VALUES {}", rows.join(", "))
    }

    fn update(&self, random: &mut Random) -> String {
        let ids = list(&self.some_ids(random, 3));
        let set = match random.below(4) {
            0 => format!("a = {}", random.below(5)),
            1 => format!("b = {}", random.pick(&WORDS)),
            2 => format!("p = {}, a = NULL", random.below(3)),
            _ => "a = a".to_owned(),
        };
        format!("UPDATE source SET {set} WHERE id IN ({ids})")
    }

    /// Rows move to ids that are free, swap theirs, or all move up by one.
    fn update_keys(&mut self, random: &mut Random) -> String {
        let (moved, free) = (self.some_ids(random, 2), self.new_ids(random, 1));
        match (random.below(3), moved.as_slice(), free.as_slice()) {
            (0, [first, second], _) => format!(
                "UPDATE source SET id = CASE id WHEN {first} THEN {second} ELSE {first} END WHERE id IN ({first}, {second})"
            ),
            (1, [from, ..], [to]) => {
                self.ids.remove(from);
                self.ids.insert(*to);
                format!(
                    "UPDATE source SET id = {to}, a = {} WHERE id = {from}",
                    random.below(5)
                )
            }
            _ => {
                self.ids = self.ids.iter().map(|id| id + 1).collect();
                "UPDATE source SET id = id + 1".to_owned()
            }
        }
    }

    fn delete(&mut self, random: &mut Random) -> String {
        let ids = self.some_ids(random, 2);
        self.ids.retain(|id| !ids.contains(id));
        format!("DELETE FROM source WHERE id IN ({})", list(&ids))
    }

    /// Deletes matched rows whose new `a` is 0, updates the others, and inserts what is not there.
    fn merge(&mut self, random: &mut Random) -> String {
        let (matched, new) = (self.some_ids(random, 3), self.new_ids(random, 2));
        let mut rows = Vec::new();
        for id in matched.iter().chain(&new) {
            let a = random.below(3);
            rows.push(format!(
                "({id}, {a}, {}, {})",
                random.pick(&WORDS),
                random.below(3)
            ));
            if a == 0 {
                self.ids.remove(id);
            }
            if a != 0 || new.contains(id) {
                self.ids.insert(*id);
            }
        }
        format!(
            "MERGE INTO source AS t USING (SELECT CAST(id AS BIGINT) AS id, CAST(a AS BIGINT) AS a, CAST(b AS STRING) AS b, CAST(p AS BIGINT) AS p \
             FROM (VALUES {}) AS v(id, a, b, p)) AS s ON t.id = s.id WHEN MATCHED AND s.a = 0 THEN DELETE \
             WHEN MATCHED THEN UPDATE SET a = s.a, b = s.b, p = s.p \
             WHEN NOT MATCHED THEN INSERT (id, a, b, p) VALUES (s.id, s.a, s.b, s.p)",
            rows.join(", ")
        )
    }
}

fn values(id: i64, random: &mut Random) -> String {
    let (a, b, p) = (random.below(5), random.pick(&WORDS), random.below(3));
    format!("({id}, {a}, {b}, {p})")
}

fn list(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// A copy, and a copy of the copy that is not always as fresh.
pub(super) async fn chain_of_copies(
    transcript: &mut Transcript,
    random: &mut Random,
) -> Result<(), Failed> {
    copy_in_a_chain(transcript, random, 0).await
}

/// The same from a source whose changes cannot always be read.
pub(super) async fn chain_with_gaps(
    transcript: &mut Transcript,
    random: &mut Random,
) -> Result<(), Failed> {
    copy_in_a_chain(transcript, random, 10).await
}

async fn copy_in_a_chain(
    transcript: &mut Transcript,
    random: &mut Random,
    gaps_percent: u64,
) -> Result<(), Failed> {
    const SYNC: &str = "SYNC INTO copy FROM source ON EXPIRED RESNAPSHOT";
    const SYNC_SECOND: &str = "SYNC INTO second FROM copy";
    let mut source = Source::create(transcript, random).await?;
    for _ in 0..COMMITS {
        source.change(transcript, random, gaps_percent).await?;
        if random.percent(50) {
            transcript.sync(SYNC).await?;
            check_equal(transcript.session(), "source", "copy").await?;
            if random.percent(60) {
                transcript.sync(SYNC_SECOND).await?;
                check_equal(transcript.session(), "source", "second").await?;
            }
        }
    }
    transcript.sync(SYNC).await?;
    transcript.sync(SYNC_SECOND).await?;
    for copy in ["copy", "second"] {
        check_equal(transcript.session(), "source", copy).await?;
        check_feed(transcript.session(), copy).await?;
    }
    Ok(())
}

/// The versions of a table, row by row.
#[derive(Default)]
struct Versions {
    /// The values of each row, and since when it has had them.
    open: BTreeMap<i64, (i64, String)>,
    past: Vec<String>,
}

impl Versions {
    /// Adds a version: its rows by id.
    fn add(&mut self, version: i64, mut rows: BTreeMap<i64, String>) {
        for (id, (start, values)) in std::mem::take(&mut self.open) {
            if rows.get(&id) == Some(&values) {
                rows.remove(&id);
                self.open.insert(id, (start, values));
            } else {
                self.past.push(format!("[{id},{start},{version},{values}]"));
            }
        }
        self.open
            .extend(rows.into_iter().map(|(id, values)| (id, (version, values))));
    }

    fn text(&self) -> Vec<String> {
        let open = self.open.iter();
        let open = open.map(|(id, (start, values))| format!("[{id},{start},null,{values}]"));
        let mut all: Vec<String> = self.past.iter().cloned().chain(open).collect();
        all.sort();
        all
    }
}

/// Every version since the first run is in the history, also those that no run has seen.
pub(super) async fn history_of_a_table(
    transcript: &mut Transcript,
    random: &mut Random,
) -> Result<(), Failed> {
    keep_history(transcript, random, 0).await
}

/// After a gap the history goes on with what is there then.
pub(super) async fn history_with_gaps(
    transcript: &mut Transcript,
    random: &mut Random,
) -> Result<(), Failed> {
    keep_history(transcript, random, 10).await
}

async fn keep_history(
    transcript: &mut Transcript,
    random: &mut Random,
    gaps_percent: u64,
) -> Result<(), Failed> {
    const SYNC: &str = "SYNC INTO target FROM source STORED AS SCD TYPE 2 ON EXPIRED RESNAPSHOT";
    const COLUMNS: [&str; 6] = ["id", "__START_AT", "__END_AT", "a", "b", "p"];
    let mut source = Source::create(transcript, random).await?;
    let mut versions = Versions::default();
    // the versions that the next run will see: of the first run, and after a gap, only the last
    let (mut unseen, mut only_last) = (Vec::new(), true);
    for _ in 0..COMMITS {
        only_last |= source.change(transcript, random, gaps_percent).await?;
        unseen.push(current(transcript).await?);
        if random.percent(40) {
            let skipped = if only_last { unseen.len() - 1 } else { 0 };
            for (version, rows) in unseen.drain(..).skip(skipped) {
                versions.add(version, rows);
            }
            only_last = false;
            transcript.sync(SYNC).await?;
            let query = "SELECT * FROM target";
            let found = rows_in(transcript.session(), query, &COLUMNS).await?;
            check_same("the history", &versions.text(), &found)?;
        }
    }
    transcript.sync(SYNC).await?;
    check_feed(transcript.session(), "target").await
}

/// The version of the table, and its rows by id.
async fn current(transcript: &Transcript) -> Result<(i64, BTreeMap<i64, String>), Failed> {
    let session = transcript.session();
    let newest = execute(session, "DESCRIBE HISTORY source LIMIT 1").await?;
    let version = newest.batches.iter().find_map(|batch| {
        let versions = batch
            .column_by_name("version")?
            .as_primitive_opt::<Int64Type>()?;
        versions.iter().next().flatten()
    });
    let answer = execute(session, "SELECT * FROM source").await?;
    let ids = canonical::rows(&answer, &["id".to_owned()])?;
    let values = canonical::rows(&answer, &["a", "b", "p"].map(str::to_owned))?;
    let mut rows = BTreeMap::new();
    for (id, values) in ids.iter().zip(&values) {
        let inner = |text: &str| text[1..text.len() - 1].to_owned();
        rows.insert(inner(id).parse()?, inner(values));
    }
    Ok((version.ok_or("the table has no history")?, rows))
}
