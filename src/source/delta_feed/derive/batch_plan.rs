//! The plan of one batch of compared commits: its rows, what has changed of them, and what is known of their commits.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::datasource::MemTable;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ident};
use datafusion::physical_plan::ExecutionPlan;

use super::compare::{CHANGE, Pairing, VERSION, column, compare};
use super::compared_files::ComparedFiles;
use super::{Batch, ComparedCommit};
use crate::change::{
    CHANGE_CONTEXT, CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION, fit, plan_inside, unqualified,
};
use crate::delta::DeltaTable;
use crate::delta::layout::TableLayout;
use crate::error::Result;
use crate::source::ChangeRead;

/// The columns of what is known of each commit.
const OF_VERSION: &str = "__of_version";
const TIMESTAMP: &str = "__timestamp";
const CONTEXT: &str = "__context";

/// What all batches of a read have in common.
pub(super) struct Comparison<'a> {
    pub table: &'a DeltaTable,
    pub layout: &'a Arc<TableLayout>,
    /// The positions of the key's columns.
    pub key: Vec<usize>,
    pub wanted: SchemaRef,
    pub read: &'a ChangeRead<'a>,
}

impl Comparison<'_> {
    /// Plans the changes of one batch.
    pub(super) async fn plan(&self, batch: Batch) -> Result<Arc<dyn ExecutionPlan>> {
        let pairing = match (&batch.row_ids, self.key.as_slice()) {
            (Some(_), _) => Pairing::RowId,
            (None, []) => Pairing::None,
            (None, key) => Pairing::Key(key.to_vec()),
        };
        let commits = commits_relation(&batch.commits)?;
        let files = ComparedFiles::new(self.table, self.layout, batch);
        let rows = files.rows(self.filters_below(&pairing)?)?;
        let mut changes = compare(rows, self.layout.schema().fields().len(), &pairing)?;
        let has = |name| self.wanted.index_of(name).is_ok();
        if has(COMMIT_TIMESTAMP) || has(CHANGE_CONTEXT) {
            let keys = (
                vec![Column::new_unqualified(OF_VERSION)],
                vec![Column::new_unqualified(VERSION)],
            );
            changes = commits.join(changes.build()?, JoinType::Inner, keys, None)?;
        }
        // filters may hold for other changes than the first ones
        if let Some(limit) = self.read.limit.filter(|_| self.read.filters.is_empty()) {
            changes = changes.limit(0, Some(limit))?;
        }
        let plan = changes.project(self.output()?)?.build()?;
        fit(plan_inside(self.read.state, &plan).await?, &self.wanted)
    }

    /// The columns that are wanted; any one where there is none, since a projection of nothing has rows all the same.
    fn output(&self) -> Result<Vec<Expr>> {
        if self.wanted.fields().is_empty() {
            return Ok(vec![ident(VERSION)]);
        }
        let value = |field: &FieldRef| -> Result<Expr> {
            let value = match field.name().as_str() {
                CHANGE_TYPE => ident(CHANGE),
                COMMIT_VERSION => ident(VERSION),
                COMMIT_TIMESTAMP => ident(TIMESTAMP),
                CHANGE_CONTEXT => ident(CONTEXT),
                own => column(self.layout.schema().index_of(own)?),
            };
            Ok(value.alias(field.name()))
        };
        self.wanted.fields().iter().map(value).collect()
    }

    /// Those of the filters that hold for both rows of an update, or for none: they may be applied before rows are compared.
    fn filters_below(&self, pairing: &Pairing) -> Result<Vec<Expr>> {
        let schema = self.layout.schema();
        let is_constant = |name: &str| {
            if name == COMMIT_VERSION {
                return true;
            }
            let Ok(index) = schema.index_of(name) else {
                return false;
            };
            let data_type = schema.field(index).data_type();
            // 0.0 and -0.0 are equal, and yet a filter may tell them apart
            let is_exact = !data_type.is_nested() && !data_type.is_floating();
            is_exact
                && match pairing {
                    Pairing::None => true,
                    Pairing::Key(key) => key.contains(&index),
                    Pairing::RowId => false,
                }
        };
        let mut filters = Vec::new();
        for filter in self.read.filters {
            let columns = filter.column_refs();
            let holds_for_both =
                !columns.is_empty() && columns.iter().all(|column| is_constant(&column.name));
            if holds_for_both && !filter.is_volatile() && !filter.exists(is_foreign)? {
                filters.push(unqualified(filter)?);
            }
        }
        Ok(filters)
    }
}

/// Whether an expression needs more than a row of the table.
fn is_foreign(node: &Expr) -> DataFusionResult<bool> {
    Ok(matches!(
        node,
        Expr::ScalarSubquery(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::SetComparison(_)
            | Expr::OuterReferenceColumn(_, _)
            | Expr::Placeholder(_)
    ))
}

/// What is known of each commit, by its version.
fn commits_relation(commits: &[ComparedCommit]) -> Result<LogicalPlanBuilder> {
    let versions = commits.iter().map(|commit| commit.version);
    let timestamps = commits.iter().map(|commit| commit.timestamp);
    let timestamps = TimestampMicrosecondArray::from_iter_values(timestamps).with_timezone("UTC");
    let contexts = commits.iter().map(|commit| commit.context.as_deref());
    let columns: [(&str, ArrayRef, bool); 3] = [
        (
            OF_VERSION,
            Arc::new(Int64Array::from_iter_values(versions)),
            false,
        ),
        (TIMESTAMP, Arc::new(timestamps), true),
        (CONTEXT, Arc::new(contexts.collect::<BinaryArray>()), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
    let source = provider_as_source(Arc::new(table));
    let name = TableReference::bare("commits");
    Ok(LogicalPlanBuilder::scan(name, source, None)?)
}
