//! What can go wrong with a request, by what is done next: ask again on another connection, or tell the caller.
//!
//! Errors of connections keep their [`io::ErrorKind`] as the source of the store's error, so that callers see that they pass.

use std::io;

use object_store::Error;
use russh::Error as SshError;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{Status, StatusCode};

/// What the errors of the store call it.
pub(super) const STORE: &str = "SFTP";

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused it.
    Status(Status),
    /// The connection is of no more use, another one may be.
    Lost(io::Error),
    /// Asking again does not help.
    Fatal(Error),
}

impl Failure {
    /// Nothing that a retry could mend; `text` says it all.
    pub(super) fn fatal(text: impl Into<String>) -> Self {
        Self::Fatal(Error::Generic {
            store: STORE,
            // As an error of input and output it counts as lasting, which bare text does not.
            source: Box::new(io::Error::other(text.into())),
        })
    }

    /// The connection to `address` broke.
    pub(super) fn lost(kind: io::ErrorKind, address: &str, text: &str) -> Self {
        Self::Lost(io::Error::new(kind, format!("{address}: {text}")))
    }

    /// An error of the SFTP session with `address`.
    pub(super) fn of_request(error: SftpError, address: &str) -> Self {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, TimedOut};
        match error {
            SftpError::Status(status) => match status.status_code {
                StatusCode::NoConnection | StatusCode::ConnectionLost => {
                    Self::lost(ConnectionReset, address, &status.error_message)
                }
                _ => Self::Status(status),
            },
            SftpError::Timeout => Self::lost(
                TimedOut,
                address,
                "no answer in time (see the option sftp_timeout)",
            ),
            SftpError::IO(text) | SftpError::UnexpectedBehavior(text) => Self::lost(
                ConnectionReset,
                address,
                &format!("the connection was lost ({text})"),
            ),
            SftpError::UnexpectedPacket => {
                Self::lost(ConnectionAborted, address, "an answer of the wrong kind")
            }
            SftpError::Limited(text) => Self::fatal(format!("{address}: {text}")),
        }
    }

    /// An error of the SSH connection to `address`, before there is an SFTP session.
    pub(super) fn of_ssh(error: SshError, address: &str) -> Self {
        use io::ErrorKind::{ConnectionReset, TimedOut};
        match error {
            SshError::IO(error) => Self::lost(
                error.kind(),
                address,
                &format!("cannot connect: {error}; check the host, the port and the firewall"),
            ),
            SshError::ConnectionTimeout
            | SshError::KeepaliveTimeout
            | SshError::InactivityTimeout
            | SshError::Elapsed(_) => Self::lost(TimedOut, address, "the server does not answer"),
            SshError::Disconnect | SshError::HUP | SshError::SendError | SshError::RecvError => {
                Self::lost(
                    ConnectionReset,
                    address,
                    "the server closed the connection before it was ready",
                )
            }
            other => Self::fatal(format!("{address}: cannot connect by SSH: {other}")),
        }
    }

    /// Whether the server answered with `code`.
    pub(super) fn is(&self, code: StatusCode) -> bool {
        matches!(self, Self::Status(status) if status.status_code == code)
    }

    /// The error of the store about `path`.
    pub(super) fn at(self, path: &str) -> Error {
        match self {
            Self::Fatal(error) => error,
            Self::Lost(error) => Error::Generic {
                store: STORE,
                source: Box::new(error),
            },
            Self::Status(status) => refused(&status, path),
        }
    }
}

/// What the server said, in words.
fn describe(status: &Status) -> String {
    let code = status.status_code.to_string();
    if status.error_message.is_empty() || status.error_message.eq_ignore_ascii_case(&code) {
        code
    } else {
        format!("{code}: {}", status.error_message)
    }
}

fn refused(status: &Status, path: &str) -> Error {
    let source = describe(status);
    let path = path.to_owned();
    match status.status_code {
        StatusCode::NoSuchFile => Error::NotFound {
            path,
            source: source.into(),
        },
        StatusCode::PermissionDenied => Error::PermissionDenied {
            path,
            source: source.into(),
        },
        StatusCode::OpUnsupported => Error::NotSupported {
            source: format!("{path}: {source}").into(),
        },
        _ => Error::Generic {
            store: STORE,
            source: format!("{path}: {source}").into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn status(status_code: StatusCode, message: &str) -> SftpError {
        SftpError::Status(Status {
            id: 1,
            status_code,
            error_message: message.to_owned(),
            language_tag: String::new(),
        })
    }

    fn check(error: SftpError, expected: &str) {
        let text = Failure::of_request(error, "h:22").at("/a/b").to_string();
        assert_eq!(text, expected);
    }

    #[test]
    fn texts() {
        check(
            status(StatusCode::NoSuchFile, "No such file"),
            "Object at location /a/b not found: No such file",
        );
        check(
            status(StatusCode::PermissionDenied, ""),
            "The operation lacked the necessary privileges to complete for path /a/b: Permission denied",
        );
        check(
            status(StatusCode::Failure, "disk full"),
            "Generic SFTP error: /a/b: Failure: disk full",
        );
        check(
            SftpError::IO("broken".to_owned()),
            "Generic SFTP error: h:22: the connection was lost (broken)",
        );
    }

    #[test]
    fn lost_connections_keep_their_kind() {
        let kind_of = |failure: Failure| {
            let error = failure.at("/a");
            error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .map(io::Error::kind)
        };
        let refused = SshError::IO(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            kind_of(Failure::of_ssh(refused, "h:22")),
            Some(io::ErrorKind::ConnectionRefused)
        );
        assert_eq!(
            kind_of(Failure::of_request(SftpError::Timeout, "h:22")),
            Some(io::ErrorKind::TimedOut)
        );
        assert_eq!(kind_of(Failure::fatal("no")), Some(io::ErrorKind::Other));
    }
}
