//! What the Delta protocol demands of a writer, held against the text of the log.
//!
//! A [`Log`] replays what a table's commits say. What was there when it was opened is taken as it is; each later commit is one of
//! ours and is judged by the state before it. Where old commits have been cleaned away, rules about what they said cannot be
//! held against anything and are let pass.

mod files;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use serde_json::{Map, Value};

use self::files::{check_feed, check_files, check_row_ids};
use self::schema::{check_metadata, physical_names};

pub(super) use self::schema::identities;

/// The domain of row tracking, which holds the highest row id.
const ROW_TRACKING: &str = "delta.rowTracking";

/// The state that a table's commits add up to.
pub(super) struct Log {
    table: PathBuf,
    /// The version after the newest.
    next: i64,
    /// Whether the first commit is still there, so that every file is known.
    is_whole: bool,
    metadata: Value,
    protocol: Value,
    /// The active files by path.
    files: BTreeMap<String, Value>,
    domains: BTreeMap<String, String>,
    applications: BTreeMap<String, i64>,
    /// The newest in-commit timestamp.
    instant: i64,
    highest_row_id: i64,
}

/// The actions of one version.
struct Commit {
    version: i64,
    text: String,
    actions: Vec<(String, Value)>,
}

impl Log {
    /// Replays the log of the table in a folder.
    pub(super) fn open(table: &Path) -> Result<Self, Failed> {
        let first = first_commit(&table.join("_delta_log"))?;
        let mut log = Self {
            table: table.to_owned(),
            next: first,
            is_whole: first == 0,
            metadata: Value::Null,
            protocol: Value::Null,
            files: BTreeMap::new(),
            domains: BTreeMap::new(),
            applications: BTreeMap::new(),
            instant: i64::MIN,
            highest_row_id: -1,
        };
        while let Some(commit) = log.next_commit()? {
            log.apply(commit);
        }
        Ok(log)
    }

    /// Judges the commits that have come since.
    ///
    /// # Errors
    /// When one breaks a rule: its version, and what is wrong.
    pub(super) fn check_news(&mut self) -> Result<(), Failed> {
        while let Some(commit) = self.next_commit()? {
            self.check(&commit).map_err(|problem| {
                format!("version {}: {problem}\n{}", commit.version, commit.text)
            })?;
            self.apply(commit);
        }
        Ok(())
    }

    /// The newest version.
    pub(super) fn newest(&self) -> i64 {
        self.next - 1
    }

    /// The newest `metaData` action; null where its commit has been cleaned away.
    pub(super) fn metadata(&self) -> &Value {
        &self.metadata
    }

    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.metadata["configuration"][name].as_str()
    }

    pub(super) fn is_on(&self, property: &str) -> bool {
        self.property(property) == Some("true")
    }

    /// Whether changes are recorded.
    pub(super) fn has_feed(&self) -> bool {
        let is_legacy = self.protocol["minWriterVersion"]
            .as_i64()
            .is_some_and(|version| version < 7);
        self.is_on("delta.enableChangeDataFeed") && (is_legacy || self.writes("changeDataFeed"))
    }

    /// What must survive in a checkpoint: the domains and the applications.
    pub(super) fn kept_names(&self) -> Vec<String> {
        let domains = self.domains.keys();
        domains.chain(self.applications.keys()).cloned().collect()
    }

    fn writes(&self, feature: &str) -> bool {
        let features = self.protocol["writerFeatures"].as_array();
        features.is_some_and(|features| features.iter().any(|name| name == feature))
    }

    fn next_commit(&self) -> Result<Option<Commit>, Failed> {
        let version = self.next;
        let path = self.table.join(format!("_delta_log/{version:020}.json"));
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let mut actions = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            actions.extend(serde_json::from_str::<Map<String, Value>>(line)?);
        }
        Ok(Some(Commit {
            version,
            text,
            actions,
        }))
    }

    fn apply(&mut self, commit: Commit) {
        // a file may be removed and added again by one commit, in any order
        for removed in commit.of("remove") {
            self.files.remove(text(removed, "path"));
        }
        for (kind, action) in commit.actions {
            let number = |key: &str| action[key].as_i64();
            match kind.as_str() {
                "add" => {
                    self.files.insert(text(&action, "path").to_owned(), action);
                }
                "metaData" => self.metadata = action,
                "protocol" => self.protocol = action,
                "commitInfo" => {
                    self.instant = number("inCommitTimestamp").unwrap_or(self.instant);
                }
                "txn" => {
                    let application = text(&action, "appId").to_owned();
                    self.applications
                        .insert(application, number("version").unwrap_or_default());
                }
                "domainMetadata" => {
                    let name = text(&action, "domain").to_owned();
                    let configuration = text(&action, "configuration").to_owned();
                    self.highest_row_id = highest_row_id(&action).unwrap_or(self.highest_row_id);
                    self.domains.insert(name, configuration);
                }
                _ => {}
            }
        }
        self.next = commit.version + 1;
    }

    fn check(&self, commit: &Commit) -> Result<(), String> {
        check_info(self, commit)?;
        check_domains(self, commit)?;
        check_metadata(self, commit)?;
        let partition_columns = physical_names(&self.metadata);
        check_files(self, commit, partition_columns.as_ref())?;
        check_feed(self, commit, partition_columns.as_ref())?;
        check_row_ids(self, commit)
    }
}

impl Commit {
    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let actions = self.actions.iter();
        actions.filter_map(move |(name, action)| (name == kind).then_some(action))
    }

    fn info(&self) -> Option<&Value> {
        self.of("commitInfo").next()
    }

    /// A number that the commit says of itself; Delta writes them as texts.
    fn metric(&self, name: &str) -> i64 {
        let metric = self.info().map(|info| &info["operationMetrics"][name]);
        let number = metric
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        number.unwrap_or_default()
    }
}

/// The first version from which on all commits are there; the next version to come if there is none.
fn first_commit(log: &Path) -> Result<i64, Failed> {
    let (mut commits, mut newest) = (BTreeSet::new(), -1);
    for entry in fs::read_dir(log)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let version = name.get(..20).and_then(|digits| digits.parse::<i64>().ok());
        newest = newest.max(version.unwrap_or(-1));
        if name.len() == "00000000000000000000.json".len() && name.ends_with(".json") {
            commits.extend(version);
        }
    }
    let mut first = newest + 1;
    while commits.contains(&(first - 1)) {
        first -= 1;
    }
    Ok(first)
}

/// *Commit Provenance* and *In-Commit Timestamps*.
fn check_info(log: &Log, commit: &Commit) -> Result<(), String> {
    let Some(("commitInfo", info)) = commit
        .actions
        .first()
        .map(|(kind, action)| (kind.as_str(), action))
    else {
        return Err("the first action is no commitInfo".into());
    };
    if !text(info, "engineInfo").starts_with("Alluvial/") {
        return Err(format!("engineInfo {}", info["engineInfo"]));
    }
    let removes = commit.of("remove").count();
    if removes > 0 && info["isBlindAppend"] != false {
        return Err("a commit that removes files is no blind append".into());
    }
    if removes > 0
        && log.is_on("delta.enableRowTracking")
        && info["tags"]["delta.rowTracking.preserved"] != "true"
    {
        return Err("it does not say that it has kept the row ids".into());
    }
    if !log.is_on("delta.enableInCommitTimestamps") {
        return Ok(());
    }
    if !commit
        .text
        .starts_with("{\"commitInfo\":{\"inCommitTimestamp\":")
    {
        return Err("the in-commit timestamp does not come first".into());
    }
    match info["inCommitTimestamp"].as_i64() {
        Some(instant) if instant > log.instant => Ok(()),
        other => Err(format!(
            "in-commit timestamp {other:?} after {}",
            log.instant
        )),
    }
}

/// *Domain Metadata*, *Transaction Identifiers*: those of others stay as they are.
fn check_domains(log: &Log, commit: &Commit) -> Result<(), String> {
    for domain in commit.of("domainMetadata") {
        let name = text(domain, "domain");
        if name != ROW_TRACKING && log.domains.contains_key(name) {
            return Err(format!("the domain {name} of others is written"));
        }
        if highest_row_id(domain).is_some_and(|highest| highest < log.highest_row_id) {
            return Err(format!("the highest row id was {}", log.highest_row_id));
        }
    }
    for transaction in commit.of("txn") {
        let application = text(transaction, "appId");
        if log.applications.contains_key(application) {
            return Err(format!("the transaction of {application} is written"));
        }
    }
    Ok(())
}

/// What a `domainMetadata` action says of it.
fn highest_row_id(domain: &Value) -> Option<i64> {
    if domain["domain"] != ROW_TRACKING {
        return None;
    }
    let configuration: Value = serde_json::from_str(text(domain, "configuration")).ok()?;
    configuration["rowIdHighWaterMark"].as_i64()
}

fn text<'a>(action: &'a Value, key: &str) -> &'a str {
    action[key].as_str().unwrap_or_default()
}
