"""Spark reads every kind of table that Alluvial writes, and writes it in turn.

    python3 -m venv /tmp/spark && /tmp/spark/bin/pip install -r sql-tests/interop/spark-requirements.txt
    mvn dependency:get -Dartifact=io.delta:delta-spark_2.13:4.0.1
    /tmp/spark/bin/python sql-tests/interop/spark_writes.py [--alluvial target/debug/alluvial] [kind ...]

Java 17 must be there; spark_fixtures.py says what Maven is for. Without names every kind of spark_kinds.py is tried, which
takes minutes. A table is made by Alluvial, or is one that Spark has made (`spark/<case>`). Then Alluvial, Spark and Alluvial
again insert, update, delete and merge rows, each also rows of the others, and arrange the files anew; after each step both must
read the same rows and, where the table records them, the same changes. Where rows have ids, Spark must find each row under the
id that it had, and a later commit version only for rows that have changed.

Each check is a line that begins with `same`, `DIFFERENT`, `REFUSED` (by Alluvial) or `FAILED` (by Spark). The exit code is 1
unless all are `same`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from spark_kinds import KINDS, arrange, change
from spark_session import CHANGE_COLUMNS, Table, answer, start

FIXTURES = Path(__file__).parent / "spark"
PACKAGE = Path(__file__).parents[2]
MOST_ROWS = 10000
ROW_IDS = "SELECT {id}, _metadata.row_id, _metadata.row_commit_version FROM {t}"


class Refused(Exception):
    """Alluvial has ended with an error."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alluvial", default=PACKAGE / "target/debug/alluvial", help="the shell to try")
    parser.add_argument("kinds", nargs="*", metavar="kind", help="; ".join(KINDS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spark = start(folder)
        trials = []
        for name in arguments.kinds or KINDS:
            root = os.path.join(folder, "trials", name)
            os.makedirs(root)
            trials.append(Trial(name, KINDS[name], Alluvial(arguments.alluvial, root), Table(spark, root)))
            trials[-1].run()
    verdicts = Counter(verdict for trial in trials for verdict in trial.verdicts)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    sys.exit(0 if set(verdicts) == {"same"} else 1)


class Alluvial:
    """The shell, with the folder of one kind as its warehouse; the table is `table` in it, as it is for Spark."""

    def __init__(self, program, warehouse):
        self.command = [str(program), "--quiet", "--format", "nd-json", "--warehouse", warehouse]

    def run(self, statements):
        """Runs statements and returns the objects that the last has returned."""
        commands = [part for statement in statements for part in ("-c", statement.replace("{t}", '"table"'))]
        done = subprocess.run(self.command + commands, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        # Decimals and floats stay the text that they are.
        return [json.loads(line, parse_float=str) for line in done.stdout.splitlines() if line.strip()]

    def rows(self, query, columns):
        return Counter(plain_text([row.get(column) for column in columns]) for row in self.run([query]))


class Trial:
    """One kind of table, and what has been found."""

    def __init__(self, name, kind, alluvial, table):
        self.name, self.kind, self.alluvial, self.table = name, kind, alluvial, table
        self.verdicts = []

    def run(self):
        first = self.tried("is made", self.make)
        if first is None:
            return
        self.step("Alluvial has changed rows", first, lambda: self.ours(change(self.kind, 100)))
        self.step("Alluvial has arranged files", first, lambda: self.ours(arrange()))
        self.step("Spark has changed rows", first, lambda: self.theirs(change(self.kind, 200)))
        # What VACUUM takes away are also the changes so far.
        self.step("Spark has arranged files", None, lambda: self.theirs([*arrange(), "VACUUM {t} RETAIN 0 HOURS"]))
        later = self.table.newest() + 1
        self.step("Alluvial has changed rows again", later, lambda: self.ours(change(self.kind, 300)))

    def tried(self, what, act):
        try:
            return act()
        except Refused as error:
            self.tell("REFUSED", f"{what}: {' '.join(str(error).split())}")
        except (PySparkException, Py4JJavaError) as error:
            self.tell("FAILED", f"{what}: {' '.join(str(error).split())[:400]}")
        return None

    def make(self):
        """Makes the table, and returns the first version whose changes are compared."""
        if self.kind.fixture is None:
            self.alluvial.run(self.kind.make)
            return 0
        shutil.copytree(FIXTURES / self.kind.fixture / "table", self.table.path)
        return self.table.newest() + 1

    def ours(self, statements):
        self.alluvial.run(statements)
        # Hadoop's checksum of a file that Alluvial has written anew.
        Path(self.table.log("._last_checkpoint.crc")).unlink(missing_ok=True)

    def theirs(self, statements):
        self.table.run(";".join(statements))

    def step(self, what, first, act):
        before = self.tried(what, self.row_ids)
        self.tried(what, act)
        self.tried(what, lambda: self.compare(f"{what}: rows", self.rows_by_spark))
        if self.kind.feed and first is not None:
            self.tried(what, lambda: self.compare(f"{what}: changes", lambda: self.changes_by_spark(first)))
        if self.kind.row_ids:
            self.tried(what, lambda: self.check_row_ids(what, before or {}, self.row_ids()))
        if self.kind.unique:
            self.tried(what, lambda: self.check_unique(what))

    def compare(self, what, ask):
        found, query = ask()
        expected = Counter(plain_text(json.loads(row)) for row in found["rows"])
        ours = self.alluvial.rows(query, found["columns"])
        lines = [f"only Spark: {row}" for row in (expected - ours).elements()]
        lines += [f"only Alluvial: {row}" for row in (ours - expected).elements()]
        self.tell("DIFFERENT" if lines else "same", "\n    ".join([what, *lines[:6]]))

    def rows_by_spark(self):
        return answer(self.table.frame(), [], MOST_ROWS), "SELECT * FROM {t}"

    def changes_by_spark(self, first):
        last = self.table.newest()
        found = answer(self.table.feed(first, last), CHANGE_COLUMNS, MOST_ROWS)
        return found, f"SELECT * FROM table_changes('table', starting_version => {first}, ending_version => {last})"

    def row_ids(self):
        """Row id and last commit version of each row, by its key, with what is in it."""
        if not self.kind.row_ids or not os.path.exists(self.table.path):
            return {}
        query = ROW_IDS.replace("{id}", f"{self.kind.id} AS id, struct(*) AS content")
        rows = self.table.spark.sql(self.table.filled(query)).collect()
        return {row["id"]: (row["row_id"], row["row_commit_version"], row["content"]) for row in rows}

    def check_row_ids(self, what, before, now):
        lines = []
        if len({row_id for row_id, _, _ in now.values()}) != len(now):
            lines.append("a row id is there twice")
        for key in before.keys() & now.keys():
            (old_id, old_version, old), (new_id, new_version, new) = before[key], now[key]
            if old_id != new_id:
                lines.append(f"row {key} had the id {old_id} and has {new_id}")
            if (old == new) != (old_version == new_version):
                lines.append(f"row {key} went from {old} of version {old_version} to {new} of version {new_version}")
        self.tell("DIFFERENT" if lines else "same", "\n    ".join([f"{what}: row ids", *lines[:6]]))

    def check_unique(self, what):
        column = self.kind.unique
        values = [row[column] for row in self.table.frame().select(column).collect()]
        is_unique = None not in values and len(set(values)) == len(values)
        self.tell("same" if is_unique else "DIFFERENT", f"{what}: {len(values)} values of {column}, each its own")

    def tell(self, verdict, what):
        self.verdicts.append(verdict)
        print(f"{verdict:10}{self.name}: {what}", flush=True)


def plain_text(row):
    return json.dumps(plain(row), ensure_ascii=False, sort_keys=True)


def plain(value):
    """A value without what the two write otherwise: fields of a struct that are NULL, and how long the fraction of a second is."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and value[10:11] == "T":
        try:
            return datetime.fromisoformat(value.removesuffix("Z")).isoformat(timespec="microseconds")
        except ValueError:
            return value
    return value


if __name__ == "__main__":
    main()
