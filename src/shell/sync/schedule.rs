//! When each sync runs: in which order, how often, and after which wait when it failed.
//!
//! ```text
//!            start               succeeded, failed
//!  Waiting ─────────▶ Running ──────────────────────▶ Over
//!     ▲                  │
//!     └──────────────────┘ to run again, or to retry
//! ```
//!
//! The schedule has no clock and starts nothing itself: it is told the time, and says which sync is next.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// A sync that runs once is tried this many times more.
const MOST_RETRIES: u32 = 3;

/// The turns of the syncs, which are called by their place in the script.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The time from one start to the next; none when each sync runs once.
    every: Option<Duration>,
    jobs: usize,
    turns: Vec<Turn>,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Turn {
    state: State,
    /// How often it failed since it last succeeded.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { until: Instant },
    Running { since: Instant },
    Over,
}

impl Schedule {
    /// All syncs are due now, and at most `jobs` of them run at once.
    pub(super) fn new(
        syncs: usize,
        every: Option<Duration>,
        jobs: NonZeroUsize,
        now: Instant,
    ) -> Self {
        let turn = Turn {
            state: State::Waiting { until: now },
            failures: 0,
        };
        Self {
            every,
            jobs: jobs.get(),
            turns: vec![turn; syncs],
            stopped: false,
        }
    }

    /// The sync to start now, if one is due and there is a job for it; it is running from then on.
    pub(super) fn start(&mut self, now: Instant) -> Option<usize> {
        let (_, index) = self.next_turn().filter(|(due, _)| *due <= now)?;
        self.turns[index].state = State::Running { since: now };
        Some(index)
    }

    /// When [`Self::start`] will have something to start, if no run ends before.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.next_turn().map(|(due, _)| due)
    }

    /// The sync has run, and runs again after its pause.
    pub(super) fn succeeded(&mut self, index: usize, now: Instant) {
        let turn = &mut self.turns[index];
        turn.failures = 0;
        turn.state = match (self.every, turn.state) {
            (Some(every), State::Running { since }) => State::Waiting {
                until: now.max(since + every),
            },
            _ => State::Over,
        };
    }

    /// The sync has failed: after which wait it is tried again, if it is. `jitter` is between 0 and 1.
    pub(super) fn failed(
        &mut self,
        index: usize,
        transient: bool,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        let turn = &mut self.turns[index];
        turn.failures = turn.failures.saturating_add(1);
        let tried_enough = self.every.is_none() && turn.failures > MOST_RETRIES;
        if !transient || tried_enough || self.stopped {
            turn.state = State::Over;
            return None;
        }
        let wait = back_off(turn.failures, jitter);
        turn.state = State::Waiting { until: now + wait };
        Some(wait)
    }

    /// Starts nothing any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether nothing is started any more, whatever is due.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether nothing runs and nothing will.
    pub(super) fn is_over(&self) -> bool {
        self.turns.iter().all(|turn| match turn.state {
            State::Running { .. } => false,
            State::Waiting { .. } => self.stopped,
            State::Over => true,
        })
    }

    /// Whether it went as asked: what repeats ran until it was stopped, what runs once ran and succeeded.
    pub(super) fn has_succeeded(&self) -> bool {
        match self.every {
            Some(_) => self.stopped,
            None => self
                .turns
                .iter()
                .all(|turn| turn.failures == 0 && matches!(turn.state, State::Over)),
        }
    }

    /// The sync that may start before the others; of several at once the first in the script.
    fn next_turn(&self) -> Option<(Instant, usize)> {
        if self.stopped {
            return None;
        }
        let taken = self.turns.iter().filter(|turn| self.has_job(turn)).count();
        let turns = self.turns.iter().enumerate();
        turns
            .filter(|(_, turn)| taken < self.jobs || self.has_job(turn))
            .filter_map(|(index, turn)| match turn.state {
                State::Waiting { until } => Some((until, index)),
                _ => None,
            })
            .min()
    }

    /// Whether it takes one of the jobs. A sync that runs once keeps its job until it is retried, since those after it may
    /// read its target.
    fn has_job(&self, turn: &Turn) -> bool {
        match turn.state {
            State::Running { .. } => true,
            State::Waiting { .. } => self.every.is_none() && turn.failures > 0,
            State::Over => false,
        }
    }
}

/// The wait doubles with each failure. Up to half of it is left out at random, so that what failed together is not tried again
/// together.
fn back_off(failures: u32, jitter: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let wait = FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT);
    wait.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(syncs: usize, every: Option<Duration>, jobs: usize) -> (Schedule, Instant) {
        let now = Instant::now();
        let jobs = NonZeroUsize::new(jobs).unwrap();
        (Schedule::new(syncs, every, jobs, now), now)
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let check = |failures, jitter, millis| {
            assert_eq!(back_off(failures, jitter), Duration::from_millis(millis));
        };
        check(1, 1.0, 1_000);
        check(2, 1.0, 2_000);
        check(3, 1.0, 4_000);
        check(9, 1.0, 256_000);
        check(10, 1.0, 300_000);
        check(u32::MAX, 1.0, 300_000);
        check(1, 0.0, 500);
        check(2, 0.5, 1_500);
    }

    #[test]
    fn one_pass_runs_in_order() {
        let (mut schedule, now) = schedule(3, None, 2);
        assert_eq!(schedule.start(now), Some(0));
        assert_eq!(schedule.start(now), Some(1));
        assert_eq!(schedule.start(now), None, "there are two jobs");
        assert_eq!(schedule.next_start(), None);
        schedule.succeeded(1, now);
        assert_eq!(schedule.next_start(), Some(now));
        assert_eq!(schedule.start(now), Some(2));
        schedule.succeeded(0, now);
        assert!(!schedule.is_over());
        schedule.succeeded(2, now);
        assert!(schedule.is_over());
        assert!(schedule.has_succeeded());
    }

    #[test]
    fn one_pass_waits_for_retries_before_the_next_sync() {
        let (mut schedule, mut now) = schedule(2, None, 1);
        for wait in [1, 2, 4] {
            assert_eq!(schedule.start(now), Some(0));
            assert_eq!(schedule.failed(0, true, now, 1.0), Some(SECOND * wait));
            assert_eq!(schedule.start(now), None);
            now += SECOND * wait;
            assert_eq!(schedule.next_start(), Some(now));
        }
        assert_eq!(schedule.start(now), Some(0));
        assert_eq!(schedule.failed(0, true, now, 1.0), None);
        assert_eq!(schedule.start(now), Some(1), "the others still run");
        schedule.succeeded(1, now);
        assert!(schedule.is_over());
        assert!(!schedule.has_succeeded());
    }

    #[test]
    fn a_retry_that_succeeds_is_a_success() {
        let (mut schedule, now) = schedule(1, None, 1);
        schedule.start(now);
        schedule.failed(0, true, now, 1.0);
        assert_eq!(schedule.start(now + SECOND), Some(0));
        schedule.succeeded(0, now + SECOND);
        assert!(schedule.is_over() && schedule.has_succeeded());
    }

    #[test]
    fn repeated_syncs_start_again_after_their_last_start() {
        let (mut schedule, now) = schedule(1, Some(SECOND * 10), 1);
        schedule.start(now);
        schedule.succeeded(0, now + SECOND * 3);
        assert_eq!(schedule.next_start(), Some(now + SECOND * 10));
        assert_eq!(schedule.start(now + SECOND * 9), None);
        assert_eq!(schedule.start(now + SECOND * 10), Some(0));
        schedule.succeeded(0, now + SECOND * 25);
        assert_eq!(schedule.next_start(), Some(now + SECOND * 25), "overdue");
    }

    #[test]
    fn a_repeated_sync_that_waits_for_a_retry_leaves_its_job_to_others() {
        let (mut schedule, now) = schedule(2, Some(SECOND * 10), 1);
        assert_eq!(schedule.start(now), Some(0));
        assert_eq!(schedule.failed(0, true, now, 1.0), Some(SECOND));
        assert_eq!(schedule.start(now), Some(1));
        assert_eq!(schedule.start(now + SECOND), None, "the job is taken");
        schedule.succeeded(1, now + SECOND);
        assert_eq!(schedule.start(now + SECOND), Some(0));
    }

    #[test]
    fn repeated_syncs_end_when_none_is_left_or_on_request() {
        let (mut schedule, now) = schedule(2, Some(SECOND), 2);
        schedule.start(now);
        schedule.start(now);
        assert_eq!(schedule.failed(0, false, now, 1.0), None);
        schedule.succeeded(1, now);
        let mut stopped = schedule;
        assert!(!stopped.is_over());
        stopped.stop();
        assert!(stopped.is_over() && stopped.has_succeeded());

        let (mut schedule, now) = self::schedule(1, Some(SECOND), 1);
        schedule.start(now);
        schedule.failed(0, false, now, 1.0);
        assert!(schedule.is_over() && !schedule.has_succeeded());
    }

    #[test]
    fn one_pass_that_was_stopped_has_not_done_all() {
        let (mut schedule, now) = schedule(2, None, 1);
        schedule.start(now);
        schedule.stop();
        schedule.succeeded(0, now);
        assert!(schedule.is_over() && !schedule.has_succeeded());
    }

    #[test]
    fn what_runs_finishes_after_a_stop() {
        let (mut schedule, now) = schedule(2, None, 1);
        schedule.start(now);
        schedule.stop();
        assert!(!schedule.is_over());
        assert_eq!(schedule.failed(0, true, now, 1.0), None, "no retries");
        assert_eq!(schedule.start(now), None);
        assert!(schedule.is_over() && !schedule.has_succeeded());
    }
}
