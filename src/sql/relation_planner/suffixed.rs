//! What hangs on a table by its name: `"t$changes"`, its changes, and `"t$rejected"`, its rows that were set aside.
//!
//! A table that is really called so comes first. A relation that WITH calls so does not: its names are not known here, and
//! DataFusion would look at them only after this. [`crate::sql::rewrite`] refuses such names; a session's own `sql()` reads the table's
//! changes.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::TableReference;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast;

use super::ChangesRelationPlanner;
use super::tables::delta_table;
use crate::change::without_metadata;
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaFeed};
use crate::sql::blocking::block_on;
use crate::sql::change_files_table::{ChangeFilesTable, RejectedTable};
use crate::sql::changes_table::ChangesTable;
use crate::sql::source_table::SourceTable;

const CHANGES: &str = "$changes";
const REJECTED: &str = "$rejected";

impl ChangesRelationPlanner {
    /// `"t$changes"` or `"t$rejected"`; `None` for any other name, and for a table that is called so.
    pub(super) fn suffixed(
        &self,
        name: &ast::ObjectName,
        context: &dyn RelationPlannerContext,
    ) -> Result<Option<LogicalPlan>> {
        let name = context.object_name_to_table_reference(name.clone())?;
        let found = [CHANGES, REJECTED]
            .into_iter()
            .find_map(|suffix| Some((name.table().strip_suffix(suffix)?, suffix)));
        let Some((base, suffix)) = found.filter(|(base, _)| !base.is_empty()) else {
            return Ok(None);
        };
        if self.provider(&name, context).is_ok() {
            return Ok(None);
        }
        let base = beside(&name, base);
        let provider = self.provider(&base, context)?;
        let relation = match suffix {
            CHANGES => changes(&base, &provider)?,
            _ => rejected(&name, &base, &provider)?,
        };
        let relation = provider_as_source(relation);
        let plan = LogicalPlanBuilder::scan(name.clone(), relation, None)?.build()?;
        if suffix == REJECTED {
            return Ok(Some(plan));
        }
        // the columns of table_changes, under the name that was asked for
        let plan = LogicalPlanBuilder::from(without_metadata(plan)?);
        Ok(Some(plan.alias(name)?.build()?))
    }
}

/// The table whose changes or rejected rows something of that name would be.
pub(in crate::sql) fn base_of(name: &str) -> Option<&str> {
    let mut suffixes = [CHANGES, REJECTED].into_iter();
    suffixes
        .find_map(|suffix| name.strip_suffix(suffix))
        .filter(|base| !base.is_empty())
}

/// The name of a table in the same schema.
fn beside(name: &TableReference, table: &str) -> TableReference {
    match name {
        TableReference::Bare { .. } => TableReference::bare(table),
        TableReference::Partial { schema, .. } => TableReference::partial(schema.as_ref(), table),
        TableReference::Full {
            catalog, schema, ..
        } => TableReference::full(catalog.as_ref(), schema.as_ref(), table),
    }
}

fn changes(
    base: &TableReference,
    provider: &Arc<dyn TableProvider>,
) -> Result<Arc<dyn TableProvider>> {
    let source: Arc<dyn ChangeSource> = match SourceTable::of(provider.as_ref()) {
        Some(table) => table.source(),
        None => Arc::new(DeltaFeed::new(delta_table(base, provider)?)),
    };
    let asked = Arc::clone(&source);
    let schema = block_on(move || {
        let source = Arc::clone(&asked);
        async move { source.schema(None).await }
    })?;
    Ok(Arc::new(ChangesTable::by_filters(source, schema)))
}

fn rejected(
    name: &TableReference,
    base: &TableReference,
    provider: &Arc<dyn TableProvider>,
) -> Result<Arc<dyn TableProvider>> {
    match provider.downcast_ref::<ChangeFilesTable>() {
        Some(table) => Ok(Arc::new(RejectedTable::new(table.files().clone()))),
        None => Err(Error::invalid(format!(
            "{name}: rows are set aside by tables STORED AS CHANGE_FILES, which {base} is not"
        ))),
    }
}
