//! The names of the columns of a CSV file, and how many there are.

use std::collections::HashSet;

use super::CsvFormat;
use super::csv_records::{CsvSplitter, fields};
use super::pieces::Pieces;
use super::rows::gather;
use super::utf8::newlines;
use crate::error::{Error, Result};

/// What a CSV file says of its columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CsvHeader {
    /// As the header spells them; `column_1`, `column_2`, … if there is none.
    pub names: Vec<String>,
    /// The lines that the header takes, with those before it.
    pub lines: u64,
}

/// Reads the header, if there is to be one, or looks at the first row, which stays where it is. `None` for a file without either.
///
/// # Errors
/// When two columns have the same name, or one has none.
pub(super) async fn read_header(
    format: &CsvFormat,
    file: &str,
    pieces: &mut Pieces,
) -> Result<Option<CsvHeader>> {
    let mut splitter = CsvSplitter::new(format, None);
    let mut text = vec![];
    let records = gather(pieces, &mut splitter, &mut text, 1).await?;
    let Some(record) = records.first() else {
        return Ok(None);
    };
    let fields = fields(format, &text[record.range.clone()]);
    if !format.header {
        pieces.put_back(text);
        let names = (1..=fields.len()).map(|number| format!("column_{number}"));
        return Ok(Some(CsvHeader {
            names: names.collect(),
            lines: 0,
        }));
    }
    if let Some(reason) = &record.reason {
        return Err(Error::invalid(format!(
            "the header of {file} cannot be read: {reason}; give the option quote that the file has, or correct the file"
        )));
    }
    let names = checked_names(file, fields)?;
    pieces.put_back(text.split_off(record.range.end));
    let lines = newlines(&text);
    Ok(Some(CsvHeader { names, lines }))
}

fn checked_names(file: &str, fields: Vec<Vec<u8>>) -> Result<Vec<String>> {
    let mut names = Vec::with_capacity(fields.len());
    let mut seen = HashSet::new();
    for (index, field) in fields.into_iter().enumerate() {
        let name = String::from_utf8(field).map_err(|error| {
            Error::invalid(format!(
                "the header of {file} is not UTF-8 in column {} ({:?}); give the option encoding that the file has",
                index + 1,
                String::from_utf8_lossy(error.as_bytes())
            ))
        })?;
        if name.is_empty() {
            return Err(Error::invalid(format!(
                "column {} of {file} has no name in the header; give it one, or say header 'false' if the file has no header",
                index + 1
            )));
        }
        if !seen.insert(name.clone()) {
            return Err(Error::invalid(format!(
                "the header of {file} has the column {name:?} twice; names must differ"
            )));
        }
        names.push(name);
    }
    Ok(names)
}
