//! Trials that end: one that hangs fails by its name, and the others go on.

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};

/// Many times what the longest trial takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

/// A trial that passes or fails.
pub(crate) fn test<R>(name: impl Into<String>, runner: R) -> Trial
where
    R: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    Trial::test(name, || within(LIMIT, runner))
}

/// A trial that may also say why it cannot run here.
pub(crate) fn ignorable_test<R>(name: impl Into<String>, runner: R) -> Trial
where
    R: FnOnce() -> Result<Completion, Failed> + Send + 'static,
{
    Trial::ignorable_test(name, || within(LIMIT, runner))
}

/// What `runner` returns, if it does in time; its thread is left alone if it does not.
fn within<T: Send + 'static>(
    limit: Duration,
    runner: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let (sender, receiver) = channel();
    let thread = thread::spawn(move || {
        // nobody listens any more where the time was up
        let _ = sender.send(runner());
    });
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(format!("hangs: no end in {limit:?}").into()),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => Err("ended without a result".into()),
            Err(panic) => resume_unwind(panic),
        },
    }
}
