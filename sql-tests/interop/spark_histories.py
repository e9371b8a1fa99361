"""Cases: one history of changes, written with the change data feed and without, so that derived changes can be compared."""

from spark_session import case

FEED = "delta.enableChangeDataFeed = true"
NO_FEED = "delta.enableChangeDataFeed = false"
COPIES = "delta.enableDeletionVectors = false"
VECTORS = "delta.enableDeletionVectors = true"
ROW_IDS = "delta.enableRowTracking = true"
# The cases without the feed, with the case that has it and whether row ids tell what became of a row.
WITHOUT_FEED = {
    "copies_derived": {"from": "copies", "row_ids": False},
    "vectors_derived": {"from": "vectors", "row_ids": False},
    "row_ids_derived": {"from": "row_ids", "row_ids": True},
    "row_ids_vectors_derived": {"from": "row_ids_vectors", "row_ids": True},
}


@case
def copies(t):
    write(t, f"{FEED}, {COPIES}")
    restore(t)


@case
def copies_derived(t):
    write(t, f"{NO_FEED}, {COPIES}")
    restore(t)


@case
def vectors(t):
    write(t, f"{FEED}, {VECTORS}")
    restore(t)


@case
def vectors_derived(t):
    write(t, f"{NO_FEED}, {VECTORS}")
    restore(t)


@case
def row_ids(t):
    write(t, f"{FEED}, {COPIES}, {ROW_IDS}")


@case
def row_ids_derived(t):
    write(t, f"{NO_FEED}, {COPIES}, {ROW_IDS}")


@case
def row_ids_vectors(t):
    write(t, f"{FEED}, {VECTORS}, {ROW_IDS}")


@case
def row_ids_vectors_derived(t):
    write(t, f"{NO_FEED}, {VECTORS}, {ROW_IDS}")


@case
def row_ids_later(t):
    """Row tracking is switched on in the middle, which gives the rows that are there their ids."""
    t.run(f"""
        CREATE TABLE {{t}} (id INT, name STRING) USING delta TBLPROPERTIES ({FEED});
        INSERT INTO {{t}} VALUES (1, 'a'), (2, 'b'), (3, 'c');
        ALTER TABLE {{t}} SET TBLPROPERTIES ({ROW_IDS});
        UPDATE {{t}} SET name = 'A' WHERE id = 1;
        OPTIMIZE {{t}};
        DELETE FROM {{t}} WHERE id = 2
    """)


def write(t, properties):
    """Rows that change, stay, move to another partition, are twice there, or lack their key."""
    t.run(f"""
        CREATE TABLE {{t}} (id BIGINT, name STRING, amount DECIMAL(10, 2), tags ARRAY<STRING>, place STRUCT<x: INT, y: STRING>,
          counts MAP<STRING, INT>, region STRING) USING delta PARTITIONED BY (region) TBLPROPERTIES ({properties});
        INSERT INTO {{t}} SELECT id, concat('n', id), id * 1.25, array('t', CAST(id AS STRING)),
          named_struct('x', CAST(id AS INT), 'y', NULL), map('m', CAST(id AS INT)), IF(id % 3 = 0, 'us', 'eu')
          FROM range(1, 25, 1, 2);
        UPDATE {{t}} SET name = upper(name), tags = array(NULL) WHERE id % 5 = 0;
        DELETE FROM {{t}} WHERE id IN (3, 4, 17);
        MERGE INTO {{t}} AS t USING (SELECT * FROM VALUES
          (1, 'eins', 'u'), (2, '', 'd'), (6, 'sechs', 'u'), (30, 'dreißig', 'u'), (31, 'weg', 'd') AS s(id, name, op)) AS s ON t.id = s.id
          WHEN MATCHED AND s.op = 'd' THEN DELETE
          WHEN MATCHED THEN UPDATE SET name = s.name, place.y = s.op
          WHEN NOT MATCHED AND s.op <> 'd' THEN INSERT (id, name, region) VALUES (s.id, s.name, 'ap')
          WHEN NOT MATCHED BY SOURCE AND t.id = 24 THEN UPDATE SET amount = NULL;
        UPDATE {{t}} SET name = name WHERE region = 'eu';
        INSERT INTO {{t}} (id, name, region) VALUES (50, 'twice', 'eu'), (50, 'twice', 'eu'), (NULL, 'keyless', 'eu');
        UPDATE {{t}} SET amount = 5 WHERE id = 50 OR id IS NULL;
        UPDATE {{t}} SET region = 'us' WHERE id IN (1, 5, 30);
        OPTIMIZE {{t}};
        INSERT OVERWRITE {{t}}
          SELECT id, IF(id % 2 = 0, name, concat(name, '+')), amount, tags, place, counts, region FROM {{t}} WHERE id <> 6 UNION ALL SELECT 60, 'new', NULL, NULL, NULL, NULL, 'ap';
        UPDATE {{t}} SET counts = map('m', 0, 'n', 1), place = NULL WHERE id < 8;
        DELETE FROM {{t}} WHERE region = 'us';
        ALTER TABLE {{t}} ADD COLUMN note STRING;
        UPDATE {{t}} SET note = 'noted' WHERE id % 4 = 0;
        MERGE INTO {{t}} AS t USING (SELECT 8 AS id, false AS wanted) AS s ON t.id = s.id WHEN MATCHED AND s.wanted THEN DELETE;
        INSERT INTO {{t}} (id, note, region) VALUES (70, 'last', NULL)
    """)


def restore(t):
    t.run("""
        DELETE FROM {t} WHERE id % 8 = 0;
        RESTORE TABLE {t} TO VERSION AS OF 15;
        DELETE FROM {t}
    """)
