//! A folder where files land, and a session that has them as tables.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvial::sql::SessionContextExt;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;
use tempfile::TempDir;

use crate::tables::{execute, open};
use crate::{Answer, canonical, run_statement};

/// All changes of the table `landed`, in order.
pub(super) const CHANGES: &str =
    "SELECT * FROM table_changes('landed', 0) ORDER BY _commit_version, id";

/// A temporary folder with the folder `drop` in it, and a warehouse.
pub(super) struct Landing {
    root: TempDir,
    warehouse: TempDir,
    pub session: SessionContext,
}

impl Landing {
    /// One whose folder `drop` is empty.
    pub(super) fn new() -> Result<Self, Failed> {
        let (root, warehouse) = (TempDir::new()?, TempDir::new()?);
        fs::create_dir(root.path().join("drop"))?;
        Ok(Self {
            session: open(warehouse.path())?,
            root,
            warehouse,
        })
    }

    /// The same folder seen by another session, on the same warehouse.
    pub(super) fn another_session(&self) -> Result<SessionContext, Failed> {
        open(self.warehouse.path())
    }

    /// Something beside the folder `drop`.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file in the folder `drop`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.beside("drop").join(name)
    }

    /// Lets a file land, whole at once; one of this name is replaced.
    pub(super) fn put(&self, name: &str, content: impl AsRef<[u8]>) -> io::Result<()> {
        self.put_into("drop", name, content)
    }

    /// The same in a folder beside `drop`.
    pub(super) fn put_into(
        &self,
        folder: &str,
        name: &str,
        content: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        let folder = self.beside(folder);
        fs::create_dir_all(&folder)?;
        let half = folder.join(format!(".{name}.half"));
        fs::write(&half, content)?;
        fs::rename(&half, folder.join(name))
    }

    /// Lets a Parquet file with the rows of a query land.
    pub(super) async fn put_query(&self, name: &str, query: &str) -> Result<(), Failed> {
        let made = self.beside("made.parquet");
        let sql = format!("COPY ({query}) TO '{}' STORED AS PARQUET", text(&made)?);
        execute(&self.session, &sql).await?;
        self.put(name, fs::read(made)?)?;
        Ok(())
    }

    /// The statement that makes a table of the files in a folder.
    pub(super) fn create_table(&self, table: &str, folder: &str, options: &str) -> String {
        let folder = self.beside(folder);
        format!(
            "CREATE EXTERNAL TABLE {table} STORED AS CHANGE_FILES LOCATION '{}' OPTIONS (key 'id', {options})",
            folder.display()
        )
    }

    /// Makes the table `landed` of the files in `drop`.
    pub(super) async fn create(&self, options: &str) -> Result<(), Failed> {
        self.run(&self.create_table("landed", "drop", options))
            .await
    }

    /// Runs a statement that has to succeed.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Failed> {
        execute(&self.session, sql).await.map(|_| ())
    }

    /// Makes sure that a query has these rows, in this order.
    pub(super) async fn check(&self, sql: &str, expected: &[&str]) -> Result<(), Failed> {
        check_in(&self.session, sql, expected).await
    }

    /// Makes sure that a statement fails and says all of this.
    pub(super) async fn check_error(&self, sql: &str, parts: &[&str]) -> Result<(), Failed> {
        match run_statement(&self.session, sql).await {
            Ok(_) => Err(format!("this did not fail: {sql}").into()),
            Err(error) => says(&error.strip_backtrace(), parts),
        }
    }

    /// Makes sure that a table cannot be made, or else not be read, and that the error says all of this.
    pub(super) async fn check_refused(
        &self,
        table: &str,
        folder: &str,
        options: &str,
        parts: &[&str],
    ) -> Result<(), Failed> {
        let create = self.create_table(table, folder, options);
        if let Err(error) = run_statement(&self.session, &create).await {
            return says(&error.strip_backtrace(), parts);
        }
        let sql = format!("SELECT * FROM table_changes('{table}', 0)");
        self.check_error(&sql, parts).await?;
        self.run(&format!("DROP TABLE {table}")).await
    }

    /// Plans a query without running it.
    pub(super) async fn plan(&self, sql: &str) -> Result<Arc<dyn ExecutionPlan>, Failed> {
        let frame = self.session.alluvial_sql(sql).await?;
        Ok(frame.create_physical_plan().await?)
    }

    /// Runs a plan that must not succeed, for the text of its error.
    pub(super) async fn failure(&self, plan: Arc<dyn ExecutionPlan>) -> Result<String, Failed> {
        match collect(plan, self.session.task_ctx()).await {
            Ok(batches) => Err(format!("this did not fail, but returned {batches:?}").into()),
            Err(error) => Ok(error.strip_backtrace()),
        }
    }
}

/// The rows of a query as canonical text, in their order.
pub(super) async fn rows_in_order(
    session: &SessionContext,
    sql: &str,
) -> Result<Vec<String>, Failed> {
    let answer: Answer = execute(session, sql).await?;
    Ok(canonical::rows(&answer, &canonical::columns(&answer))?)
}

/// Makes sure that a query has these rows in a session, in this order.
pub(super) async fn check_in(
    session: &SessionContext,
    sql: &str,
    expected: &[&str],
) -> Result<(), Failed> {
    let found = rows_in_order(session, sql).await?;
    if found == expected {
        return Ok(());
    }
    Err(format!("[SQL] {sql}\n  expected: {expected:?}\n  found: {found:?}").into())
}

/// Makes sure that a text has all these parts.
pub(super) fn says(text: &str, parts: &[&str]) -> Result<(), Failed> {
    match parts.iter().find(|part| !text.contains(**part)) {
        Some(part) => Err(format!("the error does not say {part:?}: {text}").into()),
        None => Ok(()),
    }
}

/// The text of a path.
pub(super) fn text(path: &Path) -> Result<&str, Failed> {
    path.to_str()
        .ok_or_else(|| "the temporary folder has a name that is not text".into())
}
