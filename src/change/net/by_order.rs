//! Net changes by ordered aggregates of each column: for any order, and for changes that do not carry all columns.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::expr_fn::{array_agg, bool_or};
use datafusion::functions_aggregate::first_last::{first_value, last_value};
use datafusion::functions_nested::expr_fn::{array_distinct, array_has, flatten};
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ident, lit, when,
};

use super::{NetNature, change_ordinal, is_metadata, plain, values};
use crate::change::{
    CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeType,
    distinct,
};
use crate::error::Result;

/// The half of an update pair that a row of the result is: 0 the only row or the preimage, 1 the postimage.
const SIDE: &str = "__side";
const EFFECT: &str = "__effect";
const CARRIES_ALL: &str = "__carries_all";

/// The net rows of each key.
pub(super) fn net_rows(
    changes: LogicalPlan,
    schema: &Schema,
    keys: &[String],
    nature: &NetNature,
) -> Result<LogicalPlanBuilder> {
    let values = values(schema, keys);
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
    Ok(rows.project(output(schema, keys)?)?)
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
    let keys: Vec<Expr> = keys.iter().map(ident).collect();
    let aggregated = plain(changes)?.aggregate(keys, aggregates)?;
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
