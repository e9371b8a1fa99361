//! How often, and how soon, a lost connection is tried again.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::failure::Failure;

/// After so many failures without progress in between the error is handed on: about 16 seconds after the first one.
const ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether a request may have been carried out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was never sent.
    First,
    /// It was sent, and the connection broke before the answer.
    Repeated,
}

/// Counts failures since the last progress.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: AtomicU32,
}

impl Attempts {
    /// Waits before the next attempt, or gives `error` back where there have been enough.
    pub(super) async fn wait(&self, error: io::Error) -> Result<(), Failure> {
        let failed = self
            .failed
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failed >= ATTEMPTS {
            return Err(Failure::Lost(error));
        }
        sleep(pause(failed)).await;
        Ok(())
    }

    /// There was progress.
    pub(super) fn reset(&self) {
        self.failed.store(0, Ordering::Relaxed);
    }

    /// Whether the last attempt failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }
}

/// The pause after the given number of failures, which is 1 for the first.
fn pause(failed: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << failed.saturating_sub(1).min(16))
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let check = |failed, milliseconds| assert_eq!(pause(failed).as_millis(), milliseconds);
        check(1, 50);
        check(2, 100);
        check(7, 3_200);
        check(8, 5_000);
        check(u32::MAX, 5_000);
    }
}
