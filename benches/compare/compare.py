"""Times Alluvial, delta-rs and DuckDB with DuckLake, and Spark if asked to, at the same changes of the same tables.

    python benches/compare/compare.py --alluvial target/release/alluvial

Each run starts from a fresh copy of the case's tables and takes a fresh process; contenders take turns, so that a slow minute
of the machine hits them all. The tables that each one leaves are checked against numbers computed when the data was made: a
wrong one, or a failure of Alluvial, ends with exit code 1. --scale 0.1 is a quick look.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import peers
import report
from merge_cases import DEFAULT, GROUPS, VARIANTS, Case, cases, chosen

HERE = Path(__file__).resolve().parent
LAKE_CATALOG = "lake.ducklake"
WRITTEN_IN_PLACE = (LAKE_CATALOG, "_last_checkpoint")
ELAPSED = re.compile(r"Elapsed ([0-9.]+) seconds")


@dataclass(frozen=True)
class Process:
    """A process that ended well: seconds of its work and of all of it."""

    seconds: float
    process_seconds: float
    peak_bytes: int
    answer: list[str]


class Bench:
    """One benchmark: where its data is, who takes part, and what went wrong so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cases = cases(options.scale)
        self.folder = options.work.resolve() / f"scale-{options.scale:g}"
        self.copy = self.folder / "run"
        self.binary = options.alluvial.resolve()
        wanted = ("alluvial", *options.peers.split(","))
        self.skipped = {name: why for name in wanted if (why := self.why_skipped(name))}
        self.contenders = [name for name in wanted if name not in self.skipped]
        self.failures: list[str] = []

    def why_skipped(self, contender: str) -> str | None:
        """What a contender lacks on this machine."""
        if contender == "alluvial":
            found = self.binary.is_file()
            return None if found else f"no binary at {self.binary}: run `cargo build --release`, or pass --alluvial"
        if contender == "Spark":
            return None if self.options.spark_python else "pass --spark-python, a Python with pyspark and delta-spark"
        missing = peers.missing_packages(contender)
        return f"not installed: {', '.join(missing)} (see requirements.txt)" if missing else None

    def make_data(self, names: list[str]) -> None:
        """Makes the inputs in another process, whose memory must not count as the contenders'."""
        command = [sys.executable, HERE / "merge_data.py", self.folder, str(self.options.scale), *names]
        subprocess.run(command, check=True)

    def measure(self, name: str) -> list[report.Result]:
        """All runs of one case. Who has once given no answer in time is not asked again."""
        case = self.cases[name]
        results = [report.Result(name, case, contender) for contender in self.contenders if takes_part(contender, case)]
        for run in range(self.options.runs):
            for result in results:
                if result.failure:
                    continue
                try:
                    result.runs.append(self.run_once(name, case, result.contender, is_first=run == 0))
                except RuntimeError as error:
                    result.failure = str(error)
                    self.failures.append(f"{case.title}, {result.contender}: {error}")
                    print(f"FAILED {self.failures[-1]}", file=sys.stderr)
        if results and results[0].contender == "alluvial" and case.limits.of_own_size:
            results[0].own_bytes = self.own_size(name)
        return results

    def run_once(self, name: str, case: Case, contender: str, is_first: bool) -> report.Run:
        """One timed process on a fresh copy, and the check of what it did."""
        source = self.folder / "bases" / f"{case.base}-{VARIANTS[contender]}"
        copy_input(source, self.copy)
        os.sync()
        changes = self.folder / "changes" / (case.changes or name)
        if contender == "alluvial":
            process = self.shell(*shell_script(case, changes), memory=case.memory)
        else:
            process = self.peer(contender, "run", name, changes)
        data, log = bytes_written(source, self.copy)
        self.check(name, case, contender, is_first)
        print(f"{case.title}, {contender}: {process.seconds:.3f} s", file=sys.stderr)
        return report.Run(process.seconds, process.process_seconds, process.peak_bytes, data, log)

    def check(self, name: str, case: Case, contender: str, is_first: bool) -> None:
        """Compares the tables with what they must be. delta-rs reads Alluvial's once, too, and those of Spark."""
        expected = json.loads((self.folder / "expected" / name / "answer.json").read_text())
        readers = ["delta-rs" if contender == "Spark" else contender]
        if contender == "alluvial" and is_first and not peers.missing_packages("delta-rs"):
            readers.append("delta-rs")
        for reader in readers:
            found = self.shell(case.check) if reader == "alluvial" else self.peer(reader, "check", name)
            if len(found.answer) != len(expected) or not all(map(is_same, found.answer, expected)):
                raise RuntimeError(f"WRONG RESULT, as {reader} reads it: {found.answer}, expected {expected}")

    def own_size(self, name: str) -> int:
        """Bytes of the changed rows where Alluvial writes them alone, to a new table."""
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir()
        for rows in sorted((self.folder / "expected" / name / "rows").iterdir()):
            source, table = peers.external_table(f"{rows.stem}_rows", rows), f"CREATE TABLE {rows.stem}"
            properties = "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')"
            self.shell(source, f"{table} {properties} AS SELECT * FROM {rows.stem}_rows")
        return sum(file.stat().st_size for file in self.copy.rglob("*.parquet") if "_delta_log" not in file.parts)

    def shell(self, *statements: str, memory: str = "") -> Process:
        """Runs statements in Alluvial's shell; its seconds are those of the statements."""
        command = [self.binary, "--warehouse", self.copy, "--format", "csv"]
        command += ["-m", memory] if memory else []
        for statement in ("\\timing on", *statements):
            command += ["-c", statement]
        return self.finish(command, os.environ, last_csv_line)

    def peer(self, contender: str, action: str, name: str, *changes: Path) -> Process:
        """Runs one action of a peer."""
        python = self.options.spark_python if contender == "Spark" else sys.executable
        # DuckLake's extension is in a home of its own; Spark needs the user's, in which its packages are
        environment = os.environ if contender == "Spark" else {**os.environ, "HOME": str(self.folder / "home")}
        command = [python, HERE / "peers.py", contender, action, name, str(self.options.scale), *changes]
        done = self.finish(command, environment, lambda text, _: tuple(json.loads(text).values()))
        # the memory is that of the Java process
        return Process(done.seconds, done.process_seconds, 0, done.answer) if contender == "Spark" else done

    def finish(self, command: list, environment: dict, parse) -> Process:
        """Runs a command to its end, or to the end of the time it has. `parse` reads seconds and an answer."""
        timeout = self.options.timeout
        with open(self.folder / "stdout", "w+") as out, open(self.folder / "stderr", "w+") as err:
            start = time.perf_counter()
            child = subprocess.Popen(command, cwd=self.copy, env=environment, stdout=out, stderr=err)
            timer = threading.Timer(timeout, child.kill)
            timer.start()
            _, status, usage = os.wait4(child.pid, 0)
            elapsed = time.perf_counter() - start
            timer.cancel()
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            text, notes = out.read(), err.read()
        if child.returncode and elapsed >= timeout:
            raise RuntimeError(f"no answer in {timeout:g} s")
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}: … {' '.join(notes.split())[-600:]}")
        seconds, answer = parse(text, notes)
        return Process(seconds, elapsed, usage.ru_maxrss * 1024, answer)


def takes_part(contender: str, case: Case) -> bool:
    """Whether a contender can do a case. Spark does what delta-rs does."""
    return ("delta-rs" if contender == "Spark" else contender) in case.contenders


def shell_script(case: Case, changes: Path) -> list[str]:
    """The statements of a case for Alluvial's shell."""
    explain = "EXPLAIN " if case.is_planned_only else ""
    sources = [peers.external_table(name, changes / f"{name}.parquet") for name in case.sources]
    return [*sources, *(explain + statement.sql for statement in case.statements)]


def last_csv_line(text: str, notes: str) -> tuple[float, list[str]]:
    """The seconds of all statements, and the last line printed: the row of a query of one row."""
    lines = text.strip().split("\n")
    return sum(map(float, ELAPSED.findall(notes))), lines[-1].split(",")


def is_same(found: str, expected: str) -> bool:
    """Whether two values are equal, but for the order in which floating-point numbers were added up."""
    try:
        both = float(found), float(expected)
    except ValueError:
        return found == expected
    are_whole = found.lstrip("-").isdigit() and expected.lstrip("-").isdigit()
    return found == expected if are_whole else math.isclose(*both, rel_tol=1e-9)


def copy_input(source: Path, copy: Path) -> None:
    """A fresh copy by hard links, but for files that are written in place."""
    def copy_file(old: str, new: str) -> None:
        (shutil.copyfile if old.endswith(WRITTEN_IN_PLACE) else os.link)(old, new)

    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, copy_function=copy_file)


def bytes_written(source: Path, copy: Path) -> tuple[int, int]:
    """Bytes of new files, and growth of those that were there: of data with deletion vectors, and of logs and catalogs."""
    data, log = 0, 0
    for file in copy.rglob("*"):
        if file.is_file():
            before = source / file.relative_to(copy)
            grown = file.stat().st_size - (before.stat().st_size if before.exists() else 0)
            if "_delta_log" in file.parts or file.name.startswith(LAKE_CATALOG):
                log += grown
            else:
                data += grown
    return data, log


def versions(bench: Bench) -> dict[str, str]:
    """What was measured, and who was left out and why."""
    found = {}
    for name in bench.contenders:
        if name == "alluvial":
            shown = subprocess.run([bench.binary, "--version"], capture_output=True, text=True, check=True)
            found[name] = shown.stdout.strip()
        else:
            found[name] = peers.DELTA_SPARK if name == "Spark" else report.package_versions(*peers.PACKAGES[name])
    return found | {name: f"skipped, {why}" for name, why in bench.skipped.items()}


def parse_options() -> argparse.Namespace:
    """The command line."""
    known, groups = cases(1), ", ".join(GROUPS)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"), help="the binary")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows, changes and files")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default=",".join(DEFAULT),
                        help=f"some of {', '.join(known)}, {groups}; without it, all but growth and memory")
    parser.add_argument("--peers", default="delta-rs,DuckLake", help="some of delta-rs, DuckLake, Spark")
    parser.add_argument("--spark-python", type=Path, help="a Python with pyspark and delta-spark")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds that a process has (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("target/compare"), help="where data is made and kept")
    parser.add_argument("--out", type=Path, default=Path("target/compare/results.md"))
    options = parser.parse_args()
    if unknown := set(chosen(options.cases)) - set(known):
        parser.error(f"unknown case {', '.join(unknown)}: there are {', '.join(known)}, {groups}")
    if unknown := set(options.peers.split(",")) - set(peers.PEERS):
        parser.error(f"unknown peer {', '.join(unknown)}: there are {', '.join(peers.PEERS)}")
    return options


def main() -> int:
    """Makes the data, measures the cases, prints the tables."""
    options = parse_options()
    if missing := peers.missing_packages("data"):
        sys.exit(f"the data is made with {', '.join(missing)}: pip install -r {HERE / 'requirements.txt'}")
    bench = Bench(options)
    for name, why in bench.skipped.items():
        print(f"{name} skipped: {why}", file=sys.stderr)
    names = chosen(options.cases)
    bench.make_data(names)
    # asked first, because a binary's first start reads it from the disk
    measured = versions(bench)
    results = [result for name in names for result in bench.measure(name)]
    shutil.rmtree(bench.copy, ignore_errors=True)
    text = report.markdown(results, measured, bench.failures)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)
    return 1 if any(", alluvial: " in failure or "WRONG" in failure for failure in bench.failures) else 0


if __name__ == "__main__":
    sys.exit(main())
