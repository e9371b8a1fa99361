"""The kinds of tables that spark_writes.py tries, and the statements, in SQL that Alluvial and Spark share."""

from dataclasses import dataclass, field

NAME = "concat('n', CAST({id} AS STRING))"
# Values that a partition's folder and its text in the log must escape.
REGION = "CASE {id} % 4 WHEN 0 THEN 'a b' WHEN 1 THEN 'c/d=%' WHEN 2 THEN 'ü' END"
ONE = "(SELECT CAST(101 AS BIGINT) AS k)"
DAY = "CASE {id} % 3 WHEN 0 THEN DATE '2024-02-29' WHEN 1 THEN DATE '1969-12-31' END"
MOMENT = "CASE {id} % 3 WHEN 0 THEN TIMESTAMP '2024-02-29 23:59:59.999999' WHEN 1 THEN TIMESTAMP '1969-12-31 00:00:00' END"
PRICE = "CAST({id} AS DECIMAL(12, 2)) / 4"
RATIO = "CAST({id} AS DOUBLE) / 8"


@dataclass
class Kind:
    """A table: how it is made, and the expressions, over a row's key, that its rows have."""

    # The table of `spark/<case>` to begin with, then what Alluvial and then what Spark does to make it.
    fixture: str | None = None
    make: list = field(default_factory=list)
    make_by_spark: list = field(default_factory=list)
    id: str = "id"
    values: dict = field(default_factory=lambda: {"name": NAME})
    # The assignments of an UPDATE.
    update: dict = field(default_factory=lambda: {"name": "concat(name, '!')"})
    # The order that OPTIMIZE brings.
    order: str = ""
    # Whether the change feed is on, and whether rows have ids.
    feed: bool = True
    row_ids: bool = False
    # A column that Delta fills with a value of its own for each row, and what holds for every row.
    unique: str | None = None
    rule: str | None = None
    # Statements that both must refuse, each with a word that both errors have.
    refused: dict = field(default_factory=dict)
    # Whether commits have times of their own, and what the table is clustered by.
    commit_times: bool = False
    clustered: list | None = None
    # Whether Spark searches for values of each column.
    is_searched: bool = False
    # Whether rows must stay as they are.
    is_append_only: bool = False
    # What comes first in each change, with the number `{n}`, and what only Spark does, between the changes of the two.
    evolve: list = field(default_factory=list)
    alter_by_spark: list = field(default_factory=list)


def created(columns, more="", then=(), **rest):
    return Kind(make=[f"CREATE TABLE {{t}} ({columns}) {more}", *then], **rest)


def created_by_spark(columns, more, *properties, **rest):
    feed = "delta.enableChangeDataFeed = true"
    statement = f"CREATE TABLE {{t}} ({columns}) USING delta {more} TBLPROPERTIES ({', '.join([feed, *properties])})"
    return Kind(make_by_spark=[statement, "INSERT INTO {t} (id, name) VALUES (1, 'a'), (2, 'b')"], **rest)


VECTORS = "delta.enableDeletionVectors = true"
ROW_IDS = "delta.enableRowTracking = true"
EVOLVE = """MERGE WITH SCHEMA EVOLUTION INTO {t} AS t USING (
  SELECT CAST({n} - 99 AS BIGINT) AS id, 'evolved' AS name, CAST({n} AS INT) AS c{n}, named_struct('x', 1, 'y{n}', 'new') AS place
  UNION ALL SELECT {n} + 20, 'evolved', NULL, NULL) AS s ON t.id = s.id
  WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"""


KINDS = {
    "plain": created("id BIGINT, name STRING"),
    "without_feed": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')", feed=False),
    "copy_on_write": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')"),
    "partitioned": created(
        "id BIGINT, name STRING, region STRING, day DATE", "PARTITIONED BY (region, day)",
        values={"name": NAME, "region": REGION, "day": DAY}, update={"name": "concat(name, '!')", "region": "'moved'"},
        order="ZORDER BY (id, name)"),
    "types": created(
        "id BIGINT, name STRING, small SMALLINT, whole INT, ratio DOUBLE, price DECIMAL(12, 2), flag BOOLEAN, day DATE,"
        " moment TIMESTAMP, instant TIMESTAMPTZ, tiny TINYINT, single FLOAT, pair STRUCT<a: BIGINT, b: STRING>",
        values={"name": NAME, "small": "CAST({id} AS SMALLINT)", "whole": "CAST(-{id} AS INT)", "ratio": RATIO, "price": PRICE,
                "flag": "{id} % 2 = 0", "day": DAY, "moment": MOMENT, "instant": MOMENT, "tiny": "CAST({id} % 100 AS TINYINT)",
                "single": f"CAST({RATIO} AS FLOAT)", "pair": "named_struct('a', {id}, 'b', 'text')"},
        update={"price": "price + 1", "moment": "NULL", "flag": "NOT flag"}, is_searched=True),
    "constraints": created(
        "id BIGINT NOT NULL, name STRING NOT NULL, price DECIMAL(12, 2)", "",
        ["ALTER TABLE {t} ADD CONSTRAINT positive CHECK (price >= 0 AND id > 0)"],
        values={"name": NAME, "price": PRICE},
        refused={"INSERT INTO {t} (id, name, price) VALUES (900, 'x', -1)": "positive", "UPDATE {t} SET name = NULL": "not null",
                 f"MERGE INTO {{t}} AS t USING {ONE} AS s ON t.id = s.k WHEN MATCHED THEN UPDATE SET price = -1": "positive"}),
    "append_only": created(
        "id BIGINT, name STRING", "TBLPROPERTIES ('delta.appendOnly' = 'true')", is_append_only=True,
        refused={"DELETE FROM {t} WHERE id = 101": "append", "UPDATE {t} SET name = 'x'": "append",
                 f"MERGE INTO {{t}} AS t USING {ONE} AS s ON t.id = s.k WHEN MATCHED THEN DELETE": "append"}),
    "schema_evolution": created(
        "id BIGINT, name STRING, place STRUCT<x: INT>", evolve=[EVOLVE, "ALTER TABLE {t} ADD COLUMN d{n} DATE"]),
    "commit_times": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')", commit_times=True),
    "commit_times_later": created(
        "id BIGINT, name STRING", "", ["INSERT INTO {t} VALUES (1, 'a'), (2, 'b')",
                                       "ALTER TABLE {t} SET TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')"],
        commit_times=True),
    "checkpoints": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.checkpointInterval' = '2')"),
    "tracked_changes": created(
        "id BIGINT PRIMARY KEY, name STRING", "", ["ALTER TABLE {t} ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON)"]),
    "generated": created(
        "id BIGINT, name STRING, moment TIMESTAMP, day DATE GENERATED ALWAYS AS (CAST(moment AS DATE)),"
        " twice BIGINT GENERATED ALWAYS AS (id * 2)", "PARTITIONED BY (day)",
        values={"name": NAME, "moment": MOMENT}, update={"moment": "TIMESTAMP '2024-03-01 01:00:00'"},
        rule="twice = id * 2 AND day <=> CAST(moment AS DATE)",
        refused={"INSERT INTO {t} (id, twice) VALUES (900, 5)": "generated", "UPDATE {t} SET twice = 0": "generated"}),
    "identity": created(
        "key BIGINT GENERATED ALWAYS AS IDENTITY (START WITH 7 INCREMENT BY 3), id BIGINT, name STRING",
        unique="key", rule="key >= 7 AND (key - 7) % 3 = 0",
        refused={"INSERT INTO {t} (key, id) VALUES (1, 900)": "identity", "UPDATE {t} SET key = 1": "identity"}),
    "identity_by_default": created(
        "key BIGINT GENERATED BY DEFAULT AS IDENTITY (START WITH -1 INCREMENT BY -2), id BIGINT, name STRING",
        then=["INSERT INTO {t} (key, id, name) VALUES (1000000, 1, 'given')"],
        unique="key", rule="key = 1000000 OR key < 0 AND key % 2 = -1"),
    "defaults": created(
        "id BIGINT, name STRING, kind STRING DEFAULT 'plain', price DECIMAL(12, 2) DEFAULT 1.5",
        rule="kind = 'plain' AND price = 1.5"),
    "everything": created(
        "key BIGINT GENERATED ALWAYS AS IDENTITY, id BIGINT NOT NULL, name STRING, moment TIMESTAMP, kind STRING DEFAULT 'plain',"
        " day DATE GENERATED ALWAYS AS (CAST(moment AS DATE)), region STRING", "PARTITIONED BY (day, region)"
        " TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true', 'delta.checkpointInterval' = '3')",
        ["ALTER TABLE {t} ADD CONSTRAINT positive CHECK (id > 0)", "INSERT INTO {t} (id, name) VALUES (1, 'a'), (2, 'b')"],
        make_by_spark=[
            f"ALTER TABLE {{t}} SET TBLPROPERTIES ({ROW_IDS}, delta.columnMapping.mode = 'name', delta.enableTypeWidening = true)",
            "ALTER TABLE {t} SET TBLPROPERTIES (delta.checkpointPolicy = 'v2')", "ALTER TABLE {t} RENAME COLUMN region TO area",
            "INSERT INTO {t} (id, name) VALUES (3, 'c')"],
        values={"name": NAME, "moment": MOMENT, "area": REGION}, update={"name": "concat(name, '!')", "area": "'moved'"},
        commit_times=True, row_ids=True, unique="key", rule="kind = 'plain' AND day <=> CAST(moment AS DATE)",
        refused={"UPDATE {t} SET id = -1": "positive", "INSERT INTO {t} (id, key) VALUES (900, 1)": "identity"}),
    "spark_generated": Kind(
        fixture="generated", feed=False, values={"moment": MOMENT, "since": DAY, "a": "CAST({id} AS INT)", "b": "3"},
        update={"a": "a + 1", "moment": "TIMESTAMP '2024-03-01 01:00:00'"}),
    # The identity that may be given is the key.
    "spark_identities": Kind(fixture="identities", feed=False, id="number", unique="key"),
    "spark_defaults": Kind(fixture="defaults"),
    "row_ids": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableRowTracking' = 'true')", row_ids=True),
    "spark_row_ids": Kind(fixture="tracked_rows", feed=False, row_ids=True),
    "spark_row_ids_vectors": Kind(fixture="tracked_rows_vectors", feed=False, row_ids=True),
    "spark_row_ids_and_feed": created_by_spark(
        "id BIGINT, name STRING, region STRING", "PARTITIONED BY (region)", VECTORS, ROW_IDS, "delta.checkpointInterval = 3",
        row_ids=True, values={"name": NAME, "region": REGION}, update={"name": "concat(name, '!')", "region": "'moved'"}),
    "spark_row_ids_later": created(
        "id BIGINT, name STRING", then=["INSERT INTO {t} VALUES (1, 'a'), (2, 'b')", "UPDATE {t} SET name = 'c' WHERE id = 2"],
        make_by_spark=[f"ALTER TABLE {{t}} SET TBLPROPERTIES ({ROW_IDS})"], row_ids=True),
    "spark_commit_times": Kind(fixture="instants", commit_times=True),
    "spark_append_only": Kind(
        fixture="append_only", feed=False, is_append_only=True,
        refused={"DELETE FROM {t} WHERE id = 1": "append", "UPDATE {t} SET name = 'x'": "append"}),
    "spark_rules": Kind(
        fixture="rules", feed=False, values={"name": NAME, "small": "CAST({id} % 90 + 1 AS INT)"},
        refused={"INSERT INTO {t} VALUES (900, 'x', 100)": "small < 100", "UPDATE {t} SET small = 0": "positive"}),
    "spark_mapped_by_name": Kind(
        fixture="mapped_by_name", values={"name": NAME, "area": REGION}, update={"name": "concat(name, '!')", "area": "'moved'"}),
    "spark_mapped_by_id": Kind(
        fixture="mapped_by_id", values={"name": NAME, "area": REGION}, update={"name": "concat(name, '!')", "area": "'moved'"}),
    "spark_vectors": Kind(fixture="feed_and_vectors", values={"name": NAME, "part": "CAST({id} % 2 AS INT)"}),
    "spark_clustered": Kind(
        fixture="domains", feed=False, values={"name": NAME, "weight": "CAST({id} * 7 % 10 AS INT)"}, clustered=["weight"]),
    "spark_clustered_with_feed": created_by_spark(
        "id BIGINT, name STRING, weight INT", "CLUSTER BY (weight, id)", VECTORS,
        values={"name": NAME, "weight": "CAST({id} * 7 % 10 AS INT)"}, clustered=["weight", "id"]),
    "spark_widened": Kind(
        fixture="widened", values={"ratio": RATIO, "price": PRICE, "part": "{id} % 2 + 5000000000"},
        update={"ratio": "ratio + 1", "price": "NULL"}),
    # Columns become wider while both write.
    "spark_widens": created_by_spark(
        "id BIGINT, name STRING, small TINYINT, price DECIMAL(12, 2), day DATE, pair STRUCT<a: INT>", "", VECTORS,
        "delta.enableTypeWidening = true", "delta.feature.timestampNtz = 'supported'",
        values={"name": NAME, "small": "CAST({id} % 100 AS TINYINT)", "price": PRICE, "day": DAY,
                "pair": "named_struct('a', CAST({id} AS INT))"},
        update={"price": "price + 1", "name": "concat(name, '!')"},
        alter_by_spark=["ALTER TABLE {t} ALTER COLUMN small TYPE INT", "ALTER TABLE {t} ALTER COLUMN price TYPE DECIMAL(16, 4)",
                        "ALTER TABLE {t} ALTER COLUMN day TYPE TIMESTAMP_NTZ", "ALTER TABLE {t} ALTER COLUMN pair.a TYPE BIGINT"]),
    # Columns change their names and go while both write.
    "spark_renames": created_by_spark(
        "id BIGINT, name STRING, gone INT, region STRING", "PARTITIONED BY (region)", VECTORS, "delta.columnMapping.mode = 'name'",
        alter_by_spark=["ALTER TABLE {t} RENAME COLUMN region TO area", "ALTER TABLE {t} DROP COLUMN gone",
                        "ALTER TABLE {t} ADD COLUMN gone STRING"]),
    "spark_checkpoints": Kind(fixture="checkpoint_v2_json", values={"name": NAME, "region": REGION}),
    "spark_mapped_checkpoints": Kind(fixture="checkpoint_v2_parquet", values={"name": NAME, "region": REGION}),
}


def change(kind, base):
    """Rows `base` + 1 to `base` + 9 come, and some of them change or go; so do some of a hundred before, or of the fixture's."""
    key = kind.id
    keys = range(base + 1, base + 9)
    updated, other = (base - 99, base - 94) if base > 100 else (2, 1)
    names = ", ".join([key, *kind.values])
    selected = [f"{value} AS {name}" for name, value in zip([key, *kind.values], expressions(kind, "v.k"))]
    updates = ", ".join(f"{name} = {value}" for name, value in kind.update.items())
    insert = f"INSERT INTO {{t}} ({names}) SELECT {', '.join(selected)} FROM {source(keys)} AS v"
    not_matched = f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({', '.join(expressions(kind, 's.k'))})"
    if kind.is_append_only:
        return [insert, f"MERGE INTO {{t}} AS t USING {source([base + 1, base + 9])} AS s ON t.{key} = s.k {not_matched}"]
    return [
        *(statement.replace("{n}", str(base)) for statement in kind.evolve),
        insert,
        f"UPDATE {{t}} SET {updates} WHERE {key} IN ({numbers([base + 2, base + 7, updated])})",
        f"DELETE FROM {{t}} WHERE {key} = {base + 3}",
        f"MERGE INTO {{t}} AS t USING {source([base + 4, base + 5, base + 9, other])} AS s ON t.{key} = s.k"
        f" WHEN MATCHED AND s.k = {base + 5} THEN DELETE"
        f" WHEN MATCHED THEN UPDATE SET {assignments(kind, 's.k + 1000')} {not_matched}"
        f" WHEN NOT MATCHED BY SOURCE AND t.{key} = {base + 1} THEN UPDATE SET {updates}"
        f" WHEN NOT MATCHED BY SOURCE AND t.{key} = {base + 8} THEN DELETE",
    ]


def arrange(kind):
    return [f"OPTIMIZE {{t}} {kind.order}"]


def clean_by_alluvial():
    """Drops what DELETE has marked, then the files that only older versions need."""
    keep = "ALTER TABLE {t} SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 0 hours')"
    return ["REORG TABLE {t} APPLY (PURGE)", keep, "VACUUM {t}"]


def clean_by_spark():
    return ["REORG TABLE {t} APPLY (PURGE)", "VACUUM {t} RETAIN 0 HOURS"]


def expressions(kind, key):
    return [key, *(value.replace("{id}", key) for value in kind.values.values())]


def assignments(kind, key):
    return ", ".join(f"{name} = {value.replace('{id}', f'({key})')}" for name, value in kind.values.items())


def source(keys):
    first, *rest = keys
    return "(" + " UNION ALL ".join([f"SELECT CAST({first} AS BIGINT) AS k", *(f"SELECT {key}" for key in rest)]) + ")"


def numbers(keys):
    return ", ".join(map(str, keys))
