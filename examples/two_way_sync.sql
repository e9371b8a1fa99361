-- Two tables that are both written to, kept equal by change tracking: run it with  alluvial -f examples/two_way_sync.sql
--
-- Each side remembers the version of the other that it has seen. What a round writes it writes under a context of its own, so
-- that the next round does not take it back; where both sides have changed a row since, the head office's change counts.

DROP TABLE IF EXISTS head_office;
DROP TABLE IF EXISTS branch;
CREATE TABLE head_office (id INT PRIMARY KEY, price INT);
CREATE TABLE branch      (id INT PRIMARY KEY, price INT);
ALTER TABLE head_office ENABLE CHANGE_TRACKING;
ALTER TABLE branch      ENABLE CHANGE_TRACKING;

INSERT INTO head_office VALUES (1, 10), (2, 20), (3, 30);

-- Down: everything that the head office has changed since version 0. 0x0d says that it was brought down, 0x0b that it was brought up.
WITH CHANGE_TRACKING_CONTEXT (0x0d)
MERGE INTO branch AS t USING (
  SELECT ct.id, h.price, ct.sys_change_operation AS op
  FROM CHANGETABLE(CHANGES head_office, 0) AS ct LEFT JOIN head_office AS h ON h.id = ct.id
  WHERE ct.sys_change_context IS DISTINCT FROM 0x0b
) AS s ON t.id = s.id
WHEN MATCHED AND s.op = 'D' THEN DELETE
WHEN MATCHED THEN UPDATE SET price = s.price
WHEN NOT MATCHED AND s.op <> 'D' THEN INSERT (id, price) VALUES (s.id, s.price);

-- Both go on: seen so far are version 1 of the head office and version 1 of the branch.
UPDATE branch      SET price = 21 WHERE id = 2;
UPDATE branch      SET price = 33 WHERE id = 3;
INSERT INTO branch VALUES (4, 40);
UPDATE head_office SET price = 31 WHERE id = 3;
DELETE FROM head_office WHERE id = 1;

-- The conflicts: rows that both have changed since.
SELECT ours.id, ours.sys_change_version AS head_office_version, theirs.sys_change_version AS branch_version
FROM CHANGETABLE(CHANGES head_office, 1) AS ours
JOIN CHANGETABLE(CHANGES branch, 1) AS theirs ON theirs.id = ours.id;

-- Up: what the branch has changed itself, but for the conflicts.
WITH CHANGE_TRACKING_CONTEXT (0x0b)
MERGE INTO head_office AS t USING (
  SELECT ct.id, b.price, ct.sys_change_operation AS op
  FROM CHANGETABLE(CHANGES branch, 1) AS ct LEFT JOIN branch AS b ON b.id = ct.id
  WHERE ct.sys_change_context IS DISTINCT FROM 0x0d
    AND ct.id NOT IN (SELECT id FROM CHANGETABLE(CHANGES head_office, 1) AS ours)
) AS s ON t.id = s.id
WHEN MATCHED AND s.op = 'D' THEN DELETE
WHEN MATCHED THEN UPDATE SET price = s.price
WHEN NOT MATCHED AND s.op <> 'D' THEN INSERT (id, price) VALUES (s.id, s.price);

-- Down again: what the branch has brought up does not come back.
WITH CHANGE_TRACKING_CONTEXT (0x0d)
MERGE INTO branch AS t USING (
  SELECT ct.id, h.price, ct.sys_change_operation AS op
  FROM CHANGETABLE(CHANGES head_office, 1) AS ct LEFT JOIN head_office AS h ON h.id = ct.id
  WHERE ct.sys_change_context IS DISTINCT FROM 0x0b
) AS s ON t.id = s.id
WHEN MATCHED AND s.op = 'D' THEN DELETE
WHEN MATCHED THEN UPDATE SET price = s.price
WHEN NOT MATCHED AND s.op <> 'D' THEN INSERT (id, price) VALUES (s.id, s.price);

SELECT * FROM branch ORDER BY id;

-- Both are equal: nothing is on one side only.
SELECT count(*) AS differences FROM (
  (SELECT * FROM branch EXCEPT SELECT * FROM head_office) UNION ALL (SELECT * FROM head_office EXCEPT SELECT * FROM branch)
);
