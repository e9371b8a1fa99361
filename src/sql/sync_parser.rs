//! `SYNC INTO`, `APPLY CHANGES INTO`, `SHOW SYNCS`, `DROP SYNC`.

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::parser::{end, identifier, literal, name_list, table_name};
use super::types::{expect, parse_words};
use crate::error::{Error, Result};
use crate::sync::{Columns, OnExpired, SourceSpec, Statement, Storage, Sync, SyncBuilder};

/// The clauses that may follow the source, as messages list them.
const CLAUSES: &str = "KEYS (…), SEQUENCE BY …, COLUMNS …, APPLY AS DELETE WHEN …, IGNORE NULL UPDATES, STORED AS SCD TYPE 1 | 2, TRACK HISTORY ON …";

/// Which statement begins here, its first words consumed.
pub(super) fn parse_verb(parser: &mut Parser<'_>) -> Option<Statement> {
    if parse_words(parser, &["SYNC", "INTO"]) {
        Some(Statement::Sync)
    } else if parse_words(parser, &["APPLY", "CHANGES", "INTO"])
        || parse_words(parser, &["AUTO", "CDC", "INTO"])
    {
        Some(Statement::ApplyChanges)
    } else {
        None
    }
}

/// Parses what follows the verb.
///
/// # Errors
/// When a clause is wrong, missing or given twice.
pub(super) fn parse_sync(mut parser: Parser<'_>, statement: Statement, sql: &str) -> Result<Sync> {
    let verb = match statement {
        Statement::Sync => "SYNC",
        Statement::ApplyChanges => "APPLY CHANGES",
    };
    let target = table_name(&mut parser)?;
    if !parse_words(&mut parser, &["FROM"]) {
        return Err(unexpected(&mut parser, verb, "FROM source"));
    }
    let builder = Sync::builder().statement(statement).target(target);
    let mut clauses = Clauses {
        verb,
        statement,
        builder: match source(&mut parser, sql)? {
            SourceSpec::Table(name) => builder.source(name),
            SourceSpec::Query(sql) => builder.source_query(sql),
        },
        seen: vec![],
        type_2: false,
        track_history: None,
    };
    while clauses.parse_clause(&mut parser)? {}
    end_of(&mut parser, verb)?;
    clauses.build()
}

/// A table, a query in parentheses, or a call such as `table_changes('t', 0)`; Databricks' `STREAM(…)` around it says nothing here.
fn source(parser: &mut Parser<'_>, sql: &str) -> Result<SourceSpec> {
    if parse_words(parser, &["STREAM"]) {
        if !parser.consume_token(&Token::LParen) {
            return source(parser, sql);
        }
        let inner = source(parser, sql)?;
        expect(parser, &Token::RParen)?;
        return Ok(inner);
    }
    if parser.consume_token(&Token::LParen) {
        return Ok(SourceSpec::Query(balanced(parser, sql)?));
    }
    let name = table_name(parser)?;
    if parser.consume_token(&Token::LParen) {
        let arguments = balanced(parser, sql)?;
        return Ok(SourceSpec::Query(format!(
            "SELECT * FROM {}({arguments})",
            name.to_quoted_string()
        )));
    }
    Ok(SourceSpec::Table(name))
}

/// The text up to the parenthesis that closes one that is open, each token as it was written and one space wherever there was any:
/// a query that is only laid out differently is the same.
fn balanced(parser: &mut Parser<'_>, sql: &str) -> Result<String> {
    let (mut depth, mut text) = (1_usize, String::new());
    let mut last: Option<usize> = None;
    loop {
        let token = parser
            .next_token_no_skip()
            .cloned()
            .ok_or_else(|| Error::invalid("FROM ( … is not closed by )"))?;
        let start = offset(sql, token.span.start);
        if let Some(last) = last.take() {
            text.push_str(sql.get(last..start).unwrap_or_default());
        }
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(text.trim().to_owned());
        }
        match token.token {
            Token::Whitespace(_) if text.ends_with(' ') => {}
            Token::Whitespace(_) => text.push(' '),
            _ => last = Some(start),
        }
    }
}

/// The byte at which a place in the text is; lines and columns count from 1, columns in characters.
fn offset(sql: &str, place: Location) -> usize {
    let line = sql
        .split_inclusive('\n')
        .take(usize::try_from(place.line).unwrap_or(1).saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    let column = usize::try_from(place.column).unwrap_or(1).saturating_sub(1);
    let rest = sql.get(line..).unwrap_or_default();
    line + rest
        .char_indices()
        .nth(column)
        .map_or(rest.len(), |(index, _)| index)
}

/// The clauses so far.
struct Clauses {
    verb: &'static str,
    statement: Statement,
    builder: SyncBuilder,
    seen: Vec<&'static str>,
    type_2: bool,
    track_history: Option<Columns>,
}

impl Clauses {
    /// Parses one clause; `false` when there is none.
    fn parse_clause(&mut self, parser: &mut Parser<'_>) -> Result<bool> {
        let builder = std::mem::take(&mut self.builder);
        let is_sync = self.statement == Statement::Sync;
        self.builder = if parse_words(parser, &["KEYS"]) {
            self.once("KEYS")?;
            builder.keys(name_list(parser)?)
        } else if parse_words(parser, &["SEQUENCE", "BY"]) {
            self.once("SEQUENCE BY")?;
            builder.sequence_by(expression(parser, "SEQUENCE BY")?)
        } else if parse_words(parser, &["COLUMNS"]) {
            self.once("COLUMNS")?;
            builder.columns(columns(parser)?)
        } else if parse_words(parser, &["APPLY", "AS", "DELETE", "WHEN"]) {
            self.once("APPLY AS DELETE WHEN")?;
            builder.apply_as_delete_when(expression(parser, "APPLY AS DELETE WHEN")?)
        } else if parse_words(parser, &["APPLY", "AS", "TRUNCATE", "WHEN"]) {
            self.once("APPLY AS TRUNCATE WHEN")?;
            if is_sync {
                return Err(Error::invalid(
                    "APPLY AS TRUNCATE WHEN belongs to APPLY CHANGES INTO; a SYNC follows its source, which a TRUNCATE of the source empties",
                ));
            }
            builder.apply_as_truncate_when(expression(parser, "APPLY AS TRUNCATE WHEN")?)
        } else if parse_words(parser, &["IGNORE", "NULL", "UPDATES"]) {
            self.once("IGNORE NULL UPDATES")?;
            let on = if parse_words(parser, &["ON"]) {
                columns(parser)?
            } else {
                Columns::All
            };
            builder.ignore_null_updates(on)
        } else if parse_words(parser, &["STORED", "AS", "SCD", "TYPE"]) {
            self.once("STORED AS")?;
            self.type_2 = scd_type(parser)?;
            builder
        } else if parse_words(parser, &["TRACK", "HISTORY", "ON"]) {
            self.once("TRACK HISTORY ON")?;
            self.track_history = Some(columns(parser)?);
            builder
        } else if parse_words(parser, &["WITH", "SCHEMA", "EVOLUTION"]) {
            self.once("WITH SCHEMA EVOLUTION")?;
            builder.with_schema_evolution()
        } else if is_sync && parse_words(parser, &["ON", "EXPIRED"]) {
            self.once("ON EXPIRED")?;
            builder.on_expired(on_expired(parser)?)
        } else if is_sync && parse_words(parser, &["AS"]) {
            self.once("AS")?;
            builder.name(sync_name(parser)?)
        } else if parse_words(parser, &["DETECT", "DELETES"]) {
            self.once("DETECT DELETES")?;
            builder.detect_deletes()
        } else if parse_words(parser, &["DRY", "RUN"]) {
            self.once("DRY RUN")?;
            builder.dry_run()
        } else {
            self.builder = builder;
            return Ok(false);
        };
        Ok(true)
    }

    fn once(&mut self, clause: &'static str) -> Result<()> {
        if self.seen.contains(&clause) {
            return Err(Error::invalid(format!(
                "{}: {clause} is given twice",
                self.verb
            )));
        }
        self.seen.push(clause);
        Ok(())
    }

    fn build(self) -> Result<Sync> {
        let storage = match (self.type_2, self.track_history) {
            (true, track_history) => Storage::ScdType2 {
                track_history: track_history.unwrap_or_default(),
            },
            (false, None) => Storage::ScdType1,
            (false, Some(_)) => {
                return Err(Error::invalid(
                    "TRACK HISTORY ON needs a history: add STORED AS SCD TYPE 2",
                ));
            }
        };
        self.builder.stored_as(storage).build()
    }
}

/// `a, b`, `(a, b)`, `*` or `* EXCEPT (a, b)`.
fn columns(parser: &mut Parser<'_>) -> Result<Columns> {
    if parser.consume_token(&Token::Mul) {
        return if parse_words(parser, &["EXCEPT"]) {
            Ok(Columns::Except(name_list(parser)?))
        } else {
            Ok(Columns::All)
        };
    }
    if parser.peek_token().token == Token::LParen {
        return Ok(Columns::Only(name_list(parser)?));
    }
    let mut names = vec![identifier(parser)?];
    while parser.consume_token(&Token::Comma) {
        names.push(identifier(parser)?);
    }
    Ok(Columns::Only(names))
}

/// An expression up to the next clause, which sqlparser might take for a part of it, such as IGNORE NULL for IGNORE NULLS.
fn expression(parser: &mut Parser<'_>, clause: &str) -> Result<String> {
    let (mut depth, mut tokens) = (0_usize, Vec::new());
    while depth > 0 || !at_clause(parser) {
        let token = parser.next_token();
        match &token.token {
            Token::EOF => break,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        tokens.push(token);
    }
    let wrong = |error: ParserError| {
        Error::invalid(format!(
            "{clause}: {}",
            error.to_string().replace("sql parser error: ", "")
        ))
    };
    let dialect = GenericDialect {};
    let mut inner = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let expression = inner.parse_expr().map_err(wrong)?;
    match inner.peek_token().token {
        Token::EOF => Ok(expression.to_string()),
        other => Err(Error::invalid(format!(
            "{clause} {expression}: {other} was not expected here; the clauses are {CLAUSES}"
        ))),
    }
}

/// Whether a clause begins here, or the statement ends.
fn at_clause(parser: &mut Parser<'_>) -> bool {
    const CLAUSES: [[&str; 2]; 11] = [
        ["SEQUENCE", "BY"],
        ["APPLY", "AS"],
        ["IGNORE", "NULL"],
        ["STORED", "AS"],
        ["TRACK", "HISTORY"],
        ["WITH", "SCHEMA"],
        ["ON", "EXPIRED"],
        ["DETECT", "DELETES"],
        ["DRY", "RUN"],
        ["KEYS", "("],
        ["COLUMNS", ""],
    ];
    let word = |token: Token| token.to_string().to_uppercase();
    let first = parser.peek_nth_token(0).token;
    if matches!(first, Token::EOF | Token::SemiColon) {
        return true;
    }
    let (first, second) = (word(first), word(parser.peek_nth_token(1).token));
    first == "AS"
        || CLAUSES
            .iter()
            .any(|[one, two]| *one == first && (two.is_empty() || *two == second))
}

/// Whether it is type 2.
fn scd_type(parser: &mut Parser<'_>) -> Result<bool> {
    match parser.next_token().token {
        Token::Number(number, _) if number == "1" => Ok(false),
        Token::Number(number, _) if number == "2" => Ok(true),
        other => Err(Error::invalid(format!(
            "STORED AS SCD TYPE is 1 (one row per key) or 2 (a history), not {other}"
        ))),
    }
}

fn on_expired(parser: &mut Parser<'_>) -> Result<OnExpired> {
    if parse_words(parser, &["ERROR"]) {
        Ok(OnExpired::Error)
    } else if parse_words(parser, &["RESNAPSHOT"]) {
        Ok(OnExpired::Resnapshot)
    } else {
        let found = parser.peek_token().token;
        Err(Error::invalid(format!(
            "ON EXPIRED is followed by ERROR or RESNAPSHOT, not {found}"
        )))
    }
}

/// A name, quoted or not.
fn sync_name(parser: &mut Parser<'_>) -> Result<String> {
    match parser.peek_token().token {
        Token::SingleQuotedString(_) => literal(parser),
        _ => identifier(parser),
    }
}

/// `SHOW SYNCS [IN target]`, its first words consumed.
pub(super) fn parse_show(mut parser: Parser<'_>) -> Result<Option<TableReference>> {
    let target = if parse_words(&mut parser, &["IN"]) || parse_words(&mut parser, &["FROM"]) {
        Some(table_name(&mut parser)?)
    } else {
        None
    };
    end(&mut parser, "SHOW SYNCS")?;
    Ok(target)
}

/// `DROP SYNC [IF EXISTS] 'name' ON target`, its first words consumed: name, target, whether it may be missing.
pub(super) fn parse_drop(mut parser: Parser<'_>) -> Result<(String, TableReference, bool)> {
    let if_exists = parse_words(&mut parser, &["IF", "EXISTS"]);
    let name = sync_name(&mut parser)?;
    if !parse_words(&mut parser, &["ON"]) {
        return Err(unexpected(&mut parser, "DROP SYNC 'name'", "ON target"));
    }
    let target = table_name(&mut parser)?;
    end(&mut parser, "DROP SYNC")?;
    Ok((name, target, if_exists))
}

fn unexpected(parser: &mut Parser<'_>, statement: &str, expected: &str) -> Error {
    let found = parser.peek_token().token;
    Error::invalid(format!("{statement}: expected {expected}, found {found}"))
}

fn end_of(parser: &mut Parser<'_>, verb: &str) -> Result<()> {
    end(parser, verb).map_err(|error| {
        let more = if verb == "SYNC" {
            ", WITH SCHEMA EVOLUTION, ON EXPIRED …, DETECT DELETES, AS 'name' and DRY RUN"
        } else {
            ", APPLY AS TRUNCATE WHEN …, WITH SCHEMA EVOLUTION and DRY RUN"
        };
        Error::invalid(format!("{error}; the clauses are {CLAUSES}{more}"))
    })
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_sync;
    use crate::sync::SourceSpec;

    fn refused(sql: &str, part: &str) {
        let error = parse_sync(sql).unwrap_err().to_string();
        assert!(error.contains(part), "{sql}: {error} lacks {part:?}");
    }

    #[test]
    fn mistakes_are_named() {
        refused(
            "SYNC INTO a FROM b KEYS (id) KEYS (id)",
            "KEYS is given twice",
        );
        refused("SYNC INTO a FROM b KEYS (id, id)", "twice");
        refused("SYNC INTO a KEYS (id)", "expected FROM source, found KEYS");
        refused(
            "SYNC INTO a FROM b STORED AS SCD TYPE 3",
            "1 (one row per key)",
        );
        refused(
            "SYNC INTO a FROM b TRACK HISTORY ON (x)",
            "STORED AS SCD TYPE 2",
        );
        refused(
            "SYNC INTO a FROM b ON EXPIRED IGNORE",
            "ERROR or RESNAPSHOT",
        );
        refused("SYNC INTO a FROM b WHERE x = 1", "the clauses are KEYS");
        refused("SYNC INTO a FROM (SELECT 1", "is not closed");
        refused("SYNC INTO a FROM b AS ''", "cannot be empty");
        refused(
            "SYNC INTO a FROM b DETECT DELETES KEYS (id) DETECT DELETES",
            "DETECT DELETES is given twice",
        );
        refused("SYNC INTO a FROM b DETECT", "DETECT was not expected here");
        refused(
            "SYNC INTO a FROM b SEQUENCE BY at DETECT DELETES",
            "does not go with SEQUENCE BY",
        );
        refused(
            "SYNC INTO a FROM b DETECT DELETES STORED AS SCD TYPE 2",
            "is for SCD TYPE 1",
        );
        refused(
            "SYNC INTO a FROM table_changes('b', 0) DETECT DELETES",
            "needs a table as its source",
        );
        refused(
            "APPLY CHANGES INTO a FROM b KEYS (id) SEQUENCE BY at DETECT DELETES",
            "belongs to SYNC INTO",
        );
        refused("APPLY CHANGES INTO a FROM b KEYS (id)", "needs SEQUENCE BY");
    }

    #[test]
    fn a_query_is_taken_as_it_is_written() {
        let query = |sql: &str| match parse_sync(sql).unwrap().unwrap().source {
            SourceSpec::Query(query) => query,
            SourceSpec::Table(name) => panic!("{name}"),
        };
        let text = "SELECT 'it''s', \"a\"\"b\", 'ä' || f(1) FROM table_changes('t', 0)";
        assert_eq!(
            query(&format!("SYNC INTO a\n  FROM ({text}) KEYS (id)")),
            text
        );
        assert_eq!(
            query("SYNC INTO a FROM ( SELECT 1, -- one\n\t 'x  y' ) KEYS (id)"),
            "SELECT 1, 'x  y'"
        );
        assert_eq!(
            query("SYNC INTO a FROM table_changes('it''s', 0)"),
            "SELECT * FROM table_changes('it''s', 0)"
        );
    }

    #[test]
    fn deletes_are_detected_where_the_statement_says_so() {
        let detects = |sql: &str| parse_sync(sql).unwrap().unwrap().detect_deletes;
        assert!(!detects("SYNC INTO a FROM b"));
        assert!(detects("SYNC INTO a FROM b DETECT DELETES KEYS (id)"));
        assert!(detects(
            "sync into a from b apply as delete when op = 'D' detect deletes dry run"
        ));
    }

    #[test]
    fn a_sync_is_named_after_its_source() {
        let name = |sql: &str| parse_sync(sql).unwrap().unwrap().name().to_owned();
        assert_eq!(name("SYNC INTO a FROM b"), "b");
        assert_eq!(name("sync into a from x.b as 'of x';"), "of x");
        assert_eq!(name("SYNC INTO a FROM table_changes('b', 0)"), "query");
        assert!(parse_sync("SELECT 1").unwrap().is_none());
    }
}
