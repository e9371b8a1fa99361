//! The runtime on which connections live.
//!
//! A connection is driven by the runtime that made it. SQL is planned synchronously, so a session's own runtime may have no thread
//! left while a plan waits for an answer, and an answer would wait for that thread.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("alluvial-io")
        .enable_all()
        .build()
});

/// Where to spawn what drives connections.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn io_runtime() -> Result<Handle> {
    let runtime = RUNTIME.as_ref().map_err(Error::internal)?;
    Ok(runtime.handle().clone())
}
