//! The changes of a tracked table as SQL Server shows them: `CHANGETABLE(CHANGES …)`, `CHANGETABLE(VERSION …)`, and CDC's functions
//! (see [`super::capture`]).

use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ScalarValue, project_schema};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, ident, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use super::capture::Capture;
use super::change_table::{
    SYS_CHANGE_COLUMNS, changes_of_keys, changes_schema, changes_with_columns, key_values,
    version_of, version_schema,
};
use super::feed_relation::FeedRelation;
use super::images::Images;
use crate::change::{ChangeBounds, ChangeRange, fit, unqualified};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaTracking, FeedLog, Tracked, TrackedTable};
use crate::sql::changes_table::with_parameters;
use crate::sql::functions::as_bound;

/// What is asked of the table.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// `CHANGETABLE(CHANGES t, v)`; only the lower bound counts, and may still come as a filter.
    Changes(ChangeBounds),
    /// `CHANGETABLE(VERSION t, (keys), (values))`.
    Version(Vec<(String, ScalarValue)>),
    /// `fn_cdc_get_all_changes(…)`, `fn_cdc_get_net_changes(…)`.
    Capture(Capture),
}

/// The answer as a table.
#[derive(Debug)]
pub(super) struct TrackedChanges {
    table: DeltaTable,
    question: Question,
    schema: SchemaRef,
    keys: Vec<String>,
}

impl TrackedChanges {
    /// The answer, in the columns that the table has now.
    ///
    /// # Errors
    /// When the table is not tracked, or the question does not fit it.
    pub(super) async fn try_new(table: DeltaTable, question: Question) -> Result<Self> {
        let tracking = DeltaTracking::new(table.clone());
        let (snapshot, _) = tracking.tracking().await?;
        let schema = snapshot.layout().schema();
        let keys = &snapshot.properties().primary_key;
        let question = match question {
            Question::Changes(bounds) => {
                // bounds are checked even if nothing should be read later
                Tracked(tracking).resolve(&bounds).await?;
                Question::Changes(bounds)
            }
            Question::Version(values) => {
                Question::Version(key_values(&table, schema, keys, values)?)
            }
            Question::Capture(capture) => {
                let reserved = |field: &&FieldRef| field.name().starts_with("__$");
                if let Some(field) = schema.fields().iter().find(reserved) {
                    return Err(Error::invalid(format!(
                        "{} has a column {:?}, a name that CDC's functions need for themselves; rename the column",
                        table.name(),
                        field.name()
                    )));
                }
                capture.check(&tracking).await?;
                Question::Capture(capture)
            }
        };
        let schema = match &question {
            Question::Changes(_) => changes_schema(schema, keys)?,
            Question::Version(_) => version_schema(schema, keys)?,
            Question::Capture(capture) => capture.schema(schema),
        };
        Ok(Self {
            table,
            question,
            schema,
            keys: keys.clone(),
        })
    }

    async fn range(&self, tracking: &DeltaTracking, filters: &[Expr]) -> Result<ChangeRange> {
        let tracked = Tracked(tracking.clone());
        match &self.question {
            Question::Changes(bounds) => tracked.resolve(&with_parameters(bounds, filters)?).await,
            Question::Version(_) => {
                let oldest = tracking.bounds().await?.min_valid;
                tracked.resolve(&ChangeBounds::since(oldest)).await
            }
            Question::Capture(capture) => capture.range(tracking, filters).await,
        }
    }

    /// The answer; `wants_mask`, if anybody asks which columns were updated.
    async fn plan(&self, filters: &[Expr], wants_mask: bool) -> Result<Option<LogicalPlan>> {
        let tracking = DeltaTracking::new(self.table.clone());
        let range = self.range(&tracking, filters).await?;
        let (snapshot, settings) = tracking.tracking().await?;
        let keys = &snapshot.properties().primary_key;
        let in_delta = tracking.in_delta(range).await?;
        let is_version = matches!(self.question, Question::Version(_));
        if in_delta.is_empty() && !is_version {
            return Ok(None);
        }
        let feed = tracking.feed().clone().with_contexts();
        let schema = feed.schema(Some(in_delta.until())).await?;
        let log = match in_delta.is_empty() {
            true => None,
            false => match feed.read_log(in_delta).await {
                Ok(log) => Some(log),
                Err(error) => return Err(tracking.in_tracking_versions(error).await),
            },
        };
        let contexts = log.as_ref().is_some_and(FeedLog::has_contexts);
        let relation = FeedRelation {
            log,
            schema,
            tracking: tracking.clone(),
        };
        let relation = provider_as_source(Arc::new(relation));
        let mut changes = LogicalPlanBuilder::scan("changes", relation, None)?;
        for filter in filters.iter().filter(|filter| is_of_keys(filter, keys)) {
            changes = changes.filter(unqualified(filter)?)?;
        }
        let changes = changes.build()?;
        let own = snapshot_columns(&feed, &in_delta).await?;
        let images = Images {
            keys,
            by_version: false,
            values: vec![],
            begin: settings.begin_version,
            contexts,
        };
        Ok(Some(match &self.question {
            Question::Changes(_) if settings.columns_updated && wants_mask => {
                changes_with_columns(changes, images, &own)?
            }
            Question::Changes(_) => changes_of_keys(changes, images, &own)?,
            Question::Version(values) => version_of(changes, &images, values)?,
            Question::Capture(capture) => capture.plan(changes, images, &own)?,
        }))
    }
}

/// Whether a filter is about nothing but the key.
fn is_of_keys(filter: &Expr, keys: &[String]) -> bool {
    let columns = filter.column_refs();
    let mut names = columns.iter();
    as_bound(filter).is_none()
        && !columns.is_empty()
        && names.all(|column| keys.contains(&column.name))
        && !filter.is_volatile()
}

/// The table's own columns at the end of a range.
async fn snapshot_columns(
    feed: &crate::source::DeltaFeed,
    range: &ChangeRange,
) -> Result<SchemaRef> {
    let snapshot = feed.snapshot(Some(range.until())).await?;
    Ok(Arc::clone(snapshot.layout().schema()))
}

#[async_trait]
impl TableProvider for TrackedChanges {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // what a row says is what a key has come to: only a filter on the key may be applied before that is known
        let support = |filter: &&Expr| match as_bound(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None if is_of_keys(filter, &self.keys) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let mask = self.schema.index_of(SYS_CHANGE_COLUMNS).ok();
        let wants_mask =
            mask.is_some_and(|mask| projection.is_none_or(|wanted| wanted.contains(&mask)));
        let wanted = project_schema(&self.schema, projection)?;
        let Some(plan) = self.plan(filters, wants_mask).await? else {
            return Ok(Arc::new(EmptyExec::new(wanted)));
        };
        let has = Arc::clone(plan.schema());
        let columns = wanted.fields().iter().map(|field| {
            match has.has_column_with_unqualified_name(field.name()) {
                true => Ok(ident(field.name())),
                // the table had no such column yet
                false => Ok(lit(ScalarValue::try_from(field.data_type())?).alias(field.name())),
            }
        });
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        let builder = LogicalPlanBuilder::from(plan).project(columns)?;
        let plan = state.create_physical_plan(&builder.build()?).await?;
        Ok(fit(plan, &wanted)?)
    }
}
