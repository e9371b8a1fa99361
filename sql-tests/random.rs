//! Random numbers that are the same on every machine and in every run (SplitMix64), and the seeds of trials.

use std::env;

use libtest_mimic::Failed;

/// A sequence of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// An index into a list of that length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// True in so many of 100 cases.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these; they must not be empty.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// Puts a list into random order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// Takes so many of a list, or all, in random order.
    pub(crate) fn take<T>(&mut self, items: &mut Vec<T>, count: usize) -> Vec<T> {
        self.shuffle(items);
        items.split_off(items.len().saturating_sub(count))
    }
}

/// The seeds of a trial: `listed`, or those that `ALLUVIAL_TEST_SEEDS` gives as `7` or `1..500`.
pub(crate) fn seeds(listed: &[u64]) -> Result<Vec<u64>, Failed> {
    let Ok(given) = env::var("ALLUVIAL_TEST_SEEDS") else {
        return Ok(listed.to_vec());
    };
    match given.split_once("..") {
        Some((first, end)) => Ok((first.parse()?..end.parse()?).collect()),
        None => Ok(vec![given.parse()?]),
    }
}
