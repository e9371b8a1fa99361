"""Reads Delta tables back with delta-rs and DuckDB, for the trial in ../interop.rs.

Each line of stdin is one request and each line of stdout its answer, so one process serves a whole trial:

    {"table": "/folder", "columns": ["id", "name"], "rows": ["[1,\\"a\\"]"], "changes": ["[1,\\"a\\",\\"insert\\",0]"]}
    {"problems": ["duckdb 1.5.5: missing [1,\\"a\\"]"]}

`columns` are sorted by name. `rows` and `changes` are what alluvial reads, each row as the canonical text that module
`canonical` in ../run.rs describes; they are compared as multisets. `changes` is null where the change feed is not compared.
"""

import json
import sys
import tempfile
from collections import Counter

import deltalake
import duckdb
import duckdb_extensions
import pyarrow as pa
from canonical import canonical_rows

CHANGE_COLUMNS = ["_change_type", "_commit_version"]
DELTA_RS = f"delta-rs {deltalake.__version__}"
DUCKDB = f"duckdb {duckdb.__version__}"


def main():
    with tempfile.TemporaryDirectory() as extensions:
        connection = open_duckdb(extensions)
        for line in sys.stdin:
            answer = {"problems": problems(connection, json.loads(line))}
            print(json.dumps(answer), flush=True)


def open_duckdb(extensions):
    """A DuckDB that can read Delta tables; the extension comes out of its Python package, so no network is needed."""
    connection = duckdb.connect(config={"extension_directory": extensions})
    duckdb_extensions.import_extension("delta", con=connection)
    connection.execute("LOAD delta")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def problems(connection, request):
    path, columns = request["table"], request["columns"]
    found = differences(DELTA_RS, lambda: read_with_delta_rs(path), columns, request["rows"])
    found += differences(DUCKDB, lambda: read_with_duckdb(connection, path), columns, request["rows"])
    if request["changes"] is not None:
        changes = columns + CHANGE_COLUMNS
        found += differences(f"{DELTA_RS} load_cdf", lambda: read_changes(path), changes, request["changes"])
    return found


def read_with_delta_rs(path):
    # Not `to_pyarrow_table`: it refuses tables with deletion vectors.
    builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(path))
    return pa.table(builder.execute("SELECT * FROM t"))


def read_with_duckdb(connection, path):
    return connection.execute("FROM delta_scan(?)", [path]).to_arrow_table()


def read_changes(path):
    # delta-rs gives the commit's timestamp without zone and in milliseconds, so it is left out.
    return pa.table(deltalake.DeltaTable(path).load_cdf(starting_version=0)).drop_columns(["_commit_timestamp"])


def differences(reader, read, columns, expected):
    """What `reader` sees otherwise than alluvial does, one line each, the first few of them."""
    try:
        table = read()
        if set(table.column_names) != set(columns):
            return [f"{reader}: columns {sorted(table.column_names)}, expected {columns}"]
        read_rows = Counter(canonical_rows(table.select(columns)))
    except Exception as error:  # Whatever another reader cannot do is what the trial wants to know.
        return [f"{reader}: {type(error).__name__}: {error}"]
    expected = Counter(expected)
    lines = [f"{reader}: missing {row}" for row in (expected - read_rows).elements()]
    lines += [f"{reader}: unexpected {row}" for row in (read_rows - expected).elements()]
    return lines[:8]


if __name__ == "__main__":
    main()
