//! MERGE into a table that has an alias, with sub-queries on its columns, and into one that gets columns; DELETE from a table that
//! has an alias, which DataFusion forgets.
//!
//! DataFusion's planner gives the target's columns the table's own name in place of the alias, cannot do so inside of a sub-query, and
//! refuses the statement. So the target is planned without an alias, as a table whose name the alias is, in a catalog that only this
//! statement sees; a relation of the same name in a sub-query is another one. In the finished plan the target goes by its alias.
//! A target that gets columns is planned so, too, since the source may be the table as it is.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, Expr, LogicalPlan, Subquery};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{self, Ident, ObjectName, TableFactor, visit_expressions};

/// The catalog of the statement's target.
const CATALOG: &str = "__alluvial_merge";
/// The schema of the statement's target where its name has none.
const SCHEMA: &str = "target";

/// The plan of a statement as DataFusion's planner makes it, and of a MERGE that it would refuse for its target's alias, or whose
/// target gets columns: then `evolving` is the table with these.
pub(crate) async fn statement_plan(
    ctx: &SessionContext,
    mut statement: Statement,
    evolving: Option<Arc<dyn TableProvider>>,
) -> Result<LogicalPlan> {
    let mut state = ctx.state();
    let normalizes = state.config_options().sql_parser.enable_ident_normalization;
    if let Some((name, alias)) = deleted_from(&mut statement)
        && let Some(alias) = alias.take()
    {
        let provider = ctx
            .table_provider(object_name_to_table_reference(name.clone(), normalizes)?)
            .await?;
        let called = ObjectName::from(vec![alias.name]);
        let called = object_name_to_table_reference(called, normalizes)?;
        state.register_catalog_list(Arc::new(WithTarget::try_new(
            Arc::clone(state.catalog_list()),
            SCHEMA,
            called.table(),
            provider,
        )?));
        let parts = [CATALOG, SCHEMA, called.table()].map(|part| Ident::with_quote('"', part));
        if let Some((name, _)) = deleted_from(&mut statement) {
            *name = ObjectName::from(parts.to_vec());
        }
        return state.statement_to_plan(statement).await;
    }
    let Some((name, alias)) = target_to_rename(&mut statement, evolving.is_some()) else {
        return state.statement_to_plan(statement).await;
    };
    let table = object_name_to_table_reference(name, normalizes)?;
    let called = match alias {
        Some(alias) => object_name_to_table_reference(ObjectName::from(vec![alias]), normalizes)?,
        None => table.clone(),
    };
    let provider = match evolving {
        Some(provider) => provider,
        None => ctx.table_provider(table).await?,
    };
    // columns may have the schema of their table before them
    let schema = called.schema().unwrap_or(SCHEMA);
    state.register_catalog_list(Arc::new(WithTarget::try_new(
        Arc::clone(state.catalog_list()),
        schema,
        called.table(),
        provider,
    )?));
    let parts = [CATALOG, schema, called.table()].map(|part| Ident::with_quote('"', part));
    rename_target(&mut statement, ObjectName::from(parts.to_vec()));
    let planned = TableReference::full(CATALOG, schema, called.table());
    let plan = state.statement_to_plan(statement).await?;
    renamed(plan, &planned, &called)
}

/// The table that a DELETE names, and its alias.
fn deleted_from(
    statement: &mut Statement,
) -> Option<(&mut ObjectName, &mut Option<ast::TableAlias>)> {
    match statement {
        Statement::Statement(statement) => {
            let ast::Statement::Delete(delete) = statement.as_mut() else {
                return None;
            };
            let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) =
                &mut delete.from;
            match from.as_mut_slice() {
                [
                    ast::TableWithJoins {
                        relation: TableFactor::Table { name, alias, .. },
                        joins,
                    },
                ] if joins.is_empty() => Some((name, alias)),
                _ => None,
            }
        }
        Statement::Explain(explain) => deleted_from(&mut explain.statement),
        _ => None,
    }
}

/// Name and alias of the target of a MERGE that has to be renamed: `evolving`, or one with an alias whose conditions or values have
/// sub-queries.
fn target_to_rename(
    statement: &mut Statement,
    evolving: bool,
) -> Option<(ObjectName, Option<Ident>)> {
    let merge = merge_of(statement)?;
    let TableFactor::Table {
        name,
        alias,
        args: None,
        ..
    } = &merge.table
    else {
        return None;
    };
    if alias
        .as_ref()
        .is_some_and(|alias| !alias.columns.is_empty())
    {
        return None;
    }
    let is_query = |expression: &ast::Expr| match expression {
        ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    };
    let has_query = || {
        visit_expressions(&merge.on, is_query).is_break()
            || visit_expressions(&merge.clauses, is_query).is_break()
    };
    let is_wanted = evolving || (alias.is_some() && has_query());
    is_wanted.then(|| {
        let alias = alias.as_ref().map(|alias| alias.name.clone());
        (name.clone(), alias)
    })
}

/// Has a MERGE write to `target`, without an alias.
fn rename_target(statement: &mut Statement, target: ObjectName) {
    if let Some(merge) = merge_of(statement)
        && let TableFactor::Table { name, alias, .. } = &mut merge.table
    {
        *name = target;
        *alias = None;
    }
}

fn merge_of(statement: &mut Statement) -> Option<&mut ast::Merge> {
    match statement {
        Statement::Statement(statement) => match statement.as_mut() {
            ast::Statement::Merge(merge) => Some(merge),
            _ => None,
        },
        Statement::Explain(explain) => merge_of(&mut explain.statement),
        _ => None,
    }
}

/// The plan with another name for the target; no other relation is in its catalog.
fn renamed(plan: LogicalPlan, from: &TableReference, to: &TableReference) -> Result<LogicalPlan> {
    let rename = |expression: Expr| {
        expression.transform_up(|part| {
            Ok(match part {
                Expr::Column(column) if column.relation.as_ref() == Some(from) => {
                    let column = Column::new(Some(to.clone()), column.name);
                    Transformed::yes(Expr::Column(column))
                }
                Expr::OuterReferenceColumn(field, column)
                    if column.relation.as_ref() == Some(from) =>
                {
                    let column = Column::new(Some(to.clone()), column.name);
                    Transformed::yes(Expr::OuterReferenceColumn(field, column))
                }
                other => Transformed::no(other),
            })
        })
    };
    let plan = plan.transform_down_with_subqueries(|node| {
        let node = node.map_expressions(rename)?.data;
        Ok(Transformed::yes(match node {
            LogicalPlan::Dml(merge) if merge.table_name == *from => {
                LogicalPlan::Dml(DmlStatement {
                    table_name: to.clone(),
                    ..merge
                })
            }
            LogicalPlan::Subquery(subquery) => {
                let outer = subquery.outer_ref_columns.into_iter();
                let outer = outer.map(|column| rename(column).map(|renamed| renamed.data));
                LogicalPlan::Subquery(Subquery {
                    outer_ref_columns: outer.collect::<Result<_>>()?,
                    ..subquery
                })
            }
            other => other,
        }))
    })?;
    Ok(plan.data)
}

/// The catalogs of a session and the one with the target.
#[derive(Debug)]
struct WithTarget {
    catalogs: Arc<dyn CatalogProviderList>,
    target: Arc<dyn CatalogProvider>,
}

impl WithTarget {
    fn try_new(
        catalogs: Arc<dyn CatalogProviderList>,
        schema: &str,
        name: &str,
        table: Arc<dyn TableProvider>,
    ) -> Result<Self> {
        let tables = MemorySchemaProvider::new();
        tables.register_table(name.into(), table)?;
        let target = MemoryCatalogProvider::new();
        target.register_schema(schema, Arc::new(tables))?;
        Ok(Self {
            catalogs,
            target: Arc::new(target),
        })
    }
}

impl CatalogProviderList for WithTarget {
    fn register_catalog(
        &self,
        name: String,
        catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        self.catalogs.register_catalog(name, catalog)
    }

    fn catalog_names(&self) -> Vec<String> {
        self.catalogs.catalog_names()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        if name == CATALOG {
            return Some(Arc::clone(&self.target));
        }
        self.catalogs.catalog(name)
    }
}
