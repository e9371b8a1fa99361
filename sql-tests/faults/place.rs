//! Hosts on which scenarios are played: sessions on them, and copies of the state they begin with.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use alluvial::sql::SessionBuilder;
use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::scenarios::Scenario;
use super::store::{Fault, Operations, Process};
use crate::tables::{Change, Report, check_same, execute, feed, net, rows_of, sync};

/// A host that is a scenario's own, and the state before its sync.
pub(super) struct Place {
    scenario: &'static Scenario,
    host: String,
    state: TempDir,
}

/// A run without a fault.
pub(super) struct Healthy {
    pub operations: Operations,
    pub report: Report,
    pub feed: Vec<Change>,
}

impl Place {
    /// Plays the scenario up to its sync, on the host `<name><suffix>`.
    pub(super) async fn set_up(scenario: &'static Scenario, suffix: &str) -> Result<Self, Failed> {
        let place = Self {
            scenario,
            host: format!("{}{suffix}", scenario.name),
            state: TempDir::new()?,
        };
        place.start(place.state.path())?;
        let mut session = SessionBuilder::new().build()?;
        let url = place.url();
        for sql in scenario.set_up {
            execute(&session, &sql.replace("${TABLES}", &url)).await?;
            if sql.contains("ADD COLUMN") {
                // a table at a location keeps the columns with which the session came to know it
                session = place.open().await?;
            }
        }
        Ok(place)
    }

    fn url(&self) -> String {
        format!("fault://{}", self.host)
    }

    /// A copy of the state before the sync.
    pub(super) fn copy(&self) -> Result<TempDir, Failed> {
        let copy = TempDir::new()?;
        copy_files(self.state.path(), copy.path())?;
        Ok(copy)
    }

    /// Begins a process on the host, whose files are in `folder` now.
    pub(super) fn start(&self, folder: &Path) -> Result<Arc<Process>, Failed> {
        Ok(Process::start(&self.host, folder)?)
    }

    /// A session of the host's process that knows both tables.
    pub(super) async fn open(&self) -> Result<SessionContext, Failed> {
        let session = SessionBuilder::new().build()?;
        for table in ["source", "target"] {
            let location = format!("{}/{table}", self.url());
            let sql =
                format!("CREATE EXTERNAL TABLE {table} STORED AS DELTA LOCATION '{location}'");
            execute(&session, &sql).await?;
        }
        Ok(session)
    }

    /// Runs the sync.
    pub(super) async fn sync(&self, session: &SessionContext) -> Result<Report, Failed> {
        sync(session, self.scenario.sync).await
    }

    /// Runs it as it should be.
    pub(super) async fn run_healthy(&self) -> Result<Healthy, Failed> {
        let copy = self.copy()?;
        let process = self.start(copy.path())?;
        let session = self.open().await?;
        process.arm(Fault::None);
        let report = self.sync(&session).await?;
        let operations = process.operations();
        let session = self.open().await?;
        let healthy = Healthy {
            operations,
            report,
            feed: feed(&session, "target").await?,
        };
        self.check_target(&healthy).await?;
        Ok(healthy)
    }

    /// Makes sure that the target has the expected rows, and that its change feed is that of a run without a fault.
    pub(super) async fn check_target(&self, healthy: &Healthy) -> Result<(), Failed> {
        let session = self.open().await?;
        let rows = rows_of(&session, "target").await?;
        let expected = self.scenario.expected.iter();
        let expected: Vec<String> = expected.map(ToString::to_string).collect();
        check_same("the target", &expected, &rows)?;
        let feed = feed(&session, "target").await?;
        check_same("the change feed of the target", &healthy.feed, &feed)?;
        check_same("the sum of its changes", &rows, &net(&feed)?)
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_files(&path, &copy)?;
        } else {
            fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}
