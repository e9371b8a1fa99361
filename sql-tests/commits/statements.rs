//! Statements that write a table, each with a table in which there is something to do.

/// A statement on the table `t (id, p, v)`, and what comes before it.
pub(super) struct Statement {
    /// Also the host on which its table is.
    pub name: &'static str,
    /// What follows the columns in CREATE TABLE.
    pub table: &'static str,
    pub sql: &'static str,
    /// Whether the table has a change data feed.
    pub feed: bool,
    /// Whether doing it again changes no row.
    pub idempotent: bool,
    /// How many partitions its plan may have; with more than one, operations are not in the same order each time.
    pub partitions: usize,
    /// Whether everything is tried at every operation, and not something at each.
    pub thorough: bool,
    /// Whether it is also cancelled.
    pub cancelled: bool,
}

/// What fills the table: some files, one of them with a deletion vector where the table has those.
pub(super) const FILL: &[&str] = &[
    "INSERT INTO t SELECT value, 'p' || (value % 3), 'old' FROM generate_series(1, 20)",
    "DELETE FROM t WHERE id = 5",
    "INSERT INTO t VALUES (21, 'p1', 'old'), (22, 'p2', 'old')",
];

/// What another writer does meanwhile.
pub(super) const APPEND: &str = "INSERT INTO t VALUES (1000, 'p1', 'other')";
/// The row that this adds.
pub(super) const APPENDED: &str = r#"[1000,"p1","other"]"#;

const MERGE: &str = "MERGE INTO t USING (VALUES (2, 'p9', 'new'), (3, 'p0', 'gone'), (4, 'p1', 'new'), (21, 'p1', 'new'), (30, 'p0', 'new')) AS s (id, p, v) \
     ON t.id = s.id \
     WHEN MATCHED AND s.v = 'gone' THEN DELETE \
     WHEN MATCHED THEN UPDATE SET p = s.p, v = s.v \
     WHEN NOT MATCHED AND s.v <> 'gone' THEN INSERT (id, p, v) VALUES (s.id, s.p, s.v)";

/// A statement on a table with a change data feed and deletion vectors.
pub(super) const PLAIN: Statement = Statement {
    name: "merge",
    // the commit after those that fill the table is followed by a checkpoint
    table: "TBLPROPERTIES (delta.checkpointInterval = 4)",
    sql: MERGE,
    feed: true,
    idempotent: true,
    partitions: 1,
    thorough: false,
    cancelled: false,
};

pub(super) const STATEMENTS: &[Statement] = &[
    Statement {
        thorough: true,
        cancelled: true,
        ..PLAIN
    },
    Statement {
        name: "merge-copy-on-write",
        table: "TBLPROPERTIES (delta.enableDeletionVectors = false)",
        cancelled: true,
        ..PLAIN
    },
    Statement {
        name: "merge-partitioned-without-feed",
        table: "PARTITIONED BY (p) TBLPROPERTIES (delta.enableChangeDataFeed = false)",
        feed: false,
        partitions: 4,
        cancelled: true,
        ..PLAIN
    },
    Statement {
        name: "update",
        sql: "UPDATE t SET v = 'new' WHERE id BETWEEN 10 AND 12 OR id = 22",
        ..PLAIN
    },
    Statement {
        name: "delete",
        sql: "DELETE FROM t WHERE id BETWEEN 10 AND 12 OR id = 22",
        ..PLAIN
    },
    Statement {
        name: "insert",
        sql: "INSERT INTO t VALUES (30, 'p0', 'new'), (31, 'p1', 'new')",
        idempotent: false,
        cancelled: true,
        ..PLAIN
    },
    Statement {
        name: "optimize",
        sql: "OPTIMIZE t",
        ..PLAIN
    },
];
