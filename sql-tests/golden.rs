//! Delta tables by Spark, Databricks and others, read as those and other engines read them.
//!
//! `ALLUVIAL_GOLDEN` names the folder that holds `expected.json` and `tables/<name>/delta`; nothing is written there. Trials:
//!
//! - `golden::snapshot::<table>`: the current rows of every table.
//! - `golden::changes::<table>::<first>..<last>`: the rows of `table_changes` over each range that `expected.json` has, and
//!   their counts by version and type; or that the range is refused, where no engine answers it.
//! - `golden::gaps`: every line of `golden_gaps.txt` names one of these trials.
//!
//! # What counts as the truth
//! `expected.json` holds several engines' readings, what Spark wrote beside some tables (`expected_in_repo`), and what the
//! tables' own projects state (`stated`, counts only). In this order:
//!
//! 1. Spark's rows, if any engine reads the same. None does for `g-data-reader-partition-values`, whose writer's time zone
//!    is lost, so there rule 2 decides.
//! 2. The reading that most engines share. Of the tables left, they differ only in `unshredded-variant` (DuckDB shows a
//!    variant as a value, not as its bytes). One engine alone reads `k-type-widening`, and one alone answers
//!    `k-table-with-cdf` 3..4, where only a column's nullability changes: no reason to refuse, as the schema at the upper
//!    bound decides.
//! 3. No engine answers: the range must be refused, for whatever reason.
//!
//! Stated counts replace the engines'. A `_commit_timestamp` is not compared: where a table has no in-commit timestamps it
//! is a file's time, which a checkout changes.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use libtest_mimic::{Completion, Failed, Trial};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::canonical::{CHANGE_TYPE, COMMIT_VERSION, columns, hexadecimal, rows};
use crate::patience;
use crate::{Answer, Warehouse, package};

/// What `expected.json` says of one table.
#[derive(Deserialize)]
struct Table {
    snapshot: Readings,
    #[serde(default)]
    cdf_result: BTreeMap<String, Readings>,
}

#[derive(Deserialize)]
struct Readings {
    engines: BTreeMap<String, Outcome>,
    expected_in_repo: Option<Reading>,
    stated: Option<Stated>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Read(Reading),
    Refused {
        #[serde(rename = "error")]
        _error: String,
    },
}

/// What one engine read, or what we did.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Reading {
    rows: usize,
    sha256: String,
    cols: Vec<String>,
    counts: Option<BTreeMap<String, usize>>,
}

#[derive(Deserialize)]
struct Stated {
    rows: usize,
    counts: BTreeMap<String, usize>,
}

pub(crate) fn trials() -> Result<Vec<Trial>, Box<dyn Error>> {
    let Some(folder) = env::var_os("ALLUVIAL_GOLDEN").map(PathBuf::from) else {
        let skipped = "skipped: set ALLUVIAL_GOLDEN to the folder of the golden tables";
        return Ok(vec![patience::ignorable_test("golden", move || {
            Ok(Completion::ignored_with(skipped))
        })]);
    };
    let expected = folder.join("expected.json");
    let text = fs::read_to_string(&expected)
        .map_err(|error| format!("{}: {error}", expected.display()))?;
    let mut entries: BTreeMap<String, Value> = serde_json::from_str(&text)?;
    entries.remove("_about");
    let mut checks = BTreeMap::new();
    for (name, entry) in entries {
        let table: Table =
            serde_json::from_value(entry).map_err(|error| format!("{name}: {error}"))?;
        add_checks(&mut checks, &folder, &name, table);
    }
    let gaps = gaps()?;
    let names: BTreeSet<String> = checks.keys().cloned().collect();
    let mut trials: Vec<Trial> = checks
        .into_iter()
        .map(|(name, check)| gated(&name, gaps.get(&name).cloned(), check))
        .collect();
    trials.push(patience::test("golden::gaps", move || {
        match gaps.keys().find(|name| !names.contains(*name)) {
            Some(name) => Err(format!("golden_gaps.txt lists {name:?}, which is no trial").into()),
            None => Ok(()),
        }
    }));
    Ok(trials)
}

type Check = Box<dyn FnOnce() -> Result<(), Failed> + Send>;

fn add_checks(checks: &mut BTreeMap<String, Check>, folder: &Path, name: &str, table: Table) {
    let location = folder.join("tables").join(name).join("delta");
    let mut add = |trial: String, query: String, readings: Readings| {
        let location = location.clone();
        checks.insert(trial, Box::new(move || check(&location, &query, &readings)));
    };
    add(
        format!("golden::snapshot::{name}"),
        "SELECT * FROM golden".to_owned(),
        table.snapshot,
    );
    for (range, readings) in table.cdf_result {
        let (first, last) = range.split_once("..").unwrap_or((&range, &range));
        let bounds = format!("starting_version => {first}, ending_version => {last}");
        let query = format!("SELECT * FROM table_changes('golden', {bounds})");
        add(format!("golden::changes::{name}::{range}"), query, readings);
    }
}

/// The reasons by trial.
fn gaps() -> io::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(package().join("sql-tests/golden_gaps.txt"))?;
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let pair = |line: &str| {
        line.split_once(": ")
            .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
    };
    Ok(lines
        .map(|line| pair(line).unwrap_or_else(|| (line.to_owned(), String::new())))
        .collect())
}

fn gated(name: &str, gap: Option<String>, check: Check) -> Trial {
    patience::ignorable_test(name, move || match (check(), gap) {
        (result, None) => result.map(|()| Completion::Completed),
        (Err(_), Some(reason)) => Ok(Completion::ignored_with(format!("known gap: {reason}"))),
        (Ok(()), Some(_)) => Err("passes now: remove it from golden_gaps.txt".into()),
    })
}

fn check(location: &Path, query: &str, readings: &Readings) -> Result<(), Failed> {
    let warehouse = Warehouse::new()?;
    let location = location.to_string_lossy().replace('\'', "''");
    warehouse.run(&format!(
        "CREATE EXTERNAL TABLE golden STORED AS DELTA LOCATION '{location}'"
    ))?;
    let answer = warehouse.run(query);
    let Some(expected) = truth(readings) else {
        return match answer {
            Ok(answer) => Err(format!(
                "returned {} rows; every engine refuses this",
                answer.row_count()
            )
            .into()),
            Err(error) if REFUSALS.iter().any(|code| error.to_string().contains(code)) => Ok(()),
            Err(error) => Err(format!("refused, but not by any of {REFUSALS:?}: {error}").into()),
        };
    };
    let (found, rows) = reading(&answer?)?;
    if found == expected {
        return Ok(());
    }
    let sample = rows.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    Err(format!("expected {expected:#?}\nread {found:#?}\nfirst rows read:\n{sample}").into())
}

/// How a range is refused that no engine can read; anything else would be a mistake in the question.
const REFUSALS: [&str; 3] = [
    "INCOMPATIBLE_SCHEMA",
    "CHANGES_NOT_ENABLED",
    "CHANGES_EXPIRED",
];

/// The reading to compare with, by the rules above; none where every engine refuses.
fn truth(readings: &Readings) -> Option<Reading> {
    let answers = || {
        readings
            .engines
            .values()
            .filter_map(|outcome| match outcome {
                Outcome::Read(reading) => Some(reading),
                Outcome::Refused { .. } => None,
            })
    };
    let votes = |reading: &Reading| {
        let same = answers().filter(|answer| answer.sha256 == reading.sha256);
        same.count()
    };
    let by_spark = readings
        .expected_in_repo
        .as_ref()
        .filter(|reading| votes(reading) > 0);
    let by_most = || answers().max_by_key(|reading| votes(reading));
    let mut truth = by_spark.or_else(by_most)?.clone();
    if let Some(stated) = &readings.stated {
        truth.rows = stated.rows;
        truth.counts = Some(stated.counts.clone());
    }
    Some(truth)
}

fn reading(answer: &Answer) -> Result<(Reading, Vec<String>), ArrowError> {
    let cols = columns(answer);
    let mut rows = rows(answer, &cols)?;
    rows.sort();
    let is_feed = cols.iter().any(|name| name == CHANGE_TYPE);
    let digest = Sha256::digest(rows.join("\n").as_bytes());
    let reading = Reading {
        rows: rows.len(),
        sha256: hexadecimal(&digest),
        counts: if is_feed {
            Some(change_counts(answer)?)
        } else {
            None
        },
        cols,
    };
    Ok((reading, rows))
}

fn change_counts(answer: &Answer) -> Result<BTreeMap<String, usize>, ArrowError> {
    let mut counts = BTreeMap::new();
    for batch in &answer.batches {
        let index = |name| batch.schema().index_of(name);
        let (versions, types) = (index(COMMIT_VERSION)?, index(CHANGE_TYPE)?);
        for row in 0..batch.num_rows() {
            let version = array_value_to_string(batch.column(versions), row)?;
            let kind = array_value_to_string(batch.column(types), row)?;
            *counts.entry(format!("v{version}:{kind}")).or_insert(0) += 1;
        }
    }
    Ok(counts)
}
