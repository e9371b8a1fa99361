"""A Spark session with Delta, a table that cases write, and what Spark says of it."""

import hashlib
import os
import re

import pyarrow as pa
from canonical import canonical_rows
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

DELTA = "io.delta:delta-spark_2.13:4.0.1"
CHANGE_COLUMNS = ["_change_type", "_commit_version"]
COMMIT_TIMESTAMP = "_commit_timestamp"
FORCED = "spark.databricks.delta.changeDataFeed.unsafeBatchReadOnIncompatibleSchemaChanges.enabled"
# Longer answers are kept as a hash; that of a whole history, which others are compared with, only if it is longer still.
MOST_ROWS = 100
MOST_ROWS_OF_HISTORY = 1000
# The cases by name: functions that write the table that they are given.
CASES = {}


def case(write):
    CASES[write.__name__] = write
    return write


def start(folder):
    """A session that keeps what it needs in `folder`."""
    settings = {
        "spark.driver.memory": "2g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.jars.packages": DELTA,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": os.path.join(folder, "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.default.parallelism": "1",
        # So many tasks list the folder that VACUUM looks through; the default is 10,000.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": "1",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.databricks.delta.retentionDurationCheck.enabled": "false",
        "spark.databricks.delta.vacuum.parallelDelete.enabled": "false",
        # Few rows are never worth compiling a query, nor compiling Java well.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m",
    }
    builder = SparkSession.builder.master("local[2]").appName("fixtures")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


class Table:
    """The table of one case: `{t}` in statements, in `<root>/table`."""

    def __init__(self, spark, root):
        self.spark = spark
        self.root = root
        self.path = os.path.join(root, "table")

    def run(self, script, settings=None):
        """Runs statements that semicolons end, under settings of the session that hold no longer."""
        settings = settings or {}
        for name, value in settings.items():
            self.spark.conf.set(name, value)
        try:
            for statement in filter(str.strip, script.split(";")):
                self.spark.sql(self.filled(statement)).collect()
        finally:
            for name in settings:
                self.spark.conf.unset(name)

    def filled(self, statement):
        return statement.replace("{t}", f"delta.`{self.path}`").replace("{root}", self.root)

    def log(self, *names):
        return os.path.join(self.path, "_delta_log", *names)

    def newest(self):
        """The version, by the log."""
        return max(int(name[:20]) for name in os.listdir(self.log()) if name[20:] == ".json")

    def forget(self):
        """Drops what Spark remembers of the log, which has been changed by hand."""
        self.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()

    def drop_checkpoints(self):
        """Leaves only commits, whose text can be mended when the table moves."""
        for name in os.listdir(self.log()):
            if "checkpoint" in name:
                os.remove(self.log(name))

    def end_at(self, newest):
        """Makes a version the newest, by taking the later ones out of the log."""
        for name in os.listdir(self.log()):
            if name == "_last_checkpoint" or name[:20].isdigit() and last_version(name) > newest:
                os.remove(self.log(name))
        self.forget()

    def frame(self, **options):
        reader = self.spark.read.format("delta")
        return reader.options(**options).load(self.path)

    def rows(self, version):
        """The rows of a version."""
        return answered(lambda: answer(self.frame(versionAsOf=version), [], MOST_ROWS))

    def changes(self, first, last, most_rows):
        """The changes of some versions; where the schema changes inside, also what Spark reads if it is forced to."""
        found = answered(lambda: answer(self.feed(first, last), CHANGE_COLUMNS, most_rows))
        if "INCOMPATIBLE" in found.get("refused", ""):
            self.spark.conf.set(FORCED, "true")
            found["forced"] = answered(lambda: answer(self.feed(first, last), CHANGE_COLUMNS, most_rows))
            self.spark.conf.unset(FORCED)
        return found

    def feed(self, first, last):
        return self.frame(readChangeFeed=True, startingVersion=first, endingVersion=last)

    def commit_times(self, first):
        """The times of the changed versions from `first` on."""
        frame = self.feed(first, self.newest())
        frame = frame.select(col(CHANGE_COLUMNS[1]).alias("version"), col(COMMIT_TIMESTAMP).alias("instant"))
        return sorted(canonical_rows(frame.distinct().select("instant", "version").toArrow()))


def last_version(name):
    """The last version that a file of the log tells of."""
    return int(name.split(".")[1 if "compacted" in name else 0])


def answer(frame, meta, most_rows):
    columns = sorted(name for name in frame.columns if name not in [*CHANGE_COLUMNS, COMMIT_TIMESTAMP]) + meta
    # Not `toArrow`: it fails on a variant that is NULL.
    batches = frame.select(*map(quoted, columns))._collect_as_arrow(empty_list_if_zero_records=False)
    rows = sorted(canonical_rows(pa.Table.from_batches(batches)))
    found = {"columns": columns, "count": len(rows)}
    if len(rows) <= most_rows:
        return {**found, "rows": rows}
    return {**found, "sha256": hashlib.sha256("\n".join(rows).encode()).hexdigest()}


def answered(ask):
    """The answer, or the name of the error by which Spark refuses."""
    try:
        return ask()
    except PySparkException as error:
        return {"refused": error.getCondition() or error_class(str(error))}
    except Py4JJavaError as error:
        return {"refused": error_class(root_cause(error.java_exception).toString())}


def root_cause(exception):
    cause = exception.getCause()
    return exception if cause is None else root_cause(cause)


def error_class(text):
    found = re.search(r"\[([A-Z0-9_.]+)\]", text)
    return found[1] if found else text.split(":")[0]


def quoted(name):
    return "`" + name.replace("`", "``") + "`"
