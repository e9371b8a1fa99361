//! The tables that relations name.

use std::any::Any;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::sql::sqlparser::ast;

use super::ChangesRelationPlanner;
use super::suffixed::base_of;
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::sql::blocking::block_on;
use crate::sql::catalog::WarehouseSchema;
use crate::sql::delta_table::DeltaTableProvider;
use crate::sql::source_table::SourceTable;

impl ChangesRelationPlanner {
    /// The table of that name.
    pub(super) fn provider(
        &self,
        name: &TableReference,
        context: &dyn RelationPlannerContext,
    ) -> Result<Arc<dyn TableProvider>> {
        let defaults = &context.context_provider().options().catalog;
        let resolved = name
            .clone()
            .resolve(&defaults.default_catalog, &defaults.default_schema);
        let not_found = || Error::TableNotFound {
            table: name.to_string(),
            hint: match base_of(&resolved.table) {
                Some(base) => format!(
                    "; it stands for what was recorded of {base} and has no versions or changes of its own: name {base}"
                ),
                None => format!("; SHOW TABLES lists what {} has", resolved.catalog),
            },
        };
        let schema = self
            .catalogs
            .catalog(&resolved.catalog)
            .and_then(|catalog| catalog.schema(&resolved.schema))
            .ok_or_else(not_found)?;
        let table = resolved.table.to_string();
        let any: &dyn Any = schema.as_ref();
        let registered = any
            .downcast_ref::<WarehouseSchema>()
            .and_then(|warehouse| warehouse.registered(&table));
        let registered = registered.filter(|table| SourceTable::of(table.as_ref()).is_some());
        if let Some(table) = registered {
            // whoever asks here looks at the source itself
            return Ok(table);
        }
        let found = block_on(move || {
            let (schema, table) = (Arc::clone(&schema), table.clone());
            async move { Ok(schema.table(&table).await?) }
        })?;
        found.ok_or_else(not_found)
    }
}

/// The Delta table behind a provider.
pub(super) fn delta_table(
    name: &TableReference,
    provider: &Arc<dyn TableProvider>,
) -> Result<DeltaTable> {
    match provider.downcast_ref::<DeltaTableProvider>() {
        Some(provider) => Ok(provider.table().clone()),
        None => Err(Error::invalid(format!(
            "{name} is not a Delta table: it has neither versions nor changes"
        ))),
    }
}

/// A table given as a string or as an identifier.
pub(in crate::sql) fn table_name(
    argument: &ast::Expr,
    context: &dyn RelationPlannerContext,
) -> Result<TableReference> {
    match argument {
        ast::Expr::Value(value) => match value.clone().value.into_string() {
            Some(text) => Ok(TableReference::parse_str(&text)),
            None => Err(Error::invalid(format!(
                "{argument} is no table; give its name as 'name' or \"name\""
            ))),
        },
        ast::Expr::Identifier(identifier) => Ok(TableReference::bare(
            context.normalize_ident(identifier.clone()),
        )),
        ast::Expr::CompoundIdentifier(parts) => {
            Ok(context.object_name_to_table_reference(ast::ObjectName::from(parts.clone()))?)
        }
        other => Err(Error::invalid(format!(
            "{other} is no table; give its name as 'name' or \"name\""
        ))),
    }
}
