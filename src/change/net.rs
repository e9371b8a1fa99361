//! Net changes and the full set of metadata columns, as plans over a change relation.
//!
//! Net means at most one change per key: what happened first and what happened last decide, see [`net_changes`]. Where plain integers
//! tell the order of changes, one aggregate function keeps first and last images (`by_step`); otherwise, and where changes do not
//! carry all columns, ordered aggregates of each column find them (`by_order`).

mod accumulator;
mod by_order;
mod by_step;
mod function;
mod group;
mod images;
mod result;
mod step;

use arrow::datatypes::Schema;
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::logical_expr::{Case, Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};

use super::{
    CHANGE_ORDINAL, CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType, metadata_columns,
};
use crate::error::{Error, Result};

/// What is particular about the changes of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetNature {
    /// The column that orders them, where it is not the order in which they came.
    pub sequence: Option<String>,
    /// Columns that some of them do not carry; `_changed_columns` says which do.
    pub absent: Vec<String>,
}

/// The net effect per key (change contract, section 2):
///
/// | existed before | exists after | result |
/// |---|---|---|
/// | no | yes | insert, last image |
/// | yes | yes | update pair, first and last image; nothing if they are equal |
/// | yes | no | delete, first image |
/// | no | no | nothing |
///
/// A key with an `upsert`, of which nobody knows whether it existed, is an upsert with the last image, or a delete.
///
/// Changes come in the order of the source's sequence, then version and ordinal. Of the columns that some of them do not carry the last
/// image is the last that one carries.
///
/// # Errors
/// When there is no key, or it names a column that is not there.
pub(crate) fn net_changes(
    changes: LogicalPlan,
    table: &str,
    schema: &Schema,
    keys: &[String],
    nature: &NetNature,
) -> Result<LogicalPlan> {
    if keys.is_empty() {
        return Err(Error::invalid(format!(
            "net changes of {table} need a key: declare a PRIMARY KEY, or name the columns with key => 'id'"
        )));
    }
    if let Some(unknown) = keys.iter().find(|key| schema.index_of(key).is_err()) {
        return Err(Error::invalid(format!(
            "the key column {unknown:?} is not in {table}"
        )));
    }
    let rows = match nature {
        NetNature {
            sequence: None,
            absent,
        } if absent.is_empty() => by_step::net_rows(changes, schema, keys)?,
        _ => by_order::net_rows(changes, schema, keys, nature)?,
    };
    Ok(rows.alias("table_changes")?.build()?)
}

/// The columns that are neither keys nor among those that every change has.
fn values<'a>(schema: &'a Schema, keys: &[String]) -> Vec<&'a str> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    names
        .filter(|name| {
            !keys.iter().any(|key| key == name)
                && ![CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP].contains(name)
        })
        .collect()
}

/// The columns of a relation without its name.
fn plain(changes: LogicalPlan) -> Result<LogicalPlanBuilder> {
    let columns: Vec<Expr> = changes
        .schema()
        .fields()
        .iter()
        .map(|field| ident(field.name()).alias(field.name()))
        .collect();
    Ok(LogicalPlanBuilder::from(changes).project(columns)?)
}

/// The order of changes within a version: a row leaves before it comes back.
pub(crate) fn change_ordinal() -> Expr {
    let leaves = [ChangeType::Delete, ChangeType::UpdatePreimage]
        .map(|kind| ident(CHANGE_TYPE).eq(lit(kind.as_str())));
    let [delete, preimage] = leaves;
    Expr::Case(Case::new(
        None,
        vec![(Box::new(delete.or(preimage)), Box::new(lit(0_i64)))],
        Some(Box::new(lit(1_i64))),
    ))
}

/// Whether a column is one of those of `metadata => 'full'`.
fn is_metadata(name: &str) -> bool {
    metadata_columns().iter().any(|field| field.name() == name)
}

fn columns(plan: &LogicalPlan, wanted: &dyn Fn(&str) -> bool) -> Vec<Expr> {
    let columns = plan.schema().iter();
    let columns = columns.filter(|(_, field)| wanted(field.name()));
    let column = |qualifier: Option<&TableReference>, name: &str| {
        Expr::Column(Column::new(qualifier.cloned(), name))
    };
    columns
        .map(|(qualifier, field)| column(qualifier, field.name()))
        .collect()
}

/// Leaves out the columns of `metadata => 'full'` where the source has them.
pub(crate) fn without_metadata(changes: LogicalPlan) -> Result<LogicalPlan> {
    let kept = columns(&changes, &|name| !is_metadata(name));
    if kept.len() == changes.schema().fields().len() {
        return Ok(changes);
    }
    Ok(LogicalPlanBuilder::from(changes)
        .project(kept)?
        .alias("table_changes")?
        .build()?)
}

/// Adds the columns of `metadata => 'full'` where the source has not got them; a Delta feed knows the order within a version and
/// that its rows are whole.
pub(crate) fn with_metadata(changes: LogicalPlan) -> Result<LogicalPlan> {
    let names: Vec<&String> = changes
        .schema()
        .fields()
        .iter()
        .map(|field| field.name())
        .collect();
    let own = columns(&changes, &|name| !is_metadata(name));
    let added = metadata_columns().into_iter().map(|field| {
        let value = match field.name().as_str() {
            name if names.iter().any(|own| *own == name) => ident(name),
            CHANGE_ORDINAL => change_ordinal(),
            "_key_only" => lit(false),
            _ => cast(lit(ScalarValue::Null), field.data_type().clone()),
        };
        value.alias(field.name())
    });
    let all: Vec<Expr> = own.into_iter().chain(added).collect();
    Ok(LogicalPlanBuilder::from(changes)
        .project(all)?
        .alias("table_changes")?
        .build()?)
}
