"""Cases: checkpoints, log cleanup, log compaction and commit times."""

import json
import time

from spark_files import FEED, VECTORS, age
from spark_session import case


def write_log(t, properties, settings=None):
    """Changes with a checkpoint every third version, then a log whose first four versions are cleaned up."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING, region STRING) USING delta PARTITIONED BY (region)
          TBLPROPERTIES ({FEED}, {VECTORS}, delta.checkpointInterval = 3, delta.logRetentionDuration = 'interval 1 days',
          {properties});
        INSERT INTO {{t}} SELECT id, concat('n', id), concat('r ', id % 4) FROM range(1, 13, 1, 1);
        UPDATE {{t}} SET name = 'changed' WHERE id IN (1, 6);
        DELETE FROM {{t}} WHERE id = 2;
        ALTER TABLE {{t}} ADD COLUMN amount DECIMAL(10, 2);
        INSERT INTO {{t}} VALUES (20, 'late', 'r 1', 1.25)
    """, settings)
    age(t, 3)
    t.run("""
        DELETE FROM {t} WHERE id = 7;
        UPDATE {t} SET amount = 2.5 WHERE region = 'r 1';
        INSERT INTO {t} VALUES (21, 'later', NULL, NULL)
    """, settings)


@case
def checkpoint_classic(t):
    write_log(t, "delta.checkpoint.writeStatsAsStruct = true")


@case
def checkpoint_parts(t):
    write_log(t, "delta.checkpoint.writeStatsAsJson = false, delta.checkpoint.writeStatsAsStruct = true",
              {"spark.databricks.delta.checkpoint.partSize": "3"})


@case
def checkpoint_v2_json(t):
    write_log(t, "delta.checkpointPolicy = 'v2'", {"spark.databricks.delta.checkpointV2.topLevelFileFormat": "json"})


@case
def checkpoint_v2_parquet(t):
    write_log(t, "delta.checkpointPolicy = 'v2', delta.columnMapping.mode = 'name'",
              {"spark.databricks.delta.checkpointV2.topLevelFileFormat": "parquet",
               "spark.databricks.delta.checkpoint.partSize": "3"})


@case
def log_compacted(t):
    """Compacted log files. Spark reads them but writes none, so they are made here (*Log Compaction Files*)."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(1, 6, 1, 1);
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(6, 11, 1, 1);
        DELETE FROM {{t}} WHERE id = 2;
        UPDATE {{t}} SET name = 'changed' WHERE id = 7;
        ALTER TABLE {{t}} ADD COLUMN extra INT;
        DELETE FROM {{t}} WHERE id = 3;
        INSERT INTO {{t}} VALUES (11, 'last', 1)
    """)
    compact(t, 0, 4)
    compact(t, 5, 6)
    t.forget()


def compact(t, first, last):
    """Writes the reconciled actions of some versions."""
    latest = {}
    for version in range(first, last + 1):
        with open(t.log(f"{version:020}.json"), encoding="utf-8") as commit:
            for line in commit:
                (kind, action), = json.loads(line).items()
                if kind in ("add", "remove"):
                    vector = action.get("deletionVector", {})
                    latest["file", action["path"], vector.get("pathOrInlineDv"), vector.get("offset")] = {kind: action}
                elif kind not in ("commitInfo", "cdc"):
                    latest[kind, action.get("appId") or action.get("domain")] = {kind: action}
    with open(t.log(f"{first:020}.{last:020}.compacted.json"), "w", encoding="utf-8") as compacted:
        compacted.writelines(json.dumps(action) + "\n" for action in latest.values())


@case
def commit_times(t):
    """In-commit timestamps are switched on in the middle."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b');
        UPDATE {{t}} SET name = 'A' WHERE id = 1
    """)
    time.sleep(0.1)
    t.run("""
        ALTER TABLE {t} SET TBLPROPERTIES (delta.enableInCommitTimestamps = true);
        INSERT INTO {t} VALUES (3, 'c');
        DELETE FROM {t} WHERE id = 2;
        UPDATE {t} SET name = 'C' WHERE id = 3
    """)


@case
def commit_times_off(t):
    """In-commit timestamps from the first version on, and switched off later."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT) USING delta TBLPROPERTIES ({FEED}, delta.enableInCommitTimestamps = true);
        INSERT INTO {{t}} VALUES (1), (2);
        DELETE FROM {{t}} WHERE id = 1;
        ALTER TABLE {{t}} SET TBLPROPERTIES (delta.enableInCommitTimestamps = false);
        INSERT INTO {{t}} VALUES (3)
    """)
