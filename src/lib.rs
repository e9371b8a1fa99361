//! Alluvial: a change-data engine for lakehouses, an extension of [Apache DataFusion](datafusion).
//!
//! It answers one question for every kind of source, "what changed since version N?", and keeps Delta tables equal to their
//! sources, deletes included.
//!
//! ```text
//!  Delta tables   ─┐                                   ┌─ SELECT … FROM table_changes('t', 41), CHANGETABLE(CHANGES t, 41)
//!  files with      ├─ ChangeSource ── change relation ─┼─ MERGE INTO target USING table_changes(…) … ── one Delta commit
//!  change markers  │   resolve()       _change_type    └─ SYNC INTO target FROM source … ───────────── one Delta commit, which
//!  version-tracked ┘   changes()       _commit_version                                                 also records the position
//!  tables
//! ```
//!
//! Begin with [`sql::SessionContextExt::register_alluvial`] in an application that has a `SessionContext`, or with
//! [`sql::SessionBuilder`] for a session on a warehouse folder.
//!
//! # Architecture, as invariants
//!
//! - Layers: `shell -> sql -> sync -> merge, source -> delta -> change -> error`. An arrow may be followed, never walked back.
//! - [`change`] does no I/O: it is the vocabulary, and plans over change relations.
//! - Only `source` knows where changes come from. `merge` and `source` never meet: what joins them is a relation.
//! - Only [`delta`] reads or writes `_delta_log`, and data files are written before the commit that names them.
//! - Only [`sql`] offers DataFusion's planning traits to sessions. `merge`, `source` and [`sync`] have table providers of their own,
//!   for the sides of their joins and for rows on their way to a commit, that no session ever sees by name.
//! - [`sync`] names nothing: what a statement names, the session looks up for it (`SyncSession`, which [`sql`] implements).
//! - Planning has no side effects: EXPLAIN plans everything and writes nothing, but for the ledger of files with change markers and of
//!   full dumps, in which whoever looks first gives a new file its number. `CREATE` and `ALTER TABLE`, `OPTIMIZE`, `REORG` and `VACUUM` are no plans and act at once.
//! - Connections to object stores for such files live on a runtime of their own: SQL is planned synchronously, and must not wait
//!   for a thread that waits for it.
//! - Operators talk in record batches only.
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
pub mod sync;

pub use error::{Error, Result};
