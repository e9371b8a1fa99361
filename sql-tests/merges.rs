//! Random statements on random tables against a model of a few loops.
//!
//! ```text
//!  Random ─┬─ Table ── CREATE TABLE t ─────────────┐
//!          └─ Statement ─┬─ as SQL ── alluvial ────┴─ rows, change rows, count, version ─┐
//!                        └─ as data ─ Model ─────────────────────────────────────────────┴─ the same
//! ```
//!
//! A statement is made as data, so that nothing is parsed here. A failure shows its seed and the statements that led to it, which
//! run in the shell as they are. `ALLUVIAL_TEST_SEEDS`, as `7` or `1..3000`, replaces the seeds that are listed here.

mod case;
mod expression;
mod generate;
mod mapping;
mod model;
mod scope;
mod source;
mod statement;
mod table;
mod value;

use futures::{StreamExt, stream};
use libtest_mimic::{Failed, Trial};

use self::value::Kind;
use crate::RUNTIME;
use crate::patience;
use crate::random::seeds;

/// Every theme has the seeds from 1 up to this one.
const LAST_SEED: u64 = 25;
/// So many cases of a theme run at a time.
const CASES_AT_ONCE: usize = 4;

/// What a trial looks at.
#[derive(Debug)]
struct Theme {
    name: &'static str,
    /// The types that `k` may have.
    keys: &'static [Kind],
    /// The types of the other columns.
    values: &'static [Kind],
    partitioned_percent: u64,
    /// How many tables have no deletion vectors.
    copied_percent: u64,
    mapped_percent: u64,
    /// Whether conditions of a MERGE have sub-queries.
    sub_queries: bool,
    /// Statements that write files anew.
    rearrange: &'static [&'static str],
}

/// The theme that the others are variations of.
const KEYS: Theme = Theme {
    name: "keys",
    keys: &[Kind::Long, Kind::Int, Kind::Text],
    values: &[Kind::Int, Kind::Text, Kind::Flag],
    partitioned_percent: 10,
    copied_percent: 20,
    mapped_percent: 0,
    sub_queries: false,
    rearrange: &[],
};

const THEMES: [Theme; 6] = [
    KEYS,
    Theme {
        name: "types",
        keys: &[Kind::Day, Kind::Moment, Kind::Price, Kind::Long],
        values: &[
            Kind::Double,
            Kind::Text,
            Kind::Day,
            Kind::Moment,
            Kind::Price,
            Kind::Place,
            Kind::Numbers,
        ],
        mapped_percent: 30,
        ..KEYS
    },
    Theme {
        name: "partitions",
        keys: &[Kind::Int, Kind::Text, Kind::Day],
        values: &[
            Kind::Int,
            Kind::Text,
            Kind::Flag,
            Kind::Day,
            Kind::Moment,
            Kind::Price,
        ],
        partitioned_percent: 100,
        rearrange: &["OPTIMIZE t", "REORG TABLE t APPLY (PURGE)"],
        ..KEYS
    },
    Theme {
        name: "copied-files",
        values: &[Kind::Int, Kind::Text, Kind::Place],
        partitioned_percent: 25,
        copied_percent: 100,
        ..KEYS
    },
    Theme {
        name: "sub-queries",
        sub_queries: true,
        ..KEYS
    },
    Theme {
        name: "maintenance",
        partitioned_percent: 0,
        copied_percent: 10,
        rearrange: &[
            "OPTIMIZE t",
            "OPTIMIZE t ZORDER BY (k)",
            "REORG TABLE t APPLY (PURGE)",
        ],
        ..KEYS
    },
];

/// The trials.
pub(crate) fn trials() -> Vec<Trial> {
    let trial = |theme: &'static Theme| {
        patience::test(format!("merges::{}", theme.name), move || {
            let listed: Vec<u64> = (1..=LAST_SEED).collect();
            RUNTIME.block_on(check(theme, seeds(&listed)?))
        })
    };
    THEMES.iter().map(trial).collect()
}

async fn check(theme: &Theme, seeds: Vec<u64>) -> Result<(), Failed> {
    let cases = stream::iter(seeds).map(|seed| case::check(theme, seed));
    let mut cases = cases.buffer_unordered(CASES_AT_ONCE);
    while let Some(outcome) = cases.next().await {
        outcome?;
    }
    Ok(())
}
