"""Times the change feed of Delta tables: wide and narrow reads, long histories, deletion vectors, net changes, derived changes.

    python benches/compare/feed.py --alluvial target/release/alluvial

Makes its data once below --work (about 2.5 GB) with the packages of requirements.txt, and prints one Markdown table. All who
take part in a case are first asked, untimed, for numbers that are known without any engine; whoever is wrong is not timed, and
exit code 1 says that it was Alluvial. Then they take turns, each time in a fresh process. --scale 0.001 is a small version.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from files import HEADER, Bench, Done, Line, Shell, check_same, finish, make
from merge_cases import UPSERT
from peers import external_table, missing_packages

MERGES, CHANGES_PER_MERGE, ROWS_PER_CHANGE = 20, 10_000, 1_000
SHORT_HISTORY, LONG_HISTORY, LAST = 5_000, 50_000, 100
VECTORS, ROWS_PER_VECTOR, DELETED_OF = 1_000, 2_000, 100
NET_KEYS = 1_000_000
# each but the last updates all keys, the last one half of them: nine rows a key, beside the insert
NET_UPDATES = (1, 1, 1, 1, 2)
REWRITES, ROWS_PER_REWRITE = 4, 100
KINDS = ("insert", "update_preimage", "update_postimage", "delete")
SLOW_SECONDS = 60.0
STATEMENT, IN_PROCESS = "statement", "in process"
CAPTION = """\
Times are of the work on the table, from opening it to the last row read: what the shell's `\\timing` says for Alluvial and for
DataFusion's listing tables, and inside a Python process with its packages imported for the peers. All rows are read and thrown
away: EXPLAIN ANALYZE in the shell, Arrow batches in Python. Figures are medians, the ratio is that of the medians to the first
line's of the case, or to what the line says. "peak MB" is the resident memory of the whole process. Files are in the system's
cache. Who takes more than a minute is timed once."""


class FeedBench(Bench):
    """Goes on when somebody fails, and knows who did."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.failures: list[str] = []
        self.peer_failures: list[str] = []


# ---- what is read, and by whom

@dataclass(frozen=True)
class Read:
    """A change read: since which version, which columns of which rows; `newest` is how many versions that is, None being all."""

    since: int = 0
    columns: tuple[str, ...] | None = None
    where: str | None = None
    newest: int | None = None

    def tallied(self) -> "Read":
        """The same rows, with the columns that the check needs."""
        return Read(self.since, ("id", "k", "_change_type"), self.where, self.newest)

    def sql(self, relation: str) -> str:
        """The query of a relation that has the range already."""
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {', '.join(self.columns or '*')} FROM {relation}{where}"


@dataclass(frozen=True)
class Contender:
    """Who reads: its line, the timed run, and the untimed one that answers."""

    line: Line
    run: Callable[[], Done]
    answer: Callable[[], list[str]]


class Race:
    """Those who take part in a case, and what they have to answer (see `counted`)."""

    def __init__(self, bench: FeedBench, case: str, expected: list[int]) -> None:
        self.bench, self.case, self.expected = bench, case, expected
        self.contenders: list[Contender] = []

    def shell(self, what: str, shell: Shell, select: str, checked: str, before: tuple[str, ...] = (),
              beside: tuple[tuple[Line | None, float | None], ...] = ()) -> Line:
        """The shell reads `select`, and answers the query `checked`. There is one more line for each line it is beside."""
        (first, limit), *others = beside or ((None, None),)
        line = self.line(what, STATEMENT, first, limit)
        for other, limit in others:
            if other:
                again = self.line(f"{what}, beside {other.what}", STATEMENT, other, limit)
                again.seconds = line.seconds

        def run() -> Done:
            done = shell.run(*before, f"EXPLAIN ANALYZE {select}")
            return Done(sum(done.statements), done.statements, done.peak_bytes, [])

        self.contenders.append(Contender(line, run, lambda: shell.run(*before, checked).answer))
        return line

    def changes(self, what: str, shell: Shell, read: Read, relation: str, beside: tuple = ()) -> Line:
        """The shell reads a change relation."""
        return self.shell(what, shell, read.sql(relation), tally_sql(read.tallied().sql(relation)), beside=beside)

    def peer(self, what: str, engine: str, place: Path, read: Read, **more) -> Line | None:
        """A peer in a Python process, where it is installed."""
        if missing := missing_packages("DuckLake" if engine == "DuckDB" else engine):
            print(f"{what} skipped: not installed: {', '.join(missing)} (see requirements.txt)", file=sys.stderr)
            return None
        line = self.line(what, IN_PROCESS, self.contenders[0].line if self.contenders else None)

        def start(is_check: bool) -> Done:
            asked = (read.tallied() if is_check else read).__dict__
            spec = {"engine": engine, "place": str(place), "read": asked, "is_check": is_check, **more}
            home = self.bench.work / "home"
            command = ["env", f"HOME={home}", sys.executable, Path(__file__).resolve(), "peer", json.dumps(spec)]
            (text, _), _, peak = finish(command, self.bench.work)
            seconds, answer = json.loads(text)
            return Done(seconds, [], peak, list(map(str, answer)))

        self.contenders.append(Contender(line, lambda: start(False), lambda: start(True).answer))
        return line

    def line(self, what: str, clock: str, beside: Line | None, limit: float | None = None) -> Line:
        """A new line of the table."""
        return self.bench.line(self.case, what, clock, beside=beside, most_ratio=limit)

    def start(self) -> None:
        """Checks everybody, then runs those who are right in turns."""
        able = [contender for contender in self.contenders if self.is_right(contender)]
        for _ in range(self.bench.runs):
            for contender in able:
                line = contender.line
                if line.seconds and line.seconds[0] > SLOW_SECONDS:
                    continue
                if done := self.attempt(line, contender.run):
                    line.add(done.seconds, done.peak_bytes)
                    print(f"{line.case}, {line.what}: {done.seconds:.3f} s", file=sys.stderr)

    def is_right(self, contender: Contender) -> bool:
        """Whether a contender's answer is what is known; one that is shorter is compared as far as it goes."""
        def check() -> bool:
            found = contender.answer()
            check_same(contender.line.what, found, list(map(str, self.expected))[:max(1, len(found))])
            return True

        return self.attempt(contender.line, check) or False

    def attempt(self, line: Line, run: Callable):
        """What `run` returns; a failure is noted, and is not the end of the others."""
        try:
            return run()
        except SystemExit as ended:
            failure = f"{line.case}, {line.what}: … {' '.join(str(ended.code).split())[-300:]}"
            (self.bench.failures if line.clock == STATEMENT else self.bench.peer_failures).append(failure)
            print(f"FAILED {failure}", file=sys.stderr)
            return None


def tally_sql(query: str) -> str:
    """What is asked of a change read before it is timed."""
    kinds = ", ".join(f"count(*) FILTER (WHERE _change_type = '{kind}')" for kind in KINDS)
    return f"SELECT coalesce(sum(id), 0), coalesce(sum(k), 0), {kinds} FROM ({query})"


def counted(ids: int, k: int, **kinds: int) -> list[int]:
    """The answer of a tally: two sums, and the rows of each kind."""
    return [ids, k, *(kinds.get(kind, 0) for kind in KINDS)]


def sum_of_k(numbers: range) -> int:
    """The sum of column `k` of rows with these numbers, as they are inserted."""
    return sum(number % 1000 for number in numbers)


# ---- the peers, in a process of their own

def peer(spec: dict) -> None:
    """Reads, and prints the seconds from opening the table to the last row, and the answer."""
    read = Read(**spec["read"])
    opened = delta_rs(spec["place"], read) if spec["engine"] == "delta-rs" else duckdb(spec, read)
    start = time.perf_counter()
    batches = opened()
    answer = tally(batches) if spec["is_check"] else [sum(batch.num_rows for batch in batches)]
    print(json.dumps([time.perf_counter() - start, answer]))


def delta_rs(place: str, read: Read) -> Callable:
    """delta-rs' own reader of changes."""
    import deltalake
    import pyarrow
    import pyarrow.compute

    def opened():
        stream = deltalake.DeltaTable(place).load_cdf(
            starting_version=read.since + 1, columns=list(read.columns) if read.columns else None,
            predicate=read.where, allow_out_of_range=True)
        return pyarrow.RecordBatchReader.from_stream(stream)

    return opened


def duckdb(spec: dict, read: Read) -> Callable:
    """DuckDB: the changes of a DuckLake, or any query."""
    import duckdb
    import pyarrow.compute  # noqa: F401, not to be timed

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    if "sql" in spec:
        return lambda: connection.execute(spec["check" if spec["is_check"] else "sql"]).fetch_record_batch()
    connection.execute("LOAD ducklake")

    def opened():
        os.chdir(spec["place"])
        connection.execute("ATTACH 'ducklake:lake.ducklake' AS lake (DATA_PATH 'data')")
        (last,) = connection.execute("FROM ducklake_current_snapshot('lake')").fetchone()
        first = last - read.newest + 1 if read.newest else 0
        query = read.sql(f"ducklake_table_changes('lake', 'main', 'target', {first}, {last})")
        return connection.execute(query.replace("_change_type", "change_type")).fetch_record_batch()

    return opened


def tally(batches) -> list[int]:
    """The same as `tally_sql`, of Arrow batches. The cast is there because pyarrow cannot count all string views."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, k, kinds = 0, 0, Counter()
    for batch in batches:
        ids += pc.sum(batch["id"]).as_py() or 0
        k += pc.sum(batch["k"]).as_py() or 0
        kind = next(name for name in batch.schema.names if name.endswith("change_type"))
        for value in pc.value_counts(batch[kind].cast(pa.string())).to_pylist():
            kinds[value["values"]] += value["counts"]
    return [ids, k, *(kinds[kind] for kind in KINDS)]


# ---- feed: ten million inserts and twenty merges

def feed(bench: FeedBench) -> None:
    """A large feed: all columns, two of them, one key, deletes."""
    folder = feed_folder(bench)
    known = json.loads((folder / "expected" / "answers.json").read_text())
    shell, place = Shell(bench.shell.binary, folder / "fed"), folder / "fed" / "warehouse" / "target"
    scan = (f"CREATE EXTERNAL TABLE data STORED AS PARQUET LOCATION '{folder / 'files'}/'",
            f"CREATE EXTERNAL TABLE cdc STORED AS PARQUET LOCATION '{folder / 'cdc'}/'")
    key = known["key"]
    for shown, read, expected, limits in (
        ("all columns", Read(), known["all"], (1.2, 0.5)),
        ("two columns", Read(columns=("id", "v")), known["all"], (1.2, 0.5)),
        ("WHERE id = k", Read(where=f"id = {key}"), known["of key"], (None, 0.5)),
        ("WHERE _change_type = 'delete'", Read(where="_change_type = 'delete'"), known["deletes"], (None, 0.5)),
    ):
        race = Race(bench, f"{sum(known['all'][2:]):,} changes in {MERGES + 1} versions, {shown}", expected)
        query = scan_sql(read)
        checked = scan_sql(read.tallied())
        scanned = race.shell("DataFusion, the same files", shell, query, tally_sql(checked), before=scan)
        theirs = race.peer("delta-rs", "delta-rs", place, read)
        race.peer("DuckLake", "DuckLake", folder / "lake", read)
        race.changes("table_changes", shell, read, "table_changes('target', 0)",
                     beside=((scanned, limits[0]), (theirs, limits[1])))
        race.start()


def scan_sql(read: Read) -> str:
    """The rows of the feed's files by DataFusion's listing tables, without versions. Deletes are in change files only."""
    columns = ", ".join(column for column in read.columns or ("id", "k", "v", "w", "c", "z") if column != "_change_type")
    where = f" WHERE {read.where}" if read.where else ""
    changed = f"SELECT {columns}, _change_type FROM cdc{where}"
    if where and "_change_type" in where:
        return changed
    return f"SELECT {columns}, 'insert' AS _change_type FROM data{where} UNION ALL {changed}"


def feed_folder(bench: FeedBench) -> Path:
    """Where the feed is, and the same history without a feed."""
    folder = bench.work / "feed"
    make(make_feed, folder, bench.shell.binary, changes_per_merge(bench))
    return folder


def changes_per_merge(bench: FeedBench) -> int:
    """Whole tens, because eight of ten changes update, one inserts and one deletes."""
    return max(1, bench.scaled(CHANGES_PER_MERGE) // 10) * 10


def make_feed(folder: Path, binary: Path, changes: int) -> None:
    """The feed as Delta and as DuckLake, and links to its change files."""
    import data

    rows = changes * ROWS_PER_CHANGE
    folder.mkdir(parents=True, exist_ok=True)
    data.once(folder / "files", lambda to: data.write_files(to, rows))
    files = sorted((folder / "files").iterdir())
    data.once(folder / "changes", lambda to: write_merges(to, rows, changes))
    merges = sorted((folder / "changes").iterdir())
    data.once(folder / "fed", lambda to: write_fed(to, binary, [files], merges, has_vectors=True))
    data.once(folder / "unfed", lambda to: copy_without_feed(folder / "fed" / "warehouse" / "target", to / "warehouse" / "target"))
    data.once(folder / "cdc", lambda to: link_change_files(folder / "fed" / "warehouse" / "target", to))
    data.once(folder / "expected", lambda to: write_expected(to / "answers.json", rows, merges))
    if has_ducklake(folder.parent):
        data.once(folder / "lake", lambda to: write_lake(to, files, merges))


def write_merges(to: Path, rows: int, changes: int) -> None:
    """The sources of the merges: each is spread over all rows, and no two change the same one."""
    import pyarrow.parquet

    import data

    for merge in range(MERGES):
        numbers = data.pick(0, rows, changes) + merge * ROWS_PER_CHANGE // MERGES
        pyarrow.parquet.write_table(data.change_rows(numbers), to / f"{merge:02}.parquet")


def write_fed(to: Path, binary: Path, commits: list[list[Path]], merges: list[Path], has_vectors: bool) -> None:
    """A table with the feed on, whose first version has the files; the merges are Alluvial's."""
    import data

    protocol, properties = data.FEED_PROTOCOL, data.FEED_ON | {"delta.checkpointInterval": "1000"}
    if has_vectors:
        protocol = data.DV_PROTOCOL | {"writerFeatures": ["deletionVectors", "changeDataFeed"]}
        properties = properties | data.DV_ON
    data.write_table(to / "warehouse", protocol, properties, commits)
    shell = Shell(binary, to)
    for changes in merges:
        shell.run(external_table("changes", changes), UPSERT.sql)


def write_expected(to: Path, rows: int, merges: list[Path]) -> None:
    """What reads of the feed answer, without any engine."""
    import pyarrow.parquet

    updated, inserted, deleted = [], [], []
    lists = {"u": updated, "i": inserted, "d": deleted}
    for changes in map(pyarrow.parquet.read_table, merges):
        for op, id, k in zip(*(changes[name].to_pylist() for name in ("op", "id", "k"))):
            lists[op].append((id, id // 2 % 1000, k))

    def sums(old: list, new: list) -> list[int]:
        return [sum(id for id, _, _ in old + new), sum(k for _, k, _ in old) + sum(k for _, _, k in new)]

    ids, k = sums(updated + deleted, updated + inserted)
    pairs = {"update_preimage": len(updated), "update_postimage": len(updated)}
    key, before, after = updated[-1]
    to.write_text(json.dumps({
        "key": key,
        "all": counted(ids + rows * (rows - 1), k + sum_of_k(range(rows)),
                       insert=rows + len(inserted), delete=len(deleted), **pairs),
        "merges": counted(ids, k, insert=len(inserted), delete=len(deleted), **pairs),
        "merges without updates": counted(ids, k, insert=len(inserted + updated), delete=len(deleted + updated)),
        "of key": counted(3 * key, 2 * before + after, insert=1, update_preimage=1, update_postimage=1),
        "deletes": counted(*sums(deleted, []), delete=len(deleted)),
    }))


def copy_without_feed(fed: Path, to: Path) -> None:
    """The same files and commits, but for change files and the property that turns the feed on."""
    shutil.copytree(fed, to, copy_function=os.link, ignore=shutil.ignore_patterns("_delta_log", "_change_data"))
    (to / "_delta_log").mkdir()
    for commit in sorted((fed / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if metadata := action.get("metaData"):
                metadata["configuration"]["delta.enableChangeDataFeed"] = "false"
        kept = [json.dumps(action) for action in actions if "cdc" not in action]
        (to / "_delta_log" / commit.name).write_text("\n".join(kept) + "\n")


def link_change_files(table: Path, to: Path) -> None:
    """Links to the change files of a table, for whoever lists a folder."""
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for place, line in enumerate(commit.read_text().splitlines()):
            if change := json.loads(line).get("cdc"):
                os.link(table / change["path"], to / f"{commit.stem}-{place}.parquet")


def has_ducklake(work: Path) -> bool:
    """Whether DuckLake takes part; if so its extension is there afterwards."""
    import data

    if missing_packages("DuckLake"):
        return False
    data.once(work / "home", data.install_ducklake)
    return True


def write_lake(to: Path, files: list[Path], merges: list[Path], delete: str | None = None) -> None:
    """One snapshot for each file, then one for each merge, or for one delete."""
    import data

    with data.new_lake(to, to.parent.parent / "home") as connection:
        connection.execute("USE lake")
        for file in files:
            connection.execute("INSERT INTO target FROM read_parquet(?) ORDER BY id", [str(file)])
        for changes in merges:
            connection.execute(f"CREATE OR REPLACE TEMP VIEW changes AS FROM read_parquet('{changes}')")
            connection.execute("BEGIN")
            connection.execute("DELETE FROM target WHERE id IN (SELECT id FROM changes WHERE op = 'd')")
            connection.execute(UPSERT.merge([]))
            connection.execute("COMMIT")
        if delete:
            connection.execute(f"DELETE FROM target WHERE {delete}")
        connection.execute("USE memory")


# ---- commits and opening: long histories

def commits(bench: FeedBench) -> None:
    """Thousands of commits of one row: all, and the last ones."""
    for count, has_checkpoint in ((bench.scaled(SHORT_HISTORY), False), (bench.scaled(LONG_HISTORY), True)):
        folder = history(bench, count, has_checkpoint, has_lake=not has_checkpoint)
        shell, place = Shell(bench.shell.binary, folder), folder / "warehouse" / "target"
        last = min(LAST, count // 2)
        for shown, read in (("all", Read()), (f"the last {last}", Read(since=count - last, newest=last))):
            checkpoint = "a checkpoint at the end" if has_checkpoint else "no checkpoint"
            race = Race(bench, f"{count:,} commits of one row, {checkpoint}, {shown}", ids_since(read.since, count))
            theirs = race.peer("delta-rs", "delta-rs", place, read)
            if not has_checkpoint:
                race.peer("DuckLake", "DuckLake", folder / "lake", read)
            race.changes("table_changes", shell, read, f"table_changes('target', {read.since})", beside=((theirs, 0.1),))
            race.start()


def opening(bench: FeedBench) -> None:
    """What the length of a history costs those who read its end, where there is a checkpoint."""
    lengths = [max(4, bench.scaled(length)) for length in (SHORT_HISTORY // 10, SHORT_HISTORY, LONG_HISTORY)]
    last = min(LAST, lengths[0] // 2)
    races, shortest = [], {}
    for shown, behind in (("nothing new", 0), (f"the last {last} commits", last)):
        for count in lengths:
            folder = history(bench, count, has_checkpoint=True)
            shell, place = Shell(bench.shell.binary, folder), folder / "warehouse" / "target"
            read = Read(since=count - behind, newest=behind)
            race = Race(bench, f"{shown} of {count:,}, a checkpoint at the end", ids_since(read.since, count))
            theirs = race.peer("delta-rs", "delta-rs", place, read)
            first = shortest.get(shown)
            ours = race.changes("table_changes", shell, read, f"table_changes('target', {read.since})",
                                beside=((theirs, 0.5), *([(first, 1.25)] if first else [])))
            if not first:
                ours.what = f"{ours.what} ({count:,} commits)"
            shortest.setdefault(shown, ours)
            races.append(race)
    for race in races:
        race.start()


def ids_since(since: int, count: int) -> list[int]:
    """The answer to a read of commit number `since` + 1 to `count`, each of which inserts an even id."""
    numbers = range(since, count)
    return counted(2 * sum(numbers), sum_of_k(numbers), insert=len(numbers))


def history(bench: FeedBench, count: int, has_checkpoint: bool, has_lake: bool = False) -> Path:
    """A table of so many commits of one row."""
    folder = bench.work / f"commits-{count}{'-checkpoint' if has_checkpoint else ''}"
    singles = bench.work / f"one-row-files-{bench.scaled(LONG_HISTORY)}"
    make(make_history, folder, singles, count, bench.scaled(LONG_HISTORY), has_checkpoint, has_lake)
    return folder


def make_history(folder: Path, singles: Path, count: int, most: int, has_checkpoint: bool, has_lake: bool) -> None:
    """The log and links to the files of all histories; DuckLake gets as many inserts."""
    import data

    folder.mkdir(parents=True, exist_ok=True)
    data.once(singles, lambda to: data.write_one_row_files(to, most))
    data.once(folder / "warehouse", lambda to: write_history(to / "target", singles, count, has_checkpoint))
    if has_lake and has_ducklake(folder.parent):
        # the extension is looked up beside the folder
        data.once(folder / "lake", lambda to: write_lake_of_rows(to, count))


def write_history(table: Path, singles: Path, count: int, has_checkpoint: bool) -> None:
    """One commit for each file, written by hand because nobody has time for as many statements."""
    import data

    log = table / "_delta_log"
    log.mkdir(parents=True)
    metadata = data.metadata(data.FEED_ON)
    data.write_commit(log, 0, "CREATE TABLE", [{"protocol": data.FEED_PROTOCOL}, {"metaData": metadata}])
    adds = []
    for version, row in enumerate(data.target_rows(0, count).to_pylist(), 1):
        file = singles / f"part-{version - 1:05}.parquet"
        os.link(file, table / file.name)
        stats = {"numRecords": 1, "minValues": row, "maxValues": row, "nullCount": dict.fromkeys(row, 0)}
        adds.append(add_action(file, stats))
        data.write_commit(log, version, "WRITE", [{"add": adds[-1]}])
    if has_checkpoint:
        write_checkpoint(log, count, data.FEED_PROTOCOL, metadata, adds)


def add_action(file: Path, stats: dict, **more) -> dict:
    """The `add` of a file whose statistics are known."""
    return {"path": file.name, "partitionValues": {}, "size": file.stat().st_size, "modificationTime": 1_700_000_000_000,
            "dataChange": True, "stats": json.dumps(stats), **more}


def write_checkpoint(log: Path, version: int, protocol: dict, metadata: dict, adds: list[dict]) -> None:
    """A classic checkpoint in one file, and the pointer to it."""
    import pyarrow as pa
    import pyarrow.parquet

    text, number, map_type = pa.string(), pa.int64(), pa.map_(pa.string(), pa.string())
    schema = pa.schema([
        ("protocol", pa.struct([("minReaderVersion", pa.int32()), ("minWriterVersion", pa.int32())])),
        ("metaData", pa.struct([
            ("id", text), ("name", text), ("description", text),
            ("format", pa.struct([("provider", text), ("options", map_type)])),
            ("schemaString", text), ("partitionColumns", pa.list_(text)), ("configuration", map_type), ("createdTime", number),
        ])),
        ("txn", pa.struct([("appId", text), ("version", number), ("lastUpdated", number)])),
        ("add", pa.struct([
            ("path", text), ("partitionValues", map_type), ("size", number), ("modificationTime", number),
            ("dataChange", pa.bool_()), ("stats", text),
        ])),
        ("remove", pa.struct([("path", text), ("deletionTimestamp", number), ("dataChange", pa.bool_())])),
    ])
    metadata = metadata | {
        "format": metadata["format"] | {"options": []}, "configuration": list(metadata["configuration"].items())}
    rows = [{"protocol": protocol}, {"metaData": metadata}, *({"add": add | {"partitionValues": []}} for add in adds)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), log / f"{version:020}.checkpoint.parquet")
    (log / "_last_checkpoint").write_text(json.dumps({"version": version, "size": len(rows)}))


def write_lake_of_rows(to: Path, count: int) -> None:
    """One snapshot per row, which DuckLake keeps in its catalog."""
    import data

    with data.new_lake(to, to.parent.parent / "home") as connection:
        for row in data.target_rows(0, count).to_pylist():
            connection.execute("INSERT INTO lake.target VALUES (?, ?, ?, ?, ?, ?)", list(row.values()))


# ---- vectors: a version that adds deletion vectors to many files

def vectors(bench: FeedBench) -> None:
    """One delete of a hundredth of the rows of each of a thousand files."""
    files, rows = max(2, bench.scaled(VECTORS)), ROWS_PER_VECTOR
    folder = bench.work / f"vectors-{files}"
    make(make_vectors, folder, files, rows)
    shell, place = Shell(bench.shell.binary, folder), folder / "warehouse" / "target"
    per_file, read = rows // DELETED_OF, Read(since=1, newest=1)
    # every hundredth row, beginning with the first, and ids are even
    numbers = range(0, files * rows, DELETED_OF)
    expected = counted(2 * sum(numbers), sum_of_k(numbers), delete=len(numbers))
    race = Race(bench, f"deletion vectors of {files:,} files, {per_file} of {rows:,} rows each", expected)
    theirs = race.peer("delta-rs", "delta-rs", place, read)
    race.peer("DuckLake", "DuckLake", folder / "lake", read)
    race.changes("table_changes", shell, read, "table_changes('target', 1)", beside=((theirs, 0.5),))
    data_files = f"CREATE EXTERNAL TABLE data STORED AS PARQUET LOCATION '{folder / 'files'}/'"
    scanned = "SELECT * FROM data"
    everything = counted(files * rows * (files * rows - 1), sum_of_k(range(files * rows)), insert=files * rows)
    whole = Race(bench, f"{race.case}: all rows of the files, for comparison", everything)
    whole.shell("DataFusion", shell, scanned, tally_sql("SELECT *, 'insert' AS _change_type FROM data"), before=(data_files,))
    race.start()
    whole.start()


def make_vectors(folder: Path, files: int, rows: int) -> None:
    """Version 1 adds the files, version 2 a deletion vector to each."""
    import pyarrow.parquet

    import data

    def write_files(to: Path) -> None:
        for file in range(files):
            table = data.target_rows(file * rows, (file + 1) * rows)
            pyarrow.parquet.write_table(table, to / f"part-{file:05}.parquet")

    folder.mkdir(parents=True, exist_ok=True)
    data.once(folder / "files", write_files)
    parts = sorted((folder / "files").iterdir())
    data.once(folder / "warehouse", lambda to: write_vectors(to / "target", parts, rows))
    if has_ducklake(folder.parent):
        data.once(folder / "lake", lambda to: write_lake(to, parts, [], f"id % {2 * DELETED_OF} = 0"))


def write_vectors(table: Path, files: list[Path], rows: int) -> None:
    """The log, and a file for each vector, which is the most that they can cost."""
    import uuid

    import data

    log = table / "_delta_log"
    log.mkdir(parents=True)
    protocol = data.DV_PROTOCOL | {"writerFeatures": ["deletionVectors", "changeDataFeed"]}
    data.write_commit(log, 0, "CREATE TABLE", [{"protocol": protocol}, {"metaData": data.metadata(data.FEED_ON | data.DV_ON)}])
    adds, changes = [], []
    for number, file in enumerate(files):
        os.link(file, table / file.name)
        added = data.add_action(file)
        id = uuid.uuid5(uuid.NAMESPACE_URL, str(number))
        size = write_vector(table / f"deletion_vector_{id}.bin", range(0, rows, DELETED_OF))
        vector = {"storageType": "u", "pathOrInlineDv": z85(id.bytes), "offset": 1, "sizeInBytes": size,
                  "cardinality": len(range(0, rows, DELETED_OF))}
        loose = json.dumps(json.loads(added["stats"]) | {"tightBounds": False})
        kept = {name: added[name] for name in ("path", "partitionValues", "size")}
        adds.append({"add": added})
        changes += [
            {"remove": kept | {"deletionTimestamp": 1_700_000_000_002, "dataChange": True, "extendedFileMetadata": True}},
            {"add": added | {"stats": loose, "deletionVector": vector}},
        ]
    data.write_commit(log, 1, "WRITE", adds)
    data.write_commit(log, 2, "DELETE", changes)


def write_vector(to: Path, positions: range) -> int:
    """A file with one bitmap, of one array container: at most 4,096 positions, all below 65,536. Returns the vector's size."""
    import struct
    import zlib

    container = struct.pack(f"<{len(positions)}H", *positions)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(positions) - 1, 16) + container
    vector = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    to.write_bytes(b"\x01" + struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector)))
    return len(vector)


def z85(octets: bytes) -> str:
    """Base 85 with the alphabet of ZeroMQ, which Python's own differs from in nothing else."""
    import base64

    of_python = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    of_zeromq = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return base64.b85encode(octets).translate(bytes.maketrans(of_python, of_zeromq)).decode()


# ---- net: what is left of many changes

def net(bench: FeedBench) -> None:
    """Net changes, from the inserts on and of the updates alone."""
    keys = max(2, bench.scaled(NET_KEYS) // 2 * 2)
    folder = bench.work / f"net-{keys}"
    make(make_net, folder, keys)
    shell = Shell(bench.shell.binary, folder)
    limited = LimitedShell(bench.shell.binary, folder)
    for since in (0, 1):
        made, left = made_and_left(keys, since)
        read = Read(since=since)
        case = f"{sum(made[2:]):,} changes of {keys:,} keys in {len(NET_UPDATES) + 1 - since} versions"
        whole = Race(bench, case, made)
        plain = whole.changes("table_changes, for comparison", shell, read, f"table_changes('target', {since})")
        race = Race(bench, case, left)
        asked = f"table_changes('target', {since}, net => true, key => 'id')"
        sql = net_by_duckdb(folder / "warehouse" / "target", since)
        theirs = race.peer("DuckDB, arg_min and arg_max by key", "DuckDB", folder, read, sql=sql, check=net_tally(sql))
        race.changes("table_changes(net => true)", shell, read, asked, beside=((plain, None), (theirs, None)))
        race.changes(f"the same with --memory-limit {LimitedShell.LIMIT}", limited, read, asked, beside=((plain, None),))
        whole.start()
        race.start()


def made_and_left(keys: int, since: int) -> tuple[list[int], list[int]]:
    """The changes since a version, and their net: the inserts with the last image, or pairs of the first and the last one."""
    last = [number % 1000 for number in range(keys)]
    total = keys * (keys - 1)
    ids, k, updates = (0, 0, 0) if since else (total, sum(last), 0)
    for version, part in enumerate(NET_UPDATES, 2):
        updated = range(0, keys, part)
        updates += len(updated)
        ids += 4 * sum(updated)
        for number in updated:
            image = number % 1000 + version
            k += last[number] + image
            last[number] = image
    made = counted(ids, k, insert=0 if since else keys, update_preimage=updates, update_postimage=updates)
    if since:
        left = counted(2 * total, sum_of_k(range(keys)) + sum(last), update_preimage=keys, update_postimage=keys)
    else:
        left = counted(total, sum(last), insert=keys)
    return made, left


class LimitedShell(Shell):
    """The shell with a limit on what sorts, joins and aggregations may keep in memory."""

    LIMIT = "256m"

    def command(self) -> list:
        """The command without its statements."""
        return [*super().command(), "--memory-limit", self.LIMIT]


def make_net(folder: Path, keys: int) -> None:
    """A table of one file, written again by each update."""
    import data

    folder.mkdir(parents=True, exist_ok=True)
    data.once(folder / "warehouse", lambda to: write_updates(to / "target", keys))


def write_updates(table: Path, keys: int) -> None:
    """Version 1 inserts all keys; each version after it updates all of them, or every second one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet

    import data

    log = table / "_delta_log"
    (table / "_change_data").mkdir(parents=True)
    log.mkdir()
    metadata = data.metadata(data.FEED_ON)
    data.write_commit(log, 0, "CREATE TABLE", [{"protocol": data.FEED_PROTOCOL}, {"metaData": metadata}])
    number = np.arange(keys)

    def write(version: int, rows: pa.Table) -> dict:
        file = table / f"part-{version:05}.parquet"
        pyarrow.parquet.write_table(rows, file)
        return data.add_action(file)

    before = data.target_rows(0, keys)
    newest = write(1, before)
    data.write_commit(log, 1, "WRITE", [{"add": newest}])
    for version, part in enumerate(NET_UPDATES, 2):
        changed = data.rows_of(2 * number, number % 1000 + version, f"{version}-")
        after = before.slice(0, 0)
        updated = number[::part]
        pre, post = before.take(pa.array(updated)), changed.take(pa.array(updated))
        if part == 1:
            after = changed
        else:
            rest = before.take(pa.array(number[number % part != 0]))
            after = pa.concat_tables([post, rest]).sort_by("id")
        images = []
        for kind, rows in (("update_preimage", pre), ("update_postimage", post)):
            kinds = pa.array([kind], pa.string()).take(pa.array(np.zeros(rows.num_rows, np.int64)))
            file = table / "_change_data" / f"cdc-{version:05}-{kind}.parquet"
            pyarrow.parquet.write_table(rows.append_column("_change_type", kinds), file)
            images.append({"cdc": {"path": f"_change_data/{file.name}", "partitionValues": {}, "size": file.stat().st_size,
                                   "dataChange": False}})
        removed = {"path": newest["path"], "deletionTimestamp": 1_700_000_000_000 + version, "dataChange": True,
                   "extendedFileMetadata": True, "partitionValues": {}, "size": newest["size"]}
        newest, before = write(version, after), after
        data.write_commit(log, version, "UPDATE", [{"remove": removed}, {"add": newest}, *images])


def net_by_duckdb(table: Path, since: int) -> str:
    """The first and the last image of each key, from the same Parquet files."""
    parts = [] if since else [f"SELECT *, 'insert' AS _change_type, 3 AS step FROM read_parquet('{table}/part-00001.parquet')"]
    for version in range(2, len(NET_UPDATES) + 2):
        for place, kind in enumerate(("update_preimage", "update_postimage")):
            file = table / "_change_data" / f"cdc-{version:05}-{kind}.parquet"
            parts.append(f"SELECT *, {2 * version + place} AS step FROM read_parquet('{file}')")
    row = "struct_pack(k, v, w, c, z, _change_type)"
    images = (f"SELECT id, arg_min({row}, step) AS first, arg_max({row}, step) AS last "
              f"FROM ({' UNION ALL BY NAME '.join(parts)}) GROUP BY id")
    return f"SELECT * FROM ({images}) WHERE NOT (first._change_type = 'insert' AND last._change_type = 'delete')"


def net_tally(sql: str) -> str:
    """The changes that these images are, in the columns of a tally."""
    return (f"WITH net AS ({sql}) "
            "SELECT id, last.k AS k, if(first._change_type = 'insert', 'insert', 'update_postimage') AS _change_type FROM net "
            "UNION ALL SELECT id, first.k, 'update_preimage' FROM net WHERE first._change_type <> 'insert'")


# ---- derive: the same changes without a feed

def derive(bench: FeedBench) -> None:
    """Changes found out by comparing rows, beside those that the feed tells."""
    changes = changes_per_merge(bench)
    feed_folder(bench)
    rewritten = bench.work / "rewritten"
    make(make_rewritten, rewritten, bench.shell.binary, changes)
    for folder, what, merges in (
        (bench.work / "feed", f"deletion vectors, {changes * ROWS_PER_CHANGE:,} rows", MERGES),
        (rewritten, f"files written again, {changes * ROWS_PER_REWRITE:,} rows", REWRITES),
    ):
        known = json.loads((folder / "expected" / "answers.json").read_text())
        case = f"{merges} merges of {changes:,} changes, {what}"
        fed, unfed = (Shell(bench.shell.binary, folder / name) for name in ("fed", "unfed"))
        read = Read(since=1)
        told = Race(bench, case, known["merges"])
        first = told.changes("table_changes of the feed", fed, read, "table_changes('target', 1)")
        told.peer("delta-rs, the feed", "delta-rs", folder / "fed" / "warehouse" / "target", read)
        told.changes("derive => true, key => 'id'", unfed, read, "table_changes('target', 1, derive => true, key => 'id')",
                     beside=((first, None),))
        apart = Race(bench, case, known["merges without updates"])
        apart.changes("derive => true", unfed, read, "table_changes('target', 1, derive => true)", beside=((first, None),))
        told.start()
        apart.start()


def make_rewritten(folder: Path, binary: Path, changes: int) -> None:
    """A table without deletion vectors, all of whose files each merge writes again."""
    import pyarrow.parquet

    import data

    rows = changes * ROWS_PER_REWRITE
    folder.mkdir(parents=True, exist_ok=True)

    def write_changes(to: Path) -> None:
        for merge in range(REWRITES):
            numbers = data.pick(0, rows, changes) + merge * ROWS_PER_REWRITE // REWRITES
            pyarrow.parquet.write_table(data.change_rows(numbers), to / f"{merge:02}.parquet")

    data.once(folder / "files", lambda to: data.write_files(to, rows))
    files = sorted((folder / "files").iterdir())
    data.once(folder / "changes", write_changes)
    merges = sorted((folder / "changes").iterdir())
    data.once(folder / "fed", lambda to: write_fed(to, binary, [files], merges, has_vectors=False))
    data.once(folder / "unfed", lambda to: copy_without_feed(folder / "fed" / "warehouse" / "target", to / "warehouse" / "target"))
    data.once(folder / "expected", lambda to: write_expected(to / "answers.json", rows, merges))


CASES = {"feed": feed, "commits": commits, "opening": opening, "vectors": vectors, "net": net, "derive": derive}


def main() -> int:
    """Makes the data, measures the cases, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alluvial", type=Path, default=Path("target/release/alluvial"), help="the binary")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows, commits and files")
    parser.add_argument("--work", type=Path, default=Path("target/compare/feed"), help="where data is made and kept")
    parser.add_argument("--cases", default=",".join(CASES), help="some of %(default)s")
    options = parser.parse_args()
    if unknown := set(options.cases.split(",")) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}: there are {', '.join(CASES)}")
    bench = FeedBench(options)
    for name in options.cases.split(","):
        CASES[name](bench)
    print("\n".join([CAPTION, "", *HEADER, *(line.markdown() for line in bench.lines)]))
    for failure in [*bench.failures, *bench.peer_failures]:
        print(f"\nFailed: {failure}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
