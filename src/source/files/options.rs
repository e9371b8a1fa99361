//! What `OPTIONS (…)` of change-marked files says, parsed once: whoever holds [`FileOptions`] need not check them again.
//!
//! Options are those of the source, those of its format and those of the object store. What is none of them is an error, so that
//! a slip never means a default.

mod format;
mod given;
mod pattern;
mod values;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use glob::Pattern;

use self::given::Given;
use super::location::redact_urls;
use super::reader::{Compression, TextFormat};
use crate::error::{Error, Result};

/// The column that says what a row does, unless another one is named.
const MARKER: &str = "_change_request_type";
/// How many rows of a file its types are inferred from, unless the options say.
const INFER_ROWS: usize = 1000;

/// What OPTIONS (…) says.
#[derive(Clone)]
pub(super) struct FileOptions {
    pub format: FileFormat,
    pub compression: Compression,
    /// Which files are taken, by name or, with a slash in it, by path below the location.
    pub pattern: Option<Pattern>,
    /// The columns that identify a row; empty where none are given.
    pub key: Vec<String>,
    /// The column by which changes of a key are ordered.
    pub sequence: Option<String>,
    /// The column that says what a row does.
    pub marker: String,
    /// The markers of an upsert, trimmed and in lower case.
    pub upsert_values: Vec<String>,
    /// The markers of a delete, trimmed and in lower case.
    pub delete_values: Vec<String>,
    pub on_null: OnNull,
    pub on_invalid: OnInvalid,
    pub on_tie: OnTie,
    pub on_missing: OnMissing,
    /// Where the ledger is, if not below the location.
    pub ledger: Option<String>,
    /// How old a file must be to be taken.
    pub settle: Duration,
    pub listing: Listing,
    /// How many rows of a file its types are inferred from.
    pub infer_rows: usize,
    /// The options of the object store under their canonical names; secrets among them.
    pub store: HashMap<String, String>,
}

/// How files are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileFormat {
    Parquet,
    Text(TextFormat),
}

impl fmt::Display for FileFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Parquet => "parquet",
            Self::Text(TextFormat::Csv(_)) => "csv",
            Self::Text(TextFormat::Json) => "json",
            Self::Text(TextFormat::Avro) => "avro",
        })
    }
}

/// What a row without a marker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OnNull {
    #[default]
    Error,
    Upsert,
    Delete,
    Quarantine,
}

/// What becomes of a row that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OnInvalid {
    #[default]
    Error,
    Quarantine,
}

/// What two different rows of the same key and sequence are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OnTie {
    #[default]
    Error,
    Last,
}

/// What becomes of versions whose file is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OnMissing {
    #[default]
    Error,
    Skip,
}

/// How new files are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Listing {
    #[default]
    Auto,
    /// Everything is listed each time.
    Full,
    /// Names only grow, so that the listing may begin after the last one known.
    Ordered,
}

impl FileOptions {
    /// The source's own options; those of CSV files are beside them.
    pub(super) const KNOWN: &[&str] = &[
        "format",
        "pattern",
        "key",
        "sequence",
        "marker",
        "upsert_values",
        "delete_values",
        "on_null",
        "on_invalid",
        "on_tie",
        "on_missing",
        "ledger",
        "settle",
        "listing",
        "infer_rows",
        "compression",
    ];

    /// Reads the options of a source at `location`. Keys may be in any case and with the `format.` that DataFusion puts before
    /// those without a period.
    ///
    /// # Errors
    /// When an option is not known, is given twice or has a value that it cannot have.
    pub(super) fn try_new(location: &str, options: &HashMap<String, String>) -> Result<Self> {
        let mut given = Given::try_new(location, options)?;
        let pattern = given
            .take("pattern")
            .map(|text| pattern::parse(&text))
            .transpose()?;
        let format = format::format(&mut given, pattern.as_ref())?;
        let compression = format::compression(&mut given, &format)?;
        let (upsert_values, delete_values) = markers(&mut given)?;
        let on_null = on_null(given.take("on_null"), &upsert_values, &delete_values)?;
        let read = Self {
            format,
            compression,
            pattern,
            key: given.read("key", values::columns)?,
            sequence: given.read("sequence", values::column)?,
            marker: given
                .read("marker", values::column)?
                .unwrap_or_else(|| MARKER.to_owned()),
            upsert_values,
            delete_values,
            on_null,
            on_invalid: given.choose(
                "on_invalid",
                &[
                    ("error", OnInvalid::Error),
                    ("quarantine", OnInvalid::Quarantine),
                ],
            )?,
            on_tie: given.choose("on_tie", &[("error", OnTie::Error), ("last", OnTie::Last)])?,
            on_missing: given.choose(
                "on_missing",
                &[("error", OnMissing::Error), ("skip", OnMissing::Skip)],
            )?,
            ledger: given.read("ledger", values::place)?,
            settle: given.read("settle", values::duration)?,
            listing: given.choose(
                "listing",
                &[
                    ("auto", Listing::Auto),
                    ("full", Listing::Full),
                    ("ordered", Listing::Ordered),
                ],
            )?,
            infer_rows: given
                .read("infer_rows", values::count)?
                .unwrap_or(INFER_ROWS),
            store: given.into_store(),
        };
        read.check_columns()?;
        Ok(read)
    }

    /// Whether any rows that cannot be understood are set aside.
    pub(super) fn sets_aside(&self) -> bool {
        self.on_invalid == OnInvalid::Quarantine || self.on_null == OnNull::Quarantine
    }

    /// Whether a file is one of the source's, by its path below the location: it matches the pattern, and neither its name nor a
    /// folder's says that it is hidden or half written.
    pub(super) fn takes(&self, relative: &str) -> bool {
        !pattern::is_hidden_or_unfinished(relative)
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern::matches(pattern, relative))
    }

    /// The marker is never a column of the rows, so it cannot identify or order them.
    fn check_columns(&self) -> Result<()> {
        let is_marker = |name: &&String| name.eq_ignore_ascii_case(&self.marker);
        match self.key.iter().chain(&self.sequence).find(is_marker) {
            Some(name) => Err(Error::invalid(format!(
                "the column {name:?} is the marker, so it cannot be a key or the sequence as well; name other columns"
            ))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for FileOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut store: Vec<&String> = self.store.keys().collect();
        store.sort();
        formatter
            .debug_struct("FileOptions")
            .field("format", &self.format)
            .field("compression", &self.compression)
            .field("pattern", &self.pattern.as_ref().map(Pattern::as_str))
            .field("key", &self.key)
            .field("sequence", &self.sequence)
            .field("marker", &self.marker)
            .field("upsert_values", &self.upsert_values)
            .field("delete_values", &self.delete_values)
            .field("on_null", &self.on_null)
            .field("on_invalid", &self.on_invalid)
            .field("on_tie", &self.on_tie)
            .field("on_missing", &self.on_missing)
            .field("ledger", &self.ledger.as_deref().map(redact_urls))
            .field("settle", &self.settle)
            .field("listing", &self.listing)
            .field("infer_rows", &self.infer_rows)
            .field("store", &store)
            .finish()
    }
}

/// The codes of upserts and of deletes, none in both.
fn markers(given: &mut Given) -> Result<(Vec<String>, Vec<String>)> {
    let upserts: Option<Vec<String>> = given.read("upsert_values", values::codes)?;
    let deletes: Option<Vec<String>> = given.read("delete_values", values::codes)?;
    let upserts = upserts.unwrap_or_else(|| vec!["u".to_owned()]);
    let deletes = deletes.unwrap_or_else(|| vec!["d".to_owned()]);
    match upserts.iter().find(|code| deletes.contains(code)) {
        Some(code) => Err(Error::invalid(format!(
            "the marker {code:?} is both an upsert (upsert_values {:?}) and a delete (delete_values {:?}); give it to one of them",
            upserts.join(","),
            deletes.join(",")
        ))),
        None => Ok((upserts, deletes)),
    }
}

fn on_null(value: Option<String>, upserts: &[String], deletes: &[String]) -> Result<OnNull> {
    let Some(value) = value else {
        return Ok(OnNull::default());
    };
    let lower = value.trim().to_lowercase();
    match lower.as_str() {
        _ if upserts.contains(&lower) => Ok(OnNull::Upsert),
        _ if deletes.contains(&lower) => Ok(OnNull::Delete),
        "error" => Ok(OnNull::Error),
        "quarantine" => Ok(OnNull::Quarantine),
        _ => Err(Error::invalid(format!(
            "the option on_null has the value {value:?}; give 'error', 'quarantine', or a marker that rows without one are taken \
             to have: {}",
            [upserts, deletes].concat().join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::files::reader::CsvFormat;

    /// The options of text such as `format=csv; key=id`.
    fn read_at(location: &str, text: &str) -> Result<FileOptions> {
        let pairs = text.split("; ").filter_map(|pair| pair.split_once('='));
        let options: HashMap<String, String> = pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        FileOptions::try_new(location, &options)
    }

    fn read(text: &str) -> FileOptions {
        read_at("/drop", text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(location: &str, text: &str, expected: &str) {
        let error = read_at(location, text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hush"), "{text}: {error}");
    }

    #[test]
    fn options_have_defaults() {
        let options = read("format=parquet");
        assert_eq!(options.format, FileFormat::Parquet);
        assert_eq!(options.compression, Compression::Auto);
        assert_eq!(options.marker, "_change_request_type");
        assert_eq!(options.upsert_values, ["u"]);
        assert_eq!(options.delete_values, ["d"]);
        assert_eq!(
            (options.on_null, options.on_invalid),
            (OnNull::Error, OnInvalid::Error)
        );
        assert_eq!(
            (options.on_tie, options.on_missing),
            (OnTie::Error, OnMissing::Error)
        );
        assert_eq!((options.listing, options.infer_rows), (Listing::Auto, 1000));
        assert_eq!(options.settle, Duration::ZERO);
        assert!(options.key.is_empty() && options.store.is_empty());
        assert_eq!((options.sequence, options.ledger), (None, None));
        assert!(options.pattern.is_none());
    }

    #[test]
    fn options_are_read_however_they_are_spelled() {
        let options = read(
            "format.FORMAT=CSV; format.key=id, \"order no\"; Sequence= at ; marker=op; upsert_values=I, u ,I; delete_values=D; \
             on_null=i; on_invalid=Quarantine; on_tie=last; on_missing=skip; ledger=/l; settle=10 seconds; listing=ordered; \
             infer_rows=5; format.delimiter=;",
        );
        assert_eq!(options.key, ["id", "order no"]);
        assert_eq!(options.sequence.as_deref(), Some("at"));
        assert_eq!(options.marker, "op");
        assert_eq!(options.upsert_values, ["i", "u"]);
        assert_eq!(options.delete_values, ["d"]);
        assert_eq!(
            (options.on_null, options.on_invalid),
            (OnNull::Upsert, OnInvalid::Quarantine)
        );
        assert_eq!(
            (options.on_tie, options.on_missing),
            (OnTie::Last, OnMissing::Skip)
        );
        assert_eq!(options.ledger.as_deref(), Some("/l"));
        assert_eq!(options.settle, Duration::from_secs(10));
        assert_eq!((options.listing, options.infer_rows), (Listing::Ordered, 5));
        let expected = CsvFormat {
            delimiter: b';',
            ..CsvFormat::default()
        };
        assert_eq!(options.format, FileFormat::Text(TextFormat::Csv(expected)));
        assert_eq!(read("format=csv; on_null=d").on_null, OnNull::Delete);
        assert_eq!(
            read("format=csv; on_null=quarantine").on_null,
            OnNull::Quarantine
        );
    }

    #[test]
    fn slips_are_named() {
        let check =
            |text: &str, expected: &str| refused("/drop", &format!("format=csv; {text}"), expected);
        check(
            "patern=*.csv",
            "unknown option \"patern\"; did you mean pattern? known options: format, pattern, key,",
        );
        check("xyzzy=hush", "unknown option \"xyzzy\"; known options:");
        check("region=hush", "unknown option \"region\"");
        check("key=id, ID", "\"ID\" twice");
        check("key=id,", "empty name");
        check(
            "header=true; has_header=true",
            "the option header is given twice, as \"has_header\" and \"header\"",
        );
        check("format.format=csv", "the option format is given twice");
        check("upsert_values= , ", "no code");
        check("upsert_values=d", "both an upsert");
        check("on_null=x", "u, d");
        check("on_tie=first", "give 'error' or 'last'");
        check("listing=some", "give 'auto', 'full' or 'ordered'");
        check("infer_rows=0", "above zero");
        check("settle=soon", "10 seconds");
        check("pattern=a[", "is not valid at character");
        check("marker=op; key=OP", "is the marker");
        check("sequence=", "empty");
        check("ledger=", "empty");
        refused(
            "s3://b",
            "format=csv; acces_key_id=hush",
            "did you mean access_key_id?",
        );
        refused(
            "s3://b",
            "format=csv; xyzzy=1",
            "the options of the object store, such as access_key_id,",
        );
        refused(
            "s3://b",
            "format=csv; region=a; aws.region=b",
            "is given twice",
        );
    }

    #[test]
    fn secrets_are_passed_on_and_not_shown() {
        let text = "format=csv; aws.secret_access_key=hush; ACCESS_KEY_ID=hush2; allow_http=true; ledger=az://b/x?sig=hush3";
        let options = read_at("s3://b", text).unwrap();
        assert_eq!(options.store["aws_secret_access_key"], "hush");
        assert_eq!(options.store["aws_access_key_id"], "hush2");
        assert_eq!(options.store["allow_http"], "true");
        let elsewhere = read_at("/drop", "format=csv; format.ledger=s3://b; region=r").unwrap();
        assert_eq!(elsewhere.store["aws_region"], "r");
        let shown = format!("{options:?}");
        assert!(shown.contains("aws_secret_access_key"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn files_are_taken_by_pattern_unless_hidden_or_unfinished() {
        let check = |pattern: &str, taken: &[&str], left: &[&str]| {
            let options = match pattern {
                "" => read("format=csv"),
                pattern => read(&format!("format=csv; pattern={pattern}")),
            };
            for name in taken {
                assert!(options.takes(name), "{pattern} takes {name}");
            }
            for name in left {
                assert!(!options.takes(name), "{pattern} leaves {name}");
            }
        };
        check(
            "",
            &["a.csv", "x/y=1/a", "a_b", "a.tmp.csv", "x.part/a"],
            &[
                "_SUCCESS",
                ".a.crc",
                "_date=1/a.csv",
                "x/.hidden/a.csv",
                "x/_temporary/a.csv",
                "a.tmp",
                "a.csv.TMP",
                "a.part",
                "x/a.filePart",
            ],
        );
        check(
            "*.csv",
            &["a.csv", "x/y/a.csv"],
            &["a.CSV", "a.csv.gz", "_a.csv"],
        );
        check("in/*.csv", &["in/a.csv"], &["a.csv", "in/x/a.csv"]);
        check(
            "/in/**/*.csv",
            &["in/a.csv", "in/x/y/a.csv"],
            &["out/a.csv"],
        );
        check("a?.[ct]sv", &["ab.csv", "x/ab.tsv"], &["abc.csv", "ab.psv"]);
    }
}
