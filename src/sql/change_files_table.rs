//! Change-marked files as tables: their current state, the rows that were set aside (`"t$rejected"`), and the versions with what
//! each has done (`change_versions('t')`).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, ident, lit, when,
};
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::changes_table::ChangesTable;
use super::query_source::project;
use crate::change::{Bound, CHANGE_TYPE, COMMIT_VERSION, ChangeBounds, ChangeType};
use crate::error::Result;
use crate::source::{ChangeFiles, ChangeSource, KnownFile, rejected_schema};
use crate::sync::CurrentRows;

/// The current state of the files at a location: the last change of each key, deletes applied.
#[derive(Debug, Clone)]
pub(crate) struct ChangeFilesTable {
    files: ChangeFiles,
    schema: SchemaRef,
}

impl ChangeFilesTable {
    /// The state, with the columns that the files have now.
    ///
    /// # Errors
    /// When the location cannot be read, or has no file to tell the columns.
    pub(crate) async fn try_new(files: ChangeFiles) -> Result<Self> {
        // both of the same moment
        let now = files.pinned();
        let schema = now.schema(None).await?;
        let own = now.columns().await?.fields().len();
        let own: Vec<usize> = (0..own).collect();
        Ok(Self {
            schema: Arc::new(schema.project(&own)?),
            files,
        })
    }

    /// The same with the columns that the files have by now.
    pub(crate) async fn refreshed(&self) -> Result<Self> {
        Self::try_new(self.files.clone()).await
    }

    /// The source.
    pub(crate) fn files(&self) -> &ChangeFiles {
        &self.files
    }
}

#[async_trait]
impl TableProvider for ChangeFilesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
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
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = CurrentRows {
            source: Arc::new(self.files.pinned()),
            columns: &self.schema,
        };
        Ok(rows.plan(state, projection, filters).await?)
    }
}

/// The rows that were set aside.
#[derive(Debug)]
pub(crate) struct RejectedTable {
    files: ChangeFiles,
}

impl RejectedTable {
    /// Those of `files`.
    pub(crate) fn new(files: ChangeFiles) -> Self {
        Self { files }
    }
}

#[async_trait]
impl TableProvider for RejectedTable {
    fn schema(&self) -> SchemaRef {
        rejected_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(project(self.files.rejected(state).await?, projection)?)
    }
}

/// The versions and their files.
#[derive(Debug)]
pub(crate) struct VersionsTable {
    files: ChangeFiles,
}

/// Columns from here on are counted by reading the files.
const FIRST_COUNT: usize = 7;
/// These say whether the file is there.
const READABLE: std::ops::Range<usize> = 2..4;

impl VersionsTable {
    /// Those of `files`.
    pub(crate) fn new(files: ChangeFiles) -> Self {
        Self { files }
    }

    fn columns() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![
            Field::new("version", DataType::Int64, false),
            Field::new("timestamp", time, false),
            Field::new("readable", DataType::Boolean, false),
            Field::new("reason", DataType::Utf8, true),
            Field::new("file", DataType::Utf8, false),
            Field::new("size_bytes", DataType::Int64, false),
            Field::new("e_tag", DataType::Utf8, true),
            number("rows"),
            number("upserts"),
            number("deletes"),
            number("rejected"),
        ]))
    }

    /// Rows and deletes by version, of the files that are there.
    async fn changes(
        &self,
        state: &dyn Session,
        files: &ChangeFiles,
        versions: &[KnownFile],
    ) -> Result<Counts> {
        let mut counts = Counts::new();
        // read run by run: a version whose file is gone lies in none
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for file in versions.iter().filter(|file| file.is_there) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == file.version => *last = file.version,
                _ => runs.push((file.version, file.version)),
            }
        }
        for (first, last) in runs {
            let bounds = ChangeBounds {
                since: Bound::Version(first - 1),
                until: Some(Bound::Version(last)),
            };
            let schema = files.schema(Some(last)).await?;
            let table = ChangesTable::new(Arc::new(files.clone()), schema, bounds);
            let changes =
                LogicalPlanBuilder::scan("changes", provider_as_source(Arc::new(table)), None)?;
            let is_delete = ident(CHANGE_TYPE).eq(lit(ChangeType::Delete.as_str()));
            let deletes = when(is_delete, lit(1_i64)).otherwise(lit(0_i64))?;
            let counted = changes.aggregate(
                vec![ident(COMMIT_VERSION)],
                vec![count(lit(1_i64)), sum(deletes)],
            )?;
            add_counts(&mut counts, state, counted.build()?).await?;
        }
        Ok(counts)
    }

    async fn set_aside(&self, state: &dyn Session, files: &ChangeFiles) -> Result<Counts> {
        let table = provider_as_source(Arc::new(RejectedTable::new(files.clone())));
        let counted = LogicalPlanBuilder::scan("rejected", table, None)?.aggregate(
            vec![ident(COMMIT_VERSION)],
            vec![count(lit(1_i64)), sum(lit(0_i64))],
        )?;
        let mut counts = Counts::new();
        add_counts(&mut counts, state, counted.build()?).await?;
        Ok(counts)
    }
}

/// Rows, and how many of them are deletes, by version.
type Counts = HashMap<i64, (i64, i64)>;

async fn add_counts(counts: &mut Counts, state: &dyn Session, plan: LogicalPlan) -> Result<()> {
    let plan = state.create_physical_plan(&plan).await?;
    for batch in collect(plan, state.task_ctx()).await? {
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>();
        let (versions, rows, deletes) = (column(0), column(1), column(2));
        for row in 0..batch.num_rows() {
            counts.insert(versions.value(row), (rows.value(row), deletes.value(row)));
        }
    }
    Ok(())
}

#[async_trait]
impl TableProvider for VersionsTable {
    fn schema(&self) -> SchemaRef {
        Self::columns()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let files = self.files.pinned();
        let reads = |columns: std::ops::Range<usize>| {
            projection
                .is_none_or(|projection| projection.iter().any(|index| columns.contains(index)))
        };
        let is_counted = reads(FIRST_COUNT..usize::MAX);
        let versions = files.versions(is_counted || reads(READABLE)).await?;
        let (changes, rejected) = if is_counted && !versions.is_empty() {
            let changes = self.changes(state, &files, &versions).await?;
            (changes, self.set_aside(state, &files).await?)
        } else {
            (Counts::new(), Counts::new())
        };
        let of = |counts: &Counts, version: i64| counts.get(&version).copied().unwrap_or_default();
        let counted = |value: &dyn Fn(i64) -> i64| -> ArrayRef {
            let values = versions
                .iter()
                .map(|file| (is_counted && file.is_there).then(|| value(file.version)));
            Arc::new(Int64Array::from_iter(values))
        };
        let times = versions.iter().map(|file| file.time);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let gone = "the file has been removed or replaced since";
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                versions.iter().map(|file| file.version),
            )),
            Arc::new(times),
            Arc::new(BooleanArray::from_iter(
                versions.iter().map(|file| Some(file.is_there)),
            )),
            Arc::new(StringArray::from_iter(
                versions.iter().map(|file| (!file.is_there).then_some(gone)),
            )),
            Arc::new(StringArray::from_iter_values(
                versions.iter().map(|file| &file.path),
            )),
            Arc::new(Int64Array::from_iter_values(
                versions.iter().map(|file| file.size.cast_signed()),
            )),
            Arc::new(StringArray::from_iter(
                versions.iter().map(|file| file.e_tag.as_deref()),
            )),
            counted(&|version| of(&changes, version).0 + of(&rejected, version).0),
            counted(&|version| of(&changes, version).0 - of(&changes, version).1),
            counted(&|version| of(&changes, version).1),
            counted(&|version| of(&rejected, version).0),
        ];
        let batch = RecordBatch::try_new(Self::columns(), columns)?;
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            Self::columns(),
            projection.cloned(),
        )?)
    }
}
