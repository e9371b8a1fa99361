"""Cases: columns that come, go, change their names and their types, and values of every type."""

from delta.tables import DeltaTable, IdentityGenerator
from spark_session import case

FEED = "delta.enableChangeDataFeed = true"
NAMES = f"{FEED}, delta.columnMapping.mode = 'name'"
VECTORS = "delta.enableDeletionVectors = true"


@case
def columns_by_name(t):
    changing_columns(t, "name")


@case
def columns_by_id(t):
    changing_columns(t, "id")


def changing_columns(t, mode):
    t.run(f"""
        CREATE TABLE {{t}} (id INT, first STRING, second STRING, region STRING) USING delta PARTITIONED BY (region)
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.columnMapping.mode = '{mode}', delta.enableTypeWidening = true);
        INSERT INTO {{t}} VALUES (1, 'a', 'x', 'eu'), (2, 'b', 'y', 'us'), (3, 'c', NULL, 'eu'), (4, 'd', 'z', NULL);
        ALTER TABLE {{t}} ADD COLUMN added STRUCT<left: INT, right: STRING>;
        INSERT INTO {{t}} VALUES (5, 'e', 'v', 'us', named_struct('left', 1, 'right', 'r'));
        ALTER TABLE {{t}} RENAME COLUMN second TO other;
        UPDATE {{t}} SET other = concat(other, '!') WHERE id <= 2;
        ALTER TABLE {{t}} DROP COLUMN first;
        DELETE FROM {{t}} WHERE id = 3;
        ALTER TABLE {{t}} ALTER COLUMN other FIRST;
        ALTER TABLE {{t}} ALTER COLUMN id TYPE BIGINT;
        MERGE INTO {{t}} AS t USING (SELECT * FROM VALUES (2, 'two'), (6000000000, 'six') AS s(id, other)) AS s ON t.id = s.id
          WHEN MATCHED THEN UPDATE SET other = s.other
          WHEN NOT MATCHED THEN INSERT (id, other, region) VALUES (s.id, s.other, 'ap');
        ALTER TABLE {{t}} ADD COLUMN first DOUBLE AFTER id;
        ALTER TABLE {{t}} RENAME COLUMN region TO area;
        UPDATE {{t}} SET first = id / 2, area = 'eu' WHERE id IN (4, 5);
        ALTER TABLE {{t}} RENAME COLUMN added.left TO start;
        ALTER TABLE {{t}} DROP COLUMN added.right;
        INSERT INTO {{t}} (id, added) VALUES (7, named_struct('start', 9))
    """)


@case
def columns_swapped(t):
    """Two columns change names with each other."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, a INT, b INT) USING delta TBLPROPERTIES ({NAMES});
        INSERT INTO {{t}} VALUES (1, 10, 20), (2, 11, 21);
        ALTER TABLE {{t}} RENAME COLUMN a TO c;
        ALTER TABLE {{t}} RENAME COLUMN b TO a;
        ALTER TABLE {{t}} RENAME COLUMN c TO b;
        UPDATE {{t}} SET a = a + 100 WHERE id = 1;
        DELETE FROM {{t}} WHERE b = 11
    """)


@case
def columns_nested(t):
    """Structs inside arrays and maps evolve, with column mapping."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, items ARRAY<STRUCT<a: INT, b: STRING>>, lookup MAP<STRING, STRUCT<v: INT>>,
          deep STRUCT<inner: STRUCT<x: INT, y: INT>>) USING delta TBLPROPERTIES ({NAMES}, {VECTORS});
        INSERT INTO {{t}} SELECT 1, array(named_struct('a', 1, 'b', 'p'), NULL), map('k', named_struct('v', 1)),
          named_struct('inner', named_struct('x', 1, 'y', 2));
        INSERT INTO {{t}} SELECT 2, array(), map(), named_struct('inner', CAST(NULL AS STRUCT<x: INT, y: INT>));
        ALTER TABLE {{t}} ADD COLUMNS (items.element.c DOUBLE, lookup.value.w STRING, deep.inner.z STRING);
        INSERT INTO {{t}} SELECT 3, array(named_struct('a', 2, 'b', 'q', 'c', 0.5D)), map('m', named_struct('v', 2, 'w', 'ww')),
          named_struct('inner', named_struct('x', 3, 'y', 4, 'z', 'zz'));
        ALTER TABLE {{t}} RENAME COLUMN items.element.a TO alpha;
        ALTER TABLE {{t}} RENAME COLUMN deep.inner.x TO ex;
        UPDATE {{t}} SET deep.inner.ex = 7 WHERE id < 3;
        ALTER TABLE {{t}} DROP COLUMN items.element.b;
        ALTER TABLE {{t}} DROP COLUMN deep.inner.y;
        DELETE FROM {{t}} WHERE id = 1;
        INSERT INTO {{t}} SELECT 4, NULL, NULL, NULL
    """)


@case
def columns_plain(t):
    """Without column mapping: columns added at the end, in front and in a struct, order changed, NOT NULL relaxed."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT NOT NULL, name STRING NOT NULL, pair STRUCT<a: INT>) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} SELECT 1, 'one', named_struct('a', 1) UNION ALL SELECT 2, 'two', NULL;
        ALTER TABLE {{t}} ADD COLUMNS (late STRING, early INT FIRST);
        UPDATE {{t}} SET late = 'l' WHERE id = 1;
        ALTER TABLE {{t}} ALTER COLUMN name DROP NOT NULL;
        INSERT INTO {{t}} (id, early) VALUES (3, 30);
        ALTER TABLE {{t}} ALTER COLUMN name FIRST;
        ALTER TABLE {{t}} ADD COLUMNS (pair.b STRING);
        MERGE INTO {{t}} AS t USING (SELECT 2 AS id, named_struct('a', 2, 'b', 'bb') AS pair) AS s ON t.id = s.id
          WHEN MATCHED THEN UPDATE SET pair = s.pair
          WHEN NOT MATCHED BY SOURCE AND t.id = 3 THEN DELETE
    """)


@case
def columns_merged(t):
    """A MERGE and an append that bring new columns, nested ones too."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, pair STRUCT<a: INT>) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} SELECT 1, named_struct('a', 1) UNION ALL SELECT 2, named_struct('a', 2);
        MERGE INTO {{t}} AS t USING (SELECT 2 AS id, named_struct('a', 20, 'b', 'b') AS pair, 'n' AS extra) AS s ON t.id = s.id
          WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *;
        INSERT INTO {{t}} SELECT 3 AS id, named_struct('a', 3, 'b', 'c') AS pair, 'm' AS extra, DATE '2024-02-29' AS day
    """, {"spark.databricks.delta.schema.autoMerge.enabled": "true"})


@case
def columns_retyped(t):
    """A column gets another type, by an overwrite: no range over that commit can be read."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, code STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, '7'), (2, '8')
    """)
    retyped = t.spark.sql("SELECT id, CAST(code AS INT) AS code FROM VALUES (1, '70'), (3, '90') AS s(id, code)")
    retyped.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(t.path)
    t.run("UPDATE {t} SET code = code + 1 WHERE id = 1")


@case
def column_names(t):
    """Names that need column mapping, and partition columns of such names."""
    t.run(f"""
        CREATE TABLE {{t}} (`a b` INT, `c,d` STRING, `e%f` STRING, `ü{{x}}` DOUBLE, `p=q (r)` STRING) USING delta
          PARTITIONED BY (`p=q (r)`) TBLPROPERTIES ({NAMES});
        INSERT INTO {{t}} VALUES (1, 'x', 'y', 1.5, 'one'), (2, NULL, '', 2.5, 'two words');
        UPDATE {{t}} SET `c,d` = 'z' WHERE `a b` = 1;
        ALTER TABLE {{t}} RENAME COLUMN `c,d` TO `C.D`;
        DELETE FROM {{t}} WHERE `a b` = 2
    """)


@case
def mapping_later(t):
    """Column mapping is switched on in the middle."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING, kind STRING) USING delta PARTITIONED BY (kind) TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a', 'k'), (2, 'b', 'l');
        ALTER TABLE {{t}} SET TBLPROPERTIES (delta.columnMapping.mode = 'name', delta.minReaderVersion = 2,
          delta.minWriterVersion = 5);
        UPDATE {{t}} SET name = 'A' WHERE id = 1;
        ALTER TABLE {{t}} RENAME COLUMN name TO title;
        ALTER TABLE {{t}} RENAME COLUMN kind TO sort;
        UPDATE {{t}} SET sort = 'm' WHERE id = 2;
        ALTER TABLE {{t}} DROP COLUMN title;
        INSERT INTO {{t}} VALUES (3, 'k')
    """)


@case
def types_widened(t):
    t.run(f"""
        CREATE TABLE {{t}} (id INT, tiny TINYINT, small SMALLINT, whole INT, ratio FLOAT, price DECIMAL(6, 2), day DATE,
          count INT, pair STRUCT<a: INT>, items ARRAY<SMALLINT>, part INT) USING delta PARTITIONED BY (part)
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.enableTypeWidening = true, delta.feature.timestampNtz = 'supported');
        INSERT INTO {{t}} SELECT 1, -1Y, 1S, 1, 0.1F, 1.25BD, DATE '2024-02-29', 5, named_struct('a', 1), array(1S, NULL), 1
          UNION ALL SELECT 2, 127Y, -32768S, NULL, CAST('NaN' AS FLOAT), -9999.99BD, DATE '1969-12-31', -5, NULL, array(2S), 2;
        ALTER TABLE {{t}} ALTER COLUMN tiny TYPE SMALLINT;
        ALTER TABLE {{t}} ALTER COLUMN small TYPE INT;
        UPDATE {{t}} SET tiny = 1000 WHERE id = 1;
        ALTER TABLE {{t}} ALTER COLUMN tiny TYPE INT;
        ALTER TABLE {{t}} ALTER COLUMN whole TYPE BIGINT;
        ALTER TABLE {{t}} ALTER COLUMN ratio TYPE DOUBLE;
        ALTER TABLE {{t}} ALTER COLUMN price TYPE DECIMAL(10, 4);
        ALTER TABLE {{t}} ALTER COLUMN day TYPE TIMESTAMP_NTZ;
        ALTER TABLE {{t}} ALTER COLUMN count TYPE DECIMAL(12, 1);
        ALTER TABLE {{t}} ALTER COLUMN pair.a TYPE BIGINT;
        ALTER TABLE {{t}} ALTER COLUMN items.element TYPE INT;
        ALTER TABLE {{t}} ALTER COLUMN part TYPE BIGINT;
        DELETE FROM {{t}} WHERE id = 2;
        INSERT INTO {{t}} SELECT 3, 100000, 100000, 5000000000, 0.1D, 12.3456BD, TIMESTAMP_NTZ '2024-02-29 12:34:56.5', 1.5BD,
          named_struct('a', 5000000000), array(100000), 5000000000;
        ALTER TABLE {{t}} ALTER COLUMN tiny TYPE DOUBLE;
        UPDATE {{t}} SET tiny = tiny + 0.5, part = 3
    """)


@case
def types(t):
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INT, ratio FLOAT, amount DOUBLE,
          price DECIMAL(38, 18), cents DECIMAL(5, 2), units DECIMAL(15, 0), text STRING, payload BINARY, day DATE,
          moment TIMESTAMP, local TIMESTAMP_NTZ, short VARCHAR(4), items ARRAY<INT>,
          lookup MAP<INT, ARRAY<STRING>>, pair STRUCT<a: DECIMAL(5, 2), b: TIMESTAMP>) USING delta
          TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} VALUES (1, true, -128, 32767, -1, 0.1, 1e300, 12345678901234567890.123456789012345678, 1.25, 7,
          'it\\'s "ünï"\\n\\\\ 😀', X'00ff', DATE '1999-12-31', TIMESTAMP '2024-02-29 12:34:56.789012Z',
          TIMESTAMP_NTZ '2024-02-29 12:34:56.789012', 'wxyz', array(1, NULL, 3), map(1, array('a', NULL), 2, NULL),
          named_struct('a', 1.5, 'b', TIMESTAMP '1969-12-31 23:59:59.5Z'));
        INSERT INTO {{t}} VALUES (2, false, 127, -32768, 0, 'Infinity', '-0.0', -0.000000000000000001, -999.99, -1, '', X'',
          DATE '0001-01-01', TIMESTAMP '0001-01-01 00:00:00Z', TIMESTAMP_NTZ '9999-12-31 23:59:59.999999', '', array(), map(),
          NULL);
        INSERT INTO {{t}} (id) VALUES (3);
        UPDATE {{t}} SET flag = NOT flag, cents = cents + 1, moment = moment + INTERVAL 1 DAY, text = concat(text, '?')
          WHERE id <> 2;
        DELETE FROM {{t}} WHERE id = 2
    """)


@case
def variants(t):
    t.run(f"""
        CREATE TABLE {{t}} (id INT, v VARIANT, pair STRUCT<v: VARIANT>, items ARRAY<VARIANT>) USING delta
          TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT 1, parse_json('{{"a": [1, 2.5, null], "b": "text"}}'), named_struct('v', parse_json('true')),
          array(parse_json('1'), NULL);
        INSERT INTO {{t}} SELECT 2, NULL, NULL, NULL UNION ALL SELECT 3, parse_json('null'), named_struct('v', NULL), array();
        UPDATE {{t}} SET v = parse_json('{{"c": 1e10}}') WHERE id = 2;
        DELETE FROM {{t}} WHERE id = 1
    """)


@case
def variant_added(t):
    t.run(f"""
        CREATE TABLE {{t}} (id INT) USING delta TBLPROPERTIES ({FEED}, delta.feature.variantType = 'supported');
        INSERT INTO {{t}} VALUES (1), (2);
        ALTER TABLE {{t}} ADD COLUMN v VARIANT;
        UPDATE {{t}} SET v = parse_json('[1]') WHERE id = 1
    """)


@case
def identity_and_generated(t):
    # SQL has no generated columns in Spark's own catalog.
    builder = DeltaTable.create(t.spark).location(t.path).partitionedBy("day")
    builder = builder.addColumn("key", "BIGINT", generatedAlwaysAs=IdentityGenerator(start=10, step=5))
    builder = builder.addColumn("moment", "TIMESTAMP").addColumn("day", "DATE", generatedAlwaysAs="CAST(moment AS DATE)")
    builder = builder.addColumn("amount", "INT").addColumn("twice", "INT", generatedAlwaysAs="amount * 2")
    builder.property("delta.enableChangeDataFeed", "true").property("delta.feature.allowColumnDefaults", "supported").execute()
    t.run("""
        INSERT INTO {t} (moment, amount) VALUES (TIMESTAMP '2024-01-01 10:00:00', 7), (TIMESTAMP '2024-01-02 11:00:00', 8);
        ALTER TABLE {t} ALTER COLUMN amount SET DEFAULT 5;
        INSERT INTO {t} (moment) VALUES (NULL);
        UPDATE {t} SET amount = 3 WHERE key = 10;
        ALTER TABLE {t} ADD CONSTRAINT small CHECK (amount < 100);
        MERGE INTO {t} AS t USING (SELECT 15 AS key, TIMESTAMP '2024-01-03' AS moment) AS s ON t.key = s.key
          WHEN MATCHED THEN UPDATE SET moment = s.moment;
        DELETE FROM {t} WHERE day IS NULL
    """)


@case
def partition_texts(t):
    """Text in partition paths: what is escaped there, once and twice."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, label STRING, second STRING) USING delta PARTITIONED BY (label, second)
          TBLPROPERTIES ({FEED}, {VECTORS})
    """)
    texts = ["a b/c%d=é:", "100%", "%20", "a%2Fb", "it's", 'quo"te', "back\\slash", "semi#hash?x&y+z", "ünï", "日本", "😀"]
    # No path ends in a space or a point or has one of `<>|`, so that the fixture can be checked out anywhere.
    texts += [" lead", "..x", "null", "__HIVE_DEFAULT_PARTITION__x", "{curly}[square]", "tab\there", "A", "a", "1.0", "~^`*,@!$()"]
    rows = [(number, text, "x" + text) for number, text in enumerate(texts)]
    rows += [(100, None, "x"), (101, "", "y"), (102, "z", None)]
    frame = t.spark.createDataFrame(rows, "id INT, label STRING, second STRING")
    frame.write.format("delta").mode("append").save(t.path)
    t.run("""
        UPDATE {t} SET id = id + 1000 WHERE id < 8;
        DELETE FROM {t} WHERE id IN (9, 10, 100);
        MERGE INTO {t} AS t USING (SELECT 11 AS id, 'moved %/' AS label) AS s ON t.id = s.id
          WHEN MATCHED THEN UPDATE SET label = s.label;
        DELETE FROM {t} WHERE label IS NULL
    """)


@case
def partition_types(t):
    """Partition values of every type, written with and without a zone; files lie in folders of random names."""
    columns = """flag BOOLEAN, tiny TINYINT, small SMALLINT, whole INT, big BIGINT, ratio FLOAT, amount DOUBLE,
      price DECIMAL(10, 3), day DATE, moment TIMESTAMP, local TIMESTAMP_NTZ, payload BINARY"""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, {columns}) USING delta
          PARTITIONED BY (flag, tiny, small, whole, big, ratio, amount, price, day, moment, local, payload)
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.randomizeFilePrefixes = true);
        INSERT INTO {{t}} VALUES
          (1, true, 1, 2, 3, 4, 0.1, 1e300, 1.250, DATE '2024-02-29', TIMESTAMP '2024-02-29 12:34:56.789012Z',
            TIMESTAMP_NTZ '2024-02-29 12:34:56.789012', X'610162');
        INSERT INTO {{t}} VALUES (2, false, -128, -32768, -2147483648, -9223372036854775808, 'NaN', '-Infinity',
            -1234567.891, DATE '0001-01-01', TIMESTAMP '1969-12-31 23:59:59Z', TIMESTAMP_NTZ '0001-01-01 00:00:00', X'2f3d25');
        INSERT INTO {{t}} (id) VALUES (3)
    """)
    t.run("""
        INSERT INTO {t} VALUES (4, true, 127, 32767, 2147483647, 9223372036854775807, '-0.0', 5e-324, 0.001, DATE '9999-12-31',
          TIMESTAMP '2024-07-01 00:00:00Z', TIMESTAMP_NTZ '1999-12-31 00:00:00.5', X'')
    """, {"spark.databricks.delta.write.utcTimestampPartitionValues": "false"})
    t.run("""
        UPDATE {t} SET id = id + 10 WHERE id IN (1, 3);
        UPDATE {t} SET moment = moment + INTERVAL 1 MICROSECOND, local = NULL, price = price + 1 WHERE id IN (2, 4);
        DELETE FROM {t} WHERE id = 11;
        DELETE FROM {t} WHERE flag IS NULL
    """)
