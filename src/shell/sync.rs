//! `alluvial sync`: runs the SYNC statements of scripts, once or for ever.
//!
//! ```text
//! files ── script ─┬─ set-up statements, once
//!                  └─ syncs ── schedule ── jobs, at most --jobs at once ─┬─ lines      one for each run
//!                                 │  ▲                                   ├─ metrics    served to Prometheus
//!                         signals ┘  └──── how each run ended ───────────┘
//! ```
//!
//! A run is one commit or none, and the position moves in that commit, so that ending the process at any time loses nothing but
//! the work of the runs in it. The first signal nevertheless lets them finish; the second does not.

mod job;
mod lag;
mod lines;
mod metrics;
mod options;
mod schedule;
mod script;
mod server;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::future;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::{self, ExitCode};
use std::time::Instant;

use datafusion::prelude::SessionContext;
use tokio::task::{Id, JoinError, JoinSet};
use uuid::Uuid;

use super::Failure;
use super::signals::Signals;
use crate::error::Error;
use job::{Job, Outcome};
use lag::Lag;
use lines::Lines;
pub use lines::RunFormat;
use metrics::Metrics;
pub use options::SyncOptions;
use schedule::Schedule;
use script::Script;

/// Runs the syncs that `options` name in the session `ctx`, and says how the process should exit.
pub(super) async fn run(
    options: &SyncOptions,
    quiet: bool,
    ctx: SessionContext,
) -> Result<ExitCode, Failure> {
    let script = Script::read(&options.files, &ctx)?;
    let mut jobs: Vec<_> = script.syncs().map(|sync| Job::new(sync, &ctx)).collect();
    let metrics = match &options.metrics {
        Some(address) => Some(serve_metrics(address, &jobs)?),
        None => None,
    };
    let one_at_a_time = options.jobs == NonZeroUsize::MIN;
    let names: Vec<_> = jobs.iter().map(Job::source_and_target).collect();
    for (job, (source, _)) in jobs.iter_mut().zip(&names) {
        job.follows_another = names.iter().any(|(_, target)| target == source);
        job.measures_lag = metrics.is_some();
        job.shows_progress = one_at_a_time && !quiet && io::stderr().is_terminal();
    }
    script.set_up(&ctx).await?;
    let signals = Signals::listen()
        .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let service = Service {
        schedule: Schedule::new(jobs.len(), options.every, options.jobs, Instant::now()),
        jobs,
        running: JoinSet::new(),
        indexes: HashMap::new(),
        lines: Lines::new(options.format, quiet),
        metrics,
    };
    Box::pin(service.run(signals)).await
}

/// How lines and metrics call a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    name: String,
    target: String,
}

impl Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <- {}", self.target, self.name)
    }
}

/// The syncs of a process, and what it takes to run them.
struct Service {
    /// In the order of the script; the schedule counts them the same way.
    jobs: Vec<Job>,
    schedule: Schedule,
    running: JoinSet<Outcome>,
    /// Which sync a running task belongs to.
    indexes: HashMap<Id, usize>,
    lines: Lines,
    metrics: Option<Metrics>,
}

impl Service {
    async fn run(mut self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let mut output = Ok(());
        while !self.schedule.is_over() {
            self.start_due();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    if let Err(error) = self.finish(ended) {
                        // Nobody reads what we print: what runs may finish, in silence.
                        output = Err(error);
                        self.schedule.stop();
                    }
                }
                () = until(self.schedule.next_start()) => {}
                code = signals.next() => self.stop(code),
            }
        }
        output?;
        Ok(match self.schedule.has_succeeded() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn start_due(&mut self) {
        while let Some(index) = self.schedule.start(Instant::now()) {
            let task = self.running.spawn(self.jobs[index].clone().run());
            self.indexes.insert(task.id(), index);
        }
    }

    /// Books how a run ended, and prints its line.
    fn finish(&mut self, ended: Result<(Id, Outcome), JoinError>) -> io::Result<()> {
        let (task, outcome) = ended.unwrap_or_else(|error| (error.id(), Outcome::lost(&error)));
        let Some(index) = self.indexes.remove(&task) else {
            return Ok(());
        };
        let job = &self.jobs[index];
        let label = &job.label;
        if let Some(metrics) = &self.metrics {
            metrics.record(label, &outcome);
        }
        match outcome.report {
            Ok(report) => {
                self.schedule.succeeded(index, Instant::now());
                self.lines.succeeded(label, &report)
            }
            Err(error) => {
                let (now, transient) = (Instant::now(), job.may_pass(&error));
                let retry_in = self.schedule.failed(index, transient, now, random());
                self.lines.failed(label, error, transient, retry_in)
            }
        }
    }

    /// The first signal starts nothing new; the second ends the process.
    fn stop(&mut self, code: i32) {
        if self.schedule.is_stopped() {
            process::exit(code);
        }
        self.schedule.stop();
        self.lines.stopping(self.running.len());
    }
}

impl Outcome {
    /// What becomes of a run whose task panicked.
    fn lost(error: &JoinError) -> Self {
        Self {
            report: Err(Error::internal(error)),
            lag: Lag::default(),
        }
    }
}

/// Begins to serve the metrics of `jobs` and says where.
fn serve_metrics(address: &str, jobs: &[Job]) -> Result<Metrics, Failure> {
    let metrics = Metrics::new(jobs.iter().map(|job| &job.label))
        .map_err(|error| Failure::new(format!("cannot count for --metrics: {error}")))?;
    let bound = server::serve(address, metrics.registry())?;
    writeln!(io::stderr(), "metrics at http://{bound}/metrics")?;
    Ok(metrics)
}

/// Sleeps until `time`, or for ever without one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => future::pending().await,
    }
}

/// A number from 0 to 1, another one each time.
fn random() -> f64 {
    f64::from(Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX)
}
