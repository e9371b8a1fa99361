//! One run of a sync, in a task of its own.

use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;

use super::Label;
use super::lag::Lag;
use crate::error::{Error, Result};
use crate::shell::progress::Progress;
use crate::sync::{Sync, SyncReport};

/// A sync and the session it runs in.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) label: Label,
    /// Whether a long run shows its progress.
    pub(super) shows_progress: bool,
    /// Whether every run is followed by a look at how far the target is behind.
    pub(super) measures_lag: bool,
    /// Whether its source is what another sync writes, so that it may be about to be created.
    pub(super) follows_another: bool,
    sync: Sync,
    ctx: SessionContext,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) report: Result<SyncReport>,
    /// All unknown when it was not measured.
    pub(super) lag: Lag,
}

impl Job {
    /// A silent job.
    pub(super) fn new(sync: &Sync, ctx: &SessionContext) -> Self {
        let label = Label {
            name: sync.name().to_owned(),
            target: sync.target().to_string(),
        };
        Self {
            label,
            shows_progress: false,
            measures_lag: false,
            follows_another: false,
            sync: sync.clone(),
            ctx: ctx.clone(),
        }
    }

    /// What it reads and what it writes, as the script names them.
    pub(super) fn source_and_target(&self) -> (String, String) {
        (self.sync.source(), self.label.target.clone())
    }

    /// Whether the run may succeed later by itself.
    pub(super) fn may_pass(&self, error: &Error) -> bool {
        let awaits_source = self.follows_another && matches!(error, Error::TableNotFound { .. });
        awaits_source || error.is_transient()
    }

    /// Runs the sync once.
    pub(super) async fn run(self) -> Outcome {
        let report = Box::pin(self.report()).await;
        let lag = match self.measures_lag {
            true => Box::pin(Lag::measure(&self.sync, &self.ctx)).await,
            false => Lag::default(),
        };
        Outcome { report, lag }
    }

    async fn report(&self) -> Result<SyncReport> {
        let progress = Progress::start(self.shows_progress);
        let plan = Box::pin(self.sync.physical_plan(&self.ctx)).await?;
        progress.watch(&plan);
        let batches = collect(plan, self.ctx.task_ctx()).await?;
        SyncReport::decode(&batches)
    }
}
