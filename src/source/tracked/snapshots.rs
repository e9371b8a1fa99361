//! Full dumps, one after the other: version n is the n-th dump in the order of the names, and what it has changed is its
//! difference to the dump before it, by key.
//!
//! ```text
//!  LOCATION ── Place ──> ChangeFiles: files, numbered for ever, and their columns
//!                              └─ FilesNow ──> Dumps: which files make up which version
//!                                                └─ Difference of n-1 and n, for each n of a range ──> SequenceExec
//! ```
//!
//! Version 0 is the empty source. The rows of a range have the columns of its newest dump; a column that a dump has not got is NULL
//! in it.

mod counts;
mod difference;
mod dump_table;
mod dumps;
mod keys_exec;
mod place;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::project_schema;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use tokio::sync::OnceCell;

pub(crate) use self::counts::DumpCounts;
use self::difference::Difference;
use self::dumps::Dumps;
use self::place::Place;
use super::{TrackedTable, VersionBounds};
use crate::change::{ChangeRange, change_schema};
use crate::error::{Error, Result};
use crate::source::delta_feed::version_bounds;
use crate::source::files::NO_MARKER;
use crate::source::sequence_exec::SequenceExec;
use crate::source::{ChangeFiles, ChangeRead, ChangeSource};

/// Options of files that carry changes, which mean nothing for dumps.
const OPTIONS_OF_CHANGES: [&str; 8] = [
    "sequence",
    "marker",
    "upsert_values",
    "delete_values",
    "on_null",
    "on_invalid",
    "on_tie",
    "on_missing",
];

/// The dumps at one location.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    shared: Arc<Shared>,
    /// What there is for as long as this handle lives, once it has been looked up; absent for a handle that looks each time.
    pinned: Option<Arc<OnceCell<Arc<Dumps>>>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    files: ChangeFiles,
    place: Place,
    declared: Vec<String>,
    /// What the last look has found.
    last: Mutex<Option<Arc<Dumps>>>,
}

impl Snapshots {
    /// The dumps at `location`. `declared` are the columns that the user has given, none if they are to be found out; `options`
    /// those of the statement, credentials included. Nothing is looked at yet.
    ///
    /// # Errors
    /// When the location or an option cannot be understood, or there is no key.
    pub(crate) fn try_new(
        name: &str,
        location: &str,
        options: &HashMap<String, String>,
        declared: SchemaRef,
    ) -> Result<Self> {
        check_options(options)?;
        let (folder, place) = Place::parse(location)?;
        let mut options = options.clone();
        // every column of a dump is a column of its rows
        options.insert("marker".into(), NO_MARKER.into());
        options.extend(place.files().map(|files| ("pattern".into(), files)));
        let fields = declared.fields().iter();
        let names = fields.map(|field| field.name().clone()).collect();
        let files = ChangeFiles::try_new(name, &folder, &options, declared)?;
        if files.key().is_empty() {
            return Err(Error::invalid(format!(
                "{name} needs a key, by which the rows of one dump are found in the next: give the option key 'id', or declare a PRIMARY KEY"
            )));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                files,
                place,
                declared: names,
                last: Mutex::default(),
            }),
            pinned: None,
        })
    }

    /// The same dumps as they are when they are first asked for: all answers are of the same moment.
    pub(crate) fn pinned(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            pinned: Some(Arc::default()),
        }
    }

    /// What there is now, or when this handle was first asked.
    pub(crate) async fn dumps(&self) -> Result<Arc<Dumps>> {
        match &self.pinned {
            Some(pinned) => pinned.get_or_try_init(|| self.look()).await.cloned(),
            None => self.look().await,
        }
    }

    /// Plans the read of the newest dump's rows with these `columns`, of which `read` projects; one that it has not got is NULL.
    ///
    /// # Errors
    /// When the newest dump is gone.
    pub(crate) async fn newest(
        &self,
        columns: &SchemaRef,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let dumps = self.dumps().await?;
        let newest = dumps.current();
        self.inserts(
            &dumps,
            newest,
            project_schema(columns, read.projection)?,
            false,
            read,
        )
        .await
    }

    async fn look(&self) -> Result<Arc<Dumps>> {
        let shared = &self.shared;
        let found = Dumps::find(&shared.name, &shared.files, &shared.place, &shared.declared);
        let found = Arc::new(Box::pin(found).await?);
        *self.last() = Some(Arc::clone(&found));
        Ok(found)
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<Dumps>>> {
        let last = self.shared.last.lock();
        last.unwrap_or_else(PoisonError::into_inner)
    }

    /// What there was when a version was known to be there, without another look.
    async fn dumps_with(&self, version: i64) -> Result<Arc<Dumps>> {
        if self.pinned.is_some() {
            return self.dumps().await;
        }
        let last = self.last().as_ref().map(Arc::clone);
        match last.filter(|last| last.current() >= version) {
            Some(last) => Ok(last),
            None => self.look().await,
        }
    }

    /// The columns that a version has.
    fn columns_of(&self, dumps: &Dumps, version: i64) -> Result<SchemaRef> {
        let columns = dumps.columns(version)?;
        if columns.is_empty() {
            let shared = &self.shared;
            return Err(Error::invalid(format!(
                "{} has no dump yet ({}{}), so its columns are not known; name them in CREATE EXTERNAL TABLE {} (…), or wait for the first dump",
                shared.name,
                self.location(),
                shared.place.hint(),
                shared.name
            )));
        }
        Ok(Arc::new(dumps.files().held().project(&columns)?))
    }

    /// The change relation's columns as of a version, of which `read` projects.
    fn change_columns(
        &self,
        dumps: &Dumps,
        version: i64,
        read: &ChangeRead<'_>,
    ) -> Result<SchemaRef> {
        let columns = self.columns_of(dumps, version)?;
        let schema = change_schema(&self.shared.name, &columns)?;
        Ok(project_schema(&schema, read.projection)?)
    }

    /// Plans the differences that some versions have made.
    async fn differences(
        &self,
        dumps: &Dumps,
        versions: RangeInclusive<i64>,
        schema: SchemaRef,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let label = format!(
            "source={}, versions={}..={}",
            self.shared.name,
            versions.start(),
            versions.end()
        );
        let mut plans = Vec::new();
        for version in versions {
            let difference = Difference {
                version,
                time: dumps.time(version)?.unwrap_or_default(),
                old: dumps.content(version - 1)?,
                new: dumps.content(version)?,
                filters: read.filters,
                checked: true,
            };
            plans.extend(planned(&difference, &schema, read).await?);
        }
        Ok(in_turn(plans, schema, label))
    }

    /// Plans the read of a dump's rows as inserts.
    async fn inserts(
        &self,
        dumps: &Dumps,
        version: i64,
        schema: SchemaRef,
        checked: bool,
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        dumps.check_rows(version)?;
        let inserts = Difference {
            version,
            time: dumps.time(version)?.unwrap_or_default(),
            old: None,
            new: dumps.content(version)?,
            filters: read.filters,
            checked,
        };
        let plans = planned(&inserts, &schema, read)
            .await?
            .into_iter()
            .collect();
        let label = format!("source={}, rows of version {version}", self.shared.name);
        Ok(in_turn(plans, schema, label))
    }
}

#[async_trait]
impl TrackedTable for Snapshots {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn location(&self) -> String {
        let shared = &self.shared;
        format!("{}{}", shared.files.location(), shared.place.shown())
    }

    async fn identity(&self) -> Result<String> {
        // the same files may also be followed as files with changes
        let ledger = self.dumps_with(0).await?.files().identity().await?;
        Ok(format!("snapshots:{ledger}"))
    }

    async fn bounds(&self) -> Result<VersionBounds> {
        Ok(self.dumps().await?.bounds())
    }

    async fn version_at(&self, micros: i64) -> Result<i64> {
        Ok(self.dumps_with(0).await?.version_at(micros))
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        self.dumps_with(version).await?.time(version)
    }

    async fn columns(&self, version: Option<i64>) -> Result<SchemaRef> {
        let dumps = match version {
            Some(version) => self.dumps_with(version).await?,
            None => self.dumps().await?,
        };
        self.columns_of(&dumps, version.unwrap_or(dumps.current()))
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        Ok(self.shared.files.key().to_vec())
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        let dumps = self.dumps_with(version).await?;
        dumps.fingerprint(version).map(Some)
    }

    async fn check_kept(&self, range: &ChangeRange) -> Result<()> {
        self.dumps_with(range.until()).await?.check(range)
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let dumps = self.dumps_with(range.until()).await?;
        dumps.check(&range)?;
        let schema = self.change_columns(&dumps, range.until(), &read)?;
        let (low, high) = version_bounds(read.filters);
        let first = range.first().max(1).max(low);
        let last = range.until().min(high);
        self.differences(&dumps, first..=last, schema, &read).await
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let dumps = self.dumps_with(version).await?;
        let schema = self.change_columns(&dumps, version, &read)?;
        self.inserts(&dumps, version, schema, true, &read).await
    }
}

/// The physical plan of a difference; `None` where there is nothing to read.
async fn planned(
    difference: &Difference<'_>,
    schema: &Schema,
    read: &ChangeRead<'_>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    match difference.plan(schema.fields())? {
        Some(plan) => Ok(Some(read.state.create_physical_plan(&plan).await?)),
        None => Ok(None),
    }
}

fn in_turn(
    plans: Vec<Arc<dyn ExecutionPlan>>,
    schema: SchemaRef,
    label: String,
) -> Arc<dyn ExecutionPlan> {
    if plans.is_empty() {
        return Arc::new(EmptyExec::new(schema));
    }
    Arc::new(SequenceExec::new(plans, schema, label))
}

/// Refuses options that are those of other tables.
fn check_options(options: &HashMap<String, String>) -> Result<()> {
    let mut names: Vec<String> = options
        .keys()
        .map(|key| key.trim().to_ascii_lowercase())
        .collect();
    names.sort();
    for name in names {
        let name = name.strip_prefix("format.").unwrap_or(&name);
        if name == "pattern" {
            return Err(Error::invalid(
                "the option pattern goes with change files; which dumps there are stands in the LOCATION, as in '/dumps/date=*/' or \
                 '/dumps/stock_*.csv'",
            ));
        }
        if OPTIONS_OF_CHANGES.contains(&name) {
            return Err(Error::invalid(format!(
                "the option {name} goes with files that carry changes (STORED AS CHANGE_FILES); a dump is read as it is, so leave it out"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(location: &str, options: &[(&str, &str)]) -> Result<Snapshots> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Snapshots::try_new("s", location, &options.collect(), Arc::new(Schema::empty()))
    }

    #[tokio::test]
    async fn locations_and_options_are_understood() {
        let found = open("/dumps/date=*/", &[("format", "csv"), ("key", "id, day")]).unwrap();
        assert_eq!(found.location(), "/dumps/date=*/");
        assert_eq!(found.primary_key().await.unwrap(), ["id", "day"]);
        let found = open("/dumps/all_*.parquet", &[("format.KEY", "id")]).unwrap();
        assert_eq!(found.location(), "/dumps/all_*.parquet");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |location: &str, options: &[(&str, &str)], expected: &str| {
            let error = open(location, options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let csv = ("format", "csv");
        check("/d/*/", &[csv], "s needs a key");
        check("/d/*/", &[("key", "id")], "the option format is missing");
        check("/d/**/", &[csv, ("key", "id")], "several depths");
        let key = ("key", "id");
        check("/d/", &[csv, key, ("pattern", "*.csv")], "in the LOCATION");
        check(
            "/d/",
            &[csv, key, ("Format.Marker", "op")],
            "the option marker goes with",
        );
        check(
            "/d/",
            &[csv, key, ("on_missing", "skip")],
            "a dump is read as it is",
        );
        check(
            "/d/",
            &[csv, key, ("xyzzy", "1")],
            "unknown option \"xyzzy\"",
        );
    }
}
