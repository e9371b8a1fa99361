//! Paths of the store and paths on the server, and the names of files that are being written.

use object_store::path::Path;
use uuid::Uuid;

const TEMPORARY_SUFFIX: &str = ".tmp";
/// With the identifier and four bytes a character the name stays under the 255 bytes that file systems allow.
const MOST_NAME_CHARACTERS: usize = 50;

/// The absolute path on the server.
pub(super) fn server_path(location: &Path) -> String {
    format!("/{location}")
}

/// A new hidden name in the folder of `path`, under which its content is written first.
pub(super) fn temporary_path(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let name: String = name.chars().take(MOST_NAME_CHARACTERS).collect();
    format!("{folder}/.{name}.{}{TEMPORARY_SUFFIX}", Uuid::new_v4())
}

/// Whether a file of this name is one that somebody is writing, or has left behind.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY_SUFFIX)
        .and_then(|stem| stem.rsplit_once('.'))
        .is_some_and(|(front, identifier)| {
            front.starts_with('.') && Uuid::try_parse(identifier).is_ok()
        })
}

/// The folders that hold `path`, the outermost first, without the root.
pub(super) fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .map(move |(end, _)| &path[..end])
        .filter(|folder| !folder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_paths() {
        let check = |location: &str, expected: &str| {
            assert_eq!(server_path(&Path::parse(location).unwrap()), expected);
        };
        check("", "/");
        check("upload/x.csv", "/upload/x.csv");
        check("a b/100%25/é.csv", "/a b/100%25/é.csv");
    }

    #[test]
    fn temporary_names() {
        let path = temporary_path("/upload/x.csv");
        assert!(path.starts_with("/upload/.x.csv."), "{path}");
        assert!(path.ends_with(".tmp"), "{path}");
        assert!(is_temporary(path.rsplit('/').next().unwrap()));
        let long = temporary_path(&format!("/{}", "é".repeat(120)));
        assert!(long.len() < 255);
        assert!(is_temporary(&long[1..]));
        for name in ["x.tmp", ".x.tmp", ".x.csv", "x.0.tmp", ".tmp"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn folders() {
        let check = |path: &str, expected: &[&str]| {
            assert_eq!(folders_of(path).collect::<Vec<_>>(), expected);
        };
        check("/x", &[]);
        check("/a/x", &["/a"]);
        check("/a/b/x", &["/a", "/a/b"]);
    }
}
