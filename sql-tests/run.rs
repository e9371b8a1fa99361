//! The integration tests, one binary whose trials come from files.
//!
//! ```text
//! slt.rs      <path>.slt                one trial per sqllogictest file below this folder
//! golden.rs   golden::<what>::<table>   Delta tables by other writers, where ALLUVIAL_GOLDEN names their folder
//! readme.rs   readme, examples/<file>   the SQL that users copy
//! interop.rs  interop::…                delta-rs and DuckDB read what we write, where Python has them; we write what others made
//! faults.rs   faults::…                 syncs whose process is killed, or whose store fails
//! races.rs    races::…                  sessions that write one target at the same moment
//! histories.rs histories::…             random changes against a model
//! locations.rs locations::<kind>::…     files in folders, cloud stores and on SFTP servers
//! files.rs    files::…                  change-marked files on bad days, and random ones against a model
//! oracle.rs   oracle::<table>           tables that Spark wrote, and what Spark itself reads of them
//! merges.rs   merges::…                 random statements against a model
//! commits.rs  commits::…                statements whose store fails, whose process is killed, or that others race
//! derive.rs   derive::…                 changes that nobody recorded, against a copy that has recorded them
//! ```
//!
//! Invariants: every trial has a warehouse of its own in a temporary folder, so trials run side by side; no trial writes
//! anywhere else; a trial that cannot run here says why in its line and counts as ignored, never as passed.

mod commits;
mod derive;
mod faults;
mod files;
mod golden;
mod histories;
mod interop;
mod locations;
mod merges;
mod oracle;
mod patience;
mod races;
mod random;
mod readme;
mod slt;
mod tables;
mod tracking;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use alluvial::sql::{SessionBuilder, SessionContextExt};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn main() -> Result<(), Box<dyn Error>> {
    let mut trials: Vec<Trial> = slt::trials()?;
    trials.extend(golden::trials()?);
    trials.extend(readme::trials()?);
    trials.extend(interop::trials()?);
    trials.extend(faults::trials());
    trials.extend(races::trials());
    trials.extend(histories::trials());
    trials.extend(locations::trials());
    trials.extend(files::trials());
    trials.extend(tracking::trials());
    trials.extend(derive::trials());
    trials.extend(oracle::trials()?);
    trials.extend(merges::trials());
    trials.extend(commits::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// What a statement returned; no columns where it returns nothing.
struct Answer {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Answer {
    fn row_count(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// A fresh warehouse with one session on it; its folder goes when it is dropped.
struct Warehouse {
    folder: TempDir,
    session: SessionContext,
}

impl Warehouse {
    fn new() -> Result<Self, Failed> {
        let folder = TempDir::new()?;
        let session = SessionBuilder::new()
            .with_warehouse(folder.path())
            .build()?;
        Ok(Self { folder, session })
    }

    /// Runs one statement to its end.
    fn run(&self, sql: &str) -> Result<Answer, DataFusionError> {
        RUNTIME.block_on(run_statement(&self.session, sql))
    }

    /// The folder of a table that was created here.
    fn table_folder(&self, table: &str) -> PathBuf {
        self.folder.path().join(table)
    }
}

/// One runtime serves every trial; the trials' own threads only wait on it. It is the multi-thread kind, as planning may
/// block in place while it reads a log.
#[expect(clippy::expect_used, reason = "no test can run without threads")]
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("worker threads"));

async fn run_statement(session: &SessionContext, sql: &str) -> Result<Answer, DataFusionError> {
    let frame = session.alluvial_sql(sql).await?;
    let schema = Arc::clone(frame.schema().inner());
    let batches = frame.collect().await?;
    Ok(Answer { schema, batches })
}

/// The root of the package, where README.md and `examples` are.
fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a row that is the same in every reader, so that rows of different engines can be compared and hashed.
///
/// A row is the compact JSON array of its columns in the order of their names, then for changes `_change_type` and
/// `_commit_version`: integers and booleans plain; floats as strings, widened to 64 bits, as Python's `repr` prints them;
/// decimals as strings, as Python's `str(Decimal)` prints them; dates and timestamps ISO, in UTC, with microseconds and
/// without a zone; binary as `x` and hexadecimal digits; structs and maps as objects sorted by key, but an empty map is
/// `[]`. `interop/read_back.py` writes the same.
mod canonical {
    use std::collections::BTreeMap;

    use arrow::array::{Array, ArrayRef, AsArray, StructArray};
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
    use arrow::error::ArrowError;
    use arrow::temporal_conversions::timestamp_us_to_datetime;
    use arrow::util::display::array_value_to_string;
    use serde_json::Value;

    use super::Answer;

    pub(crate) const CHANGE_TYPE: &str = "_change_type";
    pub(crate) const COMMIT_VERSION: &str = "_commit_version";
    const COMMIT_TIMESTAMP: &str = "_commit_timestamp";

    /// The columns of a canonical row, in order.
    pub(crate) fn columns(answer: &Answer) -> Vec<String> {
        let changes = [CHANGE_TYPE, COMMIT_VERSION];
        let fields = answer.schema.fields().iter();
        let (meta, mut columns): (Vec<_>, Vec<_>) = fields
            .map(|field| field.name().clone())
            .filter(|name| name != COMMIT_TIMESTAMP)
            .partition(|name| changes.contains(&name.as_str()));
        columns.sort();
        let meta_in_order = changes.into_iter().map(str::to_owned);
        columns.extend(meta_in_order.filter(|name| meta.contains(name)));
        columns
    }

    pub(crate) fn rows(answer: &Answer, columns: &[String]) -> Result<Vec<String>, ArrowError> {
        let mut rows = Vec::with_capacity(answer.row_count());
        for batch in &answer.batches {
            let indices = columns.iter().map(|name| batch.schema().index_of(name));
            let batch = batch.project(&indices.collect::<Result<Vec<_>, _>>()?)?;
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|column| value(column, row));
                let values: Vec<String> = values.collect::<Result<_, _>>()?;
                rows.push(format!("[{}]", values.join(",")));
            }
        }
        Ok(rows)
    }

    fn value(array: &ArrayRef, row: usize) -> Result<String, ArrowError> {
        if array.data_type().is_null() || array.is_null(row) {
            return Ok("null".to_owned());
        }
        let as_type = |data_type: &DataType| cast(&array.slice(row, 1), data_type);
        match array.data_type() {
            DataType::Dictionary(_, values) => value(&as_type(values)?, 0),
            DataType::List(_) => list_value(&array.as_list::<i32>().value(row)),
            DataType::LargeList(_) => list_value(&array.as_list::<i64>().value(row)),
            DataType::Struct(_) => struct_value(array.as_struct(), row),
            DataType::Map(_, _) => map_value(&array.as_map().value(row)),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                let bytes = as_type(&DataType::Binary)?;
                let digits = hexadecimal(bytes.as_binary::<i32>().value(0));
                Ok(quoted(format!("x{digits}")))
            }
            DataType::Timestamp(_, zone) => {
                let micros = as_type(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
                timestamp(micros.as_primitive::<TimestampMicrosecondType>().value(0))
            }
            float if float.is_floating() => {
                let value = as_type(&DataType::Float64)?;
                let value = value.as_primitive::<Float64Type>().value(0);
                Ok(quoted(python_float(value)))
            }
            decimal if decimal.is_decimal() => {
                Ok(quoted(python_decimal(array_value_to_string(array, row)?)))
            }
            plain if plain.is_integer() || plain == &DataType::Boolean => {
                array_value_to_string(array, row)
            }
            _ => Ok(quoted(array_value_to_string(array, row)?)),
        }
    }

    fn list_value(items: &ArrayRef) -> Result<String, ArrowError> {
        let items: Vec<String> = (0..items.len())
            .map(|row| value(items, row))
            .collect::<Result<_, _>>()?;
        Ok(format!("[{}]", items.join(",")))
    }

    fn struct_value(array: &StructArray, row: usize) -> Result<String, ArrowError> {
        let fields = array.fields().iter().zip(array.columns());
        let fields = fields.map(|(field, column)| Ok((field.name().clone(), value(column, row)?)));
        Ok(object(fields.collect::<Result<_, ArrowError>>()?))
    }

    fn map_value(entries: &StructArray) -> Result<String, ArrowError> {
        if entries.is_empty() {
            return Ok("[]".to_owned());
        }
        let (keys, values) = (entries.column(0), entries.column(1));
        let entry = |row| Ok((array_value_to_string(keys, row)?, value(values, row)?));
        let entries = (0..entries.len()).map(entry);
        Ok(object(entries.collect::<Result<_, ArrowError>>()?))
    }

    fn object(members: BTreeMap<String, String>) -> String {
        let members = members
            .into_iter()
            .map(|(name, value)| format!("{}:{value}", quoted(name)));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }

    fn quoted(text: String) -> String {
        Value::String(text).to_string()
    }

    pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn timestamp(micros: i64) -> Result<String, ArrowError> {
        let time = timestamp_us_to_datetime(micros)
            .ok_or_else(|| ArrowError::ComputeError(format!("{micros} µs is out of range")))?;
        Ok(quoted(time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()))
    }

    /// Both languages print the shortest digits that round-trip and switch to an exponent at 1e16 and below 1e-4; Python
    /// gives the exponent a sign and at least two digits.
    fn python_float(value: f64) -> String {
        let text = format!("{value:?}").replace("NaN", "nan");
        match text.split_once('e') {
            None => text,
            Some((digits, exponent)) => {
                let (sign, exponent) = exponent
                    .strip_prefix('-')
                    .map_or(('+', exponent), |exponent| ('-', exponent));
                format!("{digits}e{sign}{exponent:0>2}")
            }
        }
    }

    /// Python prints a decimal plainly unless its first digit stands more than six places behind the point.
    fn python_decimal(text: String) -> String {
        let scale = text
            .split_once('.')
            .map_or(0, |(_, fraction)| fraction.len());
        let digits = text.replace(['-', '.'], "");
        let digits = digits.trim_start_matches('0');
        let (first, rest) = digits.split_at_checked(1).unwrap_or(("0", ""));
        let places = scale.saturating_sub(rest.len());
        if places <= 6 {
            return text;
        }
        let sign = if text.starts_with('-') { "-" } else { "" };
        let point = if rest.is_empty() { "" } else { "." };
        format!("{sign}{first}{point}{rest}E-{places}")
    }
}
