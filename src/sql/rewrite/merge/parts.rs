//! Where the parts of a MERGE stand in its tokens.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::columns::{column_list, parenthesis};
use super::super::names::verb_start;
use super::super::{closing, comma_separated, depth_change, is_name, is_word, name_end};
use crate::error::{Error, Result};

/// What a clause does.
#[derive(Debug)]
pub(super) struct Action {
    pub place: Range<usize>,
    pub kind: ActionKind,
}

/// What it does, as far as that needs help.
#[derive(Debug)]
pub(super) enum ActionKind {
    /// `UPDATE SET *` but for some columns.
    UpdateAll(Vec<String>),
    /// `INSERT *` but for some columns.
    InsertAll(Vec<String>),
    /// The assignments.
    Update(Range<usize>),
    Insert {
        names: Option<Vec<String>>,
        values: Vec<Range<usize>>,
    },
}

/// Where the target's name, its alias and the source stand.
pub(super) type Relations = (Range<usize>, Option<Range<usize>>, Range<usize>);

/// Finds the relations of a MERGE.
pub(super) fn relations(tokens: &[TokenWithSpan]) -> Option<Relations> {
    let start = verb_start(tokens);
    if !is_word(tokens.get(start), "MERGE") {
        return None;
    }
    let start = start + 1 + usize::from(is_word(tokens.get(start + 1), "INTO"));
    let name = start..name_end(tokens, start);
    if name.is_empty() {
        return None;
    }
    let alias = name.end + usize::from(is_word(tokens.get(name.end), "AS"));
    let alias = tokens
        .get(alias)
        .filter(|token| is_name(token))
        .map(|_| alias..alias + 1);
    let using = alias.as_ref().map_or(name.end, |alias| alias.end);
    if !is_word(tokens.get(using), "USING") {
        return None;
    }
    let mut depth = 0;
    let mut rest = using + 1..tokens.len();
    let on = rest.find(|index| {
        depth += depth_change(&tokens[*index]);
        depth == 0 && is_word(tokens.get(*index), "ON")
    })?;
    Some((name, alias, using + 1..on))
}

/// What the source is called: its alias, or the last part of its name.
pub(super) fn source_name(
    tokens: &[TokenWithSpan],
    source: &Range<usize>,
) -> Option<TokenWithSpan> {
    let tokens = &tokens[source.clone()];
    let opens = |index: usize| {
        tokens
            .get(index)
            .is_some_and(|token| token.token == Token::LParen)
    };
    let (mut name, mut index) = (None, 0);
    if !opens(0) {
        index = name_end(tokens, 0);
        name = tokens[..index].last();
    }
    if opens(index) {
        index += closing(&tokens[index..])?;
    }
    index += usize::from(is_word(tokens.get(index), "AS"));
    let alias = tokens.get(index).filter(|token| is_name(token));
    alias.or(name).cloned()
}

/// The actions of the clauses, which begin somewhere after `on`.
pub(super) fn actions(tokens: &[TokenWithSpan], on: usize) -> Result<Vec<Action>> {
    let mut found = Vec::new();
    let mut clauses = ClauseWords::new(tokens, on);
    let mut next = clauses.next();
    while let Some(index) = next {
        next = clauses.next();
        if is_word(tokens.get(index), "THEN") {
            let place = index + 1..next.unwrap_or(tokens.len());
            found.extend(action(tokens, place)?);
        }
    }
    Ok(found)
}

/// Where WHEN and THEN of clauses stand, not those of a CASE, and the semicolon.
struct ClauseWords<'a> {
    tokens: &'a [TokenWithSpan],
    index: usize,
    depth: i32,
    cases: usize,
}

impl<'a> ClauseWords<'a> {
    fn new(tokens: &'a [TokenWithSpan], start: usize) -> Self {
        Self {
            tokens,
            index: start,
            depth: 0,
            cases: 0,
        }
    }
}

impl Iterator for ClauseWords<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(token) = self.tokens.get(self.index) {
            let index = self.index;
            self.index += 1;
            self.depth += depth_change(token);
            if index > 0 && self.tokens[index - 1].token == Token::Period {
                continue;
            }
            if is_word(Some(token), "CASE") {
                self.cases += 1;
            } else if is_word(Some(token), "END") {
                self.cases = self.cases.saturating_sub(1);
            }
            let ends = token.token == Token::SemiColon
                || is_word(Some(token), "WHEN")
                || is_word(Some(token), "THEN");
            if ends && self.depth == 0 && self.cases == 0 {
                return Some(index);
            }
        }
        None
    }
}

/// What stands behind THEN; `None` for what needs no help.
fn action(tokens: &[TokenWithSpan], place: Range<usize>) -> Result<Option<Action>> {
    let start = place.start;
    let is_star = |index: usize| index < place.end && tokens[index].token == Token::Mul;
    let is_update = is_word(tokens.get(start), "UPDATE") && is_word(tokens.get(start + 1), "SET");
    let is_insert = is_word(tokens.get(start), "INSERT");
    let kind = if is_update && is_star(start + 2) {
        ActionKind::UpdateAll(except(tokens, start + 3..place.end, "UPDATE SET *")?)
    } else if is_insert && is_star(start + 1) {
        ActionKind::InsertAll(except(tokens, start + 2..place.end, "INSERT *")?)
    } else if is_update {
        ActionKind::Update(start + 2..place.end)
    } else if let Some(insert) = insert(tokens, start + 1).filter(|_| is_insert) {
        insert
    } else {
        return Ok(None);
    };
    Ok(Some(Action { place, kind }))
}

/// The columns of `EXCEPT (a, b)`, which may follow a star.
fn except(tokens: &[TokenWithSpan], rest: Range<usize>, star: &str) -> Result<Vec<String>> {
    if rest.is_empty() {
        return Ok(vec![]);
    }
    let inside = parenthesis(tokens, rest.start + 1)
        .filter(|inside| is_word(tokens.get(rest.start), "EXCEPT") && inside.end + 1 == rest.end);
    let names = inside.and_then(|inside| column_list(tokens, inside));
    names.ok_or_else(|| {
        Error::invalid(format!(
            "{star} is of all columns; only EXCEPT (column, …) can follow, with those to leave out"
        ))
    })
}

/// `[(a, b)] VALUES (…)`.
fn insert(tokens: &[TokenWithSpan], start: usize) -> Option<ActionKind> {
    let (mut names, mut index) = (None, start);
    if let Some(inside) = parenthesis(tokens, index) {
        names = Some(column_list(tokens, inside.clone())?);
        index = inside.end + 1;
    }
    if !is_word(tokens.get(index), "VALUES") {
        return None;
    }
    let values = comma_separated(tokens, parenthesis(tokens, index + 1)?);
    Some(ActionKind::Insert { names, values })
}
