//! Several sessions write one target at the same moment: nothing is lost, and nothing is applied twice.
//!
//! Sessions share nothing but the files. In each round the source changes, then both sides start together; afterwards the target
//! equals its source and both reports together are exactly what has changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;
use tokio::sync::Barrier;

use crate::RUNTIME;
use crate::patience;
use crate::random::Random;
use crate::tables::{
    Counts, Report, check_equal, check_feed, check_same, execute, open, rows, rows_of, sync,
};

const ROUNDS: usize = 100;
/// Rounds of races that are not between equals.
const FEWER_ROUNDS: usize = 24;
const SEED: u64 = 41;
/// About as long as a sync takes.
const LONGEST_DELAY_MILLIS: u64 = 100;
const SYNC: &str = "SYNC INTO target FROM source";

pub(crate) fn trials() -> Vec<Trial> {
    fn trial(
        name: &str,
        check: impl Future<Output = Result<(), Failed>> + Send + 'static,
    ) -> Trial {
        patience::test(format!("races::{name}"), || RUNTIME.block_on(check))
    }
    vec![
        trial("one-sync-by-two-sessions", one_sync_by_two_sessions()),
        trial("two-syncs-into-one-target", two_syncs_into_one_target()),
        trial("statements-on-the-target", statements_on_the_target()),
        trial("first-run-by-two-sessions", first_run_by_two_sessions()),
        trial("remembered-deletes", remembered_deletes()),
        trial("two-batches-of-changes", two_batches_of_changes()),
    ]
}

/// Runs both at the same moment, on different threads where there are any; in every other round the right one begins later, so
/// that the left one is somewhere in the middle by then.
async fn race<L: Send + 'static, R: Send + 'static>(
    round: usize,
    left: impl Future<Output = L> + Send + 'static,
    right: impl Future<Output = R> + Send + 'static,
) -> Result<(L, R), Failed> {
    let start = Arc::new(Barrier::new(2));
    let same_start = Arc::clone(&start);
    let left = tokio::spawn(async move {
        same_start.wait().await;
        left.await
    });
    let right = tokio::spawn(async move {
        start.wait().await;
        if round % 2 == 1 {
            let millis = Random::new(round as u64).below(LONGEST_DELAY_MILLIS);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        right.await
    });
    Ok((left.await?, right.await?))
}

/// A statement of a session, to be run in a race.
fn run(
    session: &SessionContext,
    sql: impl Into<String>,
) -> impl Future<Output = Result<Report, Failed>> + Send + 'static {
    let (session, sql) = (session.clone(), sql.into());
    async move { sync(&session, &sql).await }
}

/// Says in which round a check failed.
fn in_round<T>(round: usize, result: Result<T, Failed>) -> Result<T, Failed> {
    result.map_err(|failed| {
        let message = failed.message().unwrap_or_default();
        format!("seed {SEED}, round {round}: {message}").into()
    })
}

/// A source table with the columns id and v, and what is in it.
struct Source {
    table: &'static str,
    session: SessionContext,
    random: Random,
    rows: BTreeMap<i64, i64>,
    /// New ids are this far apart, so that sources of one target can have ids of their own.
    step: i64,
    next_id: i64,
}

impl Source {
    /// Creates it with ten rows whose ids begin at `first_id`.
    async fn create(
        warehouse: &Path,
        table: &'static str,
        first_id: i64,
        step: i64,
    ) -> Result<Self, Failed> {
        let session = open(warehouse)?;
        let sql = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, v BIGINT)");
        execute(&session, &sql).await?;
        let mut source = Self {
            table,
            session,
            random: Random::new(SEED + first_id.unsigned_abs()),
            rows: BTreeMap::new(),
            step,
            next_id: first_id,
        };
        source.insert(10).await?;
        Ok(source)
    }

    /// Changes some rows, in up to three commits; each row at most once.
    async fn change(&mut self) -> Result<Counts, Failed> {
        let mut ids: Vec<i64> = self.rows.keys().copied().collect();
        let (updates, deletes) = (self.random.index(4), self.random.index(3));
        let updated = self.random.take(&mut ids, updates);
        let deleted = self.random.take(&mut ids, deletes);
        let counts = Counts {
            updated: i64::try_from(updated.len())?,
            deleted: i64::try_from(deleted.len())?,
            inserted: self.random.below(3).cast_signed(),
        };
        if !updated.is_empty() {
            let sql = format!(
                "UPDATE {} SET v = v + 1 WHERE id IN ({})",
                self.table,
                list(&updated)
            );
            execute(&self.session, &sql).await?;
        }
        if !deleted.is_empty() {
            let sql = format!(
                "DELETE FROM {} WHERE id IN ({})",
                self.table,
                list(&deleted)
            );
            execute(&self.session, &sql).await?;
        }
        for id in updated {
            self.rows.entry(id).and_modify(|value| *value += 1);
        }
        for id in deleted {
            self.rows.remove(&id);
        }
        self.insert(counts.inserted).await?;
        Ok(counts)
    }

    async fn insert(&mut self, count: i64) -> Result<(), Failed> {
        if count == 0 {
            return Ok(());
        }
        let ids: Vec<i64> = (0..count)
            .map(|index| self.next_id + index * self.step)
            .collect();
        let values: Vec<String> = ids.iter().map(|id| format!("({id}, 0)")).collect();
        let sql = format!("INSERT INTO {} VALUES {}", self.table, values.join(", "));
        execute(&self.session, &sql).await?;
        self.next_id += count * self.step;
        self.rows.extend(ids.into_iter().map(|id| (id, 0)));
        Ok(())
    }

    /// Its rows as canonical text.
    fn text(&self) -> impl Iterator<Item = String> {
        self.rows
            .iter()
            .map(|(id, value)| format!("[{id},{value}]"))
    }
}

fn list(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

fn check_counts(expected: Counts, reports: &[&Report]) -> Result<(), Failed> {
    let found = reports
        .iter()
        .fold(Counts::default(), |sum, report| sum + report.rows);
    if found == expected {
        return Ok(());
    }
    Err(format!("{expected:?} have changed, and the reports are {reports:?}").into())
}

async fn one_sync_by_two_sessions() -> Result<(), Failed> {
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let mut source = Source::create(warehouse.path(), "source", 1, 1).await?;
    sync(&first, SYNC).await?;
    for round in 0..ROUNDS {
        let changed = source.change().await?;
        let (left, right) = race(round, run(&first, SYNC), run(&second, SYNC)).await?;
        let (left, right) = (in_round(round, left)?, in_round(round, right)?);
        in_round(round, check_counts(changed, &[&left, &right]))?;
        in_round(round, check_equal(&second, "source", "target").await)?;
    }
    check_feed(&first, "target").await
}

async fn two_syncs_into_one_target() -> Result<(), Failed> {
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let mut odd = Source::create(warehouse.path(), "odd", 1, 2).await?;
    let mut even = Source::create(warehouse.path(), "even", 2, 2).await?;
    let (of_odd, of_even) = ("SYNC INTO target FROM odd", "SYNC INTO target FROM even");
    let (left, right) = race(0, run(&first, of_odd), run(&second, of_even)).await?;
    in_round(0, left.and(right))?;
    for round in 1..FEWER_ROUNDS {
        let (in_odd, in_even) = (odd.change().await?, even.change().await?);
        let (left, right) = race(round, run(&first, of_odd), run(&second, of_even)).await?;
        in_round(round, check_counts(in_odd, &[&in_round(round, left)?]))?;
        in_round(round, check_counts(in_even, &[&in_round(round, right)?]))?;
        let mut expected: Vec<String> = odd.text().chain(even.text()).collect();
        expected.sort();
        let found = rows_of(&first, "target").await?;
        in_round(round, check_same("the target", &expected, &found))?;
    }
    check_feed(&first, "target").await
}

/// Rows of the target that are nobody's but its own.
async fn statements_on_the_target() -> Result<(), Failed> {
    const FIRST_ID: i64 = 1_000_000;
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let mut source = Source::create(warehouse.path(), "source", 1, 1).await?;
    sync(&first, SYNC).await?;
    execute(
        &first,
        &format!("INSERT INTO target VALUES ({FIRST_ID}, 0)"),
    )
    .await?;
    for round in 1..=FEWER_ROUNDS {
        let changed = source.change().await?;
        let id = FIRST_ID + i64::try_from(round)?;
        let statement = match round % 3 {
            0 => format!("DELETE FROM target WHERE id > {FIRST_ID}"),
            1 => format!("INSERT INTO target VALUES ({id}, 0)"),
            _ => format!("UPDATE target SET v = {round} WHERE id >= {FIRST_ID}"),
        };
        let session = second.clone();
        let statement = async move { execute(&session, &statement).await.map(|_| ()) };
        let (report, outcome) = race(round, run(&first, SYNC), statement).await?;
        in_round(round, outcome)?;
        in_round(round, check_counts(changed, &[&in_round(round, report)?]))?;
        let copied = format!("SELECT * FROM target WHERE id < {FIRST_ID}");
        let mut expected: Vec<String> = source.text().collect();
        expected.sort();
        let found = rows(&second, &copied).await?;
        in_round(round, check_same("the target", &expected, &found))?;
        let own = format!("SELECT id FROM target WHERE id >= {FIRST_ID}");
        let expected = if round % 3 == 0 { 1 } else { 2 };
        if rows(&second, &own).await?.len() != expected {
            return in_round(round, Err("the statement was undone".into()));
        }
    }
    check_feed(&first, "target").await
}

/// One of them creates or fills the target; the other finds nothing left to do.
async fn first_run_by_two_sessions() -> Result<(), Failed> {
    const TARGETS: usize = 18;
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let source = Source::create(warehouse.path(), "source", 1, 1).await?;
    for round in 0..TARGETS {
        let target = format!("target_{round}");
        let create = format!("CREATE TABLE {target} (id BIGINT PRIMARY KEY, v BIGINT)");
        let rows_before = match round % 3 {
            0 => None,
            1 => Some(""),
            _ => Some("VALUES (1, 0), (2, 7), (-1, 0)"),
        };
        if let Some(rows) = rows_before {
            execute(&first, &create).await?;
            if !rows.is_empty() {
                execute(&first, &format!("INSERT INTO {target} {rows}")).await?;
            }
        }
        let sql = format!("SYNC INTO {target} FROM source");
        let (left, right) = race(round, run(&first, &sql), run(&second, &sql)).await?;
        let (left, right) = (in_round(round, left)?, in_round(round, right)?);
        let inserted = i64::try_from(source.rows.len())?;
        let expected = match round % 3 {
            2 => Counts {
                inserted: inserted - 2,
                updated: 1,
                deleted: 1,
            },
            _ => Counts {
                inserted,
                ..Counts::default()
            },
        };
        in_round(round, check_counts(expected, &[&left, &right]))?;
        in_round(round, check_equal(&second, "source", &target).await)?;
        in_round(round, check_feed(&first, &target).await)?;
    }
    Ok(())
}

/// Events of ten keys in random order, in a table `events`.
struct Events {
    session: SessionContext,
    random: Random,
    /// The latest sequence of each key, and whether it is a delete.
    latest: BTreeMap<i64, (i64, bool)>,
    unused: Vec<i64>,
}

impl Events {
    async fn create(warehouse: &Path) -> Result<Self, Failed> {
        let session = open(warehouse)?;
        execute(
            &session,
            "CREATE TABLE events (id BIGINT, seq BIGINT, op STRING, batch BIGINT)",
        )
        .await?;
        Ok(Self {
            session,
            random: Random::new(SEED),
            latest: BTreeMap::new(),
            unused: (1..=2000).collect(),
        })
    }

    /// Delivers some events as a batch.
    async fn deliver(&mut self, batch: usize) -> Result<(), Failed> {
        let mut values = Vec::new();
        for sequence in self.random.take(&mut self.unused, 4) {
            let id = self.random.below(10).cast_signed();
            let is_delete = self.random.percent(40);
            let op = if is_delete { "D" } else { "U" };
            values.push(format!("({id}, {sequence}, '{op}', {batch})"));
            let latest = self.latest.entry(id).or_insert((sequence, is_delete));
            *latest = (*latest).max((sequence, is_delete));
        }
        let sql = format!("INSERT INTO events VALUES {}", values.join(", "));
        execute(&self.session, &sql).await.map(|_| ())
    }

    /// Makes sure that the target has what the latest event of each key says.
    async fn check(&self, session: &SessionContext) -> Result<(), Failed> {
        let there = self.latest.iter().filter(|(_, (_, is_delete))| !is_delete);
        let mut expected: Vec<String> = there
            .map(|(id, (sequence, _))| format!("[{id},{sequence}]"))
            .collect();
        expected.sort();
        check_same("the target", &expected, &rows_of(session, "target").await?)
    }
}

/// The file of remembered sequences is replaced under the loser's feet.
async fn remembered_deletes() -> Result<(), Failed> {
    const SYNC: &str = "SYNC INTO target FROM events KEYS (id) SEQUENCE BY seq \
        APPLY AS DELETE WHEN op = 'D' COLUMNS (id, seq)";
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let mut events = Events::create(warehouse.path()).await?;
    for round in 0..FEWER_ROUNDS {
        events.deliver(round).await?;
        let (left, right) = race(round, run(&first, SYNC), run(&second, SYNC)).await?;
        in_round(round, left)?;
        in_round(round, right)?;
        in_round(round, events.check(&second).await)?;
    }
    check_feed(&first, "target").await
}

/// Each session applies a batch of its own; whichever is first, the latest event of each key counts.
async fn two_batches_of_changes() -> Result<(), Failed> {
    let apply = |batch: usize| {
        format!(
            "APPLY CHANGES INTO target FROM (SELECT id, seq, op FROM events WHERE batch = {batch}) \
             KEYS (id) APPLY AS DELETE WHEN op = 'D' SEQUENCE BY seq COLUMNS (id, seq)"
        )
    };
    let warehouse = TempDir::new()?;
    let (first, second) = (open(warehouse.path())?, open(warehouse.path())?);
    let mut events = Events::create(warehouse.path()).await?;
    for round in 0..FEWER_ROUNDS {
        let batch = 2 * round;
        events.deliver(batch).await?;
        events.deliver(batch + 1).await?;
        let (left, right) = race(
            round,
            run(&first, apply(batch)),
            run(&second, apply(batch + 1)),
        )
        .await?;
        in_round(round, left)?;
        in_round(round, right)?;
        in_round(round, events.check(&second).await)?;
    }
    check_feed(&first, "target").await
}
