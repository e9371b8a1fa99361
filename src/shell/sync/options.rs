//! What can be written after `alluvial sync`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::RunFormat;

/// Which SYNC statements are run, how often, and how their runs are told.
#[derive(Clone, Debug, clap::Args)]
pub struct SyncOptions {
    /// The script with the SYNC statements, `-` being standard input; may be repeated. Its other statements, such as CREATE
    /// EXTERNAL TABLE and SET, run first and once
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Repeat for ever, starting each sync again so long after its last start: 500ms, 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub every: Option<Duration>,
    /// How many syncs may run at once
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    pub jobs: NonZeroUsize,
    /// How runs are told
    #[arg(long, value_enum, default_value_t = RunFormat::Automatic)]
    pub format: RunFormat,
    /// Serve metrics for Prometheus on this address, such as 127.0.0.1:9464, under /metrics; port 0 takes a free port
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
}

/// Longer pauses are more likely a slip than meant.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A duration above zero, such as `500ms`, `30s`, `1.5h` or `1d`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_seconds = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3_600.0),
        "d" => Some(86_400.0),
        _ => None,
    };
    let number = number.parse::<f64>().ok();
    number
        .zip(unit_seconds)
        .and_then(|(number, seconds)| Duration::try_from_secs_f64(number * seconds).ok())
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
        .ok_or_else(|| "write a duration such as 500ms, 30s, 5m or 1h, of at most 366d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::{Options, Subcommand};
    use clap::Parser;

    fn parse(arguments: &str) -> Result<(Options, SyncOptions), clap::Error> {
        let options = Options::try_parse_from(arguments.split_whitespace())?;
        let Some(Subcommand::Sync(sync)) = options.subcommand.clone() else {
            panic!("{arguments} is no sync");
        };
        Ok((options, sync))
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, millis| {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)))
        };
        check("500ms", 500);
        check("1ms", 1);
        check("30s", 30_000);
        check("30 S", 30_000);
        check("5m", 300_000);
        check("5min", 300_000);
        check("1.5h", 5_400_000);
        check("1d", 86_400_000);
    }

    #[test]
    fn a_bad_duration_is_named_with_an_example() {
        for duration in [
            "30",
            "s",
            "soon",
            "0s",
            "0.0000001ms",
            "1.2.3s",
            "-1s",
            "9999d",
        ] {
            let message = parse(&format!("alluvial sync -f a.sql --every={duration}"))
                .unwrap_err()
                .to_string();
            assert!(message.contains(&format!("'{duration}'")), "{message}");
            assert!(message.contains("such as 500ms"), "{message}");
        }
    }

    #[test]
    fn options_of_the_command_may_stand_on_both_sides_of_sync() {
        let check = |arguments: &str| {
            let (options, sync) = parse(arguments).unwrap();
            assert_eq!(options.warehouse, PathBuf::from("w"), "{arguments}");
            assert_eq!(options.memory_limit, Some(1024), "{arguments}");
            assert!(options.quiet, "{arguments}");
            assert!(options.files.is_empty(), "{arguments}");
            assert_eq!(sync.files, [PathBuf::from("a.sql"), PathBuf::from("-")]);
        };
        check("alluvial sync -f a.sql -f - --warehouse w -m 1k -q");
        check("alluvial --warehouse w -m 1k -q sync -f a.sql -f -");
        check("alluvial --warehouse w sync -q -f a.sql -m 1k -f -");
    }

    #[test]
    fn options_have_defaults() {
        let (options, sync) = parse("alluvial sync -f a.sql").unwrap();
        assert_eq!(options.warehouse, PathBuf::from("./warehouse"));
        assert_eq!((sync.every, sync.jobs.get()), (None, 1));
        assert_eq!((sync.format, sync.metrics), (RunFormat::Automatic, None));
        let (_, sync) = parse("alluvial sync -f a.sql --jobs 4 --format ndjson").unwrap();
        assert_eq!((sync.jobs.get(), sync.format), (4, RunFormat::NdJson));
        assert!(parse("alluvial sync").is_err(), "there is nothing to run");
        assert!(parse("alluvial sync -f a.sql --jobs 0").is_err());
    }
}
