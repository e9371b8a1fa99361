//! The signals that ask the process to end.
//!
//! The first one is handed on, and the second ends the process at once. They are waited for on a thread of their own: the threads
//! of the runs may all be busy with rows.

use std::io::Result;
use std::process;

use tokio::runtime::Builder;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// SIGINT and SIGTERM; Ctrl-C where there are no signals.
pub(super) struct Signals {
    first: UnboundedReceiver<i32>,
}

impl Signals {
    /// Begins to listen; from then on the first signal ends nothing by itself.
    pub(super) fn listen() -> Result<Self> {
        let (sender, first) = unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("alluvial-signals".into())
            .spawn(move || runtime.block_on(watch(sender, &ready)))?;
        is_ready
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread has ended")))?;
        Ok(Self { first })
    }

    /// Waits for the first signal, and returns the exit code of a process that is ended by it.
    pub(super) async fn next(&mut self) -> i32 {
        match self.first.recv().await {
            Some(code) => code,
            None => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
async fn watch(sender: UnboundedSender<i32>, ready: &std::sync::mpsc::Sender<Result<()>>) {
    let signals = signal(SignalKind::interrupt())
        .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    for count in 0.. {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        hand_on(&sender, count, code);
    }
}

#[cfg(windows)]
async fn watch(sender: UnboundedSender<i32>, ready: &std::sync::mpsc::Sender<Result<()>>) {
    let mut interrupt = match tokio::signal::windows::ctrl_c() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    for count in 0.. {
        interrupt.recv().await;
        hand_on(&sender, count, 130);
    }
}

fn hand_on(sender: &UnboundedSender<i32>, count: u32, code: i32) {
    if count > 0 || sender.send(code).is_err() {
        process::exit(code);
    }
}
