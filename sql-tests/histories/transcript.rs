//! A session that keeps what has been said in it, so that a failure can be repeated by hand.

use std::fmt::Write;

use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;
use tempfile::TempDir;

use crate::tables::{Report, execute, open, sync};

/// A warehouse, a session on it, and its statements.
pub(super) struct Transcript {
    /// Only here so that it is removed at the end.
    _warehouse: TempDir,
    session: SessionContext,
    statements: Vec<String>,
}

impl Transcript {
    /// An empty warehouse.
    pub(super) fn begin() -> Result<Self, Failed> {
        let warehouse = TempDir::new()?;
        Ok(Self {
            session: open(warehouse.path())?,
            _warehouse: warehouse,
            statements: vec![],
        })
    }

    /// The session, for statements that only read.
    pub(super) fn session(&self) -> &SessionContext {
        &self.session
    }

    /// Runs a statement.
    pub(super) async fn run(&mut self, sql: String) -> Result<(), Failed> {
        self.statements.push(sql.clone());
        execute(&self.session, &sql).await.map(|_| ())
    }

    /// Runs a SYNC or APPLY CHANGES.
    pub(super) async fn sync(&mut self, sql: &str) -> Result<Report, Failed> {
        self.statements.push(sql.to_owned());
        sync(&self.session, sql).await
    }

    /// The statements so far, as a script.
    pub(super) fn text(&self) -> String {
        self.statements.iter().fold(String::new(), |mut text, sql| {
            let _ = writeln!(text, "{sql};");
            text
        })
    }
}
