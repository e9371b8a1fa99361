"""What a run prints: a line for each contender and case, a short table for the README, and the facts of the machine."""

import os
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from merge_cases import Case

CAPTION = """\
"min s", "median s" and the ratio, which is that of the minima to Alluvial's, are of the work on the table, from opening it to
the commit: the statements by the shell's `\\timing` for Alluvial, inside the process for the peers, whose packages are imported
already. "process s" is the whole process, at its fastest. "peak MB" is the resident memory of the process, for the peers with
Python in it. "data MB" is what was written to data, change and delete files, "log MB" to logs and catalogs. "own size" is data
MB in those of a new table that holds the changed rows alone."""

DETAILS = ["| case | contender | min s | median s | ratio | process s | peak MB | data MB | log MB | own size | limits |",
           "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"]


@dataclass(frozen=True)
class Run:
    """What one process took to do one case."""

    seconds: float
    process_seconds: float
    peak_bytes: int
    data_bytes: int
    log_bytes: int


@dataclass
class Result:
    """The runs of one contender in one case, or why there are none."""

    name: str
    case: Case
    contender: str
    runs: list[Run] = field(default_factory=list)
    failure: str = ""
    own_bytes: int = 0

    @property
    def best(self) -> float:
        """The shortest run: what the machine's other work disturbed least."""
        return min(run.seconds for run in self.runs)

    @property
    def peak_mb(self) -> float:
        """The most memory of all runs."""
        return max(run.peak_bytes for run in self.runs) / 1e6

    @property
    def of_own_size(self) -> float | None:
        """Data written, in the size of the changed rows alone."""
        written = statistics.median(run.data_bytes for run in self.runs)
        return written / self.own_bytes if self.own_bytes else None


def markdown(results: list[Result], versions: dict[str, str], failures: list[str]) -> str:
    """The whole report."""
    done = {(result.name, result.contender): result for result in results if result.runs}
    # all sizes are compared with what Alluvial needs for the rows alone
    for result in results:
        if ours := done.get((result.name, "alluvial")):
            result.own_bytes = ours.own_bytes
    lines = [*machine_facts(), *(f"- {name}: {text}" for name, text in versions.items()), "", CAPTION, ""]
    lines += [*DETAILS, *(detail(result, done) for result in results), "", *short_table(results)]
    if failures:
        lines += ["", *(f"**{failure}**  " for failure in failures)]
    return "\n".join(lines) + "\n"


def detail(result: Result, done: dict[tuple[str, str], Result]) -> str:
    """One contender in one case."""
    if not result.runs:
        return f"| {result.case.title} | {result.contender} | {outcome(result)} | | | | | | | | |"
    ours = done.get((result.name, "alluvial"))
    ratio = f"{result.best / ours.best:.2f}" if ours else "–"
    median = statistics.median(run.seconds for run in result.runs)
    process = min(run.process_seconds for run in result.runs)
    peak = f"{result.peak_mb:.0f}" if result.peak_mb else "–"
    data = statistics.median(run.data_bytes for run in result.runs) / 1e6
    log = statistics.median(run.log_bytes for run in result.runs) / 1e6
    own = f"{result.of_own_size:.2f}" if result.of_own_size else ""
    reached = ", ".join(limits(result, done)) if result is ours else ""
    return (f"| {result.case.title} | {result.contender} | {result.best:.3f} | {median:.3f} | {ratio} | {process:.3f} | {peak} "
            f"| {data:.2f} | {log:.2f} | {own} | {reached} |")


def outcome(result: Result) -> str:
    """What to say of a contender without a time."""
    return result.failure if result.failure.startswith("no answer") else "failed"


def limits(ours: Result, done: dict[tuple[str, str], Result]) -> list[str]:
    """The limits of a case, each with what was found."""
    known = ours.case.limits
    shown = []
    for contender, least in known.times_faster.items():
        if theirs := done.get((ours.name, contender)):
            found = theirs.best / ours.best
            shown.append(judged(f"{least:g}x faster than {contender}", f"{found:.1f}x", found >= least))
    if known.peak_mb:
        shown.append(judged(f"{known.peak_mb:g} MB", f"{ours.peak_mb:.0f} MB", ours.peak_mb <= known.peak_mb))
    if known.of_own_size and ours.of_own_size:
        found = ours.of_own_size
        shown.append(judged(f"{known.of_own_size:g} of own size", f"{found:.2f}", found <= known.of_own_size))
    if known.seconds:
        shown.append(judged(f"{known.seconds:g} s", f"{ours.best:.3f} s", ours.best <= known.seconds))
    if known.beside and (other := done.get((known.beside[0], "alluvial"))):
        found = ours.best / other.best
        shown.append(judged(f"{known.beside[1]:g}x of {known.beside[0]}", f"{found:.2f}x", found <= known.beside[1]))
    return shown


def judged(limit: str, found: str, is_met: bool) -> str:
    """A limit, and whether it is met."""
    return f"{limit}: {'met' if is_met else '**missed**'}, {found}"


# ---- the table of the README

def short_table(results: list[Result]) -> list[str]:
    """A line for each case and a column for each contender."""
    contenders = list(dict.fromkeys(result.contender for result in results))
    by_place = {(result.name, result.contender): result for result in results}
    lines = [f"| | {' | '.join('Alluvial' if name == 'alluvial' else name for name in contenders)} |",
             f"|---|{'--:|' * len(contenders)}"]
    for name in dict.fromkeys(result.name for result in results):
        places = [by_place.get((name, contender)) for contender in contenders]
        title = next(place.case.title for place in places if place)
        cells = " | ".join(cell(place, by_place.get((name, "alluvial"))) for place in places)
        lines.append(f"| {title} | {cells} |")
    return lines


def cell(result: Result | None, ours: Result | None) -> str:
    """Time, times that of Alluvial, and memory."""
    if result is None:
        return ""
    if not result.runs:
        return outcome(result)
    seconds = f"{result.best:.2g} s" if result.best < 1 else f"{result.best:.2f} s"
    memory = f", {result.peak_mb:,.0f} MB" if result.peak_mb else ""
    if result.contender == "alluvial":
        return f"**{seconds}**{memory}"
    if not (ours and ours.runs):
        return f"{seconds}{memory}"
    times = result.best / ours.best
    return f"{seconds} ({f'{times:.0f}' if times >= 10 else f'{times:.1f}'}x){memory}"


# ---- facts

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
