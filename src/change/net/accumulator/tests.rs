use arrow::array::{Int32Array, StringArray, StructArray};
use arrow::datatypes::{Field, Int32Type, Int64Type};

use super::*;

/// Key, type, version and value of a change.
type Row = (usize, &'static str, i64, i32);

const KEYS: usize = 5_000;

fn accumulator(deleted_as_last: bool) -> NetAccumulator {
    let types = [
        ("version", DataType::Int64),
        ("time", DataType::Int64),
        ("type", DataType::Utf8),
        ("value", DataType::Int32),
    ];
    let fields = types.map(|(name, data_type)| Field::new(name, data_type, true));
    let row = DataType::Struct(fields.into_iter().collect());
    let result = NetResult {
        row: Arc::new(Field::new_list_field(row, true)),
        own: 1,
        deleted_as_last,
    };
    NetAccumulator::new(result, vec![DataType::Int64, DataType::Int32])
}

fn arrays(rows: &[Row]) -> (Vec<ArrayRef>, Vec<usize>) {
    let types: StringArray = rows.iter().map(|row| Some(row.1)).collect();
    let versions: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let ordinals = Int64Array::from(vec![0; rows.len()]);
    let times: Int64Array = rows.iter().map(|row| Some(row.2 * 100)).collect();
    let values: Int32Array = rows.iter().map(|row| Some(row.3)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(types),
        Arc::new(versions),
        Arc::new(ordinals),
        Arc::new(times),
        Arc::new(values),
    ];
    (columns, rows.iter().map(|row| row.0).collect())
}

fn update(accumulator: &mut NetAccumulator, rows: &[Row], keys: usize) {
    let (columns, groups) = arrays(rows);
    accumulator
        .update_batch(&columns, &groups, None, keys)
        .unwrap();
}

/// The rows of each key, as `type value @version`.
fn texts(lists: &ArrayRef) -> Vec<Vec<String>> {
    let lists = lists.as_list::<i32>();
    let text = |rows: &StructArray, row: usize| {
        let version = rows.column(0).as_primitive::<Int64Type>().value(row);
        let time = rows.column(1).as_primitive::<Int64Type>().value(row);
        assert_eq!(time, version * 100);
        let kind = rows.column(2).as_string::<i32>().value(row);
        let value = rows.column(3).as_primitive::<Int32Type>().value(row);
        format!("{kind} {value} @{version}")
    };
    let of_key = |list: Option<ArrayRef>| -> Vec<String> {
        let list = list.unwrap();
        let rows = list.as_struct();
        (0..rows.len()).map(|row| text(rows, row)).collect()
    };
    lists.iter().map(of_key).collect()
}

fn evaluated(mut accumulator: NetAccumulator) -> Vec<Vec<String>> {
    texts(&accumulator.evaluate(EmitTo::All).unwrap())
}

/// Checks one key: in batches, through partial states, and through rows that were made states as they are.
fn check_with(deleted_as_last: bool, batches: &[&[Row]], expected: &[&str]) {
    let mut whole = accumulator(deleted_as_last);
    let mut merged = accumulator(deleted_as_last);
    let mut skipped = accumulator(deleted_as_last);
    for rows in batches {
        update(&mut whole, rows, 1);
        let mut partial = accumulator(deleted_as_last);
        update(&mut partial, rows, 1);
        let state = partial.state(EmitTo::All).unwrap();
        merged.merge_batch(&state, &[0], 1).unwrap();
        let (columns, groups) = arrays(rows);
        let state = skipped.convert_to_state(&columns, None).unwrap();
        skipped.merge_batch(&state, &groups, 1).unwrap();
    }
    for accumulator in [whole, merged, skipped] {
        assert_eq!(evaluated(accumulator), [expected], "{batches:?}");
    }
}

fn check(batches: &[&[Row]], expected: &[&str]) {
    check_with(false, batches, expected);
}

#[test]
fn net_rows_of_a_key() {
    check(&[&[(0, "insert", 1, 7)]], &["insert 7 @1"]);
    check(&[&[(0, "insert", 1, 7), (0, "delete", 2, 7)]], &[]);
    check(&[&[(0, "delete", 1, 7)], &[(0, "insert", 1, 7)]], &[]);
    check(
        &[&[(0, "insert", 1, 7)], &[(0, "delete", 1, 6)]],
        &["update_preimage 6 @1", "update_postimage 7 @1"],
    );
    check(
        &[
            &[(0, "update_preimage", 3, 2), (0, "update_postimage", 3, 3)],
            &[(0, "update_preimage", 1, 1), (0, "update_postimage", 1, 2)],
        ],
        &["update_preimage 1 @3", "update_postimage 3 @3"],
    );
    check(
        &[&[
            (0, "update_preimage", 1, 1),
            (0, "update_postimage", 1, 2),
            (0, "delete", 2, 2),
        ]],
        &["delete 1 @2"],
    );
}

#[test]
fn upserts_stay_upserts() {
    check(&[&[(0, "upsert", 1, 7)]], &["upsert 7 @1"]);
    check(
        &[&[(0, "upsert", 2, 8)], &[(0, "delete", 1, 0)]],
        &["upsert 8 @2"],
    );
    check(
        &[&[(0, "upsert", 1, 7)], &[(0, "delete", 2, 0)]],
        &["delete 7 @2"],
    );
    check(
        &[&[
            (0, "insert", 1, 1),
            (0, "upsert", 2, 2),
            (0, "delete", 3, 3),
        ]],
        &["delete 1 @3"],
    );
    let batches: [&[Row]; 2] = [&[(0, "upsert", 1, 7)], &[(0, "delete", 2, 0)]];
    check_with(true, &batches, &["delete 0 @2"]);
}

#[test]
fn a_repeated_key_is_one_row() {
    let batches: [&[Row]; 2] = [
        &[(0, "insert", 1, 7), (0, "insert", 1, 8)],
        &[(0, "insert", 1, 9)],
    ];
    check(&batches, &["insert 9 @1"]);
}

#[test]
fn groups_leave_in_their_order() {
    let mut accumulator = accumulator(false);
    update(
        &mut accumulator,
        &[
            (1, "insert", 1, 1),
            (0, "insert", 1, 0),
            (2, "insert", 1, 2),
        ],
        3,
    );
    let first = texts(&accumulator.evaluate(EmitTo::First(1)).unwrap());
    assert_eq!(first, [["insert 0 @1"]]);
    update(&mut accumulator, &[(0, "update_postimage", 2, 5)], 2);
    assert_eq!(evaluated(accumulator), [["insert 5 @2"], ["insert 2 @1"]]);
}

#[test]
fn images_that_are_not_wanted_are_given_up() {
    let batches = 12;
    let mut accumulator = accumulator(false);
    for batch in 0..batches {
        // most keys change in each batch, one in this batch only
        let kind = if batch == 0 {
            "insert"
        } else {
            "update_postimage"
        };
        let mut rows: Vec<Row> = (0..KEYS)
            .map(|key| (key, kind, batch as i64, (key + batch) as i32))
            .collect();
        rows.push((KEYS + batch, "insert", 1, batch as i32));
        update(&mut accumulator, &rows, KEYS + batch + 1);
        assert!(!accumulator.images.is_sparse());
    }
    let found = evaluated(accumulator);
    assert_eq!(found.len(), KEYS + batches);
    for (key, rows) in found.iter().enumerate() {
        let expected = match key.checked_sub(KEYS) {
            None => format!("insert {} @11", key + 11),
            Some(batch) => format!("insert {batch} @1"),
        };
        assert_eq!(*rows, [expected]);
    }
}
