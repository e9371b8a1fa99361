//! Takes UPDATE and DELETE of Delta tables up before DataFusion's optimizer can lose their filters.

use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, WriteOp};
use datafusion::optimizer::AnalyzerRule;

use super::delta_table::DeltaTableProvider;
use crate::merge::{DmlKind, rewrite_dml};

/// Rewrites UPDATE and DELETE of Delta tables, see [`rewrite_dml`].
#[derive(Debug)]
pub(crate) struct DmlRule;

impl AnalyzerRule for DmlRule {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_down(|node| match &node {
            LogicalPlan::Dml(statement) => match rewrite(statement)? {
                Some(rewritten) => Ok(Transformed::yes(rewritten)),
                None => Ok(Transformed::no(node)),
            },
            _ => Ok(Transformed::no(node)),
        })?;
        Ok(rewritten.data)
    }

    fn name(&self) -> &'static str {
        "delta_dml"
    }
}

fn rewrite(statement: &DmlStatement) -> Result<Option<LogicalPlan>> {
    if !matches!(statement.op, WriteOp::Update | WriteOp::Delete) {
        return Ok(None);
    }
    let provider = source_as_provider(&statement.target)?;
    let Some(provider) = provider.downcast_ref::<DeltaTableProvider>() else {
        return Ok(None);
    };
    provider.check_writable()?;
    let kind = match statement.op {
        WriteOp::Update => DmlKind::Update,
        _ => DmlKind::delete(provider.properties()),
    };
    let schema = TableProvider::schema(provider);
    Ok(Some(rewrite_dml(
        provider.table(),
        &schema,
        kind,
        statement,
    )?))
}
