//! A process that syncs is killed at every write, and at some reads: whatever it has done by then, the next run makes good.
//!
//! ```text
//!  state ── copy ── a session whose store fails ── SYNC ─ whatever becomes of it
//!             └──── a session on a healthy store ─ SYNC, SYNC ── rows and change feed are those of a run without a fault
//!
//!  state ── copy ── a session that stops in the middle of its SYNC, and then goes on ─┬─ the same, and both reports together
//!             └──── another session, which does all of it meanwhile ──────────────────┘  are that of one run
//! ```
//!
//! - A kill is one of the process, so that nothing it tries afterwards has an effect. An outage is one of the network: answers of
//!   operations that took effect are lost, and the process goes on.
//! - That the feeds are equal says that no change was applied twice, and none in two halves.

pub(crate) mod host;
mod place;
mod process;
mod scenarios;
pub(crate) mod store;

use std::path::Path;

use libtest_mimic::{Failed, Trial};

use self::place::{Healthy, Place};
use self::scenarios::{SCENARIOS, Scenario};
use self::store::{Fault, Operations};
use crate::RUNTIME;
use crate::patience;
use crate::tables::{Counts, Report};

/// At how many operations a process is killed beside its writes.
const KILLS: usize = 2;
/// At how many operations it is overtaken.
const STOPS: usize = 6;
/// How many operations after a write an outage lasts, at most.
const MAX_LOST: usize = 2;

pub(crate) fn trials() -> Vec<Trial> {
    let kill = |scenario: &'static Scenario| {
        patience::test(format!("faults::{}", scenario.name), || {
            RUNTIME.block_on(scenario.check_faults())
        })
    };
    let overtake = |scenario: &'static Scenario| {
        patience::test(format!("faults::{}-overtaken", scenario.name), || {
            RUNTIME.block_on(scenario.check_overtaken())
        })
    };
    let mut trials: Vec<Trial> = SCENARIOS.iter().map(kill).collect();
    trials.extend(SCENARIOS.iter().map(overtake));
    trials.push(process::trial());
    trials
}

impl Scenario {
    async fn check_faults(&'static self) -> Result<(), Failed> {
        let place = Place::set_up(self, "").await?;
        let healthy = place.run_healthy().await?;
        for fault in faults(healthy.operations) {
            let outcome = place.check_fault(fault, &healthy).await;
            self.explain(fault, outcome)?;
        }
        Ok(())
    }

    async fn check_overtaken(&'static self) -> Result<(), Failed> {
        let place = Place::set_up(self, "-overtaken").await?;
        let healthy = place.run_healthy().await?;
        for operation in samples(healthy.operations.all, STOPS) {
            let stop = Fault::StoppedBefore(operation);
            let outcome = place.check_overtaken(stop, &healthy).await;
            self.explain(stop, outcome)?;
        }
        Ok(())
    }

    /// Adds to a failure what was done and what went wrong, for whoever wants to see it happen.
    fn explain(&self, fault: Fault, outcome: Result<(), Failed>) -> Result<(), Failed> {
        outcome.map_err(|failed| {
            let message = failed.message().unwrap_or_default();
            let set_up = self.set_up.join(";\n");
            format!(
                "{}, {fault:?}: {message}\n{set_up};\n{};",
                self.name, self.sync
            )
            .into()
        })
    }
}

/// Some of the operations, and every write once it is done: what is there then is there before the next one, too. Around the
/// last writes, which are the commit and the tidying after it, everything is tried; the first may be the file of sequences.
fn faults(healthy: Operations) -> Vec<Fault> {
    let kills = samples(healthy.all, KILLS).map(Fault::KilledBefore);
    let mut faults: Vec<Fault> = kills.collect();
    for write in 1..=healthy.writes {
        faults.push(Fault::KilledAfterWrite(write));
        if write == 1 {
            faults.push(Fault::Outage { write, lost: 1 });
        }
        if write + 1 >= healthy.writes {
            faults.push(Fault::KilledBeforeWrite(write));
            faults.extend((0..=MAX_LOST).map(|lost| Fault::Outage { write, lost }));
        }
    }
    faults
}

/// About so many of the numbers from 1 to `all`.
fn samples(all: usize, wanted: usize) -> impl Iterator<Item = usize> {
    (1..=all).step_by((all / wanted).max(1))
}

impl Place {
    async fn check_fault(&self, fault: Fault, healthy: &Healthy) -> Result<(), Failed> {
        let copy = self.host.copy()?;
        let is_done = self.run_with(copy.path(), fault).await?;
        self.host.start(copy.path())?;
        let session = self.open().await?;
        let next = self.sync(&session).await?;
        if is_done && next.rows != Counts::default() {
            return Err(format!("the run was done, and the next did more: {next:?}").into());
        }
        let again = self.sync(&session).await?;
        if again.rows != Counts::default() || again.target_version != next.target_version {
            return Err(format!("nothing was left to do, and yet: {again:?}").into());
        }
        self.check_target(healthy).await
    }

    /// Runs the sync in a process to which `fault` happens; whether it is done.
    async fn run_with(&self, folder: &Path, fault: Fault) -> Result<bool, Failed> {
        let process = self.host.start(folder)?;
        let session = self.open().await?;
        process.arm(fault);
        let mut outcome = self.sync(&session).await;
        if process.was_hit() && !matches!(fault, Fault::Outage { .. }) {
            return Ok(outcome.is_ok());
        }
        // the process goes on, and what it knows must not mislead it
        for _ in 0..=MAX_LOST {
            if outcome.is_err() {
                outcome = self.sync(&session).await;
            }
        }
        outcome.map(|_| true)
    }

    /// Runs the sync in a process that stops in the middle, while another does all of it.
    async fn check_overtaken(&self, stop: Fault, healthy: &Healthy) -> Result<(), Failed> {
        let copy = self.host.copy()?;
        let process = self.host.start(copy.path())?;
        let session = self.open().await?;
        process.arm(stop);
        let overtake = async {
            process.wait_for_stop().await;
            self.host.start(copy.path())?;
            let report = self.sync(&self.open().await?).await;
            process.go_on();
            report
        };
        let slow = async {
            let report = self.sync(&session).await;
            process.end();
            report
        };
        let (slow, fast): (Report, Report) = tokio::try_join!(slow, overtake)?;
        let (both, once) = (slow.rows + fast.rows, healthy.report.rows);
        if both != once {
            return Err(format!("{once:?} were to be changed, but: {slow:?}, {fast:?}").into());
        }
        self.check_target(healthy).await
    }
}
