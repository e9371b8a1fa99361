//! The functions as SQL calls them.

use std::collections::HashMap;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion::common::metadata::FieldMetadata;
use datafusion::prelude::{DataFrame, SessionContext, col};

use super::*;

fn session() -> SessionContext {
    let ctx = SessionContext::new();
    for function in mask_functions() {
        ctx.register_udf(function);
    }
    ctx
}

/// The first column of the answer, or the error.
async fn answer(frame: Result<DataFrame>) -> String {
    let batches = match frame {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    let batches = match batches {
        Ok(batches) => batches,
        Err(error) => return error.to_string(),
    };
    let mut values = vec![];
    for batch in &batches {
        let column = batch.column(0);
        values.extend((0..batch.num_rows()).map(|row| match column.is_null(row) {
            true => "NULL".to_owned(),
            false => array_value_to_string(column, row).unwrap(),
        }));
    }
    values.join(", ")
}

async fn check(ctx: &SessionContext, sql: &str, expected: &str) {
    let answer = answer(ctx.sql(&format!("SELECT {sql}")).await).await;
    assert_eq!(answer, expected, "{sql}");
}

async fn refused(ctx: &SessionContext, sql: &str, expected: &str) {
    let answer = answer(ctx.sql(&format!("SELECT {sql}")).await).await;
    assert!(answer.contains(expected), "{sql}: {answer}");
}

fn flags(values: [Option<bool>; 4]) -> ArrayRef {
    Arc::new(BooleanArray::from(values.to_vec()))
}

async fn masks(function: ScalarUDF, columns: &[&str]) -> String {
    let batch = RecordBatch::try_from_iter([
        ("a", flags([Some(true), Some(true), Some(false), None])),
        ("b", flags([Some(true), Some(false), None, None])),
    ]);
    let frame = SessionContext::new().read_batch(batch.unwrap()).unwrap();
    let columns = columns.iter().map(|name| col(*name)).collect();
    answer(frame.select(vec![function.call(columns)])).await
}

#[tokio::test]
async fn masks_are_made_of_booleans() {
    assert_eq!(
        masks(change_columns_mask(vec![2, 3]), &["a", "b"]).await,
        "NULL, 0000000002000000, 00000000, 00000000"
    );
    assert_eq!(
        masks(update_mask(vec![2, 9], 9), &["a", "b"]).await,
        "0102, 0002, 0000, 0000"
    );
    assert_eq!(
        masks(change_columns_mask(vec![]), &[]).await,
        "NULL, NULL, NULL, NULL"
    );
    let error = masks(update_mask(vec![2], 9), &["a", "b"]).await;
    assert!(error.contains("made for 1 columns, not 2"), "{error}");
}

#[tokio::test]
async fn columns_are_found_by_id() {
    let ctx = session();
    for (arguments, expected) in [
        ("11, 0x000000000B000000", "1"),
        ("10, 0x000000000B000000", "0"),
        ("0, 0x000000000B000000", "0"),
        ("arrow_cast(11, 'UInt8'), X'000000000B000000'", "1"),
        ("11, arrow_cast(0x000000000B000000, 'BinaryView')", "1"),
        ("11, arrow_cast(0x000000000B000000, 'LargeBinary')", "1"),
        ("11, NULL", "1"),
        ("NULL, 0x00000000", "NULL"),
    ] {
        let call = format!("change_tracking_is_column_in_mask({arguments})");
        check(&ctx, &call, expected).await;
    }
    for (arguments, expected) in [
        ("11, 0x0B", "0x0B is no mask of changed columns"),
        ("11, 'x'", "takes sys_change_columns of CHANGETABLE"),
        ("1.5, 0x00", "the id of a column, or its name; this is of"),
        ("11", "takes a column and a mask, not 1 arguments"),
        ("'n', 0x00000000", "OBJECT_ID('t'), 'n', 'ColumnId')"),
    ] {
        let call = format!("change_tracking_is_column_in_mask({arguments})");
        refused(&ctx, &call, expected).await;
    }
}

/// Names that are asked for, and masks that do not say of which table they are.
fn asked() -> RecordBatch {
    let asked = StringArray::from(vec![Some("age"), None, Some("NAME")]);
    let masks: Vec<Option<&[u8]>> =
        vec![Some(&[0, 0, 0, 0, 3, 0, 0, 0]), Some(&[0, 0, 0, 0]), None];
    let masks: ArrayRef = Arc::new(BinaryArray::from_opt_vec(masks));
    RecordBatch::try_from_iter([("asked", Arc::new(asked) as ArrayRef), ("mask", masks)]).unwrap()
}

/// What masks of CHANGETABLE say of their table.
fn names() -> HashMap<String, String> {
    let columns = r#"["id", "Name", "age", "Age"]"#.to_owned();
    HashMap::from([(COLUMNS_KEY.to_owned(), columns)])
}

#[tokio::test]
async fn columns_are_found_by_name_where_the_mask_says_of_which_table_it_is() {
    let ctx = session();
    let batch = asked();
    let schema = Schema::new(vec![
        Field::new("asked", DataType::Utf8, true),
        Field::new("mask", DataType::Binary, true).with_metadata(names()),
    ]);
    let batch = RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec());
    ctx.register_batch("ct", batch.unwrap()).unwrap();
    for (column, expected) in [
        ("asked", "1, NULL, 1"),
        ("'age'", "1, 0, 1"),
        ("'Age'", "0, 0, 1"),
        ("'name'", "0, 0, 1"),
        ("3", "1, 0, 1"),
        ("CAST(NULL AS VARCHAR)", "NULL, NULL, NULL"),
    ] {
        let sql = format!("change_tracking_is_column_in_mask({column}, mask) FROM ct");
        check(&ctx, &sql, expected).await;
    }
    let sql = "change_tracking_is_column_in_mask('AGE', mask) FROM ct";
    let expected = r#""AGE" is no column of the table that the mask is of, which has id, Name"#;
    refused(&ctx, sql, expected).await;
}

#[tokio::test]
async fn names_are_looked_up_before_projections_and_filters_move() {
    let ctx = session();
    let frame = ctx.read_batch(asked()).unwrap();
    let names = FieldMetadata::from(names());
    let masks = col("mask").alias_with_metadata("masks", Some(names));
    let view = frame.select(vec![masks]).unwrap().into_view();
    ctx.register_table("ct", view).unwrap();
    let call = "change_tracking_is_column_in_mask('age', masks)";
    check(&ctx, &format!("{call} FROM ct"), "1, 0, 1").await;
    check(&ctx, &format!("1 FROM ct WHERE {call} = 0"), "1").await;
    check(&ctx, &format!("{call} FROM ct WHERE {call} = 1"), "1, 1").await;
}

#[tokio::test]
async fn lsns_are_counted() {
    let ctx = session();
    for (call, expected) in [
        (
            "fn_cdc_increment_lsn(0x000000000000000000FF)",
            "00000000000000000100",
        ),
        (
            "sys.fn_cdc_decrement_lsn(X'00000000000000000005')",
            "00000000000000000004",
        ),
        (
            "cdc.fn_cdc_increment_lsn(arrow_cast(0x00000000000000000005, 'FixedSizeBinary(10)'))",
            "00000000000000000006",
        ),
        ("fn_cdc_increment_lsn(NULL)", "NULL"),
    ] {
        check(&ctx, call, expected).await;
    }
    for (call, expected) in [
        (
            "fn_cdc_decrement_lsn(0x00000000000000000000)",
            "is the lowest LSN, so fn_cdc_decrement_lsn finds none before it",
        ),
        (
            "fn_cdc_increment_lsn(0x00007FFFFFFFFFFFFFFF)",
            "0x00007FFFFFFFFFFFFFFF is the highest LSN",
        ),
        ("fn_cdc_increment_lsn(0x05)", "0x05 is no LSN: it has 1"),
        ("fn_cdc_increment_lsn(5)", "takes an LSN, a binary such as"),
    ] {
        refused(&ctx, call, expected).await;
    }
}

#[tokio::test]
async fn bits_are_tested() {
    let ctx = session();
    for (arguments, expected) in [
        ("3, 0x04", "1"),
        ("1, 0x04", "0"),
        ("9, 0x0104", "1"),
        ("17, 0x0104", "0"),
        ("NULL, 0x04", "NULL"),
        ("3, NULL", "NULL"),
    ] {
        check(&ctx, &format!("fn_cdc_is_bit_set({arguments})"), expected).await;
    }
    refused(
        &ctx,
        "fn_cdc_is_bit_set('a', 0x04)",
        "takes a column's ordinal",
    )
    .await;
}
