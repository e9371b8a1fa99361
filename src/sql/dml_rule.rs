//! Takes UPDATE and DELETE of Delta tables up before DataFusion's optimizer can lose their filters.

use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, WriteOp};
use datafusion::optimizer::AnalyzerRule;

use super::delta_table::DeltaTableProvider;
use crate::error::Error;
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
    let kind = match statement.op {
        WriteOp::Update => DmlKind::Update,
        WriteOp::Delete => DmlKind::Delete,
        _ => return Ok(None),
    };
    let provider = source_as_provider(&statement.target)?;
    let Some(provider) = provider.downcast_ref::<DeltaTableProvider>() else {
        return Ok(None);
    };
    if let Some(version) = provider.version() {
        return Err(Error::invalid(format!(
            "version {version} of {} is history and cannot be written",
            provider.table().name()
        ))
        .into());
    }
    let schema = datafusion::catalog::TableProvider::schema(provider);
    Ok(Some(rewrite_dml(
        provider.table(),
        &schema,
        kind,
        statement,
    )?))
}
