//! Versions of tables: `t VERSION AS OF n`, `t TIMESTAMP AS OF '…'`, `change_versions('t')`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, TableVersion};

use super::tables::{delta_table, table_name};
use super::{CHANGE_VERSIONS, ChangesRelationPlanner};
use crate::change::Bound;
use crate::delta::DeltaTable;
use crate::delta::log::{list_commits, version_at};
use crate::error::{Error, Result};
use crate::sql::arguments::{BoundUnit, bound_of, constant, micros};
use crate::sql::blocking::block_on;
use crate::sql::delta_table::DeltaTableProvider;
use crate::sql::delta_versions::DeltaVersionsTable;
use crate::sql::source_table::SourceTable;

impl ChangesRelationPlanner {
    /// `change_versions(t)`.
    pub(super) fn change_versions(
        &self,
        arguments: &[FunctionArg],
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(table))] = arguments else {
            return Err(Error::invalid(
                "change_versions takes a table: change_versions('name')",
            ));
        };
        let name = table_name(table, context)?;
        let provider = self.provider(&name, context)?;
        let versions: Arc<dyn TableProvider> = match SourceTable::of(provider.as_ref()) {
            Some(table) => table.versions(),
            None => Arc::new(DeltaVersionsTable::new(delta_table(&name, &provider)?)),
        };
        let versions = provider_as_source(versions);
        let plan = LogicalPlanBuilder::scan(TableReference::bare(CHANGE_VERSIONS), versions, None);
        Ok(plan?.build()?)
    }

    /// `table_version(t, version => n)` or `(t, timestamp => …)`.
    pub(super) fn table_version(
        &self,
        arguments: &[FunctionArg],
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let [
            FunctionArg::Unnamed(FunctionArgExpr::Expr(table)),
            FunctionArg::Named {
                name: unit,
                arg: FunctionArgExpr::Expr(value),
                ..
            },
        ] = arguments
        else {
            return Err(Error::invalid(
                "table_version takes a table and version => n or timestamp => '…'",
            ));
        };
        let name = table_name(table, context)?;
        let version = if unit.value.eq_ignore_ascii_case("timestamp") {
            TableVersion::TimestampAsOf(value.clone())
        } else {
            TableVersion::VersionAsOf(value.clone())
        };
        self.at_version(&name, &version, context)
    }

    /// The table as it was at a version.
    pub(super) fn at_version(
        &self,
        name: &TableReference,
        version: &TableVersion,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let table = delta_table(name, &self.provider(name, context)?)?;
        let provider = match version {
            TableVersion::VersionAsOf(value) => {
                let version = version_number(value, context)?;
                block_on(move || DeltaTableProvider::try_new_at(table.clone(), version))?
            }
            TableVersion::TimestampAsOf(value) | TableVersion::ForSystemTimeAsOf(value) => {
                let micros = instant(value, context)?;
                block_on(move || at_time(table.clone(), micros))?
            }
            TableVersion::Function(_) | TableVersion::Changes { .. } => {
                return Err(Error::invalid(format!(
                    "{name} {version} is not a version that is understood here; use {name} VERSION AS OF n, or table_changes('{name}', since_version)"
                )));
            }
        };
        let provider = provider_as_source(Arc::new(provider));
        Ok(LogicalPlanBuilder::scan(name.clone(), provider, None)?.build()?)
    }
}

fn evaluate(value: &ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<ScalarValue> {
    let expression = context.sql_to_expr(value.clone(), &DFSchema::empty())?;
    constant(expression, context.context_provider().options())?.ok_or_else(|| {
        Error::invalid(format!(
            "{value}: a version cannot be a parameter; write it into the statement"
        ))
    })
}

fn version_number(value: &ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    match bound_of(&evaluate(value, context)?, BoundUnit::Either)? {
        Bound::Version(version) => Ok(version),
        Bound::Timestamp(_) => Err(Error::invalid(format!(
            "VERSION AS OF {value}: that is a time; use TIMESTAMP AS OF {value}"
        ))),
        _ => Err(Error::invalid(format!(
            "VERSION AS OF {value}: give a version number"
        ))),
    }
}

fn instant(value: &ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let evaluated = evaluate(value, context)?;
    micros(&evaluated).ok_or_else(|| {
        Error::invalid(format!(
            "TIMESTAMP AS OF {value}: write the time as '2026-01-31 12:00:00'"
        ))
    })
}

/// The newest version committed at or before a time.
async fn at_time(table: DeltaTable, micros: i64) -> Result<DeltaTableProvider> {
    let snapshot = table.snapshot().await?;
    let files = list_commits(&table, 0).await?;
    let version = version_at(&snapshot, &files, micros).await?;
    if version < 0 {
        let given =
            ScalarValue::TimestampMicrosecond(Some(micros), None).cast_to(&DataType::Utf8)?;
        return Err(Error::invalid(format!(
            "{} has no version as old as {given}; DESCRIBE HISTORY shows when its versions were committed",
            table.name()
        )));
    }
    DeltaTableProvider::try_new_at(table, version).await
}
