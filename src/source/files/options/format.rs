//! The options that say how files are written.

use datafusion::common::parsers::CompressionTypeVariant;
use encoding_rs::Encoding;
use glob::Pattern;

use super::FileFormat;
use super::given::Given;
use super::values;
use crate::error::{Error, Result};
use crate::source::files::reader::{Compression, CsvFormat, TextFormat};

/// The options of CSV files.
pub(super) const CSV_OPTIONS: &[&str] = &[
    "delimiter",
    "quote",
    "escape",
    "header",
    "comment",
    "encoding",
    "null_value",
];

/// The formats, for messages.
const FORMATS: &str = "'parquet', 'csv', 'json' (a JSON object on each line) or 'avro'";

/// What the names of compressed files end in.
const COMPRESSED: [&str; 5] = [".gz", ".bz2", ".xz", ".zst", ".zstd"];

/// The format that is given, or that the pattern tells.
pub(super) fn format(given: &mut Given, pattern: Option<&Pattern>) -> Result<FileFormat> {
    let name = match given.take("format") {
        Some(name) => name,
        None => told_by(pattern).ok_or_else(|| {
            Error::invalid(format!(
                "the option format is missing; give format {FORMATS}"
            ))
        })?,
    };
    let format = match name.trim().to_ascii_lowercase().as_str() {
        "csv" => return Ok(FileFormat::Text(TextFormat::Csv(csv(given)?))),
        "parquet" => FileFormat::Parquet,
        "json" | "jsonl" | "ndjson" | "jsonlines" => FileFormat::Text(TextFormat::Json),
        "avro" => FileFormat::Text(TextFormat::Avro),
        _ => {
            return Err(Error::invalid(format!(
                "the option format has the value {name:?}; give {FORMATS}"
            )));
        }
    };
    match given.any_of(CSV_OPTIONS) {
        Some(option) => Err(Error::invalid(format!(
            "the option {option} goes with format 'csv' only, and the format is {name:?}; leave it out"
        ))),
        None => Ok(format),
    }
}

/// How files are compressed from outside.
pub(super) fn compression(given: &mut Given, format: &FileFormat) -> Result<Compression> {
    let inside = match format {
        FileFormat::Parquet => Some("Parquet"),
        FileFormat::Text(TextFormat::Avro) => Some("Avro"),
        FileFormat::Text(_) => None,
    };
    let value = given.take("compression");
    match (value, inside) {
        (None, _) => Ok(Compression::Auto),
        (Some(_), Some(name)) => Err(Error::invalid(format!(
            "the option compression goes with format 'csv' and 'json' only: {name} files are compressed inside; leave it out"
        ))),
        (Some(value), None) => named_compression(&value),
    }
}

fn named_compression(value: &str) -> Result<Compression> {
    let variant = match value.trim().to_ascii_lowercase().as_str() {
        "auto" => return Ok(Compression::Auto),
        "none" | "uncompressed" => CompressionTypeVariant::UNCOMPRESSED,
        "gzip" | "gz" => CompressionTypeVariant::GZIP,
        "bzip2" | "bz2" => CompressionTypeVariant::BZIP2,
        "xz" => CompressionTypeVariant::XZ,
        "zstd" | "zst" => CompressionTypeVariant::ZSTD,
        _ => {
            return Err(Error::invalid(format!(
                "the option compression has the value {value:?}; give 'auto', 'none', 'gzip', 'bzip2', 'xz' or 'zstd'"
            )));
        }
    };
    Ok(Compression::Of(variant))
}

/// The format that the ending of a pattern names.
fn told_by(pattern: Option<&Pattern>) -> Option<String> {
    let pattern = pattern?.as_str().to_ascii_lowercase();
    let name = COMPRESSED
        .iter()
        .find_map(|ending| pattern.strip_suffix(*ending))
        .unwrap_or(&pattern);
    let (_, ending) = name.rsplit_once('.')?;
    ["parquet", "csv", "json", "jsonl", "ndjson", "avro"]
        .contains(&ending)
        .then(|| ending.to_owned())
}

fn csv(given: &mut Given) -> Result<CsvFormat> {
    let default = CsvFormat::default();
    let csv = CsvFormat {
        delimiter: given
            .read("delimiter", values::byte)?
            .unwrap_or(default.delimiter),
        quote: given
            .read("quote", values::byte_or_none)?
            .unwrap_or(default.quote),
        escape: given
            .read("escape", values::byte_or_none)?
            .unwrap_or(default.escape),
        header: given
            .read("header", values::switch)?
            .unwrap_or(default.header),
        comment: given
            .read("comment", values::byte_or_none)?
            .unwrap_or(default.comment),
        encoding: given
            .read("encoding", encoding)?
            .unwrap_or(default.encoding),
        null_value: given.take("null_value").or(default.null_value),
    };
    if [csv.quote, csv.escape, csv.comment].contains(&Some(csv.delimiter)) {
        return Err(Error::invalid(format!(
            "the delimiter {:?} is also the quote, the escape or the comment character; they must differ",
            char::from(csv.delimiter)
        )));
    }
    Ok(csv)
}

fn encoding(label: &str) -> Result<Option<&'static Encoding>, String> {
    // some labels stand for encodings that are unsafe to read, which this variant does not know
    Encoding::for_label_no_replacement(label.as_bytes())
        .map(Some)
        .ok_or_else(|| {
            "give a label of the WHATWG encoding standard, such as 'utf-8', 'utf-16le', 'latin1', 'windows-1252' or 'shift_jis'".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(FileFormat, Compression)> {
        let options: HashMap<String, String> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut given = Given::try_new("/drop", &options)?;
        let pattern = given
            .take("pattern")
            .map(|text| Pattern::new(&text).unwrap());
        let format = format(&mut given, pattern.as_ref())?;
        let compression = compression(&mut given, &format)?;
        Ok((format, compression))
    }

    #[test]
    fn formats_have_names_and_endings() {
        let json = || FileFormat::Text(TextFormat::Json);
        let csv = || FileFormat::Text(TextFormat::Csv(CsvFormat::default()));
        let check = |key: &str, value: &str, expected: FileFormat| {
            assert_eq!(read(&[(key, value)]).unwrap().0, expected, "{key} {value}");
        };
        check("format", "PARQUET", FileFormat::Parquet);
        check("format", "csv", csv());
        check("format", "json", json());
        check("format", "jsonl", json());
        check("format", "ndjson", json());
        check("format", "jsonlines", json());
        check("format", "avro", FileFormat::Text(TextFormat::Avro));
        check("pattern", "in/*.parquet", FileFormat::Parquet);
        check("pattern", "*.csv.gz", csv());
        check("pattern", "*.JSONL", json());
    }

    #[test]
    fn csv_has_options() {
        let pairs = [
            ("format", "csv"),
            ("delimiter", "tab"),
            ("quote", "none"),
            ("escape", "\\"),
            ("has_header", "false"),
            ("comment", "#"),
            ("encoding", "latin1"),
            ("null_string", " NULL"),
            ("compression", "gz"),
        ];
        let expected = CsvFormat {
            delimiter: b'\t',
            quote: None,
            escape: Some(b'\\'),
            header: false,
            comment: Some(b'#'),
            encoding: encoding_rs::WINDOWS_1252,
            null_value: Some(" NULL".to_owned()),
        };
        let (format, compression) = read(&pairs).unwrap();
        assert_eq!(format, FileFormat::Text(TextFormat::Csv(expected)));
        assert_eq!(compression, Compression::Of(CompressionTypeVariant::GZIP));
    }

    #[test]
    fn compressions_have_names() {
        let check = |name: &str, expected: Compression| {
            let found = read(&[("format", "json"), ("compression", name)]).unwrap();
            assert_eq!(found.1, expected, "{name}");
        };
        check("auto", Compression::Auto);
        check(
            "None",
            Compression::Of(CompressionTypeVariant::UNCOMPRESSED),
        );
        check("bz2", Compression::Of(CompressionTypeVariant::BZIP2));
        check("xz", Compression::Of(CompressionTypeVariant::XZ));
        check("zst", Compression::Of(CompressionTypeVariant::ZSTD));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let check = |pairs: &[(&str, &str)], expected: &str| {
            let error = read(pairs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(
            &[],
            "the option format is missing; give format 'parquet', 'csv'",
        );
        check(&[("pattern", "*")], "the option format is missing");
        check(&[("format", "xml")], "\"xml\"; give 'parquet'");
        check(
            &[("format", "parquet"), ("delimiter", ";")],
            "the option delimiter goes with format 'csv' only, and the format is \"parquet\"",
        );
        check(
            &[("format", "parquet"), ("compression", "gzip")],
            "Parquet files are compressed inside",
        );
        check(
            &[("format", "avro"), ("compression", "gzip")],
            "Avro files are compressed inside",
        );
        check(
            &[("format", "csv"), ("compression", "lz4")],
            "\"lz4\"; give 'auto'",
        );
        check(&[("format", "csv"), ("delimiter", "||")], "one character");
        check(
            &[("format", "csv"), ("delimiter", "\"")],
            "they must differ",
        );
        check(
            &[("format", "csv"), ("header", "maybe")],
            "'true' or 'false'",
        );
        check(
            &[("format", "csv"), ("encoding", "klingon")],
            "windows-1252",
        );
    }
}
