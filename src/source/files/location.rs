//! Where files land: an object store and a folder in it, made from what a user writes.
//!
//! ```text
//!  's3://bucket/drop/' ─┬─ Kind (by scheme) ── settings (environment, OPTIONS) ──> ObjectStore, not rooted
//!                       └─ path ─────────────────────────────────────────────────> prefix
//! ```
//!
//! Secrets go into the store and nowhere else: whatever a location shows or says is free of passwords, keys and tokens.

mod explain;
mod kind;
mod local;
mod redact;
mod refusal;
mod sas;
mod settings;
mod stores;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use self::kind::Kind;
use self::redact::Secrets;
use self::sas::SasToken;
use crate::error::Result;

pub(crate) use self::redact::redact_urls;

/// A place where files land: an object store and a folder in it.
#[derive(Clone)]
pub(crate) struct Location {
    kind: Kind,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Without secrets, with a slash at the end.
    shown: String,
    /// What no message may show.
    secrets: Arc<Secrets>,
    /// The token by which an Azure container is reached, if it is.
    sas: Option<Arc<SasToken>>,
}

impl Location {
    /// The location that a folder or a URL means, with `options` on top of the environment. Options that the store does not
    /// know are left alone; see [`Self::canonical_key`].
    ///
    /// # Errors
    /// When the text is no location, or the options do not make a store. Nothing is asked of the store itself.
    pub(crate) fn try_new(location: &str, options: &HashMap<String, String>) -> Result<Self> {
        let location = location.trim();
        let kind = Kind::of(location)?;
        let options: HashMap<String, String> = options
            .iter()
            .filter_map(|(key, value)| Some((kind.canonical_key(key)?, value.clone())))
            .collect();
        stores::open(kind, location, options)
    }

    /// The one name of an option that may be spelled in several ways; absent for what is no option of the store at `location`.
    pub(crate) fn canonical_key(location: &str, key: &str) -> Option<String> {
        Kind::of(location.trim()).ok()?.canonical_key(key)
    }

    /// Some options of the store at `location`, for messages.
    pub(crate) fn example_keys(location: &str) -> &'static [&'static str] {
        Kind::of(location.trim())
            .map(Kind::example_keys)
            .unwrap_or_default()
    }

    /// A folder in a store that a test has made.
    #[cfg(test)]
    pub(crate) fn in_store(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self {
            kind: Kind::S3,
            store,
            prefix: Path::from(prefix),
            shown: format!("s3://test/{prefix}/"),
            secrets: Arc::default(),
            sas: None,
        }
    }

    /// The store, not rooted: paths are relative to the bucket, the container, or the root of the server or file system.
    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The folder in it.
    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The location without passwords and tokens, ending in a slash. Read again, it means the same place.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// A folder below it.
    pub(crate) fn join(&self, folder: &str) -> Self {
        let folder = folder.trim_matches('/');
        let path = format!("{}/{folder}", self.prefix);
        let written = match self.kind {
            Kind::Local => folder.to_owned(),
            _ => stores::readable(folder),
        };
        Self {
            prefix: Path::parse(&path).unwrap_or_else(|_| Path::from(path)),
            shown: format!("{}{written}/", self.shown),
            ..self.clone()
        }
    }

    /// The name of a file below it, relative to the prefix; absent for a path that is not below it.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let path = path.as_ref();
        if self.prefix.is_root() {
            return Some(path);
        }
        path.strip_prefix(self.prefix.as_ref())?.strip_prefix('/')
    }

    /// The path of a file in the local file system, where it is one there.
    pub(crate) fn local_path(&self, relative: &str) -> Option<std::path::PathBuf> {
        if self.kind != Kind::Local {
            return None;
        }
        let path = Path::parse(format!("{}/{relative}", self.prefix)).ok()?;
        LocalFileSystem::new().path_to_filesystem(&path).ok()
    }

    /// Whether it is a local folder that is not there.
    pub(crate) fn is_missing_folder(&self) -> bool {
        self.kind == Kind::Local && !std::path::Path::new(&self.shown).is_dir()
    }

    /// Whether files are only ever replaced as a whole, so that one read cannot mix two contents.
    pub(crate) fn replaces_whole_files(&self) -> bool {
        matches!(self.kind, Kind::S3 | Kind::Google | Kind::Azure)
    }

    /// Whether the store can list from an offset by itself, so that what comes before costs nothing.
    pub(crate) fn lists_from_offset(&self) -> bool {
        matches!(self.kind, Kind::S3 | Kind::Google)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Location")
            .field(&self.shown)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// Credentials, so that no test depends on those of the machine.
    fn credentials(location: &str) -> HashMap<String, String> {
        match Kind::of(location) {
            Ok(Kind::S3) => options(&[
                ("access_key_id", "AKID"),
                ("aws.secret_access_key", "hush-hush"),
            ]),
            Ok(Kind::Azure) => {
                options(&[("account_name", "acme"), ("account_key", "aHVzaC1odXNo")])
            }
            Ok(Kind::Google) => options(&[(
                "service_account_key",
                r#"{"gcs_base_url":"http://127.0.0.1:4444","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#,
            )]),
            _ => options(&[]),
        }
    }

    fn open(location: &str) -> Result<Location> {
        Location::try_new(location, &credentials(location))
    }

    #[test]
    fn locations_are_a_folder_in_a_store() {
        let check = |location: &str, prefix: &str, shown: &str| {
            let found = open(location).unwrap_or_else(|error| panic!("{location}: {error}"));
            assert_eq!(found.prefix().as_ref(), prefix, "{location}");
            assert_eq!(found.shown(), shown, "{location}");
            let again = open(found.shown()).unwrap();
            assert_eq!(again.prefix(), found.prefix(), "{location}");
            assert_eq!(again.shown(), found.shown(), "{location}");
        };
        check("s3://bucket", "", "s3://bucket/");
        check("s3://bucket/", "", "s3://bucket/");
        check("s3a://bucket/a/b", "a/b", "s3a://bucket/a/b/");
        check("S3://bucket/a/", "a", "s3://bucket/a/");
        check("s3://bucket/a b/", "a b", "s3://bucket/a b/");
        check("s3://bucket/a%20b/ü", "a b/ü", "s3://bucket/a b/ü/");
        check(
            "s3://bucket/50%25%3F%23/",
            "50%?#",
            "s3://bucket/50%25%3F%23/",
        );
        check("gs://bucket/x", "x", "gs://bucket/x/");
        check("az://box/x", "x", "az://box/x/");
        check("adl://box/x", "x", "adl://box/x/");
        check("azure://box/x", "x", "azure://box/x/");
        check("abfs://box/x", "x", "abfs://box/x/");
        check(
            "abfss://box@acme.dfs.core.windows.net/x/y",
            "x/y",
            "abfss://box@acme.dfs.core.windows.net/x/y/",
        );
        check(
            "https://acme.blob.core.windows.net/box/x",
            "x",
            "https://acme.blob.core.windows.net/box/x/",
        );
        check(
            "https://acme.dfs.core.windows.net/box",
            "",
            "https://acme.dfs.core.windows.net/box/",
        );
        check(
            "https://acme.blob.core.chinacloudapi.cn/box/x/",
            "x",
            "https://acme.blob.core.chinacloudapi.cn/box/x/",
        );
        check(
            "http://127.0.0.1:10000/devstoreaccount1/box/a/b",
            "a/b",
            "http://127.0.0.1:10000/devstoreaccount1/box/a/b/",
        );
    }

    #[test]
    fn folders_have_any_name() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().canonicalize().unwrap();
        let base = base.to_str().unwrap();
        for name in [
            "a b", "a%20b", "ümlaut", "100%", "a#1", "what?", "[x]", "{y}",
        ] {
            let folder = format!("{base}/{name}");
            std::fs::create_dir(&folder).unwrap();
            let found = open(&folder).unwrap();
            assert_eq!(format!("/{}", found.prefix()), folder);
            assert_eq!(found.shown(), format!("{folder}/"));
            assert_eq!(found.join("x").shown(), format!("{folder}/x/"));
        }
        assert_eq!(
            open(&format!("file://{base}/a%2520b")).unwrap().shown(),
            format!("{base}/a%20b/")
        );
        assert_eq!(
            open(&format!("{base}/a b/../ümlaut/./")).unwrap().shown(),
            format!("{base}/ümlaut/")
        );
        assert_eq!(
            open(&format!("{base}/not/there")).unwrap().shown(),
            format!("{base}/not/there/")
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            open("no-such-drop").unwrap().shown(),
            format!("{}/no-such-drop/", here.display())
        );
        std::fs::write(root.path().join("a.csv"), "id\n").unwrap();
        let error = open(&format!("{base}/a.csv")).unwrap_err().to_string();
        assert!(error.contains("is a file, give its folder"), "{error}");
    }

    #[test]
    fn what_is_no_location_is_refused_without_its_secrets() {
        let check = |location: &str, expected: &str| {
            let error = open(location).unwrap_err().to_string();
            assert!(error.contains(expected), "{location}: {error}");
            assert!(!error.contains("hush"), "{location}: {error}");
        };
        check("", "is empty");
        check("ftp://user:hush@host/x", "s3://");
        check("s3://", "bucket");
        check("s3://bucket/a//b", "empty folder name");
        check("s3://bucket/a?token=hush", "query string");
        check("s3://bucket/a#b", "%23");
        check("s3://AKID:hush@bucket/a", "OPTIONS");
        check("https://acme.blob.core.windows.net/", "container");
        check("https://acme.blob.core.windows.net/box?sv=hush", "sig=");
        check("https://example.com/x?sig=hush", "blob.core.windows.net");
        check("http://127.0.0.1:10000/devstoreaccount1", "container");
        check("file://host/x", "file:///");
    }

    #[test]
    fn a_token_stays_hidden() {
        let location = "https://acme.blob.core.windows.net/dlz-user-container/in?sv=2021&sp=rl&se=2000-01-01T00%3A00%3A00Z&sig=hu%2Fsh%3D";
        let found = Location::try_new(location, &options(&[])).unwrap();
        assert_eq!(
            found.shown(),
            "https://acme.blob.core.windows.net/dlz-user-container/in/"
        );
        assert_eq!(found.prefix().as_ref(), "in");
        assert_eq!(
            format!("{found:?}"),
            r#"Location("https://acme.blob.core.windows.net/dlz-user-container/in/")"#
        );
        assert_eq!(found.secrets.redact("a hu/sh= b hu%2Fsh%3D c"), "a … b … c");
    }

    #[test]
    fn paths_below_are_relative() {
        let drop = open("s3://bucket/drop").unwrap();
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(drop.relative(&Path::from(path)), expected);
        };
        check("drop/a.csv", Some("a.csv"));
        check("drop/x/a.csv", Some("x/a.csv"));
        check("dropped/a.csv", None);
        check("drop", None);
        let root = open("s3://bucket").unwrap();
        assert_eq!(root.relative(&Path::from("a/b")), Some("a/b"));
        let ledger = drop.join("_alluvial");
        assert_eq!(ledger.prefix().as_ref(), "drop/_alluvial");
        assert_eq!(ledger.shown(), "s3://bucket/drop/_alluvial/");
        assert_eq!(root.join("/a/b/").prefix().as_ref(), "a/b");
        assert!(drop.lists_from_offset());
        assert!(!open("az://box/x").unwrap().lists_from_offset());
    }

    #[test]
    fn options_belong_to_their_store() {
        let check = |location: &str, key: &str, expected: bool| {
            let known = Location::canonical_key(location, key).is_some();
            assert_eq!(known, expected, "{location} {key}");
        };
        check("s3://b", "access_key_id", true);
        check("s3://b", "AWS_ACCESS_KEY_ID", true);
        check("s3://b", "aws.access_key_id", true);
        check("s3://b", "aws.region", true);
        check("s3://b", "allow_http", true);
        check("s3://b", "aws_allow_http", true);
        check("s3://b", "azure.account_name", false);
        check("s3://b", "key", false);
        check("az://b", "sas_token", true);
        check("az://b", "azure_storage_sas_token", true);
        check("az://b", "azure.account_name", true);
        check("https://a.blob.core.windows.net/b", "account_key", true);
        check("gs://b", "gcp.service_account_path", true);
        check("gs://b", "google.service_account_key", true);
        check("gs://b", "timeout", true);
        check("/tmp", "region", false);
        check("ftp://b", "region", false);
    }
}
