//! Runs every `.slt` file below this folder, each in a fresh warehouse, as one trial.
//!
//! The files follow sqllogictest's format. What this harness adds or settles:
//!
//! - `${WAREHOUSE}` is the file's warehouse and `${SCRATCH}` an empty folder outside of it. They are replaced in the whole
//!   text, expected output included, so no file needs `control substitution on`, which would make `$` and `\` special.
//! - `connection <name>` is another session on the same warehouse.
//! - Columns are `I` (integers), `R` (floats) or `T` (all others). `?` in a file, and a decimal column, match any letter;
//!   a bare `query` leaves columns unchecked.
//! - `NULL` is NULL, `(empty)` the empty string; everything else is as Arrow displays it.
//! - `statement count <n>` sees the rows that an INSERT, UPDATE, DELETE or MERGE touched; under `query` the same statement
//!   returns its count as a row, as it does to a user.
//! - `statement error <regex>` searches the whole error text; an error under `----` must equal it.
//! - There is no `include`: a file makes its own data, so that it reads from top to bottom.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alluvial::sql::SessionBuilder;
use arrow::array::AsArray;
use arrow::datatypes::{DataType, UInt64Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use libtest_mimic::{Failed, Trial};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Record, Runner, parse_with_name};
use tempfile::TempDir;

use crate::patience;
use crate::{Answer, RUNTIME, package, run_statement};

pub(crate) fn trials() -> io::Result<Vec<Trial>> {
    let root = package().join("sql-tests");
    let mut files = Vec::new();
    find_scripts(&root, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(io::Error::other(format!(
            "there is no .slt file below {}",
            root.display()
        )));
    }
    let trial = |file: PathBuf| {
        let name = file
            .strip_prefix(&root)
            .unwrap_or(&file)
            .display()
            .to_string();
        patience::test(name.clone(), move || {
            run_script(&file, &format!("sql-tests/{name}"))
        })
    };
    Ok(files.into_iter().map(trial).collect())
}

fn find_scripts(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_scripts(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            found.push(path);
        }
    }
    Ok(())
}

fn run_script(file: &Path, name: &str) -> Result<(), Failed> {
    let (warehouse, scratch) = (TempDir::new()?, TempDir::new()?);
    let script = fs::read_to_string(file)?
        .replace("${WAREHOUSE}", &warehouse.path().to_string_lossy())
        .replace("${SCRATCH}", &scratch.path().to_string_lossy());
    let records = parse_with_name(&script, name)?;
    RUNTIME.block_on(run_records(records, warehouse.path()))
}

async fn run_records(
    records: Vec<Record<DefaultColumnType>>,
    warehouse: &Path,
) -> Result<(), Failed> {
    let in_query = Arc::new(AtomicBool::new(false));
    let mut runner = Runner::new(|| {
        let connection = Connection::open(warehouse, Arc::clone(&in_query));
        async { connection }
    });
    runner.with_column_validator(|actual, expected| {
        let matches = |(actual, expected): (&_, &_)| {
            actual == expected || [actual, expected].contains(&&DefaultColumnType::Any)
        };
        let same_length = actual.len() == expected.len();
        expected.is_empty() || (same_length && actual.iter().zip(expected).all(matches))
    });
    for record in records {
        match &record {
            Record::Halt { .. } => break,
            Record::Include { loc, .. } => {
                return Err(format!("{loc}: there is no include here").into());
            }
            // The runner tells a connection the SQL only, and not which kind of record it stands in.
            _ => in_query.store(
                !matches!(record, Record::Statement { .. }),
                Ordering::Relaxed,
            ),
        }
        runner.run_async(record).await?;
    }
    Ok(())
}

/// One session on a script's warehouse.
struct Connection {
    session: SessionContext,
    in_query: Arc<AtomicBool>,
}

/// What a user reads when a statement fails.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StatementError(String);

impl From<DataFusionError> for StatementError {
    fn from(error: DataFusionError) -> Self {
        Self(error.strip_backtrace())
    }
}

impl From<ArrowError> for StatementError {
    fn from(error: ArrowError) -> Self {
        Self(error.to_string())
    }
}

impl Connection {
    fn open(warehouse: &Path, in_query: Arc<AtomicBool>) -> Result<Self, StatementError> {
        let session = SessionBuilder::new()
            .with_warehouse(warehouse)
            .build()
            .map_err(|error| StatementError(error.to_string()))?;
        Ok(Self { session, in_query })
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = StatementError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, StatementError> {
        let answer = run_statement(&self.session, sql).await?;
        if answer.schema.fields().is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        match rows_touched(&answer) {
            Some(count) if !self.in_query.load(Ordering::Relaxed) => {
                Ok(DBOutput::StatementComplete(count))
            }
            _ => Ok(DBOutput::Rows {
                types: column_types(&answer),
                rows: rows(&answer)?,
            }),
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "alluvial"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The count that DataFusion returns for a statement that writes: one UInt64 in a column `count`.
fn rows_touched(answer: &Answer) -> Option<u64> {
    let [field] = answer.schema.fields().as_ref() else {
        return None;
    };
    let [batch] = answer.batches.as_slice() else {
        return None;
    };
    (field.name() == "count" && batch.num_rows() == 1)
        .then(|| batch.column(0).as_primitive_opt::<UInt64Type>())
        .flatten()
        .map(|counts| counts.value(0))
}

fn column_types(answer: &Answer) -> Vec<DefaultColumnType> {
    answer
        .schema
        .fields()
        .iter()
        .map(|field| column_type(field.data_type()))
        .collect()
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        DataType::Dictionary(_, values) => column_type(values),
        DataType::Null => DefaultColumnType::Any,
        integer if integer.is_integer() => DefaultColumnType::Integer,
        float if float.is_floating() => DefaultColumnType::FloatingPoint,
        decimal if decimal.is_decimal() => DefaultColumnType::Any,
        _ => DefaultColumnType::Text,
    }
}

fn rows(answer: &Answer) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::with_capacity(answer.row_count());
    for batch in &answer.batches {
        let columns = batch.columns().iter();
        let columns: Vec<_> = columns
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(
                columns
                    .iter()
                    .map(|column| text(column, row))
                    .collect::<Result<_, _>>()?,
            );
        }
    }
    Ok(rows)
}

fn text(column: &ArrayFormatter<'_>, row: usize) -> Result<String, ArrowError> {
    let text = column.value(row).try_to_string()?;
    Ok(if text.is_empty() {
        "(empty)".to_owned()
    } else {
        text
    })
}
