"""Times change-marked files: reading them, finding and numbering them, their state by key.

    python benches/compare/files.py --alluvial target/release/alluvial

Makes its data once below --work (about 8 GB, three minutes, half of it the million files of `dated`) with the packages of
requirements.txt, and prints one Markdown table. Every run is a fresh process, and contenders take turns. Whoever reads the
same rows has to give the same answer; a difference ends with exit code 1. --scale 0.01 is a small version of everything.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = "id BIGINT, k INT, v VARCHAR, w DOUBLE, c VARCHAR, t TIMESTAMP(6)"
MARKER = "_change_request_type"
OVER_ALL_COLUMNS = "count(*), sum(id), sum(k), max(v), sum(w), max(c), max(t)"
LARGE_FILES, ROWS_PER_FILE = 100, 100_000
KEYS_PER_CHANGE = 10
SMALL_FILES, ROWS_PER_SMALL_FILE = (25_000, 50_000, 100_000), 10
DATED_FILES, FILES_PER_DAY, LANDING = 1_000_000, 1_000, 10
ELAPSED = re.compile(r"Elapsed ([0-9.]+) seconds")
DUCKDB = """
import json, sys, time
import duckdb
connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false")
start = time.perf_counter()
row = connection.execute(sys.argv[1]).fetchone()
print(json.dumps([time.perf_counter() - start, [str(value) for value in row]]))
"""
CAPTION = """\
"process" is a whole process from its start to its end, except for DuckDB, which is timed inside a Python process that has
imported it. "statement" is what the shell's `\\timing` says. The ratio is that of the medians to the listing table's, or
to what the line says. "peak MB" is the resident memory of the process."""


# ---- the table that is printed

@dataclass
class Line:
    """One line of the table: what was done, how long each run took, and what it should have been."""

    case: str
    what: str
    clock: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    beside: "Line | None" = None
    most_ratio: float | None = None
    most_seconds: float | None = None

    def add(self, seconds: float, peak_bytes: int = 0) -> None:
        """Notes one run."""
        self.seconds.append(seconds)
        self.peak_bytes = max(self.peak_bytes, peak_bytes)

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.seconds)

    def markdown(self) -> str:
        """The line as it is printed."""
        if not self.seconds:
            return f"| {self.case} | {self.what} | {self.clock} | not run | | | | | |"
        ratio = self.median / self.beside.median if self.beside and self.beside.seconds else None
        targets = [f"{limit:g} {unit} {'met' if found <= limit else '**missed**'}"
                   for limit, found, unit in [(self.most_ratio, ratio, "x"), (self.most_seconds, self.median, "s")]
                   if limit is not None and found is not None]
        ratio_shown = f"{ratio:.2f}" if ratio else ""
        peak = f"{self.peak_bytes / 1e6:.0f}" if self.peak_bytes else ""
        return (f"| {self.case} | {self.what} | {self.clock} | {self.median:.3f} | {min(self.seconds):.3f} | "
                f"{max(self.seconds):.3f} | {ratio_shown} | {peak} | {', '.join(targets)} |")


HEADER = ["| case | what | clock | median s | min s | max s | ratio | peak MB | target |",
          "|---|---|---|--:|--:|--:|--:|--:|---|"]


# ---- processes

@dataclass(frozen=True)
class Done:
    """A process that ended well: its own seconds, those of its statements, and the last line of data."""

    seconds: float
    statements: list[float]
    peak_bytes: int
    answer: list[str]


class Shell:
    """The binary, on a warehouse with nothing in it."""

    def __init__(self, binary: Path, work: Path) -> None:
        self.binary, self.work = binary.resolve(), work
        self.warehouse = work / "warehouse"
        self.warehouse.mkdir(parents=True, exist_ok=True)

    def command(self) -> list:
        """The command without its statements."""
        return [self.binary, "--warehouse", self.warehouse, "--format", "csv", "-c", "\\timing on"]

    def run(self, *statements: str) -> Done:
        """Runs statements in a process of their own."""
        command = self.command()
        for statement in statements:
            command += ["-c", statement]
        (text, notes), seconds, peak = finish(command, self.work)
        return Done(seconds, [float(found) for found in ELAPSED.findall(notes)], peak, last_line(text))


class LastingShell:
    """A process that takes one statement after another through a pipe, each when it is there."""

    def __init__(self, shell: Shell, statements: int) -> None:
        self.gate = shell.work / "gate"
        self.gate.unlink(missing_ok=True)
        os.mkfifo(self.gate)
        command = shell.command() + ["-f", self.gate] * statements
        self.out = shell.work / "stdout"
        with open(self.out, "w") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        self.child.stderr.readline()

    def run(self, statement: str) -> tuple[float, list[str]]:
        """Seconds of a statement, and the last line of data."""
        with os.fdopen(self.open_gate(), "w") as gate:
            gate.write(statement + ";\n")
        for note in self.child.stderr:
            if found := ELAPSED.search(note):
                return float(found[1]), last_line(self.out.read_text())
            if note.startswith("error"):
                sys.exit(f"{statement}\n{note}")
        sys.exit(f"{statement}\nthe shell has ended")

    def open_gate(self) -> int:
        """Opens the pipe once the process waits at its other end, and not for ever."""
        while self.child.poll() is None:
            with contextlib.suppress(OSError):
                return os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK)
            time.sleep(0.001)
        sys.exit(f"the shell has ended: {self.child.stderr.read()}")

    def close(self) -> None:
        """Ends the process; pipes that nothing came through are left."""
        self.child.terminate()
        self.child.wait()


def finish(command: list, work: Path) -> tuple[tuple[str, str], float, int]:
    """Runs a command to its end: its output and errors, seconds, and peak memory."""
    with open(work / "stdout", "w+") as out, open(work / "stderr", "w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        texts = out.read(), err.read()
    if child.returncode:
        sys.exit(f"{command[-1]}\nexit code {child.returncode}: {texts[1].strip()[-2000:]}")
    return texts, seconds, usage.ru_maxrss * 1024


def last_line(text: str) -> list[str]:
    """The fields of the last line of CSV: the row of a query of one row."""
    lines = text.split("\n")
    return next((line.split(",") for line in reversed(lines) if line), [])


def duckdb_run(work: Path, sql: str) -> Done:
    """Runs a query in a Python process with DuckDB."""
    (text, _), _, peak = finish([sys.executable, "-c", DUCKDB, sql], work)
    seconds, answer = json.loads(text)
    return Done(seconds, [], peak, answer)


def has_duckdb() -> bool:
    """Whether DuckDB takes part."""
    return importlib.util.find_spec("duckdb") is not None


def check_same(what: str, found: list[str], expected: list[str]) -> None:
    """Ends the benchmark when two answers differ by more than the order of a sum does."""
    def same(left: str, right: str) -> bool:
        try:
            return math.isclose(float(left), float(right), rel_tol=1e-9)
        except ValueError:
            return left.replace("T", " ") == right.replace("T", " ")

    if len(found) != len(expected) or not all(map(same, found, expected)):
        sys.exit(f"WRONG RESULT: {what} answers {found}, expected {expected}")


# ---- data

def make(how, *arguments) -> None:
    """Makes data in another process, whose memory must not count as that of the shells."""
    process = multiprocessing.get_context("fork").Process(target=how, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{how.__name__}: exit code {process.exitcode}")


def make_large(folder: Path, rows: int, keys: int | None, marked: bool) -> None:
    """Files of `rows` rows, as Parquet and as CSV. Keys are all different, or come again every `keys` rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet

    from data import once, rows_of

    def table(file: int) -> pa.Table:
        number = np.arange(file * rows, (file + 1) * rows)
        ids = number % keys if keys else number
        table = rows_of(ids, number % 1000, "a-").drop_columns(["z"])
        table = table.append_column("t", pa.array(1_700_000_000_000_000 + number * 1_000_000).cast(pa.timestamp("us")))
        if marked:
            table = table.append_column(MARKER, pa.array(np.where((number + number // 1_000) % 20 == 0, "d", "u")))
        return table

    def parquet(to: Path) -> None:
        for file in range(LARGE_FILES):
            pyarrow.parquet.write_table(table(file), to / f"{file:05}.parquet")

    def csv(to: Path) -> None:
        plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        for file in range(LARGE_FILES):
            rows = table(file)
            at = rows.schema.get_field_index("t")
            rows = rows.set_column(at, "t", pc.strftime(rows["t"].cast(pa.timestamp("s")), "%Y-%m-%dT%H:%M:%S"))
            with open(to / f"{file:05}.csv", "wb") as written:
                written.write((",".join(rows.column_names) + "\n").encode())
                pyarrow.csv.write_csv(rows, written, plain)

    folder.mkdir(parents=True, exist_ok=True)
    once(folder / "parquet", parquet)
    once(folder / "csv", csv)


def make_small(folder: Path, files: int) -> None:
    """Many CSV files of a few rows."""
    from data import once

    def write(to: Path) -> None:
        for file in range(files):
            first = file * ROWS_PER_SMALL_FILE
            rows = "".join(f"{id},{id % 1000},a-{id},{id / 2},u\n" for id in range(first, first + ROWS_PER_SMALL_FILE))
            (to / f"{file:07}.csv").write_text(f"id,k,v,w,{MARKER}\n{rows}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    once(folder, write)


def make_dated(folder: Path, files: int) -> None:
    """Files of one row in folders of days."""
    from data import once

    once(folder, lambda to: land(to, 0, files))


def land(folder: Path, first: int, count: int) -> None:
    """Puts files number `first` and after it into the folders of their days; a greater number is a greater path."""
    for number in range(first, first + count):
        day, place = divmod(number, FILES_PER_DAY)
        into = folder / f"year={2020 + day // 365}" / f"day={day % 365:03}"
        if place == 0 or number == first:
            into.mkdir(parents=True, exist_ok=True)
        (into / f"{place:06}.csv").write_text("x\n1\n")


# ---- cases

class Bench:
    """Where the data is, who takes part, and the lines so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work = options.work.resolve() / f"scale-{options.scale:g}"
        self.shell = Shell(options.alluvial, self.work)
        self.runs, self.scale = options.runs, options.scale
        self.has_duckdb = has_duckdb()
        self.lines: list[Line] = []

    def scaled(self, number: int) -> int:
        """A number of files or rows in this size of the benchmark."""
        return max(1, round(number * self.scale))

    def line(self, case: str, what: str, clock: str, **more) -> Line:
        """A new line of the table."""
        self.lines.append(Line(case, what, clock, **more))
        return self.lines[-1]

    def race(self, contenders: list[tuple[Line, object]]) -> None:
        """Runs contenders in turns; all answers must be those of the first, whose untimed run brings the files into memory."""
        expected = contenders[0][1]().answer
        for _ in range(self.runs):
            for line, run in contenders:
                done = run()
                check_same(line.what, done.answer, expected)
                line.add(done.seconds, done.peak_bytes)
                print(f"{line.case}, {line.what}: {done.seconds:.3f} s", file=sys.stderr)

    def shell_run(self, *statements: str):
        """A contender that is the shell."""
        return lambda: self.shell.run(*statements)

    def duckdb_contender(self, case: str, sql: str, beside: Line) -> list[tuple[Line, object]]:
        """DuckDB, where it is installed."""
        if not self.has_duckdb:
            return []
        line = self.line(case, "DuckDB", "process", beside=beside)
        return [(line, lambda: duckdb_run(self.work, sql))]


def source(folder: Path, form: str, key: str = "id", columns: str = "", more: str = "") -> str:
    """The statement that opens change files."""
    return f"CREATE EXTERNAL TABLE d {columns} STORED AS CHANGE_FILES LOCATION '{folder}' OPTIONS (format '{form}', key '{key}'{more})"


def listing_table(folder: Path, form: str, columns: str) -> str:
    """The statement that opens the same files without knowing that they are changes."""
    return f"CREATE EXTERNAL TABLE l {columns} STORED AS {form.upper()} LOCATION '{folder}/'"


def duckdb_files(folder: Path, form: str, columns: str) -> str:
    """The same files for DuckDB, which looks into each CSV file unless it is told its columns."""
    if form == "parquet":
        return f"read_parquet('{folder}/*.parquet')"
    pairs = [column.split() for column in re.sub(r"\(6\)|[()]", "", columns).split(",")]
    types = ", ".join(f"'{name}': '{kind}'" for name, kind in pairs)
    return f"read_csv('{folder}/*.csv', columns = {{{types}}}, header = true, delim = ',', auto_detect = false)"


def read(bench: Bench) -> None:
    """All columns, and one column, of 100 large files."""
    rows = bench.scaled(ROWS_PER_FILE)
    for marked in (False, True):
        folder = bench.work / ("marked" if marked else "plain")
        make(make_large, folder, rows, None, marked)
        for form in ("parquet", "csv"):
            for shown, aggregates in (("all columns", OVER_ALL_COLUMNS), ("one column", "sum(id)")):
                case = f"{LARGE_FILES} x {rows:,} rows, {form}, {'with' if marked else 'no'} marker, {shown}"
                read_one(bench, case, folder / form, form, marked, aggregates)


def read_one(bench: Bench, case: str, folder: Path, form: str, marked: bool, aggregates: str) -> None:
    """One query of one folder: the listing table, then others beside it."""
    # CSV has types given, so that nobody has to find them out; those of Parquet are in the files
    own = f"({COLUMNS})" if form == "csv" else ""
    listed = f"({COLUMNS}, {MARKER} VARCHAR)" if form == "csv" and marked else own
    opened, listing = source(folder, form, columns=own), listing_table(folder, form, listed)
    bench.shell.run(opened)
    first = bench.line(case, "listing table", "process")
    contenders = [(first, bench.shell_run(listing, f"SELECT {aggregates} FROM l"))]
    ours = bench.line(case, "table_changes", "process", beside=first, most_ratio=1.2)
    contenders.append((ours, bench.shell_run(opened, f"SELECT {aggregates} FROM table_changes('d', 0)")))
    contenders += bench.duckdb_contender(case, f"SELECT {aggregates} FROM {duckdb_files(folder, form, listed)}", first)
    bench.race(contenders)
    if marked:
        with_marker = bench.line(case, "listing table, the marker too", "process", beside=first)
        with_type = bench.line(case, "table_changes, _change_type too", "process", beside=with_marker, most_ratio=1.2)
        deletes = f"SELECT {aggregates}, count(*) FILTER (WHERE {{}} = '{{}}') FROM {{}}"
        bench.race([
            (with_marker, bench.shell_run(listing, deletes.format(MARKER, "d", "l"))),
            (with_type, bench.shell_run(opened, deletes.format("_change_type", "delete", "table_changes('d', 0)"))),
        ])


def state(bench: Bench) -> None:
    """The rows that are left: 10 M keys with one change each, and a tenth of them with ten."""
    rows = bench.scaled(ROWS_PER_FILE)
    total = LARGE_FILES * rows
    last = f"SELECT w, {MARKER} AS op, row_number() OVER (PARTITION BY id ORDER BY t DESC) AS place FROM l"
    for keys in (total, total // KEYS_PER_CHANGE):
        folder = bench.work / ("marked" if keys == total else "changed")
        make(make_large, folder, rows, None if keys == total else keys, True)
        for form in ("parquet", "csv"):
            case = f"state of {total:,} changes to {keys:,} keys, {form}"
            own = f"({COLUMNS})" if form == "csv" else ""
            listed = f"({COLUMNS}, {MARKER} VARCHAR)" if form == "csv" else ""
            asked = "SELECT count(*), sum(w) FROM"
            opened = [source(folder / form, form, columns=own, more=more) for more in ("", ", sequence 't'")]
            bench.shell.run(opened[0])
            first = bench.line(case, "listing table, row_number()", "process")
            by_order = bench.line(case, "SELECT … FROM d", "process", beside=first)
            by_sequence = bench.line(case, "the same with sequence 't'", "process", beside=first)
            contenders = [
                (first, bench.shell_run(listing_table(folder / form, form, listed),
                                        f"{asked} ({last}) WHERE place = 1 AND op <> 'd'")),
                (by_order, bench.shell_run(opened[0], f"{asked} d")),
                (by_sequence, bench.shell_run(opened[1], f"{asked} d")),
            ]
            of_key = f"SELECT max_by(w, t) AS w, max_by({MARKER}, t) AS op FROM {duckdb_files(folder / form, form, listed)} GROUP BY id"
            bench.race(contenders + bench.duckdb_contender(case, f"{asked} ({of_key}) WHERE op <> 'd'", first))


def small(bench: Bench) -> None:
    """Many files of ten rows: numbering them, looking again, reading."""
    seen = "SELECT count(version) FROM change_versions('d')"
    sums = "SELECT count(*), sum(id) FROM"
    smallest = None
    for files in map(bench.scaled, SMALL_FILES):
        folder = bench.work / f"small-{files}"
        make(make_small, folder, files)
        case, opened = f"{files:,} files of {ROWS_PER_SMALL_FILE} rows, csv", source(folder, "csv")
        first = bench.line(case, "first look and ledger (CREATE EXTERNAL TABLE)", "statement", most_seconds=5.0)
        if smallest:
            first.what += f", beside {files / smallest[0]:g} x fewer"
            first.beside, first.most_ratio = smallest[1], 1.25 * files / smallest[0]
        begun = bench.line(case, "nothing new, a process that has just begun", "statement")
        again = bench.line(case, "nothing new, a process that goes on (change_versions)", "statement")
        for _ in range(bench.runs):
            shutil.rmtree(folder / "_alluvial", ignore_errors=True)
            done = bench.shell.run(opened)
            first.add(done.statements[0], done.peak_bytes)
            done = bench.shell.run(opened, seen)
            check_same(case, done.answer, [str(files)])
            begun.add(done.statements[0], done.peak_bytes)
            again.add(done.statements[1])
            print(f"{case}: {first.seconds[-1]:.3f} s, {begun.seconds[-1]:.3f} s, {again.seconds[-1]:.3f} s", file=sys.stderr)
        smallest = smallest or (files, first)
        if files == bench.scaled(SMALL_FILES[-1]):
            listing = bench.line(case, "read, listing table", "process")
            ours = bench.line(case, "read, table_changes", "process", beside=listing)
            columns = f"(id BIGINT, k BIGINT, v VARCHAR, w DOUBLE, {MARKER} VARCHAR)"
            bench.race([
                (listing, bench.shell_run(listing_table(folder, "csv", columns), f"{sums} l")),
                (ours, bench.shell_run(opened, f"{sums} table_changes('d', 0)")),
                *bench.duckdb_contender(case, f"{sums} {duckdb_files(folder, 'csv', columns)}", listing),
            ])


def dated(bench: Bench) -> None:
    """Ten new files among a million that have versions, in folders of days."""
    files, folder = bench.scaled(DATED_FILES), bench.work / "dated"
    make(make_dated, folder, files)
    case = f"{LANDING} new files among {files:,}"
    if not (folder / "_alluvial").exists():
        first = bench.line(f"{files:,} files of one row, csv", "first look and ledger (CREATE EXTERNAL TABLE)", "statement")
        done = bench.shell.run(source(folder, "csv", key="x"))
        first.add(done.statements[0], done.peak_bytes)
    full = bench.line(case, "for comparison, all listed: nothing new, listing 'full'", "statement")
    done = bench.shell.run(source(folder, "csv", key="x", more=", listing 'full'"),
                           "SELECT count(version) FROM change_versions('d')")
    full.add(done.statements[0], done.peak_bytes)
    landed = int(done.answer[0])
    for listing in ("ordered", "auto"):
        opened = source(folder, "csv", key="x", more=f", listing '{listing}'")
        landed = dated_fresh(bench, case, listing, opened, folder, landed)
        landed = dated_lasting(bench, case, listing, opened, folder, landed)


def dated_fresh(bench: Bench, case: str, listing: str, opened: str, folder: Path, landed: int) -> int:
    """A process for every ten files."""
    begun = f"a process that has just begun, listing '{listing}'"
    look = bench.line(case, f"{begun}: CREATE EXTERNAL TABLE", "statement", most_seconds=0.2)
    rows = bench.line(case, f"{begun}: their rows", "statement")
    whole = bench.line(case, f"{begun}: both", "process")
    for _ in range(bench.runs):
        land(folder, landed, LANDING)
        done = bench.shell.run(opened, f"SELECT count(*) FROM table_changes('d', {landed})")
        check_same(case, done.answer, [str(LANDING)])
        landed += LANDING
        look.add(done.statements[0])
        rows.add(done.statements[1])
        whole.add(done.seconds, done.peak_bytes)
        print(f"{look.what}: {done.statements}, {done.seconds:.3f} s", file=sys.stderr)
    return landed


def dated_lasting(bench: Bench, case: str, listing: str, opened: str, folder: Path, landed: int) -> int:
    """One process that sees ten files come again and again; long enough for the ledger to be summed up once."""
    rounds, most_seconds = 70, 60.0
    line = bench.line(case, f"a process that goes on, listing '{listing}': their rows", "statement", most_seconds=0.2)
    shell = LastingShell(bench.shell, rounds + 1)
    shell.run(opened)
    started = time.perf_counter()
    for _ in range(rounds):
        land(folder, landed, LANDING)
        seconds, answer = shell.run(f"SELECT count(*) FROM table_changes('d', {landed})")
        check_same(case, answer, [str(LANDING)])
        landed += LANDING
        line.add(seconds)
        if time.perf_counter() - started > most_seconds:
            break
    shell.close()
    slow = sum(seconds > line.most_seconds for seconds in line.seconds)
    line.what += f" ({len(line.seconds)} times, {slow} above the target)"
    print(f"{line.what}: {line.median:.3f} s, slowest {max(line.seconds):.3f} s", file=sys.stderr)
    return landed


CASES = {"read": read, "state": state, "small": small, "dated": dated}


def main() -> None:
    """Makes the data, measures the cases, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"), help="the binary")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of rows in large files, and of numbers of small ones")
    parser.add_argument("--work", type=Path, default=Path("target/compare/files"), help="where data is made and kept")
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
