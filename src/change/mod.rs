//! The vocabulary of changes, shared by every source and every consumer. No I/O happens here.

mod distinct;
mod mask;
mod net;
mod plan;
mod range;
mod schema;

pub(crate) use distinct::{comparable, distinct, distinct_values};
pub(crate) use mask::{ChangeMask, Hex, is_bit_set, is_column_in_mask};
pub(crate) use net::{NetNature, net_changes, with_metadata, without_metadata};
pub(crate) use plan::{fit, plan_inside, repeated_key, unqualified, without_dynamic_filters};
pub use range::{Bound, BoundKind, ChangeBounds, ChangeRange, VersionClock};
pub use schema::{
    CHANGE_CONTEXT, CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_TIMESTAMP, COMMIT_VERSION,
    ChangeType, change_columns, change_schema, metadata_columns, refuse_reserved_columns,
};
