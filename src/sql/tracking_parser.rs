//! The statements of change tracking, in the words of SQL Server, Snowflake and BigQuery.
//!
//! ```text
//!  ALTER TABLE t ENABLE CHANGE_TRACKING [WITH (TRACK_COLUMNS_UPDATED = ON, CHANGE_RETENTION = 2 DAYS, AUTO_CLEANUP = ON)]
//!  ALTER TABLE t DISABLE CHANGE_TRACKING
//!  ALTER TABLE t SET CHANGE_TRACKING (…)          changes the options of a tracked table
//!  ALTER TABLE t SET CHANGE_TRACKING = TRUE       Snowflake's
//!  ALTER TABLE t SET OPTIONS (enable_change_history = TRUE)     BigQuery's
//!  ALTER DATABASE d SET CHANGE_TRACKING = ON (…) | = OFF | (…)
//!  WITH CHANGE_TRACKING_CONTEXT (0x01) INSERT …
//! ```

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::parser::{Parsed, TableChange, end, identifier, literal, rest};
use super::types::{expect, parse_words};
use crate::delta::tracking::TrackingOptions;
use crate::error::{Error, Result};

/// SQL Server's `varbinary(128)`.
const MAX_CONTEXT_BYTES: usize = 128;

/// What becomes of the change tracking of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DatabaseTracking {
    /// Tables are tracked so from now on.
    On(TrackingOptions),
    /// As `On`, for a database where it is on.
    Change(TrackingOptions),
    Off,
}

/// What follows `ALTER TABLE t`, if it is about change tracking.
///
/// # Errors
/// When it is, and wrong.
pub(super) fn parse_alter_table(parser: &mut Parser<'_>) -> Result<Option<TableChange>> {
    if parse_words(parser, &["ENABLE", "CHANGE_TRACKING"]) {
        let options = if parse_words(parser, &["WITH"]) {
            options(parser)?
        } else {
            TrackingOptions::default()
        };
        return Ok(Some(TableChange::EnableTracking {
            options,
            if_not_tracked: false,
        }));
    }
    if parse_words(parser, &["DISABLE", "CHANGE_TRACKING"]) {
        return Ok(Some(TableChange::DisableTracking { if_tracked: false }));
    }
    if parse_words(parser, &["SET", "CHANGE_TRACKING"]) {
        if parser.consume_token(&Token::Eq) {
            return switch(parser, "CHANGE_TRACKING").map(|on| Some(switched(on)));
        }
        return Ok(Some(TableChange::SetTracking(options(parser)?)));
    }
    if parse_words(parser, &["SET", "OPTIONS"]) {
        expect(parser, &Token::LParen)?;
        let name = identifier(parser)?;
        if name != "enable_change_history" {
            return Err(Error::invalid(format!(
                "ALTER TABLE … SET OPTIONS has the option enable_change_history, not {name:?}; Delta's properties are set with SET TBLPROPERTIES (…)"
            )));
        }
        expect(parser, &Token::Eq)?;
        let on = switch(parser, &name)?;
        expect(parser, &Token::RParen)?;
        return Ok(Some(switched(on)));
    }
    Ok(None)
}

fn switched(on: bool) -> TableChange {
    if on {
        TableChange::EnableTracking {
            options: TrackingOptions::default(),
            if_not_tracked: true,
        }
    } else {
        TableChange::DisableTracking { if_tracked: true }
    }
}

/// What follows `ALTER DATABASE`.
///
/// # Errors
/// When it is not about change tracking.
pub(super) fn parse_alter_database(mut parser: Parser<'_>) -> Result<Parsed> {
    let database = identifier(&mut parser)?;
    if !parse_words(&mut parser, &["SET", "CHANGE_TRACKING"]) {
        let found = parser.peek_token().token;
        return Err(Error::invalid(format!(
            "ALTER DATABASE {database}: expected SET CHANGE_TRACKING, found {found}"
        )));
    }
    let change = if !parser.consume_token(&Token::Eq) {
        DatabaseTracking::Change(options(&mut parser)?)
    } else if !switch(&mut parser, "CHANGE_TRACKING")? {
        DatabaseTracking::Off
    } else if parser.peek_token().token == Token::LParen {
        DatabaseTracking::On(options(&mut parser)?)
    } else {
        DatabaseTracking::On(TrackingOptions::default())
    };
    if let DatabaseTracking::On(options) | DatabaseTracking::Change(options) = &change
        && options.columns_updated.is_some()
    {
        return Err(Error::invalid(
            "TRACK_COLUMNS_UPDATED is an option of a table: ALTER TABLE … ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = ON)",
        ));
    }
    end(&mut parser, "ALTER DATABASE")?;
    Ok(Parsed::AlterDatabase { database, change })
}

/// `(TRACK_COLUMNS_UPDATED = ON, CHANGE_RETENTION = 2 DAYS, AUTO_CLEANUP = ON)`.
fn options(parser: &mut Parser<'_>) -> Result<TrackingOptions> {
    expect(parser, &Token::LParen)?;
    let mut options = TrackingOptions::default();
    loop {
        let name = identifier(parser)?;
        expect(parser, &Token::Eq)?;
        let was_given = match name.as_str() {
            "track_columns_updated" => {
                let value = switch(parser, "TRACK_COLUMNS_UPDATED")?;
                options.columns_updated.replace(value).is_some()
            }
            "auto_cleanup" => {
                let value = switch(parser, "AUTO_CLEANUP")?;
                options.auto_cleanup.replace(value).is_some()
            }
            "change_retention" => options.retention.replace(retention(parser)?).is_some(),
            _ => {
                return Err(Error::invalid(format!(
                    "change tracking has no option {name:?}; it has TRACK_COLUMNS_UPDATED = ON | OFF, CHANGE_RETENTION = n DAYS | HOURS | MINUTES and \
                     AUTO_CLEANUP = ON | OFF"
                )));
            }
        };
        if was_given {
            return Err(Error::invalid(format!(
                "the option {} is given twice",
                name.to_uppercase()
            )));
        }
        if !parser.consume_token(&Token::Comma) {
            expect(parser, &Token::RParen)?;
            return Ok(options);
        }
    }
}

fn switch(parser: &mut Parser<'_>, what: &str) -> Result<bool> {
    let token = parser.next_token().token;
    let word = match &token {
        Token::Word(word) => word.value.to_lowercase(),
        _ => String::new(),
    };
    match word.as_str() {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(Error::invalid(format!(
            "{what} is ON or OFF (TRUE or FALSE), not {token}"
        ))),
    }
}

/// `2 DAYS`, as Delta writes durations.
fn retention(parser: &mut Parser<'_>) -> Result<String> {
    let bad = |found: String| {
        Error::invalid(format!(
            "CHANGE_RETENTION is a whole number of at least 1 and DAYS, HOURS or MINUTES, as in 2 DAYS, not {found}"
        ))
    };
    let count = literal(parser)?;
    let number: u32 = count.parse().map_err(|_| bad(count.clone()))?;
    if number == 0 {
        return Err(bad(count));
    }
    // SQL Server takes a number alone for days
    let units = [
        ("DAYS", "days"),
        ("DAY", "days"),
        ("HOURS", "hours"),
        ("HOUR", "hours"),
        ("MINUTES", "minutes"),
        ("MINUTE", "minutes"),
    ];
    for (word, unit) in units {
        if parse_words(parser, &[word]) {
            return Ok(format!("interval {number} {unit}"));
        }
    }
    match parser.peek_token().token {
        Token::Word(word) => Err(bad(format!("{count} {word}"))),
        _ => Ok(format!("interval {number} days")),
    }
}

/// What follows `WITH CHANGE_TRACKING_CONTEXT`: the context, and the statement it is for, after the words of an EXPLAIN of it.
///
/// # Errors
/// When the context is no binary value or too long, or the statement writes no rows.
pub(super) fn parse_context(mut parser: Parser<'_>, explain: Vec<TokenWithSpan>) -> Result<Parsed> {
    expect(&mut parser, &Token::LParen)?;
    let token = parser.next_token().token;
    let bad = |why: &str| {
        Error::invalid(format!(
            "CHANGE_TRACKING_CONTEXT takes at most {MAX_CONTEXT_BYTES} bytes in hexadecimal digits, as in (0x0102); {token} {why}"
        ))
    };
    let Token::HexStringLiteral(digits) = &token else {
        return Err(bad("is no such value"));
    };
    if digits.len() % 2 == 1 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(bad("does not have two digits for each byte"));
    }
    let context: Vec<u8> = (0..digits.len())
        .step_by(2)
        .filter_map(|index| u8::from_str_radix(digits.get(index..index + 2)?, 16).ok())
        .collect();
    if context.len() > MAX_CONTEXT_BYTES {
        return Err(bad("is longer"));
    }
    expect(&mut parser, &Token::RParen)?;
    const WRITES: [&str; 8] = [
        "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "SYNC", "APPLY", "AUTO",
    ];
    let found = parser.peek_token().token;
    let writes =
        matches!(&found, Token::Word(word) if WRITES.contains(&word.value.to_uppercase().as_str()));
    if !writes {
        return Err(Error::invalid(format!(
            "WITH CHANGE_TRACKING_CONTEXT stands before INSERT, UPDATE, DELETE or MERGE, not before {found}"
        )));
    }
    let statement = explain.into_iter().chain(rest(&mut parser)).collect();
    Ok(Parsed::InContext { context, statement })
}
