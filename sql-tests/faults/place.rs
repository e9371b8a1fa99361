//! Hosts on which scenarios are played: sessions on them, and copies of the state they begin with.

use alluvial::sql::SessionBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use libtest_mimic::Failed;

use super::host::Host;
use super::scenarios::Scenario;
use super::store::{Fault, Operations};
use crate::tables::{Change, Report, check_same, execute, feed, net, rows_of, sync};

/// A host that is a scenario's own, and the state before its sync.
pub(super) struct Place {
    scenario: &'static Scenario,
    pub host: Host,
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
            host: Host::new(format!("{}{suffix}", scenario.name))?,
        };
        let mut session = SessionBuilder::new().build()?;
        let url = place.host.url();
        for sql in scenario.set_up {
            execute(&session, &sql.replace("${TABLES}", &url)).await?;
            if sql.contains("ADD COLUMN") {
                // a table at a location keeps the columns with which the session came to know it
                session = place.open().await?;
            }
        }
        Ok(place)
    }

    /// A session of the host's process that knows both tables.
    pub(super) async fn open(&self) -> Result<SessionContext, Failed> {
        let tables = ["source", "target"];
        self.host.open(SessionConfig::new(), &tables).await
    }

    /// Runs the sync.
    pub(super) async fn sync(&self, session: &SessionContext) -> Result<Report, Failed> {
        sync(session, self.scenario.sync).await
    }

    /// Runs it as it should be.
    pub(super) async fn run_healthy(&self) -> Result<Healthy, Failed> {
        let copy = self.host.copy()?;
        let process = self.host.start(copy.path())?;
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
