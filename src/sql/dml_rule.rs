//! Takes statements that write Delta tables up before they are optimized: UPDATE and DELETE before DataFusion's optimizer can lose
//! their filters, the sub-queries of MERGE before it refuses them, and all of them while it can be seen what they read of their own
//! target.

use std::sync::Arc;

use datafusion::catalog::default_table_source::{provider_as_source, source_as_provider};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{
    DmlStatement, LogicalPlan, MergeIntoOp, TableSource, Values, WriteOp, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::delta_table::DeltaTableProvider;
use crate::delta::own_reads::OwnReads;
use crate::merge::{DmlKind, has_subquery, rewrite_dml};

/// Rewrites UPDATE and DELETE of Delta tables, see [`rewrite_dml`], has the table keep the sub-queries of a MERGE, and has all reads that
/// a statement has of its own target be of one version, see [`OwnReads`].
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

/// Takes a statement up that writes a Delta table.
fn rewrite(statement: &DmlStatement) -> Result<Option<LogicalPlan>> {
    let Ok(provider) = source_as_provider(&statement.target) else {
        return Ok(None);
    };
    let Some(provider) = provider.downcast_ref::<DeltaTableProvider>() else {
        return Ok(None);
    };
    let own = Arc::new(OwnReads::new(provider.table().clone()));
    let input = with_reads(statement.input.as_ref().clone(), &own)?;
    let rewritten = match &statement.op {
        WriteOp::Insert(_) => {
            let target = provider.clone().reading(own);
            retargeted(statement, target, statement.op.clone(), with_nulls(input)?)
        }
        WriteOp::MergeInto(merge) => {
            let merge = provider.merge().unwrap_or(merge);
            let (target, merge) = set_aside(provider.clone().reading(own), merge);
            retargeted(
                statement,
                target,
                WriteOp::MergeInto(Box::new(merge)),
                input,
            )
        }
        WriteOp::Update => changed_rows(provider, own, DmlKind::Update, statement, input)?,
        WriteOp::Delete => {
            let kind = DmlKind::delete(provider.properties());
            changed_rows(provider, own, kind, statement, input)?
        }
        _ => return Ok(None),
    };
    Ok(Some(rewritten))
}

/// An UPDATE or DELETE as an insertion of row changes, see [`rewrite_dml`].
fn changed_rows(
    provider: &DeltaTableProvider,
    own: Arc<OwnReads>,
    kind: DmlKind,
    statement: &DmlStatement,
    input: LogicalPlan,
) -> Result<LogicalPlan> {
    provider.check_writable()?;
    let mut statement = statement.clone();
    statement.input = Arc::new(input);
    let planned_with = (provider.layout(), provider.properties());
    Ok(rewrite_dml(own, planned_with, kind, &statement)?)
}

/// The statement with another target, and what comes with it.
fn retargeted(
    statement: &DmlStatement,
    target: DeltaTableProvider,
    op: WriteOp,
    input: LogicalPlan,
) -> LogicalPlan {
    LogicalPlan::Dml(DmlStatement::new(
        statement.table_name.clone(),
        provider_as_source(Arc::new(target)),
        op,
        Arc::new(input),
    ))
}

/// Makes every scan that a plan has of the statement's target one of `own`, in sub-queries too.
fn with_reads(plan: LogicalPlan, own: &Arc<OwnReads>) -> Result<LogicalPlan> {
    let rewritten = plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::TableScan(mut scan) => {
            let Some(source) = reading(&scan.source, own) else {
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            scan.source = source;
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// The relation as one of the reads of `own`, if it is the newest version of the same table.
fn reading(source: &Arc<dyn TableSource>, own: &Arc<OwnReads>) -> Option<Arc<dyn TableSource>> {
    let provider = source_as_provider(source).ok()?;
    let provider = provider.downcast_ref::<DeltaTableProvider>()?;
    if !provider.is_now(own.table()) {
        return None;
    }
    let provider = provider.clone().reading(Arc::clone(own));
    Some(provider_as_source(Arc::new(provider)))
}

/// Gives the conditions and values of a MERGE to its table where they have sub-queries: DataFusion would have each of them in a
/// projection or a filter, and a MERGE is neither. The table plans them, see [`has_subquery`].
fn set_aside(target: DeltaTableProvider, merge: &MergeIntoOp) -> (DeltaTableProvider, MergeIntoOp) {
    if !merge.exprs().into_iter().any(has_subquery) {
        return (target, merge.clone());
    }
    let nothing = MergeIntoOp {
        on: lit(true),
        clauses: vec![],
    };
    (target.with_merge(merge.clone()), nothing)
}

/// Lets VALUES hold the NULLs that the table does not allow: its writer refuses them by the column's name, VALUES itself by a number.
fn with_nulls(input: LogicalPlan) -> Result<LogicalPlan> {
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
    Ok(input.data)
}
