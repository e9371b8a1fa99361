//! Runs one statement: our own here, the rest through DataFusion.

mod alter;
mod computed;
mod create;
mod tracking;

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{CreateExternalTable, DFParserBuilder, Statement};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::delta_table::DeltaTableProvider;
use super::evolution::{evolve, take_clause};
use super::factory::{CHANGE_FILES, OPTION_PREFIX};
use super::history::history;
use super::maintenance::maintain;
use super::merge_target::statement_plan;
use super::parser::{Explain, Parsed, parse, parse_tokens};
use super::relation_planner::base_of;
use super::rewrite::{
    Merge, TargetColumns, rewrite_versions, table_to_look_up, write_columns, written_table,
};
use super::snapshots_table::{self, SNAPSHOTS};
use super::sync_session::lookup;
use super::sync_table::sync_plan;
use super::tracking::rewrite::rewrite_tracking;
use super::versioned_table::{self, VERSIONED, with_location};
use crate::delta::DeltaTable;
use crate::delta::tracking::CommitContext;
use crate::error::{Error, Result};
use crate::sync::{drop_sync, show_syncs};

pub(crate) use create::new_table;

/// Plans one statement; tables are created and altered at once.
pub(crate) async fn run(ctx: &SessionContext, sql: &str) -> Result<DataFrame> {
    run_parsed(ctx, parse(sql)?, sql).await
}

async fn run_parsed(ctx: &SessionContext, parsed: Parsed, sql: &str) -> Result<DataFrame> {
    match parsed {
        Parsed::CreateTable(create) => create::create_table(ctx, *create).await,
        Parsed::AlterTable { table, change } => alter::alter_table(ctx, &table, change).await,
        Parsed::AlterDatabase { database, change } => {
            tracking::alter_database(ctx, &database, change).await
        }
        Parsed::InContext { context, statement } => {
            let mut state = ctx.state();
            let config = state.config_mut();
            config.set_extension(Arc::new(CommitContext(context)));
            let ctx = SessionContext::new_with_state(state);
            let parsed = parse_tokens(statement, sql)?;
            Box::pin(run_parsed(&ctx, parsed, sql)).await
        }
        Parsed::DescribeHistory { table, limit } => {
            Ok(ctx.read_batch(history(&delta_table(ctx, &table).await?, limit).await?)?)
        }
        Parsed::Sync { sync, explain } => {
            let mut plan = LogicalPlanBuilder::from(sync_plan(ctx, sync.prepared(ctx).await)?);
            if let Some(Explain { analyze, verbose }) = explain {
                plan = plan.explain(verbose, analyze)?;
            }
            Ok(DataFrame::new(ctx.state(), plan.build()?))
        }
        Parsed::ShowSyncs { target } => {
            let targets = sync_targets(ctx, target).await?;
            Ok(ctx.read_batch(show_syncs(ctx, &targets).await?)?)
        }
        Parsed::DropSync {
            name,
            target,
            if_exists,
        } => {
            let table = delta_table(ctx, &target).await?;
            drop_sync(&target, &table, &name, if_exists).await?;
            nothing(ctx)
        }
        Parsed::Maintenance(statement) => Box::pin(maintain(ctx, statement)).await,
        Parsed::Other(tokens) => {
            let plan = logical_plan(ctx, tokens).await?;
            Ok(ctx.execute_logical_plan(plan).await?)
        }
    }
}

/// The plan of a statement of DataFusion's, ours written out.
async fn logical_plan(ctx: &SessionContext, tokens: Vec<TokenWithSpan>) -> Result<LogicalPlan> {
    let tokens = with_location(rewrite_tracking(rewrite_versions(tokens)?));
    let (tokens, evolves) = take_clause(tokens);
    refuse_written_history(ctx, &tokens)?;
    let (tokens, evolving) = Box::pin(write_out(ctx, tokens, evolves)).await?;
    let mut statements = DFParserBuilder::new(tokens).build()?.parse_statements()?;
    let mut statement = statements
        .pop_front()
        .ok_or_else(|| Error::invalid("the statement is empty"))?;
    if let Statement::CreateExternalTable(create) = &mut statement {
        protect_options(create);
    }
    if !statements.is_empty() {
        return Err(Error::invalid(
            "one statement at a time; split the script with alluvial::sql::split_statements",
        ));
    }
    Ok(statement_plan(ctx, statement, evolving).await?)
}

/// Writes out what a statement says of the columns of the table that it writes. The table, too, where a MERGE adds columns to it.
async fn write_out(
    ctx: &SessionContext,
    tokens: Vec<TokenWithSpan>,
    evolves: bool,
) -> Result<(Vec<TokenWithSpan>, Option<Arc<dyn TableProvider>>)> {
    let Some(merge) = Merge::find(&tokens)? else {
        let Some(name) = table_to_look_up(&tokens) else {
            return Ok((tokens, None));
        };
        let table = ctx.table_provider(name.clone()).await?;
        let columns = TargetColumns::of(&name, table.as_ref());
        return Ok((write_columns(tokens, &columns)?, None));
    };
    if evolves {
        let table = delta_table(ctx, &merge.target).await?;
        let (target, source) = evolve(ctx, &table, &tokens, &merge).await?;
        let target: Arc<dyn TableProvider> = Arc::new(target);
        let columns = TargetColumns::of(&merge.target, target.as_ref());
        let tokens = merge.write_out(&tokens, &columns, Some(source.as_arrow()))?;
        return Ok((tokens, Some(target)));
    }
    if !merge.is_special(&tokens) {
        return Ok((tokens, None));
    }
    let table = ctx.table_provider(merge.target.clone()).await?;
    let columns = TargetColumns::of(&merge.target, table.as_ref());
    Ok((merge.write_out(&tokens, &columns, None)?, None))
}

/// `"t$changes"` is read, unless a table is called so.
fn refuse_written_history(ctx: &SessionContext, tokens: &[TokenWithSpan]) -> Result<()> {
    let Some(table) = written_table(tokens) else {
        return Ok(());
    };
    match base_of(table.table()) {
        Some(base) if !ctx.table_exist(table.clone()).unwrap_or(false) => {
            Err(Error::invalid(format!(
                "{table} is what was recorded of {base}, which is history and cannot be written; write to {base}"
            )))
        }
        _ => Ok(()),
    }
}

/// DataFusion takes some options of every external table for its own formats'; it leaves those with a prefix alone.
fn protect_options(create: &mut CreateExternalTable) {
    let ours = [
        (CHANGE_FILES, OPTION_PREFIX),
        (VERSIONED, versioned_table::OPTION_PREFIX),
        (SNAPSHOTS, snapshots_table::OPTION_PREFIX),
    ];
    let prefix = ours.iter().find(|(kind, _)| *kind == create.file_type);
    let Some((_, prefix)) = prefix else {
        return;
    };
    for (key, _) in &mut create.options {
        if !key.contains('.') {
            key.insert_str(0, prefix);
        }
    }
}

/// The plan of a query given as text.
pub(crate) async fn query_plan(ctx: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    match parse(sql)? {
        Parsed::Other(tokens) => Box::pin(logical_plan(ctx, tokens)).await,
        _ => Err(Error::invalid(format!("{sql}: expected a query"))),
    }
}

/// The table, or every Delta table of the default catalog.
async fn sync_targets(
    ctx: &SessionContext,
    target: Option<TableReference>,
) -> Result<Vec<(TableReference, DeltaTable)>> {
    if let Some(target) = target {
        let table = delta_table(ctx, &target).await?;
        return Ok(vec![(target, table)]);
    }
    Ok(lookup(ctx).delta_tables(None).await)
}

/// The Delta table of that name.
pub(super) async fn delta_table(ctx: &SessionContext, name: &TableReference) -> Result<DeltaTable> {
    let provider = ctx
        .table_provider(name.clone())
        .await
        .map_err(|_| Error::TableNotFound {
            table: name.to_string(),
            hint: "; SHOW TABLES lists what there is".into(),
        })?;
    match provider.downcast_ref::<DeltaTableProvider>() {
        Some(provider) => Ok(provider.table().clone()),
        None => Err(Error::invalid(format!("{name} is not a Delta table"))),
    }
}

/// The result of a statement that returns nothing.
fn nothing(ctx: &SessionContext) -> Result<DataFrame> {
    Ok(DataFrame::new(
        ctx.state(),
        LogicalPlanBuilder::empty(false).build()?,
    ))
}
