-- A chain of tables, each kept equal to the one before: orders -> orders_archive -> orders_public.
--
--   cargo run --release -- -f examples/chain.sql
--
-- A table that a SYNC writes has a change data feed like any other, so it can be the source of the next SYNC. Each hop reads
-- the changes of the hop before it, not its rows: what it costs is what has changed. Each keeps its own position, so the hops
-- may run at different times, and one that was away for a while catches up in one commit.
--
-- It makes the three tables as folders of the warehouse (./warehouse unless --warehouse says otherwise), and can be run again: it
-- begins by dropping them.

DROP TABLE IF EXISTS orders;
DROP TABLE IF EXISTS orders_archive;
DROP TABLE IF EXISTS orders_public;

-- 1. A: what the application writes.

CREATE TABLE orders (
    id       BIGINT PRIMARY KEY,
    customer STRING,
    amount   INT,
    status   STRING
);

INSERT INTO orders VALUES
    (1, 'Ada',   120, 'open'),
    (2, 'Bob',    35, 'open'),
    (3, 'Grace', 250, 'open');

-- 2. B: a full copy for everybody who must not bother the application. C: what others may see of it, without the customer. The
--    first runs make both tables.

SYNC INTO orders_archive FROM orders;
SYNC INTO orders_public FROM orders_archive COLUMNS * EXCEPT (customer);

SELECT * FROM orders_public ORDER BY id;

-- 3. A day goes by.

UPDATE orders SET status = 'paid' WHERE id = 1;
UPDATE orders SET status = 'sent' WHERE id = 1;
INSERT INTO orders VALUES (4, 'Alan', 80, 'open');
DELETE FROM orders WHERE id = 2;

-- 4. A to B, B to C. Four versions of A are one of B, and one of C: order 1 was changed twice, and is written once.

SYNC INTO orders_archive FROM orders;
SYNC INTO orders_public FROM orders_archive COLUMNS * EXCEPT (customer);

SELECT * FROM orders_public ORDER BY id;

-- 5. A change of a column that C does not keep: B gets it, and C has nothing to write. Its run counts one change as ignored.

UPDATE orders SET customer = 'Grace H.' WHERE id = 3;

SYNC INTO orders_archive FROM orders;
SYNC INTO orders_public FROM orders_archive COLUMNS * EXCEPT (customer);

-- 6. The chain at a glance: who follows whom, from which version, and how far behind.

SHOW SYNCS;

-- 7. An order can be found in the feed of every table, with the version in which it got there.

SELECT 'A' AS hop, _commit_version, _change_type, status FROM table_changes('orders', 0) WHERE id = 1
UNION ALL
SELECT 'B', _commit_version, _change_type, status FROM table_changes('orders_archive', NULL) WHERE id = 1
UNION ALL
SELECT 'C', _commit_version, _change_type, status FROM table_changes('orders_public', NULL) WHERE id = 1
ORDER BY hop, _commit_version, _change_type DESC;

-- 8. The proof that the last table says what the first one does: no row of one is missing in the other.

SELECT
    (SELECT count(*) FROM (
        SELECT id, amount, status FROM orders
        EXCEPT ALL
        SELECT id, amount, status FROM orders_public) AS a) AS missing_rows,
    (SELECT count(*) FROM (
        SELECT id, amount, status FROM orders_public
        EXCEPT ALL
        SELECT id, amount, status FROM orders) AS b) AS extra_rows;
