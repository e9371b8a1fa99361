//! Random histories against a model that only knows how to go through all of it in order.
//!
//! ```text
//!  events ── shuffled, some twice ── batches ── bronze ── SYNC | APPLY CHANGES ── target = model of the events so far
//!  tables ── random statements ───── SYNC ── SYNC ── copies = table; a history = the model of its versions
//! ```
//!
//! A failure shows its seed and the statements that led to it, which run in the shell as they are. `ALLUVIAL_TEST_SEEDS`, as `7`
//! or `1..500`, replaces the seeds that are listed here.

mod cases;
mod events;
mod model;
mod table;
mod transcript;

use libtest_mimic::{Failed, Trial};

use self::cases::{CASES, Case};
use self::transcript::Transcript;
use crate::RUNTIME;
use crate::patience;
use crate::random::{Random, seeds};

/// The seeds of every trial.
const SEEDS: [u64; 3] = [1, 2, 3];

pub(crate) fn trials() -> Vec<Trial> {
    let of_events = |case: &'static Case| {
        trial(case.name, async move |transcript, random| {
            case.check(transcript, random).await
        })
    };
    let mut trials: Vec<Trial> = CASES.iter().map(of_events).collect();
    trials.push(trial("chain-of-copies", table::chain_of_copies));
    trials.push(trial("chain-with-gaps", table::chain_with_gaps));
    trials.push(trial("history-of-a-table", table::history_of_a_table));
    trials.push(trial("history-with-gaps", table::history_with_gaps));
    trials
}

/// Runs a check with every seed.
fn trial(
    name: &str,
    check: impl AsyncFn(&mut Transcript, &mut Random) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    patience::test(format!("histories::{name}"), move || {
        for seed in seeds(&SEEDS)? {
            let mut transcript = Transcript::begin()?;
            let outcome = RUNTIME.block_on(check(&mut transcript, &mut Random::new(seed)));
            outcome.map_err(|failed| {
                let message = failed.message().unwrap_or_default();
                format!("seed {seed}: {message}\n\n{}", transcript.text())
            })?;
        }
        Ok(())
    })
}
