//! A line on standard error that shows that a long statement is at work, and on how much.
//!
//! It has a thread of its own, since every worker of the runtime may be busy with the statement. The numbers are the
//! metrics that the operators of the physical plan keep anyway.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};

/// Statements shorter than this show no progress.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);
const CLEAR_LINE: &str = "\r\x1b[2K";

/// The progress line of one statement; dropping it clears the line.
pub(super) struct Progress {
    plan: Arc<OnceLock<Arc<dyn ExecutionPlan>>>,
    line: Option<Line>,
}

/// The thread that draws; it ends when `stop` is dropped.
struct Line {
    stop: Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// Starts the clock of a statement; nothing is ever drawn unless `visible`.
    pub(super) fn start(visible: bool) -> Self {
        let plan = Arc::new(OnceLock::new());
        let line = visible.then(|| {
            let (stop, stopped) = mpsc::channel();
            let plan = Arc::clone(&plan);
            let thread = thread::spawn(move || {
                // A terminal that cannot be written to is no reason to fail the statement.
                draw(&plan, &stopped, &mut io::stderr()).ok();
            });
            Line { stop, thread }
        });
        Self { plan, line }
    }

    /// Shows the numbers of `plan` from now on.
    pub(super) fn watch(&self, plan: &Arc<dyn ExecutionPlan>) {
        self.plan.get_or_init(|| Arc::clone(plan));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(Line { stop, thread }) = self.line.take() {
            drop(stop);
            // Waits until the line is cleared; a panic of the thread has been reported by then.
            thread.join().ok();
        }
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn draw(
    plan: &OnceLock<Arc<dyn ExecutionPlan>>,
    stopped: &Receiver<Infallible>,
    out: &mut impl Write,
) -> io::Result<()> {
    let started = Instant::now();
    let mut wait = PATIENCE;
    let mut spinner = ['|', '/', '-', '\\'].iter().cycle();
    while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = TICK;
        let mut work = Work::default();
        if let Some(plan) = plan.get() {
            work.add(plan.as_ref());
        }
        let spinner = spinner.next().unwrap_or(&' ');
        let seconds = started.elapsed().as_secs_f64();
        write!(out, "{CLEAR_LINE}{spinner} {seconds:.1} s{}", work.text())?;
        out.flush()?;
    }
    if wait == TICK {
        write!(out, "{CLEAR_LINE}")?;
    }
    out.flush()
}

/// What a plan has done so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    rows_read: usize,
    bytes_read: usize,
    rows_written: usize,
}

impl Work {
    fn add(&mut self, plan: &dyn ExecutionPlan) {
        let children = plan.children();
        if let Some(metrics) = plan.metrics() {
            let rows = metrics.output_rows().unwrap_or(0);
            if children.is_empty() {
                self.rows_read += rows;
                self.bytes_read += named(&metrics, "bytes_scanned").unwrap_or(0);
            } else if writes(plan.name()) {
                self.rows_written += named(&metrics, "rows_written").unwrap_or(rows);
            }
        }
        for child in children {
            self.add(child.as_ref());
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.rows_read > 0 || self.bytes_read > 0 {
            text += &format!(", {} rows read", grouped(self.rows_read));
        }
        if self.bytes_read > 0 {
            text += &format!(" ({})", size(self.bytes_read));
        }
        if self.rows_written > 0 {
            text += &format!(", {} rows written", grouped(self.rows_written));
        }
        text
    }
}

fn named(metrics: &MetricsSet, name: &str) -> Option<usize> {
    metrics
        .sum_by_name(name)
        .as_ref()
        .map(MetricValue::as_usize)
}

fn writes(operator: &str) -> bool {
    operator.contains("Write") || operator.contains("Insert")
}

fn size(bytes: usize) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if amount < 1024.0 {
            return format!("{amount:.0} {unit}");
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_told_as_far_as_it_is_known() {
        let check = |rows_read, bytes_read, rows_written, expected: &str| {
            let work = Work {
                rows_read,
                bytes_read,
                rows_written,
            };
            assert_eq!(work.text(), expected);
        };
        check(0, 0, 0, "");
        check(1_000, 0, 0, ", 1,000 rows read");
        check(0, 2_048, 0, ", 0 rows read (2 KiB)");
        check(5, 3 << 29, 7, ", 5 rows read (1.5 GiB), 7 rows written");
    }

    #[test]
    fn short_statements_draw_nothing() {
        let (stop, stopped) = mpsc::channel();
        drop(stop);
        let mut drawn = Vec::new();
        draw(&OnceLock::new(), &stopped, &mut drawn).unwrap();
        assert!(drawn.is_empty());
    }

    #[test]
    fn numbers_are_grouped() {
        let check = |number: usize, expected: &str| assert_eq!(grouped(number), expected);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
