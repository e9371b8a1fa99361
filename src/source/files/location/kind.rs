//! The kinds of stores, and which options each of them knows.

use std::str::FromStr;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;

use super::redact_urls;
use crate::error::{Error, Result};
use crate::source::files::sftp::SftpOptions;

/// What a location is a place in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    S3,
    Google,
    Azure,
    Sftp,
}

impl Kind {
    /// By the scheme of a URL; what has none is a folder.
    pub(super) fn of(location: &str) -> Result<Self> {
        let Some(scheme) = scheme(location) else {
            return Ok(Self::Local);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => Ok(Self::Local),
            "s3" | "s3a" => Ok(Self::S3),
            "gs" => Ok(Self::Google),
            "az" | "adl" | "azure" | "abfs" | "abfss" | "https" | "http" => Ok(Self::Azure),
            "sftp" => Ok(Self::Sftp),
            _ => Err(Error::invalid(format!(
                "{:?} is no location for files; give a folder, or a URL such as s3://bucket/path, gs://bucket/path, \
                 az://container/path, abfss://container@account.dfs.core.windows.net/path, \
                 https://account.blob.core.windows.net/container/path or sftp://user@host/path",
                redact_urls(location)
            ))),
        }
    }

    /// The one name of an option of this kind of store; absent for what is none.
    pub(super) fn canonical_key(self, key: &str) -> Option<String> {
        let key = key.trim().to_ascii_lowercase();
        match self {
            Self::Local => None,
            Self::S3 => canonical::<AmazonS3ConfigKey>(&key, &["aws."]),
            Self::Google => canonical::<GoogleConfigKey>(&key, &["gcp.", "google."]),
            Self::Azure => canonical::<AzureConfigKey>(&key, &["azure."]),
            Self::Sftp => canonical_of_sftp(bare(&key, &["sftp."])),
        }
    }

    /// Some of its options, for messages.
    pub(super) fn example_keys(self) -> &'static [&'static str] {
        match self {
            Self::Local => &[],
            Self::S3 => &["access_key_id", "secret_access_key", "region", "endpoint"],
            Self::Google => &["service_account", "service_account_key"],
            Self::Azure => &["account_name", "account_key", "sas_token"],
            Self::Sftp => SftpOptions::KEYS,
        }
    }
}

/// What stands before `://`; a folder may have such characters in its name only after a slash.
fn scheme(location: &str) -> Option<&str> {
    let (scheme, _) = location.split_once("://")?;
    (!scheme.contains('/')).then_some(scheme)
}

fn canonical<K: FromStr + AsRef<str>>(key: &str, prefixes: &[&str]) -> Option<String> {
    let key: K = bare(key, prefixes).parse().ok()?;
    Some(key.as_ref().to_owned())
}

/// The key without the name of the vendor that datafusion-cli puts before it.
fn bare<'a>(key: &'a str, prefixes: &[&str]) -> &'a str {
    prefixes
        .iter()
        .find_map(|prefix| key.strip_prefix(prefix))
        .unwrap_or(key)
}

fn canonical_of_sftp(key: &str) -> Option<String> {
    let long = format!("sftp_{key}");
    if SftpOptions::KEYS.contains(&long.as_str()) {
        return Some(long);
    }
    SftpOptions::KEYS.contains(&key).then(|| key.to_owned())
}
