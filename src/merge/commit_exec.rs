//! The single-partition end of every write: joins what the writers report, and commits.
//!
//! A lost race that matters is answered by planning the statement again on the new version, a bounded number of times. Files
//! that no commit names are removed. Its output is one row with the number of affected rows.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::Utc;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::physical_expr::expressions::{Column, col};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, InputDistributionRequirements,
    PlanProperties,
};
use futures::{StreamExt, stream};
use object_store::path::Path;
use roaring::RoaringTreemap;

use super::estimate::{Estimate, MergeOutline};
use super::gather_exec::GatherExec;
use super::key_check::KeyCheck;
use super::key_collect::source_rows;
use super::outcome::Outcome;
use super::rewrite::{Replaced, replace_files};
use super::row_format::{RowFormat, new_name};
use super::unique_exec::RepeatedKeys;
use super::write_exec::{
    Marks, RowCounts, RowWriteExec, WriteSpec, Written, count_changes, decode,
};
use crate::delta::actions::{Action, Add, decode_path};
use crate::delta::computed::with_high_water_marks;
use crate::delta::scan_source::files_opened;
use crate::delta::snapshot::Snapshot;
use crate::delta::stats::live_records;
use crate::delta::tracking::{CONTEXT_PARAMETER, CommitContext, encode_context};
use crate::delta::transaction::{CommitOutcome, Operation, ReadSet, Transaction, after_commit};
use crate::delta::unnamed_files::UnnamedFiles;
use crate::error::{Error, Result};

/// How often a statement is planned again after another writer got in its way.
const MAX_REPLANS: u32 = 10;

/// Which files a commit removes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// None but those whose rows are all marked.
    Marked,
    /// Every file of the base version.
    All,
}

/// All that a commit needs beside the rows.
#[derive(Debug, Clone)]
pub(crate) struct CommitPlan {
    /// The version that was read; absent when the table is created.
    pub base: Option<Arc<Snapshot>>,
    pub write: WriteSpec,
    /// The files of the target's scan, by ordinal.
    pub scanned: Arc<Vec<Arc<Add>>>,
    pub removal: Removal,
    /// Makes sure that the rows have keys that no other row has.
    pub key_check: Option<KeyCheck>,
    /// Actions that come first: protocol, metadata.
    pub prelude: Vec<Action>,
    pub operation: Operation,
    pub reads: ReadSet,
    /// What is known of a MERGE.
    pub outline: Option<MergeOutline>,
    pub session: Arc<SessionState>,
}

/// Plans a statement on the newest version.
#[async_trait]
pub(crate) trait Replan: fmt::Debug + Send + Sync {
    /// The rows, and how to commit them; `None` for a statement whose rows cannot be had anew.
    async fn replan(&self) -> Result<Option<(Arc<dyn ExecutionPlan>, CommitPlan)>>;
}

/// Commits what its input writes.
#[derive(Debug)]
pub(crate) struct CommitExec {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<CommitPlan>,
    statement: Option<Arc<dyn Replan>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl CommitExec {
    /// Writes and commits `rows`, whose columns are those of `plan.write.format`.
    pub(crate) fn new(
        rows: Arc<dyn ExecutionPlan>,
        plan: CommitPlan,
        statement: Option<Arc<dyn Replan>>,
    ) -> Result<Self> {
        let writers = writers(rows, &plan)?;
        Ok(Self::over(writers, Arc::new(plan), statement))
    }

    fn over(
        input: Arc<dyn ExecutionPlan>,
        plan: Arc<CommitPlan>,
        statement: Option<Arc<dyn Replan>>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(count_schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            plan,
            statement,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl CommitExec {
    /// Writes and commits, `progress` together with the rows.
    pub(crate) async fn commit(
        &self,
        progress: Vec<Action>,
        context: Arc<TaskContext>,
    ) -> Result<Committed> {
        let mut plan = self.plan.as_ref().clone();
        plan.prelude.extend(progress);
        let run = Run {
            input: Arc::clone(&self.input),
            plan: Arc::new(plan),
            statement: self.statement.clone(),
            context,
        };
        let outcome = run.commit().await?;
        self.record(&outcome);
        Ok(Committed {
            rows: outcome.rows,
            version: outcome.version,
        })
    }

    /// What the rows would do: nothing is written.
    pub(crate) async fn preview(&self, context: Arc<TaskContext>) -> Result<Preview> {
        let mut preview = Preview::default();
        let mut files = RoaringTreemap::new();
        for rows in find_writers(&self.input) {
            let mut rows = CoalescePartitionsExec::new(rows).execute(0, Arc::clone(&context))?;
            while let Some(batch) = rows.next().await {
                count_changes(
                    &batch?,
                    self.plan.write.format,
                    &mut preview.rows,
                    &mut files,
                );
            }
        }
        preview.files = files.len();
        Ok(preview)
    }

    fn record(&self, outcome: &Outcome) {
        record(&self.metrics, outcome);
    }

    /// The table that is written, and the version that is read.
    pub(crate) fn plan(&self) -> &CommitPlan {
        &self.plan
    }
}

fn record(metrics: &ExecutionPlanMetricsSet, outcome: &Outcome) {
    let affected = MetricBuilder::new(metrics).global_counter("affected_rows");
    affected.add(usize::try_from(outcome.rows.total()).unwrap_or(usize::MAX));
    outcome.record(metrics);
}

/// What became of a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub rows: RowCounts,
    /// Absent when there was nothing to commit.
    pub version: Option<i64>,
}

/// What a commit would do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Preview {
    pub rows: RowCounts,
    /// Files of the target with rows that would be updated or deleted.
    pub files: u64,
}

/// The inputs of the writers in a plan.
fn find_writers(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    if plan.downcast_ref::<RowWriteExec>().is_some() {
        return plan.children().into_iter().map(Arc::clone).collect();
    }
    plan.children().into_iter().flat_map(find_writers).collect()
}

/// The writers of rows. What they require of their input is seen to here, since a statement that is planned again meets no
/// optimizer that would.
fn writers(rows: Arc<dyn ExecutionPlan>, plan: &CommitPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let spec = &plan.write;
    let partitions = rows.properties().output_partitioning().partition_count();
    let by_address = spec.address(&rows.schema());
    let together = by_address.or_else(|| partition_values(&rows.schema(), spec));
    let rows: Arc<dyn ExecutionPlan> = match together {
        Some(_) if partitions == 1 => rows,
        Some(columns) => Arc::new(RepartitionExec::try_new(
            rows,
            Partitioning::Hash(columns, partitions),
        )?),
        None => {
            let most = plan.session.config().target_partitions();
            Arc::new(GatherExec::new(rows, most))
        }
    };
    Ok(Arc::new(CoalescePartitionsExec::new(Arc::new(
        RowWriteExec::new(rows, spec.clone()),
    ))))
}

/// The columns by which a partitioned table is: the rows of each of its partitions go through one writer, into one file.
fn partition_values(rows: &Schema, spec: &WriteSpec) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    let columns = spec.target.layout.partition_columns();
    if columns.is_empty() || !spec.format.has_new_values() {
        return None;
    }
    let column = |index: &usize| match spec.format {
        RowFormat::Inserts => {
            let name = rows.fields().get(*index)?.name();
            Some(Arc::new(Column::new(name, *index)) as Arc<dyn PhysicalExpr>)
        }
        RowFormat::Actions { .. } => col(&new_name(*index), rows).ok(),
    };
    columns.iter().map(column).collect()
}

impl DisplayAs for CommitExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        let strategy = if self.plan.write.target.properties.deletion_vectors {
            "deletion vectors"
        } else {
            "copy-on-write"
        };
        let table = self.plan.write.target.table.name();
        let operation = &self.plan.operation.name;
        match &self.plan.base {
            Some(base) => {
                let version = base.version() + 1;
                write!(
                    f,
                    "CommitExec: table={table}, operation={operation}, version={version}, {strategy}"
                )?;
                if let Some(outline) = &self.plan.outline {
                    write!(f, ", join={}", outline.join)?;
                }
                if self.plan.outline.is_some() || !self.plan.scanned.is_empty() {
                    write!(f, ", files={}", self.plan.scanned.len())?;
                }
                if let Some(MergeOutline { keys, .. }) = &self.plan.outline
                    && !keys.is_empty()
                {
                    write!(f, ", pruned_by=[{}]", keys.join(", "))?;
                }
                write!(f, "{}", Estimate::of(&self.plan, &self.input))
            }
            None => write!(
                f,
                "CommitExec: table={table}, operation={operation}, version=0"
            ),
        }
    }
}

impl ExecutionPlan for CommitExec {
    fn name(&self) -> &'static str {
        "CommitExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
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
        Ok(Arc::new(Self::over(
            children.remove(0),
            Arc::clone(&self.plan),
            self.statement.clone(),
        )))
    }

    fn execute(
        &self,
        _: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let run = Run {
            input: Arc::clone(&self.input),
            plan: Arc::clone(&self.plan),
            statement: self.statement.clone(),
            context,
        };
        let metrics = self.metrics.clone();
        let table = self.plan.write.target.table.clone();
        let (sender, receiver) = futures::channel::oneshot::channel();
        let commit = async move {
            let outcome = run.commit().await?;
            record(&metrics, &outcome);
            let _ = sender.send(outcome.version);
            let count: ArrayRef = Arc::new(UInt64Array::from(vec![outcome.rows.total()]));
            Ok(RecordBatch::try_new(count_schema(), vec![count])?)
        };
        // the statement has returned its row by then
        let checkpoint = async move {
            if let Ok(Some(version)) = receiver.await {
                after_commit(&table, version).await;
            }
            None
        };
        let stream =
            stream::once(commit).chain(stream::once(checkpoint).filter_map(std::future::ready));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            count_schema(),
            stream,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Waits longer each time, and never as long as the other loser does.
fn back_off(replans: u32) -> Duration {
    let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    Duration::from_millis((10 << replans.min(5)) * (64 + random) / 256)
}

/// The schema of every write's result: how many rows were affected.
fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(
        "count",
        DataType::UInt64,
        false,
    )]))
}

/// One execution.
struct Run {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<CommitPlan>,
    statement: Option<Arc<dyn Replan>>,
    context: Arc<TaskContext>,
}

impl Run {
    /// Writes and commits until the commit gets through.
    async fn commit(mut self) -> Result<Outcome> {
        for replans in 0.. {
            // what is in there when this ends is removed
            let files = UnnamedFiles::new(self.plan.write.target.table.store());
            match self.attempt(&files).await {
                Ok(Attempt::Done(outcome)) => return Ok(outcome),
                Ok(Attempt::Lost(conflict)) => {
                    files.remove().await;
                    let Some(statement) = self.statement.as_ref().filter(|_| replans < MAX_REPLANS)
                    else {
                        return Err(conflict);
                    };
                    tokio::time::sleep(back_off(replans)).await;
                    let Some((rows, plan)) = statement.replan().await? else {
                        return Err(conflict);
                    };
                    self.input = writers(rows, &plan)?;
                    self.plan = Arc::new(plan);
                }
                Err(error) if RepeatedKeys::is_cause_of(&error) => {
                    files.remove().await;
                    self.compare_keys(error).await?;
                }
                Err(error) => {
                    files.remove().await;
                    return Err(error);
                }
            }
        }
        Err(Error::internal("the commit loop ended"))
    }

    /// Finds out whether keys are there twice or only look so, and lets the rows be taken once more if they do.
    async fn compare_keys(&mut self, error: Error) -> Result<()> {
        let plan = self.plan.as_ref();
        let (Some(check), Some(base)) = (&plan.key_check, &plan.base) else {
            return Err(error);
        };
        check.compare(base, &plan.session).await?;
        self.input = writers(check.rows_again()?, plan)?;
        self.plan = Arc::new(CommitPlan {
            key_check: None,
            ..plan.clone()
        });
        Ok(())
    }

    async fn attempt(&self, files: &UnnamedFiles) -> Result<Attempt> {
        let started = Instant::now();
        let mut report = self.write_rows(files).await?;
        let written = Instant::now();
        if let (Some(check), Some(base)) = (&self.plan.key_check, &self.plan.base) {
            check
                .look_up(base, &self.plan.session, &self.context)
                .await?;
        }
        let mut actions = self.plan.prelude.clone();
        self.remember_identities(&report.identities, &mut actions)?;
        let mut changed =
            replace_files(&self.plan, std::mem::take(&mut report.marks), files).await?;
        actions.append(&mut changed.actions);
        let mut rows_replaced = 0;
        if let (Removal::All, Some(base)) = (self.plan.removal, &self.plan.base) {
            let now = Utc::now().timestamp_millis();
            let active = base.files().await?;
            rows_replaced = active.iter().filter_map(|file| live_records(file)).sum();
            if self.plan.operation.name == "TRUNCATE" {
                report.counts.deleted = std::mem::take(&mut rows_replaced);
            }
            let removes = active.iter().map(|file| file.to_remove(now, true));
            actions.extend(removes.map(Action::Remove));
        }
        actions.extend(report.adds.iter().cloned().map(Action::Add));
        let unneeded = match can_be_inferred(&report.counts, &changed) {
            true => std::mem::take(&mut report.cdc),
            false => vec![],
        };
        actions.append(&mut report.cdc);
        let mut outcome = self.outcome(&report, &actions);
        outcome.files_rewritten = changed.files_copied;
        outcome.rows_copied = changed.rows_copied;
        outcome.rows_replaced = rows_replaced;
        outcome.scan_time = written - started;
        outcome.rewrite_time = written.elapsed();
        if actions.is_empty() {
            return Ok(Attempt::Done(outcome));
        }
        let mut operation = self.plan.operation.clone();
        let config = self.plan.session.config();
        if let Some(context) = config.get_extension::<CommitContext>() {
            operation = operation.with_parameter(CONTEXT_PARAMETER, encode_context(&context.0));
        }
        outcome.describe(&mut operation);
        let transaction = Transaction {
            table: self.plan.write.target.table.clone(),
            base: self.plan.base.clone(),
            operation,
            actions,
            touched: match self.plan.reads {
                ReadSet::Rows { .. } => changed.touched,
                ReadSet::Nothing | ReadSet::Table => HashMap::new(),
            },
            reads: self.plan.reads.clone(),
        };
        // a commit whose answer is lost may have come about: the files that it names must stay
        let named = files.keep();
        let committed = transaction.commit().await;
        match &committed {
            Ok(CommitOutcome::Conflict(_) | CommitOutcome::Failed(_)) => files.extend(named),
            Ok(CommitOutcome::Committed(_)) | Err(_) => {
                files.extend(unneeded.iter().filter_map(change_file));
            }
        }
        Ok(match committed? {
            CommitOutcome::Committed(version) => Attempt::Done(Outcome {
                version: Some(version),
                ..outcome
            }),
            CommitOutcome::Conflict(conflict) => Attempt::Lost(conflict),
            CommitOutcome::Failed(error) => return Err(error),
        })
    }

    /// Has the table's metadata say which numbers of its identity columns are taken.
    fn remember_identities(&self, taken: &[(usize, i64)], actions: &mut Vec<Action>) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        let new = actions.iter_mut().find_map(|action| match action {
            Action::Metadata(metadata) => Some(metadata),
            _ => None,
        });
        match (new, &self.plan.base) {
            (Some(metadata), _) => *metadata = with_high_water_marks(metadata, taken)?,
            (None, Some(base)) => {
                let metadata = with_high_water_marks(base.metadata(), taken)?;
                actions.push(Action::Metadata(metadata));
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn outcome(&self, report: &Report, actions: &[Action]) -> Outcome {
        let location = self.plan.write.target.table.location();
        let (scanned, opened) = (
            self.plan.scanned.len() as u64,
            files_opened(&self.input, location) as u64,
        );
        // the source may scan the table, too
        let opened = opened.min(scanned);
        let mut outcome = Outcome {
            rows: report.counts,
            source_rows: source_rows(&self.input),
            files_scanned: opened,
            files_pruned: scanned - opened,
            ..Outcome::default()
        };
        outcome.count_files(actions);
        outcome
    }

    async fn write_rows(&self, files: &UnnamedFiles) -> Result<Report> {
        let mut report = Report::default();
        let mut stream = self.input.execute(0, Arc::clone(&self.context))?;
        let mut failure = None;
        // the other writers are drained even when one has failed, to know the files to remove
        while let Some(batch) = stream.next().await {
            match batch {
                Ok(batch) => {
                    let added =
                        decode(&batch).and_then(|written| report.add(&self.plan, written, files));
                    failure = failure.or(added.err());
                }
                Err(error) => failure = failure.or(Some(error.into())),
            }
        }
        failure.map_or(Ok(report), Err)
    }
}

/// Whether readers can tell the changes without change files: of a commit that only inserts, or only deletes by deletion vectors
/// (*Writer Requirements for AddCDCFile*).
fn can_be_inferred(rows: &RowCounts, changed: &Replaced) -> bool {
    rows.updated == 0 && changed.files_copied == 0 && (rows.inserted == 0 || rows.deleted == 0)
}

fn change_file(action: &Action) -> Option<Path> {
    match action {
        Action::Cdc(cdc) => decode_path("", &cdc.path).ok(),
        _ => None,
    }
}

/// How one attempt has ended.
enum Attempt {
    /// Committed, or there was nothing to commit.
    Done(Outcome),
    /// Another writer got in the way; the error says who.
    Lost(Error),
}

/// What all writers report together.
#[derive(Debug, Default)]
struct Report {
    adds: Vec<Add>,
    cdc: Vec<Action>,
    marks: BTreeMap<u32, Marks>,
    counts: RowCounts,
    /// The last numbers that the writers have taken in identity columns.
    identities: Vec<(usize, i64)>,
}

impl Report {
    fn add(
        &mut self,
        plan: &CommitPlan,
        written: Vec<Written>,
        files: &UnnamedFiles,
    ) -> Result<()> {
        for report in written {
            match report {
                Written::Add(add) => {
                    files.extend(decode_path("", &add.path));
                    self.adds.push(add);
                }
                Written::Cdc(cdc) => {
                    files.extend(decode_path("", &cdc.path));
                    self.cdc.push(Action::Cdc(cdc));
                }
                Written::Marks(file, marks) => self.mark(plan, file, marks)?,
                Written::Counts(counts) => self.counts.add(&counts),
                Written::Identities(last) => self.identities.extend(last),
            }
        }
        Ok(())
    }

    /// A row that two writers have marked was matched twice.
    fn mark(&mut self, plan: &CommitPlan, file: u32, marks: Marks) -> Result<()> {
        let all = self.marks.entry(file).or_default();
        let before = all.gone.len() + all.kept.len();
        let more = marks.gone.len() + marks.kept.len();
        all.gone |= marks.gone;
        all.kept |= marks.kept;
        let repeated = before + more - (&all.gone | &all.kept).len();
        if repeated == 0 {
            return Ok(());
        }
        if plan.write.unique_matches {
            return Err(Error::MultipleMatches {
                table: plan.write.target.table.name().into(),
                rows: repeated,
            });
        }
        // the same deletion reported twice is one deletion
        self.counts.deleted = self.counts.deleted.saturating_sub(repeated);
        Ok(())
    }
}
