//! Servers that `serve.py` runs, each for as long as this process lives.
//!
//! `serve.py` stops its server when its standard input ends. Statics are never dropped, but the operating system closes the pipe
//! when the process ends, in whatever way.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Failed;
use serde::Deserialize;

use crate::package;

/// Why something cannot be had on this machine.
#[derive(Debug, Clone)]
pub(super) struct Missing(pub String);

/// Something that needs what may not be installed.
#[derive(Debug)]
pub(super) enum Started<T> {
    Ready(T),
    Missing(Missing),
}

/// How to reach a server, as `serve.py` says.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct About {
    /// The URL of its root, as a user writes it, without a slash at the end.
    pub url: String,
    /// What a user gives in OPTIONS.
    pub options: BTreeMap<String, String>,
    /// Where its files are on this machine, if they are files.
    pub folder: Option<PathBuf>,
    /// What no message may show.
    pub secrets: Vec<String>,
    /// What else there is to know.
    #[serde(default)]
    pub more: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Missing { missing: String },
    About(About),
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    about: About,
    pipes: Mutex<Pipes>,
}

#[derive(Debug)]
struct Pipes {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a server of a kind that `serve.py` knows, and waits until it is ready.
    pub(super) fn start(kind: &str) -> Result<Started<Self>, Failed> {
        let python =
            env::var("ALLUVIAL_TEST_SERVERS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let started = Command::new(&python)
            .arg(package().join("sql-tests/locations/serve.py"))
            .arg(kind)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut process) = started else {
            return Ok(Started::Missing(Missing(format!("{python} is not there"))));
        };
        let (Some(commands), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("serve.py has no pipes".into());
        };
        let mut pipes = Pipes {
            process,
            commands: Some(commands),
            answers: BufReader::new(answers),
        };
        let answer = pipes.answer()?;
        Ok(match serde_json::from_str::<Answer>(&answer)? {
            Answer::Missing { missing } => Started::Missing(Missing(missing)),
            Answer::About(about) => Started::Ready(Self {
                about,
                pipes: Mutex::new(pipes),
            }),
        })
    }

    /// How to reach it.
    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// Cuts all connections and starts it anew on its port. The files stay.
    pub(super) fn restart(&self) -> Result<(), Failed> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commands) = &mut pipes.commands {
            writeln!(commands, "restart")?;
        }
        pipes.answer().map(drop)
    }
}

impl Pipes {
    fn answer(&mut self) -> Result<String, Failed> {
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err("serve.py ended before it answered; its error is on stderr".into());
        }
        Ok(answer)
    }
}

impl Drop for Pipes {
    /// Ends the server of a single trial.
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}
