//! A session that has the files of a place as the table `landed`, and lets no secret of the place into any answer.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::place::Place;
use crate::tables::{Report, open, sync};
use crate::{Answer, canonical, run_statement};

/// One session on a warehouse.
#[derive(Clone)]
pub(super) struct Reader {
    pub session: SessionContext,
    warehouse: Arc<TempDir>,
    /// With its secrets, and with the ledger that may be its own.
    place: Place,
}

impl Reader {
    /// A session of a warehouse that is its own, without the table.
    pub(super) fn without_table(place: &Place) -> Result<Self, Failed> {
        let warehouse = Arc::new(TempDir::new()?);
        Ok(Self {
            session: open(warehouse.path())?,
            warehouse,
            place: place.clone(),
        })
    }

    /// A session of a warehouse that is its own; the table's columns are found out.
    pub(super) async fn open(place: &Place) -> Result<Self, Failed> {
        let reader = Self::without_table(place)?;
        reader.run(&place.create_table("")).await?;
        Ok(reader)
    }

    /// The same with columns that are declared.
    pub(super) async fn declare(place: &Place, columns: &str) -> Result<Self, Failed> {
        let reader = Self::without_table(place)?;
        reader.run(&place.create_table(columns)).await?;
        Ok(reader)
    }

    /// Another session on the same warehouse.
    pub(super) async fn another(&self, place: &Place) -> Result<Self, Failed> {
        let other = Self {
            session: open(self.warehouse.path())?,
            ..self.clone()
        };
        other.run(&place.create_table("")).await?;
        Ok(other)
    }

    /// Runs a statement that has to succeed.
    pub(super) async fn run(&self, sql: &str) -> Result<Answer, Failed> {
        let answer = run_statement(&self.session, sql).await;
        answer.map_err(|error| match self.text(&error) {
            Ok(text) => format!("{text}\n[SQL] {}", self.without_secrets(sql)).into(),
            Err(shown) => shown,
        })
    }

    /// The rows of a query as canonical text, in their order.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<String>, Failed> {
        let answer = self.run(sql).await?;
        let rows = canonical::rows(&answer, &canonical::columns(&answer))?;
        self.check_secrets(&rows.join("\n"))?;
        Ok(rows)
    }

    /// Makes sure that a query has these rows, in this order.
    pub(super) async fn check(&self, sql: &str, expected: &[&str]) -> Result<(), Failed> {
        let found = self.rows(sql).await?;
        if found == expected {
            return Ok(());
        }
        Err(format!("[SQL] {sql}\n  expected: {expected:?}\n  found: {found:?}").into())
    }

    /// Makes sure that the changes after a version are these, in this order.
    pub(super) async fn check_changes(&self, since: i64, expected: &[&str]) -> Result<(), Failed> {
        self.check(&changes(since), expected).await
    }

    /// Makes sure that a statement fails and says all of this.
    pub(super) async fn check_error(&self, sql: &str, parts: &[&str]) -> Result<(), Failed> {
        match run_statement(&self.session, sql).await {
            Ok(_) => Err(format!("this did not fail: {}", self.without_secrets(sql)).into()),
            Err(error) => says(&self.text(&error)?, parts),
        }
    }

    /// Makes sure that the changes of a place cannot be read, be it for the table or for the query, and that the error says all of
    /// this.
    pub(super) async fn check_refused(place: &Place, parts: &[&str]) -> Result<(), Failed> {
        let reader = Self::without_table(place)?;
        if let Err(error) = run_statement(&reader.session, &place.create_table("")).await {
            return says(&reader.text(&error)?, parts);
        }
        reader.check_error(&changes(0), parts).await
    }

    /// Syncs the table `target`.
    pub(super) async fn sync(&self) -> Result<Report, Failed> {
        sync(&self.session, "SYNC INTO target FROM landed KEYS (id)").await
    }

    /// The text of an error, in which no secret is, nor in what a log would have of it.
    fn text(&self, error: &DataFusionError) -> Result<String, Failed> {
        let text = error.strip_backtrace();
        self.check_secrets(&text)?;
        self.check_secrets(&format!("{error:?}"))?;
        Ok(text)
    }

    /// Makes sure that a text has no secret in it.
    pub(super) fn check_secrets(&self, text: &str) -> Result<(), Failed> {
        if self
            .place
            .secrets
            .iter()
            .any(|secret| text.contains(secret))
        {
            return Err(format!("this shows a secret: {}", self.without_secrets(text)).into());
        }
        Ok(())
    }

    fn without_secrets(&self, text: &str) -> String {
        let hide = |text: String, secret: &String| text.replace(secret, "<SECRET>");
        self.place.secrets.iter().fold(text.to_owned(), hide)
    }
}

/// The query of all changes after a version.
pub(super) fn changes(since: i64) -> String {
    format!("SELECT * FROM table_changes('landed', {since}) ORDER BY _commit_version, id")
}

/// Makes sure that a text has all these parts.
pub(super) fn says(text: &str, parts: &[&str]) -> Result<(), Failed> {
    match parts.iter().find(|part| !text.contains(**part)) {
        Some(part) => Err(format!("the error does not say {part:?}: {text}").into()),
        None => Ok(()),
    }
}
