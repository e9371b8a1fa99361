//! Random tables: their columns, how they are stored, and rows for them.

use super::Theme;
use super::value::{Kind, Row, Value};
use crate::random::Random;

/// The names of the columns that are no keys.
const NAMES: [&str; 5] = ["a", "b", "My Value", "select", "é"];
/// Rows of a small and of a large table have so many keys.
const KEYS: [u64; 2] = [8, 120];

/// A column of a table or of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

/// The table `t`.
#[derive(Debug)]
pub(super) struct Table {
    /// `k`, in some tables `k2`, and further ones.
    pub columns: Vec<Column>,
    pub partitions: Vec<usize>,
    pub has_feed: bool,
    /// How many different keys there are.
    pub keys: u64,
    properties: Vec<String>,
}

impl Column {
    /// The name as SQL writes it.
    pub(super) fn sql(self) -> String {
        let is_plain = |character: char| character.is_ascii_lowercase() || character == '2';
        if self.name.chars().all(is_plain) && self.name != "select" {
            self.name.to_owned()
        } else {
            format!("\"{}\"", self.name)
        }
    }

    /// Whether rows are found by it.
    pub(super) fn is_key(self) -> bool {
        self.name.starts_with('k')
    }

    /// A value for the column, a key not below `first`; sometimes NULL.
    pub(super) fn value(self, random: &mut Random, first: u64, keys: u64) -> Value {
        match (self.is_key(), random.below(100)) {
            (true, 0..8) | (false, 0..15) => Value::Null,
            (true, _) => self.kind.nth(first + random.below(keys)),
            (false, _) => self.kind.nth(random.below(8)),
        }
    }
}

impl Table {
    /// A table of the theme.
    pub(super) fn random(theme: &Theme, random: &mut Random) -> Self {
        let mut columns = vec![Column {
            name: "k",
            kind: random.pick(theme.keys),
        }];
        if random.percent(35) {
            let kind = random.pick(&[Kind::Int, Kind::Text]);
            columns.push(Column { name: "k2", kind });
        }
        let count = 1 + random.index(NAMES.len());
        for name in NAMES.into_iter().take(count) {
            let kind = random.pick(theme.values);
            columns.push(Column { name, kind });
        }
        let partitions = if random.percent(theme.partitioned_percent) {
            partitions(&columns, random)
        } else {
            vec![]
        };
        let has_feed = random.percent(75);
        let mut properties = vec![
            property("delta.enableChangeDataFeed", has_feed),
            property(
                "delta.enableDeletionVectors",
                !random.percent(theme.copied_percent),
            ),
        ];
        for (name, value) in [
            ("delta.targetFileSize", 2000),
            ("delta.checkpointInterval", 2),
            ("delta.dataSkippingNumIndexedCols", 1),
        ] {
            if random.percent(25) {
                properties.push(property(name, value));
            }
        }
        Self {
            columns,
            partitions,
            has_feed,
            keys: KEYS[usize::from(random.percent(10))],
            properties,
        }
    }

    /// Some rows whose keys are not far from each other, so that files differ in theirs.
    pub(super) fn rows(&self, random: &mut Random) -> Vec<Row> {
        let first = random.below(self.keys);
        let count = 1 + random.below(self.keys);
        let row = |_| {
            let columns = self.columns.iter();
            let values = columns.map(|column| column.value(random, first, self.keys / 2));
            values.collect::<Row>()
        };
        (0..count).map(row).collect()
    }

    /// The row as the table keeps it: Delta has no empty text for a partition.
    pub(super) fn stored(&self, mut row: Row) -> Row {
        for index in &self.partitions {
            if matches!(&row[*index], Value::Text(text) if text.is_empty()) {
                row[*index] = Value::Null;
            }
        }
        row
    }

    /// The statement that creates it.
    pub(super) fn create_sql(&self) -> String {
        let mut sql = create_sql("t", &self.columns);
        if !self.partitions.is_empty() {
            let names = self.partitions.iter().map(|index| self.columns[*index]);
            let names: Vec<String> = names.map(Column::sql).collect();
            sql += &format!(" PARTITIONED BY ({})", names.join(", "));
        }
        format!("{sql} TBLPROPERTIES ({})", self.properties.join(", "))
    }
}

fn property(name: &str, value: impl std::fmt::Display) -> String {
    format!("'{name}' = '{value}'")
}

/// One or two columns, but not all.
fn partitions(columns: &[Column], random: &mut Random) -> Vec<usize> {
    let mut plain: Vec<usize> = (0..columns.len())
        .filter(|index| columns[*index].kind.is_compared())
        .collect();
    let count = (1 + random.index(2)).min(columns.len() - 1);
    random.take(&mut plain, count)
}

/// The statement that creates a table with these columns.
pub(super) fn create_sql(table: &str, columns: &[Column]) -> String {
    let columns = columns.iter();
    let columns = columns.map(|column| format!("{} {}", column.sql(), column.kind.sql()));
    let columns: Vec<String> = columns.collect();
    format!("CREATE TABLE {table} ({})", columns.join(", "))
}

/// The statement that inserts these rows, of which there must be one.
pub(super) fn insert_sql(table: &str, columns: &[Column], rows: &[Row]) -> String {
    format!("INSERT INTO {table} VALUES {}", values_sql(columns, rows))
}

/// The rows as VALUES has them.
pub(super) fn values_sql(columns: &[Column], rows: &[Row]) -> String {
    let row = |row: &Row| {
        let values = columns.iter().zip(row);
        let values: Vec<String> = values
            .map(|(column, value)| column.kind.literal(value))
            .collect();
        format!("({})", values.join(", "))
    };
    let rows: Vec<String> = rows.iter().map(row).collect();
    rows.join(", ")
}

/// The names of columns, as SQL lists them.
pub(super) fn names_sql(columns: &[Column], prefix: &str) -> String {
    let names = columns.iter();
    let names: Vec<String> = names
        .map(|column| format!("{prefix}{}", column.sql()))
        .collect();
    names.join(", ")
}
