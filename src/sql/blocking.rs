//! Waiting for a future where DataFusion asks synchronously, as its SQL planner does.

use std::future::Future;

use futures::FutureExt;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};

use crate::error::{Error, Result};

/// Runs the future to its end: at once if it does not wait; otherwise on this thread where the runtime has others to go on
/// with, and on a helper thread where it has not.
pub(crate) fn block_on<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    make: impl Fn() -> F + Send + 'static,
) -> Result<T> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| handle.block_on(make()))
        }
        Ok(_) => {
            if let Some(ready) = make().now_or_never() {
                return ready;
            }
            on_helper_thread(make)
        }
        Err(_) => on_helper_thread(make),
    }
}

fn on_helper_thread<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
    make: impl Fn() -> F + Send + 'static,
) -> Result<T> {
    let run = move || {
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Error::from)?
            .block_on(make())
    };
    std::thread::spawn(run)
        .join()
        .map_err(|_| Error::internal("a helper thread panicked"))?
}
