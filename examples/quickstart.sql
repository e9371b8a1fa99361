-- Alluvial in one file: keep a copy of a Delta table equal to it by applying only what has changed.
--
--   cargo run --release -- -f examples/quickstart.sql
--
-- It makes two tables, `customers` and `customers_copy`, as folders of the warehouse (./warehouse unless --warehouse says
-- otherwise), and can be run again: it begins by dropping them.

DROP TABLE IF EXISTS customers;
DROP TABLE IF EXISTS customers_copy;

-- 1. The source: a Delta table. Every commit to it is a version; the change data feed is on unless you switch it off.

CREATE TABLE customers (
    id     BIGINT PRIMARY KEY,
    name   STRING NOT NULL,
    city   STRING,
    points INT
);                                                                         -- version 0

INSERT INTO customers VALUES
    (1, 'Ada',     'London',    120),
    (2, 'Barbara', 'Stanford',   80),
    (3, 'Edsger',  'Rotterdam',  45),
    (4, 'Grace',   'New York',  200),
    (5, 'Donald',  NULL,         10);                                      -- version 1

-- 2. The first run of a sync creates the copy and fills it. The copy remembers that it holds version 1 of the source.

SYNC INTO customers_copy FROM customers KEYS (id);

-- 3. The source goes on.

INSERT INTO customers VALUES (6, 'Alan', 'Wilmslow', 0), (7, 'Test', NULL, NULL); -- version 2
UPDATE customers SET points = points + 50 WHERE points >= 80;                     -- version 3
UPDATE customers SET city = 'Austin' WHERE id = 3;                                -- version 4
DELETE FROM customers WHERE id IN (5, 7);                                         -- version 5

-- 4. What has happened since version 1? The lower bound is exclusive: pass the version that you have.

SELECT * EXCEPT (_commit_timestamp)
FROM table_changes('customers', 1)
ORDER BY _commit_version, id, _change_type DESC;

-- The net effect, at most one change for each key: the test customer, who came and went, is not in it.

SELECT * EXCEPT (_commit_timestamp)
FROM table_changes('customers', 1, net => true)
ORDER BY id, _change_type DESC;

-- 5. The same statement again applies what has happened since: the net changes, in one commit that also moves the position.
--    However often it is run, by whomever, and wherever it is interrupted: no change is applied twice, and none is lost.

SYNC INTO customers_copy FROM customers KEYS (id);

SYNC INTO customers_copy FROM customers KEYS (id);                         -- up to date: no commit

SHOW SYNCS;

-- The changes can as well be applied by hand, with any condition and any clause that MERGE has: see README.md.

SELECT * FROM customers_copy ORDER BY id;

-- 6. The proof that both tables are equal: no row of one is missing in the other.

SELECT
    (SELECT count(*) FROM (SELECT * FROM customers      EXCEPT ALL SELECT * FROM customers_copy) AS a) AS missing_rows,
    (SELECT count(*) FROM (SELECT * FROM customers_copy EXCEPT ALL SELECT * FROM customers)      AS b) AS extra_rows;
