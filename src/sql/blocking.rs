//! Waiting for a future where DataFusion asks synchronously, as its SQL planner does.

use std::future::Future;
use std::sync::LazyLock;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime, RuntimeFlavor};

use crate::error::{Error, Result};

/// Where such futures run: never on the caller's runtime, which may have no other thread to go on with.
static HELPER: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("alluvial-planner")
        .enable_all()
        .build()
});

/// Runs the future to its end, on a runtime kept for that.
///
/// # Errors
/// The future's own, and when there is no thread to be had.
pub(crate) fn block_on<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    make: impl Fn() -> F + Send + 'static,
) -> Result<T> {
    let helper = HELPER.as_ref().map_err(Error::internal)?;
    let (sender, receiver) = mpsc::channel();
    helper.spawn(async move {
        let _ = sender.send(make().await);
    });
    let wait = move || receiver.recv();
    // on a runtime with several threads, another one takes over what this one has to do
    let is_multi_thread = tokio::runtime::Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    let answer = match is_multi_thread {
        true => tokio::task::block_in_place(wait),
        false => wait(),
    };
    answer.map_err(|_| Error::internal("a helper thread panicked"))?
}
