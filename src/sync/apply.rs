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
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, ident, lit};
use datafusion::physical_plan::ExecutionPlan;

use super::clauses::{MergeClauses, SOURCE, TARGET};
use super::columns::{END_AT, START_AT, target_definition};
use super::event::{END, EventLayout, OP, Op, SEQUENCE};
use super::event_plan::{existing_events, missing_events};
use super::remembered::{RememberPlan, Remembered};
use super::resolve_exec::{Resolution, ResolveChangesExec};
use super::setup::{Setup, Target};
use super::spec::Storage;
use super::step::Work;
use super::unique_exec::UniqueKeysExec;
use crate::delta::actions::Action;
use crate::delta::create::TableDefinition;
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::Operation;
use crate::error::{Error, Result};
use crate::merge::{
    CommitExec, MergeStatement, PlanRelation, plan_append, plan_create, without_dynamic_filters,
};

/// A table property: key and value.
type Property = (String, String);

/// Applies the events of a range, or of a statement; `truncated` is the sequence up to which the target is to be emptied.
pub(super) async fn apply_changes(
    setup: &Setup<'_>,
    target: &Target,
    truncated: Option<ScalarValue>,
) -> Result<Work> {
    let base = existing(target)?;
    let remembered = Remembering::load(setup, target, false).await?;
    let mut events = setup.events.clone();
    if resolution(setup) == Resolution::Timeline {
        events = union(
            events,
            existing_events(&setup.layout, base, setup.events.clone()).await?,
        )?;
    }
    let resolved = remembered.resolve(setup, events).await?;
    let clauses = match &setup.sync.storage {
        Storage::ScdType1 => MergeClauses::latest(setup, target, truncated)?,
        Storage::ScdType2 { .. } => MergeClauses::history(setup),
    };
    Ok(Work {
        commit: merge(setup, base, resolved, clauses, None).await?,
        progress: None,
        remember: remembered.plan(setup, target).await?,
    })
}

/// Makes a target that has rows equal to the source's; `delete` what the source does not have.
pub(super) async fn compare(
    setup: &Setup<'_>,
    target: &Target,
    version: i64,
    property: Property,
    delete: bool,
    is_first: bool,
) -> Result<Work> {
    let base = existing(target)?;
    let remembered = Remembering::load(setup, target, true).await?;
    let mut events = setup.events.clone();
    let clauses = match &setup.sync.storage {
        Storage::ScdType1 => MergeClauses::compare(setup, delete)?,
        Storage::ScdType2 { .. } => {
            events = union(
                events,
                existing_events(&setup.layout, base, setup.events.clone()).await?,
            )?;
            if setup.sync.sequence_by.is_none() {
                let gone =
                    missing_events(&setup.layout, base, setup.events.clone(), version).await?;
                events = union(events, gone)?;
            } else if !is_first {
                return Err(Error::invalid(format!(
                    "the history in {} is ordered by SEQUENCE BY {}, and nobody knows at which of its values the rows left {} that it no longer \
                     has; drop {} and sync anew, or keep it and sync into another table",
                    setup.sync.target,
                    setup.sync.sequence_by.as_deref().unwrap_or_default(),
                    setup.sync.source,
                    setup.sync.target
                )));
            }
            MergeClauses::history(setup)
        }
    };
    let resolved = remembered.resolve(setup, events).await?;
    Ok(Work {
        commit: merge(setup, base, resolved, clauses, Some(property)).await?,
        progress: None,
        remember: remembered.plan(setup, target).await?,
    })
}

/// How an empty target is filled.
pub(super) struct Fill {
    /// What the table is created as, if it has to be.
    pub copy: TableDefinition,
    pub property: Option<Property>,
    /// Whether rows of one key are to be expected.
    pub repeated_keys: bool,
}

/// Fills a target that has no rows, creating it if need be.
pub(super) async fn fill(setup: &Setup<'_>, target: &Target, fill: Fill) -> Result<Work> {
    let remembered = Remembering::load(setup, target, true).await?;
    let is_latest = resolution(setup) == Resolution::Latest;
    let source = if is_latest && !fill.repeated_keys {
        setup.events.clone()
    } else {
        let resolved = remembered.resolve(setup, setup.events.clone()).await?;
        scan(resolved)?
    };
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
            plan_create(&target.table, metadata, protocol, None, operation, session)?
        }
    };
    plan.operation.parameters.remove("properties");
    let schema = plan.write.target.layout.schema();
    let written = [Op::Upsert, Op::Replace].map(Op::literal).to_vec();
    let logical = LogicalPlanBuilder::from(source)
        .filter(ident(OP).in_list(written, false))?
        .project(table_columns(&setup.layout, schema)?)?
        .build()?;
    let mut rows = setup.state.create_physical_plan(&logical).await?;
    if is_latest && !fill.repeated_keys {
        let keys = setup.keys.iter().map(|key| schema.index_of(key));
        rows = Arc::new(UniqueKeysExec::new(rows, keys.collect::<Result<_, _>>()?));
    }
    Ok(Work {
        commit: Arc::new(CommitExec::new(rows, plan, None)?),
        progress: None,
        remember: remembered.plan(setup, target).await?,
    })
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

fn existing(target: &Target) -> Result<&Arc<Snapshot>> {
    target
        .base
        .as_ref()
        .ok_or_else(|| Error::internal("the target is yet to be created"))
}

fn resolution(setup: &Setup<'_>) -> Resolution {
    match setup.sync.storage {
        Storage::ScdType1 => Resolution::Latest,
        Storage::ScdType2 { .. } => Resolution::Timeline,
    }
}

fn union(left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
    Ok(LogicalPlanBuilder::from(left).union(right)?.build()?)
}

fn scan(plan: Arc<dyn ExecutionPlan>) -> Result<LogicalPlan> {
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
    };
    let (rows, mut plan) = statement.plan().await?;
    plan.operation = operation(setup);
    plan.prelude = property
        .map(|property| with_property(base, property))
        .into_iter()
        .collect();
    Ok(Arc::new(CommitExec::new(rows, plan, None)?))
}

/// What the target remembers of earlier statements, where that matters.
struct Remembering(Option<Remembered>);

impl Remembering {
    async fn load(setup: &Setup<'_>, target: &Target, forget: bool) -> Result<Self> {
        if setup.sync.sequence_by.is_none() {
            return Ok(Self(None));
        }
        let base = target.base.as_ref();
        let remembered = if forget {
            Remembered::forget(base, &setup.layout).await?
        } else {
            Remembered::load(base, &setup.layout).await?
        };
        Ok(Self(Some(remembered)))
    }

    /// Resolves events together with what is remembered; the result has only keys with changes that are not late by that.
    async fn resolve(
        &self,
        setup: &Setup<'_>,
        mut events: LogicalPlan,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let remembered = match &self.0 {
            Some(remembered) => remembered.events(&setup.layout)?,
            None => None,
        };
        let filter = remembered.is_some();
        if let Some(remembered) = remembered {
            events = union(events, remembered)?;
        }
        let session = without_dynamic_filters(&setup.state);
        let input = session.create_physical_plan(&events).await?;
        let resolved: Arc<dyn ExecutionPlan> = Arc::new(ResolveChangesExec::new(
            input,
            Arc::clone(&setup.layout),
            resolution(setup),
        ));
        if !filter {
            return Ok(resolved);
        }
        let news = LogicalPlanBuilder::from(scan(resolved)?)
            .filter(ident(OP).not_eq(Op::Remembered.literal()))?
            .build()?;
        Ok(session.create_physical_plan(&news).await?)
    }

    /// What is to be remembered next.
    async fn plan(self, setup: &Setup<'_>, target: &Target) -> Result<Option<RememberPlan>> {
        let Some(before) = self.0 else {
            return Ok(None);
        };
        let layout = Remembered::layout(&setup.layout);
        let mut events = Remembered::project(&setup.layout, setup.events.clone())?;
        if let Some(remembered) = before.events(&layout)? {
            events = union(events, remembered)?;
        }
        let input = without_dynamic_filters(&setup.state)
            .create_physical_plan(&events)
            .await?;
        let resolved = Arc::new(ResolveChangesExec::new(
            input,
            Arc::new(layout),
            Resolution::Latest,
        ));
        let plan = setup.state.create_physical_plan(&scan(resolved)?).await?;
        Ok(Some(RememberPlan {
            plan,
            before,
            held: setup.held,
            table: target.table.clone(),
        }))
    }
}
