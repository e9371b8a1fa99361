use super::super::columns::tests::people;
use super::super::tests::{filled, text};
use super::*;

fn check(sql: &str, expected: &str) {
    let written = write_update(filled(sql), &people()).unwrap();
    assert_eq!(text(&written), expected, "{sql}");
}

fn refused(sql: &str, part: &str) {
    let error = write_update(filled(sql), &people())
        .unwrap_err()
        .to_string();
    assert!(error.contains(part), "{sql}: {error} lacks {part:?}");
}

#[test]
fn fields_are_assigned_within_their_struct() {
    check(
        "UPDATE p SET address.city = upper('x'), ID = 1 WHERE id = 2",
        "UPDATE p SET \"address\" = named_struct ( 'street' , get_field ( p . \"address\" , 'street' ) , 'city' , upper ( 'x' ) , \
         'geo' , get_field ( p . \"address\" , 'geo' ) ) , \"id\" = 1 WHERE id = 2",
    );
    check(
        "UPDATE s.p AS x SET x.address.geo.lat = 1, address.street = DEFAULT FROM q",
        "UPDATE s . p AS x SET \"address\" = named_struct ( 'street' , NULL , 'city' , get_field ( x . \"address\" , 'city' ) , \
         'geo' , named_struct ( 'lat' , 1 , 'lon' , get_field ( get_field ( x . \"address\" , 'geo' ) , 'lon' ) ) ) FROM q",
    );
    check(
        "EXPLAIN UPDATE p SET v = DEFAULT, id = DEFAULT",
        "EXPLAIN UPDATE p SET \"v\" = ( lower ( 'A' ) ) , \"id\" = NULL",
    );
    for plain in [
        "UPDATE p SET v = [1, 2], id = CASE WHEN a = 1 THEN 2 END",
        "UPDATE s.p SET p.v = 1, s.p.id = 2",
        "UPDATE p SET (a, b) = (SELECT 1, 2)",
        "SELECT address.city FROM p",
    ] {
        check(plain, &text(&filled(plain)));
    }
}

#[test]
fn the_table_comes_before_a_column_of_its_name() {
    // in `address`, a table with the columns of p, `address.id` is a column and `address.city` a field
    check(
        "UPDATE address SET address.id = 1, address.v = 'x'",
        "UPDATE address SET address . id = 1 , address . v = 'x'",
    );
    check(
        "UPDATE address SET address.geo = NULL",
        "UPDATE address SET \"address\" = named_struct ( 'street' , get_field ( address . \"address\" , 'street' ) , \
         'city' , get_field ( address . \"address\" , 'city' ) , 'geo' , NULL )",
    );
}

#[test]
fn mistakes_are_named() {
    refused(
        "UPDATE p SET address.zip = 1",
        "\"address\" has no field \"zip\"; its fields are street, city, geo",
    );
    refused(
        "UPDATE p SET address.geo.alt = 1",
        "\"address.geo\" has no field \"alt\"; its fields are lat, lon",
    );
    refused("UPDATE p SET tags.a = 1", "\"tags\" is List");
    refused(
        "UPDATE p SET nothing.a = 1",
        "p has no column \"nothing.a\"; its columns are id, v, address, tags",
    );
    refused(
        "UPDATE p SET address.city = 1, p.address.city = 2",
        "\"address.city\" is assigned twice",
    );
    refused(
        "UPDATE p SET address.geo.lat = 1, address = NULL",
        "\"address\" is assigned as a whole, and \"address.geo.lat\" in it",
    );
}

#[test]
fn names_of_columns_are_lower_case_unless_quoted() {
    let lower = |sql: &str| text(&lower_case_assignments(filled(sql)));
    assert_eq!(
        lower("UPDATE T SET Age = B, \"C\" = (SELECT X, Y), P.Q = [A, B] WHERE Z"),
        "UPDATE T SET age = B , \"C\" = ( SELECT X , Y ) , p . q = [ A , B ] WHERE Z"
    );
    assert!(refuse_repeated_assignments(&filled("UPDATE t SET a = 1, A = 2")).is_err());
    assert!(refuse_repeated_assignments(&filled("UPDATE t SET a.b = 1, a.c = 2")).is_ok());
}
