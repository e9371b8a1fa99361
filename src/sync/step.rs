//! What a run is about to do: planned, and nothing done yet.

use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;

use super::position::Registration;
use super::remembered::RememberPlan;
use super::report::{SyncMode, SyncReport};
use super::resolve_exec::ignored_keys;
use crate::delta::actions::Metadata;
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::after_commit;
use crate::error::{Error, Result};
use crate::merge::{CommitExec, RepeatedKeys, RowCounts};
use crate::source::rejected_rows;

/// One attempt at a sync.
#[derive(Debug)]
pub(super) struct Step {
    pub mode: SyncMode,
    pub from: Option<i64>,
    pub to: Option<i64>,
    /// The target's version that the step is based on.
    pub target_version: Option<i64>,
    /// Columns that the target must get first, in a commit of their own.
    pub evolution: Option<(Arc<Snapshot>, Metadata)>,
    /// Whether a full run is made of changes, too, some of which may change nothing.
    pub counts_ignored: bool,
    /// Absent when there is nothing to do; beside [`SyncMode::UpToDate`] it looks for rows that the source has lost.
    pub work: Option<Work>,
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Work {
    /// The rows and their commit.
    pub commit: Arc<dyn ExecutionPlan>,
    /// What else the commit records.
    pub progress: Option<Progress>,
    pub remember: Option<RememberPlan>,
}

/// The position that a commit records.
#[derive(Debug)]
pub(super) struct Progress {
    pub name: String,
    pub registration: Registration,
    pub version: i64,
    pub fingerprint: Option<i64>,
}

impl Step {
    /// Does it, or only says what it would do. `commit` is the step's plan as the optimizer has left it.
    pub(super) async fn execute(
        &self,
        commit: Option<&Arc<dyn ExecutionPlan>>,
        dry_run: bool,
        context: Arc<TaskContext>,
    ) -> Result<SyncReport> {
        let started = Instant::now();
        let mut report = SyncReport::up_to_date(self.from, self.to, self.target_version);
        if let Some(work) = &self.work {
            let plan = commit.unwrap_or(&work.commit);
            let commit = find_commit(plan)?;
            let rows;
            if dry_run {
                let preview = commit.preview(context).await?;
                report.target_files = Some(preview.files);
                report.count(preview.rows);
                rows = preview.rows;
            } else {
                let committed = work.commit(commit, context).await?;
                report.target_version = committed.version.or(self.target_version);
                report.count(committed.rows);
                rows = committed.rows;
            }
            report.mode = match self.mode {
                // nothing was new, and rows that the source has lost were there all the same
                SyncMode::UpToDate if rows.total() > 0 => SyncMode::Incremental,
                mode => mode,
            };
            report.rows_rejected = Some(rejected_rows(plan));
            if self.mode == SyncMode::Incremental || self.counts_ignored {
                report.rows_ignored = ignored_keys(plan, &rows);
            }
        }
        report.duration = started.elapsed();
        Ok(report)
    }

    /// What is left to do after the report: a checkpoint, where one is due.
    pub(super) async fn conclude(&self, report: &SyncReport) {
        if let (Some(work), Some(version)) = (&self.work, report.target_version)
            && let Ok(commit) = find_commit(&work.commit)
            && Some(version) != self.target_version
        {
            after_commit(&commit.plan().write.target.table, version).await;
        }
    }
}

/// What became of the rows.
struct Written {
    rows: RowCounts,
    version: Option<i64>,
}

impl Work {
    async fn commit(&self, commit: &CommitExec, context: Arc<TaskContext>) -> Result<Written> {
        let mut actions = match &self.progress {
            Some(progress) => {
                progress
                    .registration
                    .record(&progress.name, progress.version, progress.fingerprint)
            }
            None => vec![],
        };
        let file = match &self.remember {
            Some(remember) => remember.write(Arc::clone(&context)).await?,
            None => None,
        };
        actions.extend(file.iter().map(|file| file.action()));
        let is_new = commit.plan().base.is_none();
        let table = commit.plan().write.target.table.clone();
        if is_new {
            table.create_folder()?;
        }
        let committed = commit.commit(actions, context).await;
        if is_new && committed.is_err() {
            table.discard_folder();
        }
        if let Some(file) = file {
            match &committed {
                Ok(_) => file.clean_up(true).await,
                Err(
                    Error::Conflict { .. }
                    | Error::Invalid(_)
                    | Error::Constraint { .. }
                    | Error::MultipleMatches { .. },
                ) => file.clean_up(false).await,
                Err(error) if RepeatedKeys::is_cause_of(error) => file.clean_up(false).await,
                // whether the commit has come about, nobody knows
                Err(_) => {}
            }
        }
        let committed = committed?;
        Ok(Written {
            rows: committed.rows,
            version: committed.version,
        })
    }
}

/// The commit in a plan that an optimizer may have wrapped.
fn find_commit(plan: &Arc<dyn ExecutionPlan>) -> Result<&CommitExec> {
    if let Some(commit) = plan.downcast_ref::<CommitExec>() {
        return Ok(commit);
    }
    match plan.children().as_slice() {
        [only] => find_commit(only),
        _ => Err(Error::internal("the plan of a sync has lost its commit")),
    }
}
