//! Rewrites the tokens of a statement where our SQL is larger than DataFusion's grammar.
//!
//! - `t VERSION AS OF 3`, `t TIMESTAMP AS OF '…'` become `table_version(t, version => 3) AS t`.
//! - `t CHANGES FROM VERSION 3`, `t CHANGES(INFORMATION => …) AT(…)` become calls, too: see [`clauses`].
//! - `a IS NOT DISTINCT FROM b` becomes `a <=> b`, which binds as `=` does, and `a IS DISTINCT FROM b` an operator of its own.
//! - The columns that an UPDATE assigns to are read in lower case unless they are quoted, as everywhere else.
//! - Numbers with more digits than a float holds become decimals.
//! - Stars of a MERGE, assignments to fields of structs, and DEFAULT become what DataFusion knows, once the columns of the target
//!   are known: see [`merge`], [`assign`] and [`columns`].

mod assign;
mod clauses;
mod columns;
mod merge;
mod names;

use std::ops::Range;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use self::assign::{lower_case_assignments, refuse_repeated_assignments};
use self::clauses::rewrite_clauses;
pub(crate) use self::columns::{TargetColumns, table_to_look_up, write_columns};
pub(crate) use self::merge::{Merge, Written};
use self::names::refuse_hidden;
pub(crate) use self::names::{verb_start, written_table};
use super::operators::IS_DISTINCT_FROM;
use super::relation_planner::TABLE_VERSION;
use crate::error::{Error, Result};

/// Drops white space and comments, and rewrites versions, clauses for changes and null-safe equality.
///
/// # Errors
/// When one of these is not complete.
pub(crate) fn rewrite_versions(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let filled = tokens
        .into_iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .collect::<Vec<_>>();
    refuse_hidden(&filled)?;
    let tokens = rewrite_clauses(exact_decimals(null_safe_equality(filled)))?;
    refuse_repeated_assignments(&tokens)?;
    let tokens = lower_case_assignments(tokens);
    let mut output: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let unit = version_clause(&tokens[index..]).filter(|_| output.last().is_some_and(is_name));
        let Some(unit) = unit else {
            output.push(tokens[index].clone());
            index += 1;
            continue;
        };
        let start = name_start(&output);
        refuse_history(
            &output[..start],
            "a version of a table",
            "VERSION AS OF or TIMESTAMP AS OF",
        )?;
        let name = output.split_off(start);
        let value_start = index + 3;
        let value_end = value_start
            + value_length(&tokens[value_start..], || {
                format!("{} AS OF", unit.to_uppercase())
            })?;
        let span = tokens[index].span;
        output.extend([word(TABLE_VERSION, span), at(Token::LParen, span)]);
        output.extend(name.iter().cloned());
        output.extend([
            at(Token::Comma, span),
            word(unit, span),
            at(Token::RArrow, span),
        ]);
        output.extend(tokens[value_start..value_end].iter().cloned());
        output.push(at(Token::RParen, span));
        index = value_end;
        if !has_alias(&tokens[index..])
            && let Some(last) = name.last()
        {
            output.extend([word("AS", span), last.clone()]);
        }
    }
    Ok(output)
}

/// Refuses what has been of the table that a statement writes to; `before` is all that stands before the table's name.
fn refuse_history(before: &[TokenWithSpan], what: &str, clause: &str) -> Result<()> {
    let deletes = before.len() >= 2
        && is_word(before.get(before.len() - 2), "DELETE")
        && is_word(before.last(), "FROM");
    if deletes
        || ["INTO", "UPDATE", "OVERWRITE"]
            .iter()
            .any(|word| is_word(before.last(), word))
    {
        return Err(Error::invalid(format!(
            "{what} is history and cannot be written; name the table without {clause}"
        )));
    }
    Ok(())
}

/// `IS NOT DISTINCT FROM` as `<=>`, and `IS DISTINCT FROM` as an operator that [`super::operators`] plans: the parser lets both
/// swallow a following AND.
fn null_safe_equality(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let spelled = [
        (&["IS", "NOT", "DISTINCT", "FROM"][..], Token::Spaceship),
        (
            &["IS", "DISTINCT", "FROM"],
            Token::CustomBinaryOperator(IS_DISTINCT_FROM.into()),
        ),
    ];
    let mut output = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let mut spelled = spelled.iter();
        let found = spelled.find(|(words, _)| {
            let mut words = words.iter().enumerate();
            words.all(|(offset, word)| is_word(tokens.get(index + offset), word))
        });
        let (token, length) = match found {
            Some((words, operator)) => (at(operator.clone(), tokens[index].span), words.len()),
            None => (tokens[index].clone(), 1),
        };
        output.push(token);
        index += length;
    }
    output
}

/// Numbers with more digits than a 64-bit float holds become decimals: `1234567890123456.78` is that, and not `….8`.
fn exact_decimals(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    tokens
        .into_iter()
        .flat_map(|token| exact_decimal(&token).unwrap_or_else(|| vec![token]))
        .collect()
}

fn exact_decimal(token: &TokenWithSpan) -> Option<Vec<TokenWithSpan>> {
    const FLOAT_DIGITS: usize = 15;
    const DECIMAL_DIGITS: usize = 38;
    let Token::Number(text, false) = &token.token else {
        return None;
    };
    let (whole, fraction) = text.split_once('.')?;
    let digits = whole.trim_start_matches('0').len() + fraction.len();
    let is_plain = whole
        .bytes()
        .chain(fraction.bytes())
        .all(|byte| byte.is_ascii_digit());
    if !is_plain || !(FLOAT_DIGITS + 1..=DECIMAL_DIGITS).contains(&digits) {
        return None;
    }
    let number = |value: usize| at(Token::Number(value.to_string(), false), token.span);
    let [open, close] = [Token::LParen, Token::RParen].map(|paren| at(paren, token.span));
    let text = at(Token::SingleQuotedString(text.clone()), token.span);
    let cast = vec![
        word("CAST", token.span),
        open.clone(),
        text,
        word("AS", token.span),
        word("DECIMAL", token.span),
    ];
    let precision = vec![
        open,
        number(digits),
        at(Token::Comma, token.span),
        number(fraction.len()),
        close.clone(),
        close,
    ];
    Some([cast, precision].concat())
}

/// `VERSION AS OF` or `TIMESTAMP AS OF`.
fn version_clause(tokens: &[TokenWithSpan]) -> Option<&'static str> {
    let unit = ["version", "timestamp"]
        .into_iter()
        .find(|unit| is_word(tokens.first(), unit))?;
    (is_word(tokens.get(1), "AS") && is_word(tokens.get(2), "OF")).then_some(unit)
}

/// The value is one literal, one call, one parenthesis, or a typed literal such as TIMESTAMP '…'.
fn value_length(tokens: &[TokenWithSpan], clause: impl Fn() -> String) -> Result<usize> {
    let missing = || {
        Error::invalid(format!(
            "{} needs a value; put an expression in parentheses",
            clause()
        ))
    };
    let first = tokens.first().ok_or_else(missing)?;
    match &first.token {
        Token::LParen => closing(tokens).ok_or_else(missing),
        Token::Word(_) => match tokens.get(1).map(|token| &token.token) {
            Some(Token::SingleQuotedString(_)) => Ok(2),
            Some(Token::LParen) => closing(&tokens[1..])
                .map(|length| length + 1)
                .ok_or_else(missing),
            _ => Err(missing()),
        },
        Token::Minus
            if tokens
                .get(1)
                .is_some_and(|next| matches!(next.token, Token::Number(..))) =>
        {
            Ok(2)
        }
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => Ok(1),
        _ => Err(missing()),
    }
}

/// How many tokens it takes to close the parenthesis that opens first.
fn closing(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(index + 1);
        }
    }
    None
}

/// Where the name that ends here begins: words joined by periods.
fn name_start(output: &[TokenWithSpan]) -> usize {
    let mut start = output.len().saturating_sub(1);
    while start >= 2 && output[start - 1].token == Token::Period && is_name(&output[start - 2]) {
        start -= 2;
    }
    start
}

fn is_name(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(word) => word.quote_style.is_some() || !is_clause(word),
        _ => false,
    }
}

fn is_clause(word: &Word) -> bool {
    const CLAUSES: [Keyword; 24] = [
        Keyword::WHERE,
        Keyword::GROUP,
        Keyword::HAVING,
        Keyword::ORDER,
        Keyword::LIMIT,
        Keyword::OFFSET,
        Keyword::FETCH,
        Keyword::UNION,
        Keyword::INTERSECT,
        Keyword::EXCEPT,
        Keyword::JOIN,
        Keyword::INNER,
        Keyword::LEFT,
        Keyword::RIGHT,
        Keyword::FULL,
        Keyword::CROSS,
        Keyword::NATURAL,
        Keyword::ON,
        Keyword::USING,
        Keyword::WHEN,
        Keyword::WINDOW,
        Keyword::SELECT,
        Keyword::FROM,
        Keyword::QUALIFY,
    ];
    CLAUSES.contains(&word.keyword)
}

fn has_alias(tokens: &[TokenWithSpan]) -> bool {
    is_word(tokens.first(), "AS") || tokens.first().is_some_and(is_name)
}

fn name_end(tokens: &[TokenWithSpan], start: usize) -> usize {
    let mut end = start + 1;
    while tokens
        .get(end)
        .is_some_and(|token| token.token == Token::Period)
    {
        end += 2;
    }
    end.min(tokens.len())
}

fn reference(tokens: &[TokenWithSpan]) -> Result<TableReference> {
    let parts: Vec<String> = tokens
        .iter()
        .filter_map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_some() => Some(word.value.clone()),
            Token::Word(word) => Some(word.value.to_lowercase()),
            _ => None,
        })
        .collect();
    match parts.as_slice() {
        [table] => Ok(TableReference::bare(table.as_str())),
        [schema, table] => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Ok(TableReference::full(
            catalog.as_str(),
            schema.as_str(),
            table.as_str(),
        )),
        _ => Err(Error::invalid("MERGE INTO needs the name of a table")),
    }
}

/// Where the parts between commas stand that are in no parenthesis, bracket or brace.
fn comma_separated(tokens: &[TokenWithSpan], list: Range<usize>) -> Vec<Range<usize>> {
    let (mut depth, mut start) = (0, list.start);
    let mut parts = Vec::new();
    for index in list.clone() {
        depth += depth_change(&tokens[index]);
        if depth == 0 && tokens[index].token == Token::Comma {
            parts.push(start..index);
            start = index + 1;
        }
    }
    parts.push(start..list.end);
    parts
}

/// By how much a token makes those after it stand deeper.
fn depth_change(token: &TokenWithSpan) -> i32 {
    match token.token {
        Token::LParen | Token::LBracket | Token::LBrace => 1,
        Token::RParen | Token::RBracket | Token::RBrace => -1,
        _ => 0,
    }
}

/// The tokens with some places, in order, filled otherwise.
fn replaced(
    tokens: &[TokenWithSpan],
    places: Vec<(Range<usize>, Vec<TokenWithSpan>)>,
) -> Vec<TokenWithSpan> {
    let mut output = Vec::with_capacity(tokens.len());
    let mut index = 0;
    for (place, new) in places {
        output.extend_from_slice(&tokens[index..place.start]);
        output.extend(new);
        index = place.end;
    }
    output.extend_from_slice(&tokens[index..]);
    output
}

fn separated(groups: impl Iterator<Item = Vec<TokenWithSpan>>, span: Span) -> Vec<TokenWithSpan> {
    let mut output = Vec::new();
    for group in groups {
        if !output.is_empty() {
            output.push(at(Token::Comma, span));
        }
        output.extend(group);
    }
    output
}

/// Whether the token is this word, not in quotes.
pub(super) fn is_word(token: Option<&TokenWithSpan>, text: &str) -> bool {
    matches!(token.map(|token| &token.token), Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

fn at(token: Token, span: Span) -> TokenWithSpan {
    TokenWithSpan { token, span }
}

fn word(text: &str, span: Span) -> TokenWithSpan {
    at(Token::make_keyword(text), span)
}

fn quoted(text: &str, span: Span) -> TokenWithSpan {
    at(Token::make_word(text, Some('"')), span)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    pub(super) fn tokens(sql: &str) -> Vec<TokenWithSpan> {
        Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .unwrap()
    }

    /// Without white space.
    pub(super) fn filled(sql: &str) -> Vec<TokenWithSpan> {
        let tokens = tokens(sql).into_iter();
        tokens
            .filter(|token| !matches!(token.token, Token::Whitespace(_)))
            .collect()
    }

    pub(super) fn text(tokens: &[TokenWithSpan]) -> String {
        tokens
            .iter()
            .map(|token| token.token.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn check_version(sql: &str, expected: &str) {
        assert_eq!(text(&rewrite_versions(tokens(sql)).unwrap()), expected);
    }

    #[test]
    fn versions_become_a_function() {
        check_version(
            "SELECT * FROM t VERSION AS OF 3",
            "SELECT * FROM table_version ( t , version => 3 ) AS t",
        );
        check_version(
            "FROM a.b VERSION AS OF 3 x JOIN c",
            "FROM table_version ( a . b , version => 3 ) x JOIN c",
        );
        check_version(
            "FROM \"T\" TIMESTAMP AS OF '2024-01-01' WHERE x",
            "FROM table_version ( \"T\" , timestamp => '2024-01-01' ) AS \"T\" WHERE x",
        );
        check_version(
            "FROM t TIMESTAMP AS OF (now() - x) AS y",
            "FROM table_version ( t , timestamp => ( now ( ) - x ) ) AS y",
        );
        check_version(
            "WHERE a IS DISTINCT FROM b AND c",
            "WHERE a IS DISTINCT FROM b AND c",
        );
        check_version(
            "UPDATE t SET Age = B, \"C\" = (SELECT X, Y) WHERE Z",
            "UPDATE t SET age = B , \"C\" = ( SELECT X , Y ) WHERE Z",
        );
        check_version(
            "SELECT version AS of_x FROM t",
            "SELECT version AS of_x FROM t",
        );
        check_version(
            "ON a.k IS NOT DISTINCT FROM b.k AND c",
            "ON a . k <=> b . k AND c",
        );
        assert!(rewrite_versions(tokens("FROM t VERSION AS OF WHERE")).is_err());
        assert!(rewrite_versions(tokens("FROM t VERSION AS OF -")).is_err());
        assert!(rewrite_versions(tokens("FROM t VERSION AS OF - x")).is_err());
        check_version(
            "FROM t VERSION AS OF -1",
            "FROM table_version ( t , version => - 1 ) AS t",
        );
        for write in [
            "DELETE FROM t VERSION AS OF 1",
            "INSERT INTO t VERSION AS OF 1 VALUES (1)",
            "UPDATE s.t VERSION AS OF 1 SET a = 1",
        ] {
            let error = rewrite_versions(tokens(write)).unwrap_err().to_string();
            assert!(
                error.contains("is history and cannot be written"),
                "{write}: {error}"
            );
        }
    }
}
