"""Times version-tracked tables: what tracking costs those who write, CHANGETABLE, net changes, differences of full dumps.

    python benches/compare/tracking.py --alluvial target/release/alluvial

Makes its data once below --work (about 3 GB) with the packages of requirements.txt, and prints one Markdown table. Runs take
turns, each in a fresh process. What they answer is checked against numbers that are known without any engine, and against
DuckDB's answer; a difference ends with exit code 1. --scale 0.01 is a small version of everything.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from data import once
from files import HEADER, Bench, Done, Line, Shell, check_same, duckdb_run, make

COLUMNS = "id BIGINT PRIMARY KEY, k INT, v STRING, w DOUBLE, c STRING, z BIGINT"
OVER_ALL_COLUMNS = "count(*), sum(id), sum(k), max(v), sum(w), max(c), bit_xor(z)"
ENABLE = "ALTER TABLE {table} ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON)"
FILES, CHECKPOINT_INTERVAL = 20, 10

WRITTEN_ROWS, WRITTEN_FILES, ID_STEP = 1_000_000, 10, 16
INSERTED_ROWS, CHANGED_ROWS = 100_000, 10_000
ROUNDS, BURST = 3, 20
# a prime above the number of free ids, so that multiples of it reach each of them once
SCATTER = 2_654_435_761

TRACKED_ROWS, VERSIONS, LAST_CHANGES, LAST_COMMITS = 10_000_000, 100_000, 1_000, 10
WARM_STATEMENTS = 3

NET_CHANGES, NET_COMMITS = 1_000_000, 10

DUMPED_ROWS, FILES_PER_DUMP = 5_000_000, 5
# of a thousand rows of the older dump, those that are deleted, updated and followed by a new one: 1 % in all
DELETED, UPDATED, INSERTED = (1, 2, 3), (4, 5, 6, 7), (8, 9, 10)

CAPTION = """\
"process" is a whole process from its start to its end, except for DuckDB, which is timed inside a Python process that has
imported it. "statement" is what the shell's `\\timing` says. Figures are medians, the ratio is that of the medians to the first
line's of the case, or to what the line says. "peak MB" is the resident memory of the process. Files are in the system's cache."""


def rows(first: int, last: int, key: str = "value") -> str:
    """A query of rows number `first` to `last`; cheap, so that a statement's time is the writer's."""
    return (f"SELECT {key} AS id, CAST(value % 1000 AS INT) AS k, concat('a-', value) AS v, value * 0.5 AS w, "
            f"concat('c', value % 5) AS c, value * 7919 AS z FROM generate_series({first}, {last})")


def filled(table: str, count: int, files: int, key: str = "value") -> list[str]:
    """The statements that make a table of `count` rows in files that follow each other by their keys."""
    starts = [1 + count * file // files for file in range(files + 1)]
    inserts = [f"INSERT INTO {table} {rows(first, end - 1, key)}" for first, end in pairwise(starts) if first < end]
    return [f"CREATE TABLE {table} ({COLUMNS}) TBLPROPERTIES ('delta.checkpointInterval' = '{CHECKPOINT_INTERVAL}')", *inserts]


def newest_version(table: Path) -> int:
    """The newest Delta version of a table."""
    return max(int(commit.stem) for commit in (table / "_delta_log").glob("*.json") if commit.stem.isdigit())


def linked(source: Path, target: Path) -> None:
    """A table that begins as another one is: data files and commits are never written twice, so links are copies."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def note(line: Line) -> None:
    """Shows the newest run of a line."""
    print(f"{line.case}, {line.what}: {line.seconds[-1]:.3f} s", file=sys.stderr)


# ---- dml: what tracking costs those who write

# each is the table before it and something more
TABLES = {
    "plain": "no change feed",
    "feed": "change feed (as CREATE TABLE makes it)",
    "tracked": "change feed and change tracking",
}


@dataclass(frozen=True)
class Written:
    """A kind of statement: how many rows it changes, and how many statements make up one measurement."""

    what: str
    changed: int
    burst: int
    sql: Callable[[str, int], str]


def dml(bench: Bench) -> None:
    """INSERT, UPDATE and DELETE of three tables that differ in nothing else."""
    changed = bench.scaled(CHANGED_ROWS)
    count = changed * (WRITTEN_ROWS // CHANGED_ROWS)
    warehouse = bench.work / "dml" / "warehouse"
    (bench.work / "dml").mkdir(exist_ok=True)
    once(bench.work / "dml" / "made", lambda to: make_written(Shell(bench.shell.binary, to), count))
    shell = Shell(bench.shell.binary, bench.work / "dml")
    for written in written_statements(count, changed, bench.scaled(INSERTED_ROWS)):
        case = f"{written.what}, {count:,} rows in the table"
        clock = "statement" if written.burst == 1 else f"{written.burst} statements"
        lines = {}
        for table, what in TABLES.items():
            beside = list(lines.values())[-1] if lines else None
            limit = 1.10 if table == "tracked" else None
            shown = f"{what}, beside the line above" if beside else what
            lines[table] = bench.line(case, shown, clock, beside=beside, most_ratio=limit)
        for run in range(bench.runs):
            for table in TABLES:
                linked(bench.work / "dml" / "made" / "warehouse" / table, warehouse / table)
            write_rounds(shell, written, lines, run)


def make_written(shell: Shell, count: int) -> None:
    """The three tables, with as many commits each, so that their checkpoints are due in the same rounds."""
    last = {
        "plain": "ALTER TABLE plain SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')",
        "feed": "ALTER TABLE feed SET TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 30 days')",
        "tracked": ENABLE.format(table="tracked"),
    }
    for table in TABLES:
        shell.run(*filled(table, count, WRITTEN_FILES, f"value * {ID_STEP}"), last[table])


def written_statements(count: int, changed: int, inserted: int) -> list[Written]:
    """What is measured. The ids of the table are multiples of ID_STEP: there is room for others among them."""
    parts = count // changed
    # odd ids below the table's greatest one, each once, in no order
    scattered = f"value * {SCATTER} % {count * ID_STEP // 2} * 2 + 1"

    def insert(batch: int, key: str, start: int) -> Callable[[str, int], str]:
        def sql(table: str, number: int) -> str:
            first = start + number * batch + 1
            return f"INSERT INTO {table} {rows(first, first + batch - 1, key)}"
        return sql

    def one_row(key: Callable[[int], int]) -> Callable[[str, int], str]:
        return lambda table, number: f"INSERT INTO {table} VALUES ({key(number)}, 1, 'one', 0.5, 'c', {number})"

    return [
        Written(f"INSERT of {inserted:,} rows, rising ids", inserted, 1, insert(inserted, f"value * {ID_STEP}", count)),
        Written(f"INSERT of {inserted:,} rows, random ids", inserted, 1, insert(inserted, scattered, 0)),
        Written("INSERT of 1 row, rising ids", 1, BURST, one_row(lambda number: (count + number + 1) * ID_STEP)),
        Written("INSERT of 1 row, random ids", 1, BURST,
                one_row(lambda number: (number + 1) * SCATTER % (count * ID_STEP // 2) * 2 + 1)),
        Written(f"UPDATE of {changed:,} rows all over the table", changed, 1,
                lambda table, number: f"UPDATE {table} SET w = w + 1, c = 'new' WHERE k % {parts} = {number}"),
        Written(f"DELETE of {changed:,} rows all over the table", changed, 1,
                lambda table, number: f"DELETE FROM {table} WHERE k % {parts} = {number}"),
    ]


def write_rounds(shell: Shell, written: Written, lines: dict[str, Line], run: int) -> None:
    """One process that writes to the tables in turns, and each time begins with another one. Its first round is not timed."""
    names, order, statements = list(TABLES), [], []
    for number in range((ROUNDS + 1) * written.burst):
        turn = (number + run) % len(names)
        order += names[turn:] + names[:turn]
        statements += [written.sql(table, number) for table in names[turn:] + names[:turn]]
    state = f"concat_ws('/', {OVER_ALL_COLUMNS})"
    states = " UNION ALL ".join(f"SELECT {state} AS state FROM {table}" for table in names)
    check = f"SELECT count(DISTINCT state), (SELECT count(*) FROM CHANGETABLE(CHANGES tracked, 0) AS ct) FROM ({states})"
    done = shell.run(*statements, check)
    changes = (ROUNDS + 1) * written.burst * written.changed
    check_same(f"{written.what}: states of the tables, and changes", done.answer, ["1", str(changes)])
    for table, line in lines.items():
        own = [seconds for name, seconds in zip(order, done.statements) if name == table]
        for first in range(written.burst, len(own), written.burst):
            line.add(sum(own[first:first + written.burst]))
            note(line)


# ---- changetable: the last changes of a long history

def changetable(bench: Bench) -> None:
    """CHANGETABLE of the last changes of a large table with many versions."""
    scaled = max(LAST_COMMITS, bench.scaled(LAST_CHANGES // LAST_COMMITS))
    single = LAST_COMMITS * scaled
    count = max(bench.scaled(TRACKED_ROWS), 20 * single) // single * single
    versions = max(bench.scaled(VERSIONS), 2 * single)
    for name, commits in ((f"{LAST_COMMITS}x{scaled}", batches(count, scaled)), (f"{single}x1", singles(count, single))):
        folder = bench.work / f"changetable-{name}"
        once(folder, lambda to, commits=commits: make_versions(bench, to, count, versions, commits))
        read_last(bench, Shell(bench.shell.binary, folder), name, count, len(commits), single)


def batches(count: int, rows_each: int) -> list[str]:
    """Ten commits: six update, two delete and two insert as many rows each, all over the table."""
    step = count // rows_each

    def sql(number: int) -> str:
        if number >= 8:
            first = count + (number - 8) * rows_each + 1
            return f"INSERT INTO t {rows(first, first + rows_each - 1)}"
        rest = f"WHERE id % {step} = {number}"
        return f"UPDATE t SET w = w + 1, c = 'new' {rest}" if number < 6 else f"DELETE FROM t {rest}"

    return [sql(number) for number in range(LAST_COMMITS)]


def singles(count: int, commits: int) -> list[str]:
    """Commits of one row in the same proportions."""
    step = count // commits

    def sql(number: int) -> str:
        if number % 10 >= 8:
            return f"INSERT INTO t {rows(count + number + 1, count + number + 1)}"
        rest = f"WHERE id = {number * step + 1}"
        return f"UPDATE t SET w = w + 1, c = 'new' {rest}" if number % 10 < 6 else f"DELETE FROM t {rest}"

    return [sql(number) for number in range(commits)]


def make_versions(bench: Bench, to: Path, count: int, versions: int, commits: list[str]) -> None:
    """A tracked table whose versions change nothing, but for the last ones."""
    shell, table = Shell(bench.shell.binary, to), to / "warehouse" / "t"
    base = bench.work / "changetable-rows"
    once(base, lambda at: Shell(bench.shell.binary, at).run(*filled("t", count, FILES)))
    linked(base / "warehouse" / "t", table)
    shell.run(ENABLE.format(table="t"))
    begin = newest_version(table)
    # the first of the last commits gets a checkpoint: nobody reads all those before it; and nine commits follow the newest checkpoint
    last = begin + versions
    last += (CHECKPOINT_INTERVAL - 1 - last) % CHECKPOINT_INTERVAL
    write_empty_commits(table / "_delta_log", begin + 1, last - len(commits))
    shell.run(*commits)
    if newest_version(table) != last:
        sys.exit(f"{table} ends at version {newest_version(table)}, expected {last}")


def write_empty_commits(log: Path, first: int, last: int) -> None:
    """Commits that say nothing but when they were made: a version costs a file, and nobody has time for 100,000 statements."""
    for version in range(first, last + 1):
        info = {"timestamp": time.time_ns() // 1_000_000, "operation": "SET TBLPROPERTIES", "operationParameters": {}}
        (log / f"{version:020}.json").write_text(json.dumps({"commitInfo": info}) + "\n")


def read_last(bench: Bench, shell: Shell, name: str, count: int, commits: int, changes: int) -> None:
    """Reads what the last commits have changed, in a process that has just begun and in one that goes on."""
    current = int(shell.run("SELECT CHANGE_TRACKING_CURRENT_VERSION('t')").answer[0])
    changed = f"CHANGETABLE(CHANGES t, {current - commits}) AS ct"
    kinds = ", ".join(f"count(*) FILTER (WHERE sys_change_operation = '{kind}')" for kind in "IUD")
    answer = shell.run(f"SELECT {kinds} FROM {changed}").answer
    check_same(f"CHANGETABLE of {name}", answer, [str(changes * share // 10) for share in (2, 6, 2)])
    case = f"CHANGETABLE, last {name} changes of {current:,} versions, {count:,} rows"
    begun = bench.line(case, "a process that has just begun", "statement", most_seconds=0.1)
    whole = bench.line(case, "a process that has just begun, all of it", "process")
    again = bench.line(case, "a process that goes on", "statement", most_seconds=0.1)
    select = f"SELECT * FROM {changed}"
    for _ in range(bench.runs):
        done = shell.run(select)
        begun.add(done.statements[0], done.peak_bytes)
        whole.add(done.seconds, done.peak_bytes)
        done = shell.run(*[select] * (1 + WARM_STATEMENTS))
        for seconds in done.statements[1:]:
            again.add(seconds, done.peak_bytes)
        for line in (begun, whole, again):
            note(line)


# ---- net: the net effect of many changes

def net(bench: Bench) -> None:
    """Net changes of one change for each key, and of ten."""
    each = bench.scaled(NET_CHANGES // NET_COMMITS)
    count = each * NET_COMMITS
    base = bench.work / "net-rows"
    once(base, lambda to: Shell(bench.shell.binary, to).run(*filled("t", count, FILES), ENABLE.format(table="t")))
    once_each = [f"UPDATE t SET w = w + 1, c = 'new' WHERE id % 10 = {rest}" for rest in range(4)]
    once_each += [f"DELETE FROM t WHERE id % 10 = {rest}" for rest in (4, 5)]
    once_each += [f"INSERT INTO t {rows(count + batch * each + 1, count + (batch + 1) * each)}" for batch in range(4)]
    ten_times = ["UPDATE t SET w = w + 1 WHERE id % 10 = 0"] * NET_COMMITS
    # inserts, updates and deletes that are made, and those that are left
    for keys, statements, made, left in ((count, once_each, (4, 4, 2), (4, 4, 2)), (each, ten_times, (0, 10, 0), (0, 1, 0))):
        folder = bench.work / f"net-{keys}-keys"
        once(folder, lambda to, statements=statements: make_changes(bench, base, to, statements))
        read_net(bench, Shell(bench.shell.binary, folder), f"{count:,} changes of {keys:,} keys in {NET_COMMITS} commits",
                 [each * number for number in made], [each * number for number in left])


def make_changes(bench: Bench, base: Path, to: Path, statements: list[str]) -> None:
    """The table with its changes."""
    linked(base / "warehouse" / "t", to / "warehouse" / "t")
    Shell(bench.shell.binary, to).run(*statements)


def read_net(bench: Bench, shell: Shell, case: str, made: list[int], left: list[int]) -> None:
    """Reads all columns of all changes, then of what is left of them."""
    def images(inserts: int, updates: int, deletes: int) -> list[int]:
        return [inserts, updates, updates, deletes]

    begin = newest_version(shell.warehouse / "t") - NET_COMMITS
    kinds = ("insert", "update_preimage", "update_postimage", "delete")
    of_rows = ", ".join(f"count(*) FILTER (WHERE _change_type = '{kind}')" for kind in kinds)
    of_keys = ", ".join(f"count(*) FILTER (WHERE sys_change_operation = '{kind}')" for kind in "IUD")
    columns = "count(sys_change_columns), sum(sys_change_version), sum(sys_change_creation_version), sum(id)"
    plain = bench.line(case, "table_changes, for comparison", "statement")
    contenders = [
        (plain, f"SELECT {of_rows}, {OVER_ALL_COLUMNS} FROM table_changes('t', {begin})", images(*made)),
        (bench.line(case, "table_changes(net => true)", "statement", beside=plain),
         f"SELECT {of_rows}, {OVER_ALL_COLUMNS} FROM table_changes('t', {begin}, net => true)", images(*left)),
        (bench.line(case, "CHANGETABLE", "statement", beside=plain),
         f"SELECT {of_keys}, {columns} FROM CHANGETABLE(CHANGES t, 0) AS ct", left),
    ]
    shell.run(contenders[0][1])
    for _ in range(bench.runs):
        for line, select, expected in contenders:
            done = shell.run(select)
            check_same(f"{case}, {line.what}", done.answer[:len(expected)], list(map(str, expected)))
            line.add(done.statements[0], done.peak_bytes)
            note(line)


# ---- snapshots: the difference of two dumps

def snapshots(bench: Bench) -> None:
    """What has changed from one full dump to the next, beside DuckDB's full outer join."""
    count = bench.scaled(DUMPED_ROWS)
    for order in ("in the order of the key", "the newer one in no order"):
        is_shuffled = order != "in the order of the key"
        folder = bench.work / ("dumps-shuffled" if is_shuffled else "dumps")
        make(make_dumps, folder, count, is_shuffled)
        expected = [str(sum(len(range(rest, count, 1000)) for rest in rests)) for rests in (INSERTED, DELETED, UPDATED)]
        compare_dumps(bench, f"two dumps of {count:,} rows, 1 % changed, {order}", folder, expected)


def compare_dumps(bench: Bench, case: str, folder: Path, expected: list[str]) -> None:
    """Both engines sum up all columns of all images, the new ones and the old ones."""
    opened = f"CREATE EXTERNAL TABLE d STORED AS SNAPSHOTS LOCATION '{folder}/date=*/' OPTIONS (format 'parquet', key 'id')"
    asked = difference_by_alluvial()
    # numbers the dumps, which is done once
    bench.shell.run(opened)
    peer = bench.line(case, "DuckDB, FULL OUTER JOIN", "process") if bench.has_duckdb else None
    whole = bench.line(case, "table_changes", "process", beside=peer, most_ratio=0.5)
    statement = bench.line(case, "table_changes, the SELECT alone", "statement", beside=peer)

    def ours() -> Done:
        done = bench.shell.run(opened, asked)
        check_same(f"{case}, table_changes", done.answer[:3], expected)
        return done

    answer = ours().answer
    for _ in range(bench.runs):
        if peer:
            done = duckdb_run(bench.work, difference_by_duckdb(folder))
            check_same(f"{case}, DuckDB", done.answer, answer)
            peer.add(done.seconds, done.peak_bytes)
            note(peer)
        done = ours()
        whole.add(done.seconds, done.peak_bytes)
        statement.add(done.statements[1])
        note(whole)


def difference_by_alluvial() -> str:
    """Counts of inserts, deletes and updates, and sums over the new images and the old ones."""
    kinds = ", ".join(f"count(*) FILTER (WHERE _change_type = '{kind}')" for kind in ("insert", "delete", "update_postimage"))
    sums = []
    for images in ("'insert', 'update_postimage'", "'delete', 'update_preimage'"):
        filtered = f"FILTER (WHERE _change_type IN ({images}))"
        sums += [f"{aggregate} {filtered}" for aggregate in OVER_ALL_COLUMNS.split(", ")]
    return f"SELECT {kinds}, {', '.join(sums)} FROM table_changes('d', 1)"


def difference_by_duckdb(folder: Path) -> str:
    """The same of the rows of a full outer join, each of which holds both images."""
    was, now = (f"read_parquet('{dump}/*.parquet', hive_partitioning = false)" for dump in sorted(folder.glob("date=*")))
    of_columns = OVER_ALL_COLUMNS.replace("*", "id")
    sums = [of_columns.replace("(", f"({image}.") for image in ("now", "was")]
    differs = " OR ".join(f"was.{column} IS DISTINCT FROM now.{column}" for column in ("id", "k", "v", "w", "c", "z"))
    return (f"SELECT count(*) FILTER (WHERE was.id IS NULL), count(*) FILTER (WHERE now.id IS NULL), "
            f"count(*) FILTER (WHERE was.id = now.id), {', '.join(sums)} "
            f"FROM {was} AS was FULL OUTER JOIN {now} AS now ON was.id = now.id WHERE {differs}")


def make_dumps(folder: Path, count: int, is_shuffled: bool) -> None:
    """Two dumps, each in some files; the ids of the older one are even, so that odd ones are free to insert."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    from data import rows_of

    def write(to: Path, table: pa.Table) -> None:
        to.mkdir()
        starts = [table.num_rows * file // FILES_PER_DUMP for file in range(FILES_PER_DUMP + 1)]
        for file, (first, end) in enumerate(pairwise(starts)):
            pyarrow.parquet.write_table(table.slice(first, end - first), to / f"part-{file:05}.parquet")

    def dumps(to: Path) -> None:
        number = np.arange(count)
        rest = number % 1000
        write(to / "date=2026-01-01", rows_of(2 * number, rest, "a-"))
        changed, added = number[np.isin(rest, UPDATED)], number[np.isin(rest, INSERTED)]
        newer = pa.concat_tables([
            rows_of(2 * number[~np.isin(rest, DELETED + UPDATED)], rest[~np.isin(rest, DELETED + UPDATED)], "a-"),
            rows_of(2 * changed, 1000 + changed % 7, "b-"),
            rows_of(2 * added + 1, added % 1000, "a-"),
        ])
        places = np.random.default_rng(7).permutation(newer.num_rows) if is_shuffled else np.argsort(newer["id"].to_numpy())
        write(to / "date=2026-01-02", newer.take(pa.array(places)))

    once(folder, dumps)


CASES = {"dml": dml, "changetable": changetable, "net": net, "snapshots": snapshots}


def main() -> None:
    """Makes the data, measures the cases, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"), help="the binary")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows, changes and versions")
    parser.add_argument("--work", type=Path, default=Path("target/compare/tracking"), help="where data is made and kept")
    parser.add_argument("--cases", default=",".join(CASES), help="some of %(default)s")
    options = parser.parse_args()
    if unknown := set(options.cases.split(",")) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}: there are {', '.join(CASES)}")
    bench = Bench(options)
    for name in options.cases.split(","):
        CASES[name](bench)
    print("\n".join([CAPTION, "", *HEADER, *(line.markdown() for line in bench.lines)]))


if __name__ == "__main__":
    main()
