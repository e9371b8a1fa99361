//! The store of each kind of location.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use percent_encoding::percent_decode_str;
use url::Url;

use super::kind::Kind;
use super::redact::{Secrets, redact_urls};
use super::sas::SasToken;
use super::settings::{Settings, secrets};
use super::{Location, local};
use crate::error::{Error, Result};
use crate::source::files::io_runtime::io_runtime;
use crate::source::files::sftp::{SftpOptions, SftpStore};

const SAS_KEY: &str = "azure_storage_sas_key";

/// Opens a location with options under their canonical names.
pub(super) fn open(
    kind: Kind,
    location: &str,
    options: HashMap<String, String>,
) -> Result<Location> {
    if kind == Kind::Local {
        return folder(location);
    }
    let url = parse(kind, location)?;
    match kind {
        Kind::S3 => s3(&url, &options),
        Kind::Google => google(&url, &options),
        Kind::Sftp => sftp(&url, &options),
        _ if matches!(url.scheme(), "http" | "https") => azure_by_account(&url, options),
        _ => azure_by_container(&url, options),
    }
}

/// A path as it can be written after the host of a URL, readable where that is possible.
pub(super) fn readable(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
        .replace('\\', "%5C")
}

fn folder(location: &str) -> Result<Location> {
    let prefix = local::absolute(location)?;
    let shown = match prefix.as_ref() {
        "" => "/".to_owned(),
        path => format!("/{path}/"),
    };
    Ok(Location {
        kind: Kind::Local,
        store: Arc::new(LocalFileSystem::new()),
        prefix,
        shown,
        secrets: Arc::default(),
        sas: None,
    })
}

fn s3(url: &Url, options: &HashMap<String, String>) -> Result<Location> {
    let settings = Settings::<AmazonS3ConfigKey>::read("AWS_", options);
    let mut builder = AmazonS3Builder::new().with_http_connector(connector()?);
    for (key, value) in &settings.values {
        builder = builder.with_config(*key, value.clone());
    }
    let endpoint = settings
        .get("aws_endpoint_url_s3")
        .or_else(|| settings.get("aws_endpoint"));
    if is_plain_http(endpoint) {
        builder = builder.with_allow_http(true);
    }
    let built = builder.with_bucket_name(host(url, "bucket")?).build();
    assemble(Kind::S3, url, url.path(), &settings, built)
}

fn google(url: &Url, options: &HashMap<String, String>) -> Result<Location> {
    let settings = Settings::<GoogleConfigKey>::read("GOOGLE_", options);
    let mut builder = GoogleCloudStorageBuilder::new().with_http_connector(connector()?);
    // object_store takes this variable, too, which has no prefix
    if let (false, Ok(path)) = (settings.own_credentials, std::env::var("SERVICE_ACCOUNT")) {
        builder = builder.with_service_account_path(path);
    }
    for (key, value) in &settings.values {
        builder = builder.with_config(*key, value.clone());
    }
    let built = builder.with_bucket_name(host(url, "bucket")?).build();
    assemble(Kind::Google, url, url.path(), &settings, built)
}

/// `az://container/path` and its like, `abfss://container@account.dfs.core.windows.net/path` among them.
fn azure_by_container(url: &Url, mut options: HashMap<String, String>) -> Result<Location> {
    let host = host(url, "container")?;
    take_token(url, &mut options)?;
    let settings = Settings::<AzureConfigKey>::read("AZURE_", &options);
    let named = ["azure_storage_account_name", "azure_storage_use_emulator"];
    if url.username().is_empty() && named.iter().all(|name| settings.get(name).is_none()) {
        return Err(Error::invalid(format!(
            "{} names no storage account; give account_name '…' in OPTIONS, set AZURE_STORAGE_ACCOUNT_NAME, or write \
             abfss://container@account.dfs.core.windows.net/path",
            shown(url)
        )));
    }
    let user = match url.username() {
        "" => String::new(),
        user => format!("{user}@"),
    };
    let built = azure(&settings)?
        .with_url(format!("{}://{user}{host}/", url.scheme()))
        .build();
    assemble(Kind::Azure, url, url.path(), &settings, built)
}

/// `https://account.blob.core.windows.net/container/path`, and the form of emulators: `http://127.0.0.1:10000/account/container/path`.
fn azure_by_account(url: &Url, mut options: HashMap<String, String>) -> Result<Location> {
    take_token(url, &mut options)?;
    let settings = Settings::<AzureConfigKey>::read("AZURE_", &options);
    let host = host(url, "account")?;
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    let path = url.path().trim_start_matches('/');
    let (account, endpoint, path) = if is_service(host) {
        let account = host.split('.').next().unwrap_or(host);
        // the blob interface serves accounts with folders as well
        let service = host.replacen(".dfs.", ".blob.", 1);
        (account, format!("{}://{service}{port}", url.scheme()), path)
    } else if is_emulator(host) {
        let (account, path) = path.split_once('/').unwrap_or((path, ""));
        let endpoint = format!("{}://{host}{port}/{account}", url.scheme());
        (account, endpoint, path)
    } else {
        return Err(Error::invalid(format!(
            "{} is no location for files; over HTTP these are https://account.blob.core.windows.net/container/path and, of \
             emulators, http://127.0.0.1:10000/account/container/path",
            redact_urls(url.as_str())
        )));
    };
    let (container, path) = path.split_once('/').unwrap_or((path, ""));
    if container.is_empty() {
        return Err(Error::invalid(format!(
            "{} names no container; write it after the account, as in https://account.blob.core.windows.net/container/path",
            shown(url)
        )));
    }
    let built = azure(&settings)?
        .with_use_emulator(false)
        .with_account(account)
        .with_container_name(container)
        .with_allow_http(url.scheme() == "http")
        .with_endpoint(endpoint)
        .build();
    assemble(Kind::Azure, url, path, &settings, built)
}

/// Connections that go on while a session's own runtime waits.
fn connector() -> Result<SpawnedReqwestConnector> {
    Ok(SpawnedReqwestConnector::new(io_runtime()?))
}

fn azure(settings: &Settings<AzureConfigKey>) -> Result<MicrosoftAzureBuilder> {
    let mut builder = MicrosoftAzureBuilder::new().with_http_connector(connector()?);
    // the name that Azure gives this variable has no prefix
    if let Ok(endpoint) = std::env::var("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    for (key, value) in &settings.values {
        builder = builder.with_config(*key, value.clone());
    }
    if is_plain_http(settings.get("azure_storage_endpoint")) {
        builder = builder.with_allow_http(true);
    }
    Ok(builder)
}

fn sftp(url: &Url, options: &HashMap<String, String>) -> Result<Location> {
    let given = options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let password = url.password().map(|password| ("sftp_password", password));
    let store = SftpStore::new(SftpOptions::try_new(url, options)?);
    Ok(Location {
        kind: Kind::Sftp,
        store: Arc::new(store),
        prefix: prefix(url, url.path())?,
        shown: shown(url),
        secrets: Arc::new(secrets(given.chain(password))),
        sas: None,
    })
}

/// What is common to the stores that are built from settings.
fn assemble<K, S>(
    kind: Kind,
    url: &Url,
    path: &str,
    settings: &Settings<K>,
    built: object_store::Result<S>,
) -> Result<Location>
where
    K: FromStr + AsRef<str> + Copy,
    S: ObjectStore,
{
    let (shown, secrets) = (shown(url), settings.secrets());
    let store = built.map_err(|error| not_opened(&shown, &secrets, &error))?;
    // where there are several credentials, object_store prefers these to a token
    let preferred = ["azure_storage_account_key", "azure_storage_token"];
    let sas = match settings.get(SAS_KEY) {
        Some(token) if preferred.iter().all(|name| settings.get(name).is_none()) => {
            Some(Arc::new(SasToken::parse(token)))
        }
        _ => None,
    };
    Ok(Location {
        kind,
        store: Arc::new(store),
        prefix: prefix(url, path)?,
        shown,
        secrets: Arc::new(secrets),
        sas,
    })
}

fn not_opened(shown: &str, secrets: &Secrets, error: &dyn Display) -> Error {
    Error::invalid(format!(
        "{shown} cannot be opened with these options and this environment: {}",
        secrets.redact(&error.to_string())
    ))
}

/// The URL of a location, free of what only some kinds may have.
fn parse(kind: Kind, location: &str) -> Result<Url> {
    let bad = |reason: &str| {
        Error::invalid(format!(
            "{:?} is no location for files: {reason}",
            redact_urls(location)
        ))
    };
    let url = Url::parse(location).map_err(|error| bad(&error.to_string()))?;
    if url.fragment().is_some() {
        return Err(bad("write # in a name as %23"));
    }
    if url.query().is_some() && kind != Kind::Azure {
        return Err(bad(
            "only URLs of Azure have a query string, their SAS token; write ? in a name as %3F",
        ));
    }
    let may_name_user = kind == Kind::Sftp || matches!(url.scheme(), "az" | "abfs" | "abfss");
    let has_password = url.password().is_some() && kind != Kind::Sftp;
    if has_password || (!url.username().is_empty() && !may_name_user) {
        return Err(bad("give credentials in OPTIONS or in the environment"));
    }
    Ok(url)
}

/// Moves a SAS token from the query string to the options, before one that stands there.
fn take_token(url: &Url, options: &mut HashMap<String, String>) -> Result<()> {
    let Some(token) = url.query() else {
        return Ok(());
    };
    if SasToken::signature(token).is_none() {
        return Err(Error::invalid(format!(
            "the query string of {} is no SAS token: sig=… is missing; copy the whole of it",
            shown(url)
        )));
    }
    options.insert(SAS_KEY.to_owned(), token.to_owned());
    Ok(())
}

fn host<'a>(url: &'a Url, what: &str) -> Result<&'a str> {
    url.host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| {
            Error::invalid(format!(
                "{:?} names no {what}; write it after ://",
                redact_urls(url.as_str())
            ))
        })
}

fn prefix(url: &Url, path: &str) -> Result<Path> {
    if path.contains("//") {
        return Err(Error::invalid(format!(
            "{} has an empty folder name ('//'), which object stores do not list; write one slash",
            shown(url)
        )));
    }
    Path::from_url_path(path).map_err(|error| {
        Error::invalid(format!("{} is no location for files: {error}", shown(url)))
    })
}

/// The URL without password and query string, and with a slash at the end.
fn shown(url: &Url) -> String {
    let user = match url.username() {
        "" => String::new(),
        user => format!("{user}@"),
    };
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    let path = percent_decode_str(url.path()).decode_utf8_lossy();
    let folder = match path.trim_start_matches('/').trim_end_matches('/') {
        "" => String::new(),
        path => format!("{}/", readable(path)),
    };
    format!("{}://{user}{host}{port}/{folder}", url.scheme())
}

/// Whether a host is the blob or folder service of an account, in whichever cloud.
fn is_service(host: &str) -> bool {
    let mut labels = host.split('.').skip(1);
    matches!(labels.next(), Some("blob" | "dfs")) && labels.count() >= 2
}

/// Whether a host may be that of an emulator: an address, or a name without a domain such as containers have.
fn is_emulator(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    address || !host.contains('.')
}

fn is_plain_http(endpoint: Option<&str>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.trim().to_ascii_lowercase().starts_with("http://"))
}
