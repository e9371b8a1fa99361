//! What the log says about a file's contents, as DataFusion's statistics (Delta protocol, *Per-file Statistics*,
//! *Partition Value Serialization*).
//!
//! The bounds hold, but need not be tight (a file with a deletion vector keeps the bounds of all its rows, long strings are cut,
//! timestamps are cut to the millisecond). They are for pruning; see [`for_reader`] for who may not take them for values.

use std::collections::{BTreeMap, HashMap};

use arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::actions::Add;
use super::layout::TableLayout;
use crate::error::{Error, Result};

/// The part of a stats string that we read; nested columns are skipped.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct FileStats<'a> {
    num_records: Option<u64>,
    #[serde(borrow)]
    min_values: HashMap<String, &'a RawValue>,
    #[serde(borrow)]
    max_values: HashMap<String, &'a RawValue>,
    #[serde(borrow)]
    null_count: HashMap<String, &'a RawValue>,
}

/// How many rows the file holds, those in its deletion vector included; `None` when the log does not say.
pub(crate) fn num_records(add: &Add) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NumRecords {
        num_records: Option<u64>,
    }
    serde_json::from_str::<NumRecords>(add.stats.as_deref()?)
        .ok()?
        .num_records
}

/// How many rows of the file are live; `None` when the log does not say.
pub(crate) fn live_records(add: &Add) -> Option<u64> {
    let deleted = add
        .deletion_vector
        .as_ref()
        .map_or(0, |vector| vector.cardinality);
    num_records(add)?.checked_sub(u64::try_from(deleted).ok()?)
}

/// The statistics that a file keeps once rows of it are in a deletion vector: the same text, no longer tight.
pub(crate) fn loosen(stats: Option<&str>) -> Option<String> {
    let mut values: BTreeMap<String, Box<RawValue>> = serde_json::from_str(stats?).ok()?;
    values.insert(
        "tightBounds".into(),
        RawValue::from_string("false".into()).ok()?,
    );
    serde_json::to_string(&values).ok()
}

/// The statistics that a writer has made, without bounds that it has rounded: it counts decimals in 64-bit floats.
pub(crate) fn without_rounded(stats: &str, layout: &TableLayout) -> Option<String> {
    let rounded: Vec<&str> = layout
        .data_columns()
        .filter(|index| is_rounded(layout.schema().field(*index).data_type()))
        .map(|index| layout.physical_name(index))
        .collect();
    if rounded.is_empty() {
        return None;
    }
    let mut values: BTreeMap<String, Box<RawValue>> = serde_json::from_str(stats).ok()?;
    for bounds in ["minValues", "maxValues"] {
        let Some(raw) = values.get(bounds) else {
            continue;
        };
        let mut columns: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).ok()?;
        columns.retain(|name, _| !rounded.contains(&name.as_str()));
        values.insert(
            bounds.into(),
            serde_json::value::to_raw_value(&columns).ok()?,
        );
    }
    serde_json::to_string(&values).ok()
}

/// Whether values of the type do not survive a 64-bit float.
fn is_rounded(data_type: &DataType) -> bool {
    const FLOAT_DIGITS: u8 = 15;
    matches!(data_type, DataType::Decimal128(precision, _) if *precision > FLOAT_DIGITS)
}

/// The same bounds for DataFusion's Parquet reader, which replaces a column by a constant where exact bounds meet: only those
/// that the log keeps to the letter may call themselves exact.
pub(crate) fn for_reader(mut statistics: Statistics, data_columns: usize) -> Statistics {
    for column in &mut statistics.column_statistics {
        for value in [&mut column.min_value, &mut column.max_value] {
            if value.get_value().is_some_and(ScalarValue::is_null) {
                *value = Precision::Absent;
            }
        }
    }
    for column in statistics.column_statistics.iter_mut().take(data_columns) {
        let literal = |value: &Precision<ScalarValue>| {
            value
                .get_value()
                .is_none_or(|value| is_kept_to_the_letter(&value.data_type()))
        };
        if !literal(&column.min_value) || !literal(&column.max_value) {
            column.min_value = column.min_value.clone().to_inexact();
            column.max_value = column.max_value.clone().to_inexact();
        }
        column.null_count = column.null_count.to_inexact();
    }
    statistics
}

fn is_kept_to_the_letter(data_type: &DataType) -> bool {
    data_type.is_integer() || *data_type == DataType::Date32
}

/// Bounds and null counts of the data columns, then of the partition columns, in the order of the scan's schema.
pub(crate) fn file_statistics(table: &str, add: &Add, layout: &TableLayout) -> Result<Statistics> {
    let stats: FileStats<'_> = add
        .stats
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let rows = stats
        .num_records
        .and_then(|rows| usize::try_from(rows).ok());
    let mut columns: Vec<ColumnStatistics> = layout
        .data_columns()
        .map(|index| column_statistics(&stats, layout, index))
        .collect();
    for index in layout.partition_columns() {
        columns.push(partition_statistics(
            &partition_value(table, layout, *index, add)?,
            rows,
        ));
    }
    Ok(Statistics {
        num_rows: rows.map_or(Precision::Absent, Precision::Exact),
        total_byte_size: Precision::Inexact(usize::try_from(add.size).unwrap_or(0)),
        column_statistics: columns,
    })
}

/// The value of a partition column in a file; the empty string is NULL.
///
/// # Errors
/// [`Error::DamagedLog`] when the text is no value of the column's type.
pub(crate) fn partition_value(
    table: &str,
    layout: &TableLayout,
    index: usize,
    add: &Add,
) -> Result<ScalarValue> {
    let field = layout.schema().field(index);
    let text = add
        .partition_values
        .get(layout.physical_name(index))
        .and_then(Option::as_deref);
    parse_partition_value(text, field.data_type()).map_err(|error| Error::DamagedLog {
        table: table.into(),
        detail: format!(
            "partition column {:?} of {} has the value {text:?}, no {}: {error}",
            field.name(),
            add.path,
            field.data_type()
        ),
    })
}

fn parse_partition_value(
    text: Option<&str>,
    data_type: &DataType,
) -> datafusion::error::Result<ScalarValue> {
    match (text, data_type) {
        (None | Some(""), _) => ScalarValue::try_from(data_type),
        (Some(text), DataType::Binary) => Ok(ScalarValue::Binary(Some(unescape(text)))),
        (Some(text), _) => ScalarValue::try_from_string(text.to_owned(), data_type),
    }
}

/// The bytes of a binary value: `\\uXXXX` stands for one byte, any other character for itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let escaped = rest
            .strip_prefix("\\u")
            .and_then(|rest| rest.get(..4))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[6..];
            }
            None => {
                match u8::try_from(u32::from(character)) {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => bytes.extend(character.to_string().as_bytes()),
                }
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    bytes
}

fn partition_statistics(value: &ScalarValue, rows: Option<usize>) -> ColumnStatistics {
    let mut statistics = unknown_bounds(&value.data_type());
    if value.is_null() {
        statistics.null_count = rows.map_or(Precision::Absent, Precision::Exact);
    } else {
        statistics.null_count = Precision::Exact(0);
        statistics.min_value = Precision::Exact(value.clone());
        statistics.max_value = Precision::Exact(value.clone());
    }
    statistics
}

fn column_statistics(
    stats: &FileStats<'_>,
    layout: &TableLayout,
    index: usize,
) -> ColumnStatistics {
    let (name, data_type) = (
        layout.physical_name(index),
        layout.schema().field(index).data_type(),
    );
    let mut statistics = unknown_bounds(data_type);
    if let Some(nulls) = stats
        .null_count
        .get(name)
        .and_then(|raw| raw.get().parse().ok())
    {
        statistics.null_count = Precision::Exact(nulls);
    }
    if let Some(value) = stats
        .min_values
        .get(name)
        .and_then(|raw| bound(raw, data_type))
    {
        statistics.min_value = Precision::Exact(value);
    }
    if let Some(value) = stats
        .max_values
        .get(name)
        .and_then(|raw| bound(raw, data_type))
        .and_then(widen_max)
    {
        statistics.max_value = Precision::Exact(value);
    }
    statistics
}

/// Unknown bounds, as NULLs of the column's type: DataFusion makes one array of all files' bounds, which must be of one type.
fn unknown_bounds(data_type: &DataType) -> ColumnStatistics {
    let mut statistics = ColumnStatistics::new_unknown();
    if let Ok(null) = ScalarValue::try_from(data_type) {
        statistics.min_value = Precision::Exact(null.clone());
        statistics.max_value = Precision::Exact(null);
    }
    statistics
}

fn bound(raw: &RawValue, data_type: &DataType) -> Option<ScalarValue> {
    if data_type.is_nested()
        || is_rounded(data_type)
        || matches!(data_type, DataType::Binary | DataType::Boolean)
    {
        return None;
    }
    let text = raw.get();
    let text: String = if text.starts_with('"') {
        serde_json::from_str(text).ok()?
    } else {
        text.to_owned()
    };
    ScalarValue::try_from_string(text, data_type)
        .ok()
        .filter(|value| !value.is_null())
}

/// Timestamps are cut to the millisecond in the log, so the true maximum may be later; NaN, which sorts last, may be left out of
/// a float's bounds, so they have no usable maximum.
fn widen_max(value: ScalarValue) -> Option<ScalarValue> {
    match value {
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => Some(
            ScalarValue::TimestampMicrosecond(Some(micros.saturating_add(999)), zone),
        ),
        ScalarValue::Float32(_) | ScalarValue::Float64(_) | ScalarValue::Float16(_) => None,
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Option<&str>, data_type: DataType, expected: &str) {
        assert_eq!(
            parse_partition_value(text, &data_type).unwrap().to_string(),
            expected,
            "{text:?} as {data_type}"
        );
    }

    #[test]
    fn partition_values_of_every_type() {
        use arrow::datatypes::TimeUnit::Microsecond;
        check(None, DataType::Utf8, "NULL");
        check(Some(""), DataType::Utf8, "NULL");
        check(Some("a b"), DataType::Utf8, "a b");
        check(Some("7"), DataType::Int32, "7");
        check(Some("true"), DataType::Boolean, "true");
        check(Some("2024-02-29"), DataType::Date32, "2024-02-29");
        check(Some("-1.50"), DataType::Decimal128(5, 2), "-1.50");
        check(
            Some("2021-01-01 10:00:00"),
            DataType::Timestamp(Microsecond, Some("UTC".into())),
            "1609495200000000",
        );
        check(Some("\\u0000\\u00FFa"), DataType::Binary, "00FF61");
        assert!(parse_partition_value(Some("x"), &DataType::Int32).is_err());
    }

    #[test]
    fn loosened_stats_keep_their_values() {
        let loose = loosen(Some(
            r#"{"numRecords":3,"minValues":{"a":123456789012345.6789}}"#,
        ))
        .unwrap();
        assert!(loose.contains("123456789012345.6789"), "{loose}");
        assert!(
            loose.contains(r#""tightBounds":false"#) && loose.contains(r#""numRecords":3"#),
            "{loose}"
        );
    }
}
