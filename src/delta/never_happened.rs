//! Errors of a store that tell for certain that a write has had no effect, and will not have one.
//!
//! Most errors tell nothing of the kind: the answer of a write that was done may be lost, or the request still be on its way. These
//! are answers to the request itself, by the store or by the operating system: it was understood and refused. One that the client has
//! sent more than once is not among them.

use std::io;

use object_store::Error;

/// Whether a write was refused, rather than that nobody knows what has become of it.
pub(super) fn never_happened(error: &Error) -> bool {
    if was_repeated(error) {
        return false;
    }
    match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotFound { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => true,
        Error::Generic { source, .. } => is_refused_by_system(source.as_ref()),
        _ => false,
    }
}

/// Whether the client has sent the request more than once: what is refused is the last one, and the first may still be done. Only
/// the text of its error tells.
fn was_repeated(error: &Error) -> bool {
    let text = error.to_string();
    text.contains(", after ") && text.contains(" retries, max_retries: ")
}

/// Whether the operating system is behind an error, which refuses at once or does at once.
fn is_refused_by_system(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let found = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
    found.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use object_store::local::LocalFileSystem;
    use object_store::path::Path;
    use object_store::{ObjectStore, PutMode};

    use super::*;

    fn check(error: Error, expected: bool) {
        assert_eq!(never_happened(&error), expected, "{error:?}");
    }

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Generic {
            store: "t",
            source: source.into(),
        }
    }

    #[test]
    fn only_refusals_are_certain() {
        let path = || "p".to_owned();
        let source = || "no".into();
        check(
            Error::PermissionDenied {
                path: path(),
                source: source(),
            },
            true,
        );
        check(
            Error::Unauthenticated {
                path: path(),
                source: source(),
            },
            true,
        );
        check(
            Error::Precondition {
                path: path(),
                source: source(),
            },
            false,
        );
        check(generic("no answer"), false);
        let again = "Error performing PUT https://h/p in 1s, after 2 retries, max_retries: 10, retry_timeout: 180s  - 403";
        check(
            Error::PermissionDenied {
                path: path(),
                source: again.into(),
            },
            false,
        );
        for (kind, expected) in [
            (ErrorKind::PermissionDenied, true),
            (ErrorKind::ReadOnlyFilesystem, true),
            (ErrorKind::StorageFull, true),
            (ErrorKind::TimedOut, false),
            (ErrorKind::ConnectionReset, false),
            (ErrorKind::Other, false),
        ] {
            check(generic(io::Error::from(kind)), expected);
            let wrapped = DeepError(io::Error::from(kind));
            check(generic(wrapped), expected);
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("it went wrong")]
    struct DeepError(#[source] io::Error);

    #[tokio::test]
    async fn a_file_where_a_folder_should_be() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("_delta_log"), "").unwrap();
        let store = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let commit = Path::from("_delta_log/0.json");
        let put = store.put_opts(&commit, "a".into(), PutMode::Create.into());
        check(put.await.unwrap_err(), true);
    }
}
