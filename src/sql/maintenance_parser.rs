//! The statements that look after a table's files, as Delta Lake spells them.
//!
//! ```text
//!  OPTIMIZE t [WHERE condition on partition columns] [ZORDER BY (a, b)]
//!  REORG TABLE t [WHERE condition on partition columns] APPLY (PURGE)
//!  VACUUM t [RETAIN n HOURS] [DRY RUN]
//! ```

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::parser::{end, identifier, literal, table_name};
use super::types::{expect, parse_words};
use crate::error::{Error, Result};

/// One of the statements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Maintenance {
    Optimize {
        table: TableReference,
        /// The condition of WHERE, as text.
        predicate: Option<String>,
        /// The columns of ZORDER BY.
        z_order: Vec<String>,
    },
    /// `REORG TABLE … APPLY (PURGE)`.
    Purge {
        table: TableReference,
        predicate: Option<String>,
    },
    Vacuum {
        table: TableReference,
        /// RETAIN, in microseconds.
        retention: Option<i64>,
        dry_run: bool,
    },
}

impl Maintenance {
    /// The word that the statement begins with.
    fn verb(&self) -> &'static str {
        match self {
            Self::Optimize { .. } => "OPTIMIZE",
            Self::Purge { .. } => "REORG",
            Self::Vacuum { .. } => "VACUUM",
        }
    }

    fn no_plan(&self) -> Error {
        let verb = self.verb();
        let hint = match self {
            Self::Vacuum { .. } => "; VACUUM … DRY RUN lists the files that it would delete",
            Self::Optimize { .. } | Self::Purge { .. } => "",
        };
        Error::invalid(format!(
            "EXPLAIN {verb}: {verb} is no query and has no plan to show{hint}"
        ))
    }
}

/// The statement, if it is one of these.
///
/// # Errors
/// When it is, and wrong, or after EXPLAIN.
pub(super) fn parse_maintenance(
    parser: &mut Parser<'_>,
    explained: bool,
) -> Result<Option<Maintenance>> {
    let statement = if parse_words(parser, &["OPTIMIZE"]) {
        parse_optimize(parser)?
    } else if parse_words(parser, &["REORG"]) {
        parse_reorg(parser)?
    } else if parse_words(parser, &["VACUUM"]) {
        parse_vacuum(parser)?
    } else {
        return Ok(None);
    };
    end(parser, statement.verb())?;
    if explained {
        return Err(statement.no_plan());
    }
    Ok(Some(statement))
}

fn parse_optimize(parser: &mut Parser<'_>) -> Result<Maintenance> {
    let table = named_table(parser, "OPTIMIZE")?;
    if parse_words(parser, &["FULL"]) {
        return Err(Error::invalid(format!(
            "OPTIMIZE {table} FULL clusters a clustered table anew, which this build does not do; OPTIMIZE {table} puts small files together"
        )));
    }
    let predicate = parse_where(parser)?;
    let z_order = if parse_words(parser, &["ZORDER", "BY"]) {
        parse_columns(parser)?
    } else {
        vec![]
    };
    Ok(Maintenance::Optimize {
        table,
        predicate,
        z_order,
    })
}

fn parse_reorg(parser: &mut Parser<'_>) -> Result<Maintenance> {
    let spelling = || Error::invalid("REORG is written REORG TABLE t [WHERE …] APPLY (PURGE)");
    if !parse_words(parser, &["TABLE"]) {
        return Err(spelling());
    }
    let table = table_name(parser)?;
    let predicate = parse_where(parser)?;
    if !parse_words(parser, &["APPLY"]) {
        return Err(spelling());
    }
    expect(parser, &Token::LParen)?;
    if !parse_words(parser, &["PURGE"]) {
        let found = parser.peek_token().token;
        return Err(Error::invalid(format!(
            "REORG TABLE {table} APPLY: expected PURGE, found {found}"
        )));
    }
    expect(parser, &Token::RParen)?;
    Ok(Maintenance::Purge { table, predicate })
}

fn parse_vacuum(parser: &mut Parser<'_>) -> Result<Maintenance> {
    let table = named_table(parser, "VACUUM")?;
    if parse_words(parser, &["VERSION"]) || parse_words(parser, &["TIMESTAMP"]) {
        return Err(Error::invalid(format!(
            "VACUUM {table} is about all versions: it deletes files that none needs which may still be read; say for how long that is with \
             VACUUM {table} RETAIN 168 HOURS"
        )));
    }
    let (mut retention, mut dry_run) = (None, false);
    loop {
        if retention.is_none() && parse_words(parser, &["RETAIN"]) {
            retention = Some(parse_hours(parser)?);
        } else if !dry_run && parse_words(parser, &["DRY", "RUN"]) {
            dry_run = true;
        } else {
            break;
        }
    }
    Ok(Maintenance::Vacuum {
        table,
        retention,
        dry_run,
    })
}

/// The table's name, which no word TABLE precedes as in other systems.
fn named_table(parser: &mut Parser<'_>, verb: &str) -> Result<TableReference> {
    let is_name = matches!(parser.peek_nth_token(1).token, Token::Word(_));
    if is_name && parse_words(parser, &["TABLE"]) {
        let name = table_name(parser)?;
        return Err(Error::invalid(format!(
            "{verb} TABLE {name} is written {verb} {name}"
        )));
    }
    let found = parser.peek_token().token;
    if !matches!(found, Token::Word(_)) {
        let found = match found {
            Token::EOF | Token::SemiColon => "nothing follows".to_owned(),
            other => format!("{other} was found"),
        };
        return Err(Error::invalid(format!(
            "{verb}: the name of a table was expected, as in {verb} t, and {found}"
        )));
    }
    table_name(parser)
}

/// `WHERE condition`, the condition as text.
fn parse_where(parser: &mut Parser<'_>) -> Result<Option<String>> {
    if !parse_words(parser, &["WHERE"]) {
        return Ok(None);
    }
    let condition = parser.parse_expr().map_err(|error| {
        let error = error.to_string();
        Error::invalid(error.replace("sql parser error: ", "WHERE: "))
    })?;
    Ok(Some(condition.to_string()))
}

/// `(a, b)`, or the same without parentheses.
fn parse_columns(parser: &mut Parser<'_>) -> Result<Vec<String>> {
    let parenthesized = parser.consume_token(&Token::LParen);
    let mut columns = Vec::new();
    loop {
        let column = identifier(parser)?;
        if parser.peek_token().token == Token::Period {
            return Err(Error::invalid(format!(
                "ZORDER BY names columns of the table, and not fields of {column:?}"
            )));
        }
        columns.push(column);
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    if parenthesized {
        expect(parser, &Token::RParen)?;
    }
    Ok(columns)
}

/// `n HOURS`, in microseconds.
fn parse_hours(parser: &mut Parser<'_>) -> Result<i64> {
    const MICROS_PER_HOUR: f64 = 3_600_000_000.0;
    let found = parser.peek_token().token;
    let text = literal(parser).map_err(|_| not_hours(&found.to_string()))?;
    let hours: Option<f64> = text.parse().ok();
    let hours = hours.filter(|hours| hours.is_finite() && *hours >= 0.0);
    let is_unit = parse_words(parser, &["HOURS"]) || parse_words(parser, &["HOUR"]);
    match hours.filter(|_| is_unit) {
        // a number too large for microseconds becomes the largest there is
        Some(hours) => Ok((hours * MICROS_PER_HOUR) as i64),
        None => match parser.peek_token().token {
            _ if is_unit => Err(not_hours(&format!("{text} HOURS"))),
            Token::Word(word) => Err(not_hours(&format!("{text} {}", word.value))),
            _ => Err(not_hours(&text)),
        },
    }
}

fn not_hours(found: &str) -> Error {
    Error::invalid(format!(
        "RETAIN is a number of at least 0 and HOURS, as in RETAIN 168 HOURS, not {found}"
    ))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn parsed(sql: &str) -> Result<Option<Maintenance>> {
        let dialect = GenericDialect {};
        parse_maintenance(&mut Parser::new(&dialect).try_with_sql(sql).unwrap(), false)
    }

    fn check(sql: &str, expected: Maintenance) {
        assert_eq!(parsed(sql).unwrap(), Some(expected), "{sql}");
    }

    fn check_error(sql: &str, expected: &str) {
        let error = parsed(sql).unwrap_err().to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    }

    fn optimize(predicate: Option<&str>, z_order: &[&str]) -> Maintenance {
        Maintenance::Optimize {
            table: TableReference::bare("t"),
            predicate: predicate.map(str::to_owned),
            z_order: z_order.iter().map(ToString::to_string).collect(),
        }
    }

    fn vacuum(retention: Option<i64>, dry_run: bool) -> Maintenance {
        Maintenance::Vacuum {
            table: TableReference::bare("t"),
            retention,
            dry_run,
        }
    }

    #[test]
    fn statements_in_full() {
        const HOUR: i64 = 3_600_000_000;
        check("OPTIMIZE T", optimize(None, &[]));
        check(
            "optimize t where c = 'x' and D > 1 zorder by (a, \"B\");",
            optimize(Some("c = 'x' AND D > 1"), &["a", "B"]),
        );
        check("OPTIMIZE t ZORDER BY a, b", optimize(None, &["a", "b"]));
        check(
            "REORG TABLE s.\"T t\" WHERE flag APPLY (PURGE)",
            Maintenance::Purge {
                table: TableReference::partial("s", "T t"),
                predicate: Some("flag".into()),
            },
        );
        check("VACUUM t", vacuum(None, false));
        check("VACUUM t RETAIN 0 HOURS", vacuum(Some(0), false));
        check(
            "VACUUM t RETAIN 1.5 hours DRY RUN",
            vacuum(Some(HOUR + HOUR / 2), true),
        );
        check("VACUUM t DRY RUN RETAIN 1 HOUR", vacuum(Some(HOUR), true));
        check(
            "OPTIMIZE table",
            Maintenance::Optimize {
                table: TableReference::bare("table"),
                predicate: None,
                z_order: vec![],
            },
        );
    }

    #[test]
    fn mistakes_are_told() {
        check_error("OPTIMIZE t FULL", "OPTIMIZE t puts small files together");
        check_error("OPTIMIZE TABLE t", "is written OPTIMIZE t");
        check_error("OPTIMIZE t ZORDER BY (a.b)", "not fields of \"a\"");
        check_error("OPTIMIZE t ZORDER BY ()", "identifier");
        check_error("OPTIMIZE t WHERE", "WHERE: Expected");
        check_error("OPTIMIZE t NOW", "OPTIMIZE: NOW was not expected here");
        check_error("REORG t", "REORG TABLE t [WHERE …] APPLY (PURGE)");
        check_error(
            "REORG TABLE t APPLY (UPGRADE)",
            "expected PURGE, found UPGRADE",
        );
        check_error("VACUUM t RETAIN 7 DAYS", "not 7 DAYS");
        check_error("VACUUM t RETAIN -1 HOURS", "RETAIN 168 HOURS, not -1 HOURS");
        check_error(
            "VACUUM t RETAIN 1 HOURS RETAIN 2 HOURS",
            "VACUUM: RETAIN was not expected",
        );
        check_error("VACUUM t RETAIN 7", "RETAIN 168 HOURS, not 7");
        check_error("VACUUM t RETAIN x HOURS", "RETAIN 168 HOURS, not x");
        check_error("VACUUM", "as in VACUUM t, and nothing follows");
        check_error("OPTIMIZE (a)", "as in OPTIMIZE t, and ( was found");
        check_error("VACUUM t VERSION AS OF 1", "VACUUM t RETAIN 168 HOURS");
        check_error("VACUUM t LITE", "VACUUM: LITE was not expected here");
        assert_eq!(parsed("SELECT 1").unwrap(), None);
    }
}
