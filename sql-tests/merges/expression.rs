//! Expressions that can be written as SQL and evaluated: one tree for the engine and for the model.

use std::cmp::Ordering;

use super::value::{Kind, Row, Value};

/// The relations that an expression can name: the target is `t` in SQL, the source `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Target,
    Source,
}

/// What stands between two expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Plus,
    Concat,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `<=>`, also spelt IS NOT DISTINCT FROM.
    Same,
    And,
    Or,
}

/// An expression over the columns of both sides.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Literal(Kind, Value),
    /// The side, the position, and the name as SQL writes it.
    Column(Side, usize, String),
    Binary(Operator, Box<Self>, Box<Self>),
    Not(Box<Self>),
    IsNull(Box<Self>),
    /// `LIKE 'prefix%'`
    Starts(Box<Self>, &'static str),
    In(Box<Self>, Vec<Self>),
    /// `[NOT] IN (SELECT k FROM other)`, with what is in there.
    InOther {
        value: Box<Self>,
        other: Row,
        is_negated: bool,
    },
    Coalesce(Box<Self>, Box<Self>),
    Case {
        condition: Box<Self>,
        then: Box<Self>,
        otherwise: Box<Self>,
    },
    /// The field `a` (0) or `b` (1) of a struct.
    Field(Box<Self>, usize),
    Struct(Box<Self>, Box<Self>),
    Array(Vec<Self>),
}

/// The row of each side that an expression is evaluated on; empty where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows<'a> {
    pub target: &'a [Value],
    pub source: &'a [Value],
}

impl Operator {
    fn sql(self) -> &'static str {
        match self {
            Self::Plus => "+",
            Self::Concat => "||",
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Same => "<=>",
            Self::And => "AND",
            Self::Or => "OR",
        }
    }

    fn eval(self, left: &Value, right: &Value) -> Value {
        match self {
            Self::Plus => plus(left, right),
            Self::Concat => match (left, right) {
                (Value::Text(left), Value::Text(right)) => Value::Text(format!("{left}{right}")),
                _ => Value::Null,
            },
            Self::Same => Value::Flag(left.text() == right.text()),
            Self::And => match (left, right) {
                (Value::Flag(false), _) | (_, Value::Flag(false)) => Value::Flag(false),
                (Value::Flag(true), Value::Flag(true)) => Value::Flag(true),
                _ => Value::Null,
            },
            Self::Or => match (left, right) {
                (Value::Flag(true), _) | (_, Value::Flag(true)) => Value::Flag(true),
                (Value::Flag(false), Value::Flag(false)) => Value::Flag(false),
                _ => Value::Null,
            },
            comparison => left.order(right).map_or(Value::Null, |order| {
                Value::Flag(match comparison {
                    Self::Equal => order == Ordering::Equal,
                    Self::NotEqual => order != Ordering::Equal,
                    Self::Less => order == Ordering::Less,
                    Self::LessOrEqual => order != Ordering::Greater,
                    Self::Greater => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })
            }),
        }
    }
}

fn plus(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Value::Int(left + right),
        (Value::Cents(left), Value::Cents(right)) => Value::Cents(left + right),
        (Value::Double(left), Value::Double(right)) => Value::Double(left + right),
        _ => Value::Null,
    }
}

/// NULL rather than false where a NULL might have been the value.
fn is_in<'a>(value: &Value, list: impl Iterator<Item = &'a Value>) -> Value {
    let equal = list.map(|item| Operator::Equal.eval(value, item));
    equal.fold(Value::Flag(false), |found, equal| {
        Operator::Or.eval(&found, &equal)
    })
}

impl Expression {
    /// The two with an operator between them.
    pub(super) fn binary(operator: Operator, left: Self, right: Self) -> Self {
        Self::Binary(operator, Box::new(left), Box::new(right))
    }

    /// True everywhere, or nowhere.
    pub(super) fn constant(flag: bool) -> Self {
        Self::Literal(Kind::Flag, Value::Flag(flag))
    }

    /// The value for a pair of rows.
    pub(super) fn eval(&self, rows: Rows<'_>) -> Value {
        match self {
            Self::Literal(_, value) => value.clone(),
            Self::Column(side, index, _) => {
                let row = match side {
                    Side::Target => rows.target,
                    Side::Source => rows.source,
                };
                row.get(*index).cloned().unwrap_or(Value::Null)
            }
            Self::Binary(operator, left, right) => {
                operator.eval(&left.eval(rows), &right.eval(rows))
            }
            Self::Not(inner) => not(inner.eval(rows)),
            Self::IsNull(inner) => Value::Flag(matches!(inner.eval(rows), Value::Null)),
            Self::Starts(inner, prefix) => match inner.eval(rows) {
                Value::Text(text) => Value::Flag(text.starts_with(*prefix)),
                _ => Value::Null,
            },
            Self::In(value, list) => {
                let list: Row = list.iter().map(|item| item.eval(rows)).collect();
                is_in(&value.eval(rows), list.iter())
            }
            Self::InOther {
                value,
                other,
                is_negated,
            } => {
                let found = is_in(&value.eval(rows), other.iter());
                if *is_negated { not(found) } else { found }
            }
            Self::Coalesce(first, second) => match first.eval(rows) {
                Value::Null => second.eval(rows),
                value => value,
            },
            Self::Case {
                condition, then, ..
            } if condition.holds(rows) => then.eval(rows),
            Self::Case { otherwise, .. } => otherwise.eval(rows),
            Self::Field(inner, field) => match inner.eval(rows) {
                Value::Fields(fields) => (*fields[*field]).clone(),
                _ => Value::Null,
            },
            Self::Struct(a, b) => Value::Fields([Box::new(a.eval(rows)), Box::new(b.eval(rows))]),
            Self::Array(items) => Value::List(items.iter().map(|item| item.eval(rows)).collect()),
        }
    }

    /// Whether it is true, neither false nor NULL.
    pub(super) fn holds(&self, rows: Rows<'_>) -> bool {
        matches!(self.eval(rows), Value::Flag(true))
    }

    /// The expression as SQL.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Literal(kind, value) => kind.literal(value),
            Self::Column(Side::Target, _, name) => format!("t.{name}"),
            Self::Column(Side::Source, _, name) => format!("s.{name}"),
            Self::Binary(operator, left, right) => {
                format!("({} {} {})", left.sql(), operator.sql(), right.sql())
            }
            Self::Not(inner) => format!("(NOT {})", inner.sql()),
            Self::IsNull(inner) => format!("({} IS NULL)", inner.sql()),
            Self::Starts(inner, prefix) => format!("({} LIKE '{prefix}%')", inner.sql()),
            Self::In(value, list) => format!("({} IN ({}))", value.sql(), listed(list)),
            Self::InOther {
                value, is_negated, ..
            } => {
                let not = if *is_negated { "NOT " } else { "" };
                format!("({} {not}IN (SELECT k FROM other))", value.sql())
            }
            Self::Coalesce(first, second) => format!("coalesce({}, {})", first.sql(), second.sql()),
            Self::Case {
                condition,
                then,
                otherwise,
            } => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                condition.sql(),
                then.sql(),
                otherwise.sql()
            ),
            Self::Field(inner, 0) => format!("{}['a']", inner.sql()),
            Self::Field(inner, _) => format!("{}['b']", inner.sql()),
            Self::Struct(a, b) => format!(
                "named_struct('a', CAST({} AS INT), 'b', CAST({} AS STRING))",
                a.sql(),
                b.sql()
            ),
            Self::Array(items) => format!("[{}]", listed(items)),
        }
    }
}

fn not(value: Value) -> Value {
    match value {
        Value::Flag(flag) => Value::Flag(!flag),
        _ => Value::Null,
    }
}

fn listed(items: &[Expression]) -> String {
    let items: Vec<String> = items.iter().map(Expression::sql).collect();
    items.join(", ")
}
