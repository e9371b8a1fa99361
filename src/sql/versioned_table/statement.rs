//! `CREATE EXTERNAL TABLE … STORED AS VERSIONED` without a LOCATION, which DataFusion's grammar asks for.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::rewrite::is_word;
use super::VERSIONED;

/// The tokens, which have no white space, with an empty LOCATION where such a statement has none: a table of the session has none.
pub(in crate::sql) fn with_location(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    const BEGINNINGS: [&[&str]; 2] = [
        &["CREATE", "EXTERNAL", "TABLE"],
        &["CREATE", "OR", "REPLACE", "EXTERNAL", "TABLE"],
    ];
    const STORED: [&str; 3] = ["STORED", "AS", VERSIONED];
    let creates = BEGINNINGS.iter().any(|words| begins(&tokens, words));
    let has_location = tokens.iter().any(|token| is_word(Some(token), "LOCATION"));
    if !creates || has_location {
        return tokens;
    }
    let stored = (0..tokens.len()).find(|at| begins(&tokens[*at..], &STORED));
    if let Some(at) = stored {
        let span = tokens[at].span;
        let location = [
            Token::make_keyword("LOCATION"),
            Token::SingleQuotedString(String::new()),
        ];
        for (offset, token) in location.into_iter().enumerate() {
            tokens.insert(at + STORED.len() + offset, TokenWithSpan { token, span });
        }
    }
    tokens
}

fn begins(tokens: &[TokenWithSpan], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && words
            .iter()
            .zip(tokens)
            .all(|(word, token)| is_word(Some(token), word))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn check(sql: &str, expected: &str) {
        let tokens = Tokenizer::new(&GenericDialect {}, sql)
            .tokenize_with_location()
            .unwrap();
        let filled = tokens
            .into_iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_)));
        let texts = with_location(filled.collect())
            .iter()
            .map(|token| token.token.to_string())
            .collect::<Vec<_>>();
        assert_eq!(texts.join(" "), expected);
    }

    #[test]
    fn a_location_is_added_where_it_is_missing() {
        check(
            "CREATE EXTERNAL TABLE s STORED AS VERSIONED OPTIONS (table 't')",
            "CREATE EXTERNAL TABLE s STORED AS VERSIONED LOCATION '' OPTIONS ( table 't' )",
        );
        check(
            "create or replace external table s stored as versioned",
            "create or replace external table s stored as versioned LOCATION ''",
        );
        for other in [
            "CREATE EXTERNAL TABLE s STORED AS VERSIONED LOCATION 'x'",
            "CREATE EXTERNAL TABLE s STORED AS CSV",
            "SELECT stored AS versioned",
        ] {
            check(other, other);
        }
    }
}
