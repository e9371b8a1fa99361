//! The `alluvial` command: a SQL shell over a folder of Delta tables.

use std::process::ExitCode;

use alluvial::error::Result;
use alluvial::shell::{self, Options};
use alluvial::sql::SessionBuilder;
use clap::Parser;
use mimalloc::MiMalloc;
use tokio::runtime::Builder;

/// Columns come and go in megabytes; the system's allocator would give each of them back to the kernel.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    ignore_repeated_aborts();
    match start(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// deltalake aborts uploads that have failed already, and catches what object_store thinks of that: nobody else needs to hear of it.
fn ignore_repeated_aborts() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_known = panic.location().is_some_and(|at| {
            at.file().contains("object_store") && at.file().ends_with("buffered.rs")
        });
        if !is_known {
            others(panic);
        }
    }));
}

fn start(options: Options) -> Result<ExitCode> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<ExitCode> {
    let ctx = SessionBuilder::new()
        .with_warehouse(options.warehouse.clone())
        .with_memory_limit(options.memory_limit)
        .build()?;
    Ok(Box::pin(shell::run(options, ctx)).await)
}
