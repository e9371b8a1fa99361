//! What `CREATE EXTERNAL TABLE … STORED AS VERSIONED` says, sorted by whom it concerns.

use std::collections::{BTreeMap, HashMap};

use datafusion::common::config::ConfigFileType;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;

use crate::error::{Error, Result};
use crate::source::{Location, VersionedTable};
use crate::sql::factory::primary_key;

/// What `STORED AS` calls tables with a version column.
pub(in crate::sql) const VERSIONED: &str = "VERSIONED";
/// What stands before their options on the way through DataFusion.
pub(in crate::sql) const OPTION_PREFIX: &str = "versioned.";

/// The formats, for messages.
const FORMATS: &str = "'parquet', 'csv', 'json' (a JSON object on each line), 'avro' or 'delta'";
/// What the names of compressed files end in.
const COMPRESSED: [&str; 5] = [".gz", ".bz2", ".xz", ".zst", ".zstd"];

/// How the rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Parquet,
    Csv,
    Json,
    Avro,
    Delta,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "parquet" => Self::Parquet,
            "csv" => Self::Csv,
            "json" | "jsonl" | "ndjson" | "jsonlines" => Self::Json,
            "avro" => Self::Avro,
            "delta" => Self::Delta,
            _ => return None,
        })
    }

    /// What DataFusion calls it.
    pub(super) fn file_type(self) -> &'static str {
        match self {
            Self::Parquet => "PARQUET",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Avro => "AVRO",
            Self::Delta => "DELTA",
        }
    }

    fn config(self) -> Option<ConfigFileType> {
        match self {
            Self::Parquet => Some(ConfigFileType::PARQUET),
            Self::Csv => Some(ConfigFileType::CSV),
            Self::Json => Some(ConfigFileType::JSON),
            Self::Avro | Self::Delta => None,
        }
    }
}

/// The options, by whom they belong to.
pub(super) struct Given {
    /// The table of the session whose rows are followed, if it is one.
    pub table: Option<String>,
    format: Option<String>,
    /// Those of [`VersionedTable`].
    pub versioned: HashMap<String, String>,
    /// Those of the format and of the object store.
    rest: BTreeMap<String, String>,
}

impl Given {
    /// The options of a statement, under their own names.
    ///
    /// # Errors
    /// When one is given twice.
    pub(super) fn try_new(statement: &CreateExternalTable) -> Result<Self> {
        let mut rest = BTreeMap::new();
        for (key, value) in &statement.options {
            let key = key.trim().to_ascii_lowercase();
            let name = key
                .strip_prefix("format.")
                .or_else(|| key.strip_prefix(OPTION_PREFIX))
                .unwrap_or(&key);
            if rest.insert(name.to_owned(), value.clone()).is_some() {
                return Err(Error::invalid(format!(
                    "the option {name} is given twice; leave one of them out"
                )));
            }
        }
        let mut versioned = HashMap::new();
        for name in VersionedTable::OPTIONS {
            versioned.extend(rest.remove_entry(name));
        }
        if let Some(key) = primary_key(statement) {
            versioned.entry("key".into()).or_insert(key);
        }
        Ok(Self {
            table: rest.remove("table"),
            format: rest.remove("format"),
            versioned,
            rest,
        })
    }

    /// The format, given or told by the ending of the location.
    ///
    /// # Errors
    /// When there is none, or it is not known.
    pub(super) fn format(&self, table: &str, location: &str) -> Result<Format> {
        match &self.format {
            Some(name) => Format::named(name).ok_or_else(|| {
                Error::invalid(format!(
                    "the option format of {table} has the value {name:?}; give {FORMATS}"
                ))
            }),
            None => told_by(location).ok_or_else(|| {
                Error::invalid(format!(
                    "{table} needs the option format, since its LOCATION does not tell it; give format {FORMATS}"
                ))
            }),
        }
    }

    /// Refuses options that are neither [`VersionedTable`]'s nor `table`.
    ///
    /// # Errors
    /// When there is one.
    pub(super) fn nothing_else(&self, table: &str) -> Result<()> {
        if self.format.is_some() {
            return Err(Error::invalid(format!(
                "{table} has both the option table and the option format; a table of the session knows its format, leave that out"
            )));
        }
        match self.rest.keys().next() {
            Some(key) => Err(unknown(table, key, "")),
            None => Ok(()),
        }
    }

    /// The options of the object store at `location`, and those of the format as DataFusion calls them.
    ///
    /// # Errors
    /// When an option is neither.
    pub(super) fn split(
        self,
        table: &str,
        location: &str,
        format: Format,
        state: &SessionState,
    ) -> Result<(HashMap<String, String>, HashMap<String, String>)> {
        let (mut store, mut of_format) = (HashMap::new(), HashMap::new());
        for (key, value) in self.rest {
            if let Some(name) = Location::canonical_key(location, &key) {
                store.insert(name, value);
                continue;
            }
            let Some(config) = format.config() else {
                return Err(unknown(table, &key, ""));
            };
            let option = match key.as_str() {
                // as files with change markers call it
                "header" => "format.has_header".to_owned(),
                _ => format!("format.{key}"),
            };
            let mut options = state.default_table_options();
            options.set_config_format(config);
            if let Err(error) = options.set(&option, &value) {
                return Err(unknown(table, &key, &error.strip_backtrace()));
            }
            of_format.insert(option, value);
        }
        Ok((store, of_format))
    }
}

fn unknown(table: &str, key: &str, reason: &str) -> Error {
    let reason = match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    Error::invalid(format!(
        "the option {key:?} of {table} is not known{reason}; known options: table, format, {}; for CSV also has_header, delimiter, quote, \
         escape, comment, compression, schema_infer_max_rec; and those of the object store",
        VersionedTable::OPTIONS.join(", ")
    ))
}

/// The format that the ending of a location names.
fn told_by(location: &str) -> Option<Format> {
    let path = match location.contains("://") {
        true => location.split(['?', '#']).next()?,
        false => location,
    };
    let path = path.to_ascii_lowercase();
    let name = COMPRESSED
        .iter()
        .find_map(|ending| path.strip_suffix(*ending))
        .unwrap_or(&path);
    Format::named(name.rsplit_once('.')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_the_format() {
        let check = |location: &str, expected| assert_eq!(told_by(location), expected);
        check("/data/a.parquet", Some(Format::Parquet));
        check("/data/*.CSV", Some(Format::Csv));
        check("a.csv.gz", Some(Format::Csv));
        check("s3://bucket/a.ndjson?x=y.csv", Some(Format::Json));
        check("/data.csv/", None);
        check("/data", None);
    }
}
