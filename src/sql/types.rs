//! Column types in `CREATE TABLE`, as SQL and Spark spell them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};

const KNOWN: &str = "BIGINT, INT, SMALLINT, TINYINT, DOUBLE, FLOAT, DECIMAL(p, s), STRING, BINARY, BOOLEAN, DATE, TIMESTAMP, TIMESTAMPTZ, ARRAY<…>, MAP<…, …>, STRUCT<name: …>";

/// Parses a type: `TIMESTAMP` is without zone, as in SQL, `TIMESTAMP WITH TIME ZONE` (`TIMESTAMPTZ`) is an instant.
pub(crate) fn parse_type(parser: &mut Parser<'_>) -> Result<DataType> {
    let mut pending = 0;
    let mut data_type = parse_nested(parser, &mut pending)?;
    while parser.consume_token(&Token::LBracket) {
        expect(parser, &Token::RBracket)?;
        data_type = list(data_type);
    }
    if pending > 0 {
        return Err(Error::invalid("a type has one '>' too many"));
    }
    Ok(data_type)
}

/// `pending` counts the brackets that a `>>` has closed beyond the one that was expected.
fn parse_nested(parser: &mut Parser<'_>, pending: &mut u32) -> Result<DataType> {
    let token = parser.next_token().token;
    let Token::Word(word) = &token else {
        return Err(Error::invalid(format!(
            "expected a column type, found {token}; types are {KNOWN}"
        )));
    };
    let name = word.value.to_uppercase();
    Ok(match name.as_str() {
        "ARRAY" => {
            open(parser)?;
            let element = parse_nested(parser, pending)?;
            close(parser, pending)?;
            list(element)
        }
        "MAP" => {
            open(parser)?;
            let key = parse_nested(parser, pending)?;
            expect(parser, &Token::Comma)?;
            let value = parse_nested(parser, pending)?;
            close(parser, pending)?;
            map(key, value)
        }
        "STRUCT" => parse_struct(parser, pending)?,
        _ => parse_scalar(parser, &name)?,
    })
}

fn parse_struct(parser: &mut Parser<'_>, pending: &mut u32) -> Result<DataType> {
    open(parser)?;
    let mut fields = Vec::new();
    loop {
        let name = parser
            .parse_identifier()
            .map_err(|error| Error::invalid(error.to_string()))?;
        let _ = parser.consume_token(&Token::Colon);
        let data_type = parse_nested(parser, pending)?;
        fields.push(Field::new(name.value, data_type, true));
        if *pending > 0 || !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    close(parser, pending)?;
    Ok(DataType::Struct(fields.into()))
}

fn parse_scalar(parser: &mut Parser<'_>, name: &str) -> Result<DataType> {
    Ok(match name {
        "BIGINT" | "LONG" | "INT8" => DataType::Int64,
        "INT" | "INTEGER" | "INT4" => DataType::Int32,
        "SMALLINT" | "SHORT" | "INT2" => DataType::Int16,
        "TINYINT" | "BYTE" => DataType::Int8,
        "DOUBLE" => {
            let _ = parse_words(parser, &["PRECISION"]);
            DataType::Float64
        }
        "FLOAT8" => DataType::Float64,
        "FLOAT" | "REAL" | "FLOAT4" => DataType::Float32,
        "DECIMAL" | "NUMERIC" | "DEC" => parse_decimal(parser)?,
        "STRING" | "TEXT" => DataType::Utf8,
        "VARCHAR" | "CHAR" => {
            let _ = parse_numbers(parser)?;
            DataType::Utf8
        }
        "BINARY" | "BYTEA" | "VARBINARY" => {
            let _ = parse_numbers(parser)?;
            DataType::Binary
        }
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "DATE" => DataType::Date32,
        "TIMESTAMP" | "DATETIME" => parse_timestamp(parser)?,
        "TIMESTAMP_NTZ" => timestamp(false),
        "TIMESTAMPTZ" | "TIMESTAMP_LTZ" => timestamp(true),
        other => {
            return Err(Error::invalid(format!(
                "{other} is no column type; types are {KNOWN}"
            )));
        }
    })
}

fn parse_timestamp(parser: &mut Parser<'_>) -> Result<DataType> {
    let _ = parse_numbers(parser)?;
    let zoned = parse_words(parser, &["WITH", "TIME", "ZONE"]);
    if !zoned {
        let _ = parse_words(parser, &["WITHOUT", "TIME", "ZONE"]);
    }
    Ok(timestamp(zoned))
}

fn parse_decimal(parser: &mut Parser<'_>) -> Result<DataType> {
    let numbers = parse_numbers(parser)?;
    let (precision, scale) = (
        numbers.first().copied().unwrap_or(10),
        numbers.get(1).copied().unwrap_or(0),
    );
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale))
            if scale >= 0 && i64::from(scale) <= i64::from(precision) =>
        {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(Error::invalid(format!(
            "DECIMAL({precision}, {scale}): the precision must be 1 to 38 and the scale at most the precision"
        ))),
    }
}

/// `(10, 2)` if there is one.
fn parse_numbers(parser: &mut Parser<'_>) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    if parser.consume_token(&Token::LParen) {
        loop {
            numbers.push(
                parser
                    .parse_literal_uint()
                    .map_err(|error| Error::invalid(error.to_string()))?,
            );
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        expect(parser, &Token::RParen)?;
    }
    Ok(numbers)
}

/// Consumes the words if they come next, all of them.
pub(crate) fn parse_words(parser: &mut Parser<'_>, words: &[&str]) -> bool {
    let next = |index: usize, word: &str| matches!(parser.peek_nth_token(index).token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
    if !words
        .iter()
        .enumerate()
        .all(|(index, word)| next(index, word))
    {
        return false;
    }
    words.iter().for_each(|_| {
        parser.next_token();
    });
    true
}

/// Consumes a token or says which one was expected.
pub(crate) fn expect(parser: &mut Parser<'_>, token: &Token) -> Result<()> {
    parser
        .expect_token(token)
        .map(|_| ())
        .map_err(|error| Error::invalid(error.to_string().replace("sql parser error: ", "")))
}

fn open(parser: &mut Parser<'_>) -> Result<()> {
    expect(parser, &Token::Lt)
}

fn close(parser: &mut Parser<'_>, pending: &mut u32) -> Result<()> {
    if *pending > 0 {
        *pending -= 1;
        return Ok(());
    }
    if parser.consume_token(&Token::ShiftRight) {
        *pending += 1;
        return Ok(());
    }
    expect(parser, &Token::Gt)
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

fn map(key: DataType, value: DataType) -> DataType {
    let entries = DataType::Struct(
        vec![
            Field::new("key", key, false),
            Field::new("value", value, true),
        ]
        .into(),
    );
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

fn timestamp(zoned: bool) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "UTC".into()))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn check(text: &str, expected: std::result::Result<DataType, &str>) {
        let dialect = GenericDialect {};
        let mut parser = Parser::new(&dialect).try_with_sql(text).unwrap();
        match (parse_type(&mut parser), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{text}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} lacks {part:?}")
            }
            (got, expected) => panic!("{text}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn types_of_sql_and_spark() {
        check("BIGINT", Ok(DataType::Int64));
        check("double precision", Ok(DataType::Float64));
        check("DECIMAL(12, 2)", Ok(DataType::Decimal128(12, 2)));
        check("TIMESTAMP", Ok(timestamp(false)));
        check("TIMESTAMP WITH TIME ZONE", Ok(timestamp(true)));
        check("TIMESTAMP_LTZ", Ok(timestamp(true)));
        check("ARRAY<ARRAY<INT>>", Ok(list(list(DataType::Int32))));
        check("INT[]", Ok(list(DataType::Int32)));
        check(
            "MAP<STRING, ARRAY<BIGINT>>",
            Ok(map(DataType::Utf8, list(DataType::Int64))),
        );
        check(
            "STRUCT<a: INT, b STRUCT<c: STRING>>",
            Ok(DataType::Struct(
                vec![
                    Field::new("a", DataType::Int32, true),
                    Field::new(
                        "b",
                        DataType::Struct(vec![Field::new("c", DataType::Utf8, true)].into()),
                        true,
                    ),
                ]
                .into(),
            )),
        );
        check("DECIMAL(40)", Err("1 to 38"));
        check("BLOBBY", Err("BLOBBY is no column type"));
        check("'x'", Err("expected a column type"));
    }
}
