//! SQL: how a DataFusion session learns about Delta tables and changes.
//!
//! ```text
//!  SessionContextExt::register_alluvial      into any SessionContext: then plain ctx.sql() knows
//!    ├ ChangesRelationPlanner                table_changes(…), VERSION AS OF, changetable_changes(…), fn_cdc_get_all_changes(…)
//!    ├ functions                             change_tracking_current_version(…), fn_cdc_get_max_lsn(…), …
//!    ├ DmlRule                               UPDATE, DELETE of Delta tables
//!    ├ ValuesRule                            sub-queries in VALUES
//!    └ factories                             CREATE EXTERNAL TABLE … STORED AS DELTA, CHANGE_FILES, VERSIONED, SNAPSHOTS
//!  SessionContextExt::alluvial_sql           the same and CREATE TABLE, ALTER TABLE, DESCRIBE HISTORY, SYNC, …
//!  SessionBuilder                            a session on a warehouse folder, as the shell has it
//! ```

mod arguments;
mod blocking;
mod catalog;
mod change_files_table;
mod changes_table;
mod computed_parser;
mod ddl;
mod delta_table;
mod delta_versions;
mod dml_rule;
mod evolution;
mod factory;
mod functions;
mod history;
mod lookup;
mod maintenance;
mod maintenance_parser;
mod merge_target;
mod operators;
mod parser;
mod query_source;
mod relation_planner;
mod rewrite;
mod session;
mod snapshots_table;
mod source_table;
pub(crate) mod split;
mod sync_parser;
mod sync_session;
mod sync_table;
mod tracking;
mod tracking_parser;
mod types;
mod values_rule;
mod versioned_table;

pub(crate) use crate::delta::unnamed_files::removed;
pub use catalog::WarehouseCatalog;
pub use delta_table::DeltaTableProvider;
pub use factory::DeltaTableFactory;
pub use parser::parse_sync;
pub use session::{SessionBuilder, SessionContextExt, write_outcome};
#[cfg(test)]
pub(crate) use source_table::SourceTable;
pub use split::{SplitError, Statement, split_statements};
