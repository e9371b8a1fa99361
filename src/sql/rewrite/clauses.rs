//! Clauses behind the name of a table that ask for its changes, as calls.
//!
//! - Spark's `t CHANGES FROM VERSION 2 TO VERSION 5` becomes `table_changes(t, starting_version => 2, until_version => 5) AS t`:
//!   both ends are included unless EXCLUSIVE follows them.
//! - Snowflake's `t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 2) END(VERSION => 5)` becomes
//!   `changes_default(t, since_version => 2, until_version => 5) AS t`.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::{
    at, closing, has_alias, is_name, is_word, name_start, refuse_history, value_length, word,
};
use crate::error::{Error, Result};
use crate::sql::arguments::{Spelling, point_argument};

/// A clause that has been read.
struct Clause {
    function: Spelling,
    /// The bounds, as arguments by name.
    bounds: Vec<(&'static str, Vec<TokenWithSpan>)>,
    /// How many tokens it has.
    length: usize,
}

/// Rewrites the clauses of a statement's tokens, which have no white space.
///
/// # Errors
/// When a clause is not complete, says what is not understood here, or belongs to a table that is written to.
pub(super) fn rewrite_clauses(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    if !tokens.iter().any(|token| is_word(Some(token), "CHANGES")) {
        return Ok(tokens);
    }
    let mut output: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let Some(clause) = clause(&output, &tokens[index..])? else {
            output.push(tokens[index].clone());
            index += 1;
            continue;
        };
        let span = tokens[index].span;
        let name = output.split_off(name_start(&output));
        index += clause.length;
        output.extend(call(&name, clause, span));
        if !has_alias(&tokens[index..])
            && let Some(last) = name.last()
        {
            output.extend([word("AS", span), last.clone()]);
        }
    }
    Ok(output)
}

/// `function(name, bound => value, …)`.
fn call(name: &[TokenWithSpan], clause: Clause, span: Span) -> Vec<TokenWithSpan> {
    let mut call = vec![word(clause.function.name(), span), at(Token::LParen, span)];
    call.extend(name.iter().cloned());
    for (argument, value) in clause.bounds {
        call.extend([
            at(Token::Comma, span),
            word(argument, span),
            at(Token::RArrow, span),
        ]);
        call.extend(value);
    }
    call.push(at(Token::RParen, span));
    call
}

/// The clause that stands here, if there is one; `before` is all that stands before it.
fn clause(before: &[TokenWithSpan], tokens: &[TokenWithSpan]) -> Result<Option<Clause>> {
    if !is_word(tokens.first(), "CHANGES") {
        return Ok(None);
    }
    let is_information = matches!(tokens.get(1), Some(token) if token.token == Token::LParen)
        && is_word(tokens.get(2), "INFORMATION")
        && matches!(tokens.get(3), Some(token) if token.token == Token::RArrow);
    let is_range = is_word(tokens.get(1), "FROM")
        && (is_word(tokens.get(2), "VERSION") || is_word(tokens.get(2), "TIMESTAMP"));
    if !is_information && !is_range {
        refuse_misspelled(before, tokens)?;
        return Ok(None);
    }
    let is_meant = is_information || is_literal(tokens.get(3));
    match place(before)? {
        Place::Relation => {}
        // `SELECT a, id changes FROM version` is no clause
        Place::ListOfAny if is_information || value(&tokens[3..]).is_ok() => {}
        _ if is_meant && is_behind_query(before) => {
            return Err(Error::invalid(
                "the CHANGES clause stands right behind the name of a table, before its alias",
            ));
        }
        _ => return Ok(None),
    }
    match is_information {
        true => snowflake(tokens).map(Some),
        false => spark(tokens).map(Some),
    }
}

/// Refuses ranges that are almost Spark's, where nothing else can be meant.
fn refuse_misspelled(before: &[TokenWithSpan], tokens: &[TokenWithSpan]) -> Result<()> {
    let is_bare = is_word(tokens.get(1), "FROM") && is_literal(tokens.get(2));
    let is_between = is_word(tokens.get(1), "BETWEEN")
        && (is_word(tokens.get(2), "VERSION") || is_word(tokens.get(2), "TIMESTAMP"));
    if (is_bare || is_between) && matches!(place(before)?, Place::Relation) {
        return Err(Error::invalid(
            "write the range as CHANGES FROM VERSION 1 TO VERSION 3, or with TIMESTAMP '…'; both ends are included",
        ));
    }
    Ok(())
}

/// Whether a value begins here that can be nothing else.
fn is_literal(token: Option<&TokenWithSpan>) -> bool {
    matches!(
        token.map(|token| &token.token),
        Some(
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) | Token::Minus
        )
    )
}

/// What a name that is followed by a clause may be.
enum Place {
    /// A relation.
    Relation,
    /// A relation, or an expression with a name.
    ListOfAny,
    Elsewhere,
}

/// Where the name stands that ends here.
fn place(before: &[TokenWithSpan]) -> Result<Place> {
    if !before.last().is_some_and(is_name) {
        return Ok(Place::Elsewhere);
    }
    let before = &before[..name_start(before)];
    refuse_history(before, "what changed in a table", "the CHANGES clause")?;
    let is_relation = ["FROM", "JOIN", "USING"]
        .iter()
        .any(|word| is_word(before.last(), word));
    Ok(match before.last().map(|token| &token.token) {
        _ if is_relation => Place::Relation,
        Some(Token::Comma | Token::LParen) => Place::ListOfAny,
        _ => Place::Elsewhere,
    })
}

/// Whether a query or an alias ends here.
fn is_behind_query(before: &[TokenWithSpan]) -> bool {
    before
        .last()
        .is_some_and(|token| token.token == Token::RParen || is_name(token))
}

/// `CHANGES FROM VERSION a [INCLUSIVE | EXCLUSIVE] [TO VERSION b [INCLUSIVE | EXCLUSIVE]]`; TIMESTAMP likewise.
fn spark(tokens: &[TokenWithSpan]) -> Result<Clause> {
    let (lower, mut length) = spark_end(tokens, 2)?;
    let name = match (lower.is_time, lower.is_included) {
        (false, true) => "starting_version",
        (false, false) => "since_version",
        (true, true) => "starting_timestamp",
        (true, false) => "since_timestamp",
    };
    let mut bounds = vec![(name, lower.value)];
    if is_word(tokens.get(length), "TO") {
        let (upper, end) = spark_end(tokens, length + 1)?;
        length = end;
        bounds.push(match (upper.is_time, upper.is_included) {
            (false, true) => ("until_version", upper.value),
            (true, true) => ("until_timestamp", upper.value),
            (false, false) => ("before_version", upper.value),
            (true, false) => ("before_timestamp", upper.value),
        });
    }
    if is_word(tokens.get(length), "WITH") {
        return Err(Error::invalid(
            "options of CHANGES FROM … are not understood here; use table_changes('t', starting_version => n), which has net => true and others",
        ));
    }
    Ok(Clause {
        function: Spelling::TableChanges,
        bounds,
        length,
    })
}

struct SparkEnd {
    is_time: bool,
    is_included: bool,
    value: Vec<TokenWithSpan>,
}

/// One end of Spark's range, and where the tokens go on.
fn spark_end(tokens: &[TokenWithSpan], start: usize) -> Result<(SparkEnd, usize)> {
    let is_time = is_word(tokens.get(start), "TIMESTAMP");
    if !is_time && !is_word(tokens.get(start), "VERSION") {
        return Err(Error::invalid(
            "CHANGES FROM … TO needs VERSION n or TIMESTAMP '…'; leave TO out to read up to the current version",
        ));
    }
    let value_start = start + 1;
    let value_end = value_start + value(&tokens[value_start..])?;
    let is_excluded = is_word(tokens.get(value_end), "EXCLUSIVE");
    let is_said = is_excluded || is_word(tokens.get(value_end), "INCLUSIVE");
    let end = SparkEnd {
        is_time,
        is_included: !is_excluded,
        value: tokens[value_start..value_end].to_vec(),
    };
    Ok((end, value_end + usize::from(is_said)))
}

/// How many tokens the value of Spark's clause has.
fn value(tokens: &[TokenWithSpan]) -> Result<usize> {
    value_length(tokens, || "CHANGES FROM … VERSION or TIMESTAMP".into())
}

/// `CHANGES(INFORMATION => …) AT(…) [END(…)]`, or with BEFORE.
fn snowflake(tokens: &[TokenWithSpan]) -> Result<Clause> {
    let (_, _, information, mut length) = snowflake_part(tokens, 0)?;
    let information: String = information
        .iter()
        .map(|token| match &token.token {
            Token::Word(word) => word.value.clone(),
            Token::SingleQuotedString(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let function = Spelling::of_information(&information)?;
    if !is_word(tokens.get(length), "AT") && !is_word(tokens.get(length), "BEFORE") {
        return Err(Error::invalid(format!(
            "{function} needs AT(VERSION => n) or AT(TIMESTAMP => '…'), the state from which changes are told"
        )));
    }
    let mut bounds = Vec::new();
    while bounds.is_empty() || is_word(tokens.get(length), "END") {
        let (clause, unit, value, end) = snowflake_part(tokens, length)?;
        bounds.push((point_argument(&clause, &unit)?, value));
        length = end;
    }
    Ok(Clause {
        function,
        bounds,
        length,
    })
}

/// `NAME(option => value)`, and where the tokens go on.
fn snowflake_part(
    tokens: &[TokenWithSpan],
    start: usize,
) -> Result<(String, String, Vec<TokenWithSpan>, usize)> {
    let tokens = &tokens[start..];
    let misread = || {
        Error::invalid(
            "a CHANGES clause is not complete; write t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 41)",
        )
    };
    let text = |index: usize| match tokens.get(index).map(|token| &token.token) {
        Some(Token::Word(word)) => Ok(word.value.clone()),
        _ => Err(misread()),
    };
    let is = |index: usize, wanted: &Token| {
        tokens
            .get(index)
            .is_some_and(|token| token.token == *wanted)
    };
    if !is(1, &Token::LParen) || !is(3, &Token::RArrow) {
        return Err(misread());
    }
    let length = 1 + closing(&tokens[1..]).ok_or_else(misread)?;
    if length < 6 {
        return Err(misread());
    }
    let value = tokens[4..length - 1].to_vec();
    if has_outer_comma(&value) {
        return Err(Error::invalid(format!(
            "{}(…) of a CHANGES clause takes one option, as in AT(VERSION => 41)",
            text(0)?.to_uppercase()
        )));
    }
    Ok((text(0)?, text(2)?, value, start + length))
}

/// Whether a comma stands outside of all parentheses and brackets.
fn has_outer_comma(tokens: &[TokenWithSpan]) -> bool {
    let mut depth = 0_i32;
    tokens.iter().any(|token| {
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth -= 1,
            Token::Comma => return depth == 0,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{text, tokens};

    use crate::sql::rewrite::rewrite_versions;

    fn check(sql: &str, expected: &str) {
        assert_eq!(text(&rewrite_versions(tokens(sql)).unwrap()), expected);
    }

    fn check_error(sql: &str, part: &str) {
        let error = rewrite_versions(tokens(sql)).unwrap_err().to_string();
        assert!(error.contains(part), "{sql}: {error} lacks {part:?}");
    }

    #[test]
    fn sparks_clause_is_a_call() {
        check(
            "SELECT * FROM t CHANGES FROM VERSION 2 TO VERSION 5",
            "SELECT * FROM table_changes ( t , starting_version => 2 , until_version => 5 ) AS t",
        );
        check(
            "FROM a.\"T t\" CHANGES FROM VERSION 2 EXCLUSIVE x JOIN c CHANGES FROM VERSION $1 WHERE x",
            "FROM table_changes ( a . \"T t\" , since_version => 2 ) x JOIN table_changes ( c , starting_version => $1 ) AS c WHERE x",
        );
        check(
            "FROM t changes from version (1 + 1) inclusive to version 5 exclusive AS x",
            "FROM table_changes ( t , starting_version => ( 1 + 1 ) , before_version => 5 ) AS x",
        );
        check(
            "FROM u, t CHANGES FROM TIMESTAMP '2026-01-01' TO TIMESTAMP now() EXCLUSIVE",
            "FROM u , table_changes ( t , starting_timestamp => '2026-01-01' , before_timestamp => now ( ) ) AS t",
        );
        for plain in [
            "SELECT id changes FROM version",
            "SELECT a , id changes FROM version WHERE x",
            "SELECT changes FROM t",
            "SELECT * FROM t AS changes",
            "SELECT ( id ) changes FROM version x",
            "SELECT id changes FROM 'file'",
            "SELECT * FROM t WHERE changes BETWEEN version AND 3",
        ] {
            check(plain, plain);
        }
        check_error("FROM t CHANGES FROM VERSION", "needs a value");
        check_error("FROM t CHANGES FROM VERSION -", "needs a value");
        check_error(
            "FROM t CHANGES FROM VERSION 1 TO VERSION -",
            "needs a value",
        );
        check_error("FROM t CHANGES FROM 3", "write the range as");
        check_error(
            "FROM t CHANGES BETWEEN VERSION 1 AND 3",
            "write the range as",
        );
        for behind in ["t AS x", "t x", "(SELECT 1)"] {
            check_error(
                &format!("SELECT * FROM {behind} CHANGES FROM VERSION 1"),
                "right behind the name",
            );
        }
        check_error("FROM t CHANGES FROM VERSION 1 TO 5", "needs VERSION n");
        check_error("FROM t CHANGES FROM VERSION 1 WITH (a = b)", "options");
    }

    #[test]
    fn snowflakes_clause_is_a_call() {
        check(
            "SELECT * FROM t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 2) END(VERSION => 5) WHERE x",
            "SELECT * FROM changes_default ( t , since_version => 2 , until_version => 5 ) AS t WHERE x",
        );
        check(
            "FROM s.t changes (information => append_only) before (timestamp => now() - x) AS y",
            "FROM changes_append_only ( s . t , starting_timestamp => now ( ) - x ) AS y",
        );
        check(
            "SELECT changes(information) FROM t",
            "SELECT changes ( information ) FROM t",
        );
        check_error(
            "FROM t CHANGES(INFORMATION => ALL) AT(VERSION => 2)",
            "expected DEFAULT",
        );
        check_error("FROM t CHANGES(INFORMATION => DEFAULT)", "needs AT");
        check_error(
            "FROM t CHANGES(INFORMATION => DEFAULT) AT VERSION 3",
            "not complete",
        );
        check_error(
            "FROM t CHANGES(INFORMATION => DEFAULT) AT(OFFSET => -60)",
            "OFFSET",
        );
        check_error(
            "FROM t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 1, until_version => 2)",
            "AT(…) of a CHANGES clause takes one option",
        );
        check_error(
            "FROM (SELECT 1) CHANGES(INFORMATION => DEFAULT) AT(VERSION => 2)",
            "right behind the name",
        );
        check_error(
            "FROM t AS x CHANGES(INFORMATION => DEFAULT) AT(VERSION => 2)",
            "right behind the name",
        );
    }

    #[test]
    fn what_changed_cannot_be_written() {
        for write in [
            "DELETE FROM t CHANGES FROM VERSION 1",
            "UPDATE t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 1) SET a = 1",
            "MERGE INTO t CHANGES FROM VERSION 1 USING s ON x",
        ] {
            check_error(write, "is history and cannot be written");
        }
    }
}
