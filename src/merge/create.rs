//! Creating and replacing tables: metadata, protocol and first rows in one commit.

use std::sync::Arc;

use datafusion::execution::SessionState;

use super::commit_exec::{CommitPlan, Removal};
use super::row_format::RowFormat;
use super::row_rules::RowRules;
use super::write_exec::WriteSpec;
use crate::delta::DeltaTable;
use crate::delta::actions::{Action, Metadata, Protocol};
use crate::delta::create::write_target;
use crate::delta::features::{check_writable, upgrade};
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::{Operation, ReadSet};
use crate::error::Result;

/// How the rows of a table that is created, or that takes the place of `base`, are committed. They arrive in the table's columns.
///
/// # Errors
/// When the table would need a feature that cannot be written.
pub(crate) fn plan_create(
    table: &DeltaTable,
    metadata: Metadata,
    protocol: Protocol,
    base: Option<Arc<Snapshot>>,
    operation: Operation,
    session: Arc<SessionState>,
) -> Result<CommitPlan> {
    let protocol = match &base {
        Some(base) => {
            upgrade(base.protocol(), &protocol).unwrap_or_else(|| base.protocol().clone())
        }
        None => protocol,
    };
    let target = write_target(table, &metadata, &protocol)?;
    check_writable(table.name(), &protocol, &target.layout)?;
    let rules = RowRules::try_new(&target, &session)?;
    let operation = operation
        .with_parameter(
            "partitionBy",
            serde_json::to_string(&metadata.partition_columns)?,
        )
        .with_parameter(
            "properties",
            serde_json::to_string(&metadata.configuration)?,
        );
    Ok(CommitPlan {
        key_check: None,
        prelude: vec![Action::Protocol(protocol), Action::Metadata(metadata)],
        removal: if base.is_some() {
            Removal::All
        } else {
            Removal::Marked
        },
        base,
        write: WriteSpec {
            target,
            format: RowFormat::Inserts,
            rules,
            change_rows: false,
            unique_matches: true,
        },
        scanned: Arc::default(),
        operation,
        reads: ReadSet::Table,
        outline: None,
        session,
    })
}
