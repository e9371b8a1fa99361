//! Plans that write: every one of them ends in the commit that MERGE, INSERT and CREATE TABLE end in.
//!
//! ```text
//!  apply_changes   events ─ resolve ─ MERGE            latest change of each key, or rows of its history
//!  compare         rows ─── resolve ─ MERGE            and delete what the source does not have
//!  fill            rows ─── make sure that keys differ ─ INSERT, with CREATE TABLE where there is no table yet
//! ```

use std::sync::Arc;

use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};
use datafusion::physical_plan::ExecutionPlan;

use super::clauses::{MergeClauses, SOURCE, TARGET};
use super::columns::{END_AT, START_AT, target_definition};
use super::event::{END, EventLayout, OP, Op, SEQUENCE};
use super::event_plan::{current_events, existing_events, missing_events};
use super::relation::VersionRelation;
use super::remembered::application;
use super::remembering::Remembering;
use super::resolve_exec::Resolution;
use super::setup::{Setup, Target};
use super::spec::Storage;
use super::step::Work;
use crate::change::{repeated_key, without_dynamic_filters};
use crate::delta::actions::Action;
use crate::delta::create::TableDefinition;
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::{
    CommitExec, MergeStatement, PlanRelation, UniqueKeysExec, plan_append, plan_create,
};

/// A table property: key and value.
type Property = (String, String);

/// Applies the events of a range, or of a statement; `truncated` is the sequence up to which the target is to be emptied.
pub(super) async fn apply_changes(
    setup: &Setup<'_>,
    target: &Target,
    remembering: Remembering,
    truncated: Option<ScalarValue>,
    property: Option<Property>,
) -> Result<Work> {
    let base = existing(target)?;
    let mut events = setup.events.clone();
    if resolution(setup) == Resolution::Timeline {
        let history = existing_events(&setup.layout, base, setup.events.clone()).await?;
        events = union(events, history)?;
    } else if setup.layout.carried().is_some() {
        // what a change does not carry is what the row holds, unless the change is late
        let held = setup.held_in_row()?;
        let rows = current_events(&setup.layout, base, held, setup.events.clone()).await?;
        events = union(events, rows)?;
    }
    let resolved = remembering
        .resolve(setup, events, truncated.as_ref())
        .await?;
    let clauses = match &setup.sync.storage {
        Storage::ScdType1 => MergeClauses::latest(setup, truncated.clone())?,
        Storage::ScdType2 { .. } => MergeClauses::history(setup),
    };
    Ok(Work {
        commit: merge(setup, base, resolved, clauses, property).await?,
        progress: None,
        remember: remembering.plan(setup, target, truncated).await?,
    })
}

/// Makes a target that has rows equal to the source's as a whole.
pub(super) async fn compare(
    setup: &Setup<'_>,
    target: &Target,
    version: i64,
    property: Property,
) -> Result<Work> {
    let base = existing(target)?;
    let remembering = Remembering::load(setup, target, true).await?;
    let mut events = setup.events.clone();
    let clauses = match &setup.sync.storage {
        Storage::ScdType1 => {
            check_unique(setup, base).await?;
            MergeClauses::compare(setup)?
        }
        Storage::ScdType2 { .. } => {
            check_comparable(setup)?;
            let gone = missing_events(&setup.layout, base, setup.events.clone(), version).await?;
            events = union(events, gone)?;
            let history = existing_events(&setup.layout, base, events.clone()).await?;
            events = union(events, history)?;
            MergeClauses::history(setup)
        }
    };
    let resolved = remembering.resolve(setup, events, None).await?;
    Ok(Work {
        commit: merge(setup, base, resolved, clauses, Some(property)).await?,
        progress: None,
        remember: remembering.plan(setup, target, None).await?,
    })
}

/// A history by a column of the source's cannot be compared with it.
fn check_comparable(setup: &Setup<'_>) -> Result<()> {
    match &setup.sync.sequence_by {
        None => Ok(()),
        Some(sequence) => Err(Error::invalid(format!(
            "the history in {} is ordered by SEQUENCE BY {sequence}, and nobody knows at which of its values the rows left {} that it no longer \
             has; drop {} and sync anew, or keep it and sync into another table",
            setup.sync.target, setup.sync.source, setup.sync.target
        ))),
    }
}

/// A target with several rows of a key cannot become equal to a source with one.
async fn check_unique(setup: &Setup<'_>, base: &Arc<Snapshot>) -> Result<()> {
    let relation = VersionRelation::new(base).await?;
    let keys: Vec<Expr> = setup.keys.iter().map(ident).collect();
    let target = provider_as_source(Arc::new(relation));
    let target = LogicalPlanBuilder::scan("target", target, None)?.build()?;
    let repeated = repeated_key(target, keys)?;
    let found = DataFrame::new(setup.state.as_ref().clone(), repeated)
        .collect()
        .await?;
    match found.iter().find(|batch| batch.num_rows() > 0) {
        None => Ok(()),
        Some(batch) => {
            let row = arrow::util::pretty::pretty_format_batches(&[batch.slice(0, 1)])?;
            Err(Error::invalid(format!(
                "{} has more than one row of the key\n{row}\nso it cannot become equal to {} by that key; remove the surplus rows, or name \
                 other KEYS",
                setup.sync.target, setup.sync.source
            )))
        }
    }
}

/// How an empty target is filled.
pub(super) struct Fill {
    /// What the table is created as, if it has to be.
    pub copy: TableDefinition,
    pub property: Option<Property>,
    /// Whether rows of one key are to be expected.
    pub repeated_keys: bool,
    pub truncated: Option<ScalarValue>,
}

/// Fills a target that has no rows, creating it if need be.
pub(super) async fn fill(
    setup: &Setup<'_>,
    target: &Target,
    remembering: Remembering,
    fill: Fill,
) -> Result<Work> {
    let is_fresh =
        resolution(setup) == Resolution::Latest && !fill.repeated_keys && remembering.is_empty();
    let source = if is_fresh {
        scan(fresh_rows(setup).await?)?
    } else {
        let resolved = remembering
            .resolve(setup, setup.events.clone(), None)
            .await?;
        scan(resolved)?
    };
    // rows of a table are no deletes unless a condition says so
    let nothing_to_remember =
        is_fresh && remembering.is_new() && setup.held && setup.sync.delete_when.is_none();
    let mut remember = None;
    if !nothing_to_remember {
        remember = remembering.plan(setup, target, fill.truncated).await?;
    }
    let operation = operation(setup);
    let session = Arc::clone(&setup.state);
    let mut plan = match &target.base {
        Some(base) => {
            let mut plan = plan_append(Arc::clone(base), operation, session)?;
            plan.prelude = fill
                .property
                .map(|property| with_property(base, property))
                .into_iter()
                .collect();
            plan
        }
        None => {
            let definition = target_definition(
                setup.sync,
                fill.copy,
                &setup.kept,
                &setup.keys,
                &setup.layout.sequence,
            )?;
            let (mut metadata, protocol) = definition.actions(target.table.name(), None)?;
            metadata.configuration.extend(fill.property);
            if let Some(remember) = &mut remember {
                remember.application = application(Some(&metadata));
            }
            plan_create(&target.table, metadata, protocol, None, operation, session)?
        }
    };
    plan.operation.parameters.remove("properties");
    let schema = plan.write.target.layout.schema();
    let logical = LogicalPlanBuilder::from(source)
        .filter(is_written())?
        .project(table_columns(&setup.layout, schema)?)?
        .build()?;
    let rows = setup.state.create_physical_plan(&logical).await?;
    Ok(Work {
        commit: Arc::new(CommitExec::new(rows, plan, None)?),
        progress: None,
        remember,
    })
}

/// The rows to be written of a source whose rows should all have keys of their own; that they do is checked on the way.
async fn fresh_rows(setup: &Setup<'_>) -> Result<Arc<dyn ExecutionPlan>> {
    let layout = &setup.layout;
    let columns = layout.columns.iter().map(|field| ident(field.name()));
    let events = LogicalPlanBuilder::from(setup.events.clone())
        .project(columns.chain([ident(OP), ident(SEQUENCE)]))?
        .build()?;
    let rows = without_dynamic_filters(&setup.state)
        .create_physical_plan(&events)
        .await?;
    let keys = layout.keys.clone();
    let not_null = keys.iter().copied().chain([layout.sequence()]).collect();
    Ok(Arc::new(UniqueKeysExec::new(rows, keys, not_null)))
}

fn is_written() -> Expr {
    ident(OP).in_list([Op::Upsert, Op::Replace].map(Op::literal).to_vec(), false)
}

/// The target's columns out of resolved events, or of events themselves.
fn table_columns(layout: &EventLayout, schema: &arrow::datatypes::Schema) -> Result<Vec<Expr>> {
    let value = |name: &str| match name {
        _ if layout.columns.iter().any(|field| field.name() == name) => ident(name),
        START_AT => ident(SEQUENCE),
        END_AT => ident(END),
        _ => lit(ScalarValue::Null),
    };
    let columns = schema.fields().iter().map(|field| {
        let same = layout
            .columns
            .iter()
            .any(|known| known.name() == field.name() && known.data_type() == field.data_type());
        let value = value(field.name());
        if same {
            value.alias(field.name())
        } else {
            cast(value, field.data_type().clone()).alias(field.name())
        }
    });
    Ok(columns.collect())
}

/// The target's version that is written.
pub(super) fn existing(target: &Target) -> Result<&Arc<Snapshot>> {
    target
        .base
        .as_ref()
        .ok_or_else(|| Error::internal("the target is yet to be created"))
}

pub(super) fn resolution(setup: &Setup<'_>) -> Resolution {
    match setup.sync.storage {
        Storage::ScdType1 => Resolution::Latest,
        Storage::ScdType2 { .. } => Resolution::Timeline,
    }
}

pub(super) fn union(left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlanBuilder::from(left).union(right)?.build()?)
}

pub(super) fn scan(plan: Arc<dyn ExecutionPlan>) -> Result<LogicalPlan> {
    let relation = PlanRelation::new(plan, None);
    Ok(
        LogicalPlanBuilder::scan("changes", provider_as_source(Arc::new(relation)), None)?
            .build()?,
    )
}

fn operation(setup: &Setup<'_>) -> Operation {
    Operation::new(setup.sync.verb())
        .with_parameter("source", &setup.sync.source)
        .with_parameter("name", &setup.sync.name)
}

fn with_property(base: &Snapshot, (key, value): Property) -> Action {
    let mut metadata = base.metadata().clone();
    metadata.configuration.insert(key, value);
    Action::Metadata(metadata)
}

/// The MERGE of resolved events into a version of the target, as it is and no other.
async fn merge(
    setup: &Setup<'_>,
    base: &Arc<Snapshot>,
    source: Arc<dyn ExecutionPlan>,
    merge: MergeClauses,
    property: Option<Property>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let target =
        DFSchema::try_from_qualified_schema(TableReference::bare(TARGET), base.layout().schema())?;
    let changes =
        DFSchema::try_from_qualified_schema(TableReference::bare(SOURCE), &source.schema())?;
    let statement = MergeStatement {
        table: base.table().clone(),
        base: Some(Arc::clone(base)),
        session: Arc::clone(&setup.state),
        source,
        schema: Arc::new(target.join(&changes)?),
        on: merge.on,
        clauses: merge.clauses,
        evolution: None,
    };
    let (rows, mut plan) = statement.plan().await?;
    plan.operation = operation(setup);
    plan.prelude = property
        .map(|property| with_property(base, property))
        .into_iter()
        .collect();
    Ok(Arc::new(CommitExec::new(rows, plan, None)?))
}
