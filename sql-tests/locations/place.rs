//! Places where a trial lets files land: a folder that is the trial's own, with a way to plant files that is not the one under test.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path as Folder, PathBuf};
use std::sync::{Arc, LazyLock};

use libtest_mimic::Failed;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, parse_url_opts};
use tempfile::TempDir;
use url::Url;
use uuid::Uuid;

use super::server::{About, Missing, Server, Started};

/// A kind of location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder of this machine.
    Local,
    S3,
    /// Azure with the key of the account.
    Azure,
    /// Azure with a token that permits reading and listing, as partners hand them out; so the ledger is kept elsewhere.
    AzureSas,
    Gcs,
    /// OpenSSH, with a key.
    Sftp,
    /// Another SFTP server, with a password.
    SftpPassword,
}

pub(super) const KINDS: &[Kind] = &[
    Kind::Local,
    Kind::S3,
    Kind::Azure,
    Kind::AzureSas,
    Kind::Gcs,
    Kind::Sftp,
    Kind::SftpPassword,
];

type Shared = LazyLock<Result<Started<Server>, Failed>>;

static S3: Shared = LazyLock::new(|| Server::start("s3"));
static AZURE: Shared = LazyLock::new(|| Server::start("azure"));
static GCS: Shared = LazyLock::new(|| Server::start("gcs"));
static SFTP: Shared = LazyLock::new(|| Server::start("sftp"));
static SFTP_PASSWORD: Shared = LazyLock::new(|| Server::start("sftp-password"));

impl Kind {
    /// Its part of a trial's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::AzureSas => "azure-sas",
            Self::Gcs => "gcs",
            Self::Sftp => "sftp",
            Self::SftpPassword => "sftp-password",
        }
    }

    /// A new empty place, on the server that all trials share.
    pub(super) fn place(self) -> Result<Started<Place>, Failed> {
        let server = match self {
            Self::Local => return Ok(Started::Ready(Place::local()?)),
            Self::S3 => &S3,
            Self::Azure | Self::AzureSas => &AZURE,
            Self::Gcs => &GCS,
            Self::Sftp => &SFTP,
            Self::SftpPassword => &SFTP_PASSWORD,
        };
        match &**server {
            Ok(Started::Ready(server)) => Ok(Started::Ready(Place::on(self, server.about())?)),
            Ok(Started::Missing(Missing(reason))) => Ok(Started::Missing(Missing(reason.clone()))),
            Err(failed) => Err(failed.clone()),
        }
    }
}

/// A folder at a location.
#[derive(Debug, Clone)]
pub(super) struct Place {
    kind: Kind,
    url: String,
    /// What a user gives in OPTIONS to reach it.
    pub options: BTreeMap<String, String>,
    /// What no message may show.
    pub secrets: Vec<String>,
    /// What else is known of the server.
    pub more: BTreeMap<String, String>,
    files: Files,
    /// What is removed with the place: a local folder, or a ledger beside the location.
    kept: Vec<Arc<TempDir>>,
}

/// How files are planted.
#[derive(Debug, Clone)]
enum Files {
    OnDisk(PathBuf),
    InStore(Arc<dyn ObjectStore>, String),
}

impl Place {
    fn local() -> Result<Self, Failed> {
        let folder = TempDir::new()?;
        let files = folder.path().join("files");
        Ok(Self {
            kind: Kind::Local,
            url: path_text(&files)?,
            options: BTreeMap::new(),
            secrets: vec![],
            more: BTreeMap::new(),
            files: Files::OnDisk(files),
            kept: vec![Arc::new(folder)],
        })
    }

    /// A new folder on a server.
    pub(super) fn on(kind: Kind, about: &About) -> Result<Self, Failed> {
        let name = Uuid::new_v4().to_string();
        let files = match &about.folder {
            Some(folder) => Files::OnDisk(folder.join(&name)),
            None => Files::InStore(open_store(about)?, name.clone()),
        };
        let mut place = Self {
            kind,
            url: format!("{}/{name}", about.url),
            options: about.options.clone(),
            secrets: about.secrets.clone(),
            more: about.more.clone(),
            files,
            kept: vec![],
        };
        if kind == Kind::AzureSas {
            place = place.with_token("read_and_list")?.with_ledger()?;
        }
        Ok(place)
    }

    /// The same folder, reached by a token of Azure, by the URL that has it for its query string.
    pub(super) fn with_token(&self, token: &str) -> Result<Self, Failed> {
        let (Files::InStore(_, name), Some(endpoint)) = (&self.files, self.more.get("endpoint"))
        else {
            return Err("only Azure has tokens".into());
        };
        let token = self.more.get(token).ok_or("there is no such token")?;
        let folder = written(name);
        Ok(Self {
            kind: Kind::AzureSas,
            url: format!("{endpoint}/{BUCKET}/{folder}?{token}"),
            options: BTreeMap::new(),
            ..self.clone()
        })
    }

    /// The same with its ledger in a folder of this machine.
    pub(super) fn with_ledger(&self) -> Result<Self, Failed> {
        let ledger = TempDir::new()?;
        let mut place = self.with_option("ledger", &path_text(ledger.path())?);
        place.kept.push(Arc::new(ledger));
        Ok(place)
    }

    /// The same with one option more, or another value for it.
    pub(super) fn with_option(&self, name: &str, value: &str) -> Self {
        let mut place = self.clone();
        place.options.insert(name.to_owned(), value.to_owned());
        place
    }

    /// The same without an option.
    pub(super) fn without_option(&self, name: &str) -> Self {
        let mut place = self.clone();
        place.options.remove(name);
        place
    }

    /// The same with `from` in its URL replaced.
    pub(super) fn with_url(&self, from: &str, to: &str) -> Self {
        Self {
            url: self.url.replacen(from, to, 1),
            ..self.clone()
        }
    }

    /// Its URL as a user writes it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is a folder of this machine.
    pub(super) fn is_local(&self) -> bool {
        self.kind == Kind::Local
    }

    /// A folder below it, by a name as a file system has it.
    pub(super) fn at(&self, folder: &str) -> Self {
        let below = match self.kind {
            Kind::Local => folder.to_owned(),
            _ => written(folder),
        };
        let url = match self.url.split_once('?') {
            Some((path, token)) => format!("{path}/{below}?{token}"),
            None => format!("{}/{below}", self.url),
        };
        let files = match &self.files {
            Files::OnDisk(path) => Files::OnDisk(path.join(folder)),
            Files::InStore(store, name) => {
                Files::InStore(Arc::clone(store), format!("{name}/{folder}"))
            }
        };
        Self {
            url,
            files,
            ..self.clone()
        }
    }

    /// The statement that makes the table `landed` of its files: CSV with the key `id`, unless the options say otherwise.
    pub(super) fn create_table(&self, columns: &str) -> String {
        let defaults = [("format", "csv"), ("key", "id")];
        let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut options = BTreeMap::from(defaults);
        options.extend(self.options.clone());
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("'{name}' {}", quoted(value)))
            .collect();
        format!(
            "CREATE EXTERNAL TABLE landed {columns} STORED AS CHANGE_FILES LOCATION {} OPTIONS ({})",
            quoted(&self.url),
            options.join(", ")
        )
    }

    /// Lets a file land, whole at once; one of this name is replaced.
    pub(super) async fn put(&self, name: &str, content: impl Into<Vec<u8>>) -> Result<(), Failed> {
        let content = content.into();
        match &self.files {
            Files::OnDisk(folder) => put_on_disk(&folder.join(name), &content)?,
            Files::InStore(store, folder) => {
                let path = Path::parse(format!("{folder}/{name}"))?;
                store.put(&path, content.into()).await?;
            }
        }
        Ok(())
    }

    /// Removes a file.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Failed> {
        match &self.files {
            Files::OnDisk(folder) => fs::remove_file(folder.join(name))?,
            Files::InStore(store, folder) => {
                store
                    .delete(&Path::parse(format!("{folder}/{name}"))?)
                    .await?;
            }
        }
        Ok(())
    }
}

/// The container or bucket that `serve.py` makes.
const BUCKET: &str = "drop";

fn open_store(about: &About) -> Result<Arc<dyn ObjectStore>, Failed> {
    let (store, _) = parse_url_opts(&Url::parse(&about.url)?, &about.options)?;
    Ok(Arc::from(store))
}

/// Writes under a name that is not taken, then renames: a reader sees all of it or nothing.
fn put_on_disk(path: &Folder, content: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("a file has a name"));
    };
    fs::create_dir_all(folder)?;
    let hidden = folder.join(format!(".{}.half", name.to_string_lossy()));
    fs::write(&hidden, content)?;
    fs::rename(&hidden, path)
}

/// The path as SQL has it.
pub(super) fn path_text(path: &Folder) -> Result<String, Failed> {
    let text = path
        .to_str()
        .ok_or("the temporary folder has a name that is not text")?;
    Ok(text.to_owned())
}

/// A path as it is written in a URL.
fn written(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
}

/// A text of SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
