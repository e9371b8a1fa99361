//! What a shared access signature of Azure says of itself: when it is valid, and what it permits.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// The readable part of a token, for messages about it; the signature is not kept.
#[derive(Debug)]
pub(super) struct SasToken {
    /// The letters of `sp`.
    permissions: Option<String>,
    starts: Option<String>,
    expires: Option<String>,
    /// Whether it is for one file.
    one_blob: bool,
}

impl SasToken {
    /// Reads a query string.
    pub(super) fn parse(token: &str) -> Self {
        let token = token.trim().trim_start_matches('?');
        let value = |wanted: &str| {
            url::form_urlencoded::parse(token.as_bytes())
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.into_owned())
        };
        Self {
            permissions: value("sp"),
            starts: value("st"),
            expires: value("se"),
            one_blob: value("sr").is_some_and(|resource| resource == "b"),
        }
    }

    /// The secret part of a query string, as it is written there.
    pub(super) fn signature(token: &str) -> Option<&str> {
        token
            .trim_start_matches('?')
            .split('&')
            .find_map(|pair| pair.trim().strip_prefix("sig="))
    }

    /// Why the token does not serve at `now`, if that is so.
    pub(super) fn not_valid(&self, now: DateTime<Utc>) -> Option<String> {
        let is = |text: &Option<String>, past: bool| {
            let instant = instant(text.as_deref()?)?;
            (past == (instant <= now)).then(|| text.clone())?
        };
        if let Some(expires) = is(&self.expires, true) {
            return Some(expired_at(&expires));
        }
        let starts = is(&self.starts, false)?;
        Some(format!("the SAS token is not valid before {starts}"))
    }

    /// That it has expired, as a server says.
    pub(super) fn expired(&self) -> String {
        expired_at(
            self.expires
                .as_deref()
                .unwrap_or("a time that the server knows"),
        )
    }

    /// Why the token does not let one do something, if that can be told. `letters`: any of them permits it.
    pub(super) fn lacks(&self, verb: &str, letters: &str, ask_for: &str) -> Option<String> {
        let permissions = self.permissions.as_deref()?;
        if permissions.contains(|c: char| letters.contains(c)) {
            let one_blob = self.one_blob && letters.contains('l');
            return one_blob.then(|| {
                "the SAS token is for a single file (sr=b); ask for one for the container (sr=c)".to_owned()
            });
        }
        Some(format!(
            "the SAS token may not {verb} (sp={permissions}); ask for one with {ask_for}"
        ))
    }
}

fn expired_at(at: &str) -> String {
    format!(
        "the SAS token expired at {at}; ask for a new one and give it with OPTIONS (sas_token '…')"
    )
}

/// The forms of ISO 8601 that Azure takes.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    if let Ok(minute) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%MZ") {
        return Some(minute.and_utc());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_compared_with_now() {
        let now = instant("2026-03-01T12:00:00Z").unwrap();
        let check = |token: &str, expected: Option<&str>| {
            let reason = SasToken::parse(token).not_valid(now);
            match expected {
                None => assert_eq!(reason, None, "{token}"),
                Some(part) => assert!(
                    reason.clone().unwrap().contains(part),
                    "{token}: {reason:?}"
                ),
            }
        };
        check("sp=rl&sig=x", None);
        check("se=2026-03-01T12%3A00%3A01Z", None);
        check(
            "?st=2026-02-01&se=2026-03-01T11:59Z",
            Some("expired at 2026-03-01T11:59Z"),
        );
        check("se=2026-03-01", Some("expired at 2026-03-01;"));
        check(
            "st=2026-03-02T00:00:00Z",
            Some("not valid before 2026-03-02T00:00:00Z"),
        );
        check("se=soon", None);
    }

    #[test]
    fn permissions_are_letters() {
        let check = |token: &str, letters: &str, expected: Option<&str>| {
            let reason = SasToken::parse(token).lacks("list", letters, "rl");
            assert_eq!(reason.as_deref(), expected, "{token}");
        };
        check("sp=rl", "l", None);
        check(
            "sp=r",
            "l",
            Some("the SAS token may not list (sp=r); ask for one with rl"),
        );
        check("sp=rcw", "wc", None);
        check("sv=1", "l", None);
        check(
            "sp=rl&sr=b",
            "l",
            Some("the SAS token is for a single file (sr=b); ask for one for the container (sr=c)"),
        );
        assert_eq!(SasToken::signature("?sv=1&sig=a%2Fb"), Some("a%2Fb"));
        assert_eq!(SasToken::signature("sv=1"), None);
    }
}
