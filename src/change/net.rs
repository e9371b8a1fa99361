//! Net changes and the full set of metadata columns, as plans over a change relation.
//!
//! Net means at most one change per key: what happened first and what happened last decide, see [`net_changes`].

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::functions_aggregate::expr_fn::{array_agg, bool_or};
use datafusion::functions_aggregate::first_last::{first_value, last_value};
use datafusion::functions_nested::expr_fn::{array_distinct, array_has, flatten};
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when,
};

use super::distinct::distinct;
use super::{
    CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType,
    metadata_columns,
};
use crate::error::{Error, Result};

/// The half of an update pair that a row of the result is: 0 the only row or the preimage, 1 the postimage.
const SIDE: &str = "__side";
const EFFECT: &str = "__effect";
const CARRIES_ALL: &str = "__carries_all";

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
    let values: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| {
            !keys.iter().any(|key| key == name)
                && ![CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP].contains(name)
        })
        .collect();
    // a source that numbers its changes within a version knows their order better than their kinds tell
    let ordinal = match schema.field_with_name(CHANGE_ORDINAL) {
        Ok(_) => ident(CHANGE_ORDINAL),
        Err(_) => change_ordinal(),
    };
    let order = || {
        let sequence = nature.sequence.as_ref().map(ident);
        let order = sequence
            .into_iter()
            .chain([ident(COMMIT_VERSION), ordinal.clone()]);
        order
            .map(|expression| expression.sort(true, true))
            .collect()
    };
    let aggregated = aggregate(changes, keys, &values, &order, &nature.absent)?;
    let with_effect = aggregated.project(effect_columns(keys, &values, schema)?)?;
    let sides = LogicalPlanBuilder::values(vec![vec![lit(0_i64)], vec![lit(1_i64)]])?
        .project(vec![ident("column1").alias(SIDE)])?
        .build()?;
    let pair = ident(EFFECT).eq(lit("update"));
    let rows = with_effect.cross_join(sides)?.filter(
        ident(EFFECT)
            .is_not_null()
            .and(ident(SIDE).eq(lit(0_i64)).or(pair)),
    )?;
    Ok(rows
        .project(output(schema, keys)?)?
        .alias("table_changes")?
        .build()?)
}

/// The order of changes within a version: a row leaves before it comes back.
pub(crate) fn change_ordinal() -> Expr {
    let leaves = [ChangeType::Delete, ChangeType::UpdatePreimage]
        .map(|kind| ident(CHANGE_TYPE).eq(lit(kind.as_str())));
    let [delete, preimage] = leaves;
    Expr::Case(datafusion::logical_expr::Case::new(
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
        Expr::Column(datafusion::common::Column::new(qualifier.cloned(), name))
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

fn aggregate(
    changes: LogicalPlan,
    keys: &[String],
    values: &[&str],
    order: &dyn Fn() -> Vec<Sort>,
    absent: &[String],
) -> Result<LogicalPlanBuilder> {
    let mut aggregates = vec![
        first_value(ident(CHANGE_TYPE), order()).alias("__first_type"),
        last_value(ident(CHANGE_TYPE), order()).alias("__last_type"),
        last_value(ident(COMMIT_VERSION), order()).alias("__version"),
        last_value(ident(COMMIT_TIMESTAMP), order()).alias("__timestamp"),
        bool_or(ident(CHANGE_TYPE).eq(lit(ChangeType::Upsert.as_str()))).alias("__upsert"),
    ];
    for (index, name) in values.iter().enumerate() {
        aggregates.push(first_value(ident(*name), order()).alias(format!("__first_{index}")));
        let last = match *name {
            CHANGED_COLUMNS if !absent.is_empty() => array_agg(ident(CHANGED_COLUMNS)),
            name if absent.iter().any(|absent| absent == name) => last_carried(name, order())?,
            name => last_value(ident(name), order()),
        };
        aggregates.push(last.alias(format!("__last_{index}")));
    }
    aggregates.push(
        match absent {
            [] => bool_or(lit(true)),
            // of a row that has gone all is known: it has nothing
            _ => bool_or(
                ident(CHANGED_COLUMNS)
                    .is_null()
                    .or(ident(CHANGE_TYPE).eq(lit(ChangeType::Delete.as_str()))),
            ),
        }
        .alias(CARRIES_ALL),
    );
    let unqualified: Vec<Expr> = changes
        .schema()
        .fields()
        .iter()
        .map(|field| ident(field.name()).alias(field.name()))
        .collect();
    let plain = LogicalPlanBuilder::from(changes).project(unqualified)?;
    let aggregated = plain.aggregate(keys.iter().map(ident).collect::<Vec<_>>(), aggregates)?;
    match values.iter().position(|name| *name == CHANGED_COLUMNS) {
        Some(index) if !absent.is_empty() => all_carried(aggregated, &format!("__last_{index}")),
        _ => Ok(aggregated),
    }
}

/// The last value of a column among the changes that carry it; a row that has gone has none.
fn last_carried(name: &str, order: Vec<Sort>) -> Result<Expr> {
    let is_delete = ident(CHANGE_TYPE).eq(lit(ChangeType::Delete.as_str()));
    let carried = ident(CHANGED_COLUMNS)
        .is_null()
        .or(array_has(ident(CHANGED_COLUMNS), lit(name)))
        .or(is_delete.clone());
    let value = when(is_delete.is_not_true(), ident(name)).end()?;
    // the builder takes the order anew
    let last = last_value(value, vec![]).order_by(order);
    Ok(last.filter(carried).build()?)
}

/// Makes one list of the lists of columns in `lists`; NULL where one of the changes carries all.
fn all_carried(aggregated: LogicalPlanBuilder, lists: &str) -> Result<LogicalPlanBuilder> {
    let names = array_distinct(flatten(ident(lists)));
    let names = when(ident(CARRIES_ALL).is_not_true(), names).end()?;
    let schema = Arc::clone(aggregated.schema());
    let columns = schema.fields().iter().map(|field| {
        let column = match field.name() {
            name if name == lists => names.clone(),
            name => ident(name),
        };
        column.alias(field.name())
    });
    Ok(aggregated.project(columns.collect::<Vec<_>>())?)
}

/// Key, first and last images, version and timestamp, and the net effect.
fn effect_columns(keys: &[String], values: &[&str], schema: &Schema) -> Result<Vec<Expr>> {
    let is = |column: &str, kinds: &[ChangeType]| {
        kinds
            .iter()
            .map(|kind| ident(column).eq(lit(kind.as_str())))
            .reduce(Expr::or)
            .unwrap_or_else(|| lit(false))
    };
    let before = is(
        "__first_type",
        &[ChangeType::UpdatePreimage, ChangeType::Delete],
    );
    let after = is(
        "__last_type",
        &[
            ChangeType::Insert,
            ChangeType::UpdatePostimage,
            ChangeType::Upsert,
        ],
    );
    let mut images = Vec::new();
    let is_own = |(_, name): &(usize, &&str)| !is_metadata(name);
    for (index, name) in values.iter().enumerate().filter(is_own) {
        let (first, last) = (
            ident(format!("__first_{index}")),
            ident(format!("__last_{index}")),
        );
        images.push(distinct(
            first,
            last,
            schema.field_with_name(name)?.data_type(),
        ));
    }
    let differ = images
        .into_iter()
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(false));
    let mut effect: CaseBuilder = when(ident("__upsert").and(after.clone()), lit("upsert"));
    let effect = effect
        .when(
            ident("__upsert")
                .or(before.clone())
                .and(after.clone().is_not_true()),
            lit("delete"),
        )
        .when(before.clone().and(after.clone()).and(differ), lit("update"))
        .when(before.is_not_true().and(after), lit("insert"))
        .otherwise(lit(ScalarValue::Utf8(None)))?;
    let carried =
        (0..values.len()).flat_map(|index| [format!("__first_{index}"), format!("__last_{index}")]);
    let names = keys
        .iter()
        .cloned()
        .chain(carried)
        .chain(["__version".into(), "__timestamp".into()]);
    Ok(names.map(ident).chain([effect.alias(EFFECT)]).collect())
}

fn output(schema: &Schema, keys: &[String]) -> Result<Vec<Expr>> {
    let preimage = ident(EFFECT)
        .eq(lit("update"))
        .and(ident(SIDE).eq(lit(0_i64)));
    let first = match schema.field_with_name(CHANGE_ORDINAL) {
        // a source without preimages says of a row that has gone what its delete says
        Ok(_) => preimage,
        Err(_) => ident(EFFECT).eq(lit("delete")).or(preimage),
    };
    let mut values = 0..;
    let mut columns = Vec::new();
    for field in schema.fields() {
        let column = match field.name().as_str() {
            CHANGE_TYPE => when(
                ident(EFFECT)
                    .eq(lit("update"))
                    .and(ident(SIDE).eq(lit(0_i64))),
                lit(ChangeType::UpdatePreimage.as_str()),
            )
            .when(
                ident(EFFECT).eq(lit("update")),
                lit(ChangeType::UpdatePostimage.as_str()),
            )
            .otherwise(ident(EFFECT))?,
            COMMIT_VERSION => ident("__version"),
            COMMIT_TIMESTAMP => ident("__timestamp"),
            name if keys.iter().any(|key| key == name) => ident(name),
            name if is_metadata(name) => {
                let index: usize = values.next().unwrap_or_default();
                ident(format!("__last_{index}"))
            }
            _ => {
                let index: usize = values.next().unwrap_or_default();
                when(first.clone(), ident(format!("__first_{index}")))
                    .otherwise(ident(format!("__last_{index}")))?
            }
        };
        columns.push(column.alias(field.name()));
    }
    Ok(columns)
}
