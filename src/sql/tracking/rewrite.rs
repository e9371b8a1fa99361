//! SQL Server's spelling, as far as DataFusion's grammar has no room for it.
//!
//! - `CHANGETABLE(CHANGES t, v)` becomes `changetable_changes(t, v)`, `CHANGETABLE(VERSION …)` likewise.
//! - `cdc.fn_cdc_get_all_changes_t(…)` becomes `fn_cdc_get_all_changes('t', …)`; `sys.` and `cdc.` before functions go.
//! - A table that such a function names by an identifier becomes a text.
//! - `N'text'` becomes `'text'`.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::relations::{ALL_CHANGES, CHANGES, NET_CHANGES, VERSION};

/// Functions whose first argument is a table.
const OF_TABLES: [&str; 6] = [
    "change_tracking_current_version",
    "change_tracking_min_valid_version",
    "fn_cdc_get_min_lsn",
    "fn_cdc_get_max_lsn",
    "fn_cdc_get_column_ordinal",
    "fn_cdc_has_column_changed",
];

/// Rewrites a statement's tokens, which have no white space.
pub(crate) fn rewrite_tracking(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut output: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        let span = token.span;
        let at = |token: Token| TokenWithSpan { token, span };
        let is_call = matches!(
            tokens.get(index + 1).map(|next| &next.token),
            Some(Token::LParen)
        );
        let name = word(token).filter(|_| is_call);
        match (&token.token, name) {
            (Token::NationalStringLiteral(text), _) => {
                output.push(at(Token::SingleQuotedString(text.clone())));
                index += 1;
            }
            (_, Some(name)) if name == "changetable" => {
                let function = match tokens.get(index + 2).and_then(word).as_deref() {
                    Some("changes") => CHANGES,
                    Some("version") => VERSION,
                    _ => "",
                };
                if function.is_empty() {
                    output.push(token.clone());
                    index += 1;
                } else {
                    output.extend([at(Token::make_word(function, None)), at(Token::LParen)]);
                    index += 3;
                }
            }
            (_, Some(name))
                if name.starts_with("fn_cdc_") || OF_TABLES.contains(&name.as_str()) =>
            {
                drop_schema(&mut output);
                index = function(&tokens, index, &name, &mut output);
            }
            _ => {
                output.push(token.clone());
                index += 1;
            }
        }
    }
    output
}

/// Writes a function's name, the parenthesis after it, and its table; returns where the tokens go on.
fn function(
    tokens: &[TokenWithSpan],
    index: usize,
    name: &str,
    output: &mut Vec<TokenWithSpan>,
) -> usize {
    let span = tokens[index].span;
    let at = |token: Token| TokenWithSpan { token, span };
    for of_instance in [ALL_CHANGES, NET_CHANGES] {
        let Some(instance) = name
            .strip_prefix(of_instance)
            .and_then(|rest| rest.strip_prefix('_'))
        else {
            continue;
        };
        output.extend([
            at(Token::make_word(of_instance, None)),
            at(Token::LParen),
            at(Token::SingleQuotedString(instance.to_owned())),
            at(Token::Comma),
        ]);
        return index + 2;
    }
    output.extend(tokens[index..index + 2].iter().cloned());
    if !OF_TABLES.contains(&name) {
        return index + 2;
    }
    let mut end = index + 2;
    let mut text = String::new();
    while let Some(Token::Word(part)) = tokens.get(end).map(|token| &token.token) {
        text.push_str(&part.to_string());
        end += 1;
        if !matches!(
            tokens.get(end).map(|token| &token.token),
            Some(Token::Period)
        ) {
            break;
        }
        text.push('.');
        end += 1;
    }
    let is_argument = matches!(
        tokens.get(end).map(|token| &token.token),
        Some(Token::Comma | Token::RParen)
    );
    if !is_argument || text.is_empty() {
        return index + 2;
    }
    output.push(at(Token::SingleQuotedString(text)));
    end
}

/// Takes `sys.` or `cdc.` back.
fn drop_schema(output: &mut Vec<TokenWithSpan>) {
    let [.., schema, period] = output.as_slice() else {
        return;
    };
    let is_schema = word(schema).is_some_and(|name| ["sys", "cdc"].contains(&name.as_str()));
    if is_schema && period.token == Token::Period {
        output.truncate(output.len() - 2);
    }
}

/// An unquoted word, in lower case.
fn word(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: &str) {
        let tokens = Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .unwrap();
        let tokens = tokens
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)));
        let rewritten = rewrite_tracking(tokens.collect());
        let text: Vec<String> = rewritten
            .iter()
            .map(|token| token.token.to_string())
            .collect();
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn sql_servers_spelling_is_understood() {
        check(
            "FROM CHANGETABLE(CHANGES dbo.t, 0) AS ct",
            "FROM changetable_changes ( dbo . t , 0 ) AS ct",
        );
        check(
            "FROM changetable(version t, (id), (7)) v",
            "FROM changetable_version ( t , ( id ) , ( 7 ) ) v",
        );
        check(
            "SELECT CHANGE_TRACKING_CURRENT_VERSION(), change_tracking_min_valid_version(\"T t\")",
            "SELECT CHANGE_TRACKING_CURRENT_VERSION ( ) , change_tracking_min_valid_version ( '\"T t\"' )",
        );
        check(
            "sys.fn_cdc_get_min_lsn(s.t) OR sys.fn_cdc_get_min_lsn(OBJECT_ID('t'))",
            "fn_cdc_get_min_lsn ( 's.t' ) OR fn_cdc_get_min_lsn ( OBJECT_ID ( 't' ) )",
        );
        check(
            "FROM cdc.fn_cdc_get_all_changes_dbo_t(0x01, 0x02, N'all')",
            "FROM fn_cdc_get_all_changes ( 'dbo_t' , X'01' , X'02' , 'all' )",
        );
        check(
            "SELECT changes, version FROM changetable",
            "SELECT changes , version FROM changetable",
        );
        check("SELECT sys.x FROM sys", "SELECT sys . x FROM sys");
    }
}
