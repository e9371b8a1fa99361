-- A slowly changing dimension of type 2: who lived where, and when, out of an append-only log of changes.
--
--   cargo run --release -- -f examples/customer_dimension.sql
--
-- The log is what a change data capture tool delivers: one row for each change, with the time at which it happened, in whatever
-- order it arrives. The dimension has one row for each state of a customer, valid from __START_AT up to, but without, __END_AT;
-- the state of now has no end. Facts are joined with the state that was valid when they happened.
--
-- It makes three tables, `customer_log`, `customer_dim` and `sales`, as folders of the warehouse (./warehouse unless --warehouse
-- says otherwise), and can be run again: it begins by dropping them.

DROP TABLE IF EXISTS customer_log;
DROP TABLE IF EXISTS customer_dim;
DROP TABLE IF EXISTS sales;

-- 1. The log. Nothing is ever updated in it; `op` says what has happened to the customer.

CREATE TABLE customer_log (
    op         STRING,
    changed_at TIMESTAMP,
    id         INT,
    name       STRING,
    city       STRING,
    newsletter BOOLEAN
) TBLPROPERTIES (delta.appendOnly = true);

INSERT INTO customer_log VALUES
    ('insert', TIMESTAMP '2026-01-05 09:00:00', 1, 'Ada',   'London',   true),
    ('insert', TIMESTAMP '2026-01-07 14:30:00', 2, 'Grace', 'New York', true),
    ('update', TIMESTAMP '2026-03-01 08:00:00', 1, 'Ada',   'Paris',    true);

-- 2. The dimension. KEYS: whom it is about. SEQUENCE BY: when it happened, whenever it arrives. APPLY AS DELETE WHEN: which
--    rows of the log say that a customer is gone. COLUMNS: what is of the log only stays there. TRACK HISTORY ON: a change of
--    the newsletter flag alone is made in place, and begins no new row.

SYNC INTO customer_dim FROM customer_log
    KEYS (id)
    SEQUENCE BY changed_at
    APPLY AS DELETE WHEN op = 'delete'
    COLUMNS * EXCEPT (op, changed_at)
    STORED AS SCD TYPE 2
    TRACK HISTORY ON * EXCEPT (newsletter);

SELECT * FROM customer_dim ORDER BY id, "__START_AT";

-- 3. More of the log: Ada leaves the newsletter, Grace moves and then closes her account. The last row is late: in February Ada
--    lived in Rome for a month, which nobody had told us.

INSERT INTO customer_log VALUES
    ('update', TIMESTAMP '2026-04-01 00:00:00', 1, 'Ada',   'Paris',  false),
    ('update', TIMESTAMP '2026-04-10 12:00:00', 2, 'Grace', 'Boston', true),
    ('delete', TIMESTAMP '2026-05-01 00:00:00', 2, NULL,    NULL,     NULL),
    ('update', TIMESTAMP '2026-02-01 00:00:00', 1, 'Ada',   'Rome',   true);

SYNC INTO customer_dim FROM customer_log
    KEYS (id)
    SEQUENCE BY changed_at
    APPLY AS DELETE WHEN op = 'delete'
    COLUMNS * EXCEPT (op, changed_at)
    STORED AS SCD TYPE 2
    TRACK HISTORY ON * EXCEPT (newsletter);

-- The late change has split the row of London. Grace has two rows, both with an end.

SELECT * FROM customer_dim ORDER BY id, "__START_AT";

-- 4. She comes back: a new row, with a gap before it.

INSERT INTO customer_log VALUES
    ('insert', TIMESTAMP '2026-06-15 10:00:00', 2, 'Grace', 'Boston', false);

SYNC INTO customer_dim FROM customer_log
    KEYS (id)
    SEQUENCE BY changed_at
    APPLY AS DELETE WHEN op = 'delete'
    COLUMNS * EXCEPT (op, changed_at)
    STORED AS SCD TYPE 2
    TRACK HISTORY ON * EXCEPT (newsletter);

-- 5. What is the dimension good for? The customers of now have no end,

SELECT id, name, city, "__START_AT" AS since FROM customer_dim WHERE "__END_AT" IS NULL ORDER BY id;

-- those of any other day are as easily found,

SELECT id, name, city
FROM customer_dim
WHERE "__START_AT" <= TIMESTAMP '2026-02-14 00:00:00'
  AND ("__END_AT" > TIMESTAMP '2026-02-14 00:00:00' OR "__END_AT" IS NULL)
ORDER BY id;

-- and a fact finds its customer as of the time when it happened.

CREATE TABLE sales (
    customer INT,
    sold_at  TIMESTAMP,
    amount   INT
);

INSERT INTO sales VALUES
    (1, TIMESTAMP '2026-01-20 11:00:00', 100),
    (1, TIMESTAMP '2026-02-14 11:00:00', 200),
    (1, TIMESTAMP '2026-03-20 11:00:00', 300),
    (2, TIMESTAMP '2026-04-09 11:00:00', 400),
    (2, TIMESTAMP '2026-04-11 11:00:00', 500);

SELECT dim.city, sum(sales.amount) AS amount
FROM sales
JOIN customer_dim AS dim
  ON dim.id = sales.customer
 AND dim."__START_AT" <= sales.sold_at
 AND (dim."__END_AT" > sales.sold_at OR dim."__END_AT" IS NULL)
GROUP BY dim.city
ORDER BY amount;

-- 6. The proof that the histories have no overlap, and that every row of the log that is not a delete is within one.

SELECT
    (SELECT count(*)
     FROM customer_dim AS a JOIN customer_dim AS b
       ON a.id = b.id
      AND a."__START_AT" < b."__START_AT" AND (a."__END_AT" > b."__START_AT" OR a."__END_AT" IS NULL)) AS overlaps,
    (SELECT count(*)
     FROM customer_log AS log LEFT JOIN customer_dim AS dim
       ON dim.id = log.id AND dim.city = log.city
      AND dim."__START_AT" <= log.changed_at AND (dim."__END_AT" > log.changed_at OR dim."__END_AT" IS NULL)
     WHERE log.op <> 'delete' AND dim.id IS NULL) AS lost_changes;
