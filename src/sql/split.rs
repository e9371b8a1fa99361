//! Splits a script into its statements, without parsing them.
//!
//! ```text
//! script ── tokens ──┬─ split_statements   what the shell and the tests run, one by one
//!                    ├─ is_complete        whether the shell asks for another line
//!                    └─ the shell's highlighting and completion
//! ```
//!
//! A token is a slice of the script and the tokens are the whole script, so that whatever is built on them agrees on
//! where a string or a comment ends. The rules are those of sqlparser's generic dialect, which nests block comments
//! and knows `E'…'` and `$tag$…$tag$` strings. A backslash at the start of a statement begins a command of the shell,
//! which ends with its line.

/// One statement of a script, without its `;` and the comments around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The text to run.
    pub text: &'a str,
    /// The line of the script it starts on, from 1.
    pub line: usize,
}

/// A string, a quoted name or a comment that never ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} that starts at line {line} is never closed")]
pub struct SplitError {
    /// What was opened.
    pub what: &'static str,
    /// The line of the script it starts on, from 1.
    pub line: usize,
}

/// The statements of a script, in order; empty statements and those of comments alone are left out.
///
/// ```
/// let statements = alluvial::sql::split_statements("-- two\nSELECT ';'; SELECT 2").unwrap();
/// assert_eq!(statements[0].text, "SELECT ';'");
/// assert_eq!(statements[1].line, 2);
/// ```
pub fn split_statements(script: &str) -> Result<Vec<Statement<'_>>, SplitError> {
    let mut statements = Vec::new();
    let mut current: Option<Statement<'_>> = None;
    let mut line = 1;
    for token in tokens(script) {
        if !token.closed {
            let what = token.kind.noun();
            return Err(SplitError { what, line });
        }
        match token.kind {
            TokenKind::Space | TokenKind::Comment => {}
            TokenKind::Semicolon => statements.extend(current.take()),
            TokenKind::Command => statements.push(Statement {
                text: token.text.trim_end(),
                line,
            }),
            _ => current = Some(extended(script, current, &token, line)),
        }
        line += token.text.matches('\n').count();
    }
    statements.extend(current);
    Ok(statements)
}

/// Whether `input` can be run as it is: it is empty, or a command of the shell, or every statement in it ends with `;`.
pub(crate) fn is_complete(input: &str) -> bool {
    tokens(input).fold(true, |complete, token| match token.kind {
        TokenKind::Space | TokenKind::Comment => complete && token.closed,
        TokenKind::Semicolon | TokenKind::Command => true,
        _ => false,
    })
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Space,
    Comment,
    /// A string literal, single-quoted or dollar-quoted.
    Text,
    /// A quoted identifier.
    Name,
    Word,
    Number,
    /// A command of the shell, up to the end of its line.
    Command,
    Semicolon,
    /// Any other character.
    Symbol,
}

impl TokenKind {
    fn noun(self) -> &'static str {
        match self {
            Self::Comment => "comment",
            Self::Name => "quoted name",
            _ => "string",
        }
    }
}

/// One piece of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind,
    pub(crate) text: &'a str,
    /// Where the text starts in the script, in bytes.
    pub(crate) start: usize,
    /// False when the script ends inside of a string, a quoted name or a block comment.
    pub(crate) closed: bool,
}

/// The pieces of a script; together they are the script.
pub(crate) fn tokens(script: &str) -> impl Iterator<Item = Token<'_>> {
    let mut start = 0;
    let mut at_statement_start = true;
    std::iter::from_fn(move || {
        let rest = &script[start..];
        let (kind, end) = lex(rest, rest.chars().next()?, at_statement_start);
        let token = Token {
            kind,
            text: &rest[..end.unwrap_or(rest.len())],
            start,
            closed: end.is_some(),
        };
        at_statement_start = match kind {
            TokenKind::Space | TokenKind::Comment => at_statement_start,
            TokenKind::Semicolon | TokenKind::Command => true,
            _ => false,
        };
        start += token.text.len();
        Some(token)
    })
}

/// The kind of the token that `rest` starts with, and where it ends, or `None` when it never does.
fn lex(rest: &str, first: char, at_statement_start: bool) -> (TokenKind, Option<usize>) {
    match first {
        ';' => (TokenKind::Semicolon, Some(1)),
        '\\' if at_statement_start => (TokenKind::Command, Some(line_end(rest))),
        '\'' => (TokenKind::Text, quoted_end(rest, 1, '\'', false)),
        'e' | 'E' if rest[1..].starts_with('\'') => {
            (TokenKind::Text, quoted_end(rest, 2, '\'', true))
        }
        '"' | '`' => (TokenKind::Name, quoted_end(rest, 1, first, false)),
        '-' if rest.starts_with("--") => (TokenKind::Comment, Some(line_end(rest))),
        '/' if rest.starts_with("/*") => (TokenKind::Comment, block_comment_end(rest)),
        '$' => dollar_quoted(rest),
        _ if first.is_whitespace() => (TokenKind::Space, Some(run_end(rest, char::is_whitespace))),
        _ if first.is_alphabetic() || first == '_' => {
            (TokenKind::Word, Some(run_end(rest, is_word)))
        }
        _ if first.is_ascii_digit() => (
            TokenKind::Number,
            Some(run_end(rest, |c| is_word(c) || c == '.')),
        ),
        _ => (TokenKind::Symbol, Some(first.len_utf8())),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn run_end(rest: &str, belongs: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !belongs(c)).unwrap_or(rest.len())
}

fn line_end(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// The end of a quoted token whose content starts at `from`; a doubled quote stands for itself.
fn quoted_end(rest: &str, from: usize, quote: char, escapes: bool) -> Option<usize> {
    let mut characters = rest.char_indices().skip(from).peekable();
    while let Some((at, c)) = characters.next() {
        if c == '\\' && escapes {
            characters.next();
        } else if c == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

fn block_comment_end(rest: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        let (change, width) = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += change;
        at += width;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// A `$tag$…$tag$` string, or the lone `$` of a placeholder such as `$1`.
fn dollar_quoted(rest: &str) -> (TokenKind, Option<usize>) {
    let tag = &rest[1..1 + run_end(&rest[1..], |c| c.is_alphanumeric() || c == '_')];
    let opening = 1 + tag.len() + 1;
    if tag.starts_with(|c: char| c.is_ascii_digit()) || !rest[1 + tag.len()..].starts_with('$') {
        return (TokenKind::Symbol, Some(1));
    }
    let closing = rest[opening..].find(&rest[..opening]);
    (TokenKind::Text, closing.map(|at| opening + at + opening))
}

/// The statement that `current` becomes with one more token.
fn extended<'a>(
    script: &'a str,
    current: Option<Statement<'a>>,
    token: &Token<'a>,
    line: usize,
) -> Statement<'a> {
    let Some(statement) = current else {
        return Statement {
            text: token.text,
            line,
        };
    };
    let start = statement.text.as_ptr() as usize - script.as_ptr() as usize;
    let text = &script[start..token.start + token.text.len()];
    Statement { text, ..statement }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(script: &str, expected: &[&str]) {
        let statements = split_statements(script).unwrap();
        let texts: Vec<_> = statements.iter().map(|statement| statement.text).collect();
        assert_eq!(texts, expected, "{script}");
        let whole: String = tokens(script).map(|token| token.text).collect();
        assert_eq!(whole, script, "the tokens are the script");
    }

    #[test]
    fn statements_end_at_semicolons() {
        check("", &[]);
        check(" ;; ; ", &[]);
        check("SELECT 1", &["SELECT 1"]);
        check("SELECT 1;", &["SELECT 1"]);
        check("SELECT 1; SELECT 2 ;\n", &["SELECT 1", "SELECT 2"]);
        check(
            "SELECT 'naïve é'; SELECT 'ß'",
            &["SELECT 'naïve é'", "SELECT 'ß'"],
        );
    }

    #[test]
    fn quotes_hide_semicolons() {
        check("SELECT 'a;b'; x", &["SELECT 'a;b'", "x"]);
        check("SELECT 'it''s; ok'; x", &["SELECT 'it''s; ok'", "x"]);
        check("SELECT ''; x", &["SELECT ''", "x"]);
        check(r"SELECT 'C:\'; x", &[r"SELECT 'C:\'", "x"]);
        check(r"SELECT E'it\'s; ok'; x", &[r"SELECT E'it\'s; ok'", "x"]);
        check(
            r#"SELECT "a;""b" FROM `c;d`; x"#,
            &[r#"SELECT "a;""b" FROM `c;d`"#, "x"],
        );
        check(r#"SELECT '"'; x"#, &[r#"SELECT '"'"#, "x"]);
        check("SELECT 'é;é'; x", &["SELECT 'é;é'", "x"]);
    }

    #[test]
    fn dollar_quotes_hide_semicolons() {
        check("SELECT $$a;'b$$; x", &["SELECT $$a;'b$$", "x"]);
        check("SELECT $q$a;$$;b$q$; x", &["SELECT $q$a;$$;b$q$", "x"]);
        check("SELECT $1; SELECT $2", &["SELECT $1", "SELECT $2"]);
        check("SELECT a$b; SELECT a$b", &["SELECT a$b", "SELECT a$b"]);
        check("EXECUTE p($name); x", &["EXECUTE p($name)", "x"]);
    }

    #[test]
    fn comments_hide_semicolons_and_are_dropped_around_statements() {
        check("-- nothing; here", &[]);
        check("/* nothing; /* nested; */ here; */", &[]);
        check("-- one;\nSELECT 1 -- it's; one\n; -- end", &["SELECT 1"]);
        check("SELECT /* ; */ 1; x", &["SELECT /* ; */ 1", "x"]);
        check("SELECT 1 /* it's */; x", &["SELECT 1", "x"]);
        check(
            "SELECT 1 - -1; SELECT 4 / 2 * 3",
            &["SELECT 1 - -1", "SELECT 4 / 2 * 3"],
        );
        check("SELECT '--'; x", &["SELECT '--'", "x"]);
    }

    #[test]
    fn commands_end_with_their_line() {
        check(
            "\\timing on\nSELECT 1; \\d t;\nSELECT 2",
            &["\\timing on", "SELECT 1", "\\d t;", "SELECT 2"],
        );
        check("\\i it's.sql\r\nSELECT 1", &["\\i it's.sql", "SELECT 1"]);
        check("SELECT '\\d'", &["SELECT '\\d'"]);
        check("SELECT 1 \\d", &["SELECT 1 \\d"]);
    }

    #[test]
    fn statements_know_their_line() {
        let script = "-- title\n\nSELECT 1\n  FROM t;\n/*\n*/ SELECT '\n'; SELECT 3";
        let lines: Vec<_> = split_statements(script)
            .unwrap()
            .iter()
            .map(|statement| statement.line)
            .collect();
        assert_eq!(lines, [3, 6, 7]);
    }

    #[test]
    fn what_never_ends_is_named_with_its_line() {
        let check = |script: &str, expected: &str| {
            assert_eq!(split_statements(script).unwrap_err().to_string(), expected)
        };
        check(
            "SELECT 1;\nSELECT 'x; SELECT 2",
            "the string that starts at line 2 is never closed",
        );
        check(
            "SELECT $$x",
            "the string that starts at line 1 is never closed",
        );
        check(
            "SELECT E'x\\'",
            "the string that starts at line 1 is never closed",
        );
        check(
            "\n\n/* /* */",
            "the comment that starts at line 3 is never closed",
        );
        check(
            "SELECT \"x",
            "the quoted name that starts at line 1 is never closed",
        );
    }

    #[test]
    fn input_is_complete_when_nothing_is_open() {
        let check =
            |input: &str, expected: bool| assert_eq!(is_complete(input), expected, "{input}");
        check("", true);
        check("  \n", true);
        check("-- only a comment", true);
        check("\\d", true);
        check("SELECT 1;", true);
        check("SELECT 1; -- done", true);
        check("SELECT 1; /* done */\n", true);
        check("SELECT 1", false);
        check("SELECT 1; SELECT 2", false);
        check("SELECT ';", false);
        check("SELECT 1 -- ;", false);
        check("SELECT 1; /* open", false);
        check("SELECT $$;", false);
        check("\\timing\nSELECT 1", false);
    }
}
