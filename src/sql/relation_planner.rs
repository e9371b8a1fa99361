//! Plans the relations that SQL's grammar has room for and DataFusion no meaning: `table_changes(…)`, `VERSION AS OF`.
//!
//! DataFusion itself ignores a table's version and returns the current rows, so every version is planned or refused here.

use std::any::Any;
use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, TableFactor, TableVersion,
};

use super::arguments::{Arguments, BoundUnit, bound_of, constant, merge_bounds, micros};
use super::blocking::block_on;
use super::catalog::WarehouseSchema;
use super::change_files_table::{ChangeFilesTable, RejectedTable};
use super::changes_table::{ChangesTable, open_bounds};
use super::delta_table::DeltaTableProvider;
use super::functions::bound;
use super::source_table::SourceTable;
use super::tracking;
use crate::change::{
    Bound, COMMIT_VERSION, NetNature, net_changes, with_metadata, without_metadata,
};
use crate::delta::DeltaTable;
use crate::delta::log::{list_commits, version_at};
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaFeed};

/// The table function that `t VERSION AS OF n` is rewritten to where the grammar has no room for it.
pub(crate) const TABLE_VERSION: &str = "table_version";
const TABLE_CHANGES: &str = "table_changes";
const CHANGE_VERSIONS: &str = "change_versions";
/// What follows a table's name in that of the table of its rows that were set aside.
const REJECTED: &str = "$rejected";

/// Plans `table_changes(…)` and versions of Delta tables.
pub(crate) struct ChangesRelationPlanner {
    catalogs: Arc<dyn CatalogProviderList>,
}

impl std::fmt::Debug for ChangesRelationPlanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChangesRelationPlanner")
    }
}

impl ChangesRelationPlanner {
    /// Looks tables up in these catalogs.
    pub(crate) fn new(catalogs: Arc<dyn CatalogProviderList>) -> Self {
        Self { catalogs }
    }
}

impl RelationPlanner for ChangesRelationPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DataFusionResult<RelationPlanning> {
        if let TableFactor::Table {
            name,
            args,
            alias,
            version: None,
            ..
        } = &relation
        {
            let arguments = args.as_ref().map(|arguments| arguments.args.as_slice());
            if let Some(plan) = tracking::plan_relation(name, arguments, &self.catalogs, context)? {
                let planned = PlannedRelation::new(plan, alias.clone());
                return Ok(RelationPlanning::Planned(Box::new(planned)));
            }
        }
        let (plan, alias) = match &relation {
            TableFactor::Table {
                name,
                args: Some(arguments),
                alias,
                ..
            } if is_named(name, TABLE_CHANGES) => {
                (self.table_changes(&arguments.args, context)?, alias)
            }
            TableFactor::Table {
                name,
                args: Some(arguments),
                alias,
                ..
            } if is_named(name, TABLE_VERSION) => {
                (self.table_version(&arguments.args, context)?, alias)
            }
            TableFactor::Table {
                name,
                args: Some(arguments),
                alias,
                ..
            } if is_named(name, CHANGE_VERSIONS) => {
                (self.change_versions(&arguments.args, context)?, alias)
            }
            TableFactor::Table {
                name,
                args: None,
                version: Some(version),
                alias,
                ..
            } => (self.versioned(name, version, context)?, alias),
            TableFactor::Table {
                name,
                args: None,
                version: None,
                alias,
                ..
            } => match self.rejected(name, context)? {
                Some(plan) => (plan, alias),
                None => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(
            plan,
            alias.clone(),
        ))))
    }
}

impl ChangesRelationPlanner {
    fn table_changes(
        &self,
        arguments: &[FunctionArg],
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let arguments = Arguments::try_new(arguments)?;
        let name = table_name(&arguments.table, context)?;
        let mut bounds = open_bounds();
        let mut filters = Vec::new();
        for (kind, unit, value) in arguments.bounds {
            let value = context.sql_to_expr(value, &DFSchema::empty())?;
            match constant(value.clone(), context.context_provider().options())? {
                Some(value) => merge_bounds(&mut bounds, kind, bound_of(&value, unit)?)?,
                None => filters.push(bound(COMMIT_VERSION, kind, unit, value)),
            }
        }
        let option = |name: &str, context: &mut dyn RelationPlannerContext| match arguments
            .options
            .get(name)
        {
            Some(value) => context
                .sql_to_expr(value.clone(), &DFSchema::empty())
                .map_err(Error::from)
                .and_then(|value| constant(value, context.context_provider().options()))
                .and_then(|value| {
                    value.ok_or_else(|| {
                        Error::invalid(format!("{name} must be a constant, not a parameter"))
                    })
                })
                .map(Some),
            None => Ok(None),
        };
        let net = is_net(option("net", context)?)?;
        let full = is_full(option("metadata", context)?)?;
        let key = option("key", context)?.map(key_columns).transpose()?;
        let source = self.change_source(&name, full, context)?;
        // the bounds are checked now even if nothing should be read later
        let check = (filters.is_empty()).then(|| bounds.clone());
        let asked = Arc::clone(&source);
        let (schema, keys, nature) = block_on(move || {
            let (source, check) = (Arc::clone(&asked), check.clone());
            async move {
                let range = match &check {
                    Some(bounds) => Some(source.resolve(bounds).await?),
                    None => None,
                };
                let nature = NetNature {
                    sequence: source.sequence().map(str::to_owned),
                    absent: match range {
                        _ if !net => vec![],
                        Some(range) => source.absent_columns(range).await?,
                        // bounds that are parameters may take in everything
                        None => {
                            let all = source.resolve(&open_bounds()).await?;
                            source.absent_columns(all).await?
                        }
                    },
                };
                Ok((
                    source.schema(range.map(|range| range.until())).await?,
                    source.primary_key().await?,
                    nature,
                ))
            }
        })?;
        let provider = provider_as_source(Arc::new(ChangesTable::new(
            source,
            Arc::clone(&schema),
            bounds,
        )));
        let mut plan =
            LogicalPlanBuilder::scan(TableReference::bare(TABLE_CHANGES), provider, None)?;
        if let Some(filter) = filters.into_iter().reduce(Expr::and) {
            plan = plan.filter(filter)?;
        }
        let keys = key.unwrap_or(keys);
        let mut plan = plan.build()?;
        if net {
            plan = net_changes(plan, &name.to_string(), &schema, &keys, &nature)?;
        }
        if full {
            with_metadata(plan)
        } else {
            without_metadata(plan)
        }
    }

    /// `change_versions(t)`.
    fn change_versions(
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
        let Some(table) = SourceTable::of(provider.as_ref()) else {
            return Err(Error::invalid(format!(
                "change_versions lists the versions of tables STORED AS CHANGE_FILES, VERSIONED or SNAPSHOTS, which {name} is not; DESCRIBE HISTORY \
                 lists those of a Delta table"
            )));
        };
        let versions = provider_as_source(table.versions());
        let plan = LogicalPlanBuilder::scan(TableReference::bare(CHANGE_VERSIONS), versions, None);
        Ok(plan?.build()?)
    }

    /// `"t$rejected"`; `None` for any other name, and for a table that is called so.
    fn rejected(
        &self,
        name: &ast::ObjectName,
        context: &dyn RelationPlannerContext,
    ) -> Result<Option<LogicalPlan>> {
        let name = context.object_name_to_table_reference(name.clone())?;
        let Some(base) = name.table().strip_suffix(REJECTED) else {
            return Ok(None);
        };
        if self.provider(&name, context).is_ok() {
            return Ok(None);
        }
        let base = match &name {
            TableReference::Bare { .. } => TableReference::bare(base),
            TableReference::Partial { schema, .. } => {
                TableReference::partial(schema.as_ref(), base)
            }
            TableReference::Full {
                catalog, schema, ..
            } => TableReference::full(catalog.as_ref(), schema.as_ref(), base),
        };
        let provider = self.provider(&base, context)?;
        let Some(table) = provider.downcast_ref::<ChangeFilesTable>() else {
            return Err(Error::invalid(format!(
                "{name}: rows are set aside by tables STORED AS CHANGE_FILES, which {base} is not"
            )));
        };
        let rejected = provider_as_source(Arc::new(RejectedTable::new(table.files().clone())));
        Ok(Some(
            LogicalPlanBuilder::scan(name, rejected, None)?.build()?,
        ))
    }

    /// `table_version(t, version => n)` or `(t, timestamp => …)`.
    fn table_version(
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

    fn versioned(
        &self,
        name: &ast::ObjectName,
        version: &TableVersion,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let name = context.object_name_to_table_reference(name.clone())?;
        self.at_version(&name, version, context)
    }

    fn at_version(
        &self,
        name: &TableReference,
        version: &TableVersion,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let table = self.delta_table(name, context)?;
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
        Ok(
            LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(provider)), None)?
                .build()?,
        )
    }

    /// The source of that name; `full`, if all that is known of its changes is wanted.
    fn change_source(
        &self,
        name: &TableReference,
        full: bool,
        context: &dyn RelationPlannerContext,
    ) -> Result<Arc<dyn ChangeSource>> {
        let provider = self.provider(name, context)?;
        match SourceTable::of(provider.as_ref()) {
            Some(table) => Ok(table.source()),
            None => {
                let feed = DeltaFeed::new(delta_table(name, &provider)?);
                Ok(match full {
                    true => Arc::new(feed.with_contexts()),
                    false => Arc::new(feed),
                })
            }
        }
    }

    fn delta_table(
        &self,
        name: &TableReference,
        context: &dyn RelationPlannerContext,
    ) -> Result<DeltaTable> {
        delta_table(name, &self.provider(name, context)?)
    }

    fn provider(
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
            hint: format!("; SHOW TABLES lists what {} has", resolved.catalog),
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

fn delta_table(name: &TableReference, provider: &Arc<dyn TableProvider>) -> Result<DeltaTable> {
    match provider.downcast_ref::<DeltaTableProvider>() {
        Some(provider) => Ok(provider.table().clone()),
        None => Err(Error::invalid(format!(
            "{name} is not a Delta table: it has neither versions nor changes"
        ))),
    }
}

fn is_named(name: &ast::ObjectName, wanted: &str) -> bool {
    name.to_string().eq_ignore_ascii_case(wanted)
}

/// A table given as a string or as an identifier.
pub(super) fn table_name(
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
        let given = ScalarValue::TimestampMicrosecond(Some(micros), None)
            .cast_to(&arrow::datatypes::DataType::Utf8)?;
        return Err(Error::invalid(format!(
            "{} has no version as old as {given}; DESCRIBE HISTORY shows when its versions were committed",
            table.name()
        )));
    }
    DeltaTableProvider::try_new_at(table, version).await
}

/// The columns in `key => 'a, b'`.
fn key_columns(value: ScalarValue) -> Result<Vec<String>> {
    match value.try_as_str().flatten() {
        Some(names) => Ok(names
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect()),
        None => Err(Error::invalid(format!(
            "key => {value}: expected the names of the key's columns, as in key => 'a, b'"
        ))),
    }
}

fn is_net(value: Option<ScalarValue>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(ScalarValue::Boolean(Some(net))) => Ok(net),
        Some(other) => Err(Error::invalid(format!(
            "net => {other}: expected true or false"
        ))),
    }
}

fn is_full(value: Option<ScalarValue>) -> Result<bool> {
    match value.as_ref().map(|value| value.try_as_str().flatten()) {
        None => Ok(false),
        Some(Some(text)) if text.eq_ignore_ascii_case("full") => Ok(true),
        Some(_) => Err(Error::invalid(
            "metadata takes 'full', which adds the columns that not every source has; leave it out otherwise",
        )),
    }
}
