//! The plans of `CHANGETABLE(CHANGES …)` and `CHANGETABLE(VERSION …)`, and their columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::metadata::FieldMetadata;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::functions_aggregate::first_last::last_value;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when};

use super::images::{
    CONTEXT, Images, created_version, existed, exists, last_version, over_versions, steps,
};
use super::mask_functions::{COLUMNS_KEY, change_columns_mask};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};

pub(super) const SYS_CHANGE_VERSION: &str = "sys_change_version";
pub(super) const SYS_CHANGE_COLUMNS: &str = "sys_change_columns";

fn nullable(schema: &Schema, name: &str) -> Result<FieldRef> {
    let field = schema.field_with_name(name)?;
    Ok(Arc::new(field.clone().with_nullable(true)))
}

/// SQL Server's columns, then the key's.
pub(super) fn changes_schema(schema: &Schema, keys: &[String]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = [
        Field::new(SYS_CHANGE_VERSION, DataType::Int64, true),
        Field::new("sys_change_creation_version", DataType::Int64, true),
        Field::new("sys_change_operation", DataType::Utf8, true),
        Field::new(SYS_CHANGE_COLUMNS, DataType::Binary, true).with_metadata(column_names(schema)?),
        Field::new("sys_change_context", DataType::Binary, true),
    ]
    .map(Arc::new)
    .to_vec();
    for key in keys {
        fields.push(nullable(schema, key)?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

pub(super) fn version_schema(schema: &Schema, keys: &[String]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = [
        Field::new(SYS_CHANGE_VERSION, DataType::Int64, true),
        Field::new("sys_change_context", DataType::Binary, true),
    ]
    .map(Arc::new)
    .to_vec();
    for key in keys {
        fields.push(nullable(schema, key)?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// What a mask needs beside it: the names that its numbers stand for.
fn column_names(schema: &Schema) -> Result<HashMap<String, String>> {
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    let names = serde_json::to_string(&names)?;
    Ok(HashMap::from([(COLUMNS_KEY.to_owned(), names)]))
}

/// The key that is asked for, in the order and the types of the table's.
pub(super) fn key_values(
    table: &DeltaTable,
    schema: &Schema,
    keys: &[String],
    mut values: Vec<(String, ScalarValue)>,
) -> Result<Vec<(String, ScalarValue)>> {
    let given: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
    let is_key = given.len() == keys.len() && keys.iter().all(|key| given.contains(&key.as_str()));
    if !is_key {
        return Err(Error::invalid(format!(
            "CHANGETABLE(VERSION {}, ({}), …): the primary key is ({}); name exactly its columns",
            table.name(),
            given.join(", "),
            keys.join(", ")
        )));
    }
    values.sort_by_key(|(name, _)| keys.iter().position(|key| key == name));
    for (name, value) in &mut values {
        let data_type = schema.field_with_name(name)?.data_type();
        *value = value.cast_to(data_type).map_err(|_| {
            Error::invalid(format!(
                "CHANGETABLE(VERSION {}, …): {value} is no value of the key column {name:?}, which is {data_type}",
                table.name()
            ))
        })?;
    }
    Ok(values)
}

fn context(images: &Images<'_>) -> Expr {
    match images.contexts {
        true => ident(CONTEXT),
        false => lit(ScalarValue::Binary(None)),
    }
}

fn output(images: &Images<'_>, mask: Expr, own: &Schema) -> Result<Vec<Expr>> {
    let operation = when(exists().and(existed().is_not_true()), lit("I"))
        .when(exists(), lit("U"))
        .otherwise(lit("D"))?;
    let names = FieldMetadata::from(column_names(own)?);
    let mut columns = vec![
        last_version().alias(SYS_CHANGE_VERSION),
        created_version().alias("sys_change_creation_version"),
        operation.alias("sys_change_operation"),
        mask.alias_with_metadata(SYS_CHANGE_COLUMNS, Some(names)),
        context(images).alias("sys_change_context"),
    ];
    columns.extend(images.keys.iter().map(ident));
    Ok(columns)
}

/// One row for each key that has changed.
pub(super) fn changes_of_keys(
    changes: LogicalPlan,
    images: Images<'_>,
    own: &Schema,
) -> Result<LogicalPlan> {
    let by_version = Images {
        by_version: true,
        ..images
    };
    let builder = by_version.plan(changes)?.project(steps(&by_version)?)?;
    let net = over_versions(builder, &by_version, &[])?;
    let no_mask = lit(ScalarValue::Binary(None));
    Ok(net.project(output(&by_version, no_mask, own)?)?.build()?)
}

/// The same with the columns that any of the updates has changed.
pub(super) fn changes_with_columns(
    changes: LogicalPlan,
    images: Images<'_>,
    own: &Schema,
) -> Result<LogicalPlan> {
    let fields = own.fields().iter().enumerate();
    let others = fields.filter(|(_, field)| !images.keys.contains(field.name()));
    let (ids, values): (Vec<u32>, Vec<FieldRef>) = others
        .map(|(index, field)| (index as u32 + 1, Arc::clone(field)))
        .unzip();
    let by_version = Images {
        by_version: true,
        values,
        ..images
    };
    let names: Vec<String> = ids.iter().map(|id| format!("__changed_{id}")).collect();
    let is_update = || existed().and(exists());
    let changed = names.iter().enumerate().map(|(index, name)| {
        let differs = by_version.differs(index);
        is_update().and(differs).alias(name)
    });
    let columns: Vec<Expr> = steps(&by_version)?.into_iter().chain(changed).collect();
    let builder = by_version.plan(changes)?.project(columns)?;
    let net = over_versions(builder, &by_version, &names)?;
    let mask = Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(change_columns_mask(ids)),
        names.iter().map(ident).collect(),
    ));
    // a row that has left and come back is another one in all columns
    let is_updated = is_update().and(created_version().is_null());
    let mask = when(is_updated, mask).otherwise(lit(ScalarValue::Binary(None)))?;
    Ok(net.project(output(&by_version, mask, own)?)?.build()?)
}

/// One row: when the row of a key has changed last.
pub(super) fn version_of(
    changes: LogicalPlan,
    images: &Images<'_>,
    values: &[(String, ScalarValue)],
) -> Result<LogicalPlan> {
    let same = values
        .iter()
        .map(|(name, value)| ident(name).eq(lit(value.clone())));
    let mut builder = LogicalPlanBuilder::from(changes);
    for condition in same {
        builder = builder.filter(condition)?;
    }
    let of_keys = images.plan(builder.build()?)?;
    let version = last_version().alias(SYS_CHANGE_VERSION);
    let steps = vec![version, context(images).alias(CONTEXT)];
    let by_version = vec![ident(SYS_CHANGE_VERSION).sort(true, true)];
    let last = vec![
        max(ident(SYS_CHANGE_VERSION)).alias(SYS_CHANGE_VERSION),
        last_value(ident(CONTEXT), by_version).alias("sys_change_context"),
    ];
    let keys = values
        .iter()
        .map(|(name, value)| cast(lit(value.clone()), value.data_type()).alias(name));
    let columns = [SYS_CHANGE_VERSION, "sys_change_context"].map(ident);
    Ok(of_keys
        .project(steps)?
        .aggregate(Vec::<Expr>::new(), last)?
        .project(columns.into_iter().chain(keys).collect::<Vec<_>>())?
        .build()?)
}
