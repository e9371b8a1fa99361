//! Turning rows into a commit: MERGE, UPDATE, DELETE, INSERT share one executor.
//!
//! ```text
//!  CommitExec            1 partition: joins the row marks, writes deletion vectors or rewrites files, commits -> count
//!   └ CoalescePartitions
//!     └ RowWriteExec     N partitions: data files, change files, a bitmap of marked rows per file; emits action rows
//!       └ GatherExec     the rows of small writes in one partition, for one file; partitioned tables: by partition values
//!         └ Projection   action, file, row [, row id], new values [, old values]   (see [`row_format`])
//!           └ HashJoin   build = source
//!             ├ KeyCollectExec   streams the source, hands its keys to the scan
//!             └ DataSourceExec   files, row groups, pages and rows pruned by the keys, deletion vectors as row selections
//! ```
//!
//! Merge-on-read: a changed row is marked in its file's deletion vector and, if it lives on, appended to a new file. Files are
//! rewritten only where deletion vectors are off, or where a file would keep less than half of its rows.

mod clause;
mod commit_exec;
mod create;
mod dml;
mod estimate;
mod gather_exec;
mod identity_values;
mod insert;
mod key_check;
mod key_collect;
mod key_set;
mod keys;
mod optimize;
mod outcome;
mod planner;
mod provenance;
mod relation;
mod rewrite;
pub(crate) mod row_format;
mod row_plan;
mod row_rules;
mod spark_expression;
mod subquery;
mod unique_exec;
mod write_exec;
mod zorder;

pub(crate) use commit_exec::CommitExec;
pub(crate) use create::plan_create;
pub(crate) use dml::{DmlKind, rewrite_dml, session_state};
pub(crate) use insert::{InsertMode, has_keys_to_check, plan_append, plan_insert, plan_truncate};
pub(crate) use key_check::key_text;
pub(crate) use optimize::{Optimize, Optimized, Rewrite};
pub(crate) use outcome::outcome_row;
pub(crate) use planner::{MergeStatement, plan_merge};
pub(crate) use relation::SourceRelation as PlanRelation;
pub(crate) use spark_expression::{check_default, default_value, generation_type};
pub(crate) use subquery::has_subquery;
pub(crate) use unique_exec::{RepeatedKeys, UniqueKeysExec};
pub(crate) use write_exec::RowCounts;
