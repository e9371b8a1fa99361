//! The parts of a MERGE, and what DataFusion does not know of them.
//!
//! - `UPDATE SET *` and `INSERT *`, with or without `EXCEPT (a, b)`, become lists of columns.
//! - Assignments to fields of structs, see [`super::assign`], and DEFAULT, see [`super::columns`], are written out.

mod parts;

use std::ops::Range;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use self::parts::{Action, ActionKind, actions, relations, source_name};
use super::assign::{
    Called, NewValue, Place, assignments, call, is_default, set_list, written_out,
};
use super::columns::{TargetColumns, written_defaults};
use super::{at, quoted, reference, replaced, word};
use crate::error::{Error, Result};

/// Where the parts of a MERGE stand.
#[derive(Debug)]
pub(crate) struct Merge {
    pub target: TableReference,
    /// The target's alias, or its name.
    pub called_as: TableReference,
    called: Called,
    /// Where the source stands, with its alias.
    source: Range<usize>,
    source_name: Option<TokenWithSpan>,
    actions: Vec<Action>,
}

/// What a clause gives values to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Every column but some.
    All { except: Vec<String> },
    /// A column, or a field of it.
    Path(Vec<String>),
}

impl Merge {
    /// Finds the parts of a MERGE; `None` for every other statement, and for one that cannot be parsed.
    ///
    /// # Errors
    /// When a list after EXCEPT is no list of columns.
    pub(crate) fn find(tokens: &[TokenWithSpan]) -> Result<Option<Self>> {
        let Some((name, alias, source)) = relations(tokens) else {
            return Ok(None);
        };
        let target = &tokens[name];
        let called = alias.map_or(target, |alias| &tokens[alias]);
        Ok(Some(Self {
            target: reference(target)?,
            called_as: reference(called)?,
            called: Called::new(called),
            source_name: source_name(tokens, &source),
            actions: actions(tokens, source.end)?,
            source,
        }))
    }

    /// The source as a query of its own.
    pub(crate) fn source_query(&self, tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
        let span = tokens[0].span;
        let mut query = vec![
            word("SELECT", span),
            at(Token::Mul, span),
            word("FROM", span),
        ];
        query.extend_from_slice(&tokens[self.source.clone()]);
        query
    }

    /// Whether it cannot be planned before the target's columns are known.
    pub(crate) fn is_special(&self, tokens: &[TokenWithSpan]) -> bool {
        self.actions.iter().any(|action| match &action.kind {
            ActionKind::UpdateAll(_) | ActionKind::InsertAll(_) => true,
            ActionKind::Update(list) => {
                let mut assigned = assignments(tokens, list.clone()).flatten();
                assigned.any(|one| one.is_special(tokens))
            }
            ActionKind::Insert { values, .. } => {
                values.iter().any(|value| is_default(tokens, value))
            }
        })
    }

    /// What the clauses give values to, without the target's name.
    pub(crate) fn written(
        &self,
        tokens: &[TokenWithSpan],
        is_column: impl Fn(&str) -> bool,
    ) -> Vec<Written> {
        let mut written = Vec::new();
        for action in &self.actions {
            match &action.kind {
                ActionKind::UpdateAll(except) | ActionKind::InsertAll(except) => {
                    let except = except.clone();
                    written.push(Written::All { except });
                }
                ActionKind::Update(list) => {
                    for one in assignments(tokens, list.clone()).flatten() {
                        let path = self.called.unqualified(&one.path, &is_column).to_vec();
                        written.push(Written::Path(path));
                    }
                }
                ActionKind::Insert { names, .. } => {
                    let names = names.iter().flatten();
                    written.extend(names.map(|name| Written::Path(vec![name.clone()])));
                }
            }
        }
        written
    }

    /// Writes out all that DataFusion does not know. Stars are of the target's columns; where the source's are given, of those that
    /// it has.
    ///
    /// # Errors
    /// When a column or field is not there, something is assigned twice, or a star needs a source that has no name.
    pub(crate) fn write_out(
        &self,
        tokens: &[TokenWithSpan],
        columns: &TargetColumns,
        source: Option<&Schema>,
    ) -> Result<Vec<TokenWithSpan>> {
        let mut written = Vec::new();
        for Action { place, kind } in &self.actions {
            let span = tokens[place.start].span;
            match kind {
                ActionKind::UpdateAll(except) => {
                    let names = star_columns(columns, source, except)?;
                    let update = self.update_all(columns, source, &names, span)?;
                    written.push((place.clone(), update));
                }
                ActionKind::InsertAll(except) => {
                    let names = star_columns(columns, source, except)?;
                    written.push((place.clone(), self.insert_all(columns, &names, span)?));
                }
                ActionKind::Update(list) => {
                    let update = written_out(tokens, list.clone(), columns, &self.called)?;
                    written.extend(update.map(|update| (list.clone(), update)));
                }
                ActionKind::Insert { names, values } => {
                    let names = names.as_deref();
                    written.extend(written_defaults(tokens, names, values, columns)?);
                }
            }
        }
        Ok(replaced(tokens, written))
    }

    /// `UPDATE SET "a" = s."a", …`. Where the source's struct lacks fields that the target's has, these stay as they are.
    fn update_all(
        &self,
        columns: &TargetColumns,
        source: Option<&Schema>,
        names: &[usize],
        span: Span,
    ) -> Result<Vec<TokenWithSpan>> {
        let mut values: Vec<NewValue> = Vec::new();
        for &column in names {
            let field = columns.schema.field(column);
            let value = self.of_source(field.name(), span)?;
            let given = source.and_then(|source| source.field_with_name(field.name()).ok());
            let given = given.map_or(field.data_type(), |given| given.data_type());
            let place = Place {
                column,
                fields: vec![],
            };
            put_leaves(place, field.data_type(), given, value, span, &mut values);
        }
        let mut update = vec![word("UPDATE", span), word("SET", span)];
        update.extend(set_list(columns, &self.called, &values, span)?);
        Ok(update)
    }

    /// `INSERT ("a", …) VALUES (s."a", …)`.
    fn insert_all(
        &self,
        columns: &TargetColumns,
        names: &[usize],
        span: Span,
    ) -> Result<Vec<TokenWithSpan>> {
        let names = names
            .iter()
            .map(|column| columns.schema.field(*column).name());
        let values = names.clone().map(|name| self.of_source(name, span));
        let values = values.collect::<Result<Vec<_>>>()?;
        let names = names.map(|name| vec![quoted(name, span)]);
        Ok([
            call("INSERT", names.collect(), span),
            call("VALUES", values, span),
        ]
        .concat())
    }

    fn of_source(&self, column: &str, span: Span) -> Result<Vec<TokenWithSpan>> {
        let source = self.source_name.clone().ok_or_else(|| {
            Error::invalid("the source of a MERGE with UPDATE SET * or INSERT * needs a name; write USING (…) AS source")
        })?;
        Ok(vec![source, at(Token::Period, span), quoted(column, span)])
    }
}

/// The columns that a star stands for.
fn star_columns(
    columns: &TargetColumns,
    source: Option<&Schema>,
    except: &[String],
) -> Result<Vec<usize>> {
    let is_given = |name: &str| source.is_none_or(|source| source.index_of(name).is_ok());
    for name in except {
        let is_there = columns.index_of(name).is_some() || (source.is_some() && is_given(name));
        if !is_there {
            return Err(columns.unknown("EXCEPT", name));
        }
    }
    let fields = columns.schema.fields().iter().enumerate();
    let wanted =
        fields.filter(|(_, field)| is_given(field.name()) && !except.contains(field.name()));
    let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
    if wanted.is_empty() {
        return Err(Error::invalid(format!(
            "a star in the MERGE into {} stands for no column at all; leave its clause out, or name the columns",
            columns.table
        )));
    }
    Ok(wanted)
}

/// The value of a place, or, where the source's struct has not all of the target's fields, the values of those that it has.
fn put_leaves(
    place: Place,
    target: &DataType,
    source: &DataType,
    value: Vec<TokenWithSpan>,
    span: Span,
    values: &mut Vec<NewValue>,
) {
    let (DataType::Struct(fields), DataType::Struct(given)) = (target, source) else {
        values.push((place, value));
        return;
    };
    if !lacks_fields(target, source) {
        values.push((place, value));
        return;
    }
    for field in given {
        let Some((_, of_target)) = fields.find(field.name()) else {
            continue;
        };
        let name = vec![at(Token::SingleQuotedString(field.name().clone()), span)];
        let value = call("get_field", vec![value.clone(), name], span);
        let mut place = place.clone();
        place.fields.push(field.name().clone());
        let (target, source) = (of_target.data_type(), field.data_type());
        put_leaves(place, target, source, value, span, values);
    }
}

/// Whether a struct has fields, at any depth, that another has not.
fn lacks_fields(target: &DataType, source: &DataType) -> bool {
    let (DataType::Struct(fields), DataType::Struct(given)) = (target, source) else {
        return false;
    };
    fields.iter().any(|field| match given.find(field.name()) {
        Some((_, given)) => lacks_fields(field.data_type(), given.data_type()),
        None => true,
    })
}

#[cfg(test)]
mod tests;
