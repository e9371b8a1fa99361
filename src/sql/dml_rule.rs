//! Takes UPDATE and DELETE of Delta tables up before DataFusion's optimizer can lose their filters, and the sub-queries of MERGE
//! before it refuses them.

use std::sync::Arc;

use datafusion::catalog::default_table_source::{provider_as_source, source_as_provider};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{DmlStatement, LogicalPlan, MergeIntoOp, Values, WriteOp, lit};
use datafusion::optimizer::AnalyzerRule;

use super::delta_table::DeltaTableProvider;
use crate::merge::{DmlKind, has_subquery, rewrite_dml};

/// Rewrites UPDATE and DELETE of Delta tables, see [`rewrite_dml`], and has the table keep the sub-queries of a MERGE.
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

/// Gives the conditions and values of a MERGE to its table where they have sub-queries: DataFusion would have each of them in a
/// projection or a filter, and a MERGE is neither. The table plans them, see [`has_subquery`].
fn set_aside(statement: &DmlStatement, merge: &MergeIntoOp) -> Result<Option<LogicalPlan>> {
    if !merge.exprs().into_iter().any(has_subquery) {
        return Ok(None);
    }
    let provider = source_as_provider(&statement.target)?;
    let Some(provider) = provider.downcast_ref::<DeltaTableProvider>() else {
        return Ok(None);
    };
    let target = Arc::new(provider.clone().with_merge(merge.clone()));
    let nothing = MergeIntoOp {
        on: lit(true),
        clauses: vec![],
    };
    Ok(Some(LogicalPlan::Dml(DmlStatement::new(
        statement.table_name.clone(),
        provider_as_source(target),
        WriteOp::MergeInto(Box::new(nothing)),
        Arc::clone(&statement.input),
    ))))
}

/// Lets VALUES hold the NULLs that the table does not allow: its writer refuses them by the column's name, VALUES itself by a number.
fn with_nulls(statement: &DmlStatement) -> Result<Option<LogicalPlan>> {
    let target = source_as_provider(&statement.target)?;
    if target.downcast_ref::<DeltaTableProvider>().is_none() {
        return Ok(None);
    }
    let input = statement.input.as_ref().clone();
    let input = input.transform_up(|node| match node {
        LogicalPlan::Values(values) => {
            let fields = values.schema.iter().map(|(qualifier, field)| {
                let field = field.as_ref().clone().with_nullable(true);
                (qualifier.cloned(), Arc::new(field))
            });
            let metadata = values.schema.metadata().clone();
            let schema = DFSchema::new_with_metadata(fields.collect(), metadata)?;
            Ok(Transformed::yes(LogicalPlan::Values(Values {
                schema: Arc::new(schema),
                ..values
            })))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    let mut statement = statement.clone();
    statement.input = Arc::new(input.data);
    Ok(Some(LogicalPlan::Dml(statement)))
}

fn rewrite(statement: &DmlStatement) -> Result<Option<LogicalPlan>> {
    if matches!(statement.op, WriteOp::Insert(_)) {
        return with_nulls(statement);
    }
    if let WriteOp::MergeInto(merge) = &statement.op {
        return set_aside(statement, merge);
    }
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
    Ok(Some(rewrite_dml(
        provider.table(),
        (provider.layout(), provider.properties()),
        kind,
        statement,
    )?))
}
