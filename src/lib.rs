//! Alluvial: a change-data engine for lakehouses, on Apache DataFusion.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests may panic"
    )
)]

pub mod change;
pub mod delta;
pub mod error;
pub(crate) mod merge;
pub mod shell;
pub(crate) mod source;
pub mod sql;

pub use error::{Error, Result};
