//! What the names in a statement stand for: relations that its WITH clauses define, and the table that it writes to.
//!
//! What is asked of a table is planned before DataFusion looks at the relations of a WITH clause, so a relation of the same name
//! would be passed over in silence.

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{closing, is_word, name_end, reference, value_length, version_clause};
use crate::error::{Error, Result};
use crate::sql::relation_planner::base_of;

/// A relation that a WITH clause defines.
struct Relation {
    name: String,
    /// Where the query behind AS ends; the relation is known from here on.
    end: usize,
}

/// Refuses relations of WITH that would be passed over.
///
/// # Errors
/// For one called as `"t$changes"` is, and for one of which versions or changes are wanted.
pub(super) fn refuse_hidden(tokens: &[TokenWithSpan]) -> Result<()> {
    let relations = relations(tokens);
    if relations.is_empty() {
        return Ok(());
    }
    for Relation { name, .. } in &relations {
        if let Some(base) = base_of(name) {
            return Err(Error::invalid(format!(
                "WITH \"{name}\" AS (…): that name stands for what was recorded of {base}; give the relation another name"
            )));
        }
    }
    for index in 1..tokens.len() {
        if !is_clause(&tokens[index..]) || is_qualified(tokens, index - 1) {
            continue;
        }
        let Some(name) = name_of(&tokens[index - 1]) else {
            continue;
        };
        let is_it = |relation: &Relation| relation.end <= index && relation.name == name;
        if relations.iter().any(is_it) && stands_as_relation(tokens, index - 1) {
            return Err(Error::invalid(format!(
                "{name} is a relation of WITH here, which has neither versions nor changes; if the table {name} is meant, give the relation \
                 another name"
            )));
        }
    }
    Ok(())
}

/// The relations of all WITH clauses: `name [(column, …)] AS [[NOT] MATERIALIZED] (query)`.
fn relations(tokens: &[TokenWithSpan]) -> Vec<Relation> {
    if !tokens.iter().any(|token| is_word(Some(token), "WITH")) {
        return vec![];
    }
    (1..tokens.len())
        .filter(|index| {
            let before = &tokens[index - 1];
            before.token == Token::Comma
                || is_word(Some(before), "WITH")
                || is_word(Some(before), "RECURSIVE")
        })
        .filter_map(|index| relation(tokens, index))
        .collect()
}

fn relation(tokens: &[TokenWithSpan], start: usize) -> Option<Relation> {
    const QUERIES: [&str; 5] = ["SELECT", "WITH", "VALUES", "TABLE", "FROM"];
    let name = name_of(&tokens[start])?;
    let opens = |index: usize| {
        tokens
            .get(index)
            .is_some_and(|token| token.token == Token::LParen)
    };
    let mut index = start + 1;
    if opens(index) {
        index += closing(&tokens[index..])?;
    }
    if !is_word(tokens.get(index), "AS") {
        return None;
    }
    index += 1;
    index += usize::from(is_word(tokens.get(index), "NOT"));
    index += usize::from(is_word(tokens.get(index), "MATERIALIZED"));
    let is_query = opens(index + 1)
        || QUERIES
            .iter()
            .any(|word| is_word(tokens.get(index + 1), word));
    if !opens(index) || !is_query {
        return None;
    }
    let end = index + closing(&tokens[index..])?;
    Some(Relation { name, end })
}

/// Whether a clause for versions or changes may stand here.
fn is_clause(tokens: &[TokenWithSpan]) -> bool {
    if version_clause(tokens).is_some() {
        return true;
    }
    if !is_word(tokens.first(), "CHANGES") {
        return false;
    }
    let is_range = is_word(tokens.get(1), "FROM")
        && (is_word(tokens.get(2), "VERSION") || is_word(tokens.get(2), "TIMESTAMP"))
        && value_length(&tokens[3..], String::new).is_ok();
    let is_information = tokens
        .get(1)
        .is_some_and(|token| token.token == Token::LParen)
        && is_word(tokens.get(2), "INFORMATION");
    is_range || is_information
}

fn is_qualified(tokens: &[TokenWithSpan], name: usize) -> bool {
    name > 0 && tokens[name - 1].token == Token::Period
}

/// Whether the name is where relations are.
fn stands_as_relation(tokens: &[TokenWithSpan], name: usize) -> bool {
    let Some(before) = name.checked_sub(1).and_then(|before| tokens.get(before)) else {
        return false;
    };
    matches!(before.token, Token::Comma | Token::LParen)
        || ["FROM", "JOIN", "USING"]
            .iter()
            .any(|word| is_word(Some(before), word))
}

/// A name as SQL reads it.
pub(super) fn name_of(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_some() => Some(word.value.clone()),
        Token::Word(word) => Some(word.value.to_lowercase()),
        _ => None,
    }
}

/// Where the verb of a statement stands: behind EXPLAIN, if that is asked for.
pub(crate) fn verb_start(tokens: &[TokenWithSpan]) -> usize {
    let mut start = 0;
    for word in ["EXPLAIN", "ANALYZE", "VERBOSE"] {
        start += usize::from(is_word(tokens.get(start), word));
    }
    if start > 0 && is_word(tokens.get(start), "FORMAT") {
        start += 2;
    }
    start
}

/// The table whose rows a statement writes; `None` for a statement that writes none.
pub(crate) fn written_table(tokens: &[TokenWithSpan]) -> Option<TableReference> {
    const VERBS: [&[&str]; 5] = [
        &["DELETE", "FROM"],
        &["UPDATE"],
        &["INSERT", "INTO"],
        &["INSERT", "OVERWRITE"],
        &["MERGE", "INTO"],
    ];
    let mut start = verb_start(tokens);
    let is_verb = |verb: &&&[&str]| {
        let mut words = verb.iter().enumerate();
        words.all(|(offset, word)| is_word(tokens.get(start + offset), word))
    };
    let length = VERBS.iter().find(is_verb)?.len();
    start += length;
    for word in ["INTO", "TABLE"] {
        start += usize::from(is_word(tokens.get(start), word));
    }
    if start >= tokens.len() {
        return None;
    }
    reference(&tokens[start..name_end(tokens, start)]).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::filled;
    use super::*;

    fn check_hidden(sql: &str, expected: Option<&str>) {
        let found = refuse_hidden(&filled(sql)).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.contains(part), "{error} lacks {part:?}"),
            (found, expected) => panic!("{sql}: got {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn relations_of_with_are_not_passed_over() {
        let (named, asked) = (
            Some("give the relation another name"),
            Some("a relation of WITH"),
        );
        check_hidden("WITH \"t$changes\" AS (SELECT 1) SELECT 1", named);
        check_hidden(
            "WITH a AS (SELECT 1), T$changes (x) AS (VALUES (1)) SELECT 1",
            named,
        );
        check_hidden(
            "WITH t AS (SELECT 1) SELECT * FROM T CHANGES FROM VERSION 3",
            asked,
        );
        check_hidden(
            "WITH t AS (SELECT 1) SELECT * FROM a, t VERSION AS OF 3",
            asked,
        );
        check_hidden(
            "WITH RECURSIVE t AS NOT MATERIALIZED (SELECT 1) SELECT * FROM t CHANGES(INFORMATION => DEFAULT) AT(VERSION => 1)",
            asked,
        );
        for fine in [
            "WITH t AS (SELECT * FROM t CHANGES FROM VERSION 3) SELECT * FROM t",
            "WITH t AS (SELECT 1) SELECT * FROM public.t CHANGES FROM VERSION 3",
            "WITH t AS (SELECT 1) SELECT id, t changes FROM version",
            "SELECT sum(a) OVER w FROM t CHANGES FROM VERSION 1 WINDOW w AS (), t AS (PARTITION BY x)",
            "SELECT 1 AS \"t$changes\"",
        ] {
            check_hidden(fine, None);
        }
    }

    #[test]
    fn statements_write_to_a_table() {
        let check = |sql: &str, expected: Option<&str>| {
            let found = written_table(&filled(sql));
            assert_eq!(found, expected.map(TableReference::parse_str), "{sql}");
        };
        check("DELETE FROM s.t WHERE x", Some("s.t"));
        check("UPDATE T SET a = 1", Some("t"));
        check("INSERT OVERWRITE TABLE t VALUES (1)", Some("t"));
        check("EXPLAIN MERGE INTO t USING s ON x", Some("t"));
        check("INSERT INTO", None);
        check("SELECT * FROM t", None);
    }
}
