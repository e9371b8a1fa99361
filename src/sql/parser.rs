//! Statements that DataFusion's parser does not know; the rest is handed on as tokens.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::computed_parser::{parse_computed, parse_expression};
use super::maintenance_parser::{Maintenance, parse_maintenance};
use super::rewrite::is_word;
use super::sync_parser;
use super::tracking_parser::{self, DatabaseTracking};
use super::types::{expect, parse_type, parse_words};
use crate::delta::computed::Computed;
use crate::delta::tracking::TrackingOptions;
use crate::error::{Error, Result};
use crate::sync::{Statement, Sync};

/// A statement, sorted by who plans it.
#[derive(Debug)]
pub(crate) enum Parsed {
    CreateTable(Box<CreateTable>),
    AlterTable {
        table: TableReference,
        change: TableChange,
    },
    AlterDatabase {
        database: String,
        change: DatabaseTracking,
    },
    /// A statement that writes rows, which are to be known by where they come from.
    InContext {
        context: Vec<u8>,
        statement: Vec<TokenWithSpan>,
    },
    DescribeHistory {
        table: TableReference,
        limit: Option<usize>,
    },
    /// `SYNC` or `APPLY CHANGES`, or an EXPLAIN of one.
    Sync {
        sync: Box<Sync>,
        explain: Option<Explain>,
    },
    ShowSyncs {
        target: Option<TableReference>,
    },
    DropSync {
        name: String,
        target: TableReference,
        if_exists: bool,
    },
    /// `OPTIMIZE`, `REORG` or `VACUUM`.
    Maintenance(Maintenance),
    /// For DataFusion.
    Other(Vec<TokenWithSpan>),
}

/// How a plan is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Explain {
    pub analyze: bool,
    pub verbose: bool,
}

/// `CREATE [OR REPLACE] TABLE [IF NOT EXISTS] …`.
#[derive(Debug, Default)]
pub(crate) struct CreateTable {
    pub name: Option<TableReference>,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub columns: Vec<FieldRef>,
    /// How columns are computed, by name.
    pub computed: Vec<(String, Computed)>,
    pub primary_key: Vec<String>,
    pub partition_columns: Vec<String>,
    pub properties: HashMap<String, String>,
    pub comment: Option<String>,
    pub location: Option<String>,
    /// The tokens of `AS SELECT …`.
    pub query: Option<Vec<TokenWithSpan>>,
}

/// What `ALTER TABLE` changes.
#[derive(Debug, Clone)]
pub(crate) enum TableChange {
    SetProperties(HashMap<String, String>),
    UnsetProperties {
        keys: Vec<String>,
        if_exists: bool,
    },
    AddColumns {
        columns: Vec<FieldRef>,
        if_not_exists: bool,
    },
    /// Gives a column a default value, or takes it away.
    SetDefault {
        column: String,
        expression: Option<String>,
    },
    AddConstraint {
        name: String,
        expression: String,
    },
    DropConstraint {
        name: String,
        if_exists: bool,
    },
    AddPrimaryKey(Vec<String>),
    EnableTracking {
        options: TrackingOptions,
        /// Whether that it is tracked already is no error.
        if_not_tracked: bool,
    },
    SetTracking(TrackingOptions),
    DisableTracking {
        /// Whether that it is not tracked is no error.
        if_tracked: bool,
    },
}

/// Parses one statement.
///
/// # Errors
/// When it does not tokenize, or is one of ours and wrong.
pub(crate) fn parse(sql: &str) -> Result<Parsed> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| Error::invalid(format!("syntax error: {error}")))?;
    parse_tokens(tokens, sql)
}

/// Parses the tokens of one statement; `sql` is the text that their places are in.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_tokens(tokens: Vec<TokenWithSpan>, sql: &str) -> Result<Parsed> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.clone());
    if parse_words(&mut parser, &["WITH", "CHANGE_TRACKING_CONTEXT"]) {
        return tracking_parser::parse_context(parser, vec![]);
    }
    if parse_words(&mut parser, &["ALTER", "DATABASE"]) {
        return tracking_parser::parse_alter_database(parser);
    }
    if parse_words(&mut parser, &["CREATE", "TABLE"]) {
        return create_table(parser, false);
    }
    if parse_words(&mut parser, &["CREATE", "OR", "REPLACE", "TABLE"]) {
        return create_table(parser, true);
    }
    if parse_words(&mut parser, &["ALTER", "TABLE"]) {
        return alter_table(parser);
    }
    if parse_words(&mut parser, &["DESCRIBE", "HISTORY"])
        || parse_words(&mut parser, &["DESC", "HISTORY"])
    {
        return describe_history(parser);
    }
    if parse_words(&mut parser, &["SHOW", "SYNCS"]) {
        let target = sync_parser::parse_show(parser)?;
        return Ok(Parsed::ShowSyncs { target });
    }
    if parse_words(&mut parser, &["DROP", "SYNC"]) {
        let (name, target, if_exists) = sync_parser::parse_drop(parser)?;
        return Ok(Parsed::DropSync {
            name,
            target,
            if_exists,
        });
    }
    let explain = parse_words(&mut parser, &["EXPLAIN"]).then(|| Explain {
        analyze: parse_words(&mut parser, &["ANALYZE"]),
        verbose: parse_words(&mut parser, &["VERBOSE"]),
    });
    if explain.is_some() && parse_words(&mut parser, &["WITH", "CHANGE_TRACKING_CONTEXT"]) {
        let explain = tokens
            .iter()
            .take_while(|token| !is_word(Some(token), "WITH"))
            .cloned();
        return tracking_parser::parse_context(parser, explain.collect());
    }
    if let Some(statement) = parse_maintenance(&mut parser, explain.is_some())? {
        return Ok(Parsed::Maintenance(statement));
    }
    if let Some(statement) = sync_parser::parse_verb(&mut parser) {
        let sync = Box::new(sync_parser::parse_sync(parser, statement, sql)?);
        return Ok(Parsed::Sync { sync, explain });
    }
    Ok(Parsed::Other(tokens))
}

/// The `SYNC` that a text is; `None` for any other statement.
///
/// # Errors
/// When it does not tokenize, or is a SYNC (or another statement of ours) and wrong.
pub fn parse_sync(sql: &str) -> Result<Option<Sync>> {
    match parse(sql)? {
        Parsed::Sync {
            sync,
            explain: None,
        } if sync.statement == Statement::Sync => Ok(Some(*sync)),
        _ => Ok(None),
    }
}

/// The name as SQL reads it: lower case unless quoted.
pub(crate) fn normalize(identifier: Ident) -> String {
    if identifier.quote_style.is_some() {
        identifier.value
    } else {
        identifier.value.to_lowercase()
    }
}

fn create_table(mut parser: Parser<'_>, or_replace: bool) -> Result<Parsed> {
    let mut create = CreateTable {
        or_replace,
        ..CreateTable::default()
    };
    create.if_not_exists = parse_words(&mut parser, &["IF", "NOT", "EXISTS"]);
    create.name = Some(table_name(&mut parser)?);
    if or_replace && create.if_not_exists {
        return Err(Error::invalid(
            "CREATE OR REPLACE TABLE and IF NOT EXISTS contradict each other; use one of them",
        ));
    }
    if parser.consume_token(&Token::LParen) {
        columns(&mut parser, &mut create)?;
    }
    loop {
        if parse_words(&mut parser, &["USING", "DELTA"])
            || parse_words(&mut parser, &["STORED", "AS", "DELTA"])
        {
            continue;
        } else if parse_words(&mut parser, &["PARTITIONED", "BY"]) {
            create.partition_columns = name_list(&mut parser)?;
        } else if parse_words(&mut parser, &["TBLPROPERTIES"]) {
            create.properties.extend(properties(&mut parser)?);
        } else if parse_words(&mut parser, &["COMMENT"]) {
            create.comment = Some(literal(&mut parser)?);
        } else if parse_words(&mut parser, &["LOCATION"]) {
            create.location = Some(literal(&mut parser)?);
        } else if parse_words(&mut parser, &["AS"]) {
            create.query = Some(rest(&mut parser));
            break;
        } else {
            end(&mut parser, "CREATE TABLE")?;
            break;
        }
    }
    Ok(Parsed::CreateTable(Box::new(create)))
}

fn columns(parser: &mut Parser<'_>, create: &mut CreateTable) -> Result<()> {
    loop {
        if parse_words(parser, &["PRIMARY", "KEY"]) {
            primary_key(create, name_list(parser)?)?;
        } else if parse_words(parser, &["CONSTRAINT"]) {
            let name = identifier(parser)?;
            if parse_words(parser, &["PRIMARY", "KEY"]) {
                primary_key(create, name_list(parser)?)?;
            } else {
                let expression = check(parser)?;
                create.properties.insert(
                    format!("delta.constraints.{}", name.to_lowercase()),
                    expression,
                );
            }
        } else {
            let field = column(parser, Some(create))?;
            create.columns.push(field);
        }
        if !parser.consume_token(&Token::Comma) {
            return expect(parser, &Token::RParen);
        }
    }
}

/// `name type [NOT NULL] [PRIMARY KEY] [DEFAULT …] [GENERATED …] [COMMENT '…']`.
fn column(parser: &mut Parser<'_>, mut create: Option<&mut CreateTable>) -> Result<FieldRef> {
    let name = identifier(parser)?;
    let data_type = parse_type(parser)?;
    let mut nullable = true;
    loop {
        if parse_words(parser, &["NOT", "NULL"]) {
            nullable = false;
        } else if parse_words(parser, &["NULL"]) {
            nullable = true;
        } else if parse_words(parser, &["PRIMARY", "KEY"]) {
            let Some(create) = create.as_deref_mut() else {
                return Err(Error::invalid(format!(
                    "column {name:?}: a primary key is declared in CREATE TABLE"
                )));
            };
            primary_key(create, vec![name.clone()])?;
        } else if let Some(computed) = parse_computed(parser, &name)? {
            let Some(create) = create.as_deref_mut() else {
                return Err(Error::invalid(format!(
                    "column {name:?}: Delta does not compute a column in the statement that adds it; a default value is set after that, with ALTER TABLE … ALTER COLUMN {name} SET DEFAULT …"
                )));
            };
            if create.computed.iter().any(|(column, _)| *column == name) {
                return Err(Error::invalid(format!(
                    "column {name:?} is computed in two ways; use DEFAULT or GENERATED, once"
                )));
            }
            create.computed.push((name.clone(), computed));
        } else if parse_words(parser, &["COMMENT"]) {
            let _ = literal(parser)?;
        } else {
            break;
        }
    }
    for (word, what) in [
        ("UNIQUE", "UNIQUE"),
        ("REFERENCES", "foreign keys"),
        (
            "CHECK",
            "CHECK on a column; write CONSTRAINT name CHECK (…) after the columns",
        ),
    ] {
        if parse_words(parser, &[word]) {
            return Err(Error::invalid(format!(
                "column {name:?}: {what} cannot be declared here yet"
            )));
        }
    }
    Ok(Arc::new(Field::new(name, data_type, nullable)))
}

fn primary_key(create: &mut CreateTable, key: Vec<String>) -> Result<()> {
    if !create.primary_key.is_empty() {
        return Err(Error::invalid(
            "the table has two primary keys; declare a key of several columns as PRIMARY KEY (a, b)",
        ));
    }
    create.primary_key = key;
    Ok(())
}

fn alter_table(mut parser: Parser<'_>) -> Result<Parsed> {
    let table = table_name(&mut parser)?;
    let change = if let Some(change) = tracking_parser::parse_alter_table(&mut parser)? {
        change
    } else if parse_words(&mut parser, &["SET", "TBLPROPERTIES"]) {
        TableChange::SetProperties(properties(&mut parser)?)
    } else if parse_words(&mut parser, &["UNSET", "TBLPROPERTIES"]) {
        let if_exists = parse_words(&mut parser, &["IF", "EXISTS"]);
        TableChange::UnsetProperties {
            keys: property_keys(&mut parser)?,
            if_exists,
        }
    } else if parse_words(&mut parser, &["ADD", "PRIMARY", "KEY"]) {
        TableChange::AddPrimaryKey(name_list(&mut parser)?)
    } else if parse_words(&mut parser, &["ADD", "CONSTRAINT"]) {
        let name = identifier(&mut parser)?.to_lowercase();
        if parse_words(&mut parser, &["PRIMARY", "KEY"]) {
            TableChange::AddPrimaryKey(name_list(&mut parser)?)
        } else {
            TableChange::AddConstraint {
                name,
                expression: check(&mut parser)?,
            }
        }
    } else if parse_words(&mut parser, &["DROP", "CONSTRAINT"]) {
        let if_exists = parse_words(&mut parser, &["IF", "EXISTS"]);
        TableChange::DropConstraint {
            name: identifier(&mut parser)?.to_lowercase(),
            if_exists,
        }
    } else if parse_words(&mut parser, &["ALTER"]) {
        alter_column(&mut parser)?
    } else if parse_words(&mut parser, &["ADD", "COLUMNS"])
        || parse_words(&mut parser, &["ADD", "COLUMN"])
    {
        add_columns(&mut parser)?
    } else {
        let found = parser.peek_token().token;
        return Err(Error::invalid(format!(
            "ALTER TABLE {table}: expected SET TBLPROPERTIES, UNSET TBLPROPERTIES, ADD COLUMN, ALTER COLUMN, ADD CONSTRAINT, ADD PRIMARY KEY, DROP CONSTRAINT, ENABLE, DISABLE or SET CHANGE_TRACKING, found {found}"
        )));
    };
    end(&mut parser, "ALTER TABLE")?;
    Ok(Parsed::AlterTable { table, change })
}

/// `[COLUMN] c SET DEFAULT …` or `[COLUMN] c DROP DEFAULT`, after `ALTER`.
fn alter_column(parser: &mut Parser<'_>) -> Result<TableChange> {
    let _ = parse_words(parser, &["COLUMN"]);
    let column = identifier(parser)?;
    let expression = if parse_words(parser, &["SET", "DEFAULT"]) {
        Some(parse_expression(parser, "DEFAULT")?)
    } else if parse_words(parser, &["DROP", "DEFAULT"]) {
        None
    } else {
        let found = parser.peek_token().token;
        return Err(Error::invalid(format!(
            "ALTER COLUMN {column}: expected SET DEFAULT … or DROP DEFAULT, found {found}"
        )));
    };
    Ok(TableChange::SetDefault { column, expression })
}

fn add_columns(parser: &mut Parser<'_>) -> Result<TableChange> {
    let if_not_exists = parse_words(parser, &["IF", "NOT", "EXISTS"]);
    let mut columns = Vec::new();
    let parenthesized = parser.consume_token(&Token::LParen);
    loop {
        columns.push(column(parser, None)?);
        if !parenthesized || !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    if parenthesized {
        expect(parser, &Token::RParen)?;
    }
    Ok(TableChange::AddColumns {
        columns,
        if_not_exists,
    })
}

fn describe_history(mut parser: Parser<'_>) -> Result<Parsed> {
    let table = table_name(&mut parser)?;
    let limit = if parse_words(&mut parser, &["LIMIT"]) {
        let count = parser
            .parse_literal_uint()
            .map_err(|error| Error::invalid(format!("DESCRIBE HISTORY … LIMIT: {error}")))?;
        Some(usize::try_from(count).unwrap_or(usize::MAX))
    } else {
        None
    };
    end(&mut parser, "DESCRIBE HISTORY")?;
    Ok(Parsed::DescribeHistory { table, limit })
}

pub(super) fn table_name(parser: &mut Parser<'_>) -> Result<TableReference> {
    let mut parts = vec![identifier(parser)?];
    while parser.consume_token(&Token::Period) {
        parts.push(identifier(parser)?);
    }
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(table), None, ..) => Ok(TableReference::bare(table)),
        (Some(schema), Some(table), None, _) => Ok(TableReference::partial(schema, table)),
        (Some(catalog), Some(schema), Some(table), None) => {
            Ok(TableReference::full(catalog, schema, table))
        }
        _ => Err(Error::invalid(
            "a table name has at most three parts: catalog.schema.table",
        )),
    }
}

pub(super) fn identifier(parser: &mut Parser<'_>) -> Result<String> {
    parser.parse_identifier().map(normalize).map_err(|error| {
        Error::invalid(
            error
                .to_string()
                .replace("sql parser error: ", "syntax error: "),
        )
    })
}

pub(super) fn name_list(parser: &mut Parser<'_>) -> Result<Vec<String>> {
    expect(parser, &Token::LParen)?;
    let mut names = vec![identifier(parser)?];
    while parser.consume_token(&Token::Comma) {
        names.push(identifier(parser)?);
    }
    expect(parser, &Token::RParen)?;
    Ok(names)
}

/// `CHECK (expression)`, as text.
fn check(parser: &mut Parser<'_>) -> Result<String> {
    if !parse_words(parser, &["CHECK"]) {
        return Err(Error::invalid(
            "a constraint is written CONSTRAINT name CHECK (condition)",
        ));
    }
    expect(parser, &Token::LParen)?;
    let expression = parser
        .parse_expr()
        .map_err(|error| Error::invalid(format!("CHECK: {error}")))?;
    expect(parser, &Token::RParen)?;
    Ok(expression.to_string())
}

/// `('key' = 'value', delta.key = true)`.
fn properties(parser: &mut Parser<'_>) -> Result<HashMap<String, String>> {
    expect(parser, &Token::LParen)?;
    let mut properties = HashMap::new();
    loop {
        let key = property_key(parser)?;
        let _ = parser.consume_token(&Token::Eq);
        let value = literal(parser)?;
        if properties.insert(key.clone(), value).is_some() {
            return Err(Error::invalid(format!(
                "the table property {key:?} is given twice"
            )));
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    expect(parser, &Token::RParen)?;
    Ok(properties)
}

fn property_keys(parser: &mut Parser<'_>) -> Result<Vec<String>> {
    expect(parser, &Token::LParen)?;
    let mut keys = vec![property_key(parser)?];
    while parser.consume_token(&Token::Comma) {
        keys.push(property_key(parser)?);
    }
    expect(parser, &Token::RParen)?;
    Ok(keys)
}

/// A quoted key, or words with periods; case counts.
fn property_key(parser: &mut Parser<'_>) -> Result<String> {
    if let Token::SingleQuotedString(key) | Token::DoubleQuotedString(key) =
        parser.peek_token().token
    {
        parser.next_token();
        return Ok(key);
    }
    let mut key = parser
        .parse_identifier()
        .map_err(|error| Error::invalid(format!("table property: {error}")))?
        .value;
    while parser.consume_token(&Token::Period) {
        let part = parser
            .parse_identifier()
            .map_err(|error| Error::invalid(format!("table property: {error}")))?;
        key = format!("{key}.{}", part.value);
    }
    Ok(key)
}

/// The text of a string, a number or true/false.
pub(super) fn literal(parser: &mut Parser<'_>) -> Result<String> {
    match parser.next_token().token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::Number(text, _) => Ok(text),
        Token::Word(word) if ["true", "false"].contains(&word.value.to_lowercase().as_str()) => {
            Ok(word.value.to_lowercase())
        }
        Token::Minus => Ok(format!("-{}", literal(parser)?)),
        other => Err(Error::invalid(format!(
            "expected a text in quotes, a number, true or false, found {other}"
        ))),
    }
}

pub(super) fn rest(parser: &mut Parser<'_>) -> Vec<TokenWithSpan> {
    let mut tokens = Vec::new();
    loop {
        let token = parser.next_token();
        if token.token == Token::EOF {
            return tokens;
        }
        tokens.push(token);
    }
}

pub(super) fn end(parser: &mut Parser<'_>, statement: &str) -> Result<()> {
    let _ = parser.consume_token(&Token::SemiColon);
    match parser.peek_token().token {
        Token::EOF => Ok(()),
        other => Err(Error::invalid(format!(
            "{statement}: {other} was not expected here"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(sql: &str) -> CreateTable {
        match parse(sql).unwrap() {
            Parsed::CreateTable(create) => *create,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn create_table_in_full() {
        let create = created(
            "CREATE TABLE IF NOT EXISTS s.\"T t\" (id BIGINT PRIMARY KEY, Name STRING NOT NULL, CONSTRAINT Positive CHECK (id > 0)) \
             USING DELTA PARTITIONED BY (name) TBLPROPERTIES (delta.enableChangeDataFeed = true, 'a b' = '1') COMMENT 'x'",
        );
        assert_eq!(create.name.unwrap(), TableReference::partial("s", "T t"));
        assert!(create.if_not_exists && !create.columns[1].is_nullable());
        assert_eq!(
            (create.primary_key, create.partition_columns),
            (vec!["id".to_owned()], vec!["name".to_owned()])
        );
        assert_eq!(create.properties["delta.enableChangeDataFeed"], "true");
        assert_eq!(create.properties["delta.constraints.positive"], "id > 0");
    }

    #[test]
    fn the_query_is_left_alone() {
        assert_eq!(
            created("CREATE OR REPLACE TABLE t AS SELECT 1 AS a")
                .query
                .unwrap()
                .len(),
            4
        );
        assert!(matches!(
            parse("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'").unwrap(),
            Parsed::Other(_)
        ));
        assert!(matches!(parse("SELECT 1").unwrap(), Parsed::Other(_)));
    }

    #[test]
    fn mistakes_are_named() {
        for (sql, part) in [
            ("CREATE TABLE t (a BLOBBY)", "BLOBBY is no column type"),
            (
                "CREATE TABLE t (a INT) WITH (x = 1)",
                "WITH was not expected",
            ),
            (
                "CREATE TABLE t (a INT PRIMARY KEY, PRIMARY KEY (a))",
                "two primary keys",
            ),
            (
                "CREATE TABLE t (a INT DEFAULT 1 GENERATED ALWAYS AS (2))",
                "computed in two ways",
            ),
            ("ALTER TABLE t ADD COLUMN a INT DEFAULT 1", "SET DEFAULT"),
            (
                "ALTER TABLE t ALTER COLUMN a TYPE INT",
                "expected SET DEFAULT",
            ),
            ("ALTER TABLE t RENAME TO u", "expected SET TBLPROPERTIES"),
            (
                "CREATE OR REPLACE TABLE IF NOT EXISTS t (a INT)",
                "contradict",
            ),
            ("DESCRIBE HISTORY t x", "x was not expected"),
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(part), "{sql}: {error} lacks {part:?}");
        }
    }
}
