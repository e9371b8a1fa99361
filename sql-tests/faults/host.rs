//! A host that is a trial's own: its files before what is tried, copies of them, and sessions of the process that runs on it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use alluvial::sql::SessionBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::store::Process;
use crate::tables::execute;

/// A host, and the state that trials on it begin with.
pub(crate) struct Host {
    name: String,
    state: TempDir,
}

impl Host {
    /// An empty one, on which a process runs that fills the state.
    pub(crate) fn new(name: String) -> Result<Self, Failed> {
        let host = Self {
            name,
            state: TempDir::new()?,
        };
        host.start(host.state.path())?;
        Ok(host)
    }

    /// Where its tables are.
    pub(crate) fn url(&self) -> String {
        format!("fault://{}", self.name)
    }

    /// A copy of the state.
    pub(crate) fn copy(&self) -> Result<TempDir, Failed> {
        let copy = TempDir::new()?;
        copy_files(self.state.path(), copy.path())?;
        Ok(copy)
    }

    /// Begins a process on the host, whose files are in `folder` now.
    pub(crate) fn start(&self, folder: &Path) -> Result<Arc<Process>, Failed> {
        Ok(Process::start(&self.name, folder)?)
    }

    /// A session of the host's process that knows these tables.
    pub(crate) async fn open(
        &self,
        config: SessionConfig,
        tables: &[&str],
    ) -> Result<SessionContext, Failed> {
        let session = SessionBuilder::new().with_config(config).build()?;
        for table in tables {
            let location = format!("{}/{table}", self.url());
            let sql =
                format!("CREATE EXTERNAL TABLE {table} STORED AS DELTA LOCATION '{location}'");
            execute(&session, &sql).await?;
        }
        Ok(session)
    }
}

/// Copies a folder with all that is in it.
fn copy_files(from: &Path, to: &Path) -> Result<(), Failed> {
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
