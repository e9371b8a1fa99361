"""Writes small Delta tables with Spark, and beside each what Spark reads in it, for the trials in ../oracle.rs.

    python3 -m venv /tmp/spark && /tmp/spark/bin/pip install -r sql-tests/interop/spark-requirements.txt
    mvn dependency:get -Dartifact=io.delta:delta-spark_2.13:4.0.1
    /tmp/spark/bin/python sql-tests/interop/spark_fixtures.py [case ...]

Java 17 must be there. Maven is only needed where Spark itself cannot reach Maven Central: Spark also looks for the jars in
the local Maven repository. Without names every case is written; a case replaces its folder:

    spark/<case>/table/         the Delta table; where its log names the case's folder it says {{root}}
    spark/<case>/source/        the table that it was cloned from
    spark/<case>/expected.json  versions: the rows of each version
                                changes:  the change feed of each version, and of each beginning and each end of the history
                                times:    [instant, version] of the changes from the first in-commit timestamp on
                                derived:  for a table without the feed, the case of the same history with it

An answer is {"columns", "count", "rows"} with rows in the canonical text of ../run.rs, {"columns", "count", "sha256"} where
they are many, or {"refused": <error class>} with, for a change of the schema, what Spark reads if it is "forced" to. A range
is answered as Spark does while its last version is the newest: without column mapping it would otherwise give the columns of
the newest version.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import spark_columns  # noqa: F401
import spark_features  # noqa: F401
import spark_files  # noqa: F401
import spark_logs  # noqa: F401
from spark_histories import WITHOUT_FEED
from spark_session import CASES, MOST_ROWS, MOST_ROWS_OF_HISTORY, Table, start

FIXTURES = Path(__file__).parent / "spark"


def main():
    names = sys.argv[1:] or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        spark = start(folder)
        for name in names:
            root = os.path.join(folder, name)
            os.mkdir(root)
            table = Table(spark, root)
            CASES[name](table)
            keep(root, FIXTURES / name, expected(table, name))
            print(name, flush=True)


def expected(table, name):
    # What is read must be what the files say, not what the session remembers.
    table.forget()
    newest = table.newest()
    versions = {str(version): table.rows(version) for version in range(newest + 1)}
    found = {"versions": versions, "changes": changes(table, newest, "sha256" in versions[str(newest)])}
    properties = table.spark.sql(table.filled("SHOW TBLPROPERTIES {t}")).toArrow().to_pylist()
    properties = {row["key"]: row["value"] for row in properties}
    if properties.get("delta.enableInCommitTimestamps") == "true":
        first = int(properties.get("delta.inCommitTimestampEnablementVersion", 0))
        found["times"] = {"first": first, "rows": table.commit_times(first)}
    if name in WITHOUT_FEED:
        found["derived"] = WITHOUT_FEED[name]
    return found


def changes(table, newest, large):
    """Each version, and the ranges from the first or to the newest (of a large table: the whole history), each of a copy that
    ends where the range ends."""
    found = {}
    past = Table(table.spark, table.root + " past")
    shutil.copytree(table.root, past.root)
    for last in reversed(range(newest + 1)):
        past.end_at(last)
        for first in range(last + 1) if last == newest else {0, last}:
            if large and first != last and (first, last) != (0, newest):
                continue
            whole = (first, last) == (0, newest)
            found[f"{first}..{last}"] = past.changes(first, last, MOST_ROWS_OF_HISTORY if whole else MOST_ROWS)
    return found


def keep(root, target, answers):
    """Moves a case into the checkout, without what only Hadoop reads."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".crc") or name == "_SUCCESS":
                os.remove(path)
            elif "_delta_log" in folder and name.endswith(".json"):
                replace(path, root, "{{root}}")
        if not os.listdir(folder):
            os.rmdir(folder)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root, target)
    with open(target / "expected.json", "w", encoding="utf-8") as file:
        json.dump(answers, file, ensure_ascii=False, indent=1)
        file.write("\n")


def replace(path, text, placeholder):
    with open(path, encoding="utf-8") as file:
        before = file.read()
    after = before.replace(text, placeholder)
    if after != before:
        with open(path, "w", encoding="utf-8") as file:
            file.write(after)


if __name__ == "__main__":
    main()
