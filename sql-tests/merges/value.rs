//! The types of columns, and values of them: as SQL, as canonical text, and compared as SQL compares them.

use std::cmp::Ordering;

use serde_json::json;

/// Texts that have something to them; others are made up.
const TEXTS: [&str; 8] = ["", "a", "B", "zoë", "日本", "it's", "a/b=c", "100%"];

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Long,
    Double,
    Text,
    Flag,
    Day,
    Moment,
    Price,
    /// `STRUCT<a: INT, b: STRING>`
    Place,
    /// `ARRAY<INT>`
    Numbers,
}

/// A value of one of the types.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Int(i64),
    Double(f64),
    Text(String),
    Flag(bool),
    /// A day or a moment as ISO text.
    Time(String),
    Cents(i64),
    /// The fields `a` and `b`.
    Fields([Box<Self>; 2]),
    List(Vec<Self>),
}

/// A row's values in the order of its columns.
pub(super) type Row = Vec<Value>;

impl Kind {
    /// What CREATE TABLE and CAST call the type.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Long => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Text => "STRING",
            Self::Flag => "BOOLEAN",
            Self::Day => "DATE",
            Self::Moment => "TIMESTAMP",
            Self::Price => "DECIMAL(12, 2)",
            Self::Place => "STRUCT<a: INT, b: STRING>",
            Self::Numbers => "ARRAY<INT>",
        }
    }

    /// Whether the type has fields or elements.
    pub(super) fn is_nested(self) -> bool {
        matches!(self, Self::Place | Self::Numbers)
    }

    /// Whether values are compared here. Floats are not: NaN and negative zero are no matter of MERGE.
    pub(super) fn is_compared(self) -> bool {
        !self.is_nested() && self != Self::Double
    }

    /// Whether values of the other type can stand for values of this one.
    pub(super) fn takes(self, other: Self) -> bool {
        let is_integer = |kind| matches!(kind, Self::Int | Self::Long);
        self == other || (is_integer(self) && is_integer(other))
    }

    /// The type's value of that number; flags repeat, the others do not below 300.
    pub(super) fn nth(self, number: u64) -> Value {
        let count = number.cast_signed();
        let text = TEXTS.get(usize::try_from(number).unwrap_or(usize::MAX));
        match self {
            Self::Int | Self::Long if number % 5 == 4 => Value::Int(-count),
            Self::Int | Self::Long => Value::Int(count),
            Self::Double if number == 4 => Value::Double(f64::NAN),
            Self::Double => Value::Double(f64::from(u32::try_from(number).unwrap_or(0)) / 2.0),
            Self::Text => {
                Value::Text(text.map_or_else(|| format!("k{number}"), ToString::to_string))
            }
            Self::Flag => Value::Flag(number % 2 == 1),
            Self::Day => {
                let year = if number.is_multiple_of(2) { 1969 } else { 2024 };
                let (month, day) = (1 + number / 28, 1 + number % 28);
                Value::Time(format!("{year}-{month:02}-{day:02}"))
            }
            // statistics keep milliseconds only
            Self::Moment => Value::Time(format!("1969-12-31T23:59:59.{:06}", 999_000 + number)),
            Self::Price => Value::Cents(25 * count - 50),
            Self::Place => Value::Fields(match number % 4 {
                3 => [Box::new(Value::Null), Box::new(Self::Text.nth(number / 4))],
                _ => [
                    Box::new(Self::Int.nth(number)),
                    Box::new(Self::Text.nth(number % 3)),
                ],
            }),
            Self::Numbers if number == 0 => Value::List(vec![]),
            Self::Numbers => Value::List(vec![Self::Int.nth(number), Value::Null]),
        }
    }

    /// A value of the type as a typed SQL expression, but integers are plain.
    pub(super) fn literal(self, value: &Value) -> String {
        match value {
            Value::Null if self == Self::Place => {
                "CASE WHEN false THEN named_struct('a', CAST(1 AS INT), 'b', 'x') END".to_owned()
            }
            Value::Null if self == Self::Numbers => {
                "CASE WHEN false THEN [CAST(1 AS INT)] END".to_owned()
            }
            Value::Null => format!("CAST(NULL AS {})", self.sql()),
            Value::Int(number) if *number < 0 => format!("({number})"),
            Value::Int(number) => number.to_string(),
            Value::Double(_) | Value::Cents(_) => {
                format!("CAST('{}' AS {})", value.plain(), self.sql())
            }
            Value::Flag(_) => value.plain(),
            Value::Text(_) => format!("'{}'", value.plain().replace('\'', "''")),
            Value::Time(time) => format!("{} '{}'", self.sql(), time.replace('T', " ")),
            Value::Fields([a, b]) => format!(
                "named_struct('a', CAST({} AS INT), 'b', {})",
                Self::Int.literal(a),
                Self::Text.literal(b)
            ),
            Value::List(items) => {
                let items = items.iter().map(|item| Self::Int.literal(item));
                let items = items.map(|item| format!("CAST({item} AS INT)"));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Value {
    /// The text of a value that is not nested.
    fn plain(&self) -> String {
        match self {
            Self::Null | Self::Fields(_) | Self::List(_) => "null".to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Double(number) => format!("{number:?}"),
            Self::Text(text) | Self::Time(text) => text.clone(),
            Self::Flag(flag) => flag.to_string(),
            Self::Cents(cents) => {
                let sign = if *cents < 0 { "-" } else { "" };
                let cents = cents.unsigned_abs();
                format!("{sign}{}.{:02}", cents / 100, cents % 100)
            }
        }
    }

    /// The value as [`crate::canonical`] writes it. Values with the same text are the same, and NULL is the same as NULL.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Null | Self::Int(_) | Self::Flag(_) => self.plain(),
            Self::Double(_) => json!(self.plain().replace("NaN", "nan")).to_string(),
            Self::Text(_) | Self::Time(_) | Self::Cents(_) => json!(self.plain()).to_string(),
            Self::Fields([a, b]) => format!("{{\"a\":{},\"b\":{}}}", a.text(), b.text()),
            Self::List(items) => text_of(items),
        }
    }

    /// How SQL orders two values; `None` where one is NULL.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) | (Self::Cents(left), Self::Cents(right)) => {
                Some(left.cmp(right))
            }
            (Self::Text(left), Self::Text(right)) | (Self::Time(left), Self::Time(right)) => {
                Some(left.cmp(right))
            }
            (Self::Flag(left), Self::Flag(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

/// The canonical text of a row, or of a list.
pub(super) fn text_of(values: &[Value]) -> String {
    let values: Vec<String> = values.iter().map(Value::text).collect();
    format!("[{}]", values.join(","))
}
