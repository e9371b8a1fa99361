//! The backslash commands.
//!
//! `\d` asks the catalog itself and not the information schema, so that it works for sessions that have none and
//! shows tables that cannot be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use clap::ValueEnum;
use datafusion::catalog::SchemaProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;

use super::print::{Format, print_batch};
use super::{Failure, Shell};

const HELP: &str = r"\?                       this list
\d                       the tables
\d NAME                  the columns of a table; quote names with capitals or spaces
\format NAME             automatic, table, csv, tsv, json or nd-json
\i FILE                  run a script
\pset rows NUMBER|all    how many rows a table shows at most
\timing [on|off]         show how long statements take
\q, quit, exit           leave; Ctrl-D does, too
Statements end with ; and may span lines. Ctrl-C cancels the running statement, or clears the line.
Tab completes keywords, tables and columns.";

/// What Tab completes after a backslash.
#[rustfmt::skip]
pub(super) const NAMES: [&str; 8] =
    ["\\?", "\\d", "\\format", "\\i", "\\pset format", "\\pset rows", "\\q", "\\timing"];

pub(super) const FORMATS: [&str; 6] = ["automatic", "table", "csv", "tsv", "json", "nd-json"];

/// Whether to go on after a statement or a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Quit,
}

/// Runs one command; `depth` counts the scripts that included it.
pub(super) async fn run(shell: &mut Shell, line: &str, depth: usize) -> Result<Flow, Failure> {
    match line.parse::<Command>()? {
        Command::Quit => return Ok(Flow::Quit),
        Command::Help => shell.note(HELP)?,
        Command::Tables => print_tables(shell).await?,
        Command::Columns(name) => print_columns(shell, &name).await?,
        Command::Include(path) => shell.run_file(&path, depth + 1).await?,
        Command::Format(format) => shell.style.set_format(format),
        Command::Rows(most) => shell.style.max_rows = most,
        Command::Timing(on) => {
            shell.style.timing = on.unwrap_or(!shell.style.timing);
            let state = if shell.style.timing { "on" } else { "off" };
            shell.note(format_args!("Timing is {state}."))?;
        }
    }
    Ok(Flow::Continue)
}

/// A table of the session's catalogs, by the parts of its name.
#[derive(Debug)]
pub(super) struct Table {
    /// The schema, after its catalog where that is not the default one.
    pub(super) schema: String,
    pub(super) name: String,
    /// Whether the name alone finds it.
    pub(super) is_in_default_schema: bool,
    pub(super) provider: Arc<dyn SchemaProvider>,
}

impl Table {
    /// The names of its columns, or none when it cannot be opened.
    pub(super) async fn columns(&self) -> Vec<String> {
        let Ok(Some(table)) = self.provider.table(&self.name).await else {
            return Vec::new();
        };
        let schema = table.schema();
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    }
}

/// Every table of the session, sorted by schema and name.
pub(super) fn tables(ctx: &SessionContext) -> Vec<Table> {
    let config = ctx.copied_config();
    let default = &config.options().catalog;
    let mut tables = Vec::new();
    for catalog_name in ctx.catalog_names() {
        let Some(catalog) = ctx.catalog(&catalog_name) else {
            continue;
        };
        let is_default_catalog = catalog_name == default.default_catalog;
        for schema_name in catalog.schema_names() {
            let Some(provider) = catalog.schema(&schema_name) else {
                continue;
            };
            let schema = match is_default_catalog {
                true => schema_name.clone(),
                false => format!("{catalog_name}.{schema_name}"),
            };
            let is_in_default_schema = is_default_catalog && schema_name == default.default_schema;
            tables.extend(provider.table_names().into_iter().map(|name| Table {
                schema: schema.clone(),
                name,
                is_in_default_schema,
                provider: Arc::clone(&provider),
            }));
        }
    }
    tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    tables
}

/// A command, as it was typed.
#[derive(Debug, PartialEq)]
enum Command {
    Quit,
    Help,
    Tables,
    Columns(String),
    /// On, off, or the other of the two.
    Timing(Option<bool>),
    Include(PathBuf),
    Format(Format),
    Rows(Option<usize>),
}

impl FromStr for Command {
    type Err = Failure;

    fn from_str(line: &str) -> Result<Self, Failure> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (name, argument.trim()) {
            ("\\q", "") => Ok(Self::Quit),
            ("\\?" | "\\h", "") => Ok(Self::Help),
            ("\\d", "") => Ok(Self::Tables),
            ("\\d", table) => Ok(Self::Columns(table.to_owned())),
            ("\\timing", state) => parse_timing(state),
            ("\\i", "") => Err(Failure::new("\\i needs a file, as in \\i script.sql")),
            ("\\i", file) => Ok(Self::Include(unquoted(file).into())),
            ("\\format", format) => parse_format(format),
            ("\\pset", setting) => match setting.split_once(char::is_whitespace) {
                Some(("format", format)) => parse_format(format.trim()),
                Some(("rows", rows)) => parse_rows(rows.trim()),
                _ => Err(Failure::new(
                    "\\pset sets format or rows, as in \\pset format csv or \\pset rows 100",
                )),
            },
            ("\\q" | "\\?" | "\\h", argument) => {
                let message = format!("{name} takes no argument, and {argument:?} was given");
                Err(Failure::new(message))
            }
            _ => {
                let message = format!("unknown command {name}; \\? lists the commands");
                Err(Failure::new(message))
            }
        }
    }
}

fn parse_timing(state: &str) -> Result<Command, Failure> {
    match state {
        "" => Ok(Command::Timing(None)),
        "on" => Ok(Command::Timing(Some(true))),
        "off" => Ok(Command::Timing(Some(false))),
        _ => {
            let message = format!("\\timing is on or off, not {state:?}");
            Err(Failure::new(message))
        }
    }
}

fn parse_format(name: &str) -> Result<Command, Failure> {
    <Format as ValueEnum>::from_str(name, true)
        .map(Command::Format)
        .map_err(|_| {
            let formats = FORMATS.join(", ");
            Failure::new(format!(
                "unknown format {name:?}; the formats are {formats}"
            ))
        })
}

fn parse_rows(rows: &str) -> Result<Command, Failure> {
    if rows == "all" {
        return Ok(Command::Rows(None));
    }
    rows.parse()
        .map(|rows| Command::Rows(Some(rows)))
        .map_err(|_| Failure::new(format!("rows is a number or all, not {rows:?}")))
}

fn unquoted(file: &str) -> &Path {
    let inner = file.strip_prefix('\'').and_then(|f| f.strip_suffix('\''));
    Path::new(inner.unwrap_or(file))
}

async fn print_tables(shell: &Shell) -> Result<(), Failure> {
    let (mut schemas, mut names, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables(&shell.ctx) {
        types.push(match table.provider.table_type(&table.name).await {
            Ok(Some(TableType::Base)) => "table",
            Ok(Some(TableType::View)) => "view",
            Ok(Some(TableType::Temporary)) => "temporary",
            // One table that cannot be opened must not hide the others.
            Ok(None) | Err(_) => "unreadable",
        });
        schemas.push(table.schema);
        names.push(table.name);
    }
    if names.is_empty() {
        shell.note("There are no tables yet; CREATE TABLE makes one.")?;
    }
    let batch = RecordBatch::try_from_iter([
        ("schema", Arc::new(StringArray::from(schemas)) as ArrayRef),
        ("name", Arc::new(StringArray::from(names))),
        ("type", Arc::new(StringArray::from(types))),
    ])?;
    print_batch(&batch, &shell.style, &mut io::stdout())
}

async fn print_columns(shell: &Shell, name: &str) -> Result<(), Failure> {
    let reference = TableReference::from(name);
    if !shell.ctx.table_exist(reference.clone()).unwrap_or(false) {
        let message = format!("table {name} was not found; \\d lists the tables");
        return Err(Failure::new(message));
    }
    let schema = shell.ctx.table_provider(reference).await?.schema();
    let fields = schema.fields();
    let names: StringArray = fields.iter().map(|field| Some(field.name())).collect();
    let types = fields.iter().map(|field| field.data_type().to_string());
    let types: StringArray = types.map(Some).collect();
    let nullable = fields.iter().map(|field| Some(field.is_nullable()));
    let nullable: BooleanArray = nullable.collect();
    let batch = RecordBatch::try_from_iter([
        ("column", Arc::new(names) as ArrayRef),
        ("type", Arc::new(types)),
        ("nullable", Arc::new(nullable)),
    ])?;
    print_batch(&batch, &shell.style, &mut io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let check = |line: &str, expected: Command| {
            assert_eq!(line.parse::<Command>().unwrap(), expected, "{line}");
        };
        check("\\q", Command::Quit);
        check("\\?", Command::Help);
        check("\\d", Command::Tables);
        check("\\d;", Command::Tables);
        check("\\d  orders ;", Command::Columns("orders".to_owned()));
        check("\\d \"My T\"", Command::Columns("\"My T\"".to_owned()));
        check("\\timing", Command::Timing(None));
        check("\\timing on", Command::Timing(Some(true)));
        check("\\timing off", Command::Timing(Some(false)));
        check(
            "\\i my script.sql",
            Command::Include("my script.sql".into()),
        );
        check("\\i 'a.sql'", Command::Include("a.sql".into()));
        check("\\format nd-json", Command::Format(Format::NdJson));
        check("\\pset format CSV", Command::Format(Format::Csv));
        check("\\pset rows 100", Command::Rows(Some(100)));
        check("\\pset rows all", Command::Rows(None));
    }

    #[test]
    fn mistakes() {
        let check = |line: &str, expected: &str| {
            assert_eq!(line.parse::<Command>().unwrap_err().to_string(), expected);
        };
        check("\\x", "unknown command \\x; \\? lists the commands");
        check("\\x y", "unknown command \\x; \\? lists the commands");
        check("\\timing maybe", "\\timing is on or off, not \"maybe\"");
        check("\\i", "\\i needs a file, as in \\i script.sql");
        check("\\pset rows few", "rows is a number or all, not \"few\"");
        check("\\q now", "\\q takes no argument, and \"now\" was given");
        check(
            "\\format xml",
            "unknown format \"xml\"; the formats are automatic, table, csv, tsv, json, nd-json",
        );
        check(
            "\\pset border 2",
            "\\pset sets format or rows, as in \\pset format csv or \\pset rows 100",
        );
    }
}
