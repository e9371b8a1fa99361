//! The Delta kernel's engine over a table's store.

use std::num::NonZero;
use std::sync::Arc;

use delta_kernel::Engine;
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::{
    TokioBackgroundExecutor, TokioMultiThreadExecutor,
};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::table::DeltaTable;

/// How many log files are read at once. The kernel's own default of 1,000 costs gigabytes on a log without checkpoints.
const CONCURRENT_READS: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(63);

/// An engine that runs its I/O on the current runtime, or beside one that has a single thread.
pub(crate) fn engine(table: &DeltaTable) -> Arc<dyn Engine> {
    let builder = DefaultEngineBuilder::new(table.log_store().root_object_store(None));
    let handle = Handle::current();
    if handle.runtime_flavor() == RuntimeFlavor::MultiThread {
        let executor = Arc::new(TokioMultiThreadExecutor::new(handle));
        Arc::new(
            builder
                .with_task_executor(executor)
                .with_buffer_size(CONCURRENT_READS)
                .build(),
        )
    } else {
        let executor = Arc::new(TokioBackgroundExecutor::new());
        Arc::new(
            builder
                .with_task_executor(executor)
                .with_buffer_size(CONCURRENT_READS)
                .build(),
        )
    }
}
