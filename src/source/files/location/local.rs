//! Folders of the local file system, as paths from its root.

use std::io;
use std::path::{Component, PathBuf};

use object_store::path::Path;
use url::Url;

use crate::error::{Error, Result};

/// The path of a folder, given as such or as `file://` URL. It need not be there, but it must not be a file.
pub(super) fn absolute(location: &str) -> Result<Path> {
    let bad = |reason: String| {
        Error::invalid(format!(
            "{location:?} is no folder that files can be read from: {reason}"
        ))
    };
    let given = if location.contains("://") {
        from_url(location).ok_or_else(|| bad("write it as file:///path".into()))?
    } else {
        PathBuf::from(location)
    };
    if location.is_empty() {
        return Err(Error::invalid(
            "the location is empty; give a folder, or a URL such as s3://bucket/path",
        ));
    }
    let path =
        resolve_parents(std::path::absolute(&given).map_err(|error| bad(error.to_string()))?);
    if path.is_file() {
        return Err(Error::invalid(format!(
            "{location:?} is a file, give its folder; pattern '…' chooses files in it"
        )));
    }
    Path::from_absolute_path(&path).map_err(|error| bad(error.to_string()))
}

/// Whether an error, or one behind it, says that the user of the process may not do something.
pub(super) fn is_permission_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn from_url(location: &str) -> Option<PathBuf> {
    Url::parse(location).ok()?.to_file_path().ok()
}

/// The path without `..`, which object stores do not have. What follows a symbolic link leads out of the folder that the link
/// points to, so links before a `..` are resolved; others are left as they are.
fn resolve_parents(path: PathBuf) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            resolved = resolved.canonicalize().unwrap_or(resolved);
            resolved.pop();
        } else {
            resolved.push(component);
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_of_links_are_those_of_what_they_point_to() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::os::unix::fs::symlink(base.join("a/b"), base.join("link")).unwrap();
        let check = |given: &str, expected: &str| {
            assert_eq!(resolve_parents(base.join(given)), base.join(expected));
        };
        check("link/../c", "a/c");
        check("link/c", "link/c");
        check("none/../c", "c");
    }

    #[test]
    fn denials_are_found_behind_other_errors() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(denied),
        };
        assert!(is_permission_denied(&error));
        let other = io::Error::from(io::ErrorKind::TimedOut);
        assert!(!is_permission_denied(&other));
    }
}
