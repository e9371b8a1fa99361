//! Changes of a table's metadata, each a commit of its own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::{StructField, StructType};

use super::actions::{Action, Metadata, Protocol};
use super::create::delta_field;
use super::features::{protocol_for, upgrade};
use super::snapshot::Snapshot;
use super::transaction::{CommitOutcome, Operation, ReadSet, Transaction, after_commit};
use crate::error::{Error, Result};

/// The schema with the columns at its end; `None` if all are there already.
pub(crate) fn with_columns(
    snapshot: &Snapshot,
    columns: Vec<FieldRef>,
    if_not_exists: bool,
) -> Result<Option<StructType>> {
    let table = snapshot.table().name();
    if snapshot.layout().is_mapped() {
        return Err(Error::UnsupportedFeature {
            table: table.into(),
            needs: "has column mapping, and this build does not add columns under it".into(),
        });
    }
    let present = snapshot.layout().kernel_schema();
    let mut added: Vec<FieldRef> = Vec::new();
    for column in columns {
        if present
            .fields()
            .any(|field| field.name().eq_ignore_ascii_case(column.name()))
        {
            if if_not_exists {
                continue;
            }
            return Err(Error::invalid(format!(
                "{table} has a column {:?} already",
                column.name()
            )));
        }
        if added
            .iter()
            .any(|field| field.name().eq_ignore_ascii_case(column.name()))
        {
            return Err(Error::invalid(format!(
                "the column {:?} is added twice",
                column.name()
            )));
        }
        if !column.is_nullable() {
            return Err(Error::invalid(format!(
                "column {:?}: a new column is NULL in the rows that are there, so it cannot be NOT NULL",
                column.name()
            )));
        }
        added.push(delta_field(table, &column)?);
    }
    if added.is_empty() {
        return Ok(None);
    }
    let added: Vec<Field> = added.iter().map(|field| field.as_ref().clone()).collect();
    let added: StructType = (&Schema::new(added)).try_into_kernel()?;
    let all: Vec<StructField> = present.fields().chain(added.fields()).cloned().collect();
    Ok(Some(StructType::try_new(all)?))
}

/// The schema with these columns NOT NULL.
///
/// # Errors
/// When one is not there.
pub(crate) fn with_not_null(snapshot: &Snapshot, names: &[String]) -> Result<StructType> {
    let present = snapshot.layout().kernel_schema();
    if let Some(unknown) = names.iter().find(|name| present.field(name).is_none()) {
        let columns: Vec<&str> = present
            .fields()
            .map(|field| field.name().as_str())
            .collect();
        return Err(Error::invalid(format!(
            "{} has no column {unknown:?}; its columns are {}",
            snapshot.table().name(),
            columns.join(", ")
        )));
    }
    let fields = present.fields().map(|field| {
        let mut field = field.clone();
        field.nullable &= !names.contains(field.name());
        field
    });
    Ok(StructType::try_new(fields.collect::<Vec<_>>())?)
}

/// The protocol that the metadata asks for.
pub(crate) fn wanted_protocol(metadata: &Metadata) -> Result<Protocol> {
    let schema: StructType = serde_json::from_str(&metadata.schema_string)?;
    Ok(protocol_for(&schema, metadata))
}

/// Commits new metadata, and the protocol that it asks for, on top of `snapshot`.
///
/// # Errors
/// [`Error::Conflict`] when another writer was faster.
pub(crate) async fn commit_metadata(
    snapshot: &Arc<Snapshot>,
    metadata: Metadata,
    operation: Operation,
) -> Result<()> {
    let mut actions = vec![Action::Metadata(metadata.clone())];
    if let Some(protocol) = upgrade(snapshot.protocol(), &wanted_protocol(&metadata)?) {
        actions.push(Action::Protocol(protocol));
    }
    let table = snapshot.table().clone();
    let transaction = Transaction {
        table: table.clone(),
        base: Some(Arc::clone(snapshot)),
        operation,
        actions,
        reads: ReadSet::Table,
        touched: HashMap::new(),
    };
    match transaction.commit().await? {
        CommitOutcome::Committed(version) => {
            after_commit(&table, version).await;
            Ok(())
        }
        CommitOutcome::Conflict(error) | CommitOutcome::Failed(error) => Err(error),
    }
}
