"""The kinds of tables that spark_writes.py tries, and the statements, in SQL that Alluvial and Spark share."""

from dataclasses import dataclass, field

NAME = "concat('n', CAST({id} AS STRING))"
# Values that a partition's folder and its text in the log must escape.
REGION = "CASE {id} % 4 WHEN 0 THEN 'a b' WHEN 1 THEN 'c/d=%' WHEN 2 THEN 'ü' END"
DAY = "CASE {id} % 3 WHEN 0 THEN DATE '2024-02-29' WHEN 1 THEN DATE '1969-12-31' END"
MOMENT = "CASE {id} % 3 WHEN 0 THEN TIMESTAMP '2024-02-29 23:59:59.999' WHEN 1 THEN TIMESTAMP '1969-12-31 00:00:00' END"
PRICE = "CAST({id} AS DECIMAL(12, 2)) / 4"
RATIO = "CAST({id} AS DOUBLE) / 8"


@dataclass
class Kind:
    """A table: how it is made, and the expressions, over a row's key, that its rows have."""

    make: list = field(default_factory=list)
    # The table of `spark/<case>` to begin with instead.
    fixture: str | None = None
    id: str = "id"
    values: dict = field(default_factory=lambda: {"name": NAME})
    # The assignments of an UPDATE.
    update: dict = field(default_factory=lambda: {"name": "concat(name, '!')"})
    # Whether the change feed is on, and whether rows have ids.
    feed: bool = True
    row_ids: bool = False
    # A column that Delta fills with a value of its own for each row.
    unique: str | None = None


def created(columns, more="", then=(), **rest):
    return Kind(make=[f"CREATE TABLE {{t}} ({columns}) {more}", *then], **rest)


KINDS = {
    "plain": created("id BIGINT, name STRING"),
    "without_feed": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')", feed=False),
    "copy_on_write": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')"),
    "partitioned": created(
        "id BIGINT, name STRING, region STRING, day DATE", "PARTITIONED BY (region, day)",
        values={"name": NAME, "region": REGION, "day": DAY}, update={"name": "concat(name, '!')", "region": "'moved'"}),
    "types": created(
        "id BIGINT, name STRING, small SMALLINT, whole INT, ratio DOUBLE, price DECIMAL(12, 2), flag BOOLEAN, day DATE, moment TIMESTAMP",
        values={"name": NAME, "small": "CAST({id} AS SMALLINT)", "whole": "CAST(-{id} AS INT)", "ratio": RATIO, "price": PRICE,
                "flag": "{id} % 2 = 0", "day": DAY, "moment": MOMENT},
        update={"price": "price + 1", "moment": "NULL", "flag": "NOT flag"}),
    "constraints": created(
        "id BIGINT NOT NULL, name STRING NOT NULL, price DECIMAL(12, 2)", "",
        ["ALTER TABLE {t} ADD CONSTRAINT positive CHECK (price >= 0 AND id > 0)"],
        values={"name": NAME, "price": PRICE}),
    "commit_times": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')"),
    "checkpoints": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.checkpointInterval' = '2')"),
    "tracked_changes": created(
        "id BIGINT PRIMARY KEY, name STRING", "", ["ALTER TABLE {t} ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON)"]),
    "generated": created(
        "id BIGINT, name STRING, moment TIMESTAMP, day DATE GENERATED ALWAYS AS (CAST(moment AS DATE)),"
        " twice BIGINT GENERATED ALWAYS AS (id * 2)", "PARTITIONED BY (day)",
        values={"name": NAME, "moment": MOMENT}, update={"moment": "TIMESTAMP '2024-03-01 01:00:00'"}),
    "identity": created("key BIGINT GENERATED ALWAYS AS IDENTITY (START WITH 7 INCREMENT BY 3), id BIGINT, name STRING", unique="key"),
    "defaults": created("id BIGINT, name STRING, kind STRING DEFAULT 'plain', price DECIMAL(12, 2) DEFAULT 1.5"),
    "spark_generated": Kind(
        fixture="generated", feed=False, values={"moment": MOMENT, "since": DAY, "a": "CAST({id} AS INT)", "b": "3"},
        update={"a": "a + 1", "moment": "TIMESTAMP '2024-03-01 01:00:00'"}),
    # The identity that may be given is the key.
    "spark_identities": Kind(fixture="identities", feed=False, id="number", unique="key"),
    "spark_defaults": Kind(fixture="defaults"),
    "row_ids": created("id BIGINT, name STRING", "TBLPROPERTIES ('delta.enableRowTracking' = 'true')", row_ids=True),
    "spark_row_ids": Kind(fixture="tracked_rows", feed=False, row_ids=True),
    "spark_row_ids_vectors": Kind(fixture="tracked_rows_vectors", feed=False, row_ids=True),
    "spark_rules": Kind(fixture="rules", feed=False, values={"name": NAME, "small": "CAST({id} % 90 + 1 AS INT)"}),
    "spark_mapped_by_name": Kind(
        fixture="mapped_by_name", values={"name": NAME, "area": REGION}, update={"name": "concat(name, '!')", "area": "'moved'"}),
    "spark_mapped_by_id": Kind(
        fixture="mapped_by_id", values={"name": NAME, "area": REGION}, update={"name": "concat(name, '!')", "area": "'moved'"}),
    "spark_vectors": Kind(fixture="feed_and_vectors", values={"name": NAME, "part": "CAST({id} % 2 AS INT)"}),
    "spark_clustered": Kind(fixture="domains", feed=False, values={"name": NAME, "weight": "CAST({id} * 7 % 10 AS INT)"}),
    "spark_widened": Kind(
        fixture="widened", values={"ratio": RATIO, "price": PRICE, "part": "{id} % 2 + 5000000000"},
        update={"ratio": "ratio + 1", "price": "NULL"}),
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
    return [
        f"INSERT INTO {{t}} ({names}) SELECT {', '.join(selected)} FROM {source(keys)} AS v",
        f"UPDATE {{t}} SET {updates} WHERE {key} IN ({numbers([base + 2, base + 7, updated])})",
        f"DELETE FROM {{t}} WHERE {key} = {base + 3}",
        f"MERGE INTO {{t}} AS t USING {source([base + 4, base + 5, base + 9, other])} AS s ON t.{key} = s.k"
        f" WHEN MATCHED AND s.k = {base + 5} THEN DELETE"
        f" WHEN MATCHED THEN UPDATE SET {assignments(kind, 's.k + 1000')}"
        f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({', '.join(expressions(kind, 's.k'))})",
    ]


def arrange():
    return ["OPTIMIZE {t}"]


def expressions(kind, key):
    return [key, *(value.replace("{id}", key) for value in kind.values.values())]


def assignments(kind, key):
    return ", ".join(f"{name} = {value.replace('{id}', f'({key})')}" for name, value in kind.values.items())


def source(keys):
    first, *rest = keys
    return "(" + " UNION ALL ".join([f"SELECT CAST({first} AS BIGINT) AS k", *(f"SELECT {key}" for key in rest)]) + ")"


def numbers(keys):
    return ", ".join(map(str, keys))
