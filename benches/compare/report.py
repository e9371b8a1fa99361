"""The one table that a run prints, and the facts of the machine it ran on."""

import os
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

CAPTION = """\
Times are of the work on the table, from opening it to the commit or the last row read: timed inside the process for
the Python peers (packages already imported), the whole process for Alluvial. "process s" is the whole process for all.
The ratio compares the minima. "peak MB" is the resident memory of the process, for the peers with Python in it.
"MB written" counts files that were not in the input, and the growth of those that were (DuckLake's catalog)."""


@dataclass(frozen=True)
class Run:
    """What one process took to do one case."""

    seconds: float
    process_seconds: float
    peak_bytes: int
    written_bytes: int


@dataclass
class Result:
    """The runs of one contender in one case; no runs means that it failed."""

    case: str
    contender: str
    runs: list[Run] = field(default_factory=list)


def markdown(results: list[Result], versions: dict[str, str], notes: list[str]) -> str:
    """The whole report."""
    alluvial = {result.case: fastest(result) for result in results if result.contender == "alluvial" and result.runs}
    lines = [*machine_facts(), *(f"- {name}: {text}" for name, text in versions.items()), "", CAPTION, ""]
    lines += [
        "| case | contender | min s | median s | ratio | process s | peak MB | MB written |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
        *(table_row(result, alluvial.get(result.case)) for result in results),
    ]
    if notes:
        lines += ["", *(f"**{note}**  " for note in notes)]
    return "\n".join(lines) + "\n"


def table_row(result: Result, alluvial_seconds: float | None) -> str:
    """One line of the table."""
    if not result.runs:
        return f"| {result.case} | {result.contender} | failed | | | | | |"
    best = fastest(result)
    ratio = f"{best / alluvial_seconds:.2f}" if alluvial_seconds else "–"
    median = statistics.median(run.seconds for run in result.runs)
    process = min(run.process_seconds for run in result.runs)
    peak = max(run.peak_bytes for run in result.runs) / 1e6
    written = statistics.median(run.written_bytes for run in result.runs) / 1e6
    return (
        f"| {result.case} | {result.contender} | {best:.3f} | {median:.3f} | {ratio} "
        f"| {process:.3f} | {peak:.0f} | {written:.1f} |"
    )


def fastest(result: Result) -> float:
    """The shortest run: what the machine's other work disturbed least."""
    return min(run.seconds for run in result.runs)


def package_versions(*names: str) -> str:
    """`name version` of each package."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def machine_facts() -> list[str]:
    """Processor, cores and memory as a Markdown list."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [f"- machine: {processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB memory"]


def processor() -> str:
    """The processor's name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine
