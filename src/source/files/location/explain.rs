//! Errors of a store, said in terms of the location, with the fix and without secrets.
//!
//! Only what is known and would not pass by itself is said anew; everything else stays the store's error, as transient as it was.

use std::io;

use chrono::Utc;

use super::kind::Kind;
use super::refusal::{Act, Refusal};
use super::{Location, local};
use crate::error::Error;

impl Location {
    /// An error of the store, in words that say what to do about it. `doing` is what was being done, beginning with a verb:
    /// `list`, `read a.csv`, `write the ledger`. What may pass by itself stays transient.
    pub(crate) fn explain(&self, doing: &str, error: object_store::Error) -> Error {
        let text = self.secrets.redact(&error.to_string());
        let act = Act::of(doing);
        let reason = self.reason(act, &error, &Refusal::of(&error, &text));
        match reason {
            Some(reason) => {
                let fix = match act {
                    Act::Write if doing.contains("ledger") => {
                        "; or give a ledger '…' that can be written"
                    }
                    _ => "",
                };
                let at = if doing.contains(' ') { "at " } else { "" };
                let shown = &self.shown;
                Error::invalid(format!("cannot {doing} {at}{shown}: {reason}{fix}"))
            }
            None => Error::ObjectStore(self.without_secrets(error, text)),
        }
    }

    /// Why it failed, where that is known and asking again would not help.
    fn reason(
        &self,
        act: Act,
        error: &object_store::Error,
        refusal: &Refusal<'_>,
    ) -> Option<String> {
        if self.kind == Kind::Local && local::is_permission_denied(error) {
            return Some(format!(
                "{}; give the user of this process the permission to {}",
                refusal.text,
                act.verb()
            ));
        }
        if let object_store::Error::NotFound { path, .. } = error
            && act != Act::List
            && !refusal.names_missing_store()
        {
            return Some(format!("{path} is not there"));
        }
        match self.kind {
            Kind::Azure => self.reason_of_azure(act, refusal),
            Kind::S3 => self.reason_of_s3(act, refusal),
            Kind::Google => self.reason_of_google(act, refusal),
            Kind::Local | Kind::Sftp => self.reason_of_folder(act, refusal),
        }
    }

    fn reason_of_azure(&self, act: Act, refusal: &Refusal<'_>) -> Option<String> {
        match (refusal.status?, refusal.code) {
            (404, "ContainerNotFound") => Some("there is no such container".into()),
            (404, _) => Some(self.not_there()),
            (401 | 403, code) => Some(
                self.reason_of_token(act, refusal)
                    .unwrap_or_else(|| match code {
                        "AuthenticationFailed" => format!(
                            "the credentials were refused; check account_name, account_key or sas_token ({})",
                            refusal.text
                        ),
                        _ => format!(
                            "the credentials may not {} there ({})",
                            act.verb(),
                            refusal.text
                        ),
                    }),
            ),
            _ => None,
        }
    }

    /// Why a SAS token does not serve.
    fn reason_of_token(&self, act: Act, refusal: &Refusal<'_>) -> Option<String> {
        let token = self.sas.as_ref()?;
        let lower = refusal.text.to_ascii_lowercase();
        if let Some(reason) = token.not_valid(Utc::now()) {
            return Some(reason);
        }
        if lower.contains("expiry") || lower.contains("expired") {
            return Some(token.expired());
        }
        let (letters, ask_for) = match act {
            Act::List => ("l", "read and list permission (sp=rl)"),
            Act::Read => ("r", "read and list permission (sp=rl)"),
            Act::Write => (
                "wc",
                "read, list, create, write and delete permission (sp=rlcwd)",
            ),
        };
        token
            .lacks(act.verb(), letters, ask_for)
            .or_else(|| match refusal.code {
                "AuthenticationFailed" => Some(
                    "the SAS token was refused; it must be whole, unchanged, and made for this account and container".into(),
                ),
                "AuthorizationPermissionMismatch" => {
                    Some(format!("the SAS token may not {}; ask for one with {ask_for}", act.verb()))
                }
                _ => None,
            })
    }

    fn reason_of_s3(&self, act: Act, refusal: &Refusal<'_>) -> Option<String> {
        let reason = match (refusal.status.unwrap_or_default(), refusal.code) {
            (_, "NoSuchBucket") => "there is no such bucket".to_owned(),
            (_, "InvalidAccessKeyId") => {
                "the access key is not known there; check access_key_id and, for another service than AWS, endpoint".to_owned()
            }
            (_, "SignatureDoesNotMatch") => {
                "the secret access key does not fit the access key; check secret_access_key".to_owned()
            }
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
                "the session token has expired or is not valid; give new credentials".to_owned()
            }
            (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                format!("the bucket is in another region; give region '…' ({})", refusal.text)
            }
            (_, "RequestTimeTooSkewed") => {
                "the clock of this machine is wrong by more than the server allows".to_owned()
            }
            (404, _) => self.not_there(),
            (401 | 403, _) => {
                let permission = match act {
                    Act::List => "s3:ListBucket",
                    Act::Read => "s3:GetObject",
                    Act::Write => "s3:PutObject",
                };
                format!(
                    "the credentials may not {} there; they need {permission} ({})",
                    act.verb(),
                    refusal.text
                )
            }
            _ if refusal.text.contains("redirect without LOCATION") => {
                "the bucket is in another region; give region '…'".to_owned()
            }
            _ => return None,
        };
        Some(reason)
    }

    fn reason_of_google(&self, act: Act, refusal: &Refusal<'_>) -> Option<String> {
        let permission = match act {
            Act::List => "storage.objects.list",
            Act::Read => "storage.objects.get",
            Act::Write => "storage.objects.create",
        };
        match (refusal.status?, refusal.code) {
            (_, "NoSuchBucket") => Some("there is no such bucket".into()),
            (404, _) => Some(self.not_there()),
            (401, _) => Some(format!(
                "the credentials were refused; check service_account or service_account_key ({})",
                refusal.text
            )),
            (403, _) => Some(format!(
                "the credentials may not {} there; they need {permission} ({})",
                act.verb(),
                refusal.text
            )),
            _ => None,
        }
    }

    fn reason_of_folder(&self, act: Act, refusal: &Refusal<'_>) -> Option<String> {
        match refusal.status? {
            404 => Some(self.not_there()),
            401 => Some(refusal.text.to_owned()),
            403 => Some(format!(
                "the user may not {} there ({})",
                act.verb(),
                refusal.text
            )),
            _ => None,
        }
    }

    fn not_there(&self) -> String {
        format!("the folder {} is not there", self.shown)
    }

    /// The error as it is where it has no secrets, otherwise one that says the same and is as transient.
    fn without_secrets(&self, error: object_store::Error, text: String) -> object_store::Error {
        use object_store::Error as StoreError;
        // the long form shows causes that the short one may leave out
        let long = format!("{error:?}");
        if text == error.to_string() && self.secrets.redact(&long) == long {
            return error;
        }
        match error {
            StoreError::Generic { store, source } => match source.downcast_ref::<io::Error>() {
                Some(cause) => {
                    let cause = io::Error::new(cause.kind(), cause_of(store, &text));
                    StoreError::Generic {
                        store,
                        source: Box::new(cause),
                    }
                }
                None => generic(store, &text),
            },
            StoreError::AlreadyExists { .. }
            | StoreError::Precondition { .. }
            | StoreError::NotModified { .. }
            | StoreError::JoinError { .. } => generic("object store", &text),
            _ => StoreError::NotSupported {
                source: text.into(),
            },
        }
    }
}

fn generic(store: &'static str, text: &str) -> object_store::Error {
    object_store::Error::Generic {
        store,
        source: cause_of(store, text).into(),
    }
}

/// The text of a generic error without the beginning that the error puts before its cause.
fn cause_of<'a>(store: &str, text: &'a str) -> &'a str {
    let begin = format!("Generic {store} error: ");
    text.strip_prefix(begin.as_str()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn open(location: &str) -> Location {
        let options = [
            ("account_name", "acme"),
            ("access_key_id", "AKID"),
            ("secret_access_key", "hush-hush"),
            (
                "service_account_key",
                r#"{"gcs_base_url":"http://127.0.0.1:4444","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#,
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Location::try_new(location, &HashMap::from(options)).unwrap()
    }

    /// An answer to a listing, which object_store does not sort by status.
    fn answer(status: &str, code: &str, message: &str) -> object_store::Error {
        let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        object_store::Error::Generic {
            store: "Test",
            source: format!("Server returned non-2xx status code: {status}: {body}").into(),
        }
    }

    fn denied() -> object_store::Error {
        object_store::Error::PermissionDenied {
            path: "a.csv".into(),
            source: "GET https://h/a.csv?sig=hush failed".into(),
        }
    }

    fn check(location: &str, doing: &str, error: object_store::Error, expected: &str) {
        let found = open(location).explain(doing, error);
        let text = found.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("hush"), "{text}");
        assert!(!format!("{found:?}").contains("hush"), "{found:?}");
        assert!(!found.is_transient(), "{text}");
    }

    fn token(permissions: &str, expires: &str) -> String {
        format!(
            "https://acme.blob.core.windows.net/box/in?sp={permissions}&se={expires}&sr=c&sig=hush-hush"
        )
    }

    #[test]
    fn tokens_are_told_apart() {
        let (past, future) = ("2001-02-03T04:05:06Z", "2999-01-01T00:00:00Z");
        check(
            &token("rl", past),
            "list the files",
            answer("403 Forbidden", "AuthenticationFailed", "hush-hush"),
            "cannot list the files at https://acme.blob.core.windows.net/box/in/: the SAS token expired at 2001-02-03T04:05:06Z;",
        );
        check(
            &token("rl", future),
            "list the files",
            answer(
                "403 Forbidden",
                "AuthenticationFailed",
                "Signed expiry time [x] must be after",
            ),
            "the SAS token expired at 2999-01-01T00:00:00Z",
        );
        check(
            &token("r", future),
            "list the files",
            answer("403 Forbidden", "AuthorizationPermissionMismatch", ""),
            "the SAS token may not list (sp=r); ask for one with read and list permission (sp=rl)",
        );
        check(
            &token("rl", future),
            "write the ledger",
            denied(),
            "the SAS token may not write (sp=rl); ask for one with read, list, create, write and delete permission (sp=rlcwd); \
             or give a ledger '…' that can be written",
        );
        check(
            &token("rl", future),
            "list the files",
            answer(
                "403 Forbidden",
                "AuthenticationFailed",
                "Signature did not match",
            ),
            "the SAS token was refused",
        );
        check(
            &token("rl", future),
            "list the files",
            answer("404 Not Found", "ContainerNotFound", ""),
            "there is no such container",
        );
    }

    #[test]
    fn refusals_name_the_permission_or_the_option() {
        let forbidden = |code| answer("403 Forbidden", code, "");
        let check_s3 =
            |doing: &str, error, expected: &str| check("s3://b/in", doing, error, expected);
        check_s3("list the files", forbidden("AccessDenied"), "s3:ListBucket");
        check_s3("read a.csv", denied(), "s3:GetObject");
        check_s3("write the ledger", denied(), "s3:PutObject");
        check_s3(
            "list the files",
            forbidden("InvalidAccessKeyId"),
            "check access_key_id",
        );
        check_s3(
            "list the files",
            forbidden("SignatureDoesNotMatch"),
            "check secret_access_key",
        );
        check_s3(
            "list the files",
            answer("404 Not Found", "NoSuchBucket", ""),
            "no such bucket",
        );
        check_s3(
            "list the files",
            answer("400 Bad Request", "ExpiredToken", ""),
            "session token",
        );
        check_s3(
            "list the files",
            answer("400 Bad Request", "AuthorizationHeaderMalformed", ""),
            "give region",
        );
        check(
            "gs://b/in",
            "list the files",
            forbidden("AccessDenied"),
            "storage.objects.list",
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = || object_store::Error::NotFound {
            path: "in/a.csv".into(),
            source: "404".into(),
        };
        check(
            "s3://b/in",
            "list",
            missing(),
            "cannot list s3://b/in/: the folder s3://b/in/ is not there",
        );
        check(
            "s3://b/in",
            "read a.csv",
            missing(),
            "cannot read a.csv at s3://b/in/: in/a.csv is not there",
        );
        check(
            "/no/such/drop",
            "list the files",
            missing(),
            "the folder /no/such/drop/ is not there",
        );
    }

    #[test]
    fn permissions_of_folders_name_the_path() {
        let denied = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "/drop/a.csv: Permission denied",
        );
        let error = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(denied),
        };
        check(
            "/drop",
            "read a.csv",
            error,
            "/drop/a.csv: Permission denied; give the user",
        );
    }

    #[test]
    fn what_may_pass_stays_transient_and_hides_secrets() {
        let error = |text: &str| object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        };
        let check = |text: &str, expected: &str| {
            let found = open("s3://b/in").explain("list the files", error(text));
            assert_eq!(found.to_string(), expected);
            assert!(!format!("{found:?}").contains("hush"), "{found:?}");
            assert!(found.is_transient());
        };
        check("connection reset", "Generic S3 error: connection reset");
        check(
            "GET http://h/b?X-Amz-Signature=hush timed out",
            "Generic S3 error: GET http://h/b?… timed out",
        );
        check("hush-hush", "Generic S3 error: …");
        check(
            "status code: 503 Slow Down",
            "Generic S3 error: status code: 503 Slow Down",
        );
        let refused = object_store::Error::Generic {
            store: "SFTP",
            source: Box::new(io::Error::new(io::ErrorKind::ConnectionReset, "hush-hush")),
        };
        assert!(open("s3://b").explain("list", refused).is_transient());
    }
}
