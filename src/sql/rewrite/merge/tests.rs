use std::sync::Arc;

use arrow::datatypes::Field;

use super::super::columns::tests::people;
use super::super::tests::{filled, text};
use super::*;

fn target() -> TargetColumns {
    let fields = ["id", "V v"].map(|name| Field::new(name, DataType::Utf8, true));
    TargetColumns {
        table: "t".into(),
        schema: Arc::new(Schema::new(fields.to_vec())),
        defaults: Default::default(),
    }
}

fn write(sql: &str, columns: &TargetColumns, source: Option<&Schema>) -> Result<String> {
    let tokens = filled(sql);
    let merge = Merge::find(&tokens)?.unwrap();
    Ok(text(&merge.write_out(&tokens, columns, source)?))
}

fn check(sql: &str, expected: &str) {
    assert_eq!(write(sql, &target(), None).unwrap(), expected, "{sql}");
}

/// `clauses` of a MERGE into `p` with these columns.
fn check_people(clauses: &str, expected: &str) {
    let start = "MERGE INTO p AS x USING s ON x . id = s . id";
    let written = write(&format!("{start} {clauses}"), &people(), None).unwrap();
    assert_eq!(written, format!("{start} {expected}"));
}

fn refused(sql: &str, part: &str) {
    let error = write(sql, &target(), None).unwrap_err().to_string();
    assert!(error.contains(part), "{sql}: {error} lacks {part:?}");
}

#[test]
fn stars_become_the_columns_of_the_target() {
    check(
        "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
        "MERGE INTO t USING s ON t . id = s . id WHEN MATCHED THEN UPDATE SET \"id\" = s . \"id\" , \"V v\" = s . \"V v\" \
         WHEN NOT MATCHED THEN INSERT ( \"id\" , \"V v\" ) VALUES ( s . \"id\" , s . \"V v\" )",
    );
    check(
        "MERGE INTO a.t AS x USING (SELECT 1) AS y ON TRUE WHEN NOT MATCHED THEN INSERT *",
        "MERGE INTO a . t AS x USING ( SELECT 1 ) AS y ON TRUE WHEN NOT MATCHED THEN INSERT ( \"id\" , \"V v\" ) VALUES ( y . \"id\" , y . \"V v\" )",
    );
    check(
        "EXPLAIN ANALYZE MERGE INTO t USING table_changes('s', 3) AS c ON c.id = CASE WHEN t.id THEN 1 END WHEN MATCHED THEN UPDATE SET * EXCEPT (ID);",
        "EXPLAIN ANALYZE MERGE INTO t USING table_changes ( 's' , 3 ) AS c ON c . id = CASE WHEN t . id THEN 1 END WHEN MATCHED THEN UPDATE SET \
         \"V v\" = c . \"V v\" ;",
    );
    check(
        "MERGE INTO t USING (VALUES (1)) AS s(id) ON TRUE WHEN NOT MATCHED THEN INSERT * EXCEPT (\"V v\")",
        "MERGE INTO t USING ( VALUES ( 1 ) ) AS s ( id ) ON TRUE WHEN NOT MATCHED THEN INSERT ( \"id\" ) VALUES ( s . \"id\" )",
    );
}

#[test]
fn stars_of_an_evolving_target_are_of_what_the_source_has() {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let address = DataType::Struct(vec![field("city", DataType::Utf8)].into());
    let source = Schema::new(vec![
        field("id", DataType::Int64),
        field("address", address),
    ]);
    let written = write(
        "MERGE INTO p USING s ON TRUE WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT * EXCEPT (id)",
        &people(),
        Some(&source),
    );
    assert_eq!(
        written.unwrap(),
        "MERGE INTO p USING s ON TRUE WHEN MATCHED THEN UPDATE SET \"id\" = s . \"id\" , \"address\" = named_struct ( 'street' , \
         get_field ( p . \"address\" , 'street' ) , 'city' , get_field ( s . \"address\" , 'city' ) , \
         'geo' , get_field ( p . \"address\" , 'geo' ) ) \
         WHEN NOT MATCHED THEN INSERT ( \"address\" ) VALUES ( s . \"address\" )"
    );
}

#[test]
fn fields_and_defaults_are_written_out() {
    check_people(
        "WHEN MATCHED AND CASE WHEN s . a THEN b END THEN UPDATE SET x . v = s . v WHEN NOT MATCHED THEN INSERT VALUES ( 1 , 2 )",
        "WHEN MATCHED AND CASE WHEN s . a THEN b END THEN UPDATE SET x . v = s . v WHEN NOT MATCHED THEN INSERT VALUES ( 1 , 2 )",
    );
    check_people(
        "WHEN MATCHED THEN UPDATE SET v = CASE WHEN a THEN b END, x.address.city = 'c' WHEN NOT MATCHED BY SOURCE THEN UPDATE SET v = DEFAULT",
        "WHEN MATCHED THEN UPDATE SET \"v\" = CASE WHEN a THEN b END , \"address\" = named_struct ( 'street' , \
         get_field ( x . \"address\" , 'street' ) , 'city' , 'c' , 'geo' , get_field ( x . \"address\" , 'geo' ) ) \
         WHEN NOT MATCHED BY SOURCE THEN UPDATE SET \"v\" = ( lower ( 'A' ) )",
    );
    check_people(
        "WHEN NOT MATCHED THEN INSERT (id, x.v) VALUES (DEFAULT, DEFAULT) WHEN MATCHED THEN DELETE",
        "WHEN NOT MATCHED THEN INSERT ( id , x . v ) VALUES ( NULL , ( lower ( 'A' ) ) ) WHEN MATCHED THEN DELETE",
    );
}

#[test]
fn what_clauses_write_is_known() {
    let tokens = filled(
        "MERGE INTO p USING s ON TRUE WHEN MATCHED AND a THEN UPDATE SET p.v = 1, address.zip = 2 \
         WHEN MATCHED THEN UPDATE SET * EXCEPT (v) WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
    );
    let merge = Merge::find(&tokens).unwrap().unwrap();
    assert_eq!(text(&merge.source_query(&tokens)), "SELECT * FROM s");
    let path = |names: &[&str]| Written::Path(names.iter().map(ToString::to_string).collect());
    assert_eq!(
        merge.written(&tokens, |name| name == "v"),
        [
            path(&["v"]),
            path(&["address", "zip"]),
            Written::All {
                except: vec!["v".into()]
            },
            path(&["id"]),
        ]
    );
}

#[test]
fn mistakes_are_named() {
    refused(
        "MERGE INTO t USING (SELECT 1) ON TRUE WHEN NOT MATCHED THEN INSERT *",
        "needs a name; write USING (…) AS source",
    );
    refused(
        "MERGE INTO t USING s ON TRUE WHEN MATCHED THEN UPDATE SET * EXCEPT (id, nothing)",
        "EXCEPT: t has no column \"nothing\"; its columns are id, V v",
    );
    refused(
        "MERGE INTO t USING s ON TRUE WHEN MATCHED THEN UPDATE SET *, id = 1",
        "only EXCEPT (column, …) can follow",
    );
    refused(
        "MERGE INTO t USING s ON TRUE WHEN NOT MATCHED THEN INSERT * EXCEPT (id, \"V v\")",
        "stands for no column at all",
    );
    for other in [
        "SELECT * FROM t",
        "MERGE INTO t",
        "MERGE",
        "MERGE INTO t USING s",
    ] {
        assert!(Merge::find(&filled(other)).unwrap().is_none(), "{other}");
    }
}
