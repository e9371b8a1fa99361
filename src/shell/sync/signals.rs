//! The signals that ask the process to end.
//!
//! From the moment that they are listened to they end nothing by themselves.

use std::io::Result;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlC, ctrl_c};

/// SIGINT and SIGTERM.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen.
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal, and returns the exit code of a process that is ended by it.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// Ctrl-C.
#[cfg(windows)]
pub(super) struct Signals {
    interrupt: CtrlC,
}

#[cfg(windows)]
impl Signals {
    /// Begins to listen.
    pub(super) fn listen() -> Result<Self> {
        let interrupt = ctrl_c()?;
        Ok(Self { interrupt })
    }

    /// Waits for a signal, and returns the exit code of a process that is ended by it.
    pub(super) async fn next(&mut self) -> i32 {
        self.interrupt.recv().await;
        130
    }
}
