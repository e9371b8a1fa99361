"""Times Alluvial, delta-rs and DuckDB with DuckLake at the same merges and change reads.

    python benches/compare/compare.py --help

Each run starts from a fresh copy of the case's input and takes a fresh process;
contenders take turns, so that a slow minute of the machine hits them all. What
each one answers, or the table it leaves, is checked against numbers computed
when the data was made: a fast wrong answer fails the run (exit code 1).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import peers
import report

HERE = Path(__file__).resolve().parent
LAKE_CATALOG = "lake.ducklake"

@dataclass(frozen=True)
class Case:
    """One line of work, and the folder each contender starts from."""

    title: str
    action: str
    inputs: dict[str, str]


MERGE_INPUTS = {"alluvial": "target-dv", "delta-rs": "target", "DuckLake": "lake"}
FEED_INPUTS = {"alluvial": "feed", "delta-rs": "feed", "DuckLake": "lake"}
COMMITS_INPUTS = {"alluvial": "commits", "delta-rs": "commits", "DuckLake": "lake-commits"}


def cases(rows: int) -> dict[str, Case]:
    """Every case; the numbers of changes and commits follow the number of rows."""
    return {
        "sparse": Case(f"merge {rows // 1000:,} changes over all files", "merge", MERGE_INPUTS),
        "tail": Case(f"merge {rows // 1000:,} changes in the last 5 % of keys", "merge", MERGE_INPUTS),
        "dense": Case(f"merge {rows // 10:,} changes over all files", "merge", MERGE_INPUTS),
        "feed": Case(f"read a feed of {rows:,} inserts", "read", FEED_INPUTS),
        "commits": Case(f"read {rows // 2000:,} one-row commits", "read", COMMITS_INPUTS),
    }


@dataclass(frozen=True)
class Process:
    """A process that ended well."""

    seconds: float
    process_seconds: float
    peak_bytes: int
    answer: list


class Bench:
    """One benchmark: where its data is, who takes part, and what went wrong so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder = options.work.resolve() / f"rows-{options.rows}"
        self.binary = options.alluvial.resolve()
        self.copy = self.folder / "run"
        self.skipped = {name: why for name in MERGE_INPUTS if (why := self.why_skipped(name))}
        self.contenders = [name for name in MERGE_INPUTS if name not in self.skipped]
        self.failures: list[str] = []
        self.expected: dict[str, list[int]] = {}

    def why_skipped(self, contender: str) -> str | None:
        """What a contender lacks on this machine."""
        if contender == "alluvial":
            found = self.binary.is_file()
            return None if found else f"no binary at {self.binary}: run `cargo build --release`, or pass --alluvial"
        missing = peers.missing_packages(contender)
        return f"not installed: {', '.join(missing)} (see requirements.txt)" if missing else None

    def make_data(self, rows: int) -> None:
        """Makes the inputs in another process, whose memory must not count as the contenders'."""
        subprocess.run([sys.executable, HERE / "data.py", self.folder, str(rows)], check=True)
        self.expected = json.loads((self.folder / "changes" / "expected.json").read_text())

    def measure(self, key: str, case: Case, runs: int) -> list[report.Result]:
        """All runs of one case."""
        results = [report.Result(case.title, contender) for contender in self.contenders]
        for _ in range(runs):
            for result in results:
                try:
                    result.runs.append(self.run_once(key, case, result.contender))
                except RuntimeError as error:
                    self.failures.append(f"{case.title}, {result.contender}: {error}")
                    print(f"FAILED {self.failures[-1]}", file=sys.stderr)
        return results

    def run_once(self, key: str, case: Case, contender: str) -> report.Run:
        """One timed process on a fresh copy, and the check of what it did."""
        source = self.folder / case.inputs[contender]
        copy_input(source, self.copy)
        os.sync()
        changes = [str(self.folder / "changes" / f"{key}.parquet")] if case.action == "merge" else []
        process = self.start(contender, case.action, *changes)
        written = bytes_written(source, self.copy)
        checked = self.start(contender, "check") if case.action == "merge" else process
        if checked.answer != self.expected[key]:
            raise RuntimeError(f"WRONG RESULT {checked.answer}, expected {self.expected[key]}")
        print(f"{case.title}, {contender}: {process.seconds:.3f} s", file=sys.stderr)
        return report.Run(process.seconds, process.process_seconds, process.peak_bytes, written)

    def start(self, contender: str, action: str, *changes: str) -> Process:
        """Runs one action of one contender in its own process."""
        if contender == "alluvial":
            sql = peers.alluvial_sql(action, *changes)
            command = [self.binary, "--warehouse", self.copy, "-q", "--format", "csv", "-c", sql]
            return finish(command, self.copy, os.environ, last_csv_line)
        command = [sys.executable, HERE / "peers.py", contender, action, *changes]
        environment = {**os.environ, "HOME": str(self.folder / "home")}
        return finish(command, self.copy, environment, json.loads)


def finish(command: list, folder: Path, environment: dict, parse) -> Process:
    """Runs a command to its end. `parse` reads its output: an answer, or an answer and the seconds it took."""
    with open(folder.with_name("stdout"), "w+") as out, open(folder.with_name("stderr"), "w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        elapsed = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}: {err.read().strip()[-2000:]}")
        parsed = parse(out.read())
    return Process(parsed.get("seconds", elapsed), elapsed, usage.ru_maxrss * 1024, parsed["answer"])


def last_csv_line(text: str) -> dict:
    """The last line that Alluvial printed: the row of a query of one row."""
    fields = text.split()[-1].split(",") if text.strip() else []
    return {"answer": [int(field) if field.isdigit() else field for field in fields]}


def copy_input(source: Path, copy: Path) -> None:
    """A fresh copy by hard links; the DuckLake catalog alone is written in place and is copied whole."""
    def copy_file(old: str, new: str) -> None:
        (shutil.copyfile if old.endswith(LAKE_CATALOG) else os.link)(old, new)

    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy, copy_function=copy_file)


def bytes_written(source: Path, copy: Path) -> int:
    """Sizes of new files, and the growth of those that were there before."""
    total = 0
    for file in copy.rglob("*"):
        if file.is_file():
            before = source / file.relative_to(copy)
            total += file.stat().st_size - (before.stat().st_size if before.exists() else 0)
    return total


def versions(bench: Bench) -> dict[str, str]:
    """What was measured, and who was left out and why."""
    found = {name: report.package_versions(*peers.PACKAGES[name]) for name in bench.contenders if name != "alluvial"}
    if "alluvial" in bench.contenders:
        shown = subprocess.run([bench.binary, "--version"], capture_output=True, text=True, check=True)
        found = {"alluvial": shown.stdout.strip(), **found}
    return found | {name: f"skipped, {why}" for name, why in bench.skipped.items()}


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"), help="the binary")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the target, a multiple of 20,000")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default=",".join(cases(0)), help="some of %(default)s")
    parser.add_argument("--work", type=Path, default=Path("target/compare"), help="where data is made and kept")
    parser.add_argument("--out", type=Path, default=Path("target/compare/results.md"))
    options = parser.parse_args()
    if unknown := set(options.cases.split(",")) - set(cases(0)):
        parser.error(f"unknown case {', '.join(unknown)}: there are {', '.join(cases(0))}")
    if options.rows <= 0 or options.rows % 20_000:
        parser.error(f"--rows {options.rows}: must be a multiple of 20,000")
    return options


def main() -> int:
    """Makes the data, measures the cases, prints the table."""
    options = parse_options()
    if missing := peers.missing_packages("data"):
        sys.exit(f"the data is made with {', '.join(missing)}: pip install -r {HERE / 'requirements.txt'}")
    bench = Bench(options)
    for name, why in bench.skipped.items():
        print(f"{name} skipped: {why}", file=sys.stderr)
    bench.make_data(options.rows)
    results: list[report.Result] = []
    for key in options.cases.split(","):
        results += bench.measure(key, cases(options.rows)[key], options.runs)
    text = report.markdown(results, versions(bench), bench.failures)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
