//! Snowflake's `t CHANGES(INFORMATION => …) AT(…) [END(…)]`, where the session's dialect parses it.
//!
//! Elsewhere [`crate::sql::rewrite`] makes the same call of its tokens.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArguments, Ident,
    ObjectName,
};

use crate::error::{Error, Result};
use crate::sql::arguments::{Arguments, Spelling, point_argument};

/// The clause behind the name of a table, as the arguments of a call.
///
/// # Errors
/// When a part of it is unknown, or something that only Snowflake has.
pub(super) fn arguments(
    name: &ObjectName,
    changes: &Expr,
    at: &Expr,
    end: Option<&Expr>,
) -> Result<Arguments> {
    let (_, option, information) = part(changes)?;
    if !option.eq_ignore_ascii_case("INFORMATION") {
        return Err(misread(changes));
    }
    let spelling = Spelling::of_information(&word(&information))?;
    let identifiers: Option<Vec<Ident>> =
        name.0.iter().map(|part| part.as_ident().cloned()).collect();
    let identifiers = identifiers.ok_or_else(|| misread(changes))?;
    let table = FunctionArgExpr::Expr(Expr::CompoundIdentifier(identifiers));
    let mut arguments = vec![FunctionArg::Unnamed(table)];
    for point in [Some(at), end].into_iter().flatten() {
        let (clause, unit, value) = part(point)?;
        arguments.push(FunctionArg::Named {
            name: Ident::new(point_argument(&clause, &unit)?),
            arg: FunctionArgExpr::Expr(value),
            operator: FunctionArgOperator::RightArrow,
        });
    }
    Arguments::try_new(spelling, &arguments)
}

/// `NAME(option => value)`.
fn part(expression: &Expr) -> Result<(String, String, Expr)> {
    let Expr::Function(Function {
        name,
        args: FunctionArguments::List(list),
        ..
    }) = expression
    else {
        return Err(misread(expression));
    };
    let (option, value) = match list.args.as_slice() {
        [
            FunctionArg::Named {
                name,
                arg: FunctionArgExpr::Expr(value),
                ..
            },
        ] => (name.value.clone(), value),
        [
            FunctionArg::ExprNamed {
                name,
                arg: FunctionArgExpr::Expr(value),
                ..
            },
        ] => (name.to_string(), value),
        _ => return Err(misread(expression)),
    };
    Ok((name.to_string(), option, value.clone()))
}

/// A word, or a text.
fn word(value: &Expr) -> String {
    let text = match value {
        Expr::Value(text) => text.value.clone().into_string(),
        _ => None,
    };
    text.unwrap_or_else(|| value.to_string())
}

fn misread(part: &Expr) -> Error {
    Error::invalid(format!(
        "{part} is no part of a CHANGES clause; write t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 41)"
    ))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{SetExpr, Statement, TableFactor, TableVersion};
    use datafusion::sql::sqlparser::dialect::SnowflakeDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(clause: &str) -> Result<Arguments> {
        let sql = format!("SELECT * FROM s.t {clause}");
        let statement = Parser::parse_sql(&SnowflakeDialect {}, &sql)
            .unwrap()
            .remove(0);
        let Statement::Query(query) = statement else {
            panic!("no query");
        };
        let SetExpr::Select(select) = query.body.as_ref() else {
            panic!("no SELECT");
        };
        let TableFactor::Table {
            name,
            version: Some(TableVersion::Changes { changes, at, end }),
            ..
        } = &select.from[0].relation
        else {
            panic!("no clause");
        };
        arguments(name, changes, at, end.as_ref())
    }

    fn check(clause: &str, spelling: Spelling, bounds: usize) {
        let found = parsed(clause).unwrap();
        assert_eq!(
            (found.spelling, found.bounds.len()),
            (spelling, bounds),
            "{clause}"
        );
        assert_eq!(found.table.to_string(), "s.t");
    }

    fn check_error(clause: &str, part: &str) {
        let error = parsed(clause).unwrap_err().to_string();
        assert!(error.contains(part), "{error} lacks {part:?}");
    }

    #[test]
    fn the_clause_is_a_call() {
        check(
            "CHANGES(INFORMATION => DEFAULT) AT(VERSION => 3)",
            Spelling::Default,
            1,
        );
        check(
            "CHANGES(INFORMATION => append_only) BEFORE(TIMESTAMP => '2026-01-01') END(VERSION => 7)",
            Spelling::AppendOnly,
            2,
        );
        check_error(
            "CHANGES(INFORMATION => ALL_OF_IT) AT(VERSION => 3)",
            "expected DEFAULT",
        );
        check_error(
            "CHANGES(INFORMATION => DEFAULT) AT(OFFSET => -60)",
            "OFFSET => …",
        );
        check_error(
            "CHANGES(INFORMATION => DEFAULT) AT(STREAM => 's')",
            "no streams",
        );
    }
}
