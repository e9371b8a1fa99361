"""What each contender is asked to do, and the peers that run in Python.

    python peers.py PEER ACTION [CHANGES]

runs one action in the current folder and prints `{"seconds": …, "answer": […]}`.
The clock starts after the packages and extensions are loaded and before the
table is opened: Alluvial pays for opening its table too.
"""

import importlib.util
import json
import sys
import time

PACKAGES = {
    "data": ["numpy", "pyarrow"],
    "delta-rs": ["deltalake", "pyarrow"],
    "DuckLake": ["duckdb", "duckdb_extensions", "duckdb_extension_ducklake"],
}
CHECK = "SELECT count(*), sum(id), sum(k), count(*) FILTER (WHERE v LIKE 'b-%') FROM target"
READ = "SELECT count(*), sum(id), max(length(v)) FROM {changes}"
DELETE_CLAUSE = "WHEN MATCHED AND changes.op = 'd' THEN DELETE"
ASSIGNED = ("k", "v", "w", "c", "z")


def missing_packages(use: str) -> list[str]:
    """The packages of one use that are not installed; looked up, not imported, to keep the caller small."""
    return [name for name in PACKAGES[use] if not importlib.util.find_spec(name)]


def merge_sql(*first_clauses: str) -> str:
    """The merge, with these clauses before the update."""
    assignments = ", ".join(f"{name} = changes.{name}" for name in ASSIGNED)
    values = ", ".join(f"changes.{name}" for name in ("id", *ASSIGNED))
    return " ".join([
        "MERGE INTO target USING changes ON target.id = changes.id",
        *first_clauses,
        f"WHEN MATCHED THEN UPDATE SET {assignments}",
        f"WHEN NOT MATCHED AND changes.op <> 'd' THEN INSERT (id, {', '.join(ASSIGNED)}) VALUES ({values})",
    ])


def alluvial_sql(action: str, changes: str = "") -> str:
    """The script that does `action` in Alluvial's shell."""
    if action == "merge":
        source = f"CREATE EXTERNAL TABLE changes STORED AS PARQUET LOCATION '{changes}'"
        return f"{source}; {merge_sql(DELETE_CLAUSE)};"
    if action == "read":
        return READ.format(changes="table_changes('target', 0)") + ";"
    return CHECK + ";"


class DeltaRs:
    """delta-rs by its Python package."""

    def __init__(self) -> None:
        import deltalake
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet

        self.deltalake, self.pyarrow = deltalake, pyarrow

    def merge(self, changes: str) -> None:
        """`streamed_exec=False` lets delta-rs skip files by the source's keys: off, the last 5 % reads everything."""
        assignments = {name: f"changes.{name}" for name in ASSIGNED}
        (
            self.deltalake.DeltaTable("target")
            .merge(
                source=self.pyarrow.parquet.read_table(changes),
                predicate="target.id = changes.id",
                source_alias="changes",
                target_alias="target",
                streamed_exec=False,
            )
            .when_matched_delete(predicate="changes.op = 'd'")
            .when_matched_update(updates=assignments)
            .when_not_matched_insert(updates={"id": "changes.id", **assignments}, predicate="changes.op <> 'd'")
            .execute()
        )

    def read(self) -> list[int]:
        """Only the two columns of the query are asked for, as a SQL engine would.

        The cast is there because pyarrow cannot measure the string views that delta-rs returns.
        """
        table = self.deltalake.DeltaTable("target")
        compute = self.pyarrow.compute
        count, total, longest = 0, 0, 0
        stream = table.load_cdf(starting_version=1, columns=["id", "v"])
        for batch in self.pyarrow.RecordBatchReader.from_stream(stream):
            count += batch.num_rows
            total += compute.sum(batch["id"]).as_py() or 0
            lengths = compute.utf8_length(batch["v"].cast(self.pyarrow.string()))
            longest = max(longest, compute.max(lengths).as_py() or 0)
        return [count, total, longest]

    def check(self) -> list[int]:
        """The merged table by delta-rs' own query engine."""
        query = self.deltalake.QueryBuilder().register("target", self.deltalake.DeltaTable("target"))
        rows = self.pyarrow.table(query.execute(CHECK).read_all()).to_pylist()
        return list(rows[0].values())


class DuckLake:
    """DuckDB with a DuckLake whose catalog is a DuckDB file."""

    def __init__(self) -> None:
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute("LOAD ducklake")

    def attach(self) -> None:
        """Opens the catalog of the current folder."""
        self.connection.execute("ATTACH 'ducklake:lake.ducklake' AS lake (DATA_PATH 'data')")
        self.connection.execute("USE lake")

    def merge(self, changes: str) -> None:
        """A DELETE and a MERGE in one transaction: DuckLake refuses a MERGE that both updates and deletes."""
        self.attach()
        self.connection.execute(f"CREATE TEMP VIEW changes AS FROM read_parquet('{changes}')")
        self.connection.execute("BEGIN")
        self.connection.execute("DELETE FROM target WHERE id IN (SELECT id FROM changes WHERE op = 'd')")
        self.connection.execute(merge_sql())
        self.connection.execute("COMMIT")

    def read(self) -> list[int]:
        """`table_changes`, not `table_insertions`: the reader of a feed cannot know that all are inserts."""
        self.attach()
        (last,) = self.connection.execute("FROM ducklake_current_snapshot('lake')").fetchone()
        query = READ.format(changes=f"ducklake_table_changes('lake', 'main', 'target', 0, {last})")
        return list(self.connection.execute(query).fetchone())

    def check(self) -> list[int]:
        """The merged table by DuckDB."""
        self.attach()
        return list(self.connection.execute(CHECK).fetchone())


PEERS = {"delta-rs": DeltaRs, "DuckLake": DuckLake}


def main(name: str, action: str, *arguments: str) -> None:
    """Runs one action; only the work on the table is timed, not the start of Python."""
    peer = PEERS[name]()
    start = time.perf_counter()
    answer = getattr(peer, action)(*arguments)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "answer": answer}, default=int))


if __name__ == "__main__":
    main(*sys.argv[1:])
