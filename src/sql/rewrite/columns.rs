//! The columns of the table that a statement writes, and DEFAULT where it stands for a value.
//!
//! A value DEFAULT becomes the column's default expression, or NULL where it has none. In a generated or identity column that is
//! NULL, too, which the writer fills.

use std::collections::HashMap;
use std::ops::Range;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::Expr;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};
use datafusion::sql::unparser::expr_to_sql;

use super::assign::{is_default, is_special_update, write_update};
use super::names::{name_of, verb_start, written_table};
use super::{at, closing, comma_separated, is_word, name_end, replaced, separated, word};
use crate::error::{Error, Result};

/// The columns of the table that a statement writes.
#[derive(Debug, Clone)]
pub(crate) struct TargetColumns {
    /// What messages call the table.
    pub table: String,
    pub schema: SchemaRef,
    /// The defaults of columns that have one, as SQL, by their position; absent where it cannot be written as such.
    pub defaults: HashMap<usize, Option<String>>,
}

impl TargetColumns {
    /// The columns of a table; messages call it as the statement does.
    pub(crate) fn of(name: &TableReference, table: &dyn TableProvider) -> Self {
        let schema = table.schema();
        let defaults = schema.fields().iter().enumerate();
        let defaults = defaults.filter_map(|(index, field)| {
            let default = table.get_column_default(field.name())?;
            Some((index, default_sql(default, field.data_type())))
        });
        Self {
            table: name.to_string(),
            defaults: defaults.collect(),
            schema,
        }
    }

    /// Where the column of that name is.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.schema.index_of(name).ok()
    }

    /// What is written for DEFAULT in a column.
    ///
    /// # Errors
    /// When the default value cannot be written as SQL.
    pub(super) fn default_of(&self, column: usize, span: Span) -> Result<Vec<TokenWithSpan>> {
        let Some(expression) = self.defaults.get(&column) else {
            return Ok(vec![word("NULL", span)]);
        };
        let tokens = expression.as_ref().and_then(|expression| {
            let mut tokenizer = Tokenizer::new(&GenericDialect {}, expression);
            tokenizer.tokenize().ok()
        });
        let tokens = tokens.ok_or_else(|| {
            Error::invalid(format!(
                "the default value of column {:?} of {} cannot stand for DEFAULT here; leave the column out, or write its value",
                self.schema.field(column).name(),
                self.table
            ))
        })?;
        let tokens = tokens.into_iter();
        let tokens = tokens.filter(|token| !matches!(token, Token::Whitespace(_)));
        let inner = tokens.map(|token| at(token, span));
        let open = std::iter::once(at(Token::LParen, span));
        Ok(open.chain(inner).chain([at(Token::RParen, span)]).collect())
    }

    /// The error for a column that is not there; `place` says where it was named.
    pub(super) fn unknown(&self, place: &str, name: &str) -> Error {
        let fields = self.schema.fields().iter();
        let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        Error::invalid(format!(
            "{place}: {} has no column {name:?}; its columns are {}",
            self.table,
            names.join(", ")
        ))
    }
}

/// A default value as SQL. That it is cast to the column's type goes without saying.
fn default_sql(default: &Expr, data_type: &DataType) -> Option<String> {
    let value = match default {
        Expr::Cast(cast) if cast.field.data_type() == data_type => cast.expr.as_ref(),
        other => other,
    };
    expr_to_sql(value).ok().map(|sql| sql.to_string())
}

/// The table of an UPDATE or INSERT that cannot be planned before its columns are known.
pub(crate) fn table_to_look_up(tokens: &[TokenWithSpan]) -> Option<TableReference> {
    let is_special = is_special_update(tokens) || has_defaults(tokens);
    is_special.then(|| written_table(tokens)).flatten()
}

/// Writes out what an UPDATE or INSERT says of columns: fields of structs, DEFAULT.
///
/// # Errors
/// When it names something that the table has not, or assigns to something twice.
pub(crate) fn write_columns(
    tokens: Vec<TokenWithSpan>,
    columns: &TargetColumns,
) -> Result<Vec<TokenWithSpan>> {
    write_insert(write_update(tokens, columns)?, columns)
}

/// `INSERT INTO t [(a, b)]` with the values that follow.
struct Insert {
    names: Option<Vec<String>>,
    values: Values,
}

enum Values {
    /// `DEFAULT VALUES`.
    Default(Range<usize>),
    /// The values of each row.
    Rows(Vec<Vec<Range<usize>>>),
}

fn find_insert(tokens: &[TokenWithSpan]) -> Option<Insert> {
    let start = verb_start(tokens);
    if !is_word(tokens.get(start), "INSERT") {
        return None;
    }
    let mut index = start + 1;
    for word in ["INTO", "OVERWRITE", "INTO", "TABLE"] {
        index += usize::from(is_word(tokens.get(index), word));
    }
    index = name_end(tokens, index);
    let mut names = None;
    if let Some(inside) = parenthesis(tokens, index) {
        names = Some(column_list(tokens, inside.clone())?);
        index = inside.end + 1;
    }
    if names.is_none()
        && is_word(tokens.get(index), "DEFAULT")
        && is_word(tokens.get(index + 1), "VALUES")
    {
        let values = Values::Default(index..index + 2);
        return Some(Insert { names, values });
    }
    if !is_word(tokens.get(index), "VALUES") {
        return None;
    }
    let mut rows = Vec::new();
    loop {
        let inside = parenthesis(tokens, index + 1)?;
        index = inside.end + 1;
        rows.push(comma_separated(tokens, inside));
        if tokens
            .get(index)
            .is_none_or(|next| next.token != Token::Comma)
        {
            let values = Values::Rows(rows);
            return Some(Insert { names, values });
        }
    }
}

/// What is inside of the parenthesis that opens here.
pub(super) fn parenthesis(tokens: &[TokenWithSpan], index: usize) -> Option<Range<usize>> {
    let rest = tokens.get(index..)?;
    let opens = rest.first()?.token == Token::LParen;
    let length = closing(rest).filter(|_| opens)?;
    Some(index + 1..index + length - 1)
}

/// The columns of a list of names, which may have the table's before them; `None` where it is no such list.
pub(super) fn column_list(tokens: &[TokenWithSpan], inside: Range<usize>) -> Option<Vec<String>> {
    let name = |part: Range<usize>| {
        let (last, before) = tokens[part].split_last()?;
        let mut pairs = before.chunks_exact(2);
        let is_qualified =
            pairs.all(|pair| name_of(&pair[0]).is_some() && pair[1].token == Token::Period);
        name_of(last).filter(|_| is_qualified && before.len() % 2 == 0)
    };
    comma_separated(tokens, inside)
        .into_iter()
        .map(name)
        .collect()
}

/// What DEFAULT becomes in a row of values, and where that stands.
pub(super) fn written_defaults(
    tokens: &[TokenWithSpan],
    names: Option<&[String]>,
    row: &[Range<usize>],
    columns: &TargetColumns,
) -> Result<Vec<(Range<usize>, Vec<TokenWithSpan>)>> {
    let mut defaults = Vec::new();
    for (position, value) in row.iter().enumerate() {
        let column = match names {
            Some(names) => names.get(position).and_then(|name| columns.index_of(name)),
            None => Some(position).filter(|index| *index < columns.schema.fields().len()),
        };
        // a value too many is for DataFusion to refuse
        if let Some(column) = column.filter(|_| is_default(tokens, value)) {
            let default = columns.default_of(column, tokens[value.start].span)?;
            defaults.push((value.clone(), default));
        }
    }
    Ok(defaults)
}

fn has_defaults(tokens: &[TokenWithSpan]) -> bool {
    match find_insert(tokens).map(|insert| insert.values) {
        Some(Values::Rows(rows)) => rows.iter().flatten().any(|value| is_default(tokens, value)),
        Some(Values::Default(_)) => true,
        None => false,
    }
}

fn write_insert(tokens: Vec<TokenWithSpan>, columns: &TargetColumns) -> Result<Vec<TokenWithSpan>> {
    let Some(Insert { names, values }) = find_insert(&tokens) else {
        return Ok(tokens);
    };
    let mut written = Vec::new();
    match values {
        Values::Default(place) => {
            let span = tokens[place.start].span;
            let defaults =
                (0..columns.schema.fields().len()).map(|index| columns.default_of(index, span));
            let defaults = defaults.collect::<Result<Vec<_>>>()?;
            let mut row = vec![word("VALUES", span), at(Token::LParen, span)];
            row.extend(separated(defaults.into_iter(), span));
            row.push(at(Token::RParen, span));
            written.push((place, row));
        }
        Values::Rows(rows) => {
            for row in rows {
                written.extend(written_defaults(&tokens, names.as_deref(), &row, columns)?);
            }
        }
    }
    Ok(replaced(&tokens, written))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::super::tests::{filled, text};
    use super::*;

    /// A table `p (id, v DEFAULT lower('A'), address STRUCT<street, city, geo STRUCT<lat, lon>>, tags ARRAY)`.
    pub(in super::super) fn people() -> TargetColumns {
        let texts = |names: &[&str]| -> Vec<Field> {
            let fields = names
                .iter()
                .map(|name| Field::new(*name, DataType::Utf8, true));
            fields.collect()
        };
        let mut address = texts(&["street", "city"]);
        let geo = DataType::Struct(texts(&["lat", "lon"]).into());
        address.push(Field::new("geo", geo, true));
        let tags = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("v", DataType::Utf8, true),
            Field::new("address", DataType::Struct(address.into()), true),
            Field::new("tags", tags, true),
        ]);
        TargetColumns {
            table: "p".into(),
            schema: Arc::new(schema),
            defaults: HashMap::from([(1, Some("lower('A')".to_owned()))]),
        }
    }

    fn check(sql: &str, expected: &str) {
        let tokens = filled(sql);
        assert_eq!(
            table_to_look_up(&tokens).is_some(),
            text(&tokens) != expected,
            "{sql}"
        );
        assert_eq!(
            text(&write_columns(tokens, &people()).unwrap()),
            expected,
            "{sql}"
        );
    }

    #[test]
    fn defaults_are_written_out() {
        check(
            "INSERT INTO p VALUES (1, DEFAULT, NULL, DEFAULT), (DEFAULT, 'default', f(1, 2), [DEFAULT])",
            "INSERT INTO p VALUES ( 1 , ( lower ( 'A' ) ) , NULL , NULL ) , ( NULL , 'default' , f ( 1 , 2 ) , [ DEFAULT ] )",
        );
        check(
            "INSERT INTO s.p (V, \"id\") VALUES (DEFAULT, DEFAULT)",
            "INSERT INTO s . p ( V , \"id\" ) VALUES ( ( lower ( 'A' ) ) , NULL )",
        );
        check(
            "EXPLAIN INSERT OVERWRITE TABLE p DEFAULT VALUES",
            "EXPLAIN INSERT OVERWRITE TABLE p VALUES ( NULL , ( lower ( 'A' ) ) , NULL , NULL )",
        );
        for plain in [
            "INSERT INTO p VALUES ( 1 , 2 )",
            "INSERT INTO p ( SELECT DEFAULT )",
            "INSERT INTO p SELECT * FROM q",
            "INSERT INTO p",
            "INSERT",
        ] {
            check(plain, plain);
        }
    }
}
