"""Cases: tables whose features bind who writes them, small, for the trials in writes.rs."""

import json
import os
import re

from delta.tables import DeltaTable, IdentityGenerator
from pyspark.sql.types import IntegerType, LongType, StringType, StructField, StructType
from spark_files import FEED, VECTORS
from spark_histories import COPIES, NO_FEED, ROW_IDS
from spark_session import case


@case
def generated(t):
    """Generated columns, one of which the table is partitioned by; the protocol names no features."""
    builder = DeltaTable.create(t.spark).location(t.path).partitionedBy("day")
    builder = builder.addColumn("id", "BIGINT").addColumn("moment", "TIMESTAMP")
    builder = builder.addColumn("day", "DATE", generatedAlwaysAs="CAST(moment AS DATE)")
    builder = builder.addColumn("since", "DATE").addColumn("year", "INT", generatedAlwaysAs="year(since)")
    builder = builder.addColumn("a", "INT").addColumn("b", "INT").addColumn("product", "INT", generatedAlwaysAs="a * b")
    builder.property("delta.enableDeletionVectors", "false").execute()
    t.run("""
        INSERT INTO {t} (id, moment, since, a, b) VALUES
          (1, TIMESTAMP '2024-01-01 10:00:00', DATE '2020-02-29', 2, 3),
          (2, TIMESTAMP '2024-01-01 23:59:59.999', DATE '1969-12-31', 4, NULL), (3, NULL, NULL, 5, 6);
        UPDATE {t} SET moment = TIMESTAMP '2024-01-02 00:00:00', a = 7 WHERE id = 1
    """)


@case
def identities(t):
    """Identity columns: one that is always generated, going up, and one by default, going down."""
    always = IdentityGenerator(start=10, step=5)
    builder = DeltaTable.create(t.spark).location(t.path)
    builder = builder.addColumn("key", "BIGINT", generatedAlwaysAs=always)
    builder = builder.addColumn("number", "BIGINT", generatedByDefaultAs=IdentityGenerator(start=-1, step=-1))
    builder.addColumn("name", "STRING").property("delta.enableDeletionVectors", "true").execute()
    t.run("""
        INSERT INTO {t} (name) VALUES ('a'), ('b');
        INSERT INTO {t} (number, name) VALUES (100, 'c');
        UPDATE {t} SET name = 'B' WHERE name = 'b'
    """)


@case
def defaults(t):
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING DEFAULT 'unnamed', amount DECIMAL(10, 2) DEFAULT 1.5,
          day DATE DEFAULT DATE '2024-02-29', total INT DEFAULT (1 + 1) * 2) USING delta
          TBLPROPERTIES ({FEED}, {COPIES}, delta.feature.allowColumnDefaults = 'supported');
        INSERT INTO {{t}} (id) VALUES (1);
        INSERT INTO {{t}} VALUES (2, NULL, DEFAULT, DATE '1999-12-31', 5)
    """)


@case
def tracked_rows(t):
    """Row ids that files say and ids that rows carry, after statements that write rows anew."""
    track_rows(t, COPIES)


@case
def tracked_rows_vectors(t):
    track_rows(t, VECTORS)


def track_rows(t, files):
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING) USING delta TBLPROPERTIES ({NO_FEED}, {files}, {ROW_IDS});
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(1, 5, 1, 1);
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(5, 9, 1, 1);
        UPDATE {{t}} SET name = 'changed' WHERE id IN (2, 6);
        DELETE FROM {{t}} WHERE id = 3;
        MERGE INTO {{t}} AS t USING (SELECT * FROM VALUES (5, 'merged'), (9, 'new') AS s(id, name)) AS s ON t.id = s.id
          WHEN MATCHED THEN UPDATE SET name = s.name WHEN NOT MATCHED THEN INSERT *
    """)


@case
def rules(t):
    """NOT NULL, CHECK constraints and a column invariant, which only the schema of the very first version can bring."""
    invariant = json.dumps({"expression": {"expression": "small < 100"}})
    columns = [StructField("id", LongType(), False), StructField("name", StringType(), True),
               StructField("small", IntegerType(), True, {"delta.invariants": invariant})]
    builder = DeltaTable.create(t.spark).location(t.path).addColumns(StructType(columns))
    builder.property("delta.enableDeletionVectors", "false").execute()
    t.run("""
        ALTER TABLE {t} ADD CONSTRAINT named CHECK (name IS NOT NULL OR id < 0);
        ALTER TABLE {t} ADD CONSTRAINT positive CHECK (small > 0);
        INSERT INTO {t} VALUES (1, 'a', 1), (2, 'b', 2), (-3, NULL, 3)
    """)


@case
def mapped_by_name(t):
    map_columns(t, "name")


@case
def mapped_by_id(t):
    map_columns(t, "id")


def map_columns(t, mode):
    """Column mapping with a partition column that has been renamed, a dropped column and renamed fields."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING, gone INT, region STRING, place STRUCT<x: INT, y: STRING>) USING delta
          PARTITIONED BY (region) TBLPROPERTIES ({FEED}, {VECTORS}, delta.columnMapping.mode = '{mode}');
        INSERT INTO {{t}} VALUES (1, 'a', 1, 'e u', named_struct('x', 1, 'y', 'one')), (2, 'b', 2, 'us', NULL),
          (3, 'c', 3, 'us', named_struct('x', 3, 'y', NULL)), (4, 'd', 4, NULL, NULL);
        ALTER TABLE {{t}} RENAME COLUMN region TO area;
        ALTER TABLE {{t}} RENAME COLUMN place.x TO east;
        ALTER TABLE {{t}} DROP COLUMN gone;
        DELETE FROM {{t}} WHERE id = 3
    """)


@case
def append_only(t):
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING) USING delta TBLPROPERTIES ({COPIES}, delta.appendOnly = true);
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b')
    """)


@case
def feed_and_vectors(t):
    """The feed and deletion vectors, one of which a file has already; two files for each of two partitions."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING, part INT) USING delta PARTITIONED BY (part)
          TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, concat('n', id), id % 2 FROM range(1, 9, 1, 1);
        INSERT INTO {{t}} SELECT id, concat('n', id), id % 2 FROM range(9, 13, 1, 1);
        DELETE FROM {{t}} WHERE id IN (2, 3)
    """)


@case
def write_serializable(t):
    """The looser isolation that Databricks has. Spark lets nobody set it, so the first version is changed here."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING) USING delta
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.isolationLevel = 'Serializable');
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b'), (3, 'c')
    """)
    change_commit(t, 0, lambda text: text.replace('"delta.isolationLevel":"Serializable"', '"delta.isolationLevel":"WriteSerializable"'))


@case
def iceberg_compatible(t):
    """A promise to readers of another format, which a writer must know in order to keep it."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING) USING delta
          TBLPROPERTIES ({COPIES}, delta.columnMapping.mode = 'name', delta.enableIcebergCompatV2 = true);
        INSERT INTO {{t}} VALUES (1, 'a')
    """)


@case
def domains(t):
    """Clustering and another domain, and an application's transactions; every second version has a checkpoint."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING, weight INT) USING delta CLUSTER BY (weight)
          TBLPROPERTIES ({VECTORS}, {NO_FEED}, delta.checkpointInterval = 2)
    """)
    rows = t.spark.sql("SELECT id, concat('n', id) AS name, CAST(id * 7 % 10 AS INT) AS weight FROM range(1, 6, 1, 1)")
    writer = rows.write.format("delta").mode("append")
    writer.option("txnAppId", "somebody else").option("txnVersion", "7").save(t.path)
    # Spark lets nobody write a domain of their own.
    version = t.newest() + 1
    commit = {"commitInfo": {"timestamp": 1706745600000, "operation": "SET DOMAIN", "operationParameters": {}}}
    domain = {"domainMetadata": {"domain": "somebody.else", "configuration": '{"note":"keep me"}', "removed": False}}
    with open(t.log(f"{version:020}.json"), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(action) + "\n" for action in (commit, domain))
    t.forget()


@case
def widened(t):
    """Columns of wider types than their first file has, the partition column too."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, ratio FLOAT, price DECIMAL(6, 2), part INT) USING delta PARTITIONED BY (part)
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.enableTypeWidening = true);
        INSERT INTO {{t}} VALUES (1, 0.5, 1.25, 1), (2, NULL, -9999.99, 2), (3, -1.5, NULL, 2);
        ALTER TABLE {{t}} ALTER COLUMN id TYPE BIGINT;
        ALTER TABLE {{t}} ALTER COLUMN ratio TYPE DOUBLE;
        ALTER TABLE {{t}} ALTER COLUMN price TYPE DECIMAL(12, 4);
        ALTER TABLE {{t}} ALTER COLUMN part TYPE BIGINT;
        INSERT INTO {{t}} VALUES (6000000000, 0.1, 12345678.9012, 5000000000)
    """)


@case
def instants(t):
    """In-commit timestamps from the first version on, and one in the far future, which every later one must exceed."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING) USING delta
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.enableInCommitTimestamps = true);
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b'), (3, 'c')
    """)
    far = 4102444800000
    change_commit(t, t.newest(), lambda text: re.sub('"inCommitTimestamp":[0-9]+', f'"inCommitTimestamp":{far}', text))


def change_commit(t, version, change):
    path = t.log(f"{version:020}.json")
    with open(path, encoding="utf-8") as commit:
        before = commit.read()
    after = change(before)
    assert after != before
    # Hadoop keeps a checksum of each file, and Spark one of each version.
    for name in os.listdir(t.log()):
        if name.endswith(".crc"):
            os.remove(t.log(name))
    with open(path, "w", encoding="utf-8") as commit:
        commit.write(after)
    t.forget()
