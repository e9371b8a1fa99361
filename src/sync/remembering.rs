//! How what a target remembers takes part in a run: late events are left out, and what is to be remembered next is worked out.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::physical_plan::ExecutionPlan;

use super::apply::{resolution, scan, union};
use super::event::{OP, Op, SEQUENCE};
use super::event_plan::of_keys;
use super::remembered::{
    RememberPlan, Remembered, Truncation, all_of, application, remembered_ops,
};
use super::resolve_exec::{Resolution, ResolveChangesExec};
use super::setup::{Setup, Target};
use crate::change::without_dynamic_filters;
use crate::error::Result;

/// What the target remembers of earlier statements; nothing where versions order the changes.
pub(super) struct Remembering(Option<Remembered>);

impl Remembering {
    /// Reads it, or begins anew.
    pub(super) async fn load(setup: &Setup<'_>, target: &Target, forget: bool) -> Result<Self> {
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

    /// Whether no event can be late by it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Remembered::is_empty)
    }

    /// Whether the target has never remembered anything.
    pub(super) fn is_new(&self) -> bool {
        self.0.as_ref().is_none_or(Remembered::is_new)
    }

    /// The latest sequence at which the target was emptied.
    pub(super) fn truncated(&self) -> Option<&ScalarValue> {
        self.0.as_ref()?.truncated()
    }

    /// Resolves events together with what is remembered; the result has only keys with changes that are not late by that, and,
    /// when the target is to be emptied, remembered keys whose rows are newer.
    pub(super) async fn resolve(
        &self,
        setup: &Setup<'_>,
        mut events: LogicalPlan,
        truncated: Option<&ScalarValue>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(remembered) = &self.0 else {
            return resolved_plan(setup, &events).await;
        };
        if let Some(mut remembered) = remembered.events(&setup.layout)? {
            if truncated.is_none() {
                // of keys without events nobody asks
                remembered = of_keys(&setup.layout, remembered, setup.events.clone())?;
            }
            events = union(events, remembered)?;
        }
        let resolved = resolved_plan(setup, &events).await?;
        let late = [Op::Remembered, Op::RememberedWrite, Op::Late].map(Op::literal);
        let mut wanted = ident(OP).in_list(late.to_vec(), true);
        if let Some(truncated) = truncated {
            wanted = wanted.or(ident(SEQUENCE).gt(lit(truncated.clone())));
        }
        let news = LogicalPlanBuilder::from(scan(resolved)?)
            .filter(wanted)?
            .build()?;
        let session = without_dynamic_filters(&setup.state);
        Ok(session.create_physical_plan(&news).await?)
    }

    /// What is to be remembered next.
    pub(super) async fn plan(
        self,
        setup: &Setup<'_>,
        target: &Target,
        truncated: Option<ScalarValue>,
    ) -> Result<Option<RememberPlan>> {
        let Some(before) = self.0 else {
            return Ok(None);
        };
        let layout = Remembered::layout(&setup.layout);
        let mut events = Remembered::project(&setup.layout, setup.events.clone())?;
        if let Some(remembered) = before.events(&layout)? {
            events = union(events, remembered)?;
        }
        let (plan, writes) = match resolution(setup) {
            Resolution::Latest => {
                let input = without_dynamic_filters(&setup.state)
                    .create_physical_plan(&events)
                    .await?;
                let latest = ResolveChangesExec::new(input, Arc::new(layout), Resolution::Latest);
                let writes = !setup.held;
                let wanted = ident(OP).in_list(remembered_ops(writes), false);
                let kept = LogicalPlanBuilder::from(scan(Arc::new(latest))?).filter(wanted)?;
                (kept.build()?, writes)
            }
            // a write that changes nothing is made in place, and a late one must find where it was
            Resolution::Timeline => (all_of(events, &layout)?, true),
        };
        Ok(Some(RememberPlan {
            plan: setup.state.create_physical_plan(&plan).await?,
            before,
            writes,
            truncated: truncated.map(Truncation::new),
            table: target.table.clone(),
            application: application(target.base.as_ref().map(|base| base.metadata())),
        }))
    }
}

async fn resolved_plan(setup: &Setup<'_>, events: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let input = without_dynamic_filters(&setup.state)
        .create_physical_plan(events)
        .await?;
    let resolve = ResolveChangesExec::new(input, Arc::clone(&setup.layout), resolution(setup));
    let resolve = if setup.few {
        resolve.without_estimate()
    } else {
        resolve
    };
    Ok(Arc::new(resolve))
}
