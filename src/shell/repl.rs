//! The prompt: reads statements line by line and runs them until `\q` or Ctrl-D.
//!
//! The editor blocks, so every line is read on a thread for blocking work, and the editor travels there and back.
//! rustyline can edit several lines at once but has no prompt for the second one; a statement is therefore put
//! together from lines here, and comes back from the history as a whole.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::task::{JoinHandle, spawn_blocking};

use super::command::Flow;
use super::helper::{SharedNames, SqlHelper};
use super::{Failure, Shell};
use crate::sql::split::is_complete;

const PROMPT: &str = "alluvial> ";
const CONTINUATION: &str = "      -> ";

/// A table shows this many rows at the prompt, unless `\pset rows` says otherwise.
const MAX_ROWS: usize = 40;
const MAX_HISTORY: usize = 10_000;

/// Runs the prompt until the user leaves; errors of statements are shown and do not end it.
pub(super) async fn run(shell: &mut Shell) -> Result<(), Failure> {
    shell.style.max_rows = Some(MAX_ROWS);
    shell.note(concat!(
        "alluvial ",
        env!("CARGO_PKG_VERSION"),
        "; \\? lists the commands, \\q quits"
    ))?;
    let mut prompt = Prompt::open(shell.ctx.clone())?;
    let mut last = String::new();
    loop {
        let (returned, input) = prompt.read_statement(&last).await?;
        prompt = returned;
        let text = match input {
            Input::Statement(text) => text,
            Input::Cleared => continue,
            Input::End => return Ok(()),
        };
        prompt.remember(&text);
        if is_quit(&text) || run_cancellable(shell, &text).await? == Flow::Quit {
            return Ok(());
        }
        last = text;
    }
}

/// Runs a statement to its end, or until Ctrl-C.
async fn run_cancellable(shell: &mut Shell, text: &str) -> Result<Flow, Failure> {
    let outcome = tokio::select! {
        outcome = Box::pin(shell.run_script(None, text, 0)) => outcome,
        Ok(()) = tokio::signal::ctrl_c() => {
            writeln!(io::stderr(), "cancelled")?;
            return Ok(Flow::Continue);
        }
    };
    match outcome {
        Err(failure @ Failure::Statement { .. }) => {
            writeln!(io::stderr(), "error: {failure}")?;
            Ok(Flow::Continue)
        }
        other => other,
    }
}

/// What the user did at the prompt.
enum Input {
    Statement(String),
    /// Ctrl-C: the statement was given up.
    Cleared,
    /// Ctrl-D.
    End,
}

/// The line editor, with what it needs between two lines.
struct Prompt {
    editor: Editor<SqlHelper, DefaultHistory>,
    history: Option<PathBuf>,
    names: Arc<SharedNames>,
    ctx: SessionContext,
}

impl Prompt {
    fn open(ctx: SessionContext) -> Result<Self, Failure> {
        let names = Arc::new(SharedNames::default());
        let history = history_file();
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(MAX_HISTORY)
            .map_err(unusable)?
            .build();
        let mut editor = Editor::with_config(config).map_err(unusable)?;
        editor.set_helper(Some(SqlHelper::new(Arc::clone(&names))));
        if let Some(path) = &history {
            // There is no history before the first statement.
            editor.load_history(path).ok();
        }
        Ok(Self {
            editor,
            history,
            names,
            ctx,
        })
    }

    /// Reads lines until they are a whole statement; `last` is the SQL that was run before.
    async fn read_statement(mut self, last: &str) -> Result<(Self, Input), Failure> {
        let mut pending = String::new();
        loop {
            let (prompt, recent) = match pending.is_empty() {
                true => (PROMPT, last),
                false => (CONTINUATION, pending.as_str()),
            };
            if let Some(helper) = self.editor.helper_mut() {
                helper.pending.clone_from(&pending);
            }
            let refresh = self.refresh_names(recent.to_owned());
            let (returned, line) = self.read_line(prompt).await?;
            self = returned;
            refresh.abort();
            match line {
                Ok(line) => pending.push_str(&line),
                Err(ReadlineError::Interrupted) => return Ok((self, Input::Cleared)),
                Err(ReadlineError::Eof) => return Ok((self, Input::End)),
                Err(error) => return Err(unusable(error)),
            }
            if is_complete(&pending) || is_quit(&pending) {
                return Ok((self, Input::Statement(pending)));
            }
            pending.push('\n');
        }
    }

    async fn read_line(
        mut self,
        prompt: &'static str,
    ) -> Result<(Self, rustyline::Result<String>), Failure> {
        let reading = spawn_blocking(move || {
            let line = self.editor.readline(prompt);
            (self, line)
        });
        reading.await.map_err(unusable)
    }

    /// Starts to load the names that Tab completes.
    fn refresh_names(&self, recent: String) -> JoinHandle<()> {
        let (names, ctx) = (Arc::clone(&self.names), self.ctx.clone());
        tokio::spawn(async move { names.refresh(&ctx, &recent).await })
    }

    fn remember(&mut self, text: &str) {
        let is_new = self.editor.add_history_entry(text.trim_end());
        if let (Ok(true), Some(path)) = (is_new, &self.history) {
            // A history that cannot be kept is no reason to stop working.
            self.editor.append_history(path).ok();
        }
    }
}

fn is_quit(text: &str) -> bool {
    let word = text.trim().trim_end_matches(';').trim_end();
    word.eq_ignore_ascii_case("quit") || word.eq_ignore_ascii_case("exit")
}

/// `$ALLUVIAL_HISTORY`, which may be empty for none, or else a file in the home directory.
fn history_file() -> Option<PathBuf> {
    match env::var_os("ALLUVIAL_HISTORY") {
        Some(path) => (!path.is_empty()).then(|| path.into()),
        None => env::home_dir().map(|home| home.join(".alluvial_history")),
    }
}

fn unusable(error: impl std::error::Error) -> Failure {
    Failure::new(format!("the prompt does not work: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quitting() {
        let check = |text: &str, expected: bool| assert_eq!(is_quit(text), expected, "{text}");
        check("quit", true);
        check(" Exit ; ", true);
        check("SELECT quit", false);
        check("", false);
    }
}
