//! A copy of a table that others wrote, called `t`, on which statements are run and judged.

use std::fs;
use std::path::{Path, PathBuf};

use datafusion::error::DataFusionError;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::protocol::{Log, identities};
use super::readers;
use crate::canonical::{self, CHANGE_TYPE, COMMIT_VERSION};
use crate::oracle;
use crate::tables::{Change, check_same, net};
use crate::{Answer, Warehouse};

/// The copy, in a folder that goes with it.
pub(super) struct Fixture {
    warehouse: Warehouse,
    _root: TempDir,
    location: PathBuf,
    log: Log,
    /// The newest version that others wrote, its rows, and what checkpoints must keep of it.
    since: i64,
    before: Vec<String>,
    kept: Vec<String>,
}

impl Fixture {
    /// Copies a folder with a table in it, to which the rest may refer.
    ///
    /// # Errors
    /// Also when the table cannot be read.
    pub(super) fn open(folder: &Path, table: &str) -> Result<Self, Failed> {
        let (warehouse, root) = (Warehouse::new()?, TempDir::new()?);
        oracle::copy(folder, root.path(), root.path())?;
        let location = root.path().join(table);
        warehouse.run(&format!(
            "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{}'",
            location.display()
        ))?;
        let log = Log::open(&location)?;
        let before = sorted_rows(&warehouse.run("SELECT * FROM t")?)?;
        Ok(Self {
            since: log.newest(),
            kept: log.kept_names(),
            warehouse,
            _root: root,
            location,
            log,
            before,
        })
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// The rows that the table had when it was opened, sorted.
    pub(super) fn rows_before(&self) -> &[String] {
        &self.before
    }

    /// Runs a statement and judges the commit that it makes.
    pub(super) fn run(&mut self, sql: &str) -> Result<(), Failed> {
        let done = self.warehouse.run(sql).map_err(text).map(|_| ());
        done.map_err(Failed::from)
            .and_then(|()| self.log.check_news())
            .map_err(|failed| at(sql, &failed))
    }

    /// Runs a statement that must fail, with a text in its message, and leave no version.
    pub(super) fn run_refused(&mut self, sql: &str, reason: &str) -> Result<(), Failed> {
        let before = self.log.newest();
        match self.warehouse.run(sql).map_err(text) {
            Ok(_) => return Err(format!("is not refused for {reason}\n[SQL] {sql}").into()),
            Err(error) if error.to_lowercase().contains(&reason.to_lowercase()) => {}
            Err(error) => return Err(format!("is not refused for {reason}: {error}").into()),
        }
        self.log.check_news()?;
        match self.log.newest() == before {
            true => Ok(()),
            false => Err(format!("is refused, and has committed\n[SQL] {sql}").into()),
        }
    }

    /// The rows of a query as canonical text, sorted.
    pub(super) fn rows(&self, sql: &str) -> Result<Vec<String>, Failed> {
        let answer = self.warehouse.run(sql).map_err(text);
        let answer = answer.map_err(|error| at(sql, &Failed::from(error)))?;
        sorted_rows(&answer)
    }

    /// Makes sure that what a table is besides its rows is in order, and that others see these rows.
    pub(super) fn check_all(&self, folder: &Path, table: &str) -> Result<(), Failed> {
        if self.log.newest() == self.since {
            return Ok(());
        }
        self.check_feed()?;
        self.check_identities()?;
        self.check_checkpoint()?;
        self.check_readers(folder, table)
    }

    /// The changes since the table was opened lead from the rows that it had to those that it has.
    fn check_feed(&self) -> Result<(), Failed> {
        if !self.log.has_feed() {
            return Ok(());
        }
        let sql = format!("SELECT * FROM table_changes('t', {})", self.since);
        let answer = self.warehouse.run(&sql)?;
        let mut columns = canonical::columns(&answer);
        columns.retain(|name| ![CHANGE_TYPE, COMMIT_VERSION].contains(&name.as_str()));
        let types = canonical::rows(&answer, &[CHANGE_TYPE.to_owned()])?;
        let there = self.before.iter().cloned();
        let mut changes: Vec<Change> = there.map(|row| ("[\"insert\"]".into(), row)).collect();
        changes.extend(types.into_iter().zip(canonical::rows(&answer, &columns)?));
        let found = self.rows("SELECT * FROM t")?;
        check_same("the rows, by their changes", &net(&changes)?, &found)
    }

    /// No identity value was given out that the table does not remember.
    fn check_identities(&self) -> Result<(), Failed> {
        for (name, step, mark) in identities(self.log.metadata()) {
            let Some(mark) = mark else { continue };
            let column = quoted(&name);
            let beyond = if step > 0 { '>' } else { '<' };
            let sql = format!("SELECT {column} FROM t WHERE {column} {beyond} {mark}");
            let rows = self.rows(&sql)?;
            if !rows.is_empty() {
                return Err(format!("{name}: {rows:?} beyond the mark {mark}").into());
            }
        }
        Ok(())
    }

    /// A checkpoint of ours holds what others have left in the log.
    fn check_checkpoint(&self) -> Result<(), Failed> {
        let Some(checkpoint) = self.newest_checkpoint()? else {
            return Ok(());
        };
        self.warehouse.run(&format!(
            "CREATE EXTERNAL TABLE checkpoint STORED AS PARQUET LOCATION '{checkpoint}'"
        ))?;
        let mut names = Vec::new();
        for (kind, key) in [("domainMetadata", "domain"), ("txn", "appId")] {
            let name = format!("\"{kind}\"['{key}']");
            let sql = format!("SELECT {name} AS name FROM checkpoint WHERE {name} IS NOT NULL");
            names.extend(self.rows(&sql)?);
        }
        let is_lost = |name: &&String| !names.contains(&format!("[\"{name}\"]"));
        match self.kept.iter().find(is_lost) {
            Some(name) => Err(format!("{checkpoint} has lost {name}").into()),
            None => Ok(()),
        }
    }

    /// The newest checkpoint that we wrote, in Parquet and in one part.
    fn newest_checkpoint(&self) -> Result<Option<String>, Failed> {
        let mut newest = None;
        for entry in fs::read_dir(self.location.join("_delta_log"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name
                .get(..20)
                .and_then(|version| version.parse::<i64>().ok());
            if version.is_some_and(|version| version > self.since)
                && name.contains(".checkpoint.")
                && name.ends_with(".parquet")
            {
                newest = newest.max(Some(entry.path().display().to_string()));
            }
        }
        Ok(newest)
    }

    /// A reader that sees the same rows in the table as others wrote it, sees the same in ours.
    fn check_readers(&self, folder: &Path, table: &str) -> Result<(), Failed> {
        if readers::missing().is_some() {
            return Ok(());
        }
        let found = self.problems()?;
        if found.is_empty() {
            return Ok(());
        }
        let before = Self::open(folder, table)?.problems()?;
        let reader = |problem: &str| problem.split(": ").next().map(str::to_owned);
        let able: Vec<String> = found
            .into_iter()
            .filter(|problem| !before.iter().any(|had| reader(had) == reader(problem)))
            .collect();
        match able.is_empty() {
            true => Ok(()),
            false => Err(able.join("\n").into()),
        }
    }

    fn problems(&self) -> Result<Vec<String>, Failed> {
        let answer = self.warehouse.run("SELECT * FROM t")?;
        readers::problems(&self.location, &answer, None)
    }
}

/// A column's name as SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn sorted_rows(answer: &Answer) -> Result<Vec<String>, Failed> {
    let mut rows = canonical::rows(answer, &canonical::columns(answer))?;
    rows.sort();
    Ok(rows)
}

fn text(error: DataFusionError) -> String {
    error.strip_backtrace()
}

fn at(sql: &str, failed: &Failed) -> Failed {
    let message = failed.message().unwrap_or_default();
    format!("{message}\n[SQL] {sql}").into()
}
