//! Writes the rows of one partition and reports what the commit must say about them.
//!
//! Input rows are in a [`RowFormat`]; output rows are [`action_rows`]: an `add` or `cdc` action as JSON for each file written, for
//! each file with marked rows a pair of bitmaps, and the row counts.

use std::collections::BTreeMap;
use std::fmt::{self, Formatter};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter;
use arrow::datatypes::{FieldRef, Int8Type, Int64Type, Schema, UInt32Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements,
    PlanProperties,
};
use futures::{StreamExt, stream};
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::identity_values::IdentityValues;
use super::row_format::{FILE, ROW, RowAction, RowFormat, action_rows};
use super::row_rules::RowRules;
use crate::change::ChangeType;
use crate::delta::actions::{Add, AddCdcFile};
use crate::delta::data_file::{ChangeFileWriter, DataFileWriter, WriteTarget};
use crate::delta::row_tracking::RowTracking;
use crate::delta::unnamed_files::UnnamedFiles;
use crate::error::{Error, Result};

/// How the rows are written.
#[derive(Debug, Clone)]
pub(crate) struct WriteSpec {
    pub target: WriteTarget,
    pub format: RowFormat,
    pub rules: RowRules,
    /// Whether change rows are written beside the data.
    pub change_rows: bool,
    /// Whether a row that is matched twice is an error, or the same deletion twice.
    pub unique_matches: bool,
}

impl WriteSpec {
    /// The column of the new files that keeps the ids of updated rows.
    fn row_id(&self) -> Option<FieldRef> {
        let kept = self.target.properties.row_tracking.as_ref();
        kept.filter(|_| self.format.has_row_ids())
            .map(RowTracking::row_id)
    }

    /// The columns whose equal rows one writer must see: where a row may be deleted twice and yet is one row of the feed, the
    /// columns of its address.
    pub(crate) fn address(&self, rows: &Schema) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
        if !self.change_rows || self.unique_matches {
            return None;
        }
        [FILE, ROW]
            .into_iter()
            .map(|name| col(name, rows).ok())
            .collect()
    }
}

/// What was done to rows, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowCounts {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Of those updated, the ones that no row of the source matches.
    #[serde(default)]
    pub updated_by_source: u64,
    /// Of those deleted, the ones that no row of the source matches.
    #[serde(default)]
    pub deleted_by_source: u64,
    /// Matched, and left as they are.
    #[serde(default)]
    pub unchanged: u64,
}

impl RowCounts {
    /// Rows affected, as SQL counts them.
    pub(crate) fn total(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    /// Counts what another writer has done, too.
    pub(crate) fn add(&mut self, other: &Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.updated_by_source += other.updated_by_source;
        self.deleted_by_source += other.deleted_by_source;
        self.unchanged += other.unchanged;
    }
}

/// The rows of one file that were matched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    /// Updated or deleted: gone from the file.
    pub gone: RoaringTreemap,
    /// Matched, but left as they are.
    pub kept: RoaringTreemap,
}

/// What a partition reports.
#[derive(Debug)]
pub(crate) enum Written {
    Add(Add),
    Cdc(AddCdcFile),
    Marks(u32, Marks),
    Counts(RowCounts),
    /// The last number taken in each identity column, by its position.
    Identities(Vec<(usize, i64)>),
}

/// Writes every partition of its input.
#[derive(Debug)]
pub(crate) struct RowWriteExec {
    input: Arc<dyn ExecutionPlan>,
    spec: WriteSpec,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RowWriteExec {
    /// Writes `input`, whose columns are those of `spec.format`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, spec: WriteSpec) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(action_rows()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            spec,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for RowWriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RowWriteExec: table={}, change_rows={}",
            self.spec.target.table.name(),
            self.spec.change_rows
        )
    }
}

impl ExecutionPlan for RowWriteExec {
    fn name(&self) -> &'static str {
        "RowWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let anyhow = Distribution::UnspecifiedDistribution;
        let distribution = self
            .spec
            .address(&self.input.schema())
            .map_or(anyhow, Distribution::KeyPartitioned);
        InputDistributionRequirements::new(vec![distribution])
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // a row matched twice must stay with its twin, and one file is better than slivers
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.remove(0), self.spec.clone())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let rows_written = MetricBuilder::new(&self.metrics).counter("rows_written", partition);
        let partitions = self.properties.output_partitioning().partition_count();
        let layout = &self.spec.target.layout;
        let identities = IdentityValues::new(layout, partition, partitions);
        let writer = PartitionWriter::new(self.spec.clone(), identities);
        let written = async move { Ok(writer.write_all(input, &rows_written).await?) };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            action_rows(),
            stream::once(written),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

fn is_update(action: i8) -> bool {
    action == RowAction::Update as i8 || action == RowAction::UpdateBySource as i8
}

fn is_delete(action: i8) -> bool {
    action == RowAction::Delete as i8 || action == RowAction::DeleteBySource as i8
}

/// Counts what rows of a format would do, and the ordinals of the files they would mark.
pub(crate) fn count_changes(
    batch: &RecordBatch,
    format: RowFormat,
    counts: &mut RowCounts,
    files: &mut RoaringTreemap,
) {
    if format == RowFormat::Inserts {
        counts.inserted += batch.num_rows() as u64;
        return;
    }
    let actions = batch.column(0).as_primitive::<Int8Type>();
    let addresses = batch.column(1).as_primitive::<UInt32Type>();
    for row in 0..batch.num_rows() {
        let action = actions.value(row);
        let count = match action {
            _ if action == RowAction::Insert as i8 => &mut counts.inserted,
            _ if is_update(action) => &mut counts.updated,
            _ if is_delete(action) => &mut counts.deleted,
            _ => continue,
        };
        *count += 1;
        if addresses.is_valid(row) {
            files.insert(addresses.value(row).into());
        }
    }
}

/// The files and bitmaps of one partition.
struct PartitionWriter {
    spec: WriteSpec,
    /// What is removed unless it is reported.
    files: UnnamedFiles,
    data: DataFileWriter,
    changes: ChangeFileWriter,
    marks: BTreeMap<u32, Marks>,
    counts: RowCounts,
    identities: IdentityValues,
}

impl PartitionWriter {
    fn new(spec: WriteSpec, identities: IdentityValues) -> Self {
        let files = UnnamedFiles::new(spec.target.table.store());
        let row_id = spec.row_id().into_iter().collect();
        Self {
            data: DataFileWriter::new(&spec.target, row_id, &files),
            changes: ChangeFileWriter::new(&spec.target, &files),
            files,
            spec,
            marks: BTreeMap::new(),
            counts: RowCounts::default(),
            identities,
        }
    }

    async fn write_all(
        mut self,
        mut input: SendableRecordBatchStream,
        rows_written: &datafusion::physical_plan::metrics::Count,
    ) -> Result<RecordBatch> {
        while let Some(batch) = input.next().await {
            let batch = batch?;
            rows_written.add(batch.num_rows());
            match self.spec.format {
                RowFormat::Inserts => self.insert_all(&batch).await?,
                RowFormat::Actions { .. } => self.apply(&batch).await?,
            }
        }
        let mut written: Vec<Written> = self
            .data
            .close()
            .await?
            .into_iter()
            .map(Written::Add)
            .collect();
        written.extend(self.changes.close().await?.into_iter().map(Written::Cdc));
        written.extend(
            self.marks
                .into_iter()
                .map(|(file, marks)| Written::Marks(file, marks)),
        );
        written.push(Written::Counts(self.counts));
        written.push(Written::Identities(self.identities.high_water_marks()));
        let report = encode(&written)?;
        self.files.keep();
        Ok(report)
    }

    async fn insert_all(&mut self, batch: &RecordBatch) -> Result<()> {
        self.counts.inserted += batch.num_rows() as u64;
        let rules = &self.spec.rules;
        let rows = rules.complete(batch.columns().to_vec(), None, &mut self.identities)?;
        self.data.write(&rules.check(rows)?).await
    }

    async fn apply(&mut self, batch: &RecordBatch) -> Result<()> {
        let actions = batch.column(0).as_primitive::<Int8Type>();
        // a row of the table that is deleted twice by one statement is deleted once
        let fresh = self.mark(batch)?;
        let of = |is_one: &dyn Fn(i8) -> bool| -> BooleanArray {
            let found = actions.values().iter().zip(&fresh);
            let found = found.map(|(action, fresh)| is_one(*action) && *fresh);
            BooleanBuffer::from_iter(found).into()
        };
        let count = |wanted: RowAction| {
            let is_one = |action: i8| action == wanted as i8;
            of(&is_one).true_count() as u64
        };
        let (inserted, updated, deleted) = (
            of(&|action| action == RowAction::Insert as i8),
            of(&is_update),
            of(&is_delete),
        );
        self.counts.add(&RowCounts {
            inserted: inserted.true_count() as u64,
            updated: updated.true_count() as u64,
            deleted: deleted.true_count() as u64,
            updated_by_source: count(RowAction::UpdateBySource),
            deleted_by_source: count(RowAction::DeleteBySource),
            unchanged: count(RowAction::Keep),
        });
        let completed = self.complete(batch, &inserted)?;
        let batch = &completed;
        if self.spec.format.has_new_values() {
            let written = arrow::compute::or(&inserted, &updated)?;
            self.write_new_rows(batch, &written).await?;
        }
        if self.spec.change_rows {
            self.write_changes(
                batch,
                &[
                    (&deleted, ChangeType::Delete),
                    (&updated, ChangeType::UpdatePreimage),
                    (&updated, ChangeType::UpdatePostimage),
                    (&inserted, ChangeType::Insert),
                ],
            )
            .await?;
        }
        Ok(())
    }

    /// The rows with the values that the table computes itself.
    fn complete(&mut self, batch: &RecordBatch, inserted: &BooleanArray) -> Result<RecordBatch> {
        let (rules, layout) = (&self.spec.rules, &self.spec.target.layout);
        if !self.spec.format.has_new_values() || layout.computed().is_empty() {
            return Ok(batch.clone());
        }
        let start = self.spec.format.control_columns();
        let new = start..start + layout.schema().fields().len();
        let mut columns = batch.columns().to_vec();
        let values = columns.drain(new).collect();
        let values = rules.complete(values, Some(inserted), &mut self.identities)?;
        columns.splice(start..start, values);
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }

    /// Marks the rows of the batch; false for those that were marked before.
    fn mark(&mut self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let actions = batch.column(0).as_primitive::<Int8Type>();
        let files = batch.column(1).as_primitive::<UInt32Type>();
        let rows = batch.column(2).as_primitive::<Int64Type>();
        let mut fresh = vec![true; batch.num_rows()];
        let mut repeated = 0;
        for (index, fresh) in fresh.iter_mut().enumerate() {
            if rows.is_null(index) {
                continue;
            }
            let (file, row) = (
                files.value(index),
                u64::try_from(rows.value(index)).map_err(Error::internal)?,
            );
            let marks = self.marks.entry(file).or_default();
            let kept = actions.value(index) == RowAction::Keep as i8;
            let (ours, other) = if kept {
                (&mut marks.kept, &marks.gone)
            } else {
                (&mut marks.gone, &marks.kept)
            };
            *fresh = ours.insert(row) && !other.contains(row);
            repeated += u64::from(!*fresh);
        }
        if repeated > 0 && self.spec.unique_matches {
            return Err(Error::MultipleMatches {
                table: self.spec.target.table.name().into(),
                rows: repeated,
            });
        }
        Ok(fresh)
    }

    async fn write_new_rows(&mut self, batch: &RecordBatch, rows: &BooleanArray) -> Result<()> {
        if rows.true_count() == 0 {
            return Ok(());
        }
        let columns = self.values(batch, true, rows)?;
        let checked = self.spec.rules.check(columns)?;
        let Some(row_id) = self.spec.row_id() else {
            return self.data.write(&checked).await;
        };
        let ids = batch.column(self.spec.format.control_columns() - 1);
        let fields = checked.schema_ref().fields().iter().cloned();
        let schema = Schema::new(fields.chain([row_id]).collect::<Vec<_>>());
        let mut columns = checked.columns().to_vec();
        columns.push(filter(ids, rows)?);
        let identified = RecordBatch::try_new(Arc::new(schema), columns)?;
        self.data.write(&identified).await
    }

    async fn write_changes(
        &mut self,
        batch: &RecordBatch,
        kinds: &[(&BooleanArray, ChangeType)],
    ) -> Result<()> {
        for (rows, kind) in kinds.iter().filter(|(rows, _)| rows.true_count() > 0) {
            let new = matches!(kind, ChangeType::Insert | ChangeType::UpdatePostimage);
            let mut columns = self.values(batch, new, rows)?;
            columns.push(Arc::new(StringArray::from(vec![
                kind.as_str();
                rows.true_count()
            ])));
            let fields = self
                .spec
                .target
                .layout
                .schema()
                .fields()
                .iter()
                .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
            let fields = fields
                .chain([Arc::clone(&crate::change::change_columns()[0])])
                .collect::<Vec<_>>();
            let changes = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
            self.changes.write(&changes).await?;
        }
        Ok(())
    }

    /// The new or the old values of the chosen rows, in the order of the table's columns.
    fn values(&self, batch: &RecordBatch, new: bool, rows: &BooleanArray) -> Result<Vec<ArrayRef>> {
        let width = self.spec.target.layout.schema().fields().len();
        let after_new = if self.spec.format.has_new_values() {
            width
        } else {
            0
        };
        let start = self.spec.format.control_columns() + if new { 0 } else { after_new };
        let columns = batch
            .columns()
            .get(start..start + width)
            .ok_or_else(|| Error::internal("row changes lack values"))?;
        if rows.true_count() == rows.len() {
            return Ok(columns.to_vec());
        }
        Ok(columns
            .iter()
            .map(|column| filter(column, rows))
            .collect::<Result<_, _>>()?)
    }
}

/// Writes reports as [`action_rows`].
fn encode(written: &[Written]) -> Result<RecordBatch> {
    let (mut kinds, mut files, mut payloads) = (vec![], vec![], vec![]);
    for report in written {
        let (kind, file, payload) = match report {
            Written::Add(add) => ("add", None, serde_json::to_vec(add)?),
            Written::Cdc(cdc) => ("cdc", None, serde_json::to_vec(cdc)?),
            Written::Counts(counts) => ("counts", None, serde_json::to_vec(counts)?),
            Written::Identities(last) => ("identities", None, serde_json::to_vec(last)?),
            Written::Marks(file, marks) => {
                let mut bytes = Vec::new();
                marks.gone.serialize_into(&mut bytes)?;
                marks.kept.serialize_into(&mut bytes)?;
                ("marks", Some(*file), bytes)
            }
        };
        kinds.push(kind);
        files.push(file);
        payloads.push(payload);
    }
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(kinds)),
        Arc::new(UInt32Array::from(files)),
        Arc::new(BinaryArray::from(payloads)),
    ];
    Ok(RecordBatch::try_new(action_rows(), columns)?)
}

/// Reads [`action_rows`] back.
pub(crate) fn decode(batch: &RecordBatch) -> Result<Vec<Written>> {
    let kinds = batch.column(0).as_string::<i32>();
    let files = batch.column(1).as_primitive::<UInt32Type>();
    let payloads = batch.column(2).as_binary::<i32>();
    let rows = (0..batch.num_rows()).map(|row| {
        let mut payload = payloads.value(row);
        Ok(match kinds.value(row) {
            "add" => Written::Add(serde_json::from_slice(payload)?),
            "cdc" => Written::Cdc(serde_json::from_slice(payload)?),
            "counts" => Written::Counts(serde_json::from_slice(payload)?),
            "identities" => Written::Identities(serde_json::from_slice(payload)?),
            _ => {
                let gone = RoaringTreemap::deserialize_from(&mut payload)?;
                let kept = RoaringTreemap::deserialize_from(&mut payload)?;
                Written::Marks(files.value(row), Marks { gone, kept })
            }
        })
    });
    rows.collect()
}
