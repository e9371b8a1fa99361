//! Trials `interop::own_rows::<origin>::<table>`: every table that others wrote, Spark's of `interop/spark` and the golden ones
//! where `ALLUVIAL_GOLDEN` names their folder, is written with what is in it already.
//!
//! Its rows are inserted once more, some are deleted, by MERGE and by DELETE, and a column becomes NULL. What a query says before a
//! statement of the rows after it, is what must be there; every commit is held against the Delta protocol, and at the end
//! delta-rs and DuckDB are asked what they read. Tables of [`REFUSED`] must be refused, and by the name of the feature.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;

use super::fixture::{Fixture, quoted};
use crate::oracle;
use crate::patience;
use crate::tables::check_same;

/// Tables that cannot be written, with what the refusal says.
const REFUSED: &[(&str, &str)] = &[
    ("golden::dat-iceberg_compat_v1", "icebergCompatV1"),
    (
        "golden::k-partitioned_with_materialize_feature",
        "materializePartitionColumns",
    ),
    ("golden::rs-table_with_liquid_clustering", "liquid"),
    ("golden::unshredded-variant", "variantType-preview"),
    ("spark::iceberg_compatible", "icebergCompatV2"),
    ("spark::variant_added", "variantType"),
    ("spark::variants", "variantType"),
];

/// Tables whose rows cannot be inserted here, with the reason.
const SKIPPED: &[(&str, &str)] = &[
    (
        "spark::partition_types",
        "no file system has folder names as long as 1e300 in digits",
    ),
    (
        "golden::dat-multi_partitioned",
        "delta-rs and DuckDB take the escapes of binary partition values for text",
    ),
];

/// Tables with more rows take too long, and add nothing.
const MOST_ROWS: usize = 5000;

pub(super) fn trials() -> Result<Vec<Trial>, Box<dyn Error>> {
    let mut trials = Vec::new();
    add_trials(&mut trials, "spark", &oracle::fixtures(), "table")?;
    if let Some(golden) = env::var_os("ALLUVIAL_GOLDEN") {
        let tables = PathBuf::from(golden).join("tables");
        add_trials(&mut trials, "golden", &tables, "delta")?;
    }
    Ok(trials)
}

fn add_trials(
    trials: &mut Vec<Trial>,
    origin: &str,
    folder: &Path,
    table: &'static str,
) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{origin}::{}", entry.file_name().to_string_lossy());
        let (refused, skipped) = (reason(REFUSED, &name), reason(SKIPPED, &name));
        let trial = move || match skipped {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => write(&entry.path(), table, refused),
        };
        let name = format!("interop::own_rows::{name}");
        trials.push(patience::ignorable_test(name, trial));
    }
    Ok(())
}

fn reason(list: &[(&str, &'static str)], table: &str) -> Option<&'static str> {
    let found = list.iter().find(|(name, _)| *name == table);
    found.map(|(_, reason)| *reason)
}

fn write(folder: &Path, table: &str, refused: Option<&str>) -> Result<Completion, Failed> {
    let Ok(mut fixture) = Fixture::open(folder, table) else {
        return Ok(Completion::ignored_with("cannot be read"));
    };
    if let Some(reason) = refused {
        fixture.run_refused("INSERT INTO t SELECT * FROM t", reason)?;
        fixture.run_refused("DELETE FROM t", reason)?;
        return Ok(Completion::Completed);
    }
    if fixture.rows_before().len() > MOST_ROWS {
        return Ok(Completion::ignored_with("has too many rows"));
    }
    let columns = Columns::of(fixture.log().metadata());
    for step in steps(&fixture, &columns) {
        let expected = fixture.rows(&step.expected)?;
        fixture.run(&step.statement)?;
        let found = fixture.rows("SELECT * FROM t")?;
        check_same(&step.statement, &expected, &found)?;
    }
    fixture.check_all(folder, table)?;
    Ok(Completion::Completed)
}

/// The columns of a table, by what may be done with them.
#[derive(Default)]
struct Columns {
    names: Vec<String>,
    /// The first whose values can be compared.
    key: Option<String>,
    /// The last, but the key, that may be NULL without a consequence.
    optional: Option<String>,
    /// Whether values are computed or must satisfy something, so that not any value may be written.
    is_bound: bool,
}

impl Columns {
    fn of(metadata: &Value) -> Self {
        let mut columns = Self::default();
        let schema = metadata["schemaString"].as_str().unwrap_or_default();
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        for field in schema["fields"].as_array().into_iter().flatten() {
            let name = field["name"].as_str().unwrap_or_default().to_owned();
            let kind = field["type"].as_str().unwrap_or_default();
            let is_comparable = COMPARABLE.contains(&kind) || kind.starts_with("decimal");
            if columns.key.is_none() && is_comparable {
                columns.key = Some(name.clone());
            } else if field["nullable"] == true {
                columns.optional = Some(name.clone());
            }
            columns.is_bound |= BINDING
                .iter()
                .any(|rule| !field["metadata"][*rule].is_null());
            columns.names.push(name);
        }
        let properties = metadata["configuration"].as_object();
        columns.is_bound |= properties
            .into_iter()
            .flatten()
            .any(|(name, _)| name.starts_with("delta.constraints."));
        columns
    }

    /// What is selected so that a column is NULL in some rows.
    fn list(&self, set_null: &str, rows: &str) -> String {
        let columns = self.names.iter().map(|name| {
            let column = quoted(name);
            match name == set_null {
                true => format!("CASE WHEN {rows} THEN NULL ELSE {column} END AS {column}"),
                false => column,
            }
        });
        columns.collect::<Vec<_>>().join(", ")
    }
}

const COMPARABLE: [&str; 7] = [
    "byte",
    "short",
    "integer",
    "long",
    "string",
    "date",
    "timestamp",
];
const BINDING: [&str; 3] = [
    "delta.generationExpression",
    "delta.identity.start",
    "delta.invariants",
];

/// A statement, and a query that says before it which rows there are after it.
struct Step {
    statement: String,
    expected: String,
}

impl Step {
    fn new(statement: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            statement: statement.into(),
            expected: expected.into(),
        }
    }
}

fn steps(fixture: &Fixture, columns: &Columns) -> Vec<Step> {
    let is_empty = fixture.rows_before().is_empty();
    let mut steps = Vec::new();
    if !columns.is_bound {
        steps.push(Step::new(
            "INSERT INTO t SELECT * FROM t",
            "SELECT * FROM t UNION ALL SELECT * FROM t",
        ));
    }
    if fixture.log().is_on("delta.appendOnly") || is_empty {
        return steps;
    }
    let Some(key) = columns.key.as_deref().map(quoted) else {
        steps.push(Step::new("DELETE FROM t", "SELECT * FROM t WHERE false"));
        return steps;
    };
    if let Some(optional) = columns.optional.as_deref().filter(|_| !columns.is_bound) {
        let list = columns.list(optional, &format!("{key} = (SELECT max({key}) FROM t)"));
        let source = format!("(SELECT max({key}) AS k FROM t)");
        let optional = quoted(optional);
        steps.push(Step::new(
            format!(
                "MERGE INTO t USING {source} AS s ON t.{key} = s.k \
                 WHEN MATCHED THEN UPDATE SET {optional} = NULL"
            ),
            format!("SELECT {list} FROM t"),
        ));
    }
    steps.push(Step::new(
        format!(
            "MERGE INTO t USING (SELECT min({key}) AS k FROM t) AS s ON t.{key} = s.k \
             WHEN MATCHED THEN DELETE"
        ),
        format!("SELECT * FROM t WHERE {key} IS DISTINCT FROM (SELECT min({key}) FROM t)"),
    ));
    steps.push(Step::new(
        format!("DELETE FROM t WHERE {key} IS NULL"),
        format!("SELECT * FROM t WHERE {key} IS NOT NULL"),
    ));
    steps
}
