"""Rows, Parquet files, Delta logs and DuckLakes, of which the benchmarks make their inputs.

Every contender starts from the same rows in the same order. Delta tables with the same rows share the very same Parquet
files by hard links: only their logs differ, so no reader gains from a luckier layout.
"""

import contextlib
import datetime
import json
import os
import shutil
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILES = 20
ROW_GROUPS_PER_FILE = 2
COLOURS = pa.array(["red", "green", "blue", "black"])
SQL_COLUMNS = "id BIGINT, k INTEGER, v VARCHAR, w DOUBLE, c VARCHAR, z BIGINT"
DELTA_TYPES = {"id": "long", "k": "integer", "v": "string", "w": "double", "c": "string", "z": "long"}

# Delta's default
COLUMNS_WITH_STATISTICS = 32

PLAIN_PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}
FEED_PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 4}
DV_PROTOCOL = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"],
    "writerFeatures": ["deletionVectors"],
}
FEED_ON = {"delta.enableChangeDataFeed": "true"}
DV_ON = {"delta.enableDeletionVectors": "true"}


def once(path: Path, make) -> None:
    """Runs `make` on a side folder and renames it, so that a broken run leaves no half-made input."""
    if path.exists():
        return
    print(f"making {path.name}", file=sys.stderr)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    make(partial)
    partial.rename(path)


# ---- rows

def rows_of(ids: np.ndarray, k: np.ndarray, prefix: str) -> pa.Table:
    """The six columns for these keys; everything but `k` and the prefix follows from the key."""
    hashes = splitmix64(ids.astype(np.uint64))
    return pa.table({
        "id": pa.array(ids, pa.int64()),
        "k": pa.array(k, pa.int32()),
        "v": hex_strings(prefix, hashes),
        "w": pa.array(np.sqrt(ids)),
        "c": COLOURS.take(pa.array((hashes % 4).astype(np.int8))),
        "z": pa.array(splitmix64(hashes).view(np.int64)),
    })


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A 64-bit hash, so that strings and `z` neither compress nor sort with the key."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hex_strings(prefix: str, hashes: np.ndarray) -> pa.Array:
    """`prefix` + 16 hex digits, built as one buffer: Python's own formatting takes minutes at 10 M rows."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    text = np.empty((len(hashes), len(prefix) + 16), np.uint8)
    text[:, :len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    text[:, len(prefix)::2] = digits[octets >> 4]
    text[:, len(prefix) + 1::2] = digits[octets & 15]
    offsets = np.arange(len(hashes) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(len(hashes), pa.py_buffer(offsets), pa.py_buffer(text))


def target_rows(start: int, stop: int) -> pa.Table:
    """Rows number `start` to `stop` of the target: even keys, so that odd ones are free to insert."""
    number = np.arange(start, stop)
    return rows_of(2 * number, number % 1000, "a-")


def write_files(to: Path, rows: int) -> None:
    """The target's Parquet files, each a run of consecutive keys."""
    per_file = rows // FILES
    for n in range(FILES):
        table = target_rows(n * per_file, (n + 1) * per_file)
        pq.write_table(table, to / f"part-{n:05}.parquet", row_group_size=per_file // ROW_GROUPS_PER_FILE)


def write_one_row_files(to: Path, commits: int) -> None:
    """One file of one row for each commit."""
    table = target_rows(0, commits)
    for n in range(commits):
        pq.write_table(table.slice(n, 1), to / f"part-{n:05}.parquet")


# ---- changes

def pick(first: int, end: int, count: int) -> np.ndarray:
    """`count` row numbers, evenly spread, in an order that says nothing about the key."""
    numbers = first + np.arange(count) * (end - first) // count
    return np.random.default_rng(7).permutation(numbers)


def change_rows(numbers: np.ndarray) -> pa.Table:
    """Of ten changes one deletes, one inserts the odd key beside the row it picked, eight update."""
    turn = np.arange(len(numbers)) % 10
    ops = np.where(turn == 0, "d", np.where(turn == 9, "i", "u"))
    ids = 2 * numbers + (ops == "i")
    return rows_of(ids, 1000 + numbers % 7, "b-").append_column("op", pa.array(ops))


# ---- Delta

def write_table(to: Path, protocol: dict, properties: dict, commits: list[list[Path]]) -> None:
    """A Delta table over existing files: version 0 creates it, each later one adds a list of files."""
    log = to / "target" / "_delta_log"
    log.mkdir(parents=True)
    write_commit(log, 0, "CREATE TABLE", [{"protocol": protocol}, {"metaData": metadata(properties)}])
    for version, files in enumerate(commits, 1):
        for file in files:
            os.link(file, to / "target" / file.name)
        write_commit(log, version, "WRITE", [{"add": add_action(file)} for file in files])


def write_commit(log: Path, version: int, operation: str, actions: list[dict]) -> None:
    """One commit; its fixed time keeps the inputs the same from one making to the next."""
    info = {"timestamp": 1_700_000_000_000 + version, "operation": operation, "operationParameters": {}}
    lines = [json.dumps(action) for action in [{"commitInfo": info}, *actions]]
    (log / f"{version:020}.json").write_text("\n".join(lines) + "\n")


def metadata(properties: dict, types: dict[str, str] = DELTA_TYPES, partitions: tuple[str, ...] = ()) -> dict:
    """The `metaData` action."""
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in types.items()]
    return {
        "id": "5f3c1f0e-0b0a-4c57-9a55-8d7a3f1f2c11",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": list(partitions),
        "configuration": properties,
        "createdTime": 1_700_000_000_000,
    }


def add_action(file: Path, rows: pa.Table | None = None) -> dict:
    """The `add` action with the statistics that every contender's own writer would leave."""
    rows = pq.read_table(file) if rows is None else rows
    names = rows.column_names[:COLUMNS_WITH_STATISTICS]
    ranges = {name: pc.min_max(rows[name]).as_py() for name in names}
    stats = {
        "numRecords": rows.num_rows,
        "minValues": {name: value["min"] for name, value in ranges.items()},
        "maxValues": {name: value["max"] for name, value in ranges.items()},
        "nullCount": {name: 0 for name in ranges},
    }
    return {
        "path": file.name,
        "partitionValues": {},
        "size": file.stat().st_size,
        "modificationTime": 1_700_000_000_000,
        "dataChange": True,
        "stats": json.dumps(stats, default=statistic),
    }


def statistic(value: Decimal | datetime.date) -> float | str:
    """A minimum or maximum that JSON has no type for."""
    return float(value) if isinstance(value, Decimal) else value.isoformat()


def delta_types(schema: pa.Schema) -> dict[str, str]:
    """Delta's names of the types of columns."""
    names = {pa.int64(): "long", pa.int32(): "integer", pa.string(): "string", pa.float64(): "double", pa.date32(): "date"}
    return {column.name: names.get(column.type) or f"decimal({column.type.precision},{column.type.scale})" for column in schema}


# ---- DuckLake

def install_ducklake(home: Path) -> None:
    """Puts the extension that came with pip into a home of its own: no download, nothing left in the user's."""
    os.environ["HOME"] = str(home)
    import duckdb_extensions

    duckdb_extensions.import_extension("ducklake")


@contextlib.contextmanager
def empty_lake(to: Path, home: Path):
    """A connection to a new catalog in `to`; its data path is relative, so that copies of the folder work."""
    os.environ["HOME"] = str(home)
    import duckdb

    with contextlib.chdir(to), duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute("LOAD ducklake")
        connection.execute("ATTACH 'ducklake:lake.ducklake' AS lake (DATA_PATH 'data')")
        yield connection
        connection.execute("DETACH lake")


@contextlib.contextmanager
def new_lake(to: Path, home: Path):
    """The same with an empty target."""
    with empty_lake(to, home) as connection:
        connection.execute(f"CREATE TABLE lake.target ({SQL_COLUMNS})")
        yield connection
