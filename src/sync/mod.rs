//! Keeping a Delta table equal to its source, exactly once: `SYNC` and `APPLY CHANGES`.
//!
//! ```text
//!  Sync ── Planner ──> Step ──> SyncExec ──> SyncReport
//!           │            └ rows, their commit, and what else the commit records:
//!           │              the position in the source, and the sequences of deleted rows
//!           └ source ── events ── ResolveChangesExec ── MERGE | INSERT      (see event, resolve_exec, apply)
//! ```
//!
//! - The position moves in the commit that writes the rows, so that a retry, a crash or a second runner changes nothing twice.
//! - The position goes with the source's identity and a fingerprint of the version reached: another source in its place, or the
//!   same restored to an older state, is noticed.
//! - A run that loses a race is planned anew, from the position on.
//! - Each key is written once: its latest change by SEQUENCE BY, version and ordinal counts. Whatever is ambiguous is an error.

mod apply;
mod clauses;
mod columns;
mod current_rows;
mod detect;
mod event;
mod event_plan;
mod events;
mod key_groups;
mod latest;
mod list;
mod plan;
mod position;
mod relation;
mod remembered;
mod remembering;
mod report;
mod resolve_exec;
mod session;
mod setup;
mod spec;
mod step;
mod sync_exec;
mod tie;
mod timeline;

use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;

pub(crate) use current_rows::CurrentRows;
pub(crate) use list::{drop_sync, show_syncs};
pub use report::{SyncMode, SyncReport};
pub(crate) use session::SyncSession;
pub use spec::{Columns, OnExpired, Storage, Sync, SyncBuilder};
pub(crate) use spec::{SourceSpec, Statement};
pub(crate) use sync_exec::SyncExec;

use crate::error::Result;

impl Sync {
    /// Plans a run; nothing is written until the plan is executed.
    pub(crate) async fn physical_plan(
        &self,
        ctx: &SessionContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(SyncExec::plan(Arc::new(self.clone()), ctx).await?))
    }

    /// The same with what depends on its source settled: whether the report counts rows that are set aside.
    pub(crate) async fn prepared(mut self, session: &impl SyncSession) -> Self {
        if self.statement == Statement::Sync
            && let Ok(source) = session.sync_source(&self.source).await
        {
            self.counts_rejected = source.sets_rows_aside();
        }
        self
    }

    /// The columns of the report.
    pub(crate) fn report_schema(&self) -> arrow::datatypes::SchemaRef {
        SyncReport::schema(self.dry_run, self.counts_rejected)
    }

    /// Runs it in a session that knows its tables, and says what was done.
    ///
    /// # Errors
    /// When the statement does not fit its tables, there is no way on from the recorded position, or a store fails. The target is
    /// as it was then, and the run may be repeated.
    pub async fn run(&self, ctx: &SessionContext) -> Result<SyncReport> {
        let prepared = Box::pin(self.clone().prepared(ctx)).await;
        let plan = Box::pin(prepared.physical_plan(ctx)).await?;
        SyncReport::decode(&collect(plan, ctx.task_ctx()).await?)
    }
}
