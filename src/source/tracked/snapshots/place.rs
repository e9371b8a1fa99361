//! Where dumps are: what the LOCATION of a statement says of the folder, of the names, and of what a dump is.
//!
//! | LOCATION | a dump is |
//! |---|---|
//! | `/dumps/date=*/` | each folder that matches, with all files in it |
//! | `/dumps/stock_*.csv` | each file that matches |
//! | `/dumps/` | each file in the folder, and each folder in it |

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// What stands for other text in a LOCATION.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Which files are dumps, or parts of dumps, below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What follows the folder, without a slash at its end; empty where all that is in the folder is meant.
    pattern: String,
    kind: Kind,
}

/// What a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A folder.
    Folders,
    /// A file.
    Files,
    /// Whatever is in the folder.
    Both,
}

impl Place {
    /// The folder that a LOCATION means, credentials included if it has any, and what in it is a dump.
    ///
    /// # Errors
    /// When the dumps would lie at several depths, or a name is empty.
    pub(super) fn parse(location: &str) -> Result<(String, Self)> {
        let location = location.trim();
        let is_url = location.contains("://");
        // in a URL a question mark begins the query, in which Azure has its tokens
        let query = is_url.then(|| location.find('?')).flatten();
        let (path, query) = location.split_at(query.unwrap_or(location.len()));
        let Some(first) = path.find(WILDCARDS) else {
            let all = Self {
                pattern: String::new(),
                kind: Kind::Both,
            };
            return Ok((location.to_owned(), all));
        };
        let (folder, pattern) =
            path.split_at(path[..first].rfind('/').map_or(0, |slash| slash + 1));
        let (pattern, kind) = match pattern.strip_suffix('/') {
            Some(pattern) => (pattern, Kind::Folders),
            None => (pattern, Kind::Files),
        };
        if pattern
            .split('/')
            .any(|name| name.is_empty() || name.contains("**"))
        {
            return Err(Error::invalid(format!(
                "the dumps {pattern:?} would lie at several depths; give each folder on the way to them a name or a *, as in '/dumps/year=*/month=*/'"
            )));
        }
        let pattern = match is_url {
            true => percent_decode_str(pattern).decode_utf8_lossy().into_owned(),
            false => pattern.to_owned(),
        };
        let folder = match folder {
            "" => ".",
            folder => folder,
        };
        Ok((format!("{folder}{query}"), Self { pattern, kind }))
    }

    /// Which files belong to dumps, as a pattern of change files.
    pub(super) fn files(&self) -> Option<String> {
        match self.kind {
            Kind::Folders => Some(format!("{}/**", self.pattern)),
            Kind::Files => Some(self.pattern.clone()),
            Kind::Both => None,
        }
    }

    /// How many names, with slashes between them, make up that of a dump.
    pub(super) fn depth(&self) -> usize {
        1 + self.pattern.matches('/').count()
    }

    /// The name of the dump to which the file at a path below the folder belongs; `None` for a file that is in none.
    pub(super) fn dump_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let slash = path.match_indices('/').nth(self.depth() - 1);
        match (slash, self.kind) {
            (Some(_), Kind::Files) | (None, Kind::Folders) => None,
            (Some((end, _)), _) => Some(&path[..end]),
            (None, Kind::Both) => Some(path),
            (None, Kind::Files) => (path.split('/').count() == self.depth()).then_some(path),
        }
    }

    /// What LOCATION has after the folder.
    pub(super) fn shown(&self) -> String {
        match self.kind {
            Kind::Folders => format!("{}/", self.pattern),
            Kind::Files | Kind::Both => self.pattern.clone(),
        }
    }

    /// What may be wrong where no file is found.
    pub(super) fn hint(&self) -> &'static str {
        match self.kind {
            Kind::Files => "; a LOCATION that means folders ends in '/'",
            Kind::Folders | Kind::Both => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(location: &str, folder: &str, files: Option<&str>, shown: &str) {
        let (found, place) = Place::parse(location).unwrap();
        assert_eq!(found, folder, "{location}");
        assert_eq!(place.files().as_deref(), files, "{location}");
        assert_eq!(place.shown(), shown, "{location}");
    }

    #[test]
    fn locations_are_a_folder_and_a_pattern() {
        check("/dumps", "/dumps", None, "");
        check("/dumps/", "/dumps/", None, "");
        check("/dumps/date=*/", "/dumps/", Some("date=*/**"), "date=*/");
        check("/dumps/y=*/m=*/", "/dumps/", Some("y=*/m=*/**"), "y=*/m=*/");
        check("/dumps/a_*.csv", "/dumps/", Some("a_*.csv"), "a_*.csv");
        check("a_?.csv", ".", Some("a_?.csv"), "a_?.csv");
        check("/d/[ab]/x/", "/d/", Some("[ab]/x/**"), "[ab]/x/");
        check("s3://b/d/*/", "s3://b/d/", Some("*/**"), "*/");
        check("s3://b/my%20d/a%20*", "s3://b/my%20d/", Some("a *"), "a *");
        let azure = "https://acme.blob.core.windows.net/box";
        let token = "?sv=2021&sig=a%2Fb";
        check(
            &format!("{azure}/x/date=*/{token}"),
            &format!("{azure}/x/{token}"),
            Some("date=*/**"),
            "date=*/",
        );
        check(
            &format!("{azure}/x/{token}"),
            &format!("{azure}/x/{token}"),
            None,
            "",
        );
    }

    #[test]
    fn depths_differ_in_no_location() {
        for location in ["/dumps/**/", "/dumps/*//a", "/d/*/**/x.csv", "/d/*//"] {
            let error = Place::parse(location).unwrap_err().to_string();
            assert!(error.contains("several depths"), "{location}: {error}");
        }
    }

    #[test]
    fn files_belong_to_dumps() {
        let check = |location: &str, path: &str, expected: Option<&str>| {
            let (_, place) = Place::parse(location).unwrap();
            assert_eq!(place.dump_of(path), expected, "{location}: {path}");
        };
        check("/d/date=*/", "date=1/a.csv", Some("date=1"));
        check("/d/date=*/", "date=1/x/a.csv", Some("date=1"));
        check("/d/date=*/", "date=1", None);
        check("/d/y=*/m=*/", "y=1/m=2/x/a.csv", Some("y=1/m=2"));
        check("/d/y=*/m=*/", "y=1/a.csv", None);
        check("/d/*.csv", "a.csv", Some("a.csv"));
        check("/d/*.csv", "x/a.csv", None);
        check("/d/*/all.csv", "x/all.csv", Some("x/all.csv"));
        check("/d/*/all.csv", "all.csv", None);
        check("/d/", "a.csv", Some("a.csv"));
        check("/d/", "x/y/a.csv", Some("x"));
    }
}
