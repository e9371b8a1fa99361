//! Runs one statement: our own here, the rest through DataFusion.

mod alter;
mod create;

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::delta_table::DeltaTableProvider;
use super::history::history;
use super::parser::{Parsed, parse};
use super::rewrite::{expand_stars, find_stars, rewrite_versions};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};

/// Plans one statement; tables are created and altered at once.
pub(crate) async fn run(ctx: &SessionContext, sql: &str) -> Result<DataFrame> {
    match parse(sql)? {
        Parsed::CreateTable(create) => create::create_table(ctx, *create).await,
        Parsed::AlterTable { table, change } => alter::alter_table(ctx, &table, change).await,
        Parsed::DescribeHistory { table, limit } => {
            Ok(ctx.read_batch(history(&delta_table(ctx, &table).await?, limit).await?)?)
        }
        Parsed::Other(tokens) => {
            let plan = logical_plan(ctx, tokens).await?;
            Ok(ctx.execute_logical_plan(plan).await?)
        }
    }
}

/// The plan of a statement of DataFusion's, ours written out.
async fn logical_plan(ctx: &SessionContext, tokens: Vec<TokenWithSpan>) -> Result<LogicalPlan> {
    let mut tokens = rewrite_versions(tokens)?;
    if let Some(stars) = find_stars(&tokens)? {
        let schema = table_schema(ctx, &stars.target).await?;
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        tokens = expand_stars(tokens, &stars, &columns);
    }
    let mut statements = DFParserBuilder::new(tokens).build()?.parse_statements()?;
    let statement = statements
        .pop_front()
        .ok_or_else(|| Error::invalid("the statement is empty"))?;
    if !statements.is_empty() {
        return Err(Error::invalid(
            "one statement at a time; split the script with alluvial::sql::split_statements",
        ));
    }
    Ok(ctx.state().statement_to_plan(statement).await?)
}

async fn table_schema(ctx: &SessionContext, name: &TableReference) -> Result<SchemaRef> {
    Ok(ctx.table_provider(name.clone()).await?.schema())
}

/// The Delta table of that name.
async fn delta_table(ctx: &SessionContext, name: &TableReference) -> Result<DeltaTable> {
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
