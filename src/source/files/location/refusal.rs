//! What was refused, and how: the HTTP status and the code in the server's answer, wherever an error has them.
//!
//! Stores differ: a listing that is not permitted is a `Generic` error whose text has the answer, a read that is not is
//! `PermissionDenied`.

/// What was being done, as far as permissions tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    List,
    Read,
    Write,
}

/// How a server said no.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    /// The HTTP status, or the one that stands for the error's variant.
    pub(super) status: Option<u16>,
    /// The `<Code>` of the answer.
    pub(super) code: &'a str,
    /// The whole text, without secrets.
    pub(super) text: &'a str,
}

impl Act {
    /// By the verb with which the text begins.
    pub(super) fn of(doing: &str) -> Self {
        match doing.split_whitespace().next().unwrap_or_default() {
            "list" | "find" | "discover" => Self::List,
            "write" | "create" | "put" | "delete" | "remove" | "number" => Self::Write,
            _ => Self::Read,
        }
    }

    /// What a permission for it is called.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl<'a> Refusal<'a> {
    /// Reads an error, `text` being what it says without secrets.
    pub(super) fn of(error: &object_store::Error, text: &'a str) -> Self {
        let status = match error {
            object_store::Error::NotFound { .. } => Some(404),
            object_store::Error::PermissionDenied { .. } => Some(403),
            object_store::Error::Unauthenticated { .. } => Some(401),
            object_store::Error::Generic { .. } => status(text),
            _ => None,
        };
        let mut code = between(text, "<Code>", "</Code>").unwrap_or_default();
        // some servers give it another code
        if text.contains("failed to authenticate the request") {
            code = "AuthenticationFailed";
        }
        Self { status, code, text }
    }

    /// Whether not only a file is missing, but all there would be.
    pub(super) fn names_missing_store(&self) -> bool {
        matches!(self.code, "NoSuchBucket" | "ContainerNotFound")
    }
}

/// The status that object_store quotes.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_code_are_found_in_the_text() {
        let text = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code></Error>";
        let error = object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        };
        let refusal = Refusal::of(&error, text);
        assert_eq!((refusal.status, refusal.code), (Some(403), "AccessDenied"));
        assert_eq!(status("status code: 40"), None);
        assert_eq!(between("<Code>", "<Code>", "</Code>"), None);
    }

    #[test]
    fn verbs_tell_what_was_done() {
        let check = |doing: &str, expected| assert_eq!(Act::of(doing), expected);
        check("list", Act::List);
        check("read a.csv", Act::Read);
        check("write the ledger", Act::Write);
        check("", Act::Read);
    }
}
