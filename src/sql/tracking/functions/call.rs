//! One call of a function: the table is looked up and asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::logical_expr::ColumnarValue;

use super::super::capture::first_version;
use super::super::lsn::{decode, encode};
use super::super::relations::version_of;
use super::{Kind, TableFunction};
use crate::change::is_bit_set;
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{DeltaTracking, TrackedTable};
use crate::sql::arguments::micros;
use crate::sql::blocking::block_on;
use crate::sql::lookup::Lookup;

/// One call of a function.
pub(super) struct Call<'a> {
    pub function: &'a TableFunction,
    pub lookup: Lookup,
    pub arguments: &'a [ColumnarValue],
}

impl Call<'_> {
    /// The value of the function, for arguments that are constants.
    pub(super) fn evaluate(&self) -> Result<ScalarValue> {
        match self.function.kind {
            Kind::CurrentVersion => {
                let tracking = self.tracking(0)?;
                answer(tracking, |tracking| async move {
                    Ok(ScalarValue::Int64(Some(tracking.bounds().await?.current)))
                })
                .map(|version| version.unwrap_or(ScalarValue::Int64(None)))
            }
            Kind::MinValidVersion => answer(self.tracking(0)?, |tracking| async move {
                Ok(ScalarValue::Int64(Some(tracking.bounds().await?.min_valid)))
            })
            .map(|version| version.unwrap_or(ScalarValue::Int64(None))),
            Kind::MinLsn => answer(self.tracking(0)?, |tracking| async move {
                Ok(lsn(first_version(tracking.bounds().await?)))
            })
            .map(|lsn| lsn.unwrap_or(ScalarValue::Binary(None))),
            Kind::MaxLsn => answer(self.tracking(0)?, |tracking| async move {
                Ok(lsn(tracking.bounds().await?.current))
            })
            .map(|lsn| lsn.unwrap_or(ScalarValue::Binary(None))),
            Kind::TimeToLsn => self.time_to_lsn(),
            Kind::LsnToTime => self.lsn_to_time(),
            Kind::ColumnOrdinal | Kind::HasColumnChanged => {
                self.ordinal(1).map(|id| ScalarValue::Int32(Some(id)))
            }
            Kind::ColumnProperty => {
                let property = self.text(2, "the property")?;
                if !property.eq_ignore_ascii_case("ColumnId") {
                    return Err(Error::invalid(format!(
                        "COLUMNPROPERTY has the property 'ColumnId', not '{property}'"
                    )));
                }
                self.ordinal(1).map(|id| ScalarValue::Int32(Some(id)))
            }
            Kind::ObjectId => {
                let name = self.text(0, "the table")?;
                let found = self.find(&name)?;
                Ok(ScalarValue::Utf8(found.map(|_| name)))
            }
        }
    }

    /// `('smallest greater than', time [, table])`.
    fn time_to_lsn(&self) -> Result<ScalarValue> {
        let operator = self.text(0, "the relational operator")?.to_lowercase();
        let time = self.scalar(1)?;
        let at = micros(&time).ok_or_else(|| {
            Error::invalid(format!(
                "{}: {time} is no time; write it as TIMESTAMP '2026-01-31 12:00:00'",
                self.function.name
            ))
        })?;
        let (until, next) = match operator.as_str() {
            "largest less than" => (at - 1, 0),
            "largest less than or equal" => (at, 0),
            "smallest greater than" => (at, 1),
            "smallest greater than or equal" => (at - 1, 1),
            _ => {
                return Err(Error::invalid(format!(
                    "{}: the relational operator is 'largest less than', 'largest less than or equal', 'smallest greater than' or 'smallest greater \
                     than or equal', not '{operator}'",
                    self.function.name
                )));
            }
        };
        let found = answer(self.tracking(2)?, move |tracking| async move {
            let version = tracking.version_at(until).await? + next;
            let is_there = (0..=tracking.bounds().await?.current).contains(&version);
            Ok(match is_there {
                true => lsn(version),
                false => ScalarValue::Binary(None),
            })
        })?;
        Ok(found.unwrap_or(ScalarValue::Binary(None)))
    }

    /// `(lsn [, table])`.
    fn lsn_to_time(&self) -> Result<ScalarValue> {
        let no_time = || ScalarValue::TimestampMicrosecond(None, Some("UTC".into()));
        let lsn = self.scalar(0)?;
        if lsn.is_null() {
            return Ok(no_time());
        }
        let version = version_of(self.function.name, "the argument", &lsn)?;
        let time = answer(self.tracking(1)?, move |tracking| async move {
            let bounds = tracking.bounds().await?;
            let time = match (bounds.min_valid..=bounds.current).contains(&version) {
                true => tracking.commit_time(version).await?,
                false => None,
            };
            Ok(ScalarValue::TimestampMicrosecond(time, Some("UTC".into())))
        })?;
        Ok(time.unwrap_or_else(no_time))
    }

    /// The same of each LSN; each is looked up once.
    pub(super) fn lsns_to_times(&self, lsns: &ArrayRef) -> Result<ColumnarValue> {
        let lsns = cast(lsns, &DataType::Binary)?;
        let versions = lsns.as_binary::<i32>().iter();
        let versions = versions.map(|lsn| lsn.map(decode).transpose());
        let versions = versions.collect::<Result<Vec<Option<i64>>>>()?;
        let wanted: BTreeSet<i64> = versions.iter().flatten().copied().collect();
        let tracking = self.tracking(1)?;
        let times = block_on(move || {
            let (tracking, wanted) = (tracking.clone(), wanted.clone());
            async move {
                let mut times = HashMap::new();
                let Some(tracking) = tracking else {
                    return Ok(times);
                };
                let bounds = tracking.bounds().await?;
                for version in wanted.range(bounds.min_valid..=bounds.current) {
                    times.extend(
                        tracking
                            .commit_time(*version)
                            .await?
                            .map(|time| (*version, time)),
                    );
                }
                Ok(times)
            }
        })?;
        let times = versions
            .iter()
            .map(|version| times.get(&(*version)?).copied());
        let times: TimestampMicrosecondArray = times.collect();
        Ok(ColumnarValue::Array(Arc::new(times.with_timezone("UTC"))))
    }

    /// Whether the bit of a column is set in each mask.
    pub(super) fn has_column_changed(&self, rows: usize) -> Result<ColumnarValue> {
        let ordinal = i64::from(self.ordinal(1)?);
        let Some(masks) = self.arguments.get(2) else {
            return Err(Error::internal("a mask was counted and is not there"));
        };
        let masks: ArrayRef = cast(&masks.to_array(rows)?, &DataType::Binary)?;
        let masks = masks.as_binary::<i32>().iter();
        let changed: Int32Array = masks
            .map(|mask| mask.map(|mask| i32::from(is_bit_set(mask, ordinal))))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(changed)))
    }

    /// The position of the column that an argument names, from 1.
    fn ordinal(&self, argument: usize) -> Result<i32> {
        let table = self.text(0, "the table")?;
        let found = self.required(&table)?;
        let column = self.text(argument, "the column")?;
        let schema = block_on(move || {
            let found = found.clone();
            async move { Ok(Arc::clone(found.snapshot().await?.layout().schema())) }
        })?;
        let position = schema
            .fields()
            .iter()
            .position(|field| field.name().eq_ignore_ascii_case(&column));
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        position
            .and_then(|position| i32::try_from(position + 1).ok())
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{table} has no column {column:?}; its columns are {}",
                    names.join(", ")
                ))
            })
    }

    /// The table that an argument names, or the only one that is tracked; `None` for one that is not tracked.
    fn tracking(&self, argument: usize) -> Result<Option<DeltaTracking>> {
        let table = match self.arguments.get(argument) {
            Some(_) => {
                let name = self.text(argument, "the table")?;
                self.required(&name)?
            }
            None => self.only_tracked()?,
        };
        block_on(move || {
            let tracking = DeltaTracking::new(table.clone());
            async move {
                match tracking.tracking().await {
                    Ok(_) => Ok(Some(tracking)),
                    Err(Error::ChangesNotTracked { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        })
    }

    fn only_tracked(&self) -> Result<DeltaTable> {
        let lookup = self.lookup.clone();
        let mut tracked = block_on(move || {
            let lookup = lookup.clone();
            async move { lookup.tracked_tables(None).await }
        })?;
        let name = self.function.name.to_uppercase();
        match tracked.len() {
            1 => Ok(tracked.remove(0).1),
            0 => Err(Error::invalid(format!(
                "{name}() without a table answers for the only one with change tracking, and there is none; enable it with ALTER TABLE … ENABLE CHANGE_TRACKING"
            ))),
            _ => {
                let names: Vec<String> = tracked.iter().map(|(name, _)| name.to_string()).collect();
                Err(Error::invalid(format!(
                    "each table counts its own versions, and {} have change tracking; say which, as in {name}{}",
                    names.join(", "),
                    self.function.usage
                )))
            }
        }
    }

    fn required(&self, name: &str) -> Result<DeltaTable> {
        self.find(name)?.ok_or_else(|| Error::TableNotFound {
            table: name.into(),
            hint: "; SHOW TABLES lists what there is".into(),
        })
    }

    fn find(&self, name: &str) -> Result<Option<DeltaTable>> {
        let name = TableReference::parse_str(name);
        let lookup = self.lookup.clone();
        block_on(move || {
            let (lookup, name) = (lookup.clone(), name.clone());
            async move { lookup.delta_table(&name).await }
        })
    }

    fn text(&self, argument: usize, what: &str) -> Result<String> {
        let value = self.scalar(argument)?;
        match value.try_as_str().flatten() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Error::invalid(format!(
                "{}: {what} is given as text, not as {value}",
                self.function.name.to_uppercase()
            ))),
        }
    }

    fn scalar(&self, argument: usize) -> Result<ScalarValue> {
        match self.arguments.get(argument) {
            Some(ColumnarValue::Scalar(value)) => Ok(value.clone()),
            Some(ColumnarValue::Array(values)) if values.len() == 1 => {
                Ok(ScalarValue::try_from_array(values, 0)?)
            }
            _ => Err(Error::invalid(format!(
                "{} takes constants; it is called as {0}{}",
                self.function.name.to_uppercase(),
                self.function.usage
            ))),
        }
    }
}

fn lsn(version: i64) -> ScalarValue {
    ScalarValue::Binary(Some(encode(version).to_vec()))
}

/// Asks a table that is tracked.
fn answer<F>(
    tracking: Option<DeltaTracking>,
    ask: impl Fn(DeltaTracking) -> F + Send + 'static,
) -> Result<Option<ScalarValue>>
where
    F: Future<Output = Result<ScalarValue>> + Send + 'static,
{
    match tracking {
        Some(tracking) => block_on(move || ask(tracking.clone())).map(Some),
        None => Ok(None),
    }
}
