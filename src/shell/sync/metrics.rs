//! What Prometheus is told of the syncs.
//!
//! Every sync has its counters from the start, at zero, since a rate needs a value before the first event. A gauge is there only
//! while its value is known: an old lag that looks like a small one would be worse than none.

use chrono::Utc;
use prometheus::core::{Atomic, Collector, GenericGaugeVec};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, Result,
};

use super::Label;
use super::job::Outcome;
use super::lag::Lag;
use crate::sync::SyncReport;

/// From a run that found nothing to do to a full copy of a large table.
const BUCKETS_SECONDS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];

/// The series of all syncs.
pub(super) struct Metrics {
    registry: Registry,
    runs: IntCounterVec,
    rows: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    position: IntGaugeVec,
    lag_versions: IntGaugeVec,
    lag_seconds: GaugeVec,
    last_success: GaugeVec,
}

impl Metrics {
    /// Counts for these syncs, in a registry of its own.
    pub(super) fn new<'a>(labels: impl Iterator<Item = &'a Label>) -> Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            runs: counter(&registry, "runs_total", "Runs that succeeded.", &["mode"])?,
            rows: counter(
                &registry,
                "rows_total",
                "Rows of the target that changed, and keys whose changes changed nothing.",
                &["action"],
            )?,
            failures: counter(&registry, "failures_total", "Runs that failed.", &[])?,
            duration: duration(&registry)?,
            position: gauge(
                &registry,
                "position",
                "The version of the source that the target equals.",
            )?,
            lag_versions: gauge(
                &registry,
                "lag_versions",
                "Versions of the source that are not in the target yet.",
            )?,
            lag_seconds: gauge(
                &registry,
                "lag_seconds",
                "How long the target has not been equal to its source.",
            )?,
            last_success: gauge(
                &registry,
                "last_success_timestamp_seconds",
                "When the last run succeeded.",
            )?,
            registry,
        };
        for label in labels {
            metrics.begin(label)?;
        }
        Ok(metrics)
    }

    /// Where the series are read; a handle to the same, not a copy.
    pub(super) fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Counts a run.
    pub(super) fn record(&self, label: &Label, outcome: &Outcome) {
        // It fails only for a number of labels that is not the declared one.
        self.try_record(label, outcome).ok();
    }

    fn try_record(&self, label: &Label, outcome: &Outcome) -> Result<()> {
        match &outcome.report {
            Ok(report) => self.record_success(label, report)?,
            Err(_) => self
                .failures
                .get_metric_with_label_values(&label.values())?
                .inc(),
        }
        self.record_lag(label, outcome.lag)
    }

    fn record_success(&self, label: &Label, report: &SyncReport) -> Result<()> {
        let values = label.values();
        let mode = report.mode.to_string();
        self.runs
            .get_metric_with_label_values(&label.values_and(&mode))?
            .inc();
        for (action, count) in rows(report) {
            self.rows
                .get_metric_with_label_values(&label.values_and(action))?
                .inc_by(count);
        }
        self.duration
            .get_metric_with_label_values(&values)?
            .observe(report.duration.as_secs_f64());
        if let Some(version) = report.source_version_to {
            self.position
                .get_metric_with_label_values(&values)?
                .set(version);
        }
        self.last_success
            .get_metric_with_label_values(&values)?
            .set(Utc::now().timestamp_millis() as f64 / 1_000.0);
        Ok(())
    }

    fn record_lag(&self, label: &Label, lag: Lag) -> Result<()> {
        let values = label.values();
        if lag.position.is_some() {
            set(&self.position, &values, lag.position)?;
        }
        set(&self.lag_versions, &values, lag.versions)?;
        set(&self.lag_seconds, &values, lag.seconds)
    }

    /// Makes the counters of a sync, at zero.
    fn begin(&self, label: &Label) -> Result<()> {
        for action in ACTIONS {
            self.rows
                .get_metric_with_label_values(&label.values_and(action))?;
        }
        self.failures
            .get_metric_with_label_values(&label.values())?;
        self.duration
            .get_metric_with_label_values(&label.values())?;
        Ok(())
    }
}

impl Label {
    /// The values of the labels that every metric has.
    fn values(&self) -> [&str; 2] {
        [&self.name, &self.target]
    }

    fn values_and<'a>(&'a self, value: &'a str) -> [&'a str; 3] {
        [&self.name, &self.target, value]
    }
}

const LABELS: [&str; 2] = ["sync", "target"];

const ACTIONS: [&str; 5] = ["inserted", "updated", "deleted", "ignored", "rejected"];

fn rows(report: &SyncReport) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = [
        report.rows_inserted,
        report.rows_updated,
        report.rows_deleted,
        report.rows_ignored,
        report.rows_rejected.unwrap_or(0),
    ];
    ACTIONS.into_iter().zip(counts)
}

/// Sets a gauge, or takes it away when its value is not known.
fn set<P: Atomic>(gauges: &GenericGaugeVec<P>, values: &[&str], value: Option<P::T>) -> Result<()> {
    match value {
        Some(value) => gauges.get_metric_with_label_values(values)?.set(value),
        None => {
            // There may be none to take away.
            gauges.remove_label_values(values).ok();
        }
    }
    Ok(())
}

fn counter(registry: &Registry, name: &str, help: &str, more: &[&str]) -> Result<IntCounterVec> {
    let labels = [LABELS.as_slice(), more].concat();
    registered(registry, IntCounterVec::new(opts(name, help), &labels)?)
}

fn gauge<P: Atomic + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<GenericGaugeVec<P>> {
    registered(registry, GenericGaugeVec::new(opts(name, help), &LABELS)?)
}

fn duration(registry: &Registry) -> Result<HistogramVec> {
    let opts = opts("duration_seconds", "How long runs that succeeded took.");
    let opts = HistogramOpts::from(opts).buckets(BUCKETS_SECONDS.to_vec());
    registered(registry, HistogramVec::new(opts, &LABELS)?)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help)
        .namespace("alluvial")
        .subsystem("sync")
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::sync::SyncMode;
    use prometheus::TextEncoder;
    use std::time::Duration;

    fn success() -> SyncReport {
        SyncReport {
            mode: SyncMode::UpToDate,
            source_version_from: Some(41),
            source_version_to: Some(52),
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

    fn lag(versions: Option<i64>) -> Lag {
        Lag {
            position: None,
            versions,
            seconds: versions.map(|versions| versions as f64 / 2.0),
        }
    }

    #[test]
    fn series_follow_the_runs() {
        let label = Label {
            name: "crm".to_owned(),
            target: "customers".to_owned(),
        };
        let metrics = Metrics::new([&label].into_iter()).unwrap();
        let check = |line: &str, expected: bool| {
            let text = TextEncoder::new()
                .encode_to_string(&metrics.registry().gather())
                .unwrap();
            assert_eq!(text.lines().any(|known| known == line), expected, "{text}");
        };
        let labels = r#"sync="crm",target="customers""#;
        let failures = |count| format!("alluvial_sync_failures_total{{{labels}}} {count}");
        let lag_seconds = format!("alluvial_sync_lag_seconds{{{labels}}} 1.5");
        check(&failures(0), true);
        check(&lag_seconds, false);

        metrics.record(
            &label,
            &Outcome {
                report: Ok(success()),
                lag: lag(Some(3)),
            },
        );
        check(
            &format!("alluvial_sync_rows_total{{action=\"inserted\",{labels}}} 3"),
            true,
        );
        check(
            &format!("alluvial_sync_runs_total{{mode=\"up to date\",{labels}}} 1"),
            true,
        );
        check(
            &format!("alluvial_sync_duration_seconds_count{{{labels}}} 1"),
            true,
        );
        check(&format!("alluvial_sync_position{{{labels}}} 52"), true);
        check(&format!("alluvial_sync_lag_versions{{{labels}}} 3"), true);
        check(&lag_seconds, true);

        let report = Err(Error::invalid("no such table"));
        metrics.record(
            &label,
            &Outcome {
                report,
                lag: lag(None),
            },
        );
        check(&failures(1), true);
        check(&lag_seconds, false);
        check(&format!("alluvial_sync_position{{{labels}}} 52"), true);
    }
}
