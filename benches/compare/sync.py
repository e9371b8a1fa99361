"""Times SYNC: a first copy against CREATE TABLE AS SELECT, runs against small and large targets, idle runs, histories.

    python benches/compare/sync.py --alluvial target/release/alluvial --rows 10000000

Needs nothing but the binary. Figures are medians of fresh processes that start from fresh copies; what a run leaves is compared
with its source before the next one starts, and a difference fails the benchmark.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

COLUMNS = "value AS id, CAST(value % 1000 AS INT) AS k, concat('b-', value % 97) AS v, value * 0.5 AS w, concat('c', value % 5) AS c, value AS z"
DIFFERENCE = """
    SELECT (SELECT count(*) FROM (SELECT * FROM {left} EXCEPT SELECT * FROM {right}))
         + (SELECT count(*) FROM (SELECT * FROM {right} EXCEPT SELECT * FROM {left})) AS difference"""
COMMITS = 100
CHANGES_PER_COMMIT = 100
KEYS = 100_000


class Shell:
    """The binary on one warehouse."""

    def __init__(self, binary: Path, warehouse: Path) -> None:
        self.binary, self.warehouse = binary.resolve(), warehouse

    def run(self, *statements: str) -> tuple[float, str]:
        """Seconds of the whole process, and what it printed."""
        command = [self.binary, "--warehouse", self.warehouse, "-q", "--format", "csv"]
        for statement in statements:
            command += ["-c", statement]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{statements}\n{done.stderr}")
        return seconds, done.stdout

    def must_be_equal(self, left: str, right: str) -> None:
        """Fails the benchmark when two tables differ."""
        _, printed = self.run(DIFFERENCE.format(left=left, right=right))
        if printed.split()[-1] != "0":
            sys.exit(f"WRONG RESULT: {left} and {right} differ in {printed.split()[-1]} rows")


def median(times: list[float]) -> str:
    return f"{statistics.median(times):7.3f} s  ({min(times):.3f} to {max(times):.3f})"


def drop(warehouse: Path, table: str) -> None:
    shutil.rmtree(warehouse / table, ignore_errors=True)


def make_source(shell: Shell, table: str, rows: int) -> None:
    if not (shell.warehouse / table).exists():
        shell.run(f"CREATE TABLE {table} (id BIGINT PRIMARY KEY, k INT, v STRING, w DOUBLE, c STRING, z BIGINT) AS "
                  f"SELECT {COLUMNS} FROM generate_series(1, {rows})")


def first_copy(shell: Shell, rows: int, runs: int) -> None:
    """SYNC checks that keys differ, which CREATE TABLE AS SELECT does not."""
    make_source(shell, "source", rows)
    times: dict[str, list[float]] = {"CREATE TABLE AS SELECT": [], "SYNC, first copy": []}
    for _ in range(runs):
        drop(shell.warehouse, "copied")
        seconds, _ = shell.run("CREATE TABLE copied AS SELECT * FROM source")
        times["CREATE TABLE AS SELECT"].append(seconds)
        drop(shell.warehouse, "copied")
        seconds, _ = shell.run("SYNC INTO copied FROM source KEYS (id)")
        times["SYNC, first copy"].append(seconds)
    for what, seconds in times.items():
        print(f"{rows:>11,} rows, {what:<40} {median(seconds)}")
    ratio = statistics.median(times["SYNC, first copy"]) / statistics.median(times["CREATE TABLE AS SELECT"])
    print(f"{'':>11}       ratio {ratio:.2f}")


def incremental(shell: Shell, rows: int, runs: int) -> None:
    """10,000 changes in 100 commits to neighbouring keys."""
    source, target = f"source_{rows}", f"target_{rows}"
    drop(shell.warehouse, source)
    drop(shell.warehouse, target)
    make_source(shell, source, rows)
    shell.run(f"SYNC INTO {target} FROM {source} KEYS (id)")
    first = rows // 2
    shell.run(*(f"UPDATE {source} SET k = k + 1 WHERE id BETWEEN {low} AND {low + CHANGES_PER_COMMIT - 1}"
                for low in range(first, first + COMMITS * CHANGES_PER_COMMIT, CHANGES_PER_COMMIT)))
    kept = shell.warehouse / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(shell.warehouse / target, kept)
    times = []
    for _ in range(runs):
        drop(shell.warehouse, target)
        shutil.copytree(kept, shell.warehouse / target)
        seconds, printed = shell.run(f"SYNC INTO {target} FROM {source}")
        if ",10000,0,0," not in printed:
            sys.exit(f"WRONG RESULT: {printed}")
        times.append(seconds)
    shell.must_be_equal(source, target)
    shutil.rmtree(kept)
    print(f"{rows:>11,} rows, SYNC of 10,000 changes in 100 commits    {median(times)}")


def idle(shell: Shell, runs: int) -> None:
    """Within one process, as `alluvial sync --every` does it."""
    shell.run("SYNC INTO copied FROM source KEYS (id)")
    _, printed = shell.run("\\timing on", *["SYNC INTO copied FROM source"] * (runs * 5))
    command = [shell.binary, "--warehouse", shell.warehouse, "--format", "csv", "-c", "\\timing on"]
    for _ in range(runs * 5):
        command += ["-c", "SYNC INTO copied FROM source"]
    done = subprocess.run(command, capture_output=True, text=True)
    times = [float(seconds) for seconds in re.findall(r"Elapsed ([0-9.]+) seconds", done.stdout + done.stderr)]
    print(f"{'':>11}       idle SYNC, in one process                {median(times[1:])}")


def histories(shell: Shell, changes: int, runs: int) -> None:
    """SCD type 2 from an append-only log: a first run, and a run with as many changes again."""
    table = "CREATE TABLE log (id BIGINT, seq BIGINT, v STRING, w DOUBLE) AS SELECT value % {keys}, value, concat('b-', value % 97), value * 0.5 " \
            "FROM generate_series(1, {changes})"
    first, second = [], []
    for _ in range(runs):
        drop(shell.warehouse, "log")
        drop(shell.warehouse, "history")
        shell.run(table.format(keys=KEYS, changes=changes))
        sync = "SYNC INTO history FROM log KEYS (id) SEQUENCE BY seq COLUMNS * EXCEPT (seq) STORED AS SCD TYPE 2"
        first.append(shell.run(sync)[0])
        shell.run(f"INSERT INTO log SELECT value % {KEYS}, value, concat('b-', value % 97), value * 0.5 "
                  f"FROM generate_series({changes + 1}, {2 * changes})")
        second.append(shell.run(sync)[0])
        _, printed = shell.run('SELECT count(*) FROM history WHERE "__END_AT" IS NULL')
        if printed.split()[-1] != str(KEYS):
            sys.exit(f"WRONG RESULT: {printed.split()[-1]} open rows, expected {KEYS}")
    print(f"{changes:>11,} changes, SCD TYPE 2, first run                {median(first)}")
    print(f"{changes:>11,} changes, SCD TYPE 2, on a history             {median(second)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("/tmp/alluvial-sync-bench"))
    parser.add_argument("--cases", default="copy,incremental,idle,histories")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    shell = Shell(options.alluvial, options.work)
    cases = options.cases.split(",")
    if "copy" in cases:
        first_copy(shell, options.rows, options.runs)
    if "incremental" in cases:
        incremental(shell, options.rows // 10, options.runs)
        incremental(shell, options.rows, options.runs)
    if "idle" in cases:
        make_source(shell, "source", options.rows)
        idle(shell, options.runs)
    if "histories" in cases:
        histories(shell, options.rows // 10, options.runs)


if __name__ == "__main__":
    main()
