"""Makes the tables and the changes that merge_cases.py describes, each once, and what every case must lead to.

    python merge_data.py FOLDER SCALE CASE...

A process of its own: the process that starts the contenders must stay small, because a child's peak memory is counted from
its parent's size. Below FOLDER there are

    files/BASE/TABLE/          Parquet files, with the `add` actions of all of them in adds.json
    bases/BASE-VARIANT/        what a contender starts from: Delta tables without and with deletion vectors, a DuckLake
    changes/NAME/SOURCE.parquet
    expected/CASE/             answer.json, and rows/TABLE.parquet with the rows that the case has to write
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import data
import tpch
from merge_cases import BASES, VARIANTS, WIDE_COLUMNS, Base, Case, Sizes, cases
from peers import missing_packages

ROWS_PER_SMALL_FILE, SMALL_FILES_MET, CHANGES_PER_SMALL_FILE = 10, 10, 100
PARTITIONS_CHANGED = (3, 8, 13, 18)
POOL = pa.array([f"word {n * 7919 % 1000:03}" for n in range(1000)])


def main(folder: Path, scale: float, names: list[str]) -> None:
    """Makes whatever is missing; a second run makes nothing."""
    sizes, known = Sizes(scale), cases(scale)
    for part in ("files", "bases", "changes", "expected"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if not missing_packages("DuckLake"):
        data.once(folder / "home", data.install_ducklake)
    for name in names:
        make_case(folder, sizes, name, known[name])


def make_case(folder: Path, sizes: Sizes, name: str, case: Case) -> None:
    """What a case starts from, its changes, and what must come of it."""
    files = folder / "files" / (BASES[case.base].files or case.base)
    data.once(files, lambda to: write_files(to, FILES[files.name](sizes)))
    for variant in dict.fromkeys(VARIANTS[contender] for contender in case.contenders):
        make_base(folder, files, case.base, variant)
    source = case.changes or name
    data.once(folder / "changes" / source, lambda to: CHANGES[source](to, sizes, folder))
    data.once(folder / "expected" / name, lambda to: write_expected(to, folder, case, source))


def make_base(folder: Path, files: Path, name: str, variant: str) -> None:
    """What some contenders start from."""
    to, base = folder / "bases" / f"{name}-{variant}", BASES[name]
    if variant != "lake":
        data.once(to, lambda to: write_delta(to, files, base, has_vectors=variant == "dv"))
    elif not missing_packages("DuckLake"):
        data.once(to, lambda to: write_lake(to, folder / "home", files, base))


# ---- files

def write_files(to: Path, tables: dict[str, Iterator[pa.Table]]) -> None:
    """Each part of each table becomes a file."""
    known = {}
    for table, parts in tables.items():
        (to / table).mkdir()
        adds, schema = [], None
        for number, rows in enumerate(parts):
            path, schema = to / table / f"part-{number:05}.parquet", rows.schema
            groups = data.ROW_GROUPS_PER_FILE if rows.num_rows > ROWS_PER_SMALL_FILE else 1
            pq.write_table(rows, path, row_group_size=rows.num_rows // groups + rows.num_rows % groups)
            adds.append(data.add_action(path, rows))
        known[table] = {"types": data.delta_types(schema), "adds": adds}
    (to / "adds.json").write_text(json.dumps(known))


def wide_rows(numbers: np.ndarray) -> pa.Table:
    """A hundred columns, of which every fifth neither compresses nor sorts with the key."""
    ids = 2 * numbers
    columns = {"id": pa.array(ids, pa.int64())}
    for place, name in enumerate(WIDE_COLUMNS[1:], 1):
        hashes = data.splitmix64(ids.astype(np.uint64) + np.uint64(place << 40))
        is_dense, few = place % 5 == 0, (hashes % 1000).astype(np.int64)
        if name[0] == "i":
            columns[name] = pa.array(hashes.view(np.int64) if is_dense else few)
        elif name[0] == "d":
            columns[name] = pa.array(np.sqrt(hashes >> 20) if is_dense else few / 8)
        else:
            columns[name] = data.hex_strings("", hashes) if is_dense else POOL.take(pa.array(few))
    return pa.table(columns)


def narrow_rows(numbers: np.ndarray) -> pa.Table:
    """Three columns that take little room."""
    words = POOL.take(pa.array(data.splitmix64(numbers.astype(np.uint64)) % np.uint64(1000)))
    return pa.table({"id": pa.array(2 * numbers), "k": pa.array((numbers % 1000).astype(np.int32)), "v": words})


def parts_of(rows: int, files: int, make: Callable[[np.ndarray], pa.Table]) -> Iterator[pa.Table]:
    """Rows 0 to `rows`, made for one file after another."""
    for start, stop in pairwise(rows * file // files for file in range(files + 1)):
        yield make(np.arange(start, stop))


def small_parts(files: int) -> Iterator[pa.Table]:
    """A file for each ten rows; a hundred numbers of the key for each row leave room between them."""
    for part in parts_of(files * ROWS_PER_SMALL_FILE, max(1, files // 1000), lambda n: data.rows_of(100 * n, n % 1000, "a-")):
        for first in range(0, part.num_rows, ROWS_PER_SMALL_FILE):
            yield part.slice(first, ROWS_PER_SMALL_FILE)


def narrow(tens_of_millions: int) -> Callable[[Sizes], dict]:
    """A narrow table that many times as long as the others."""
    return lambda sizes: {"target": parts_of(
        tens_of_millions * sizes.rows, tens_of_millions * data.FILES, narrow_rows)}


FILES: dict[str, Callable[[Sizes], dict[str, Iterator[pa.Table]]]] = {
    "rows": lambda sizes: {"target": parts_of(sizes.rows, data.FILES, lambda n: data.rows_of(2 * n, n % 1000, "a-"))},
    "wide": lambda sizes: {"target": parts_of(sizes.many, 10, wide_rows)},
    "small": lambda sizes: {"target": small_parts(sizes.small_files)},
    "tpch": lambda sizes: {
        "orders": parts_of(sizes.orders, 4, lambda n: tpch.orders(tpch.old_keys(n))),
        "lineitem": parts_of(sizes.orders, 12, lambda n: tpch.lines(tpch.old_keys(n))),
    },
    "narrow-10": narrow(1),
    "narrow-50": narrow(5),
    "narrow-100": narrow(10),
}


# ---- tables

def files_of(files: Path, base: Base) -> dict[str, tuple[dict[str, str], list[dict]]]:
    """The columns and the `add` actions of each table; the n-th file is the n-th partition."""
    tables = {}
    for table, known in json.loads((files / "adds.json").read_text()).items():
        types, adds = known["types"], known["adds"]
        if base.partition:
            types = types | {base.partition: "integer"}
            adds = [add | {"partitionValues": {base.partition: str(number)}} for number, add in enumerate(adds)]
        tables[table] = types, adds
    return tables


def write_delta(to: Path, files: Path, base: Base, has_vectors: bool) -> None:
    """Delta tables over existing files: version 0 creates them, version 1 adds the files."""
    protocol, properties = (data.DV_PROTOCOL, data.DV_ON) if has_vectors else (data.PLAIN_PROTOCOL, {})
    if base.has_feed:
        properties = properties | data.FEED_ON
        features = {"writerFeatures": ["deletionVectors", "changeDataFeed"]}
        protocol = protocol | features if has_vectors else data.FEED_PROTOCOL
    for table, (types, adds) in files_of(files, base).items():
        log = to / table / "_delta_log"
        log.mkdir(parents=True)
        for add in adds:
            os.link(files / table / add["path"], to / table / add["path"])
        metadata = data.metadata(properties, types, (base.partition,) if base.partition else ())
        data.write_commit(log, 0, "CREATE TABLE", [{"protocol": protocol}, {"metaData": metadata}])
        data.write_commit(log, 1, "WRITE", [{"add": add} for add in adds])
        if base.has_checkpoint:
            import deltalake

            deltalake.DeltaTable(to / table).create_checkpoint()


def write_lake(to: Path, home: Path, files: Path, base: Base) -> None:
    """The same rows, one insert and one snapshot per file, in key order; very many files are taken as they are."""
    with data.empty_lake(to, home) as connection:
        for table, (_, adds) in files_of(files, base).items():
            paths = [files / table / add["path"] for add in adds]
            partition = f", 0::INTEGER AS {base.partition}" if base.partition else ""
            connection.execute(f"CREATE TABLE lake.{table} AS SELECT *{partition} FROM read_parquet('{paths[0]}') LIMIT 0")
            if base.has_checkpoint:
                connection.execute(f"CALL ducklake_add_data_files('lake', '{table}', '{files / table}/*.parquet')")
                continue
            if base.partition:
                connection.execute(f"ALTER TABLE lake.{table} SET PARTITIONED BY ({base.partition})")
            for number, path in enumerate(paths):
                value = f", {number}" if base.partition else ""
                connection.execute(f"INSERT INTO lake.{table} SELECT *{value} FROM read_parquet('{path}') ORDER BY 1")


# ---- changes

def write_changes(**sources: Callable[[Sizes], pa.Table]) -> Callable[[Path, Sizes, Path], None]:
    """A maker of some sources, one file each."""
    def make(to: Path, sizes: Sizes, _: Path) -> None:
        for name, rows in sources.items():
            pq.write_table(rows(sizes), to / f"{name}.parquet")

    return make


def changes(numbers: Callable[[Sizes], np.ndarray], columns: list[str] | None = None) -> Callable[[Path, Sizes, Path], None]:
    """A maker of updates, deletes and inserts of the rows with these numbers."""
    def rows(sizes: Sizes) -> pa.Table:
        made = data.change_rows(numbers(sizes))
        return made.select(columns) if columns else made

    return write_changes(changes=rows)


def new_rows(ids: Callable[[Sizes], np.ndarray]) -> Callable[[Path, Sizes, Path], None]:
    """A maker of rows with these keys, whose values the table does not have."""
    def rows(sizes: Sizes) -> pa.Table:
        made = ids(sizes)
        return data.rows_of(made, 1000 + made % 7, "b-")

    return write_changes(changes=rows)


def in_partitions(sizes: Sizes) -> pa.Table:
    """Changes in some partitions, each of which is a file of the table."""
    each = sizes.rows // data.FILES
    picked = [data.pick(part * each, (part + 1) * each, sizes.few // len(PARTITIONS_CHANGED)) for part in PARTITIONS_CHANGED]
    numbers = np.random.default_rng(7).permutation(np.concatenate(picked))
    return data.change_rows(numbers).append_column("p", pa.array((numbers // each).astype(np.int32)))


def one_column(sizes: Sizes) -> pa.Table:
    """New values of one column of the wide table."""
    numbers = data.pick(0, sizes.many, sizes.few)
    return pa.table({"id": 2 * numbers, "i07": 1000 + numbers % 7})


def in_small_files(sizes: Sizes) -> np.ndarray:
    """A hundred keys in each of some files; the file has one in ten of them."""
    files = np.sort(data.pick(0, sizes.small_files, SMALL_FILES_MET))
    return (1000 * files[:, None] + 10 * np.arange(CHANGES_PER_SMALL_FILE)).ravel()


def whole_table(to: Path, sizes: Sizes, folder: Path) -> None:
    """The table as the sparse merge leaves it: a full dump, in the order of the key."""
    sparse = cases(sizes.scale)["sparse"]
    data.once(folder / "changes" / "sparse", lambda to: CHANGES["sparse"](to, sizes, folder))
    with duck(folder, sparse, "sparse") as connection:
        connection.execute(f"COPY ({sparse.statements[0].after} ORDER BY id) TO '{to / 'changes.parquet'}' (FORMAT parquet)")


def refreshed(make: Callable[[np.ndarray], pa.Table], keys: Callable[[np.ndarray], np.ndarray]) -> Callable[[Sizes], pa.Table]:
    """Rows of one of a thousand orders."""
    return lambda sizes: make(keys(data.pick(0, sizes.orders, max(1, sizes.orders // 1000))))


def deleted_lines(keys: np.ndarray) -> pa.Table:
    """The keys of orders, as the lines call them."""
    return pa.table({"l_orderkey": keys})


CHANGES: dict[str, Callable[[Path, Sizes, Path], None]] = {
    "sparse": changes(lambda sizes: data.pick(0, sizes.rows, sizes.few)),
    "tail": changes(lambda sizes: data.pick(sizes.rows - sizes.rows // 20, sizes.rows, sizes.few)),
    "dense": changes(lambda sizes: data.pick(0, sizes.rows, sizes.many)),
    "parts": write_changes(changes=in_partitions),
    "full": whole_table,
    "update": new_rows(lambda sizes: 2 * data.pick(0, sizes.rows, sizes.rows // 2)),
    "update-where": write_changes(),
    "delete-few": write_changes(changes=lambda sizes: pa.table({"id": 2 * data.pick(0, sizes.rows, sizes.few)})),
    "delete-many": write_changes(changes=lambda sizes: pa.table({"id": 2 * data.pick(0, sizes.rows, sizes.many)})),
    "insert-new": new_rows(lambda sizes: 2 * data.pick(sizes.rows, sizes.rows + sizes.many, sizes.many)),
    "insert-between": new_rows(lambda sizes: 2 * data.pick(0, sizes.rows, sizes.many) + 1),
    "wide": write_changes(changes=one_column),
    "small": new_rows(in_small_files),
    "refresh-insert": write_changes(new_orders=refreshed(tpch.orders, tpch.new_keys),
                                    new_lineitem=refreshed(tpch.lines, tpch.new_keys)),
    "refresh-delete": write_changes(old_orders=refreshed(lambda keys: pa.table({"o_orderkey": keys}), tpch.old_keys),
                                    old_lineitem=refreshed(deleted_lines, tpch.old_keys)),
    "growth": changes(lambda sizes: data.pick(0, sizes.rows // 5, sizes.few), ["id", "k", "v", "op"]),
    "memory": changes(lambda sizes: data.pick(0, 5 * sizes.rows, 5 * sizes.many), ["id", "k", "v", "op"]),
}


# ---- what must come of it

def write_expected(to: Path, folder: Path, case: Case, source: str) -> None:
    """The answer of the case's check, and the rows that it has to write where these are compared with what is written."""
    base, answer = BASES[case.base], []
    (to / "rows").mkdir()
    with duck(folder, case, source) as connection:
        for table, checks in base.checks.items():
            (statement,) = [statement for statement in case.statements if statement.table == table]
            after = f"SELECT * FROM {table}" if case.is_planned_only else statement.after
            answer += connection.execute(f"SELECT {checks} FROM ({after})").fetchone()
            if case.limits.of_own_size:
                hidden = f" EXCLUDE ({base.partition})" if base.partition else ""
                rows = f"SELECT *{hidden} FROM ({statement.changed}) ORDER BY 1"
                connection.execute(f"COPY ({rows}) TO '{to / 'rows' / table}.parquet' (FORMAT parquet)")
    (to / "answer.json").write_text(json.dumps(list(map(str, answer))))


def duck(folder: Path, case: Case, source: str):
    """A DuckDB in which the tables and the sources of a case are views."""
    import duckdb

    connection = duckdb.connect(config={"temp_directory": str(folder / "duckdb")})
    connection.execute("SET enable_progress_bar = false")
    base = BASES[case.base]
    files = folder / "files" / (base.files or case.base)
    for table, (_, adds) in files_of(files, base).items():
        view = f"FROM read_parquet('{files / table}/*.parquet')"
        if base.partition:
            view = " UNION ALL ".join(
                f"SELECT *, {number} AS {base.partition} FROM read_parquet('{files / table / add['path']}')"
                for number, add in enumerate(adds))
        connection.execute(f"CREATE VIEW {table} AS {view}")
    for name in case.sources:
        connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{folder / 'changes' / source / name}.parquet')")
    return connection


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
