//! Spark's functions by what they are called here.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr as Sql, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value,
    visit_expressions_mut,
};

use super::{parse, unknown};
use crate::error::{Error, Result};

/// Functions of the same name and meaning.
const SAME: [&str; 35] = [
    "abs",
    "btrim",
    "char_length",
    "character_length",
    "coalesce",
    "concat_ws",
    "contains",
    "current_date",
    "current_timestamp",
    "greatest",
    "ifnull",
    "instr",
    "isnan",
    "least",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "md5",
    "nanvl",
    "now",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "upper",
    "uuid",
];

/// Functions with another name or count here: name, number of arguments, and what to write, with `_0` for the first argument.
const OTHER: [(&str, usize, &str); 23] = [
    ("date", 1, "CAST(_0 AS DATE)"),
    ("day", 1, "date_part('day', _0)"),
    ("dayofmonth", 1, "date_part('day', _0)"),
    ("dayofweek", 1, "CAST(date_part('dow', _0) + 1 AS INT)"),
    ("dayofyear", 1, "date_part('doy', _0)"),
    ("endswith", 2, "ends_with(_0, _1)"),
    ("hour", 1, "date_part('hour', _0)"),
    ("if", 3, "CASE WHEN _0 THEN _1 ELSE _2 END"),
    ("isnotnull", 1, "_0 IS NOT NULL"),
    ("isnull", 1, "_0 IS NULL"),
    ("lcase", 1, "lower(_0)"),
    ("len", 1, "length(_0)"),
    ("minute", 1, "date_part('minute', _0)"),
    ("month", 1, "date_part('month', _0)"),
    ("quarter", 1, "date_part('quarter', _0)"),
    ("second", 1, "date_part('second', _0)"),
    ("startswith", 2, "starts_with(_0, _1)"),
    ("string", 1, "CAST(_0 AS STRING)"),
    ("to_date", 1, "CAST(_0 AS DATE)"),
    ("ucase", 1, "upper(_0)"),
    ("weekday", 1, "CAST(date_part('isodow', _0) - 1 AS INT)"),
    ("weekofyear", 1, "date_part('week', _0)"),
    ("year", 1, "date_part('year', _0)"),
];

/// What times are truncated to under the same name.
const UNITS: [&str; 8] = [
    "year", "quarter", "month", "week", "day", "hour", "minute", "second",
];

/// The expression to be used for a call; `None` for the call as it is.
///
/// # Errors
/// When the function is not known to be the same, or counts otherwise for these arguments.
pub(super) fn translate_call(call: &Function) -> Result<Option<Sql>> {
    let (name, arguments) = match (plain_name(call), plain_arguments(call)) {
        (Some(name), Some(arguments)) => (name, arguments),
        _ => return Err(unknown(call)),
    };
    match (name.as_str(), arguments.as_slice()) {
        ("concat", [_, ..]) => concat(&arguments).map(Some),
        ("date_trunc", [unit, _]) if is_unit(unit, &UNITS) => Ok(None),
        ("trunc", [_, unit]) if is_unit(unit, &UNITS[..4]) => {
            fill("CAST(date_trunc(_1, _0) AS DATE)", &arguments).map(Some)
        }
        ("left" | "right", [_, count]) => check_position(count).map(|()| None),
        ("left" | "right" | "concat" | "date_trunc" | "trunc", _) => Err(unknown(call)),
        (same, _) if SAME.contains(&same) => Ok(None),
        (other, arguments) => {
            let found = OTHER
                .iter()
                .find(|(name, count, _)| *name == other && *count == arguments.len());
            let (_, _, template) = found.ok_or_else(|| unknown(call))?;
            fill(template, arguments).map(Some)
        }
    }
}

/// Positions below 1 are counted otherwise in Spark.
pub(super) fn check_position(position: &Sql) -> Result<()> {
    if is_literal(position, |value| match value {
        Value::Number(number, _) => number.parse::<u32>().is_ok_and(|n| n > 0),
        _ => false,
    }) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Spark counts the position or length {position} otherwise; it has to be a number from 1 on"
        )))
    }
}

fn is_unit(unit: &Sql, units: &[&str]) -> bool {
    is_literal(unit, |value| match value {
        Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => {
            units.contains(&text.to_lowercase().as_str())
        }
        _ => false,
    })
}

fn is_literal(expression: &Sql, condition: impl Fn(&Value) -> bool) -> bool {
    matches!(expression, Sql::Value(value) if condition(&value.value))
}

/// NULL if any argument is; the function of that name skips them here.
fn concat(arguments: &[Sql]) -> Result<Sql> {
    let mut texts = Vec::with_capacity(arguments.len());
    for argument in arguments {
        texts.push(fill("CAST(_0 AS STRING)", std::slice::from_ref(argument))?);
    }
    let joined = texts.into_iter().reduce(|left, right| Sql::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::StringConcat,
        right: Box::new(right),
    });
    joined.ok_or_else(|| Error::invalid("concat() without arguments"))
}

/// The template with arguments in the place of `_0`, `_1`, ….
fn fill(template: &str, arguments: &[Sql]) -> Result<Sql> {
    let mut filled = parse(template)?;
    let _ = visit_expressions_mut(&mut filled, |node| {
        if let Sql::Identifier(name) = node
            && let Some(index) = name.value.strip_prefix('_')
            && let Ok(index) = index.parse::<usize>()
            && let Some(argument) = arguments.get(index)
        {
            *node = Sql::Nested(Box::new(argument.clone()));
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(filled)
}

fn plain_name(call: &Function) -> Option<String> {
    let is_plain = call.filter.is_none()
        && call.over.is_none()
        && call.null_treatment.is_none()
        && call.within_group.is_empty()
        && call.parameters == FunctionArguments::None;
    match call.name.0.as_slice() {
        [name] if is_plain => Some(name.as_ident()?.value.to_lowercase()),
        _ => None,
    }
}

fn plain_arguments(call: &Function) -> Option<Vec<Sql>> {
    let list = match &call.args {
        FunctionArguments::None => return Some(vec![]),
        FunctionArguments::List(list) => list,
        FunctionArguments::Subquery(_) => return None,
    };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let plain = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}
