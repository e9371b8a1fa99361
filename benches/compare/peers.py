"""How each peer runs a case; Alluvial's shell is run by compare.py.

    python peers.py PEER run|check CASE SCALE [CHANGES]

does one thing in the current folder and prints `{"seconds": …, "answer": […]}`. The clock starts after the packages and
extensions are loaded and before the table is opened: Alluvial pays for opening its table too.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

from merge_cases import Case, cases
from statements import Insert, Merge, Statement, Update

PACKAGES = {
    "data": ["numpy", "pyarrow", "duckdb", "deltalake"],
    "delta-rs": ["deltalake", "pyarrow"],
    "DuckLake": ["duckdb", "duckdb_extensions", "duckdb_extension_ducklake"],
    "Spark": ["pyspark", "delta"],
}
DELTA_SPARK = "io.delta:delta-spark_2.13:4.0.1"


def missing_packages(use: str) -> list[str]:
    """The packages of one use that are not installed; looked up, not imported, to keep the caller small."""
    return [name for name in PACKAGES[use] if not importlib.util.find_spec(name)]


def external_table(name: str, file: Path | str) -> str:
    """A source of a statement as a table of Alluvial's shell."""
    return f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{file}'"


class DeltaRs:
    """delta-rs by its Python package."""

    def __init__(self) -> None:
        import deltalake
        import pyarrow
        import pyarrow.parquet

        self.deltalake, self.pyarrow = deltalake, pyarrow

    def run(self, case: Case, changes: Path) -> None:
        """All statements."""
        for statement in case.statements:
            self.execute(statement, changes)

    def execute(self, statement: Statement, changes: Path) -> None:
        """One statement."""
        if isinstance(statement, Merge):
            self.merge(statement, changes)
        elif isinstance(statement, Insert):
            self.deltalake.write_deltalake(statement.table, self.source(statement, changes), mode="append")
        elif isinstance(statement, Update):
            table = self.deltalake.DeltaTable(statement.table)
            table.update(updates={statement.column: statement.value}, predicate=statement.when)

    def source(self, statement: Insert | Merge, changes: Path):
        """The rows of the statement's source."""
        return self.pyarrow.parquet.read_table(changes / f"{statement.source}.parquet")

    def merge(self, merge: Merge, changes: Path) -> None:
        """`streamed_exec=False` lets delta-rs skip files by the source's keys: off, the last 5 % reads everything."""
        builder = self.deltalake.DeltaTable(merge.table).merge(
            source=self.source(merge, changes), predicate=merge.condition, source_alias=merge.source,
            target_alias=merge.table, streamed_exec=False)
        if merge.delete_when is not None:
            builder = builder.when_matched_delete(predicate=merge.delete_when or None)
        if merge.deletes_by_source:
            builder = builder.when_not_matched_by_source_delete()
        if merge.update:
            builder = builder.when_matched_update(updates=merge.assignments, predicate=merge.update_when or None)
        if merge.insert_when is not None:
            builder = builder.when_not_matched_insert(updates=merge.values, predicate=merge.insert_when or None)
        builder.execute()

    def check(self, case: Case) -> list:
        """The tables by delta-rs' own query engine."""
        query = self.deltalake.QueryBuilder()
        for table in sorted({statement.table for statement in case.statements}):
            query = query.register(table, self.deltalake.DeltaTable(table))
        rows = self.pyarrow.table(query.execute(case.check).read_all()).to_pylist()
        return list(rows[0].values())


class DuckLake:
    """DuckDB with a DuckLake whose catalog is a DuckDB file."""

    def __init__(self) -> None:
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute("SET enable_progress_bar = false")
        self.connection.execute("LOAD ducklake")

    def attach(self) -> None:
        """Opens the catalog of the current folder."""
        self.connection.execute("ATTACH 'ducklake:lake.ducklake' AS lake (DATA_PATH 'data')")
        self.connection.execute("USE lake")

    def run(self, case: Case, changes: Path) -> None:
        """All statements in one transaction; DuckLake refuses a MERGE that both updates and deletes."""
        self.attach()
        for name in case.sources:
            self.connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet('{changes / name}.parquet')")
        self.connection.execute("BEGIN")
        for statement in case.statements:
            for sql in statement.sql_in_two:
                self.connection.execute(sql)
        self.connection.execute("COMMIT")

    def check(self, case: Case) -> list:
        """The tables by DuckDB."""
        self.attach()
        return list(self.connection.execute(case.check).fetchone())


class Spark:
    """Spark with Delta, in a session that has begun but has not compiled anything yet."""

    def __init__(self) -> None:
        from pyspark.sql import SparkSession

        settings = {
            "spark.driver.memory": "4g",
            "spark.ui.enabled": "false",
            "spark.jars.packages": DELTA_SPARK,
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.sql.shuffle.partitions": str(os.cpu_count()),
            "spark.sql.session.timeZone": "UTC",
        }
        builder = SparkSession.builder.master("local[*]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("OFF")

    def run(self, case: Case, changes: Path) -> None:
        """The statements as Alluvial runs them."""
        for table in sorted({statement.table for statement in case.statements}):
            self.session.sql(f"CREATE TABLE {table} USING delta LOCATION '{Path(table).resolve()}'")
        for name in case.sources:
            self.session.read.parquet(str(changes / f"{name}.parquet")).createOrReplaceTempView(name)
        for statement in case.statements:
            self.session.sql(statement.sql).collect()


PEERS = {"delta-rs": DeltaRs, "DuckLake": DuckLake, "Spark": Spark}


def main(name: str, action: str, case: str, scale: str, *arguments: str) -> None:
    """Runs one action; only the work on the table is timed, not the start of Python."""
    peer, case = PEERS[name](), cases(float(scale))[case]
    start = time.perf_counter()
    answer = getattr(peer, action)(case, *map(Path, arguments))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "answer": list(map(str, answer or []))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
