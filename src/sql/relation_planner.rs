//! Plans the relations that SQL's grammar has room for and DataFusion no meaning.
//!
//! ```text
//!  FROM table_changes(…), net_changes(…), …      changes    arguments ─> range ─> plan
//!  FROM t CHANGES(…) AT(…)                       clause     its arguments, where the dialect parses it
//!  FROM "t$changes", "t$rejected"                suffixed   the name of a table and what is wanted of it
//!  FROM t VERSION AS OF n, change_versions(t)    versions
//!  FROM changetable_changes(…), …                tracking
//! ```
//!
//! DataFusion itself ignores a table's version and returns the current rows, so every version is planned or refused here.

mod changes;
mod clause;
mod suffixed;
mod tables;
mod versions;

use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, TableFactor, TableVersion};

pub(super) use self::suffixed::base_of;
pub(super) use self::tables::table_name;
use super::arguments::{Arguments, Spelling};
use super::tracking;
use crate::error::{Error, Result};

/// The table function that `t VERSION AS OF n` is rewritten to where the grammar has no room for it.
pub(crate) const TABLE_VERSION: &str = "table_version";
/// The table function that lists the versions of a table.
pub(crate) const CHANGE_VERSIONS: &str = "change_versions";

/// Plans change reads and versions of tables.
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
        let (plan, alias) = match &relation {
            TableFactor::Table {
                name,
                args,
                alias,
                version,
                ..
            } => {
                let arguments = args.as_ref().map(|arguments| arguments.args.as_slice());
                let plan = match version {
                    Some(version) => Some(self.versioned(name, arguments, version, context)?),
                    None => self.named(name, arguments, context)?,
                };
                if plan.is_some() {
                    refuse_modifiers(&relation)?;
                }
                (plan, alias)
            }
            // `TABLE(table_changes(…))`
            TableFactor::TableFunction {
                expr:
                    ast::Expr::Function(ast::Function {
                        name,
                        args: ast::FunctionArguments::List(list),
                        ..
                    }),
                alias,
            } => (
                self.named(name, Some(list.args.as_slice()), context)?,
                alias,
            ),
            TableFactor::Function { name, lateral, .. } if *lateral && is_ours(name) => {
                return Err(Error::invalid(format!(
                    "{name} cannot be LATERAL: its arguments are constants; leave LATERAL out"
                ))
                .into());
            }
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        Ok(match plan {
            Some(plan) => {
                let planned = PlannedRelation::new(plan, alias.clone());
                RelationPlanning::Planned(Box::new(planned))
            }
            None => RelationPlanning::Original(Box::new(relation)),
        })
    }
}

/// Whether a function of that name is planned here.
fn is_ours(name: &ast::ObjectName) -> bool {
    let function = name.to_string();
    Spelling::of(&function).is_some()
        || [TABLE_VERSION, CHANGE_VERSIONS]
            .iter()
            .any(|ours| function.eq_ignore_ascii_case(ours))
}

/// Refuses what the grammar lets stand behind a relation and nobody would heed.
fn refuse_modifiers(relation: &TableFactor) -> Result<()> {
    let TableFactor::Table {
        args,
        with_hints,
        with_ordinality,
        partitions,
        json_path,
        sample,
        index_hints,
        ..
    } = relation
    else {
        return Ok(());
    };
    let has_settings = args.as_ref().is_some_and(|args| args.settings.is_some());
    let has_modifiers = has_settings
        || *with_ordinality
        || !(with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty())
        || json_path.is_some()
        || sample.is_some();
    match has_modifiers {
        true => Err(Error::invalid(
            "a change read takes no TABLESAMPLE, PARTITION, WITH or ORDINALITY; filter its rows with WHERE",
        )),
        false => Ok(()),
    }
}

impl ChangesRelationPlanner {
    /// A call or a name; `None` for those that are none of ours.
    fn named(
        &self,
        name: &ast::ObjectName,
        arguments: Option<&[FunctionArg]>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Option<LogicalPlan>> {
        if let Some(plan) = tracking::plan_relation(name, arguments, &self.catalogs, context)? {
            return Ok(Some(plan));
        }
        let Some(arguments) = arguments else {
            return self.suffixed(name, context);
        };
        let function = name.to_string();
        if let Some(spelling) = Spelling::of(&function) {
            let arguments = Arguments::try_new(spelling, arguments)?;
            return self.changes(&arguments, context).map(Some);
        }
        if function.eq_ignore_ascii_case(TABLE_VERSION) {
            return self.table_version(arguments, context).map(Some);
        }
        if function.eq_ignore_ascii_case(CHANGE_VERSIONS) {
            return self.change_versions(arguments, context).map(Some);
        }
        Ok(None)
    }

    /// A table with a version, or with Snowflake's clause for changes.
    fn versioned(
        &self,
        name: &ast::ObjectName,
        arguments: Option<&[FunctionArg]>,
        version: &TableVersion,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        if arguments.is_some() {
            return Err(Error::invalid(format!(
                "{name}(…) {version}: only a table has versions and changes, not a function"
            )));
        }
        let table = context.object_name_to_table_reference(name.clone())?;
        let TableVersion::Changes { changes, at, end } = version else {
            return self.at_version(&table, version, context);
        };
        let arguments = clause::arguments(name, changes, at, end.as_ref())?;
        let plan = self.changes(&arguments, context)?;
        // its columns are those of the table that the clause stands behind
        Ok(LogicalPlanBuilder::from(plan).alias(table)?.build()?)
    }
}
