//! Many sessions write one table at the same time, each keeping books; in the end the table, its change data feed and its history
//! are what the books say, to the row.
//!
//! A statement may fail only because another writer was faster, and then it has done nothing. Which statements do is not the same
//! in every run: what is, is that the account is exact.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alluvial::sql::SessionBuilder;
use datafusion::prelude::SessionContext;
use libtest_mimic::{Completion, Failed, Trial};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::files;
use super::ledger::{Account, COUNTERS, Ledger};
use super::stage::{check_named, table};
use crate::locations::S3Folder;
use crate::patience;
use crate::random::Random;
use crate::tables::{check_same, execute, feed, net, open, rows_in, rows_of};
use crate::{RUNTIME, run_statement};

const SEED: u64 = 20_261_122;
/// Rows that nobody writes: ids below 0.
const STILL: i64 = 40;
/// In how many of 100 cases the first writer rearranges files.
const OPTIMIZES: u64 = 15;
const OPTIMIZE: &str = "OPTIMIZE t";

/// How the table is written.
#[derive(Clone, Copy)]
struct Crowd {
    name: &'static str,
    properties: &'static str,
    writers: i64,
    /// How many statements each of them runs, unless its time is up.
    statements: usize,
    seconds: u64,
}

const CROWDS: &[Crowd] = &[
    Crowd {
        name: "deletion-vectors",
        properties: "",
        writers: 8,
        statements: 40,
        seconds: 14,
    },
    Crowd {
        name: "copy-on-write",
        properties: "TBLPROPERTIES (delta.enableDeletionVectors = false)",
        writers: 4,
        statements: 12,
        seconds: 5,
    },
];

const S3: Crowd = Crowd {
    name: "s3",
    properties: "",
    writers: 4,
    statements: 15,
    seconds: 12,
};

pub(super) fn trials() -> impl Iterator<Item = Trial> {
    let local = CROWDS.iter().map(|crowd| {
        let name = format!("commits::writers::{}", crowd.name);
        patience::test(name, move || RUNTIME.block_on(crowd.check_in_folder()))
    });
    let s3 = patience::ignorable_test(format!("commits::writers::{}", S3.name), || {
        S3.check_on_s3()
    });
    local.chain([s3])
}

/// Where the table is.
#[derive(Clone)]
enum Site {
    /// In this warehouse.
    Folder(PathBuf),
    /// The statement that makes it known.
    Elsewhere(String),
}

impl Site {
    /// A session that shares nothing with others but the files.
    async fn open(&self) -> Result<SessionContext, Failed> {
        match self {
            Self::Folder(warehouse) => open(warehouse),
            Self::Elsewhere(create) => {
                let session = SessionBuilder::new().build()?;
                execute(&session, create).await?;
                Ok(session)
            }
        }
    }
}

impl Crowd {
    async fn check_in_folder(&self) -> Result<(), Failed> {
        let warehouse = TempDir::new()?;
        let first = self.create(warehouse.path()).await?;
        let site = Site::Folder(warehouse.path().to_owned());
        self.check(&site, &first).await?;
        check_named(&table(warehouse.path())).await
    }

    fn check_on_s3(&self) -> Result<Completion, Failed> {
        let warehouse = TempDir::new()?;
        let first = RUNTIME.block_on(self.create(warehouse.path()))?;
        let table = table(warehouse.path());
        let copies = files::names(&table)?
            .into_iter()
            .map(|name| fs::read(table.join(&name)).map(|content| (name, content)));
        let folder = match S3Folder::create(copies.collect::<Result<_, _>>()?)? {
            Ok(folder) => folder,
            Err(reason) => return Ok(Completion::ignored_with(format!("skipped: {reason}"))),
        };
        let site = Site::Elsewhere(create_external(&folder));
        RUNTIME.block_on(self.check(&site, &first))?;
        Ok(Completion::Completed)
    }

    /// Makes the table, with the rows that are shared and those that nobody writes; their ids.
    async fn create(&self, warehouse: &Path) -> Result<Vec<i64>, Failed> {
        let session = open(warehouse)?;
        let create = format!("CREATE TABLE t (id BIGINT, n BIGINT) {}", self.properties);
        execute(&session, &create).await?;
        let fill = format!(
            "INSERT INTO t SELECT value, 0 FROM generate_series({}, {})",
            -STILL,
            COUNTERS - 1
        );
        execute(&session, &fill).await?;
        Ok((-STILL..COUNTERS).collect())
    }

    async fn check(&self, site: &Site, first: &[i64]) -> Result<(), Failed> {
        let checked = async {
            let ledgers = self.write(site).await?;
            check_account(&site.open().await?, &Account::of(first, &ledgers)).await
        };
        checked.await.map_err(|failed: Failed| {
            let message = failed.message().unwrap_or_default();
            format!("seed {SEED}, {}: {message}", self.name).into()
        })
    }

    /// Lets all of them write at the same time; their books.
    async fn write(&self, site: &Site) -> Result<Vec<Ledger>, Failed> {
        let mut writers = JoinSet::new();
        for writer in 0..self.writers {
            let (crowd, session) = (*self, site.open().await?);
            writers.spawn(async move { crowd.write_as(writer, &session).await });
        }
        let mut ledgers = Vec::new();
        while let Some(ledger) = writers.join_next().await {
            ledgers.push(ledger??);
        }
        Ok(ledgers)
    }

    async fn write_as(self, writer: i64, session: &SessionContext) -> Result<Ledger, Failed> {
        let started = Instant::now();
        let mut random = Random::new(SEED + writer.unsigned_abs());
        let mut ledger = Ledger::new(writer);
        for number in 1..=self.statements {
            if started.elapsed() >= Duration::from_secs(self.seconds) {
                break;
            }
            let in_step = |failed: Failed| {
                let message = failed.message().unwrap_or_default();
                format!("writer {writer}, statement {number}: {message}")
            };
            if writer == 0 && random.percent(OPTIMIZES) {
                let is_done = run(session, OPTIMIZE).await.map_err(in_step)?;
                ledger.conflicts += usize::from(!is_done);
                continue;
            }
            let step = ledger.next(&mut random);
            let is_done = run(session, &step.sql).await.map_err(in_step)?;
            if is_done {
                ledger.enter(step);
            } else {
                ledger.conflicts += 1;
            }
        }
        Ok(ledger)
    }
}

/// Runs a statement; false when it has lost to another writer.
async fn run(session: &SessionContext, sql: &str) -> Result<bool, Failed> {
    match run_statement(session, sql).await {
        Ok(_) => Ok(true),
        Err(error) => {
            let text = error.strip_backtrace();
            if text.contains("CONCURRENT_WRITE") {
                return Ok(false);
            }
            Err(format!("{text}\n[SQL] {sql}").into())
        }
    }
}

/// The statement that makes a table on S3 known.
fn create_external(folder: &S3Folder) -> String {
    let options: Vec<String> = folder
        .options
        .iter()
        .map(|(name, value)| format!("'{name}' '{value}'"))
        .collect();
    format!(
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{}' OPTIONS ({})",
        folder.url,
        options.join(", ")
    )
}

async fn check_account(session: &SessionContext, account: &Account) -> Result<(), Failed> {
    let rows = rows_of(session, "t").await?;
    check_same("the table", &account.rows, &rows)?;
    let feed = feed(session, "t").await?;
    check_same("the change data feed", &account.changes, &feed)?;
    check_same("the sum of the changes", &rows, &net(&feed)?)?;
    let mut commits: BTreeMap<String, usize> = BTreeMap::new();
    for operation in rows_in(session, "DESCRIBE HISTORY t", &["operation"]).await? {
        let name = operation.trim_matches(['[', ']', '"']).to_owned();
        *commits.entry(name).or_default() += 1;
    }
    let done: usize = account.commits.values().sum();
    if account.conflicts > done {
        let lost = account.conflicts;
        return Err(format!("{done} statements were done, and {lost} gave up").into());
    }
    // the first WRITE filled the table
    let filled = commits.get_mut("WRITE").ok_or("nobody has written")?;
    *filled -= 1;
    for (operation, count) in &account.commits {
        let found = commits.get(*operation).copied().unwrap_or_default();
        if found != *count {
            return Err(
                format!("{count} commits are of {operation}, and the log has {found}").into(),
            );
        }
    }
    Ok(())
}
