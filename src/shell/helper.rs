//! What the prompt knows about SQL: completion and highlighting.
//!
//! The names it completes are loaded between prompts, in the background. Completion itself does no I/O, so that a slow
//! warehouse never delays a key.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use datafusion::common::utils::quote_identifier;
use datafusion::prelude::SessionContext;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::{Context, Helper, Hinter, Validator};

use super::command;
use crate::sql::split::{Token, TokenKind, tokens};

/// Completes and highlights the line being edited.
#[derive(Helper, Hinter, Validator)]
pub(super) struct SqlHelper {
    /// The lines of the statement that come before the one being edited.
    pub(super) pending: String,
    names: Arc<SharedNames>,
    files: FilenameCompleter,
}

impl SqlHelper {
    pub(super) fn new(names: Arc<SharedNames>) -> Self {
        Self {
            pending: String::new(),
            names,
            files: FilenameCompleter::new(),
        }
    }
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        ctx: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if self.pending.is_empty() && typed.trim_start().starts_with("\\i ") {
            return self.files.complete(line, pos, ctx);
        }
        let text = format!("{}{typed}", self.pending);
        let (partial, found) = candidates(&text, &self.names.get());
        let pair = |text: String| Pair {
            display: text.clone(),
            replacement: text,
        };
        // A quoted name that began on an earlier line cannot be replaced from this one.
        match pos.checked_sub(partial) {
            Some(start) => Ok((start, found.into_iter().map(pair).collect())),
            None => Ok((pos, Vec::new())),
        }
    }
}

impl Highlighter for SqlHelper {
    fn highlight<'l>(&self, line: &'l str, _pos: usize) -> Cow<'l, str> {
        Cow::Owned(painted(&self.pending, line))
    }

    fn highlight_char(&self, _line: &str, _pos: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor
    }
}

/// The names of the session, filled in while the prompt is waiting.
#[derive(Default)]
pub(super) struct SharedNames(RwLock<Names>);

impl SharedNames {
    /// Reads the names anew; tables that `recent` SQL mentions may have changed, and the columns of others are kept.
    pub(super) async fn refresh(&self, ctx: &SessionContext, recent: &str) {
        let known = self.get();
        let mentioned = identifiers(tokens(recent));
        let mut tables = Vec::new();
        for table in command::tables(ctx) {
            let schema =
                (!table.is_in_default_schema).then(|| quoted(table.schema.split('.')).join("."));
            let name = quote_identifier(&table.name).into_owned();
            let is_mentioned = mentioned.contains(&name);
            let kept = known.columns(schema.as_deref(), &name);
            let columns = match kept {
                Some(kept) if !is_mentioned => kept.to_vec(),
                _ if !is_mentioned && tables.len() >= MAX_TABLES => Vec::new(),
                _ => quoted(table.columns().await),
            };
            tables.push(TableName {
                schema,
                name,
                columns,
            });
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Names(tables);
    }

    fn get(&self) -> Names {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }
}

/// Columns are loaded of this many tables, and of those a statement mentions.
const MAX_TABLES: usize = 100;

/// More candidates than this help nobody.
const MAX_CANDIDATES: usize = 1_000;

fn quoted(names: impl IntoIterator<Item: AsRef<str>>) -> Vec<String> {
    let quoted = |name: &str| quote_identifier(name).into_owned();
    names
        .into_iter()
        .map(|name| quoted(name.as_ref()))
        .collect()
}

/// The tables of a session, their names quoted where SQL needs it.
#[derive(Clone, Debug, Default)]
struct Names(Vec<TableName>);

#[derive(Clone, Debug)]
struct TableName {
    /// `None` for the default schema.
    schema: Option<String>,
    name: String,
    columns: Vec<String>,
}

impl Names {
    fn columns(&self, schema: Option<&str>, name: &str) -> Option<&[String]> {
        let same = |table: &&TableName| table.schema.as_deref() == schema && table.name == name;
        let table = self.0.iter().find(same)?;
        (!table.columns.is_empty()).then_some(table.columns.as_slice())
    }

    fn tables(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|table| match &table.schema {
            Some(schema) => format!("{schema}.{}", table.name),
            None => table.name.clone(),
        })
    }

    /// The columns of the tables that the statement mentions, or of all tables before it mentions any.
    fn columns_for(&self, mentioned: &HashSet<String>) -> impl Iterator<Item = String> {
        let any = self.0.iter().any(|table| mentioned.contains(&table.name));
        let tables = self.0.iter();
        let tables = tables.filter(move |table| !any || mentioned.contains(&table.name));
        tables.flat_map(|table| table.columns.iter().cloned())
    }

    /// What may follow `owner.`: the tables of a schema, the columns of a table, or those an alias may stand for.
    fn members(&self, owner: &str, mentioned: &HashSet<String>) -> Vec<String> {
        let in_schema = |table: &&TableName| table.schema.as_deref() == Some(owner);
        let tables = self.0.iter().filter(in_schema);
        let members: Vec<_> = tables.map(|table| table.name.clone()).collect();
        if !members.is_empty() {
            return members;
        }
        match self.0.iter().find(|table| table.name == owner) {
            Some(table) => table.columns.clone(),
            None => self.columns_for(mentioned).collect(),
        }
    }
}

/// The identifiers that some SQL contains.
fn identifiers<'a>(tokens: impl Iterator<Item = Token<'a>>) -> HashSet<String> {
    tokens.map(|token| identifier(&token)).collect()
}

/// A token as the identifier it stands for: words are lower case, quoted names are what they are.
fn identifier(token: &Token<'_>) -> String {
    match token.kind {
        TokenKind::Word => token.text.to_lowercase(),
        _ => token.text.to_owned(),
    }
}

/// What may be typed at the end of `text`, with the length of the part that is there already.
fn candidates(text: &str, names: &Names) -> (usize, Vec<String>) {
    let all: Vec<Token<'_>> = tokens(text).collect();
    let partial = match all.last().map(|last| (last.kind, last.closed, last.text)) {
        Some((TokenKind::Word, _, text) | (TokenKind::Name, false, text)) => text,
        Some((TokenKind::Command, _, text)) => return command_candidates(text, names),
        Some((TokenKind::Space | TokenKind::Symbol | TokenKind::Semicolon, ..)) | None => "",
        // Nothing completes a string, a number or a comment.
        Some(_) => return (0, Vec::new()),
    };
    let before = all
        .iter()
        .filter(|token| token.start + token.text.len() <= text.len() - partial.len())
        .filter(|token| !matches!(token.kind, TokenKind::Space | TokenKind::Comment));
    let before: Vec<Token<'_>> = before.copied().collect();
    let mentioned = identifiers(before.iter().copied());
    let mut found = match before.as_slice() {
        [.., owner, dot] if dot.text == "." => names.members(&identifier(owner), &mentioned),
        _ => {
            let mut found: Vec<String> = names.tables().collect();
            found.extend(names.columns_for(&mentioned));
            found.extend(keywords_after(&before, partial));
            found
        }
    };
    found.retain(|candidate| continues(candidate, partial));
    (partial.len(), in_order(found))
}

fn command_candidates(text: &str, names: &Names) -> (usize, Vec<String>) {
    let Some((command, argument)) = text.split_once(' ') else {
        let commands = command::NAMES.iter().map(|command| (*command).to_owned());
        let found = commands.filter(|command| command.starts_with(text));
        return (text.len(), found.collect());
    };
    let choices = match command {
        "\\d" => names.tables().collect(),
        "\\format" => command::FORMATS.map(str::to_owned).to_vec(),
        _ => Vec::new(),
    };
    let found = choices.into_iter();
    let found = found.filter(|choice| continues(choice, argument));
    (argument.len(), in_order(found.collect()))
}

fn in_order(mut found: Vec<String>) -> Vec<String> {
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    found
}

fn continues(candidate: &str, partial: &str) -> bool {
    let plain = |name: &str| name.trim_start_matches('"').to_lowercase();
    plain(candidate).starts_with(&plain(partial))
}

/// The rest of every phrase that the words before the cursor have begun, in the case they are typed in.
fn keywords_after(before: &[Token<'_>], partial: &str) -> Vec<String> {
    let written = before.iter().map(|token| token.text.to_uppercase());
    let written: Vec<String> = written.collect();
    let written: Vec<&str> = written.iter().map(String::as_str).collect();
    let last = if partial.is_empty() {
        before.last().map_or("", |token| token.text)
    } else {
        partial
    };
    let is_lower = last.chars().any(char::is_lowercase);
    let start = partial.to_lowercase();
    let mut found = Vec::new();
    for phrase in PHRASES {
        let words: Vec<&str> = phrase.split(' ').collect();
        for (at, word) in words.iter().enumerate() {
            // A phrase that has not begun is offered for its first letters only: there are too many.
            let has_begun = at > 0 && written.ends_with(&words[..at]);
            let begins = at == 0 && !partial.is_empty();
            if (has_begun || begins) && word.to_lowercase().starts_with(&start) {
                let rest = words[at..].join(" ");
                found.push(if is_lower { rest.to_lowercase() } else { rest });
            }
        }
    }
    found
}

/// `line` with the colours of its tokens, which may have begun in the lines before it.
fn painted(pending: &str, line: &str) -> String {
    let text = format!("{pending}{line}");
    let mut painted = String::with_capacity(line.len() * 2);
    for token in tokens(&text) {
        let end = token.start + token.text.len();
        let Some(visible) = text.get(token.start.max(pending.len())..end) else {
            continue;
        };
        match colour(&token) {
            Some(code) => painted += &format!("\x1b[{code}m{visible}\x1b[0m"),
            None => painted += visible,
        }
    }
    painted
}

/// The parameters of the ANSI escape sequence of a token.
fn colour(token: &Token<'_>) -> Option<&'static str> {
    match token.kind {
        TokenKind::Comment => Some("90"),
        TokenKind::Text => Some("32"),
        TokenKind::Number => Some("36"),
        TokenKind::Command => Some("35"),
        TokenKind::Word if KEYWORDS.contains(token.text.to_uppercase().as_str()) => Some("1;34"),
        _ => None,
    }
}

static KEYWORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let words = PHRASES.iter().flat_map(|phrase| phrase.split(' '));
    words
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase()))
        .collect()
});

/// Keywords and functions, with the words that usually follow them.
#[rustfmt::skip]
const PHRASES: &[&str] = &[
    "ALL", "ALTER TABLE", "ADD COLUMN", "ADD CONSTRAINT", "ANALYZE", "AND", "APPLY CHANGES INTO", "ARRAY", "AS", "ASC",
    "BETWEEN", "BIGINT", "BINARY", "BOOLEAN", "BY", "CASE WHEN", "CAST", "CHECK", "COLUMN", "CONSTRAINT", "COPY",
    "CREATE EXTERNAL TABLE", "CREATE OR REPLACE TABLE", "CREATE OR REPLACE VIEW", "CREATE SCHEMA",
    "CREATE TABLE IF NOT EXISTS", "CREATE VIEW", "CROSS JOIN", "CURRENT", "DATE", "DECIMAL", "DEFAULT", "DELETE FROM",
    "DESC", "DESCRIBE HISTORY", "DISTINCT", "DOUBLE", "DROP TABLE IF EXISTS", "DROP VIEW IF EXISTS", "ELSE", "END",
    "EXCEPT", "EXECUTE", "EXISTS", "EXPLAIN ANALYZE", "EXPLAIN VERBOSE", "FALSE", "FILTER", "FIRST", "FLOAT", "FOLLOWING",
    "FROM", "FULL OUTER JOIN", "GROUP BY", "HAVING", "ILIKE", "IN", "INNER JOIN", "INSERT INTO", "INSERT OVERWRITE",
    "INT", "INTERSECT", "INTERVAL", "IS DISTINCT FROM", "IS NOT DISTINCT FROM", "IS NOT NULL", "IS NULL", "JOIN", "KEYS",
    "LAST", "LATERAL", "LEFT ANTI JOIN", "LEFT JOIN", "LEFT SEMI JOIN", "LIKE", "LIMIT", "LOCATION", "MAP",
    "MERGE INTO", "NOT", "NOT EXISTS", "NOT IN", "NOT NULL", "NULL", "NULLS FIRST", "NULLS LAST", "OFFSET", "ON",
    "OPTIONS", "OR", "ORDER BY", "OVER", "PARTITION BY", "PARTITIONED BY", "PRECEDING", "PREPARE", "PRIMARY KEY",
    "QUALIFY", "RANGE BETWEEN", "RIGHT JOIN", "ROWS BETWEEN", "SELECT", "SET TBLPROPERTIES", "SHOW TABLES", "SMALLINT",
    "STORED AS DELTA LOCATION", "STRING", "STRUCT", "SYNC INTO", "TABLE", "THEN", "TIMESTAMP", "TIMESTAMP AS OF",
    "TINYINT", "TRUE", "TRUNCATE TABLE", "UNBOUNDED", "UNION ALL", "UPDATE", "UPDATE SET", "USING", "VALUES", "VERBOSE",
    "VERSION AS OF", "WHEN", "WHEN MATCHED THEN DELETE", "WHEN MATCHED THEN UPDATE SET", "WHEN MATCHED AND",
    "WHEN NOT MATCHED THEN INSERT", "WHEN NOT MATCHED BY SOURCE THEN DELETE",
    "WHEN NOT MATCHED BY SOURCE THEN UPDATE SET", "WHEN NOT MATCHED BY TARGET THEN INSERT", "WHERE", "WINDOW", "WITH",
    "WITH RECURSIVE", "WITH SCHEMA EVOLUTION",
    "avg(", "coalesce(", "concat(", "count(", "current_date", "date_trunc(", "max(", "min(", "now()", "round(",
    "row_number()", "since_version =>", "sum(", "change_versions(", "net_changes(", "table_changes(", "table_changes_by_path(",
    "table_deletions(", "table_insertions(", "derive =>", "until_version =>", "CHANGES FROM VERSION", "CHANGES FROM TIMESTAMP",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let table = |schema: Option<&str>, name: &str, columns: &[&str]| TableName {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        };
        Names(vec![
            table(None, "orders", &["order_id", "\"Total\""]),
            table(None, "\"My Table\"", &["mine"]),
            table(Some("sales"), "q1", &["quarter"]),
        ])
    }

    #[test]
    fn completion() {
        let check = |text: &str, partial: usize, expected: &str| {
            let (length, found) = candidates(text, &names());
            assert_eq!(
                (length, found.join(", ").as_str()),
                (partial, expected),
                "{text}"
            );
        };
        check(
            "SELECT * FROM o",
            1,
            "offset, on, options, or, order by, order_id, orders, over",
        );
        check("SELECT * FROM ORDERS WHERE TO", 2, "\"Total\"");
        check("SELECT * FROM \"m", 2, "\"My Table\", mine");
        check("SELECT * FROM sales.", 0, "q1");
        check("SELECT * FROM sales.q1 WHERE qua", 3, "qualify, quarter");
        check("SELECT o.", 0, "\"Total\", mine, order_id, quarter");
        check("SELECT orders.", 0, "\"Total\", order_id");
        check("FROM orders x WHERE x.ord", 3, "order_id");
        check("SELECT 'o", 0, "");
        check("SELECT 1 -- o", 0, "");
        check(
            "SELECT table_ch",
            8,
            "table_changes(, table_changes_by_path(",
        );
        check(
            "WHEN NOT MATCHED BY SO",
            2,
            "SOURCE THEN DELETE, SOURCE THEN UPDATE SET",
        );
        check("describe h", 1, "having, history");
        check("\\f", 2, "\\format");
        check("\\format n", 1, "nd-json");
        check("\\d sal", 3, "sales.q1");
    }

    #[test]
    fn highlighting() {
        let check = |pending: &str, line: &str, expected: &str| {
            let shown = painted(pending, line).replace("\x1b[0m", ">");
            let shown = shown.replace("\x1b[", "<");
            assert_eq!(shown, expected);
        };
        check("", "select id from t", "<1;34mselect> id <1;34mfrom> t");
        check("", "1 + 'x' -- y", "<36m1> + <32m'x'> <90m-- y>");
        check("", "\\timing on", "<35m\\timing on>");
        check("SELECT 'a\n", "b', 2", "<32mb'>, <36m2>");
        check("SELECT 1\n", "é", "é");
    }
}
