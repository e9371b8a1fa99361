//! Trials `interop::writes::<fixture>`: statements on copies of the tables of `interop/spark` whose features bind who writes them.
//!
//! A script is statements, each ended by a semicolon, then queries, each after `== ` and with its rows in canonical text. A
//! statement after a line `-- refused: <text>` must fail with that text in its message. Every commit is held against the Delta
//! protocol, and at the end delta-rs and DuckDB are asked what they read.

use libtest_mimic::{Failed, Trial};

use super::fixture::Fixture;
use crate::oracle;
use crate::patience;
use crate::tables::check_same;

/// Whether `OPTIMIZE` is run where a script has it.
const WITH_OPTIMIZE: bool = true;

/// What is run on which table.
const CASES: &[(&str, &str)] = &[
    ("generated", GENERATED),
    ("identities", IDENTITIES),
    ("defaults", DEFAULTS),
    ("tracked_rows", TRACKED_ROWS),
    ("tracked_rows_vectors", TRACKED_ROWS),
    ("rules", RULES),
    ("mapped_by_name", MAPPED),
    ("mapped_by_id", MAPPED),
    ("append_only", APPEND_ONLY),
    ("feed_and_vectors", FEED_AND_VECTORS),
    ("write_serializable", PLAIN),
    ("instants", PLAIN),
    ("domains", DOMAINS),
    ("widened", WIDENED),
    ("checkpoint_v2_json", CHECKPOINTS),
    ("checkpoint_v2_parquet", CHECKPOINTS),
    ("iceberg_compatible", ICEBERG_COMPATIBLE),
    ("variants", VARIANTS),
    ("variant_added", VARIANTS),
];

const GENERATED: &str = r#"
INSERT INTO t (id, moment, since, a, b) VALUES
  (4, TIMESTAMP '2024-02-29 12:00:00', DATE '2024-12-31', 3, 4), (5, NULL, NULL, 1, NULL);
-- refused: product
INSERT INTO t (id, a, b, product) VALUES (6, 2, 2, 5);
INSERT INTO t (id, a, b, product) VALUES (6, 2, 2, 4);
UPDATE t SET a = 10 WHERE id = 3;
UPDATE t SET moment = TIMESTAMP '2024-03-01 01:00:00' WHERE id = 2;
MERGE INTO t USING (VALUES (1, 5), (7, 6)) AS s(id, b) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET b = s.b
  WHEN NOT MATCHED THEN INSERT (id, moment, a, b) VALUES (s.id, TIMESTAMP '2024-05-05 05:05:05', 2, s.b);
DELETE FROM t WHERE id = 5;
OPTIMIZE t;
== SELECT id, moment, day, since, year, a, b, product FROM t
[10,6,null,3,null,60,null,null]
[2,2,null,6,null,4,null,null]
[2,6,"2024-05-05",7,"2024-05-05T05:05:05.000000",12,null,null]
[3,4,"2024-02-29",4,"2024-02-29T12:00:00.000000",12,"2024-12-31",2024]
[4,null,"2024-03-01",2,"2024-03-01T01:00:00.000000",null,"1969-12-31",1969]
[7,5,"2024-01-02",1,"2024-01-02T00:00:00.000000",35,"2020-02-29",2020]
"#;

/// Which values are given out is up to the writers; that they are new, apart and in step is not.
const IDENTITIES: &str = r#"
INSERT INTO t (name) VALUES ('d'), ('e');
INSERT INTO t (number, name) VALUES (200, 'f');
-- refused: key
INSERT INTO t (key, name) VALUES (1000, 'g');
-- refused: key
UPDATE t SET key = 1 WHERE name = 'a';
UPDATE t SET name = 'A' WHERE name = 'a';
MERGE INTO t USING (VALUES ('c', 'C'), ('h', 'H')) AS s(name, other) ON t.name = s.name
  WHEN MATCHED THEN UPDATE SET name = s.other
  WHEN NOT MATCHED THEN INSERT (name) VALUES (s.other);
DELETE FROM t WHERE name = 'd';
OPTIMIZE t;
== SELECT CASE WHEN key <= 20 THEN key END AS key, name, CASE WHEN number >= -2 THEN number END AS number, (key - 10) % 5 AS off_step, count(*) OVER (PARTITION BY key) AS uses FROM t
[10,"A",-1,0,1]
[15,"B",-2,0,1]
[20,"C",100,0,1]
[null,"H",null,0,1]
[null,"e",null,0,1]
[null,"f",200,0,1]
"#;

const DEFAULTS: &str = r#"
INSERT INTO t (id) VALUES (3);
INSERT INTO t (id, name, total) VALUES (4, DEFAULT, NULL);
UPDATE t SET name = DEFAULT WHERE id = 2;
MERGE INTO t USING (VALUES (1, 2.5), (5, 3.5)) AS s(id, amount) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET amount = s.amount, day = DEFAULT
  WHEN NOT MATCHED THEN INSERT (id, amount) VALUES (s.id, s.amount);
DELETE FROM t WHERE id = 3;
OPTIMIZE t;
== SELECT * FROM t
["1.50","1999-12-31",2,"unnamed",5]
["1.50","2024-02-29",4,"unnamed",null]
["2.50","2024-02-29",1,"unnamed",4]
["3.50","2024-02-29",5,"unnamed",4]
"#;

/// Without a feed and without a key, only row ids say which rows are updates.
const TRACKED_ROWS: &str = r#"
INSERT INTO t VALUES (10, 'ten'), (11, 'eleven');
UPDATE t SET name = upper(name) WHERE id IN (1, 2, 10);
DELETE FROM t WHERE id IN (4, 9);
MERGE INTO t USING (VALUES (2, 'two'), (7, 'x'), (12, 'twelve')) AS s(id, name) ON t.id = s.id
  WHEN MATCHED AND s.name = 'x' THEN DELETE
  WHEN MATCHED THEN UPDATE SET name = s.name
  WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);
OPTIMIZE t;
UPDATE t SET name = 'last' WHERE id = 2;
DELETE FROM t WHERE id = 8;
== SELECT * FROM t
[1,"N1"]
[10,"TEN"]
[11,"eleven"]
[12,"twelve"]
[2,"last"]
[5,"merged"]
[6,"changed"]
== SELECT id, name, _change_type FROM table_changes('t', 5, derive => true)
[1,"N1","update_postimage"]
[1,"n1","update_preimage"]
[10,"TEN","update_postimage"]
[10,"ten","insert"]
[10,"ten","update_preimage"]
[11,"eleven","insert"]
[12,"twelve","insert"]
[2,"CHANGED","update_postimage"]
[2,"CHANGED","update_preimage"]
[2,"changed","update_preimage"]
[2,"last","update_postimage"]
[2,"two","update_postimage"]
[2,"two","update_preimage"]
[4,"n4","delete"]
[7,"n7","delete"]
[8,"n8","delete"]
[9,"new","delete"]
"#;

const RULES: &str = r#"
INSERT INTO t VALUES (4, 'd', 4);
-- refused: small < 100
INSERT INTO t VALUES (5, 'e', 100);
-- refused: small
INSERT INTO t VALUES (5, 'e', NULL);
-- refused: positive
UPDATE t SET small = 0 WHERE id = 1;
-- refused: named
MERGE INTO t USING (VALUES (6)) AS s(id) ON t.id = s.id
  WHEN NOT MATCHED THEN INSERT (id, small) VALUES (s.id, 1);
-- refused: NOT NULL
UPDATE t SET id = NULL WHERE id = 2;
MERGE INTO t USING (VALUES (2, 20), (7, 70)) AS s(id, small) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET small = s.small
  WHEN NOT MATCHED THEN INSERT (id, name, small) VALUES (s.id, 'g', s.small);
DELETE FROM t WHERE id = -3;
UPDATE t SET name = 'A' WHERE id = 1;
OPTIMIZE t;
== SELECT * FROM t
[1,"A",1]
[2,"b",20]
[4,"d",4]
[7,"g",70]
"#;

const MAPPED: &str = r#"
INSERT INTO t (id, name, area, place) SELECT 5, 'e', 'e u', named_struct('east', 5, 'y', 'five');
INSERT INTO t (id, name) VALUES (6, 'f');
UPDATE t SET area = 'us' WHERE id = 1;
UPDATE t SET place = named_struct('east', 20, 'y', 'twenty') WHERE id = 2;
MERGE INTO t USING (VALUES (4, 'D', 'a/p'), (7, 'g', 'e u')) AS s(id, name, area) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET name = s.name, area = s.area
  WHEN NOT MATCHED THEN INSERT (id, name, area) VALUES (s.id, s.name, s.area);
DELETE FROM t WHERE area IS NULL;
OPTIMIZE t;
== SELECT id, name, area, place FROM t
["a/p",4,"D",{"east":null,"y":null}]
["e u",5,"e",{"east":5,"y":"five"}]
["e u",7,"g",null]
["us",1,"a",{"east":1,"y":"one"}]
["us",2,"b",{"east":20,"y":"twenty"}]
"#;

const APPEND_ONLY: &str = r#"
INSERT INTO t VALUES (3, 'c');
-- refused: append
DELETE FROM t WHERE id = 1;
-- refused: append
UPDATE t SET name = 'x';
-- refused: append
MERGE INTO t USING (VALUES (1, 'x')) AS s(id, name) ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = s.name;
MERGE INTO t USING (VALUES (1, 'x'), (4, 'd')) AS s(id, name) ON t.id = s.id
  WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);
OPTIMIZE t;
== SELECT * FROM t
[1,"a"]
[2,"b"]
[3,"c"]
[4,"d"]
"#;

/// The DELETE takes the last rows of a file that has a deletion vector.
const FEED_AND_VECTORS: &str = r#"
UPDATE t SET name = 'u' WHERE id IN (4, 9);
DELETE FROM t WHERE id IN (1, 5, 7);
MERGE INTO t USING (VALUES (6, 'six', false), (8, '', true), (13, 'new', false)) AS s(id, name, gone) ON t.id = s.id
  WHEN MATCHED AND s.gone THEN DELETE
  WHEN MATCHED THEN UPDATE SET name = s.name
  WHEN NOT MATCHED THEN INSERT (id, name, part) VALUES (s.id, s.name, 1)
  WHEN NOT MATCHED BY SOURCE AND t.id = 12 THEN UPDATE SET name = 'late';
UPDATE t SET part = 0 WHERE id = 9;
OPTIMIZE t;
INSERT INTO t VALUES (14, NULL, NULL);
== SELECT * FROM t
[10,"n10",0]
[11,"n11",1]
[12,"late",0]
[13,"new",1]
[14,null,null]
[4,"u",0]
[6,"six",0]
[9,"u",0]
"#;

const PLAIN: &str = r#"
INSERT INTO t VALUES (4, 'd');
UPDATE t SET name = upper(name) WHERE id = 2;
DELETE FROM t WHERE id = 1;
MERGE INTO t USING (VALUES (3, 'C'), (5, 'e')) AS s(id, name) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET name = s.name
  WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);
OPTIMIZE t;
== SELECT * FROM t
[2,"B"]
[3,"C"]
[4,"d"]
[5,"e"]
"#;

const DOMAINS: &str = r#"
INSERT INTO t VALUES (6, 'n6', 2);
UPDATE t SET weight = 100 WHERE id = 4;
DELETE FROM t WHERE id = 1;
MERGE INTO t USING (VALUES (2, 40), (7, 70)) AS s(id, weight) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET weight = s.weight
  WHEN NOT MATCHED THEN INSERT (id, weight) VALUES (s.id, s.weight);
OPTIMIZE t;
== SELECT * FROM t
[2,"n2",40]
[3,"n3",1]
[4,"n4",100]
[5,"n5",5]
[6,"n6",2]
[7,null,70]
"#;

const WIDENED: &str = r#"
INSERT INTO t VALUES (7000000000, 2.5, 0.0001, 1);
UPDATE t SET id = id + 5000000000, ratio = 0.25 WHERE id = 1;
UPDATE t SET part = 6000000000 WHERE id = 2;
MERGE INTO t USING (VALUES (3, 1234.5678), (4, 5.0)) AS s(id, price) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET price = s.price
  WHEN NOT MATCHED THEN INSERT (id, price, part) VALUES (s.id, s.price, 9);
DELETE FROM t WHERE id = 6000000000;
OPTIMIZE t;
== SELECT id, ratio, price, part FROM t
[2,6000000000,"-9999.9900",null]
[3,2,"1234.5678","-1.5"]
[4,9,"5.0000",null]
[5000000001,1,"1.2500","0.25"]
[7000000000,1,"0.0001","2.5"]
"#;

/// Every third version has a checkpoint, and old commits have been cleaned away.
const CHECKPOINTS: &str = r#"
INSERT INTO t (id, name, region) VALUES (30, 'thirty', 'r 9');
UPDATE t SET amount = 7.25 WHERE id IN (3, 21);
DELETE FROM t WHERE region = 'r 0';
MERGE INTO t USING (VALUES (1, 'one'), (31, 'new')) AS s(id, name) ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET name = s.name
  WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name);
OPTIMIZE t;
UPDATE t SET region = 'r 1' WHERE id = 30;
== SELECT * FROM t
["2.50",1,"one","r 1"]
["2.50",20,"late","r 1"]
["2.50",5,"n5","r 1"]
["2.50",9,"n9","r 1"]
["7.25",21,"later",null]
["7.25",3,"n3","r 3"]
[null,10,"n10","r 2"]
[null,11,"n11","r 3"]
[null,30,"thirty","r 1"]
[null,31,"new",null]
[null,6,"changed","r 2"]
"#;

const ICEBERG_COMPATIBLE: &str = r#"
-- refused: icebergCompatV2
INSERT INTO t VALUES (2, 'b');
-- refused: icebergCompatV2
DELETE FROM t;
== SELECT * FROM t
[1,"a"]
"#;

const VARIANTS: &str = "
-- refused: variant
INSERT INTO t (id) VALUES (9);
-- refused: variant
DELETE FROM t WHERE id = 2;
-- refused: variant
MERGE INTO t USING (VALUES (2)) AS s(id) ON t.id = s.id WHEN MATCHED THEN DELETE;
== SELECT id FROM t WHERE id = 2
[2]
";

pub(super) fn trials() -> Vec<Trial> {
    let trial = |(fixture, script): &(&'static str, &'static str)| {
        let (fixture, script) = (*fixture, *script);
        let name = format!("interop::writes::{fixture}");
        patience::test(name, move || run_case(fixture, script))
    };
    CASES.iter().map(trial).collect()
}

fn run_case(fixture: &str, script: &str) -> Result<(), Failed> {
    let folder = oracle::fixtures().join(fixture);
    let mut table = Fixture::open(&folder, "table")?;
    let mut parts = script.split("\n== ");
    let statements = parts.next().unwrap_or_default();
    for statement in statements.split(';').map(str::trim) {
        run_step(&mut table, statement)?;
    }
    for question in parts {
        let mut lines = question.lines();
        let query = lines.next().unwrap_or_default();
        let expected: Vec<String> = lines.map(str::to_owned).collect();
        check_same(query, &expected, &table.rows(query)?)?;
    }
    table.check_all(&folder, "table")
}

fn run_step(table: &mut Fixture, statement: &str) -> Result<(), Failed> {
    let is_skipped = statement.starts_with("OPTIMIZE") && !WITH_OPTIMIZE;
    if statement.is_empty() || is_skipped {
        return Ok(());
    }
    let refused = statement.strip_prefix("-- refused: ");
    match refused.and_then(|refused| refused.split_once('\n')) {
        Some((reason, statement)) => table.run_refused(statement, reason),
        None => table.run(statement),
    }
}
