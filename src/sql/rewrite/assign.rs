//! What UPDATE, and UPDATE in a MERGE, assign to: columns, and fields of structs.
//!
//! `SET address.city = 'x'` becomes `SET address = named_struct('street', get_field(t.address, 'street'), 'city', 'x')`. A struct that
//! is NULL becomes one whose other fields are NULL.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::columns::TargetColumns;
use super::names::{name_of, verb_start};
use super::{
    at, comma_separated, depth_change, is_name, is_word, name_end, quoted, replaced, separated,
    word,
};
use crate::error::{Error, Result};

/// One assignment, `name[.name …] = value`.
#[derive(Debug)]
pub(super) struct Assignment {
    /// The names as SQL reads them.
    pub path: Vec<String>,
    /// Where the names stand.
    names: Vec<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
}

impl Assignment {
    /// Whether DataFusion would not understand it, or take a field for a column.
    pub(super) fn is_special(&self, tokens: &[TokenWithSpan]) -> bool {
        self.path.len() > 1 || is_default(tokens, &self.value)
    }
}

/// What a statement calls the table that it writes: its alias, or its name.
#[derive(Debug)]
pub(super) struct Called {
    tokens: Vec<TokenWithSpan>,
    names: Vec<String>,
}

impl Called {
    /// The tokens of a name.
    pub(super) fn new(tokens: &[TokenWithSpan]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            names: tokens.iter().filter_map(name_of).collect(),
        }
    }

    /// The path without the table's name in front. A name that may be the table's or a column's is the table's.
    pub(super) fn unqualified<'a>(
        &self,
        path: &'a [String],
        is_column: impl Fn(&str) -> bool,
    ) -> &'a [String] {
        let qualifiers = (0..self.names.len()).map(|skipped| &self.names[skipped..]);
        let mut rests = qualifiers.filter_map(|qualifier| path.strip_prefix(qualifier));
        let found = rests.find(|rest| rest.first().is_some_and(|name| is_column(name)));
        found.unwrap_or(path)
    }
}

/// A column, or a field in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub column: usize,
    /// The way down to the field; nothing for the whole column.
    pub fields: Vec<String>,
}

/// The new value of a place.
pub(super) type NewValue = (Place, Vec<TokenWithSpan>);

/// The assignments of a list; `None` for what is none, such as one to a tuple.
pub(super) fn assignments(
    tokens: &[TokenWithSpan],
    list: Range<usize>,
) -> impl Iterator<Item = Option<Assignment>> {
    let parts = comma_separated(tokens, list).into_iter();
    parts.map(move |part| assignment(tokens, &part))
}

fn assignment(tokens: &[TokenWithSpan], part: &Range<usize>) -> Option<Assignment> {
    let is = |index: usize, token: &Token| index < part.end && tokens[index].token == *token;
    let mut names = vec![part.start];
    let mut index = part.start + 1;
    while is(index, &Token::Period) {
        names.push(index + 1);
        index += 2;
    }
    if !is(index, &Token::Eq) {
        return None;
    }
    let path = names.iter().map(|name| name_of(&tokens[*name]));
    Some(Assignment {
        path: path.collect::<Option<_>>()?,
        names,
        value: index + 1..part.end,
    })
}

/// Whether the value is the word DEFAULT.
pub(super) fn is_default(tokens: &[TokenWithSpan], value: &Range<usize>) -> bool {
    value.len() == 1 && is_word(tokens.get(value.start), "DEFAULT")
}

/// A list of assignments with fields of structs and DEFAULT written out; `None` where there is nothing to write out.
///
/// # Errors
/// When it names something that the table has not, or assigns to something twice.
pub(super) fn written_out(
    tokens: &[TokenWithSpan],
    list: Range<usize>,
    columns: &TargetColumns,
    called: &Called,
) -> Result<Option<Vec<TokenWithSpan>>> {
    let Some(assigned) = assignments(tokens, list).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    if !assigned.iter().any(|one| one.is_special(tokens)) {
        return Ok(None);
    }
    let values = assigned.iter().map(|one| {
        let place = place(columns, called, &one.path)?;
        let value = if !is_default(tokens, &one.value) {
            tokens[one.value.clone()].to_vec()
        } else if place.fields.is_empty() {
            columns.default_of(place.column, tokens[one.value.start].span)?
        } else {
            vec![word("NULL", tokens[one.value.start].span)]
        };
        Ok((place, value))
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    // where all of it is columns and expressions DataFusion needs no help
    let mut written = assigned.iter().zip(&values);
    let is_needed = |(one, (place, _)): (&Assignment, &NewValue)| {
        !place.fields.is_empty() || is_default(tokens, &one.value)
    };
    if !written.any(is_needed) {
        return Ok(None);
    }
    let span = tokens[assigned[0].names[0]].span;
    set_list(columns, called, &values, span).map(Some)
}

fn place(columns: &TargetColumns, called: &Called, path: &[String]) -> Result<Place> {
    let rest = called.unqualified(path, |name| columns.index_of(name).is_some());
    let found = rest.first().and_then(|name| columns.index_of(name));
    match found {
        Some(column) => Ok(Place {
            column,
            fields: rest[1..].to_vec(),
        }),
        None => Err(columns.unknown("SET", &path.join("."))),
    }
}

/// The list of assignments, one for each column.
///
/// # Errors
/// When there is no such field, or values overlap.
pub(super) fn set_list(
    columns: &TargetColumns,
    called: &Called,
    values: &[NewValue],
    span: Span,
) -> Result<Vec<TokenWithSpan>> {
    let mut assigned: Vec<usize> = Vec::new();
    for (index, (place, _)) in values.iter().enumerate() {
        let before = values[..index].iter().map(|(before, _)| before);
        refuse_overlap(columns, place, before)?;
        if !assigned.contains(&place.column) {
            assigned.push(place.column);
        }
    }
    let one = |column: usize| {
        let field = columns.schema.field(column);
        let name = quoted(field.name(), span);
        let mut read = called.tokens.clone();
        read.extend([at(Token::Period, span), name.clone()]);
        let parts = values.iter().filter(|(place, _)| place.column == column);
        let parts: Vec<Part<'_>> = parts
            .map(|(place, value)| Part {
                fields: &place.fields,
                value,
            })
            .collect();
        let value = new_value(field.name(), field.data_type(), read, &parts, span)?;
        Ok([vec![name, at(Token::Eq, span)], value].concat())
    };
    let list = assigned.into_iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(separated(list.into_iter(), span))
}

fn refuse_overlap<'a>(
    columns: &TargetColumns,
    place: &Place,
    mut before: impl Iterator<Item = &'a Place>,
) -> Result<()> {
    let overlaps = |other: &&Place| {
        other.column == place.column
            && (other.fields.starts_with(&place.fields) || place.fields.starts_with(&other.fields))
    };
    let Some(other) = before.find(overlaps) else {
        return Ok(());
    };
    let path = |place: &Place| {
        let column = columns.schema.field(place.column).name();
        let names = std::iter::once(column).chain(&place.fields);
        names.map(String::as_str).collect::<Vec<_>>().join(".")
    };
    let (mut outer, mut inner) = (path(other), path(place));
    if outer == inner {
        return Err(Error::invalid(format!(
            "{outer:?} is assigned twice in one SET; leave one of the assignments out"
        )));
    }
    if inner.len() < outer.len() {
        std::mem::swap(&mut outer, &mut inner);
    }
    Err(Error::invalid(format!(
        "{outer:?} is assigned as a whole, and {inner:?} in it as well; leave one of the assignments out"
    )))
}

/// The new value of what lies below a column or a field.
struct Part<'a> {
    fields: &'a [String],
    value: &'a [TokenWithSpan],
}

/// The value of a column or a field, `read` being what it is now.
fn new_value(
    path: &str,
    data_type: &DataType,
    read: Vec<TokenWithSpan>,
    parts: &[Part<'_>],
    span: Span,
) -> Result<Vec<TokenWithSpan>> {
    if let [Part { fields: [], value }] = parts {
        return Ok(value.to_vec());
    }
    let DataType::Struct(fields) = data_type else {
        return Err(Error::invalid(format!(
            "{path:?} is {data_type}, and only a struct has fields that can be assigned to; assign the whole of it"
        )));
    };
    let mut named = parts.iter().filter_map(|part| part.fields.first());
    if let Some(unknown) = named.find(|name| !fields.iter().any(|field| field.name() == *name)) {
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        return Err(Error::invalid(format!(
            "{path:?} has no field {unknown:?}; its fields are {}",
            names.join(", ")
        )));
    }
    let mut arguments = Vec::with_capacity(fields.len() * 2);
    for field in fields {
        let name = vec![at(Token::SingleQuotedString(field.name().clone()), span)];
        let read = call("get_field", vec![read.clone(), name.clone()], span);
        let below = parts.iter().filter_map(|part| match part.fields {
            [first, fields @ ..] if first == field.name() => Some(Part {
                fields,
                value: part.value,
            }),
            _ => None,
        });
        let below: Vec<Part<'_>> = below.collect();
        let value = if below.is_empty() {
            read
        } else {
            let path = format!("{path}.{}", field.name());
            new_value(&path, field.data_type(), read, &below, span)?
        };
        arguments.extend([name, value]);
    }
    Ok(call("named_struct", arguments, span))
}

/// The call of a function.
pub(super) fn call(
    function: &str,
    arguments: Vec<Vec<TokenWithSpan>>,
    span: Span,
) -> Vec<TokenWithSpan> {
    let mut tokens = vec![word(function, span), at(Token::LParen, span)];
    tokens.extend(separated(arguments.into_iter(), span));
    tokens.push(at(Token::RParen, span));
    tokens
}

/// Where the parts of an UPDATE stand.
struct Update {
    called: Called,
    /// What is assigned.
    set: Range<usize>,
}

fn find_update(tokens: &[TokenWithSpan]) -> Option<Update> {
    const ENDS: [&str; 5] = ["WHERE", "FROM", "RETURNING", "ORDER", "LIMIT"];
    let start = verb_start(tokens);
    if !is_word(tokens.get(start), "UPDATE") {
        return None;
    }
    let name = start + 1..name_end(tokens, start + 1);
    let set = (name.end..tokens.len()).find(|index| is_word(tokens.get(*index), "SET"))?;
    let alias = set - 1;
    let called = match alias >= name.end && is_name(&tokens[alias]) {
        true => alias..set,
        false => name,
    };
    let mut depth = 0;
    let mut rest = set + 1..tokens.len();
    let end = rest.find(|index| {
        let token = &tokens[*index];
        depth += depth_change(token);
        let ends =
            token.token == Token::SemiColon || ENDS.iter().any(|end| is_word(Some(token), end));
        depth == 0 && ends && tokens[index - 1].token != Token::Period
    });
    Some(Update {
        called: Called::new(&tokens[called]),
        set: set + 1..end.unwrap_or(tokens.len()),
    })
}

fn assigned_by_update(tokens: &[TokenWithSpan]) -> Vec<Assignment> {
    match find_update(tokens) {
        Some(update) => assignments(tokens, update.set).flatten().collect(),
        None => vec![],
    }
}

/// `UPDATE t SET a = 1, a = 2` says two things; DataFusion would keep one of them.
pub(super) fn refuse_repeated_assignments(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut seen: Vec<Vec<String>> = Vec::new();
    for Assignment { path, .. } in assigned_by_update(tokens) {
        if seen.contains(&path) {
            return Err(Error::invalid(format!(
                "column {:?} is assigned twice in one UPDATE",
                path.join(".")
            )));
        }
        seen.push(path);
    }
    Ok(())
}

/// `UPDATE t SET Age = 1`: DataFusion takes the name as it is written.
pub(super) fn lower_case_assignments(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    for Assignment { names, .. } in assigned_by_update(&tokens) {
        for name in names {
            if let Token::Word(word) = &mut tokens[name].token
                && word.quote_style.is_none()
            {
                word.value = word.value.to_lowercase();
            }
        }
    }
    tokens
}

/// Whether the statement is an UPDATE that names fields or DEFAULT.
pub(super) fn is_special_update(tokens: &[TokenWithSpan]) -> bool {
    let assigned = assigned_by_update(tokens);
    assigned.iter().any(|one| one.is_special(tokens))
}

/// Writes the fields and defaults of an UPDATE out; any other statement is as it was.
///
/// # Errors
/// As [`written_out`].
pub(super) fn write_update(
    tokens: Vec<TokenWithSpan>,
    columns: &TargetColumns,
) -> Result<Vec<TokenWithSpan>> {
    let Some(Update { called, set }) = find_update(&tokens) else {
        return Ok(tokens);
    };
    match written_out(&tokens, set.clone(), columns, &called)? {
        Some(list) => Ok(replaced(&tokens, vec![(set, list)])),
        None => Ok(tokens),
    }
}

#[cfg(test)]
mod tests;
