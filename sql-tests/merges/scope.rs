//! Random expressions over the columns that a place of a statement can name.

use super::expression::{Expression, Operator, Side};
use super::table::Column;
use super::value::{Kind, Row, Value};
use crate::random::Random;

const COMPARISONS: [Operator; 7] = [
    Operator::Equal,
    Operator::Equal,
    Operator::NotEqual,
    Operator::Less,
    Operator::LessOrEqual,
    Operator::Greater,
    Operator::GreaterOrEqual,
];
const PREFIXES: [&str; 4] = ["z", "a", "k", "日"];

/// What expressions may name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    pub target: &'a [Column],
    pub source: &'a [Column],
    /// The type and the values of `other.k`, where sub-queries are possible.
    pub other: Option<(Kind, &'a Row)>,
}

/// The column at a position.
pub(super) fn column(side: Side, index: usize, columns: &[Column]) -> Expression {
    Expression::Column(side, index, columns[index].sql())
}

/// A literal; sometimes NULL.
fn literal(random: &mut Random, kind: Kind) -> Expression {
    let value = if random.percent(12) {
        Value::Null
    } else {
        kind.nth(random.below(8))
    };
    Expression::Literal(kind, value)
}

impl<'a> Scope<'a> {
    /// The columns of one side.
    pub(super) fn of(side: Side, columns: &'a [Column]) -> Self {
        match side {
            Side::Target => Self {
                target: columns,
                ..Self::default()
            },
            Side::Source => Self {
                source: columns,
                ..Self::default()
            },
        }
    }

    /// A column whose type will do.
    fn column(
        self,
        random: &mut Random,
        will_do: impl Fn(Kind) -> bool,
    ) -> Option<(Expression, Kind)> {
        let sides = [(Side::Target, self.target), (Side::Source, self.source)];
        let columns = sides.into_iter().flat_map(|(side, columns)| {
            (0..columns.len()).map(move |index| (side, index, columns))
        });
        let mut fitting: Vec<_> = columns
            .filter(|(_, index, columns)| will_do(columns[*index].kind))
            .collect();
        let (side, index, columns) = random.take(&mut fitting, 1).pop()?;
        Some((column(side, index, columns), columns[index].kind))
    }

    /// A condition, with connectives so many levels deep.
    pub(super) fn condition(self, random: &mut Random, depth: u32) -> Expression {
        if depth == 0 {
            return self.simple_condition(random);
        }
        let operator = match random.below(10) {
            0..2 => Operator::And,
            2..4 => Operator::Or,
            4 => {
                // below NOT, NULL and false are not the same any more, which optimizers have been known to forget
                return Expression::Not(Box::new(self.plain().condition(random, depth - 1)));
            }
            _ => return self.simple_condition(random),
        };
        let (left, right) = (
            self.condition(random, depth - 1),
            self.condition(random, depth - 1),
        );
        Expression::binary(operator, left, right)
    }

    /// The condition of a WHERE.
    pub(super) fn filter(self, random: &mut Random) -> Expression {
        match self.in_other(random, true) {
            Some(expression) if random.percent(15) => expression,
            _ => self.condition(random, 2),
        }
    }

    fn simple_condition(self, random: &mut Random) -> Expression {
        if random.percent(20)
            && let Some(expression) = self.in_other(random, false)
        {
            return expression;
        }
        let Some((column, kind)) = self.column(random, |_| true) else {
            return Expression::constant(random.percent(50));
        };
        match (kind, random.below(100)) {
            (Kind::Place, 0..50) => Expression::binary(
                random.pick(&COMPARISONS),
                Expression::Field(Box::new(column), 0),
                literal(random, Kind::Int),
            ),
            (kind, 0..12) => is_null(column, kind),
            (kind, _) if !kind.is_compared() => is_null(column, kind),
            (Kind::Flag, 12..50) => column,
            (Kind::Text, 12..30) => Expression::Starts(Box::new(column), random.pick(&PREFIXES)),
            (kind, 30..45) => {
                let list = (0..1 + random.index(3)).map(|_| literal(random, kind));
                Expression::In(Box::new(column), list.collect())
            }
            (kind, 45..52) => {
                Expression::binary(Operator::Same, column, self.operand(random, kind))
            }
            (Kind::Flag, _) => {
                Expression::binary(Operator::Equal, column, self.operand(random, kind))
            }
            (kind, _) => {
                let right = self.operand(random, kind);
                Expression::binary(random.pick(&COMPARISONS), column, right)
            }
        }
    }

    /// A column that is, or is not, in the other table.
    fn in_other(self, random: &mut Random, is_negated: bool) -> Option<Expression> {
        let (kind, values) = self.other?;
        let (column, _) = self.column(random, |own| own.takes(kind))?;
        Some(Expression::InOther {
            value: Box::new(column),
            other: values.clone(),
            is_negated,
        })
    }

    /// A literal or a column to compare with.
    fn operand(self, random: &mut Random, kind: Kind) -> Expression {
        match self.column(random, |own| kind.takes(own)) {
            Some((column, _)) if random.percent(40) => column,
            _ => literal(random, kind),
        }
    }

    /// A value for a column of the type.
    pub(super) fn value(self, random: &mut Random, kind: Kind, depth: u32) -> Expression {
        let column = self.column(random, |own| kind.takes(own));
        let column = column.map_or_else(|| literal(random, kind), |(column, _)| column);
        match (random.below(10), depth) {
            (0..4, _) => column,
            (4..6, _) => literal(random, kind),
            (6, 1..) => Expression::Coalesce(Box::new(column), Box::new(literal(random, kind))),
            (7, 1..) => Expression::Case {
                condition: Box::new(self.plain().condition(random, 1)),
                then: Box::new(self.value(random, kind, depth - 1)),
                otherwise: Box::new(self.value(random, kind, depth - 1)),
            },
            _ => self.computed(random, kind, column),
        }
    }

    /// The same without sub-queries.
    fn plain(self) -> Self {
        Self {
            other: None,
            ..self
        }
    }

    /// A value that is made of others.
    fn computed(self, random: &mut Random, kind: Kind, column: Expression) -> Expression {
        match kind {
            Kind::Int | Kind::Long | Kind::Double | Kind::Price => {
                Expression::binary(Operator::Plus, column, literal(random, kind))
            }
            Kind::Text => Expression::binary(Operator::Concat, column, literal(random, kind)),
            Kind::Flag => self.plain().simple_condition(random),
            Kind::Place => Expression::Struct(
                Box::new(self.value(random, Kind::Int, 0)),
                Box::new(self.value(random, Kind::Text, 0)),
            ),
            Kind::Numbers => Expression::Array(vec![
                self.value(random, Kind::Int, 0),
                literal(random, Kind::Int),
            ]),
            Kind::Day | Kind::Moment => column,
        }
    }
}

/// A test for NULL; of a struct, sometimes of its field.
fn is_null(column: Expression, kind: Kind) -> Expression {
    let tested = match kind {
        Kind::Place => Expression::Field(Box::new(column), 1),
        _ => column,
    };
    Expression::IsNull(Box::new(tested))
}
