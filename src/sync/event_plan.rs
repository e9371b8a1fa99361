//! Plans that turn what a source returns into events (see [`super::event`]).

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::{
    Expr, ExprSchemable, JoinType, LogicalPlan, LogicalPlanBuilder, cast, ident, lit, when,
};

use super::columns::{END_AT, START_AT};
use super::event::{CARRIED, END, EventLayout, OP, ORDINAL, Op, SEQUENCE, VERSION};
use super::relation::VersionRelation;
use super::spec::Sync;
use crate::change::{CHANGE_ORDINAL, CHANGE_TYPE, CHANGED_COLUMNS, COMMIT_VERSION, ChangeType};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// What orders the changes of a key: SEQUENCE BY, or the version.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    /// Over the source's columns.
    pub expression: Expr,
    pub data_type: DataType,
    /// The columns that it is made of.
    pub columns: HashSet<String>,
}

impl Sequence {
    /// Plans the statement's SEQUENCE BY over `input`.
    pub(super) fn try_new(sync: &Sync, state: &SessionState, input: &DFSchema) -> Result<Self> {
        let expression = match &sync.sequence_by {
            Some(sql) => parse("SEQUENCE BY", sql, state, input)?,
            None => column(input, COMMIT_VERSION).ok_or_else(|| {
                Error::invalid(format!(
                    "{} has no column _commit_version that would order its changes; select it, or say what orders them with SEQUENCE BY",
                    sync.source
                ))
            })?,
        };
        check_sequence(sync, &expression, input)?;
        let columns = expression.column_refs();
        Ok(Self {
            data_type: stored_type(expression.get_type(input)?),
            columns: columns.iter().map(|column| column.name.clone()).collect(),
            expression,
        })
    }
}

/// A sequence is a plain value of each row, the same whenever it is asked for.
fn check_sequence(sync: &Sync, expression: &Expr, input: &DFSchema) -> Result<()> {
    let shown = sync.sequence_by.as_deref().unwrap_or(COMMIT_VERSION);
    let is_no_value = |node: &Expr| {
        Ok(matches!(
            node,
            Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
        ))
    };
    if expression.exists(is_no_value)? || expression.is_volatile() {
        return Err(Error::invalid(format!(
            "SEQUENCE BY {shown}: an aggregate, a sub-query or a value that is another one each time orders nothing; order the changes by columns \
             of {}",
            sync.source
        )));
    }
    if expression.get_type(input)? == DataType::Null {
        return Err(Error::invalid(format!(
            "SEQUENCE BY {shown} is always NULL, which orders nothing; name a column of {}",
            sync.source
        )));
    }
    Ok(())
}

/// The type in which a sequence is kept.
fn stored_type(data_type: DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Timestamp(_, None) => {
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None)
        }
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))
        }
        other => other,
    }
}

/// Plans an expression of the statement.
pub(super) fn parse(
    clause: &str,
    sql: &str,
    state: &SessionState,
    schema: &DFSchema,
) -> Result<Expr> {
    state
        .create_logical_expr(sql, schema)
        .map_err(|error| Error::invalid(format!("{clause} {sql}: {}", error.strip_backtrace())))
}

/// Plans a condition of the statement.
pub(super) fn parse_condition(
    clause: &str,
    sql: &str,
    state: &SessionState,
    schema: &DFSchema,
) -> Result<Expr> {
    let condition = parse(clause, sql, state, schema)?;
    match condition.get_type(schema)? {
        DataType::Boolean | DataType::Null => Ok(condition),
        other => Err(Error::invalid(format!(
            "{clause} {sql} is {other}, not a condition (Boolean); compare it with something"
        ))),
    }
}

/// The column of that name, with its qualifier.
pub(super) fn column(schema: &DFSchema, name: &str) -> Option<Expr> {
    schema
        .iter()
        .find(|(_, field)| field.name() == name)
        .map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name())))
}

/// The events in `input`: change rows where it has `_change_type`, otherwise rows that are all to be written.
pub(super) fn source_events(
    sync: &Sync,
    state: &SessionState,
    layout: &EventLayout,
    sequence: &Sequence,
    input: LogicalPlan,
) -> Result<LogicalPlan> {
    let schema = Arc::clone(input.schema());
    let version = column(&schema, COMMIT_VERSION);
    let mut events = Vec::with_capacity(layout.width() + 5);
    for field in &layout.columns {
        let found = column(&schema, field.name())
            .ok_or_else(|| Error::internal(format!("the source lacks {:?}", field.name())))?;
        events.push(as_type(found, field.data_type(), &schema)?.alias(field.name()));
    }
    let op = op(sync, state, &schema)?;
    let ordinal = match (column(&schema, CHANGE_ORDINAL), &version) {
        (Some(ordinal), _) => cast(ordinal, DataType::Int64),
        (None, Some(_)) => ordinal(&schema)?,
        (None, None) => lit(0_i64),
    };
    let at = as_type(sequence.expression.clone(), &layout.sequence, &schema)?;
    let version = version.map_or(lit(0_i64), |version| cast(version, DataType::Int64));
    events.extend([
        op.alias(OP),
        at.alias(SEQUENCE),
        cast(lit(ScalarValue::Null), layout.sequence.clone()).alias(END),
        version.alias(VERSION),
        ordinal.alias(ORDINAL),
    ]);
    events.extend(match column(&schema, CHANGED_COLUMNS) {
        Some(carried) if layout.carried().is_some() => Some(carried.alias(CARRIED)),
        _ => layout.carries_all()?,
    });
    Ok(LogicalPlanBuilder::from(input).project(events)?.build()?)
}

/// The expression in a type that it may have already.
pub(super) fn as_type(expression: Expr, data_type: &DataType, schema: &DFSchema) -> Result<Expr> {
    if expression.get_type(schema)? == *data_type {
        Ok(expression)
    } else {
        Ok(cast(expression, data_type.clone()))
    }
}

fn is_type(schema: &DFSchema, kind: ChangeType) -> Option<Expr> {
    column(schema, CHANGE_TYPE).map(|column| column.eq(lit(kind.as_str())))
}

fn op(sync: &Sync, state: &SessionState, schema: &DFSchema) -> Result<Expr> {
    let mut branches: Vec<(Expr, Op)> = Vec::new();
    branches.extend(is_type(schema, ChangeType::UpdatePreimage).map(|is| (is, Op::Preimage)));
    branches.extend(is_type(schema, ChangeType::Delete).map(|is| (is, Op::Delete)));
    if let Some(sql) = &sync.delete_when {
        let deletes = parse_condition("APPLY AS DELETE WHEN", sql, state, schema)?.is_true();
        branches.push((deletes, Op::Delete));
    }
    let written = [
        ChangeType::Insert,
        ChangeType::UpdatePostimage,
        ChangeType::Upsert,
    ];
    let written = written.into_iter().filter_map(|kind| is_type(schema, kind));
    let written = written.reduce(Expr::or);
    let otherwise = if written.is_some() {
        Op::Unknown
    } else {
        Op::Upsert
    };
    branches.extend(written.map(|is| (is, Op::Upsert)));
    let mut case: Option<CaseBuilder> = None;
    for (condition, op) in branches {
        case = Some(match case {
            None => when(condition, op.literal()),
            Some(mut case) => case.when(condition, op.literal()),
        });
    }
    match case {
        None => Ok(otherwise.literal()),
        Some(mut case) => Ok(case.otherwise(otherwise.literal())?),
    }
}

/// Within a version a row leaves before it comes back.
fn ordinal(schema: &DFSchema) -> Result<Expr> {
    let leaves = [ChangeType::Delete, ChangeType::UpdatePreimage];
    let leaves = leaves.into_iter().filter_map(|kind| is_type(schema, kind));
    match leaves.reduce(Expr::or) {
        Some(leaves) => Ok(when(leaves, lit(0_i64)).otherwise(lit(1_i64))?),
        None => Ok(lit(0_i64)),
    }
}

/// Those of `rows` whose keys `events` has.
pub(super) fn of_keys(
    layout: &EventLayout,
    rows: LogicalPlan,
    events: LogicalPlan,
) -> Result<LogicalPlan> {
    by_keys(layout, rows, events, JoinType::RightSemi)
}

/// Those of `rows` whose keys `others` has not.
pub(super) fn not_of_keys(
    layout: &EventLayout,
    rows: LogicalPlan,
    others: LogicalPlan,
) -> Result<LogicalPlan> {
    by_keys(layout, rows, others, JoinType::RightAnti)
}

fn by_keys(
    layout: &EventLayout,
    rows: LogicalPlan,
    others: LogicalPlan,
    join: JoinType,
) -> Result<LogicalPlan> {
    let keys = layout.key_names();
    let named = |index: usize| format!("__alluvial_key_{index}");
    let wanted = keys
        .iter()
        .enumerate()
        .map(|(index, key)| ident(*key).alias(named(index)));
    let wanted = LogicalPlanBuilder::from(others)
        .project(wanted.collect::<Vec<_>>())?
        .build()?;
    let on = keys
        .iter()
        .enumerate()
        .map(|(index, key)| ident(named(index)).eq(ident(*key)));
    let on = on.collect::<Vec<_>>();
    Ok(LogicalPlanBuilder::from(wanted)
        .join_on(rows, join, on)?
        .build()?)
}

/// The rows of a history whose keys `events` has, as events.
pub(super) async fn existing_events(
    layout: &EventLayout,
    target: &Arc<Snapshot>,
    events: LogicalPlan,
) -> Result<LogicalPlan> {
    let rows = of_keys(layout, history(target).await?, events)?;
    let control = [
        Op::Existing.literal(),
        cast(ident(START_AT), layout.sequence.clone()),
        cast(ident(END_AT), layout.sequence.clone()),
        lit(-1_i64),
        lit(0_i64),
    ];
    row_events(rows, layout, control)
}

/// The rows of a table whose keys `events` has, as events that come where the sequence that they hold puts them; before all
/// others where versions order the changes.
pub(super) async fn current_events(
    layout: &EventLayout,
    target: &Arc<Snapshot>,
    held: Option<Expr>,
    events: LogicalPlan,
) -> Result<LogicalPlan> {
    let rows = of_keys(layout, history(target).await?, events)?;
    let control = [
        Op::Existing.literal(),
        cast(held.unwrap_or_else(|| lit(-1_i64)), layout.sequence.clone()),
        cast(lit(ScalarValue::Null), layout.sequence.clone()),
        lit(-1_i64),
        lit(0_i64),
    ];
    row_events(rows, layout, control)
}

/// Deletes, at `version`, of the keys that a history has open and `events` has not.
pub(super) async fn missing_events(
    layout: &EventLayout,
    target: &Arc<Snapshot>,
    events: LogicalPlan,
    version: i64,
) -> Result<LogicalPlan> {
    let open = LogicalPlanBuilder::from(history(target).await?)
        .filter(ident(END_AT).is_null())?
        .build()?;
    deletes_at(layout, not_of_keys(layout, open, events)?, version)
}

/// Rows of a table as deletes at `version`, before all else that the version does to their keys.
pub(super) fn deletes_at(
    layout: &EventLayout,
    rows: LogicalPlan,
    version: i64,
) -> Result<LogicalPlan> {
    let control = [
        Op::Delete.literal(),
        cast(lit(version), layout.sequence.clone()),
        cast(lit(ScalarValue::Null), layout.sequence.clone()),
        lit(version),
        lit(-1_i64),
    ];
    row_events(rows, layout, control)
}

/// Rows of a table as events: op, sequence, end, version and ordinal are given.
fn row_events(rows: LogicalPlan, layout: &EventLayout, control: [Expr; 5]) -> Result<LogicalPlan> {
    let [op, sequence, end, version, ordinal] = control;
    let mut columns: Vec<Expr> = layout
        .columns
        .iter()
        .map(|field| cast(ident(field.name()), field.data_type().clone()).alias(field.name()))
        .collect();
    columns.extend([
        op.alias(OP),
        sequence.alias(SEQUENCE),
        end.alias(END),
        version.alias(VERSION),
        ordinal.alias(ORDINAL),
    ]);
    columns.extend(layout.carries_all()?);
    Ok(LogicalPlanBuilder::from(rows).project(columns)?.build()?)
}

/// The rows of a version of a target.
pub(super) async fn history(target: &Arc<Snapshot>) -> Result<LogicalPlan> {
    let relation = VersionRelation::new(target).await?;
    Ok(
        LogicalPlanBuilder::scan("history", provider_as_source(Arc::new(relation)), None)?
            .build()?,
    )
}
