//! A host on which a statement is tried: copies of the table before it, and what is in the table afterwards.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvial::sql::SessionBuilder;
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;
use libtest_mimic::Failed;
use tokio::task::JoinHandle;

use super::files;
use super::statements::{APPENDED, FILL, Statement};
use crate::canonical::{self, CHANGE_TYPE};
use crate::faults::host::Host;
use crate::faults::store::{Fault, Operations, Process};
use crate::run_statement;
use crate::tables::{Change, check_same, execute, net, rows_of};

/// How long files may take to go that are removed in the background.
const TIDY_TIME: Duration = Duration::from_secs(2);

/// A host that is a trial's own, and the table before the statement.
pub(super) struct Stage {
    pub statement: &'static Statement,
    pub host: Host,
}

/// A run without a fault.
pub(super) struct Healthy {
    /// What the statement asked of the store.
    pub operations: Operations,
    pub before: Content,
    pub after: Content,
}

/// What is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub version: i64,
    pub rows: Vec<String>,
    /// All changes since the creation; of a table that keeps none, none.
    pub feed: Vec<Change>,
}

impl Stage {
    /// Fills the table, on the host `<name>-<suffix>`.
    pub(super) async fn set_up(
        statement: &'static Statement,
        suffix: &str,
    ) -> Result<Self, Failed> {
        let stage = Self {
            statement,
            host: Host::new(format!("{}-{suffix}", statement.name))?,
        };
        let session = SessionBuilder::new().build()?;
        let create = format!(
            "CREATE TABLE t (id BIGINT, p STRING, v STRING) {} LOCATION '{}/t'",
            statement.table,
            stage.host.url()
        );
        execute(&session, &create).await?;
        for sql in FILL {
            execute(&session, sql).await?;
        }
        Ok(stage)
    }

    /// A session of the host's process that knows the table.
    pub(super) async fn open(&self) -> Result<SessionContext, Failed> {
        let config = SessionConfig::new().with_target_partitions(self.statement.partitions);
        self.host.open(config, &["t"]).await
    }

    /// Runs the statement.
    pub(super) fn run(
        &self,
        session: &SessionContext,
    ) -> impl Future<Output = Result<(), DataFusionError>> + Send + 'static {
        let (session, sql) = (session.clone(), self.statement.sql);
        async move { run_statement(&session, sql).await.map(drop) }
    }

    /// Runs it as it should be.
    pub(super) async fn run_healthy(&self) -> Result<Healthy, Failed> {
        let copy = self.host.copy()?;
        let before = self.read(copy.path()).await?;
        let process = self.host.start(copy.path())?;
        let session = self.open().await?;
        process.arm(Fault::None);
        self.run(&session).await?;
        let operations = process.operations();
        check_named(&table(copy.path())).await?;
        let after = self.read(copy.path()).await?;
        if after.version != before.version + 1 {
            return Err(format!("one commit was expected: {before:?}, {after:?}").into());
        }
        Ok(Healthy {
            operations,
            before,
            after,
        })
    }

    /// What a new process on the host finds in the table; the changes must add up to the rows.
    pub(super) async fn read(&self, folder: &Path) -> Result<Content, Failed> {
        self.host.start(folder)?;
        let session = self.open().await?;
        let rows = rows_of(&session, "t").await?;
        let feed = self.changes(&session).await?;
        check_same("the sum of the changes", &rows, &net(&feed)?)?;
        Ok(Content {
            version: files::version(&table(folder))?,
            rows,
            feed: if self.statement.feed { feed } else { vec![] },
        })
    }

    async fn changes(&self, session: &SessionContext) -> Result<Vec<Change>, Failed> {
        let derive = if self.statement.feed {
            ""
        } else {
            ", derive => true"
        };
        let sql = format!("SELECT * FROM table_changes('t', NULL{derive})");
        let answer = execute(session, &sql).await?;
        let types = canonical::rows(&answer, &[CHANGE_TYPE.to_owned()])?;
        let rows = canonical::rows(&answer, &["id", "p", "v"].map(str::to_owned))?;
        let mut changes: Vec<Change> = types.into_iter().zip(rows).collect();
        changes.sort();
        Ok(changes)
    }
}

impl Content {
    /// The same after another writer's append.
    pub(super) fn with_append(&self) -> Self {
        let mut content = self.clone();
        content.version += 1;
        content.rows.push(APPENDED.to_owned());
        content.rows.sort();
        if !content.feed.is_empty() {
            let insert = "[\"insert\"]".to_owned();
            content.feed.push((insert, APPENDED.to_owned()));
            content.feed.sort();
        }
        content
    }

    /// Makes sure that this is what was found.
    pub(super) fn check(&self, found: &Self) -> Result<(), Failed> {
        let version = self.version;
        check_same("the table", &self.rows, &found.rows)
            .and_then(|()| check_same("the change data feed", &self.feed, &found.feed))
            .map_err(|failed| in_version(version, &failed))?;
        if found.version == version {
            return Ok(());
        }
        Err(format!("version {version} was expected, not {}", found.version).into())
    }
}

fn in_version(version: i64, failed: &Failed) -> Failed {
    let message = failed.message().unwrap_or_default();
    format!("version {version} was expected: {message}").into()
}

/// Runs a statement in a task, which says so to the process when it has ended, unless it is aborted.
pub(super) fn spawn(
    statement: impl Future<Output = Result<(), DataFusionError>> + Send + 'static,
    process: &Arc<Process>,
) -> JoinHandle<Result<(), DataFusionError>> {
    let process = Arc::clone(process);
    tokio::spawn(async move {
        let outcome = AssertUnwindSafe(statement).catch_unwind().await;
        process.end();
        outcome.unwrap_or_else(|_| Err(DataFusionError::Execution("it panicked".into())))
    })
}

/// The table's folder in that of the host.
pub(super) fn table(folder: &Path) -> PathBuf {
    folder.join("t")
}

/// Makes sure that, soon, every file is named by some commit.
pub(super) async fn check_named(table: &Path) -> Result<(), Failed> {
    soon(|| {
        let unnamed = files::unnamed(table)?;
        if unnamed.is_empty() {
            return Ok(());
        }
        Err(format!("files are left that no commit names: {unnamed:?}").into())
    })
    .await
}

/// Waits until a check of files holds, as some of them are removed in the background.
pub(super) async fn soon(check: impl Fn() -> Result<(), Failed>) -> Result<(), Failed> {
    let started = tokio::time::Instant::now();
    loop {
        let result = check();
        if result.is_ok() || started.elapsed() >= TIDY_TIME {
            return result;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
