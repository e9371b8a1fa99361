"""Cases: commits that move, share, restore, mask or lose files."""

import os

from spark_session import case

FEED = "delta.enableChangeDataFeed = true"
VECTORS = "delta.enableDeletionVectors = true"


@case
def vectors_large(t):
    """One file of many row groups, whose deletion vectors have several Roaring containers of each kind; rows come back."""
    hadoop = t.spark.sparkContext._jsc.hadoopConfiguration()
    # Delta encodings keep the file small.
    hadoop.set("parquet.writer.version", "PARQUET_2_0")
    hadoop.set("parquet.block.size", "65536")
    try:
        t.run(f"""
            CREATE TABLE {{t}} (id BIGINT, part INT) USING delta TBLPROPERTIES ({FEED}, {VECTORS});
            INSERT INTO {{t}} SELECT id, CAST(id DIV 50000 AS INT) FROM range(0, 100000, 1, 1);
            DELETE FROM {{t}} WHERE id % 7 = 0;
            DELETE FROM {{t}} WHERE id BETWEEN 60000 AND 80000;
            DELETE FROM {{t}} WHERE id > 85000 AND id % 2 = 1;
            RESTORE TABLE {{t}} TO VERSION AS OF 2;
            DELETE FROM {{t}} WHERE id % 1000 = 1;
            UPDATE {{t}} SET part = -1 WHERE id IN (65535, 65537, 84999, 85000, 99999);
            MERGE INTO {{t}} AS t USING (SELECT id FROM range(65530, 65545)) AS s ON t.id = s.id WHEN MATCHED THEN DELETE;
            RESTORE TABLE {{t}} TO VERSION AS OF 1
        """, {"spark.sql.parquet.compression.codec": "zstd"})
    finally:
        hadoop.unset("parquet.writer.version")
        hadoop.unset("parquet.block.size")


@case
def restored(t):
    """RESTORE over updates, deletes, an overwrite and an added column, with deletion vectors."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(1, 11, 1, 1);
        DELETE FROM {{t}} WHERE id <= 3;
        UPDATE {{t}} SET name = 'changed' WHERE id = 5;
        RESTORE TABLE {{t}} TO VERSION AS OF 1;
        DELETE FROM {{t}} WHERE id IN (1, 7);
        INSERT OVERWRITE {{t}} VALUES (20, 'twenty');
        RESTORE TABLE {{t}} TO VERSION AS OF 5;
        ALTER TABLE {{t}} ADD COLUMN extra INT;
        UPDATE {{t}} SET extra = id WHERE id = 2;
        RESTORE TABLE {{t}} TO VERSION AS OF 9;
        DELETE FROM {{t}}
    """)


@case
def restored_columns(t):
    """RESTORE takes an added column away again."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b');
        ALTER TABLE {{t}} ADD COLUMN extra INT;
        UPDATE {{t}} SET extra = 1 WHERE id = 1;
        RESTORE TABLE {{t}} TO VERSION AS OF 1;
        INSERT INTO {{t}} VALUES (3, 'c')
    """)


@case
def overwritten(t):
    """Whole tables and single partitions are overwritten."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING, region STRING) USING delta PARTITIONED BY (region)
          TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} VALUES (1, 'a', 'eu'), (2, 'b', 'us'), (3, 'c', 'ap'), (4, 'd', NULL);
        DELETE FROM {{t}} WHERE id = 2;
        INSERT OVERWRITE {{t}} VALUES (1, 'a', 'eu'), (2, 'B', 'us'), (5, 'e', NULL)
    """)
    t.run("INSERT OVERWRITE {t} VALUES (6, 'f', 'us')", {"spark.sql.sources.partitionOverwriteMode": "dynamic"})
    t.run("""
        INSERT INTO {t} REPLACE WHERE region = 'eu' VALUES (7, 'g', 'eu'), (8, 'h', 'eu');
        INSERT INTO {t} REPLACE WHERE id > 6 VALUES (9, 'i', 'ap');
        DELETE FROM {t} WHERE region = 'us';
        DELETE FROM {t}
    """)


@case
def replaced(t):
    """CREATE OR REPLACE with the same columns, with more, and with others."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b');
        CREATE OR REPLACE TABLE {{t}} USING delta TBLPROPERTIES ({FEED}) AS SELECT 3 AS id, 'c' AS name;
        UPDATE {{t}} SET name = 'C';
        CREATE OR REPLACE TABLE {{t}} USING delta TBLPROPERTIES ({FEED}) AS SELECT 4 AS id, 'd' AS name, 4.5D AS amount;
        DELETE FROM {{t}} WHERE id = 4;
        CREATE OR REPLACE TABLE {{t}} USING delta PARTITIONED BY (day) TBLPROPERTIES ({FEED})
          AS SELECT 'x' AS code, DATE '2024-02-29' AS day;
        INSERT INTO {{t}} VALUES ('y', DATE '2024-03-01')
    """)


@case
def cloned(t):
    """A shallow clone, whose log names the source's files and deletion vectors by absolute paths."""
    source = t.filled("delta.`{root}/source`")
    t.run(f"""
        CREATE TABLE {source} (id INT, name STRING, region STRING) USING delta PARTITIONED BY (region)
          TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {source} SELECT id, concat('n', id), IF(id < 7, 'e u', 'us') FROM range(1, 13, 1, 1);
        DELETE FROM {source} WHERE id IN (2, 8);
        CREATE TABLE {{t}} SHALLOW CLONE {source} TBLPROPERTIES ({FEED}, {VECTORS});
        UPDATE {{t}} SET name = 'changed' WHERE id = 1;
        DELETE FROM {{t}} WHERE id IN (3, 9);
        INSERT INTO {{t}} VALUES (20, 'own', 'e u');
        MERGE INTO {{t}} AS t USING (SELECT 20 AS id, 'merged' AS name) AS s ON t.id = s.id OR t.id = 10
          WHEN MATCHED THEN UPDATE SET name = s.name;
        RESTORE TABLE {{t}} TO VERSION AS OF 1;
        DELETE FROM {{t}} WHERE region = 'us'
    """)
    t.drop_checkpoints()


@case
def cloned_again(t):
    """A clone that is replaced by a newer clone of the same source."""
    source = t.filled("delta.`{root}/source`")
    t.run(f"""
        CREATE TABLE {source} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {source} SELECT id, concat('n', id) FROM range(1, 5, 1, 2);
        CREATE TABLE {{t}} SHALLOW CLONE {source} TBLPROPERTIES ({FEED});
        UPDATE {source} SET name = 'changed' WHERE id = 1;
        INSERT INTO {source} VALUES (9, 'new');
        DELETE FROM {{t}};
        CREATE OR REPLACE TABLE {{t}} SHALLOW CLONE {source} TBLPROPERTIES ({FEED});
        DELETE FROM {{t}} WHERE id = 9
    """)
    t.drop_checkpoints()


@case
def optimized(t):
    """OPTIMIZE, ZORDER and REORG between changes."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING, weight INT) USING delta TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, 'first', id * 7 % 10 FROM range(1, 6, 1, 1);
        INSERT INTO {{t}} SELECT id, 'second', id * 7 % 10 FROM range(6, 11, 1, 1);
        DELETE FROM {{t}} WHERE id = 2;
        OPTIMIZE {{t}};
        UPDATE {{t}} SET name = 'changed' WHERE id IN (3, 8);
        INSERT INTO {{t}} VALUES (11, 'third', 0);
        OPTIMIZE {{t}} ZORDER BY (weight, id);
        DELETE FROM {{t}} WHERE weight = 0;
        REORG TABLE {{t}} APPLY (PURGE);
        INSERT INTO {{t}} VALUES (12, 'fourth', 1)
    """)


@case
def clustered(t):
    """Liquid clustering, with the clustering columns changed on the way."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING, weight INT) USING delta CLUSTER BY (weight) TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, 'first', id * 7 % 10 FROM range(1, 6, 1, 1);
        INSERT INTO {{t}} SELECT id, 'second', id * 7 % 10 FROM range(6, 11, 1, 1);
        OPTIMIZE {{t}};
        UPDATE {{t}} SET weight = 100 WHERE id = 4;
        ALTER TABLE {{t}} CLUSTER BY (id, name);
        INSERT INTO {{t}} VALUES (11, 'third', 0);
        OPTIMIZE {{t}} FULL;
        ALTER TABLE {{t}} CLUSTER BY NONE;
        DELETE FROM {{t}} WHERE id < 3
    """)


@case
def converted(t):
    """CONVERT TO DELTA of a partitioned Parquet folder; the feed is switched on afterwards."""
    frame = t.spark.createDataFrame([(1, "a", "x y"), (2, "b", "ü/%"), (3, "c", None)], "id INT, name STRING, part STRING")
    frame.write.partitionBy("part").parquet(t.path)
    t.run(f"""
        CONVERT TO DELTA parquet.`{t.path}` PARTITIONED BY (part STRING);
        ALTER TABLE {{t}} SET TBLPROPERTIES ({FEED});
        UPDATE {{t}} SET name = upper(name) WHERE id < 3;
        DELETE FROM {{t}} WHERE part IS NULL
    """)


@case
def rearranged(t):
    """A rewrite with dataChange = false by the DataFrame writer."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(1, 9, 1, 2)
    """)
    rows = t.frame().repartition(1)
    rows.write.format("delta").mode("overwrite").option("dataChange", "false").save(t.path)
    t.run("UPDATE {t} SET name = 'changed' WHERE id = 4")


@case
def merge_of_nothing(t):
    """Statements that change no row, some of which rewrite files all the same."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED}, delta.enableDeletionVectors = false);
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b');
        MERGE INTO {{t}} AS t USING (SELECT 1 AS id, false AS wanted) AS s ON t.id = s.id
          WHEN MATCHED AND s.wanted THEN UPDATE SET name = 'never';
        MERGE INTO {{t}} AS t USING (SELECT 5 AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE;
        MERGE INTO {{t}} AS t USING (SELECT 1 AS id, false AS wanted) AS s ON t.id = s.id
          WHEN MATCHED AND s.wanted THEN DELETE
          WHEN NOT MATCHED BY SOURCE AND t.id > 100 THEN UPDATE SET name = 'never';
        UPDATE {{t}} SET name = name WHERE id = 1;
        UPDATE {{t}} SET name = 'never' WHERE id = 7;
        DELETE FROM {{t}} WHERE id = 7;
        MERGE INTO {{t}} AS t USING (SELECT 2 AS id, 'b' AS name) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET name = s.name
    """)


@case
def feed_switched(t):
    """The feed is on, off, and on again."""
    on, off = FEED, "delta.enableChangeDataFeed = false"
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({on}, {VECTORS});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b'), (3, 'c');
        UPDATE {{t}} SET name = 'A' WHERE id = 1;
        ALTER TABLE {{t}} SET TBLPROPERTIES ({off});
        UPDATE {{t}} SET name = 'B' WHERE id = 2;
        ALTER TABLE {{t}} SET TBLPROPERTIES ({on});
        DELETE FROM {{t}} WHERE id = 3;
        ALTER TABLE {{t}} UNSET TBLPROPERTIES (delta.enableChangeDataFeed);
        INSERT INTO {{t}} VALUES (4, 'd');
        ALTER TABLE {{t}} SET TBLPROPERTIES ({on});
        UPDATE {{t}} SET name = 'D' WHERE id = 4
    """)


@case
def vacuumed(t):
    """VACUUM has taken the files of old versions away."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b');
        UPDATE {{t}} SET name = 'A' WHERE id = 1;
        DELETE FROM {{t}} WHERE id = 2;
        VACUUM {{t}} RETAIN 0 HOURS;
        INSERT INTO {{t}} VALUES (3, 'c');
        UPDATE {{t}} SET name = 'C' WHERE id = 3
    """)


@case
def feature_dropped(t):
    """Deletion vectors are dropped, which rewrites their files."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED}, {VECTORS});
        INSERT INTO {{t}} SELECT id, concat('n', id) FROM range(1, 9, 1, 1);
        DELETE FROM {{t}} WHERE id = 2;
        ALTER TABLE {{t}} DROP FEATURE deletionVectors;
        UPDATE {{t}} SET name = 'changed' WHERE id = 3
    """)
    t.drop_checkpoints()


@case
def empty(t):
    """A table that never had a row."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        DELETE FROM {{t}};
        INSERT INTO {{t}} SELECT id, name FROM {{t}};
        ALTER TABLE {{t}} SET TBLPROPERTIES (some.note = 'x')
    """)


def age(t, newest):
    """Makes the log files up to a version ten days old, so that the next checkpoint cleans them up."""
    for name in os.listdir(t.log()):
        if name[:20].isdigit() and int(name[:20]) <= newest:
            path = t.log(name)
            long_ago = os.stat(path).st_mtime - 10 * 86400
            os.utime(path, (long_ago, long_ago))
    t.forget()
