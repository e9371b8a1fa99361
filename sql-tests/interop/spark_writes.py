"""Spark reads every kind of table that Alluvial writes, and writes it in turn.

    python3 -m venv /tmp/spark && /tmp/spark/bin/pip install -r sql-tests/interop/spark-requirements.txt
    mvn dependency:get -Dartifact=io.delta:delta-spark_2.13:4.0.1
    /tmp/spark/bin/python sql-tests/interop/spark_writes.py [--alluvial target/debug/alluvial] [kind ...]

Java 17 must be there; spark_fixtures.py says what Maven is for. Without names every kind of spark_kinds.py is tried, which
takes minutes. A table is made by Alluvial, or by Spark, or is one that Spark has made before (`spark/<case>`). Then Alluvial,
Spark and Alluvial again insert, update, delete and merge rows, each also rows of the others, arrange the files anew (OPTIMIZE,
REORG) and delete old ones (VACUUM). After each step both must read the same rows and, where the table records them, the same
changes. Where rows have ids, Spark must find after each statement each row under the id that it had, and a later commit version
only for rows that have changed. What a column's definition promises of all rows is asked of Spark, and statements that break
the table's rules must be refused by both.

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
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from spark_kinds import KINDS, arrange, change, clean_by_alluvial, clean_by_spark
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
        # The first version whose changes are compared, and the row ids that rows have had.
        self.first = None
        self.ids_given = set()
        self.began = time.monotonic()

    def run(self):
        if self.tried("is made", self.make) is None:
            return
        self.step("Alluvial has changed rows", self.ours, change(self.kind, 100))
        self.step("Alluvial has arranged files", self.ours, arrange(self.kind))
        self.tried("Spark has altered the table", self.alter)
        self.step("Spark has changed rows", self.theirs, change(self.kind, 200))
        # What is cleaned away are also the changes so far.
        self.first = None
        self.step("Spark has arranged files", self.theirs, [*arrange(self.kind), *clean_by_spark()])
        self.first = self.table.newest() + 1
        self.step("Alluvial has changed rows again", self.ours, change(self.kind, 300))
        self.check_refused("Alluvial", self.ours)
        self.check_refused("Spark", self.theirs)
        if self.kind.is_searched:
            self.tried("Spark searches", self.check_search)
        self.first = None
        self.step("Alluvial has arranged files again", self.ours, [*arrange(self.kind), *clean_by_alluvial()])
        print(f"          {self.name}: {time.monotonic() - self.began:.0f} s", flush=True)

    def tried(self, what, act):
        try:
            return act()
        except Refused as error:
            self.tell("REFUSED", f"{what}: {' '.join(str(error).split())}")
        except (PySparkException, Py4JJavaError) as error:
            self.tell("FAILED", f"{what}: {' '.join(str(error).split())[:400]}")
        return None

    def make(self):
        """Makes the table, and finds the first version whose changes are compared."""
        if self.kind.fixture is not None:
            shutil.copytree(FIXTURES / self.kind.fixture / "table", self.table.path)
        if self.kind.make:
            self.ours(self.kind.make)
        self.theirs(self.kind.make_by_spark)
        is_all_ours = self.kind.fixture is None and not self.kind.make_by_spark
        self.first = 0 if is_all_ours else self.table.newest() + 1
        return True

    def alter(self):
        """Changes the schema as only Spark does it: nobody reads changes across that."""
        if self.kind.alter_by_spark:
            self.theirs(self.kind.alter_by_spark)
            self.first = self.table.newest() + 1

    def ours(self, statements):
        self.alluvial.run(statements)
        # Hadoop's checksum of a file that Alluvial has written anew.
        Path(self.table.log("._last_checkpoint.crc")).unlink(missing_ok=True)

    def theirs(self, statements):
        # Of a table that is named by its path, Spark 4.0.1 understands this as a setting only.
        script = ";".join(statements)
        plain_script = script.replace("WITH SCHEMA EVOLUTION ", "")
        self.table.run(plain_script, {"spark.databricks.delta.schema.autoMerge.enabled": "true"} if plain_script != script else None)

    def step(self, what, write, statements):
        # Where rows have ids, one statement after the other, so that it is clear which rows may get a new version.
        for part in [[statement] for statement in statements] if self.kind.row_ids else [statements]:
            self.tried(what, lambda: self.written(what, write, part))
        self.tried(what, lambda: self.compare(f"{what}: rows", self.rows_by_spark))
        if self.kind.feed and self.first is not None:
            self.tried(what, lambda: self.compare(f"{what}: changes", self.changes_by_spark))
        if self.kind.commit_times and self.first is not None:
            self.tried(what, lambda: self.compare(f"{what}: commit times", self.times_by_spark))
        if self.kind.unique:
            self.tried(what, lambda: self.check_unique(what))
        if self.kind.rule:
            self.tried(what, lambda: self.check_rule(what))
        if self.kind.clustered:
            self.tried(what, lambda: self.check_clustering(what))

    def written(self, what, write, statements):
        before = self.row_ids()
        write(statements)
        if self.kind.row_ids:
            self.check_row_ids(f"{what}: row ids after {statements[0].split()[0]}", before, self.row_ids())

    def compare(self, what, ask):
        found, query = ask()
        expected = Counter(plain_text(json.loads(row)) for row in found["rows"])
        ours = self.alluvial.rows(query, found["columns"])
        lines = [f"only Spark: {row}" for row in (expected - ours).elements()]
        lines += [f"only Alluvial: {row}" for row in (ours - expected).elements()]
        self.tell("DIFFERENT" if lines else "same", "\n    ".join([what, *lines[:6]]))

    def rows_by_spark(self):
        return answer(self.table.frame(), [], MOST_ROWS), "SELECT * FROM {t}"

    def changes_by_spark(self):
        found = answer(self.table.feed(self.first, self.table.newest()), CHANGE_COLUMNS, MOST_ROWS)
        return found, f"SELECT * FROM {self.changes()}"

    def times_by_spark(self):
        found = {"columns": ["instant", "version"], "rows": self.table.commit_times(self.first)}
        return found, f"SELECT DISTINCT _commit_timestamp AS instant, _commit_version AS version FROM {self.changes()}"

    def changes(self):
        return f"table_changes('table', starting_version => {self.first}, ending_version => {self.table.newest()})"

    def row_ids(self):
        """Row id and last commit version of each row, by its key, with what is in it."""
        if not self.kind.row_ids:
            return {}
        query = ROW_IDS.replace("{id}", f"{self.kind.id} AS id, struct(*) AS content")
        rows = self.table.spark.sql(self.table.filled(query)).collect()
        return {row["id"]: (row["row_id"], row["row_commit_version"], row["content"]) for row in rows}

    def check_row_ids(self, what, before, now):
        lines = []
        if len({row_id for row_id, _, _ in now.values()}) != len(now):
            lines.append("a row id is there twice")
        newest = self.table.newest()
        self.ids_given |= {row_id for row_id, _, _ in before.values()}
        for key, (row_id, version, content) in now.items():
            old_id, old_version, old = before.get(key, (None, None, None))
            if old_id is None and row_id in self.ids_given:
                lines.append(f"the new row {key} has the id {row_id} of another")
            if old_id is not None and old_id != row_id:
                lines.append(f"row {key} had the id {old_id} and has {row_id}")
            expected = old_version if old == content else newest
            if version != expected:
                lines.append(f"row {key}, {old}, now {content}, has the version {version}, not {expected}")
        self.tell("DIFFERENT" if lines else "same", "\n    ".join([what, *lines[:6]]))

    def check_unique(self, what):
        column = self.kind.unique
        values = [row[column] for row in self.table.frame().select(column).collect()]
        is_unique = None not in values and len(set(values)) == len(values)
        self.tell("same" if is_unique else "DIFFERENT", f"{what}: {len(values)} values of {column}, each its own")

    def check_rule(self, what):
        rows = self.table.frame()
        kept, all_rows = rows.where(self.kind.rule).count(), rows.count()
        self.tell("same" if kept == all_rows else "DIFFERENT", f"{what}: {kept} of {all_rows} rows have {self.kind.rule}")

    def check_clustering(self, what):
        columns = self.table.spark.sql(self.table.filled("DESCRIBE DETAIL {t}")).collect()[0]["clusteringColumns"]
        self.tell("same" if columns == self.kind.clustered else "DIFFERENT", f"{what}: is clustered by {columns}")

    def check_search(self):
        """Spark, which leaves out files by their statistics, must find the least and the greatest values and NULLs."""
        frame = self.table.frame()
        lines = []
        for column, kind in frame.dtypes:
            if kind.startswith("struct"):
                continue
            rows = frame.select(frame[column].alias("value"), frame[column].cast("string").alias("text")).collect()
            counts = Counter(row.text for row in rows)
            known = sorted((row.value, row.text) for row in rows if row.value is not None)
            for text in {None, known[0][1], known[-1][1]}:
                condition = f"{column} IS NULL" if text is None else f"{column} = CAST('{text}' AS {kind})"
                found = frame.where(condition).count()
                if found != counts[text]:
                    lines.append(f"{found} and not {counts[text]} rows with {condition}")
        self.tell("DIFFERENT" if lines else "same", "\n    ".join(["Spark finds the values of each column", *lines[:6]]))

    def check_refused(self, who, write):
        newest = self.table.newest()
        for statement, word in self.kind.refused.items():
            error = "no error"
            try:
                write([statement])
            except (Refused, PySparkException, Py4JJavaError) as refusal:
                error = str(refusal)
            is_refused = word in error.lower() and self.table.newest() == newest
            what = f"{who} refuses {statement}"
            self.tell("same" if is_refused else "DIFFERENT", what if is_refused else f"{what}: {error}")

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
