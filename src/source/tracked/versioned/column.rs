//! The column that says when a row changed last: its values as versions, and versions as its values.
//!
//! | column | version |
//! |---|---|
//! | integers, DECIMAL without fraction | the number |
//! | DATE | days since 1970-01-01 |
//! | TIMESTAMP of seconds, milliseconds, microseconds | microseconds since the epoch |
//! | TIMESTAMP of nanoseconds | nanoseconds since the epoch |
//! | 8 bytes (`rowversion`) | the number that they are, big-endian |

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ScalarUDF, cast as cast_expression, ident};

use super::commit_version::CommitVersion;
use crate::error::{Error, Result};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

/// A version column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct VersionColumn {
    name: String,
    data_type: DataType,
    /// What messages call the table.
    table: String,
}

impl VersionColumn {
    /// The column `field` of `table`.
    ///
    /// # Errors
    /// When its type does not count.
    pub(super) fn try_new(table: &str, field: &Field) -> Result<Self> {
        use DataType::{
            Binary, BinaryView, Date32, Decimal32, Decimal64, Decimal128, Decimal256,
            FixedSizeBinary, LargeBinary, Timestamp,
        };
        let data_type = field.data_type();
        let counts = data_type.is_integer()
            || matches!(
                data_type,
                Decimal32(_, 0)
                    | Decimal64(_, 0)
                    | Decimal128(_, 0)
                    | Decimal256(_, 0)
                    | Date32
                    | Timestamp(_, _)
                    | Binary
                    | LargeBinary
                    | BinaryView
                    | FixedSizeBinary(8)
            );
        if !counts {
            return Err(Error::invalid(format!(
                "the version column {:?} of {table} is {data_type}, which does not count; name a column of integers, DECIMAL without fraction, \
                 DATE, TIMESTAMP or 8 bytes (rowversion)",
                field.name()
            )));
        }
        Ok(Self {
            name: field.name().clone(),
            data_type: data_type.clone(),
            table: table.to_owned(),
        })
    }

    /// The column's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The column.
    pub(super) fn value(&self) -> Expr {
        ident(self.name.as_str())
    }

    /// What versions are counted in.
    pub(super) fn unit(&self) -> &'static str {
        match &self.data_type {
            DataType::Date32 => "days",
            DataType::Timestamp(TimeUnit::Nanosecond, _) => "nanoseconds",
            DataType::Timestamp(_, _) => "microseconds",
            _ => "numbers",
        }
    }

    /// The version of each row, never NULL.
    pub(super) fn version(&self) -> Expr {
        let function = Arc::new(ScalarUDF::from(CommitVersion::new(self.clone())));
        Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![self.value()]))
    }

    /// The time of each row's version; NULL where versions are no times.
    pub(super) fn time(&self) -> Expr {
        let zone = Some("UTC".into());
        match &self.data_type {
            DataType::Timestamp(_, _) => cast_expression(
                self.value(),
                DataType::Timestamp(TimeUnit::Microsecond, zone),
            ),
            _ => Expr::Literal(ScalarValue::TimestampMicrosecond(None, zone), None),
        }
    }

    /// The time of a version, in microseconds since the epoch, where versions are times; version 0 stands for "no row yet".
    pub(super) fn time_of(&self, version: i64) -> Option<i64> {
        let micros = match &self.data_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => version.div_euclid(NANOS_PER_MICRO),
            DataType::Timestamp(_, _) => version,
            _ => return None,
        };
        (version > 0).then_some(micros)
    }

    /// The greatest version that a row changed at or before a time can have; -1 for none.
    ///
    /// # Errors
    /// Where versions are no times.
    pub(super) fn version_at(&self, micros: i64) -> Result<i64> {
        let version = match &self.data_type {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => micros
                .saturating_mul(NANOS_PER_MICRO)
                .saturating_add(NANOS_PER_MICRO - 1),
            DataType::Timestamp(_, _) => micros,
            DataType::Date32 => micros.div_euclid(MICROS_PER_DAY),
            _ => {
                return Err(Error::invalid(format!(
                    "the versions of {} are numbers, not times: its version column {:?} is {}; give a version, as in table_changes('{}', 0)",
                    self.table, self.name, self.data_type, self.table
                )));
            }
        };
        Ok(version.max(-1))
    }

    /// The greatest value of the column that is at or below a version from 0 on; `None` where all values are.
    pub(super) fn value_of(&self, version: i64) -> Option<ScalarValue> {
        let value = match &self.data_type {
            DataType::Timestamp(unit, zone) => {
                let value = Some(version.div_euclid(versions_per(*unit)));
                let zone = zone.clone();
                return Some(match unit {
                    TimeUnit::Second => ScalarValue::TimestampSecond(value, zone),
                    TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(value, zone),
                    TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(value, zone),
                    TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(value, zone),
                });
            }
            data_type if is_bytes(data_type) => {
                ScalarValue::Binary(Some(version.to_be_bytes().to_vec()))
            }
            _ => ScalarValue::Int64(Some(version)),
        };
        let value = value.cast_to(&self.data_type).ok()?;
        // some casts cut a number off without a word
        let is_same = matches!(self.version_of(&value), Ok(Some(found)) if found == version);
        is_same.then_some(value)
    }

    /// The version that a value is; `None` for NULL.
    ///
    /// # Errors
    /// As [`Self::versions`].
    pub(super) fn version_of(&self, value: &ScalarValue) -> Result<Option<i64>> {
        if value.is_null() {
            return Ok(None);
        }
        Ok(Some(self.versions(&value.to_array()?)?.value(0)))
    }

    /// The versions that values are.
    ///
    /// # Errors
    /// When one of them is NULL or no number of 64 bits with a sign.
    pub(super) fn versions(&self, values: &ArrayRef) -> Result<Int64Array> {
        if values.null_count() > 0 {
            return Err(self.is_null(values.null_count()));
        }
        match &self.data_type {
            DataType::Timestamp(unit, _) => {
                let numbers = cast(values, &DataType::Int64)?;
                let factor = versions_per(*unit);
                numbers
                    .as_primitive::<Int64Type>()
                    .try_unary::<_, Int64Type, Error>(|number| {
                        number
                            .checked_mul(factor)
                            .ok_or_else(|| self.is_too_large())
                    })
            }
            data_type if is_bytes(data_type) => {
                let bytes = cast(values, &DataType::Binary)?;
                let versions = bytes.as_binary::<i32>().iter().flatten();
                let versions = versions.map(|bytes| self.rowversion(bytes));
                Ok(versions.collect::<Result<Vec<i64>>>()?.into())
            }
            _ => {
                let exactly = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                let numbers = cast_with_options(values, &DataType::Int64, &exactly)
                    .map_err(|_| self.is_too_large())?;
                Ok(numbers.as_primitive::<Int64Type>().clone())
            }
        }
    }

    fn rowversion(&self, bytes: &[u8]) -> Result<i64> {
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| {
            Error::invalid(format!(
                "the version column {:?} of {} has a value of {} bytes; a rowversion has 8",
                self.name,
                self.table,
                bytes.len()
            ))
        })?;
        i64::try_from(u64::from_be_bytes(bytes)).map_err(|_| self.is_too_large())
    }

    /// The error about rows without a version.
    pub(super) fn is_null(&self, rows: usize) -> Error {
        Error::invalid(format!(
            "the version column {:?} of {} is NULL in {rows} row(s), so nobody knows when these changed; give every row a version, or follow a \
             view without them",
            self.name, self.table
        ))
    }

    /// The error about a version below 0.
    pub(super) fn is_negative(&self, version: i64) -> Error {
        Error::invalid(format!(
            "the version column {:?} of {} has a value that is version {version}; versions are not below 0",
            self.name, self.table
        ))
    }

    fn is_too_large(&self) -> Error {
        Error::invalid(format!(
            "the version column {:?} of {} has a value above the greatest version, which is {}",
            self.name,
            self.table,
            i64::MAX
        ))
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    )
}

/// How many versions lie in one unit of a timestamp.
fn versions_per(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data_type: DataType) -> VersionColumn {
        VersionColumn::try_new("s", &Field::new("v", data_type, true)).unwrap()
    }

    #[test]
    fn values_are_versions_and_back() {
        let check = |value: ScalarValue, version: i64| {
            let column = column(value.data_type());
            assert_eq!(column.version_of(&value).unwrap(), Some(version), "{value}");
            assert_eq!(column.value_of(version), Some(value));
        };
        let bytes = || Some(vec![0, 0, 0, 0, 0, 0, 1, 2]);
        check(ScalarValue::Int8(Some(7)), 7);
        check(ScalarValue::UInt64(Some(7)), 7);
        check(ScalarValue::Int64(Some(i64::MAX)), i64::MAX);
        check(ScalarValue::Decimal128(Some(12), 20, 0), 12);
        check(ScalarValue::Date32(Some(3)), 3);
        check(ScalarValue::TimestampSecond(Some(2), None), 2_000_000);
        check(ScalarValue::TimestampMillisecond(Some(2), None), 2_000);
        check(
            ScalarValue::TimestampMicrosecond(Some(2), Some("Europe/Berlin".into())),
            2,
        );
        check(ScalarValue::TimestampNanosecond(Some(2), None), 2);
        check(ScalarValue::Binary(bytes()), 258);
        check(ScalarValue::BinaryView(bytes()), 258);
        check(ScalarValue::FixedSizeBinary(8, bytes()), 258);
    }

    #[test]
    fn bounds_that_are_no_values_are_rounded_down() {
        let seconds = column(DataType::Timestamp(TimeUnit::Second, None));
        assert_eq!(
            seconds.value_of(2_999_999),
            Some(ScalarValue::TimestampSecond(Some(2), None))
        );
        assert_eq!(column(DataType::Int8).value_of(128), None);
        assert_eq!(column(DataType::Date32).value_of(i64::MAX), None);
        assert_eq!(column(DataType::Decimal128(2, 0)).value_of(100), None);
        assert_eq!(column(DataType::Decimal32(9, 0)).value_of(i64::MAX), None);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let check = |value: ScalarValue, part: &str| {
            let column = column(value.data_type());
            let error = column.version_of(&value).unwrap_err().to_string();
            assert!(error.contains(part), "{value}: {error}");
        };
        check(ScalarValue::UInt64(Some(u64::MAX)), "9223372036854775807");
        check(
            ScalarValue::TimestampSecond(Some(i64::MAX), None),
            "9223372036854775807",
        );
        check(ScalarValue::Binary(Some(vec![1])), "1 bytes");
        check(ScalarValue::Binary(Some(vec![255; 8])), "above");
        let null: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let error = column(DataType::Int64).versions(&null).unwrap_err();
        assert!(error.to_string().contains("1 row(s)"), "{error}");
    }

    #[test]
    fn types_that_do_not_count_are_refused() {
        for data_type in [
            DataType::Utf8,
            DataType::Float64,
            DataType::Boolean,
            DataType::Decimal128(10, 2),
            DataType::FixedSizeBinary(16),
        ] {
            let field = Field::new("v", data_type.clone(), true);
            let error = VersionColumn::try_new("s", &field).unwrap_err().to_string();
            assert!(error.contains("does not count"), "{data_type}: {error}");
        }
    }

    #[test]
    fn times_are_versions() {
        let check = |data_type: DataType, micros: i64, version: i64, time: Option<i64>| {
            let column = column(data_type);
            assert_eq!(column.version_at(micros).unwrap(), version);
            assert_eq!(column.time_of(version), time);
        };
        let timestamp = |unit| DataType::Timestamp(unit, None);
        check(
            timestamp(TimeUnit::Second),
            1_500_000,
            1_500_000,
            Some(1_500_000),
        );
        check(timestamp(TimeUnit::Nanosecond), 5, 5_999, Some(5));
        check(timestamp(TimeUnit::Microsecond), -5, -1, None);
        check(DataType::Date32, MICROS_PER_DAY + 1, 1, None);
        let error = column(DataType::Int32).version_at(0).unwrap_err();
        assert!(error.to_string().contains("numbers, not times"), "{error}");
    }
}
