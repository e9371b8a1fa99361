-- Incremental copy with change tracking, in one statement.
--
--   cargo run --release -- -f examples/change_tracking.sql
--
-- The classic way to do this is a pipeline for the full copy, a second one for the increments, a table that holds the version
-- that was copied last, and a stored procedure that moves it. Here it is SYNC, run once or a thousand times: the first run copies
-- everything, each later one applies what has changed since. The version is kept in the copy, in the commit that writes the rows.
--
-- It makes two tables, `person` and `person_copy`, as folders of the warehouse (./warehouse unless --warehouse says otherwise),
-- and can be run again: it begins by dropping them.

DROP TABLE IF EXISTS person;
DROP TABLE IF EXISTS person_copy;

-- 1. The source, with five rows. Change tracking needs no switch: the change data feed of a table is on unless you switch it off.

CREATE TABLE person (
    person_id INT PRIMARY KEY,
    name      STRING,
    age       INT
);                                                                        -- version 0

INSERT INTO person VALUES
    (1, 'aaaa', 21),
    (2, 'bbbb', 24),
    (3, 'cccc', 20),
    (4, 'dddd', 26),
    (5, 'eeee', 22);                                                      -- version 1

-- 2. The full copy. The target does not exist yet: it gets the columns and the primary key of the source, then the five rows, and
--    remembers that they are version 1. The row that comes back says `full`, 5 inserted.

SYNC INTO person_copy FROM person;

SELECT * FROM person_copy ORDER BY person_id;

-- 3. The source goes on: one insert, one update.

INSERT INTO person VALUES (6, 'new', 50);                                 -- version 2
UPDATE person SET age = 10, name = 'update' WHERE person_id = 1;          -- version 3

-- How far behind is the copy? Two versions.

SHOW SYNCS IN person_copy;

-- What will be applied: the net effect of the versions after 1, one change for each key.

SELECT person_id, name, age, _change_type, _commit_version
FROM table_changes('person', 1, net => true)
ORDER BY person_id, _change_type DESC;

-- 4. The incremental copy: the same statement. It says `incremental`, from version 1 to 3, 1 inserted, 1 updated. Rows 2 to 5 are
--    not touched, and were not read in the source.

SYNC INTO person_copy FROM person;

SELECT * FROM person_copy ORDER BY person_id;

-- Again: `up to date`. Nothing is written, so it may run as often as you like, also from two places at once.

SYNC INTO person_copy FROM person;

-- 5. A delete. The key of a deleted row comes with its change, so the row goes from the copy, too.

DELETE FROM person WHERE person_id = 3;                                   -- version 4

SYNC INTO person_copy FROM person;

SELECT * FROM person_copy ORDER BY person_id;

-- 6. A row that comes and goes between two runs was never in the copy. Its net effect is nothing: the run counts it as ignored
--    and moves the position, without a row written.

INSERT INTO person VALUES (7, 'short', 1);                                -- version 5
DELETE FROM person WHERE person_id = 7;                                   -- version 6

SYNC INTO person_copy FROM person;

-- 7. Each run was one commit of the copy, which has a feed of its own: version 3, where only the position moved, has no changes.

SELECT _commit_version, _change_type, count(*) AS changes
FROM table_changes('person_copy', NULL)
GROUP BY _commit_version, _change_type
ORDER BY _commit_version, _change_type;

-- 8. The proof that both tables are equal: no row of one is missing in the other.

SELECT
    (SELECT count(*) FROM (SELECT * FROM person      EXCEPT ALL SELECT * FROM person_copy) AS a) AS missing_rows,
    (SELECT count(*) FROM (SELECT * FROM person_copy EXCEPT ALL SELECT * FROM person)      AS b) AS extra_rows;
