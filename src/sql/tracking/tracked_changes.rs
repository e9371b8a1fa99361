//! The changes of a tracked table as SQL Server shows them: `CHANGETABLE(CHANGES …)`, `CHANGETABLE(VERSION …)`, and CDC's functions
//! (see [`super::capture`]).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::common::metadata::FieldMetadata;
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::functions_aggregate::first_last::last_value;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, cast, ident,
    lit, when,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use super::capture::Capture;
use super::images::{
    CONTEXT, Images, created_version, existed, exists, last_version, over_versions, steps,
};
use super::mask_functions::{COLUMNS_KEY, change_columns_mask};
use crate::change::{ChangeBounds, ChangeRange, unqualified};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource, DeltaTracking, FeedLog, Tracked, TrackedTable};
use crate::sql::changes_table::with_parameters;
use crate::sql::functions::as_bound;

pub(super) const SYS_CHANGE_VERSION: &str = "sys_change_version";
const SYS_CHANGE_COLUMNS: &str = "sys_change_columns";

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

fn nullable(schema: &Schema, name: &str) -> Result<FieldRef> {
    let field = schema.field_with_name(name)?;
    Ok(Arc::new(field.clone().with_nullable(true)))
}

/// SQL Server's columns, then the key's.
fn changes_schema(schema: &Schema, keys: &[String]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = [
        Field::new(SYS_CHANGE_VERSION, DataType::Int64, true),
        Field::new("sys_change_creation_version", DataType::Int64, true),
        Field::new("sys_change_operation", DataType::Utf8, true),
        Field::new(SYS_CHANGE_COLUMNS, DataType::Binary, true).with_metadata(column_names(schema)?),
        Field::new("sys_change_context", DataType::Binary, true),
    ]
    .map(Arc::new)
    .to_vec();
    for key in keys {
        fields.push(nullable(schema, key)?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn version_schema(schema: &Schema, keys: &[String]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = [
        Field::new(SYS_CHANGE_VERSION, DataType::Int64, true),
        Field::new("sys_change_context", DataType::Binary, true),
    ]
    .map(Arc::new)
    .to_vec();
    for key in keys {
        fields.push(nullable(schema, key)?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// What a mask needs beside it: the names that its numbers stand for.
fn column_names(schema: &Schema) -> Result<HashMap<String, String>> {
    let names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    let names = serde_json::to_string(&names)?;
    Ok(HashMap::from([(COLUMNS_KEY.to_owned(), names)]))
}

/// The key that is asked for, in the order and the types of the table's.
fn key_values(
    table: &DeltaTable,
    schema: &Schema,
    keys: &[String],
    mut values: Vec<(String, ScalarValue)>,
) -> Result<Vec<(String, ScalarValue)>> {
    let given: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
    let is_key = given.len() == keys.len() && keys.iter().all(|key| given.contains(&key.as_str()));
    if !is_key {
        return Err(Error::invalid(format!(
            "CHANGETABLE(VERSION {}, ({}), …): the primary key is ({}); name exactly its columns",
            table.name(),
            given.join(", "),
            keys.join(", ")
        )));
    }
    values.sort_by_key(|(name, _)| keys.iter().position(|key| key == name));
    for (name, value) in &mut values {
        let data_type = schema.field_with_name(name)?.data_type();
        *value = value.cast_to(data_type).map_err(|_| {
            Error::invalid(format!(
                "CHANGETABLE(VERSION {}, …): {value} is no value of the key column {name:?}, which is {data_type}",
                table.name()
            ))
        })?;
    }
    Ok(values)
}

fn context(images: &Images<'_>) -> Expr {
    match images.contexts {
        true => ident(CONTEXT),
        false => lit(ScalarValue::Binary(None)),
    }
}

fn output(images: &Images<'_>, mask: Expr, own: &Schema) -> Result<Vec<Expr>> {
    let operation = when(exists().and(existed().is_not_true()), lit("I"))
        .when(exists(), lit("U"))
        .otherwise(lit("D"))?;
    let names = FieldMetadata::from(column_names(own)?);
    let mut columns = vec![
        last_version().alias(SYS_CHANGE_VERSION),
        created_version().alias("sys_change_creation_version"),
        operation.alias("sys_change_operation"),
        mask.alias_with_metadata(SYS_CHANGE_COLUMNS, Some(names)),
        context(images).alias("sys_change_context"),
    ];
    columns.extend(images.keys.iter().map(ident));
    Ok(columns)
}

/// One row for each key that has changed.
fn changes_of_keys(changes: LogicalPlan, images: Images<'_>, own: &Schema) -> Result<LogicalPlan> {
    let by_version = Images {
        by_version: true,
        ..images
    };
    let builder = by_version.plan(changes)?.project(steps(&by_version)?)?;
    let net = over_versions(builder, &by_version, &[])?;
    let no_mask = lit(ScalarValue::Binary(None));
    Ok(net.project(output(&by_version, no_mask, own)?)?.build()?)
}

/// The same with the columns that any of the updates has changed.
fn changes_with_columns(
    changes: LogicalPlan,
    images: Images<'_>,
    own: &Schema,
) -> Result<LogicalPlan> {
    let fields = own.fields().iter().enumerate();
    let others = fields.filter(|(_, field)| !images.keys.contains(field.name()));
    let (ids, values): (Vec<u32>, Vec<FieldRef>) = others
        .map(|(index, field)| (index as u32 + 1, Arc::clone(field)))
        .unzip();
    let by_version = Images {
        by_version: true,
        values,
        ..images
    };
    let names: Vec<String> = ids.iter().map(|id| format!("__changed_{id}")).collect();
    let is_update = || existed().and(exists());
    let changed = names.iter().enumerate().map(|(index, name)| {
        let differs = by_version.differs(index);
        is_update().and(differs).alias(name)
    });
    let columns: Vec<Expr> = steps(&by_version)?.into_iter().chain(changed).collect();
    let builder = by_version.plan(changes)?.project(columns)?;
    let net = over_versions(builder, &by_version, &names)?;
    let mask = Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(change_columns_mask(ids)),
        names.iter().map(ident).collect(),
    ));
    // a row that has left and come back is another one in all columns
    let is_updated = is_update().and(created_version().is_null());
    let mask = when(is_updated, mask).otherwise(lit(ScalarValue::Binary(None)))?;
    Ok(net.project(output(&by_version, mask, own)?)?.build()?)
}

/// One row: when the row of a key has changed last.
fn version_of(
    changes: LogicalPlan,
    images: &Images<'_>,
    values: &[(String, ScalarValue)],
) -> Result<LogicalPlan> {
    let same = values
        .iter()
        .map(|(name, value)| ident(name).eq(lit(value.clone())));
    let mut builder = LogicalPlanBuilder::from(changes);
    for condition in same {
        builder = builder.filter(condition)?;
    }
    let of_keys = images.plan(builder.build()?)?;
    let version = last_version().alias(SYS_CHANGE_VERSION);
    let steps = vec![version, context(images).alias(CONTEXT)];
    let by_version = vec![ident(SYS_CHANGE_VERSION).sort(true, true)];
    let last = vec![
        max(ident(SYS_CHANGE_VERSION)).alias(SYS_CHANGE_VERSION),
        last_value(ident(CONTEXT), by_version).alias("sys_change_context"),
    ];
    let keys = values
        .iter()
        .map(|(name, value)| cast(lit(value.clone()), value.data_type()).alias(name));
    let columns = [SYS_CHANGE_VERSION, "sys_change_context"].map(ident);
    Ok(of_keys
        .project(steps)?
        .aggregate(Vec::<Expr>::new(), last)?
        .project(columns.into_iter().chain(keys).collect::<Vec<_>>())?
        .build()?)
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
        let Some(plan) = self.plan(filters, wants_mask).await? else {
            let schema = match projection {
                Some(indices) => Arc::new(self.schema.project(indices)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let has = Arc::clone(plan.schema());
        let columns = projection.unwrap_or(&all).iter().map(|index| {
            let field = self.schema.field(*index);
            match has.has_column_with_unqualified_name(field.name()) {
                true => Ok(ident(field.name())),
                // the table had no such column yet
                false => Ok(lit(ScalarValue::try_from(field.data_type())?).alias(field.name())),
            }
        });
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        let builder = LogicalPlanBuilder::from(plan).project(columns)?;
        let plan = state.create_physical_plan(&builder.build()?).await?;
        let wanted = match projection {
            Some(indices) => Arc::new(self.schema.project(indices)?),
            None => Arc::clone(&self.schema),
        };
        Ok(crate::sql::query_source::as_schema(plan, &wanted)?)
    }
}

/// The changes that a log tells, as a table; without a log there are none.
#[derive(Debug)]
struct FeedRelation {
    log: Option<FeedLog>,
    schema: SchemaRef,
    /// Whose versions errors are told in.
    tracking: DeltaTracking,
}

#[async_trait]
impl TableProvider for FeedRelation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Some(log) = self.log.clone() else {
            let schema = match projection {
                Some(indices) => Arc::new(self.schema.project(indices)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        let read = ChangeRead {
            state,
            projection,
            filters,
            limit,
        };
        match log.plan(read).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.tracking.in_tracking_versions(error).await.into()),
        }
    }
}
