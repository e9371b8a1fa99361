//! The line that tells of a run.
//!
//! Every line is written at once and flushed, so that a reader of a pipe sees a run as soon as it has ended. As text, failures go
//! to standard error; as JSON, every run is an object on standard output.

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::Label;
use crate::error::Error;
use crate::shell::print;
use crate::sync::{SyncMode, SyncReport};

/// The form in which runs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RunFormat {
    /// A line of text for each run
    Automatic,
    /// A JSON object for each run
    #[value(alias = "ndjson")]
    NdJson,
}

/// Prints the lines.
pub(super) struct Lines {
    format: RunFormat,
    quiet: bool,
}

impl Lines {
    /// Prints in `format`; `quiet` leaves out the runs that found nothing to do.
    pub(super) fn new(format: RunFormat, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// Tells of a run that succeeded.
    pub(super) fn succeeded(&self, label: &Label, report: &SyncReport) -> io::Result<()> {
        if self.quiet && report.mode == SyncMode::UpToDate {
            return Ok(());
        }
        let now = Utc::now();
        let line = match self.format {
            RunFormat::Automatic => success_text(now, label, report),
            RunFormat::NdJson => serde_json::to_string(&Success::new(now, label, report))?,
        };
        write_line(&mut io::stdout(), line)
    }

    /// Tells of a run that failed, and when it is tried again, if it is.
    pub(super) fn failed(
        &self,
        label: &Label,
        error: Error,
        transient: bool,
        retry_in: Option<Duration>,
    ) -> io::Result<()> {
        let now = Utc::now();
        let error = print::message(&error.into());
        match self.format {
            RunFormat::Automatic => {
                let line = failure_text(now, label, &error, retry_in);
                write_line(&mut io::stderr(), line)
            }
            RunFormat::NdJson => {
                let object = Failure {
                    time: time(now, SecondsFormat::Millis),
                    name: &label.name,
                    target: &label.target,
                    error: &error,
                    transient,
                    retry_in_ms: retry_in.map(millis),
                };
                write_line(&mut io::stdout(), serde_json::to_string(&object)?)
            }
        }
    }

    /// Says what the process is waiting for before it ends.
    pub(super) fn stopping(&self, running: usize) {
        if running > 0 && !self.quiet {
            let line = format!(
                "waiting for {running} run(s) to finish; a second signal ends them at once"
            );
            // It matters to nobody if nobody can read it.
            write_line(&mut io::stderr(), line).ok();
        }
    }
}

/// A run that succeeded, as an object.
#[derive(Serialize)]
struct Success<'a> {
    time: String,
    name: &'a str,
    target: &'a str,
    mode: String,
    source_version_from: Option<i64>,
    source_version_to: Option<i64>,
    rows_inserted: u64,
    rows_updated: u64,
    rows_deleted: u64,
    rows_ignored: u64,
    rows_rejected: u64,
    target_version: Option<i64>,
    duration_ms: u64,
}

impl<'a> Success<'a> {
    fn new(now: DateTime<Utc>, label: &'a Label, report: &SyncReport) -> Self {
        Self {
            time: time(now, SecondsFormat::Millis),
            name: &label.name,
            target: &label.target,
            mode: report.mode.to_string(),
            source_version_from: report.source_version_from,
            source_version_to: report.source_version_to,
            rows_inserted: report.rows_inserted,
            rows_updated: report.rows_updated,
            rows_deleted: report.rows_deleted,
            rows_ignored: report.rows_ignored,
            rows_rejected: report.rows_rejected.unwrap_or(0),
            target_version: report.target_version,
            duration_ms: millis(report.duration),
        }
    }
}

/// A run that failed, as an object.
#[derive(Serialize)]
struct Failure<'a> {
    time: String,
    name: &'a str,
    target: &'a str,
    error: &'a str,
    transient: bool,
    /// NULL when it is not tried again.
    retry_in_ms: Option<u64>,
}

fn success_text(now: DateTime<Utc>, label: &Label, report: &SyncReport) -> String {
    let mut text = format!(
        "{} {label}: {}{}, {} inserted, {} updated, {} deleted, {} ignored",
        time(now, SecondsFormat::Secs),
        report.mode,
        source_versions(report),
        report.rows_inserted,
        report.rows_updated,
        report.rows_deleted,
        report.rows_ignored,
    );
    if let Some(rejected) = report.rows_rejected {
        text += &format!(", {rejected} rejected");
    }
    if let Some(version) = report.target_version {
        text += &format!(", version {version}");
    }
    text + &format!(", {:.3} s", report.duration.as_secs_f64())
}

fn source_versions(report: &SyncReport) -> String {
    match (report.source_version_from, report.source_version_to) {
        (Some(from), Some(to)) if from != to => format!(" {from}..{to}"),
        (_, Some(to)) => format!(" at {to}"),
        (_, None) => String::new(),
    }
}

fn failure_text(
    now: DateTime<Utc>,
    label: &Label,
    error: &str,
    retry_in: Option<Duration>,
) -> String {
    let time = time(now, SecondsFormat::Secs);
    let error: Vec<_> = error.lines().map(str::trim).collect();
    let error = error.join(" ");
    match retry_in {
        Some(wait) => {
            let seconds = wait.as_secs_f64();
            format!("{time} {label}: error: {error}; retry in {seconds:.1} s")
        }
        None => format!("{time} {label}: error: {error}; stopped"),
    }
}

fn time(now: DateTime<Utc>, precision: SecondsFormat) -> String {
    now.to_rfc3339_opts(precision, true)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn write_line(out: &mut impl Write, mut line: String) -> io::Result<()> {
    line.push('\n');
    out.write_all(line.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            name: "crm".to_owned(),
            target: "customers".to_owned(),
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_795_255_200_500).unwrap()
    }

    fn report(mode: SyncMode, from: Option<i64>, to: Option<i64>) -> SyncReport {
        SyncReport {
            mode,
            source_version_from: from,
            source_version_to: to,
            rows_inserted: 3,
            rows_updated: 2,
            rows_deleted: 1,
            rows_ignored: 0,
            rows_rejected: None,
            target_version: Some(17),
            target_files: None,
            duration: Duration::from_millis(43),
        }
    }

    #[test]
    fn a_success_is_a_line() {
        let check = |mode, from, to, expected: &str| {
            let text = success_text(now(), &label(), &report(mode, from, to));
            let rest = ", 3 inserted, 2 updated, 1 deleted, 0 ignored, version 17, 0.043 s";
            let start = "2026-11-21T10:00:00Z customers <- crm: ";
            assert_eq!(text, format!("{start}{expected}{rest}"));
        };
        check(
            SyncMode::Incremental,
            Some(41),
            Some(52),
            "incremental 41..52",
        );
        check(SyncMode::Full, None, Some(52), "full at 52");
        check(SyncMode::UpToDate, Some(52), Some(52), "up to date at 52");
        check(SyncMode::Full, None, None, "full");
    }

    #[test]
    fn a_failure_is_a_line_that_says_how_it_goes_on() {
        let check = |error: &str, retry_in, expected: &str| {
            let text = failure_text(now(), &label(), error, retry_in);
            let start = "2026-11-21T10:00:00Z customers <- crm: error: ";
            assert_eq!(text, format!("{start}{expected}"));
        };
        let wait = Duration::from_millis(1_960);
        check("timed out", Some(wait), "timed out; retry in 2.0 s");
        check("no\n  such table\n", None, "no such table; stopped");
    }

    #[test]
    fn a_success_is_an_object() {
        let report = report(SyncMode::Full, None, Some(52));
        let text = serde_json::to_string(&Success::new(now(), &label(), &report)).unwrap();
        assert_eq!(
            text,
            r#"{"time":"2026-11-21T10:00:00.500Z","name":"crm","target":"customers","mode":"full","source_version_from":null,"source_version_to":52,"rows_inserted":3,"rows_updated":2,"rows_deleted":1,"rows_ignored":0,"rows_rejected":0,"target_version":17,"duration_ms":43}"#
        );
    }
}
