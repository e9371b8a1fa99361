//! How results and errors look.
//!
//! A table needs all of its rows before the first line, since the widths depend on them; beyond the rows to show it
//! only counts. Every other format is written batch by batch. Results are encoded in memory and then written, so that
//! an error of the output is never mistaken for one of the query.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::{ArrayWriter, LineDelimitedWriter};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_options;
use arrow::{csv, json};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;

use super::Failure;
use super::progress::{Progress, grouped};

/// The form in which results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table on a terminal, CSV elsewhere
    Automatic,
    /// A table with borders
    Table,
    /// Comma-separated values with a header; NULL is empty
    Csv,
    /// Tab-separated values with a header; NULL is empty
    Tsv,
    /// One array of objects
    Json,
    /// One object a line
    #[value(alias = "ndjson")]
    NdJson,
}

impl Format {
    /// What `Automatic` stands for with the standard output there is.
    fn resolved(self) -> Self {
        match self {
            Self::Automatic if io::stdout().is_terminal() => Self::Table,
            Self::Automatic => Self::Csv,
            chosen => chosen,
        }
    }
}

/// How results are shown; the shell's commands change it.
#[derive(Debug)]
pub(super) struct Style {
    /// Never `Automatic`.
    format: Format,
    pub(super) quiet: bool,
    pub(super) timing: bool,
    /// A table shows no more rows than this.
    pub(super) max_rows: Option<usize>,
}

impl Style {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        Self {
            format: format.resolved(),
            quiet,
            timing: false,
            max_rows: None,
        }
    }

    pub(super) fn set_format(&mut self, format: Format) {
        self.format = format.resolved();
    }

    pub(super) fn is_table(&self) -> bool {
        self.format == Format::Table
    }
}

/// Prints the results of a statement; `progress` is shown until the first of them.
pub(super) async fn print(
    mut results: SendableRecordBatchStream,
    style: &Style,
    progress: Progress,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if results.schema().fields().is_empty() {
        while results.next().await.transpose()?.is_some() {}
        drop(progress);
        if style.is_table() && !style.quiet {
            writeln!(out, "OK")?;
        }
    } else if let Some(encoder) = Encoder::new(style.format) {
        print_batches(results, encoder, progress, out).await?;
    } else {
        print_table(results, style, progress, out).await?;
    }
    Ok(out.flush()?)
}

/// Prints what a command of the shell has to tell.
pub(super) fn print_batch(
    batch: &RecordBatch,
    style: &Style,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if let Some(mut encoder) = Encoder::new(style.format) {
        out.write_all(&encoder.encode(batch)?)?;
        out.write_all(&encoder.finish(batch.schema())?)?;
    } else {
        writeln!(out, "{}", table(std::slice::from_ref(batch))?)?;
    }
    Ok(out.flush()?)
}

/// The one message of an error: what went wrong, without the layers it came through.
///
/// The prefixes of the errors that a statement or its data are to blame for say nothing that `error:` does not.
pub(super) fn message(error: &DataFusionError) -> String {
    let stripped = |prefix: &str| {
        let text = error.strip_backtrace();
        text.strip_prefix(prefix).unwrap_or(&text).to_owned()
    };
    match error {
        DataFusionError::Shared(inner) => message(inner),
        DataFusionError::Diagnostic(_, inner) => message(inner),
        DataFusionError::Context(step, inner) if is_planning_step(step) => message(inner),
        DataFusionError::Context(doing, inner) => format!("{doing}: {}", message(inner)),
        DataFusionError::External(inner) => source_message(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ExternalError(inner) => source_message(inner.as_ref()),
            _ => error.strip_backtrace(),
        },
        DataFusionError::SQL(inner, _) => {
            let text = inner.to_string();
            let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
            format!("syntax error: {text}")
        }
        DataFusionError::Plan(_) => stripped("Error during planning: "),
        DataFusionError::Execution(_) => stripped("Execution error: "),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => message(first),
            None => error.strip_backtrace(),
        },
        _ => error.strip_backtrace(),
    }
}

async fn print_batches(
    mut results: SendableRecordBatchStream,
    mut encoder: Encoder,
    progress: Progress,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut progress = Some(progress);
    let on_terminal = io::stdout().is_terminal();
    while let Some(batch) = results.next().await.transpose()? {
        let encoded = encoder.encode(&batch)?;
        if on_terminal {
            drop(progress.take());
        }
        out.write_all(&encoded)?;
    }
    drop(progress);
    Ok(out.write_all(&encoder.finish(results.schema())?)?)
}

async fn print_table(
    mut results: SendableRecordBatchStream,
    style: &Style,
    progress: Progress,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let most = style.max_rows.unwrap_or(usize::MAX);
    // The empty batch carries the header when there are no rows.
    let mut shown = vec![RecordBatch::new_empty(results.schema())];
    let mut total = 0;
    while let Some(batch) = results.next().await.transpose()? {
        let room = most.saturating_sub(total).min(batch.num_rows());
        if room > 0 {
            shown.push(batch.slice(0, room));
        }
        total += batch.num_rows();
    }
    drop(progress);
    writeln!(out, "{}", table(&shown)?)?;
    if total > most {
        let (most, total) = (grouped(most), grouped(total));
        writeln!(
            out,
            "{most} of {total} rows shown; \\pset rows all shows them all."
        )?;
    } else if !style.quiet {
        writeln!(out, "{} row(s) fetched.", grouped(total))?;
    }
    Ok(())
}

fn table(batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let options = FormatOptions::default()
        .with_display_error(true)
        .with_null("NULL");
    Ok(pretty_format_batches_with_options(batches, &options)?.to_string())
}

/// Turns batches into the bytes of a format.
enum Encoder {
    Delimited { delimiter: u8, header: bool },
    Json(ArrayWriter<Vec<u8>>),
    NdJson(LineDelimitedWriter<Vec<u8>>),
}

impl Encoder {
    /// The encoder of a format, or `None` for a table.
    fn new(format: Format) -> Option<Self> {
        let delimited = |delimiter| Self::Delimited {
            delimiter,
            header: true,
        };
        let objects = json::WriterBuilder::new().with_explicit_nulls(true);
        match format {
            Format::Automatic | Format::Table => None,
            Format::Csv => Some(delimited(b',')),
            Format::Tsv => Some(delimited(b'\t')),
            Format::Json => Some(Self::Json(objects.build(Vec::new()))),
            Format::NdJson => Some(Self::NdJson(objects.build(Vec::new()))),
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Delimited { delimiter, header } => {
                let mut bytes = Vec::new();
                csv::WriterBuilder::new()
                    .with_header(std::mem::take(header))
                    .with_delimiter(*delimiter)
                    .build(&mut bytes)
                    .write(&flat(batch)?)?;
                Ok(bytes)
            }
            Self::Json(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Self::NdJson(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    /// What comes after the last batch; a result without rows still has its header.
    fn finish(&mut self, schema: SchemaRef) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Delimited { header: true, .. } => self.encode(&RecordBatch::new_empty(schema)),
            Self::Json(writer) => {
                writer.finish()?;
                writer.get_mut().push(b'\n');
                Ok(std::mem::take(writer.get_mut()))
            }
            Self::Delimited { .. } | Self::NdJson(_) => Ok(Vec::new()),
        }
    }
}

/// CSV has no nested values: they become their text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| {
        let column = match column.data_type().is_nested() {
            true => as_text(column)?,
            false => Arc::clone(column),
        };
        Ok((field.name(), column, true))
    });
    RecordBatch::try_from_iter_with_nullable(columns.collect::<Result<Vec<_>, ArrowError>>()?)
}

fn as_text(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let texts = (0..column.len()).map(|row| {
        let text = column.is_valid(row).then(|| formatter.value(row));
        text.map(|text| text.try_to_string()).transpose()
    });
    Ok(Arc::new(texts.collect::<Result<StringArray, _>>()?))
}

/// Whether a context only names the optimizer rule at work, as in `type_coercion`.
fn is_planning_step(context: &str) -> bool {
    context.starts_with("Optimizer rule ")
        || context
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn source_message(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<DataFusionError>() {
        Some(inner) => message(inner),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int64Type;

    fn batch() -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a,b", "c"]));
        let lists = [Some([Some(1), None]), None];
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let columns = [("id", ids), ("name", names), ("list", Arc::new(lists))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn formats() {
        let check = |format: Format, batches: &[RecordBatch], expected: &str| {
            let mut encoder = Encoder::new(format).unwrap();
            let mut bytes = Vec::new();
            for batch in batches {
                bytes.extend(encoder.encode(batch).unwrap());
            }
            bytes.extend(encoder.finish(batch().schema()).unwrap());
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        };
        check(Format::Csv, &[], "id,name,list\n");
        check(
            Format::Csv,
            &[batch(), batch().slice(1, 1)],
            "id,name,list\n1,\"a,b\",\"[1, NULL]\"\n,c,\n,c,\n",
        );
        check(
            Format::Tsv,
            &[batch()],
            "id\tname\tlist\n1\ta,b\t[1, NULL]\n\tc\t\n",
        );
        check(Format::Json, &[], "[]\n");
        check(
            Format::Json,
            &[batch().slice(0, 1), batch().slice(1, 1)],
            "[{\"id\":1,\"name\":\"a,b\",\"list\":[1,null]},{\"id\":null,\"name\":\"c\",\"list\":null}]\n",
        );
        check(Format::NdJson, &[], "");
        check(
            Format::NdJson,
            &[batch().slice(1, 1)],
            "{\"id\":null,\"name\":\"c\",\"list\":null}\n",
        );
    }

    #[test]
    fn a_table_without_rows_has_its_header() {
        let text = table(&[RecordBatch::new_empty(batch().schema())]).unwrap();
        assert!(text.contains("| id | name | list |"), "{text}");
    }

    #[test]
    fn an_error_is_the_innermost_message() {
        let check = |error: DataFusionError, expected: &str| assert_eq!(message(&error), expected);
        let plan = || DataFusionError::Plan("no such table".to_owned());
        let ours = || crate::error::Error::Invalid("version 7 is too new".to_owned());
        let external = || DataFusionError::External(Box::new(ours()));
        check(plan(), "no such table");
        check(plan().context("type_coercion"), "no such table");
        check(
            plan().context("Reading a.csv"),
            "Reading a.csv: no such table",
        );
        check(DataFusionError::Shared(Arc::new(plan())), "no such table");
        check(external(), "version 7 is too new");
        check(external().context("type_coercion"), "version 7 is too new");
        check(
            ArrowError::from_external_error(Box::new(external())).into(),
            "version 7 is too new",
        );
        check(
            DataFusionError::NotImplemented("x".to_owned()),
            "This feature is not implemented: x",
        );
    }
}
