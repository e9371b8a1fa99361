//! A sync as a plan: its input is the commit of its first attempt, which EXPLAIN shows, and its output the report.
//!
//! An attempt that loses a race is planned again from the position on, which the winner may have moved: what it has applied is
//! not applied twice.

use std::fmt::{self, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements,
    PlanProperties,
};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};

use super::plan::Planner;
use super::report::SyncReport;
use super::spec::Sync;
use super::step::Step;
use crate::delta::alter::commit_metadata;
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::RepeatedKeys;

/// How often a run is begun again after another writer got in its way.
const MAX_ATTEMPTS: u32 = 30;

/// Runs a sync.
pub(crate) struct SyncExec {
    sync: Arc<Sync>,
    ctx: SessionContext,
    step: Arc<Step>,
    commit: Option<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for SyncExec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncExec")
            .field("sync", &self.sync)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl SyncExec {
    /// Plans the first attempt.
    ///
    /// # Errors
    /// When the statement does not fit its tables, or there is no way on from the recorded position.
    pub(crate) async fn plan(sync: Arc<Sync>, ctx: &SessionContext) -> Result<Self> {
        let step = Arc::new(plan_step(&sync, ctx, false).await?);
        let commit = step.work.as_ref().map(|work| Arc::clone(&work.commit));
        Ok(Self::over(sync, ctx.clone(), step, commit))
    }

    fn over(
        sync: Arc<Sync>,
        ctx: SessionContext,
        step: Arc<Step>,
        commit: Option<Arc<dyn ExecutionPlan>>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(SyncReport::schema(sync.dry_run, sync.counts_rejected)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            sync,
            ctx,
            step,
            commit,
            properties: Arc::new(properties),
        }
    }
}

/// Plans what is to be done now; again, while other writers replace what is being looked at.
async fn plan_step(sync: &Sync, ctx: &SessionContext, repeated_keys: bool) -> Result<Step> {
    let mut attempt = 0;
    loop {
        let planner = Planner {
            sync,
            session: ctx,
            state: Arc::new(ctx.state()),
            repeated_keys,
        };
        match Box::pin(planner.step()).await {
            Err(Error::Conflict { .. }) if attempt < MAX_ATTEMPTS => {
                tokio::time::sleep(back_off(attempt)).await;
                attempt += 1;
            }
            planned => return planned,
        }
    }
}

impl DisplayAs for SyncExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let (sync, step) = (&self.sync, &self.step);
        write!(
            f,
            "SyncExec: target={}, source={}, mode={}",
            sync.target, sync.source, step.mode
        )?;
        match (step.from, step.to) {
            (Some(from), Some(to)) => write!(f, ", versions={from}..{to}"),
            (None, Some(to)) => write!(f, ", version={to}"),
            _ => Ok(()),
        }
    }
}

impl ExecutionPlan for SyncExec {
    fn name(&self) -> &'static str {
        "SyncExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let inputs = self.commit.iter().count();
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; inputs])
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.commit.iter().count()]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.commit.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::over(
            Arc::clone(&self.sync),
            self.ctx.clone(),
            Arc::clone(&self.step),
            children.pop(),
        )))
    }

    fn execute(
        &self,
        _: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let run = Run {
            sync: Arc::clone(&self.sync),
            ctx: self.ctx.clone(),
            step: Arc::clone(&self.step),
            commit: self.commit.clone(),
            context,
        };
        let dry_run = self.sync.dry_run;
        let (sender, receiver) = futures::channel::oneshot::channel();
        let report = async move {
            let (step, report) = Box::pin(run.run()).await?;
            let row = report.encode(dry_run)?;
            let _ = sender.send((step, report));
            Ok(row)
        };
        // the report has been returned by then
        let checkpoint = async move {
            if let Ok((step, report)) = receiver.await {
                step.conclude(&report).await;
            }
            None
        };
        let stream =
            stream::once(report).chain(stream::once(checkpoint).filter_map(std::future::ready));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream,
        )))
    }
}

/// One execution.
struct Run {
    sync: Arc<Sync>,
    ctx: SessionContext,
    step: Arc<Step>,
    commit: Option<Arc<dyn ExecutionPlan>>,
    context: Arc<TaskContext>,
}

impl Run {
    /// Attempts it until it gets through.
    async fn run(mut self) -> Result<(Arc<Step>, SyncReport)> {
        let started = Instant::now();
        let mut repeated_keys = false;
        for attempt in 0.. {
            let failure = match self.attempt().await {
                Ok(Some(mut report)) => {
                    report.duration = started.elapsed();
                    let counted = report.rows_rejected.unwrap_or(0);
                    report.rows_rejected = self.sync.counts_rejected.then_some(counted);
                    return Ok((self.step, report));
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            match failure {
                None => {}
                Some(Error::Conflict { .. }) if attempt < MAX_ATTEMPTS => {
                    tokio::time::sleep(back_off(attempt)).await;
                }
                Some(error) if !repeated_keys && RepeatedKeys::is_cause_of(&error) => {
                    repeated_keys = true;
                }
                Some(error) => return Err(error),
            }
            self.step = Arc::new(plan_step(&self.sync, &self.ctx, repeated_keys).await?);
            self.commit = None;
        }
        Err(Error::internal("the attempts of a sync ended"))
    }

    /// `None` when the target had to get columns first.
    async fn attempt(&self) -> Result<Option<SyncReport>> {
        let base = self.step.evolution.as_ref().filter(|_| !self.sync.dry_run);
        if let Some((base, metadata)) = base {
            let operation = Operation::new("ADD COLUMNS");
            commit_metadata(base, metadata.clone(), operation).await?;
            return Ok(None);
        }
        let context = Arc::clone(&self.context);
        self.step
            .execute(self.commit.as_ref(), self.sync.dry_run, context)
            .await
            .map(Some)
    }
}

/// Waits longer each time, and never as long as the other loser does.
fn back_off(attempt: u32) -> Duration {
    let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    Duration::from_millis((10 << attempt.min(6)) * (64 + random) / 256)
}
