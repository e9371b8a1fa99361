//! Delta tables: reading and writing `_delta_log`, scanning data files. Nothing outside this module touches the log.
//!
//! ```text
//!  DeltaTable ── snapshot() ──> Snapshot ── files() ──> DeltaScan ────────> DataSourceExec of the files of a version
//!      │                           └── layout, properties, features
//!      ├── stream_commits (the log as history) ── Lane ── StreamedScan ──> DataSourceExec of any number of files, in order
//!      └── Transaction ── commit() ──> the next version, or the winner's
//! ```

pub(crate) mod actions;
pub(crate) mod alter;
pub(crate) mod applications;
mod cleanup;
pub(crate) mod computed;
pub(crate) mod conflict;
pub(crate) mod create;
pub(crate) mod data_file;
pub(crate) mod deletion_vector;
mod engine;
pub(crate) mod evolution;
pub(crate) mod features;
pub(crate) mod fetch;
mod field_ids;
mod file_readers;
mod lane;
pub(crate) mod layout;
pub(crate) mod location;
pub(crate) mod log;
mod never_happened;
pub(crate) mod own_reads;
pub(crate) mod properties;
mod put_commit;
pub(crate) mod reconcile;
mod relabel;
mod replay;
pub(crate) mod row_tracking;
pub(crate) mod scan;
pub(crate) mod scan_source;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod streamed_scan;
mod table;
pub(crate) mod tracking;
pub(crate) mod transaction;
pub(crate) mod unnamed_files;
pub(crate) mod vacuum;

pub(crate) use lane::Lane;
pub use table::DeltaTable;
