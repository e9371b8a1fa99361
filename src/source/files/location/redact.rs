//! Texts without secrets.
//!
//! Errors of stores quote whole URLs, headers and answers of servers; any of them may carry a token or a signature.

use percent_encoding::percent_decode_str;

/// What stands in the place of a secret.
const HIDDEN: &str = "…";

/// Texts after which a secret follows, in lower case, and the characters at which it ends.
const MARKERS: &[(&str, &str)] = &[
    ("sig=", "&;,<>()\"' \t\r\n"),
    ("signature=", "&;,<>()\"' \t\r\n"),
    ("x-amz-security-token=", "&;,<>()\"' \t\r\n"),
    ("password=", "&;,<>()\"' \t\r\n"),
    ("access_token=", "&;,<>()\"' \t\r\n"),
    ("client_secret=", "&;,<>()\"' \t\r\n"),
    ("accountkey=", "&;,<>()\"' \t\r\n"),
    ("bearer ", "&;,<>()\"' \t\r\n"),
    ("sharedkey ", "&;,<>()\"' \t\r\n"),
    ("signatureprovided>", "<"),
    ("mac signature found in the http request '", "'"),
];

/// A value so long is a secret wherever it stands; a shorter one may be a part of a harmless word.
const LONG: usize = 8;

/// Values that no text may show.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    values: Vec<String>,
}

impl Secrets {
    /// Hides these values, as they are and as a URL writes them.
    pub(super) fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut all = Vec::new();
        for value in values {
            let decoded = percent_decode_str(&value).decode_utf8_lossy().into_owned();
            let encoded: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
            all.extend([decoded, encoded, value]);
        }
        all.retain(|value| !value.trim().is_empty());
        // the longest first, lest a part of a secret be replaced and the rest shown
        all.sort_by(|left, right| right.len().cmp(&left.len()).then(left.cmp(right)));
        all.dedup();
        Self { values: all }
    }

    /// The text without them, and without what [`redact_urls`] hides.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for value in &self.values {
            if value.len() >= LONG {
                shown = shown.replace(value.as_str(), HIDDEN);
            } else if shown.contains(value.as_str()) {
                shown = replace_words(&shown, value);
            }
        }
        redact_urls(&shown)
    }
}

/// The text with every URL cut at its query string, without the passwords of URLs, and without signatures and tokens that can be
/// told by what stands before them.
pub(crate) fn redact_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        let (url, after) = url.split_at(url.find(ends_url).unwrap_or(url.len()));
        shown.push_str(before);
        push_url(&mut shown, url);
        rest = after;
    }
    shown.push_str(rest);
    MARKERS.iter().fold(shown, |shown, (marker, ends)| {
        hide_after(shown, marker, ends)
    })
}

fn ends_url(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')
}

/// Appends what follows `://` of a URL.
fn push_url(shown: &mut String, url: &str) {
    let (address, query) = match url.split_once('?') {
        Some((address, _)) => (address, true),
        None => (url, false),
    };
    let authority = address.split('/').next().unwrap_or(address);
    let (user, _) = authority.split_once(':').unwrap_or((authority, ""));
    let host = match address.rsplit_once('@') {
        Some((_, host)) if has_password(authority) => Some(host),
        None if has_password(authority) => Some(""),
        _ => None,
    };
    match host {
        Some(host) => shown.extend([user, ":", HIDDEN, "@", host]),
        None => shown.push_str(address),
    }
    if query {
        shown.extend(["?", HIDDEN]);
    }
}

/// Whether the part of a URL before its path has a password; a password with a slash in it is cut there.
fn has_password(authority: &str) -> bool {
    match authority.rsplit_once('@') {
        Some((user, _)) => user.contains(':'),
        None => authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit())
        }),
    }
}

fn hide_after(text: String, marker: &str, ends: &str) -> String {
    // letters keep their length, so that positions are those of the text
    let lower = text.to_ascii_lowercase();
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = lower[from..].find(marker) {
        let start = from + at + marker.len();
        let end = lower[start..]
            .find(|c: char| ends.contains(c))
            .map_or(text.len(), |length| start + length);
        shown.push_str(&text[from..start]);
        if end > start {
            shown.push_str(HIDDEN);
        }
        from = end;
    }
    shown.push_str(&text[from..]);
    shown
}

/// The text without a value where it stands for itself.
fn replace_words(text: &str, value: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in text.match_indices(value) {
        let (before, after) = (&text[..at], &text[at + value.len()..]);
        let inside =
            before.ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
        if !inside {
            shown.push_str(&text[from..at]);
            shown.push_str(HIDDEN);
            from = at + value.len();
        }
    }
    shown.push_str(&text[from..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_query_strings_and_passwords() {
        let check = |text: &str, expected: &str| assert_eq!(redact_urls(text), expected);
        check("plain text?", "plain text?");
        check("s3://bucket/a@b:c/d", "s3://bucket/a@b:c/d");
        check("http://127.0.0.1:10000/a/b", "http://127.0.0.1:10000/a/b");
        check("http://[::1]:22/a", "http://[::1]:22/a");
        check(
            "GET https://a.b/c?sv=1&sig=x%2F failed: https://d/e",
            "GET https://a.b/c?… failed: https://d/e",
        );
        check("(\"https://a.b/c?x\")", "(\"https://a.b/c?…\")");
        check("sftp://me:pass@host:22/x", "sftp://me:…@host:22/x");
        check("sftp://me@host:22/x", "sftp://me@host:22/x");
        check("sftp://me:pa/ss@host/x", "sftp://me:…@host/x");
        check("sftp://me:pa?ss@host/x", "sftp://me:…@?…");
        check("<Q>sv=1&amp;sig=abc%3D</Q>", "<Q>sv=1&amp;sig=…</Q>");
        check("X-Amz-Signature=0af, next", "X-Amz-Signature=…, next");
        check("Authorization: Bearer ey.J0", "Authorization: Bearer …");
        check(
            "<SignatureProvided>q+/=</SignatureProvided>",
            "<SignatureProvided>…</SignatureProvided>",
        );
    }

    #[test]
    fn values_are_hidden_however_they_are_written() {
        let secrets = Secrets::new(["se cret/+1234".to_owned(), "test".to_owned(), String::new()]);
        let check = |text: &str, expected: &str| assert_eq!(secrets.redact(text), expected);
        check("is se cret/+1234 shown", "is … shown");
        check("is se+cret%2F%2B1234 shown", "is … shown");
        check("key test, bucket contest", "key …, bucket contest");
        check("nothing here", "nothing here");
    }
}
