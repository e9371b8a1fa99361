//! The arguments of `table_changes` and its kin: which there are, what their values mean, which contradict each other.

mod spelling;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use chrono::Utc;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr};

pub(crate) use self::spelling::{Spelling, point_argument};
use crate::change::{Bound, BoundKind, ChangeBounds};
use crate::error::{Error, Result};

/// What a bound's value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoundUnit {
    /// `…_version`.
    Version,
    /// `…_timestamp`.
    Timestamp,
    /// A positional argument: the value's type decides.
    Either,
}

impl BoundUnit {
    /// A name to travel by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Timestamp => "timestamp",
            Self::Either => "either",
        }
    }

    /// The unit of a name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Version, Self::Timestamp, Self::Either]
            .into_iter()
            .find(|unit| unit.name() == name)
    }
}

/// An argument's name, and what it bounds.
type BoundArgument = (&'static str, BoundKind, BoundUnit);

/// The named arguments, and what they bound.
static BOUNDS: [BoundArgument; 8] = [
    ("since_version", BoundKind::Since, BoundUnit::Version),
    ("until_version", BoundKind::Until, BoundUnit::Version),
    ("starting_version", BoundKind::Starting, BoundUnit::Version),
    ("ending_version", BoundKind::Until, BoundUnit::Version),
    ("since_timestamp", BoundKind::Since, BoundUnit::Timestamp),
    ("until_timestamp", BoundKind::Until, BoundUnit::Timestamp),
    (
        "starting_timestamp",
        BoundKind::Starting,
        BoundUnit::Timestamp,
    ),
    ("ending_timestamp", BoundKind::Until, BoundUnit::Timestamp),
];

/// Those that only clauses are rewritten to.
static BOUNDS_OF_CLAUSES: [BoundArgument; 2] = [
    ("before_version", BoundKind::Before, BoundUnit::Version),
    ("before_timestamp", BoundKind::Before, BoundUnit::Timestamp),
];

/// The arguments of one call, sorted out but not evaluated.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub spelling: Spelling,
    pub table: ast::Expr,
    pub bounds: Vec<(BoundKind, BoundUnit, ast::Expr)>,
    pub options: HashMap<String, ast::Expr>,
}

impl Arguments {
    /// Sorts the arguments of a call out.
    ///
    /// # Errors
    /// For an unknown, repeated, contradicting or missing argument, naming it.
    pub(crate) fn try_new(spelling: Spelling, arguments: &[FunctionArg]) -> Result<Self> {
        let (positional, named) = split(spelling, arguments)?;
        if let Some((name, _)) = named.iter().find(|(name, _)| !is_known(spelling, name)) {
            return Err(unknown(spelling, name));
        }
        let mut positional = positional.into_iter();
        let table = positional.next().ok_or_else(|| {
            let what = match spelling {
                Spelling::ByPath => "location",
                _ => "table",
            };
            Error::invalid(format!(
                "{spelling} needs a {what}; write {}",
                spelling.usage()
            ))
        })?;
        let mut sorted = Self {
            spelling,
            table,
            bounds: vec![],
            options: HashMap::new(),
        };
        for (kind, value) in [spelling.lower(), BoundKind::Until]
            .into_iter()
            .zip(positional.by_ref())
        {
            sorted.bounds.push((kind, BoundUnit::Either, value));
        }
        if let Some(extra) = positional.next() {
            return Err(Error::invalid(format!(
                "{spelling} takes {} by position; {extra} is one too many",
                spelling.positions()
            )));
        }
        for (name, value) in named {
            sorted.add(&name, value)?;
        }
        sorted.check()?;
        Ok(sorted)
    }

    fn add(&mut self, name: &str, value: ast::Expr) -> Result<()> {
        let spelling = self.spelling;
        if let Some((_, kind, unit)) = bound_argument(name) {
            self.bounds.push((*kind, *unit, value));
        } else if self.options.insert(name.to_owned(), value).is_some() {
            return Err(Error::invalid(format!(
                "{spelling} got the argument {name} twice"
            )));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let spelling = self.spelling;
        let lower = self
            .bounds
            .iter()
            .filter(|(kind, _, _)| !kind.is_upper())
            .count();
        let upper = self.bounds.len() - lower;
        if lower > 1 || upper > 1 {
            return Err(Error::InvalidRange(format!(
                "{spelling} takes one lower bound (since_… or starting_…) and one upper bound (until_… or ending_…)"
            )));
        }
        if lower == 0 {
            return Err(Error::InvalidRange(format!(
                "{spelling} needs a lower bound: {}",
                spelling.lower_bound()
            )));
        }
        Ok(())
    }
}

/// What an argument bounds, if it is a bound.
fn bound_argument(name: &str) -> Option<&'static BoundArgument> {
    let mut known = BOUNDS.iter().chain(&BOUNDS_OF_CLAUSES);
    known.find(|(known, _, _)| *known == name)
}

fn is_known(spelling: Spelling, name: &str) -> bool {
    bound_argument(name).is_some() || spelling.options().contains(&name)
}

fn unknown(spelling: Spelling, name: &str) -> Error {
    let known: Vec<&str> = BOUNDS
        .iter()
        .map(|(name, _, _)| *name)
        .chain(spelling.options().iter().copied())
        .collect();
    Error::invalid(format!(
        "{spelling} has no argument {name:?}; it has {}",
        known.join(", ")
    ))
}

type Sorted = (Vec<ast::Expr>, Vec<(String, ast::Expr)>);

/// Arguments by position, and by name.
fn split(spelling: Spelling, arguments: &[FunctionArg]) -> Result<Sorted> {
    let (mut positional, mut named) = (Vec::new(), Vec::new());
    for argument in arguments {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => {
                refuse_assignment(spelling, value)?;
                positional.push(value.clone());
            }
            FunctionArg::Named {
                name,
                arg: FunctionArgExpr::Expr(value),
                ..
            } => named.push((name.value.to_lowercase(), value.clone())),
            FunctionArg::ExprNamed {
                name,
                arg: FunctionArgExpr::Expr(value),
                ..
            } => named.push((name.to_string().to_lowercase(), value.clone())),
            other => {
                return Err(Error::invalid(format!(
                    "{spelling} does not take the argument {other}; write {}",
                    spelling.usage()
                )));
            }
        }
    }
    Ok((positional, named))
}

/// `since_version = 3` compares; it does not say what an argument is.
fn refuse_assignment(spelling: Spelling, value: &ast::Expr) -> Result<()> {
    let ast::Expr::BinaryOp {
        left,
        op: ast::BinaryOperator::Eq,
        right,
    } = value
    else {
        return Ok(());
    };
    match left.as_ref() {
        ast::Expr::Identifier(name) if is_known(spelling, &name.value.to_lowercase()) => Err(
            Error::invalid(format!("{spelling} got {value}; write {name} => {right}")),
        ),
        _ => Ok(()),
    }
}

/// Refuses a column as the value of an argument, which is called `argument` if it has a name.
///
/// # Errors
/// For a name without quotes; what is inside of an expression is for whoever plans it.
pub(crate) fn refuse_column(argument: Option<&str>, value: &ast::Expr) -> Result<()> {
    let written = match value {
        ast::Expr::Identifier(name) => &name.value,
        ast::Expr::CompoundIdentifier(_) => {
            let what = argument.unwrap_or("a bound of a change read");
            return Err(Error::invalid(format!(
                "{what} must be a constant or a parameter, not the column {value}"
            )));
        }
        _ => return Ok(()),
    };
    Err(Error::invalid(match argument {
        Some(name) => {
            format!("{name} => {value}: {name} must be a constant; write {name} => '{written}'")
        }
        None => format!(
            "a bound of a change read must be a constant or a parameter, not the column {value}; give a version, a TIMESTAMP, 'earliest' or NULL"
        ),
    }))
}

/// The value of an expression without columns; `None` if it has parameters.
///
/// # Errors
/// When it is not constant.
pub(crate) fn constant(expression: Expr, options: &ConfigOptions) -> Result<Option<ScalarValue>> {
    if has_placeholder(&expression) {
        return Ok(None);
    }
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(DFSchema::empty()))
        .with_query_execution_start_time(Some(Utc::now()))
        .with_config_options(Arc::new(options.clone()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let typed = simplifier.coerce(expression.clone(), &DFSchema::empty())?;
    match simplifier.simplify(typed)? {
        Expr::Literal(value, _) => Ok(Some(value)),
        other => Err(Error::invalid(format!(
            "an argument of a change read must be a constant or a parameter, not {other}"
        ))),
    }
}

fn has_placeholder(expression: &Expr) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expression
        .exists(|node| Ok(matches!(node, Expr::Placeholder(_))))
        .unwrap_or(true)
}

/// What a value means as a bound: an integer is a version, a timestamp, a date or a text that is one is a time, NULL is before the
/// first version.
///
/// # Errors
/// [`Error::InvalidRange`] for anything else, or for the wrong one of the two.
pub(crate) fn bound_of(value: &ScalarValue, unit: BoundUnit) -> Result<Bound> {
    let bound = untyped_bound(value)?;
    match (&bound, unit) {
        (Bound::Timestamp(_), BoundUnit::Version) => Err(Error::InvalidRange(format!(
            "{value} is a time, and the argument is a version; use the …_timestamp argument"
        ))),
        (Bound::Version(version), BoundUnit::Timestamp) => Err(Error::InvalidRange(format!(
            "{version} is a version, and the argument is a timestamp; use the …_version argument"
        ))),
        _ => Ok(bound),
    }
}

fn untyped_bound(value: &ScalarValue) -> Result<Bound> {
    if value.is_null() {
        return Ok(Bound::Beginning);
    }
    if let Some(text) = value.try_as_str().flatten() {
        return text_bound(text);
    }
    let bad = || {
        Error::InvalidRange(format!(
            "{value} is no bound of a change read; give a version, a TIMESTAMP, 'earliest' or NULL"
        ))
    };
    match value.data_type() {
        data_type if data_type.is_integer() => {
            match value.cast_to(&DataType::Int64).map_err(|_| bad())? {
                ScalarValue::Int64(Some(version)) => Ok(Bound::Version(version)),
                _ => Err(bad()),
            }
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            micros(value).map(Bound::Timestamp).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

fn text_bound(text: &str) -> Result<Bound> {
    if text.trim().eq_ignore_ascii_case("earliest") {
        return Ok(Bound::Earliest);
    }
    if text.trim().parse::<i64>().is_ok() {
        return Err(Error::InvalidRange(format!(
            "'{text}' is text; write the version {text} without quotes"
        )));
    }
    micros(&ScalarValue::from(text)).map(Bound::Timestamp).ok_or_else(|| {
        Error::InvalidRange(format!("'{text}' is no timestamp; write it as '2026-01-31 12:00:00', give a version, or 'earliest'"))
    })
}

/// Microseconds since the epoch; a time without a zone is UTC.
pub(crate) fn micros(value: &ScalarValue) -> Option<i64> {
    match value
        .cast_to(&DataType::Timestamp(
            TimeUnit::Microsecond,
            Some("UTC".into()),
        ))
        .ok()?
    {
        ScalarValue::TimestampMicrosecond(micros, _) => micros,
        _ => None,
    }
}

/// Puts a bound in its place; `starting_version => n` means `since_version => n - 1`.
///
/// # Errors
/// [`Error::InvalidRange`] for a `starting_version` below 0.
pub(crate) fn merge_bounds(bounds: &mut ChangeBounds, kind: BoundKind, bound: Bound) -> Result<()> {
    match (kind, bound) {
        (BoundKind::Until, Bound::Beginning) => bounds.until = None,
        (BoundKind::Until, bound) => bounds.until = Some(bound),
        (BoundKind::Before, Bound::Beginning) => bounds.until = None,
        (BoundKind::Before, Bound::Version(version)) if version < 1 => {
            return Err(Error::InvalidRange(format!(
                "there is nothing before version {version}; versions start at 0"
            )));
        }
        (BoundKind::Before, Bound::Version(version)) => {
            bounds.until = Some(Bound::Version(version - 1));
        }
        (BoundKind::Before, Bound::Timestamp(micros)) => {
            bounds.until = Some(Bound::Timestamp(micros.saturating_sub(1)));
        }
        (BoundKind::Before, bound) => bounds.until = Some(bound),
        (BoundKind::Since, bound) => bounds.since = bound,
        (BoundKind::Starting, Bound::Version(version)) if version < 0 => {
            return Err(Error::InvalidRange(format!(
                "starting_version {version} is not a version; versions start at 0"
            )));
        }
        (BoundKind::Starting, Bound::Version(version)) => {
            bounds.since = Bound::Version(version - 1)
        }
        (BoundKind::Starting, Bound::Timestamp(micros)) => {
            bounds.since = Bound::Timestamp(micros.saturating_sub(1))
        }
        (BoundKind::Starting, bound) => bounds.since = bound,
    }
    Ok(())
}

/// An error that speaks of the version that was written: the bounds of some kinds are one off.
pub(crate) fn as_typed(error: Error, kinds: impl IntoIterator<Item = BoundKind>) -> Error {
    let what = match &error {
        Error::VersionNotFound { what, .. } if *what == "since_version" => "starting_version",
        Error::VersionNotFound { what, .. } if *what == "until_version" => "before_version",
        _ => return error,
    };
    let is_meant = |kind: BoundKind| match kind {
        BoundKind::Starting => what == "starting_version",
        BoundKind::Before => what == "before_version",
        BoundKind::Since | BoundKind::Until => false,
    };
    if !kinds.into_iter().any(is_meant) {
        return error;
    }
    match error {
        Error::VersionNotFound {
            table,
            requested,
            current,
            hint,
            ..
        } => Error::VersionNotFound {
            table,
            what,
            requested: match requested.parse::<i64>() {
                Ok(version) => version.saturating_add(1).to_string(),
                Err(_) => requested,
            },
            current,
            hint,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        value: impl Into<ScalarValue>,
        unit: BoundUnit,
        expected: std::result::Result<Bound, &str>,
    ) {
        let value = value.into();
        match (bound_of(&value, unit), expected) {
            (Ok(bound), Ok(expected)) => assert_eq!(bound, expected, "{value}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} lacks {part:?}")
            }
            (got, expected) => panic!("{value}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn bounds_are_put_in_their_places() {
        let check = |kind: BoundKind, bound: Bound, expected: (Bound, Option<Bound>)| {
            let mut bounds = ChangeBounds::since(3);
            merge_bounds(&mut bounds, kind, bound).unwrap();
            assert_eq!((bounds.since, bounds.until), expected, "{kind:?}");
        };
        let (since, five) = (Bound::Version(3), Bound::Version(5));
        check(BoundKind::Since, five.clone(), (five.clone(), None));
        check(BoundKind::Starting, five.clone(), (Bound::Version(4), None));
        check(
            BoundKind::Until,
            five.clone(),
            (since.clone(), Some(five.clone())),
        );
        check(
            BoundKind::Before,
            five,
            (since.clone(), Some(Bound::Version(4))),
        );
        check(
            BoundKind::Before,
            Bound::Timestamp(i64::MIN),
            (since, Some(Bound::Timestamp(i64::MIN))),
        );
        let mut bounds = ChangeBounds::since(3);
        assert!(merge_bounds(&mut bounds, BoundKind::Before, Bound::Version(0)).is_err());
    }

    #[test]
    fn errors_speak_of_what_was_written() {
        let error = || Error::VersionNotFound {
            table: "t".into(),
            what: "since_version",
            requested: "8".into(),
            current: 5,
            hint: "ask for an earlier version",
        };
        let typed = as_typed(error(), [BoundKind::Starting]).to_string();
        assert!(typed.contains("starting_version 9"), "{typed}");
        let typed = as_typed(error(), [BoundKind::Since, BoundKind::Before]).to_string();
        assert!(typed.contains("since_version 8"), "{typed}");
    }

    #[test]
    fn the_type_of_a_bound_decides_what_it_is() {
        check(5_i64, BoundUnit::Either, Ok(Bound::Version(5)));
        check(5_i32, BoundUnit::Version, Ok(Bound::Version(5)));
        check(ScalarValue::Null, BoundUnit::Either, Ok(Bound::Beginning));
        check("earliest", BoundUnit::Version, Ok(Bound::Earliest));
        check(
            "1970-01-01 00:00:01",
            BoundUnit::Either,
            Ok(Bound::Timestamp(1_000_000)),
        );
        check(
            ScalarValue::Date32(Some(1)),
            BoundUnit::Timestamp,
            Ok(Bound::Timestamp(86_400_000_000)),
        );
        check(
            "yesterday",
            BoundUnit::Either,
            Err("'yesterday' is no timestamp"),
        );
        check("7", BoundUnit::Either, Err("without quotes"));
        check(1.5_f64, BoundUnit::Either, Err("1.5 is no bound"));
        check(5_i64, BoundUnit::Timestamp, Err("5 is a version"));
        check("2024-01-01", BoundUnit::Version, Err("is a time"));
    }
}
