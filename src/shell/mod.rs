//! The `alluvial` command: a shell for SQL and backslash commands, from scripts or typed at a prompt, and `alluvial sync`.
//!
//! ```text
//! run ─┬─ repl ── helper        reads statements, completes and highlights them
//!      │    │
//!      ├────┴─ Shell ─┬─ command    \d, \timing, \i, …
//!      │              └─ print      results, as they arrive; progress until then
//!      └─ sync                  runs SYNC statements, once or for ever
//! ```
//!
//! With a format other than `table` only data goes to standard output. Errors, progress and notes go to standard error.

mod command;
mod helper;
mod print;
mod progress;
mod repl;
mod signals;
mod sync;

use std::fmt::{self, Display};
use std::future::ready;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use crate::sql::split::{Statement, split_statements};
use crate::sql::{SessionContextExt, removed, write_outcome};
use command::Flow;
pub use print::Format;
use print::Style;
use progress::Progress;
use signals::Signals;
pub use sync::{RunFormat, SyncOptions};

/// A SQL shell over a folder of Delta tables, and a command that keeps tables equal to their sources.
///
/// Without -c and -f it reads statements from standard input: at a prompt when that is a terminal, as a script
/// otherwise. The first error in -c, -f or a script ends it with exit code 1.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "alluvial", version)]
pub struct Options {
    /// Run these statements (or one backslash command) and exit; may be repeated, and runs before every -f
    #[arg(
        short = 'c',
        long = "command",
        value_name = "SQL",
        allow_hyphen_values = true
    )]
    pub commands: Vec<String>,
    /// Run this script and exit, `-` being standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How results are shown; automatic is a table on a terminal and CSV elsewhere
    #[arg(long, value_enum, default_value_t = Format::Automatic)]
    pub format: Format,
    /// Show results and errors only: no row counts, no progress, no greeting
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// The memory that statements may use before they spill to disk, such as 512m, 4g or 1.5g
    #[arg(short, long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<usize>,
    /// The folder whose Delta tables are the tables
    #[arg(long, global = true, value_name = "DIR", default_value = "./warehouse")]
    pub warehouse: PathBuf,
    /// What to do instead of running a shell
    #[command(subcommand)]
    pub subcommand: Option<Subcommand>,
}

/// What the command does when it is not a shell.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Keep tables equal to their sources: run the SYNC statements of a script, once or for ever
    ///
    /// Without --every each sync runs once, in the order of the script, and the exit code is 1 if one failed. With it they
    /// run until SIGINT or SIGTERM, which lets the runs at work finish; a second signal does not. Errors that can pass are
    /// retried after longer and longer waits, without --every three times; a sync that fails otherwise is left out from then on.
    Sync(SyncOptions),
}

/// Runs what `options` ask for in the session `ctx`, and says how the process should exit.
pub async fn run(options: Options, ctx: SessionContext) -> ExitCode {
    let outcome = match &options.subcommand {
        Some(Subcommand::Sync(of_sync)) => Box::pin(run_sync(&options, of_sync, ctx)).await,
        None => Box::pin(run_shell(&options, ctx)).await,
    };
    // a statement that was given up has files to remove
    removed(CLEANUP).await;
    match outcome {
        Ok(code) => code,
        // Whoever read our output, such as `head`, has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run_sync(
    options: &Options,
    of_sync: &SyncOptions,
    ctx: SessionContext,
) -> Result<ExitCode, Failure> {
    let Options {
        commands,
        files,
        format,
        quiet,
        ..
    } = options;
    if !commands.is_empty() || !files.is_empty() || *format != Format::Automatic {
        return Err(Failure::new(
            "-c, -f and --format are about the shell when they stand before `sync`; write `alluvial sync -f FILE`",
        ));
    }
    sync::run(of_sync, *quiet, ctx).await
}

async fn run_shell(options: &Options, ctx: SessionContext) -> Result<ExitCode, Failure> {
    let mut shell = Shell::new(options, ctx);
    let is_script = !options.commands.is_empty() || !options.files.is_empty();
    if !is_script && io::stdin().is_terminal() {
        Box::pin(repl::run(&mut shell)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut signals = Signals::listen()
        .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    let script = async {
        match is_script {
            true => shell.run_all(options).await,
            false => shell.run_file(Path::new("-"), 0).await,
        }
    };
    tokio::select! {
        outcome = Box::pin(script) => outcome.map(|()| ExitCode::SUCCESS),
        code = signals.next() => {
            writeln!(io::stderr(), "cancelled")?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    }
}

/// How long the files of a statement that was given up may take to go.
const CLEANUP: Duration = Duration::from_secs(10);

/// The name and the text of a script file, or of standard input for `-`.
fn read_script(path: &Path) -> Result<(String, String), Failure> {
    let (name, text) = if path == Path::new("-") {
        ("stdin".to_owned(), io::read_to_string(io::stdin()))
    } else {
        (path.display().to_string(), std::fs::read_to_string(path))
    };
    let text = text.map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
    let text = text.trim_start_matches('\u{feff}').to_owned();
    Ok((name, text))
}

/// Scripts that include scripts that include themselves end here.
const MAX_NESTING: usize = 16;

/// A session and how its results are shown.
struct Shell {
    ctx: SessionContext,
    style: Style,
    /// Whether long statements show their progress.
    progress: bool,
}

impl Shell {
    fn new(options: &Options, ctx: SessionContext) -> Self {
        Self {
            ctx,
            style: Style::new(options.format, options.quiet),
            progress: io::stderr().is_terminal() && !options.quiet,
        }
    }

    async fn run_all(&mut self, options: &Options) -> Result<(), Failure> {
        for text in &options.commands {
            self.run_script(Some("-c"), text, 0).await?;
        }
        for path in &options.files {
            self.run_file(path, 0).await?;
        }
        Ok(())
    }

    /// Runs a script file, or standard input for `-`; `depth` counts the scripts that included it.
    async fn run_file(&mut self, path: &Path, depth: usize) -> Result<(), Failure> {
        if depth > MAX_NESTING {
            let message = format!("{} is included by itself", path.display());
            return Err(Failure::new(message));
        }
        let (name, text) = read_script(path)?;
        self.run_script(Some(&name), &text, depth).await.map(|_| ())
    }

    /// Runs statements and commands up to the first error, which is placed in the script `name`.
    async fn run_script(
        &mut self,
        name: Option<&str>,
        text: &str,
        depth: usize,
    ) -> Result<Flow, Failure> {
        let statements = split_statements(text).map_err(|error| match name {
            Some(name) => Failure::new(error.to_string()).at(name.to_owned()),
            None => Failure::new(error.to_string()),
        })?;
        for statement in &statements {
            let outcome = self.run_statement(statement, depth).await;
            let flow = outcome.map_err(|failure| match name {
                Some(name) if statements.len() > 1 => {
                    failure.at(format!("{name}:{}", statement.line))
                }
                _ => failure,
            })?;
            if flow == Flow::Quit {
                return Ok(flow);
            }
        }
        Ok(Flow::Continue)
    }

    async fn run_statement(
        &mut self,
        statement: &Statement<'_>,
        depth: usize,
    ) -> Result<Flow, Failure> {
        if statement.text.starts_with('\\') {
            return Box::pin(command::run(self, statement.text, depth)).await;
        }
        let started = Instant::now();
        Box::pin(self.run_sql(statement.text)).await?;
        if self.style.timing {
            let seconds = started.elapsed().as_secs_f64();
            self.note(format_args!("Elapsed {seconds:.3} seconds."))?;
        }
        Ok(Flow::Continue)
    }

    async fn run_sql(&self, sql: &str) -> Result<(), Failure> {
        let progress = Progress::start(self.progress);
        let frame = self.ctx.alluvial_sql(sql).await?;
        let task = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        progress.watch(&plan);
        let results = outcome_of(&plan, execute_stream(Arc::clone(&plan), task)?)?;
        print::print(results, &self.style, progress, &mut io::stdout()).await
    }

    /// Says something that is not data, unless the shell is quiet.
    fn note(&self, text: impl Display) -> Result<(), Failure> {
        if self.style.quiet {
            return Ok(());
        }
        if self.style.is_table() {
            Ok(writeln!(io::stdout(), "{text}")?)
        } else {
            Ok(writeln!(io::stderr(), "{text}")?)
        }
    }
}

/// What a statement that writes has done, in the place of the number of its rows; the results of others as they are.
fn outcome_of(
    plan: &Arc<dyn ExecutionPlan>,
    results: SendableRecordBatchStream,
) -> Result<SendableRecordBatchStream, Failure> {
    let Some(before) = write_outcome(plan)? else {
        return Ok(results);
    };
    let plan = Arc::clone(plan);
    let outcome = results.and_then(move |count| {
        let outcome = write_outcome(&plan).map(|outcome| outcome.unwrap_or(count));
        ready(outcome.map_err(DataFusionError::from))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        before.schema(),
        outcome,
    )))
}

/// Why the shell cannot go on.
#[derive(Debug)]
enum Failure {
    /// A statement or a command failed; `place` is the script and the line, where there is a choice.
    Statement {
        place: Option<String>,
        message: String,
    },
    /// What we print cannot be written.
    Output(io::Error),
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self::Statement {
            place: None,
            message: message.into(),
        }
    }

    /// Names the place, unless a script inside of it has named its own.
    fn at(self, outer: String) -> Self {
        match self {
            Self::Statement {
                place: None,
                message,
            } => Self::Statement {
                place: Some(outer),
                message,
            },
            placed => placed,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statement {
                place: Some(place),
                message,
            } => write!(f, "{place}: {message}"),
            Self::Statement { message, .. } => f.write_str(message),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Self::new(print::message(&error))
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// A number of bytes, such as `512m`, `1.5g` or `1048576`.
fn parse_size(text: &str) -> Result<usize, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(1),
        "m" | "mb" | "mib" => Some(2),
        "g" | "gb" | "gib" => Some(3),
        "t" | "tb" | "tib" => Some(4),
        _ => None,
    };
    match (number.parse::<f64>(), power) {
        (Ok(number), Some(power)) if number * 1024_f64.powi(power) >= 1.0 => {
            Ok((number * 1024_f64.powi(power)) as usize)
        }
        _ => Err("write a size such as 512m, 4g or 1.5g, or a number of bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn sizes_have_binary_units() {
        let check = |text: &str, expected: usize| assert_eq!(parse_size(text), Ok(expected));
        check("1048576", 1 << 20);
        check("512m", 512 << 20);
        check("4g", 4 << 30);
        check("4GB", 4 << 30);
        check("4 GiB", 4 << 30);
        check("1.5g", 3 << 29);
        check("64k", 64 << 10);
    }

    #[test]
    fn a_bad_size_is_named_with_an_example() {
        for size in ["g", "lots", "4x", "0", "1.2.3", "nan", "inf"] {
            let error = Options::try_parse_from(["alluvial", "-m", size]).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&format!("'{size}'")), "{message}");
            assert!(message.contains("such as 512m"), "{message}");
        }
    }

    #[test]
    fn options_may_repeat() {
        let options =
            Options::try_parse_from(["alluvial", "-c", "-- x", "-f", "-", "-c", "b", "-m", "1k"])
                .unwrap();
        assert_eq!(options.commands, ["-- x", "b"]);
        assert_eq!(options.files, [PathBuf::from("-")]);
        assert_eq!(options.memory_limit, Some(1024));
        assert_eq!(options.warehouse, PathBuf::from("./warehouse"));
        assert_eq!(options.format, Format::Automatic);
        let options = Options::try_parse_from(["alluvial", "--format", "nd-json", "-q"]).unwrap();
        assert_eq!((options.format, options.quiet), (Format::NdJson, true));
    }

    #[test]
    fn the_innermost_place_is_kept() {
        let failure = Failure::new("no such table").at("a.sql:3".to_owned());
        let failure = failure.at("b.sql:1".to_owned());
        assert_eq!(failure.to_string(), "a.sql:3: no such table");
    }
}
