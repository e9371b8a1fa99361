//! The relations of change tracking, as calls in FROM.

use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr};

use super::capture::{Capture, RowFilter, START_LSN};
use super::change_table::SYS_CHANGE_VERSION;
use super::lsn;
use super::tables_view::TrackingTables;
use super::tracked_changes::{Question, TrackedChanges};
use crate::change::{Bound, BoundKind, ChangeBounds};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::sql::arguments::{BoundUnit, constant};
use crate::sql::blocking::block_on;
use crate::sql::changes_table::open_bounds;
use crate::sql::functions::bound;
use crate::sql::lookup::Lookup;
use crate::sql::relation_planner::table_name;

/// What `CHANGETABLE(CHANGES` is rewritten to.
pub(super) const CHANGES: &str = "changetable_changes";
/// What `CHANGETABLE(VERSION` is rewritten to.
pub(super) const VERSION: &str = "changetable_version";
pub(super) const ALL_CHANGES: &str = "fn_cdc_get_all_changes";
pub(super) const NET_CHANGES: &str = "fn_cdc_get_net_changes";
const TABLES: &str = "change_tracking_tables";

/// Plans the relation of that name; `None` for others.
///
/// # Errors
/// When it is one of these, and its arguments are wrong.
pub(crate) fn plan_relation(
    name: &ast::ObjectName,
    arguments: Option<&[FunctionArg]>,
    catalogs: &Arc<dyn CatalogProviderList>,
    context: &mut dyn RelationPlannerContext,
) -> Result<Option<LogicalPlan>> {
    let name = name.to_string().to_lowercase();
    let name = name
        .strip_prefix("sys.")
        .or_else(|| name.strip_prefix("cdc."))
        .unwrap_or(&name);
    let Some(arguments) = arguments else {
        if name != TABLES {
            return Ok(None);
        }
        let view = TrackingTables::new(lookup(catalogs, context));
        let view = provider_as_source(Arc::new(view));
        return Ok(Some(
            LogicalPlanBuilder::scan(TableReference::bare(TABLES), view, None)?.build()?,
        ));
    };
    let values = || values(name, arguments);
    let (table, question, filter) = match name {
        CHANGES => changes(&values()?, context)?,
        VERSION => {
            let (table, question) = version(&values()?, context)?;
            (table, question, None)
        }
        ALL_CHANGES | NET_CHANGES => capture(name, &values()?, context)?,
        _ => return Ok(None),
    };
    let table = find(name, &table, &lookup(catalogs, context))?;
    let relation = block_on(move || TrackedChanges::try_new(table.clone(), question.clone()))?;
    let relation = provider_as_source(Arc::new(relation));
    let mut plan = LogicalPlanBuilder::scan(TableReference::bare(name), relation, None)?;
    if let Some(filter) = filter {
        plan = plan.filter(filter)?;
    }
    Ok(Some(plan.build()?))
}

fn lookup(catalogs: &Arc<dyn CatalogProviderList>, context: &dyn RelationPlannerContext) -> Lookup {
    let defaults = &context.context_provider().options().catalog;
    Lookup::new(Arc::clone(catalogs), defaults)
}

/// The table; for CDC's functions also by the name of the capture instance that SQL Server makes of it.
fn find(function: &str, name: &TableReference, lookup: &Lookup) -> Result<DeltaTable> {
    let mut names = vec![name.clone()];
    if [ALL_CHANGES, NET_CHANGES].contains(&function)
        && let Some((schema, table)) = name.table().split_once('_')
    {
        names.push(TableReference::partial(schema, table));
        if schema == "dbo" {
            names.push(TableReference::bare(table));
        }
    }
    for name in names {
        let lookup = lookup.clone();
        let found = block_on(move || {
            let (lookup, name) = (lookup.clone(), name.clone());
            async move { lookup.delta_table(&name).await }
        })?;
        if let Some(table) = found {
            return Ok(table);
        }
    }
    Err(Error::TableNotFound {
        table: name.to_string(),
        hint: "; SHOW TABLES lists what there is".into(),
    })
}

fn values<'a>(function: &str, arguments: &'a [FunctionArg]) -> Result<Vec<&'a ast::Expr>> {
    let values = arguments.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Ok(value),
        other => Err(Error::invalid(format!(
            "{function} takes its arguments by position; {other} is none of them"
        ))),
    });
    values.collect()
}

/// `(t, v [, FORCESEEK])`.
fn changes(
    values: &[&ast::Expr],
    context: &mut dyn RelationPlannerContext,
) -> Result<(TableReference, Question, Option<Expr>)> {
    let (table, version) = match values {
        [table, version] => (table, version),
        [table, version, ast::Expr::Identifier(hint)]
            if hint.value.eq_ignore_ascii_case("FORCESEEK") =>
        {
            (table, version)
        }
        _ => {
            return Err(Error::invalid(
                "CHANGETABLE(CHANGES …) takes a table and the version that has been applied last, as in CHANGETABLE(CHANGES t, 41); NULL stands for \
                 everything since tracking began",
            ));
        }
    };
    let table = table_name(table, context)?;
    let value = context.sql_to_expr((*version).clone(), &DFSchema::empty())?;
    let options = context.context_provider().options();
    let Some(value) = known(value.clone(), options)? else {
        let filter = bound(
            SYS_CHANGE_VERSION,
            BoundKind::Since,
            BoundUnit::Version,
            value,
        );
        return Ok((table, Question::Changes(open_bounds()), Some(filter)));
    };
    let text = value.try_as_str().flatten();
    let since = match value.cast_to(&arrow::datatypes::DataType::Int64) {
        _ if text.is_some_and(|text| text.eq_ignore_ascii_case("earliest")) => Bound::Earliest,
        Ok(ScalarValue::Int64(None)) if value.is_null() => Bound::Beginning,
        Ok(ScalarValue::Int64(Some(version))) if value.data_type().is_integer() && version >= 0 => {
            Bound::Version(version)
        }
        _ => {
            let value = match text {
                Some(text) => format!("'{text}'"),
                None => value.to_string(),
            };
            return Err(Error::InvalidRange(format!(
                "CHANGETABLE(CHANGES {table}, {value}): {value} is no version; give the version that has been applied last, 0 or more, or NULL for \
                 everything since tracking began"
            )));
        }
    };
    let bounds = ChangeBounds { since, until: None };
    Ok((table, Question::Changes(bounds), None))
}

/// `(t, (keys), (values))`.
fn version(
    values: &[&ast::Expr],
    context: &mut dyn RelationPlannerContext,
) -> Result<(TableReference, Question)> {
    let [table, names, values] = values else {
        return Err(Error::invalid(
            "CHANGETABLE(VERSION …) takes a table, its primary key and the values of one row's, as in CHANGETABLE(VERSION t, (id), (7))",
        ));
    };
    let table = table_name(table, context)?;
    let mut key = Vec::new();
    let (names, values) = (list(names), list(values));
    if names.len() != values.len() {
        return Err(Error::invalid(format!(
            "CHANGETABLE(VERSION {table}, …) names {} column(s) and gives {} value(s)",
            names.len(),
            values.len()
        )));
    }
    for (name, value) in names.into_iter().zip(values) {
        let ast::Expr::Identifier(name) = name else {
            return Err(Error::invalid(format!(
                "CHANGETABLE(VERSION {table}, …): {name} is not the name of a column"
            )));
        };
        let value = context.sql_to_expr(value.clone(), &DFSchema::empty());
        let value = value.map_err(|error| {
            Error::invalid(format!(
                "CHANGETABLE(VERSION {table}, …) takes constants: the row of one key ({error}); for many rows join CHANGETABLE(CHANGES {table}, …)"
            ))
        })?;
        let options = context.context_provider().options();
        if value.any_column_refs() || value.contains_outer() {
            return Err(Error::invalid(format!(
                "CHANGETABLE(VERSION {table}, …) takes constants, the key of one row, and not {value}; for many rows join CHANGETABLE(CHANGES {table}, …)"
            )));
        }
        let value = constant(value, options)?.ok_or_else(|| {
            Error::invalid(format!(
                "CHANGETABLE(VERSION {table}, …): the key cannot be a parameter; write it into the statement"
            ))
        })?;
        key.push((context.normalize_ident(name.clone()), value));
    }
    Ok((table, Question::Version(key)))
}

fn list(expression: &ast::Expr) -> Vec<&ast::Expr> {
    match expression {
        ast::Expr::Nested(inner) => vec![inner],
        ast::Expr::Tuple(all) => all.iter().collect(),
        other => vec![other],
    }
}

/// `(t, from_lsn, to_lsn, row_filter)`.
fn capture(
    function: &str,
    values: &[&ast::Expr],
    context: &mut dyn RelationPlannerContext,
) -> Result<(TableReference, Question, Option<Expr>)> {
    let [table, from, to, filter] = values else {
        return Err(Error::invalid(format!(
            "{function} takes a table, from_lsn, to_lsn and a row filter, as in {function}('t', fn_cdc_get_min_lsn('t'), fn_cdc_get_max_lsn('t'), 'all'); \
             {} argument(s) were given",
            values.len()
        )));
    };
    let table = table_name(table, context)?;
    let options = context.context_provider().options().clone();
    let filter = context.sql_to_expr((*filter).clone(), &DFSchema::empty())?;
    let filter = constant(filter, &options)?.ok_or_else(|| {
        Error::invalid(format!(
            "{function}: the row filter cannot be a parameter; write it into the statement"
        ))
    })?;
    let filter = RowFilter::parse(
        function == NET_CHANGES,
        filter.try_as_str().flatten().unwrap_or("NULL"),
    )?;
    let mut late = Vec::new();
    let mut version = |argument: &str, kind: BoundKind, value: &ast::Expr| -> Result<Option<i64>> {
        let value = context.sql_to_expr(value.clone(), &DFSchema::empty())?;
        match known(value.clone(), &options)? {
            Some(value) => version_of(function, argument, &value).map(Some),
            None => {
                late.push(bound(START_LSN, kind, BoundUnit::Version, value));
                Ok(None)
            }
        }
    };
    let capture = Capture {
        from: version("from_lsn", BoundKind::Since, from)?,
        to: version("to_lsn", BoundKind::Until, to)?,
        filter,
    };
    let late = late.into_iter().reduce(Expr::and);
    Ok((table, Question::Capture(capture), late))
}

/// The value of an argument that stays what it is; `None` for a parameter, and for what has to be found out anew each time a
/// view or a prepared statement is used.
fn known(value: Expr, options: &ConfigOptions) -> Result<Option<ScalarValue>> {
    let changes = value.exists(|node| {
        Ok(match node {
            Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
            _ => false,
        })
    })?;
    match changes {
        true => Ok(None),
        false => constant(value, options),
    }
}

/// The version of an LSN that is an argument.
pub(super) fn version_of(function: &str, argument: &str, value: &ScalarValue) -> Result<i64> {
    match binary(value) {
        Some(bytes) => lsn::decode(bytes),
        None => Err(Error::InvalidRange(format!(
            "{function}: {argument} is {value}, not an LSN; give one of fn_cdc_get_min_lsn('t'), fn_cdc_get_max_lsn('t') or fn_cdc_map_time_to_lsn(…), \
             or a literal such as 0x00000000000000000005"
        ))),
    }
}

/// The bytes of a binary value that is not NULL.
pub(super) fn binary(value: &ScalarValue) -> Option<&[u8]> {
    match value {
        ScalarValue::Binary(Some(bytes))
        | ScalarValue::LargeBinary(Some(bytes))
        | ScalarValue::BinaryView(Some(bytes))
        | ScalarValue::FixedSizeBinary(_, Some(bytes)) => Some(bytes),
        _ => None,
    }
}
