//! Change tracking and change data capture of tracked tables, by SQL Server's names.
//!
//! ```text
//!  rewrite           CHANGETABLE(CHANGES t, v) ──> changetable_changes(t, v), names of tables in functions ──> text
//!  relations         plans the relations' calls
//!    ├ TrackedChanges   CHANGETABLE(CHANGES …), CHANGETABLE(VERSION …), fn_cdc_get_all_changes, fn_cdc_get_net_changes
//!    └ tables_view      change_tracking_tables
//!  functions         CHANGE_TRACKING_CURRENT_VERSION, fn_cdc_get_min_lsn, … : what has to look at a table
//!  mask_functions    CHANGE_TRACKING_IS_COLUMN_IN_MASK, fn_cdc_increment_lsn, … : what has not
//! ```

mod capture;
mod change_table;
mod feed_relation;
mod functions;
mod images;
mod lsn;
mod mask_functions;
mod relations;
pub(super) mod rewrite;
mod tables_view;
mod tracked_changes;

pub(super) use functions::table_functions;
pub(super) use mask_functions::mask_functions;
pub(super) use relations::plan_relation;
