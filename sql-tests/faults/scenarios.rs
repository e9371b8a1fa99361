//! Syncs of every kind, each with a state in which there is something to do.

/// A sync from `source` into `target`, and what comes before it.
pub(super) struct Scenario {
    /// Also the host on which its tables are.
    pub name: &'static str,
    /// `${TABLES}` is where tables are.
    pub set_up: &'static [&'static str],
    pub sync: &'static str,
    /// The target's rows afterwards.
    pub expected: &'static [&'static str],
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "first-copy",
        set_up: &[
            "CREATE TABLE source (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO source VALUES (3, NULL)",
            "CREATE TABLE target (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/target'",
        ],
        sync: "SYNC INTO target FROM source",
        expected: &[r#"[1,"a"]"#, r#"[2,"b"]"#, "[3,null]"],
    },
    Scenario {
        name: "incremental",
        set_up: &[
            "CREATE TABLE source (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
            "CREATE TABLE target (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/target'",
            "SYNC INTO target FROM source",
            "INSERT INTO source VALUES (5, 'e'), (6, 'f')",
            "UPDATE source SET v = 'B' WHERE id = 2",
            "DELETE FROM source WHERE id IN (3, 6)",
            "UPDATE source SET id = 40 WHERE id = 4",
        ],
        sync: "SYNC INTO target FROM source",
        expected: &[r#"[1,"a"]"#, r#"[2,"B"]"#, r#"[40,"d"]"#, r#"[5,"e"]"#],
    },
    Scenario {
        name: "remembered-deletes",
        set_up: &[
            "CREATE TABLE source (id BIGINT, v STRING, seq BIGINT, op STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a', 1, 'U'), (2, 'b', 1, 'U'), (3, 'c', 1, 'U'), (3, 'c', 9, 'D')",
            "CREATE TABLE target (id BIGINT, v STRING, seq BIGINT) LOCATION '${TABLES}/target'",
            SYNC_BY_SEQUENCE,
            "INSERT INTO source VALUES (2, NULL, 7, 'D'), (3, 'late', 5, 'U'), (4, 'd', 2, 'U')",
            "INSERT INTO source VALUES (2, 'late', 6, 'U'), (1, 'A', 3, 'U'), (1, 'late', 2, 'U')",
        ],
        sync: SYNC_BY_SEQUENCE,
        expected: &[r#"[1,3,"A"]"#, r#"[4,2,"d"]"#],
    },
    Scenario {
        name: "history",
        set_up: &[
            "CREATE TABLE source (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "CREATE TABLE target (id BIGINT, v STRING, \"__START_AT\" BIGINT, \"__END_AT\" BIGINT) LOCATION '${TABLES}/target'",
            "SYNC INTO target FROM source STORED AS SCD TYPE 2",
            "UPDATE source SET v = 'B' WHERE id = 2",
            "DELETE FROM source WHERE id = 3",
            "INSERT INTO source VALUES (4, 'd')",
            "UPDATE source SET v = 'BB' WHERE id = 2",
        ],
        sync: "SYNC INTO target FROM source STORED AS SCD TYPE 2",
        expected: &[
            r#"[2,1,2,"b"]"#,
            r#"[3,1,3,"c"]"#,
            r#"[5,2,2,"B"]"#,
            r#"[null,1,1,"a"]"#,
            r#"[null,4,4,"d"]"#,
            r#"[null,5,2,"BB"]"#,
        ],
    },
    Scenario {
        name: "resnapshot",
        set_up: &[
            "CREATE TABLE source (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b'), (3, 'c')",
            "CREATE TABLE target (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/target'",
            "SYNC INTO target FROM source",
            "ALTER TABLE source SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')",
            "UPDATE source SET v = 'B' WHERE id = 2",
            "DELETE FROM source WHERE id = 3",
            "INSERT INTO source VALUES (4, 'd')",
            "ALTER TABLE source SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')",
        ],
        sync: "SYNC INTO target FROM source ON EXPIRED RESNAPSHOT",
        expected: &[r#"[1,"a"]"#, r#"[2,"B"]"#, r#"[4,"d"]"#],
    },
    Scenario {
        name: "schema-evolution",
        set_up: &[
            "CREATE TABLE source (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/source'",
            "INSERT INTO source VALUES (1, 'a'), (2, 'b')",
            "CREATE TABLE target (id BIGINT PRIMARY KEY, v STRING) LOCATION '${TABLES}/target'",
            "SYNC INTO target FROM source",
            "ALTER TABLE source ADD COLUMN w BIGINT",
            "UPDATE source SET w = 7 WHERE id = 2",
            "INSERT INTO source VALUES (3, 'c', 8)",
        ],
        sync: "SYNC INTO target FROM source WITH SCHEMA EVOLUTION",
        expected: &[r#"[1,"a",null]"#, r#"[2,"b",7]"#, r#"[3,"c",8]"#],
    },
];

const SYNC_BY_SEQUENCE: &str = "SYNC INTO target FROM source KEYS (id) SEQUENCE BY seq \
    APPLY AS DELETE WHEN op = 'D' COLUMNS * EXCEPT (op)";
