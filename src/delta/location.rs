//! Where a file that the log names lies: in the table's folder, or elsewhere in its store, as shallow clones have it.
//!
//! Paths of the log are percent-encoded URIs, decoded exactly once. A relative one lies in the table's folder. An absolute one
//! is looked for in the bucket or file system of the table and nowhere else: its credentials are meant for no other.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use url::{Host, Url};

use super::actions::{decode_path, is_absolute};
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// A file of a table.
#[derive(Clone)]
pub(crate) struct DataFileLocation {
    /// The store it lies in, where that is not the table's own, which is rooted at the table.
    pub store: Option<Arc<dyn ObjectStore>>,
    /// Its path in that store.
    pub path: Path,
}

// not derived: stores print how they were configured
impl Debug for DataFileLocation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "DataFileLocation({})", self.path)
    }
}

impl DataFileLocation {
    /// The store that the path is a path of.
    pub(crate) fn store_of(&self, table: &DeltaTable) -> Arc<dyn ObjectStore> {
        self.store
            .as_ref()
            .map_or_else(|| table.store(), Arc::clone)
    }
}

impl DeltaTable {
    /// Where the file lies that the log calls `raw`.
    ///
    /// # Errors
    /// [`Error::UnsupportedFeature`] for one in another store than the table's, [`Error::DamagedLog`] for what is no path.
    pub(crate) fn locate(&self, raw: &str) -> Result<DataFileLocation> {
        if is_absolute(raw) {
            return self.absolute(raw);
        }
        Ok(DataFileLocation {
            store: None,
            path: decode_path(self.name(), raw)?,
        })
    }

    /// Where the file at an absolute URI lies.
    ///
    /// # Errors
    /// [`Error::UnsupportedFeature`] for one in another store than the table's.
    pub(crate) fn absolute(&self, uri: &str) -> Result<DataFileLocation> {
        let outside = || Error::UnsupportedFeature {
            table: self.name().into(),
            needs: format!(
                "refers to the file {:?}, which is not in the store of the table itself: the files of a shallow clone must be in \
                 the same bucket or file system as the clone",
                without_secrets(uri)
            ),
        };
        let location = self.location();
        let parsed = if uri.starts_with('/') {
            location.join(uri)
        } else {
            Url::parse(uri)
        };
        let url = parsed.map_err(|_| outside())?;
        if store_identity(&url) != store_identity(location) {
            return Err(outside());
        }
        let path = Path::from_url_path(url.path())?;
        let folder = Path::from_url_path(location.path())?;
        let inside: Option<Path> = path.prefix_match(&folder).map(Iterator::collect);
        Ok(match inside {
            Some(inside) if !inside.as_ref().is_empty() => DataFileLocation {
                store: None,
                path: inside,
            },
            _ => DataFileLocation {
                store: Some(self.log_store().root_object_store(None)),
                path,
            },
        })
    }
}

/// What all URIs of one store have in common; Hadoop has several names for a scheme.
fn store_identity(url: &Url) -> (&str, Option<Host<&str>>, &str) {
    let scheme = match url.scheme() {
        "s3a" | "s3n" => "s3",
        "abfs" => "abfss",
        other => other,
    };
    (scheme, url.host(), url.username())
}

/// The URI as a message may show it: a query may hold a signature, the authority a password.
fn without_secrets(uri: &str) -> String {
    let path = uri.split('?').next().unwrap_or_default();
    match Url::parse(path) {
        Ok(mut url) if url.password().is_some() => {
            // a URL that has a password can do without one
            let _ = url.set_password(None);
            url.into()
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The path, after `/` where it lies outside of the table's folder; or a piece of the error.
    fn check(table: &str, raw: &str, expected: Result<&str, &str>) {
        let table = DeltaTable::new("t", table, HashMap::new()).unwrap();
        let shown = |found: DataFileLocation| match found.store {
            Some(_) => format!("/{}", found.path),
            None => found.path.to_string(),
        };
        match (table.locate(raw).map(shown), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{raw}"),
            (Err(error), Err(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{raw}: {error}");
            }
            (found, expected) => panic!("{raw}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn relative_paths_lie_in_the_table() {
        check("/w/t", "c=a%20b/p.parquet", Ok("c=a b/p.parquet"));
        check("/w/t", "c=a%253Ab/p.parquet", Ok("c=a%3Ab/p.parquet"));
        check("/w/t", "c=a:b/p.parquet", Ok("c=a:b/p.parquet"));
    }

    #[test]
    fn absolute_paths_lie_in_the_store() {
        check("/w/t", "file:/a/p.parquet", Ok("/a/p.parquet"));
        check("/w/t", "file:///a/p.parquet", Ok("/a/p.parquet"));
        check("/w/t", "/a/p.parquet", Ok("/a/p.parquet"));
        check("/w/t", "file:///a%20b/c=%2520/p", Ok("/a b/c=%20/p"));
        check("/w/t", "/a%20b/p", Ok("/a b/p"));
        check("/w/t", "file:///w/t/p.parquet", Ok("p.parquet"));
        check("/w/t", "file:/w/t/c=1/p.parquet", Ok("c=1/p.parquet"));
        check("/w/t", "file:///w/t2/p.parquet", Ok("/w/t2/p.parquet"));
    }

    #[test]
    fn other_stores_are_refused() {
        check("/w/t", "s3://bucket/p", Err("\"s3://bucket/p\""));
        check("/w/t", "file://host/p", Err("not in the store"));
        check("/w/t", "dbfs:/p", Err("\"dbfs:/p\""));
        check(
            "/w/t",
            "https://u:secret@h/p?sig=secret",
            Err("\"https://u@h/p\""),
        );
    }

    #[test]
    fn a_store_has_several_schemes() {
        let identity = |uri: &str| {
            let url = Url::parse(uri).unwrap();
            let (scheme, host, user) = store_identity(&url);
            format!("{scheme} {host:?} {user}")
        };
        assert_eq!(identity("s3a://b/x"), identity("s3://b/y"));
        assert_ne!(identity("s3a://b/x"), identity("s3://c/x"));
        assert_eq!(identity("abfs://c@a/x"), identity("abfss://c@a/x"));
        assert_ne!(identity("abfs://c@a/x"), identity("abfss://d@a/x"));
    }
}
