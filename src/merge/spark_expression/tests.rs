use arrow::array::{Array, ArrayRef, Date32Array, Float64Array, Int32Array, StringArray};
use arrow::array::{Decimal128Array, TimestampMicrosecondArray};
use arrow::datatypes::{Field, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;

use super::*;

/// One row: a Thursday, half past one in the afternoon.
fn row() -> RecordBatch {
    let (zone, day, second) = ("UTC", 19_782, 1_709_213_400);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int32Array::from(vec![7]))),
        ("b", Arc::new(Int32Array::from(vec![None]))),
        ("Name", Arc::new(StringArray::from(vec!["Ada"]))),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>]))),
        ("day", Arc::new(Date32Array::from(vec![day]))),
        (
            "moment",
            Arc::new(TimestampMicrosecondArray::from(vec![second * 1_000_000]).with_timezone(zone)),
        ),
        ("share", Arc::new(Float64Array::from(vec![0.5]))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![1050])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn evaluate(text: &str, data_type: &DataType) -> Result<String> {
    let row = row();
    let fields = row.schema().fields().clone();
    let nullable = fields
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), true));
    let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let schema = DFSchema::try_from(schema)?;
    let state = SessionContext::new().state();
    let expression = plan_expression(text, &schema, data_type, &state)?;
    let value = evaluable(expression, &schema, &state)?.evaluate(&row)?;
    let array = value.into_array(1)?;
    if array.is_null(0) {
        return Ok("NULL".into());
    }
    Ok(array_value_to_string(&array, 0)?)
}

fn check(text: &str, data_type: &DataType, expected: &str) {
    assert_eq!(evaluate(text, data_type).unwrap(), expected, "{text}");
}

fn refused(text: &str, data_type: &DataType, part: &str) {
    let error = evaluate(text, data_type).unwrap_err().to_string();
    assert!(error.contains(part), "{text}: {error} lacks {part:?}");
}

#[test]
fn times_and_dates() {
    let (int, date) = (&DataType::Int32, &DataType::Date32);
    check("CAST(moment AS DATE)", date, "2024-02-29");
    check("to_date(MOMENT)", date, "2024-02-29");
    check("trunc(day, 'MONTH')", date, "2024-02-01");
    check("DATE '2024-03-01'", date, "2024-03-01");
    for (text, expected) in [
        ("year(day)", "2024"),
        ("year(moment)", "2024"),
        ("quarter(day)", "1"),
        ("month(moment)", "2"),
        ("day(moment)", "29"),
        ("dayofmonth(day)", "29"),
        ("dayofweek(day)", "5"),
        ("weekday(day)", "3"),
        ("dayofyear(day)", "60"),
        ("weekofyear(day)", "9"),
        ("hour(moment)", "13"),
        ("minute(moment)", "30"),
        ("EXTRACT(YEAR FROM moment)", "2024"),
    ] {
        check(text, int, expected);
    }
    let instant = &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    check(
        "date_trunc('HOUR', moment)",
        instant,
        "2024-02-29T13:00:00Z",
    );
}

#[test]
fn texts() {
    let text = &DataType::Utf8;
    check("upper(name)", text, "ADA");
    check("substring(`Name`, 1, 2)", text, "Ad");
    check("substr(name, 2)", text, "da");
    check("concat(name, '-', a)", text, "Ada-7");
    check("concat(name, nothing)", text, "NULL");
    check("name || \"!\"", text, "Ada!");
    check("coalesce(nothing, 'none')", text, "none");
    check("if(a > 5, 'many', 'few')", text, "many");
    check("CAST(a AS STRING)", text, "7");
    check("CAST(day AS STRING)", text, "2024-02-29");
    check("length(name)", &DataType::Int32, "3");
}

#[test]
fn numbers() {
    check("a + 1", &DataType::Int32, "8");
    check("A * a", &DataType::Int64, "49");
    check("a + b", &DataType::Int32, "NULL");
    check("b <=> NULL", &DataType::Boolean, "true");
    check("(1 + 1) * 2", &DataType::Int32, "4");
    check("price * 1.1", &DataType::Decimal128(12, 3), "11.550");
    check("share * 1.5", &DataType::Float64, "0.75");
    check("1.5", &DataType::Decimal128(10, 2), "1.50");
}

#[test]
fn what_may_mean_something_else_is_refused() {
    let (int, text) = (&DataType::Int32, &DataType::Utf8);
    refused("c + 1", int, "there is no column \"c\"");
    refused("a / 2", &DataType::Float64, "/ 2 is not known here");
    refused("date_format(day, 'yyyy')", text, "is not known here");
    refused("substring(name, 0, 2)", text, "a number from 1 on");
    refused("CAST(moment AS STRING)", text, "another value in Spark");
    refused("CAST(moment AS BIGINT)", &DataType::Int64, "another value");
    refused("CAST(share AS STRING)", text, "another value in Spark");
    refused("share", &DataType::Decimal128(5, 2), "another value");
    refused("concat(name, '\\n')", text, "a backslash");
    refused("concat(name, 'it''s')", text, "is not known here");
    refused("(SELECT 1)", int, "is not known here");
    refused("a +", int, "syntax error");
    refused("a b", int, "b was not expected");
}

#[test]
fn defaults_have_a_value_of_their_type() {
    let state = SessionContext::new().state();
    let check = |text: &str, data_type: &DataType, expected: Option<&str>| {
        let found = check_default(text, data_type, &state);
        match (found, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => {
                assert!(error.to_string().contains(part), "{text}: {error}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    };
    check("'unnamed'", &DataType::Utf8, None);
    check("current_timestamp()", &DataType::Date32, None);
    check("uuid()", &DataType::Utf8, None);
    check("NULL", &DataType::Int32, None);
    check("'many'", &DataType::Int32, Some("many"));
    check("a + 1", &DataType::Int32, Some("there is no column"));
}
