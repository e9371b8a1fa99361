//! Sequences that a target remembers of rows that it does not have, so that a late change of a deleted key is known to be late.
//!
//! ```text
//!  _alluvial/sequences/<id>.parquet   key columns, sequence, delete or write, when it was recorded; a row without a key is a
//!                                     TRUNCATE. Folders that begin with _ are not read or vacuumed by anybody
//!  txn alluvial.sequences -> <id>     which of the files is this version's
//! ```
//!
//! The file is written before the commit that names it, like a data file. What is remembered is forgotten after the table's
//! `alluvial.tombstoneRetentionDuration` (7 days): a change that is late by more than that is not known to be late.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef};
use chrono::Utc;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::execution::TaskContext;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::physical_plan::{ExecutionPlan, collect};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use uuid::Uuid;

use super::columns::holds;
use super::event::{END, EventLayout, OP, ORDINAL, Op, SEQUENCE, VERSION};
use crate::delta::DeltaTable;
use crate::delta::actions::{Action, Metadata, Txn};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// What the name of that application begins with.
const APPLICATION: &str = "alluvial.sequences";
const FOLDER: &str = "_alluvial/sequences";
/// When a sequence was recorded, in milliseconds since the epoch.
const RECORDED: &str = "__alluvial_recorded";
/// Whether it is the sequence of a delete.
const DELETED: &str = "__alluvial_deleted";

/// What a version of a target remembers, without what is too old.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    /// The file; absent where there is none yet.
    id: Option<i64>,
    /// Rows of keys, sequence, op and time; as in the file.
    batches: Vec<RecordBatch>,
    schema: SchemaRef,
    /// The latest sequence at which the target was emptied.
    truncated: Option<Truncation>,
    /// How many rows of the file are too old.
    forgotten: usize,
}

impl Remembered {
    /// Remembers nothing of what a version does: the next file begins anew.
    pub(super) async fn forget(
        target: Option<&Arc<Snapshot>>,
        layout: &EventLayout,
    ) -> Result<Self> {
        let id = match target {
            Some(target) => target
                .applications()
                .await?
                .get(&application(Some(target.metadata())))
                .map(|txn| txn.version),
            None => None,
        };
        Ok(Self {
            id,
            batches: vec![],
            schema: file_schema(layout),
            truncated: None,
            forgotten: usize::from(id.is_some()),
        })
    }

    /// Reads the file of a version.
    ///
    /// # Errors
    /// When the file has been replaced meanwhile (a conflict, to be tried again) or is gone, or keys or sequence have other types.
    pub(super) async fn load(target: Option<&Arc<Snapshot>>, layout: &EventLayout) -> Result<Self> {
        let mut remembered = Self {
            forgotten: 0,
            ..Self::forget(target, layout).await?
        };
        let (Some(target), Some(id)) = (target, remembered.id) else {
            return Ok(remembered);
        };
        let bytes = match target.table().store().get(&path(id)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(gone(target, id).await?),
            Err(error) => return Err(error.into()),
        };
        let since = Utc::now()
            .timestamp_millis()
            .saturating_sub(target.properties().tombstone_retention_micros / 1000);
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)
            .map_err(Error::parquet)?
            .build()
            .map_err(Error::parquet)?
        {
            let batch = remembered.adapt(&batch?)?;
            let recorded = batch.column(batch.num_columns() - 1);
            let recorded = recorded.as_primitive::<Int64Type>();
            let young = recorded.iter().map(|at| at.map(|at| at >= since)).collect();
            let kept = filter_record_batch(&batch, &young)?;
            remembered.forgotten += batch.num_rows() - kept.num_rows();
            remembered.take(&kept)?;
        }
        Ok(remembered)
    }

    /// Takes the rows of keys, and the one of the table as a whole.
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let key = batch.column(0);
        self.batches
            .push(filter_record_batch(batch, &is_not_null(key)?)?);
        for row in (0..batch.num_rows()).filter(|row| key.is_null(*row)) {
            let sequence = batch.column(batch.num_columns() - 3);
            let recorded = batch.column(batch.num_columns() - 1);
            self.truncated = Some(Truncation {
                sequence: ScalarValue::try_from_array(sequence, row)?,
                recorded: recorded.as_primitive::<Int64Type>().value(row),
            });
        }
        Ok(())
    }

    /// The latest sequence at which the target was emptied.
    pub(super) fn truncated(&self) -> Option<&ScalarValue> {
        self.truncated.as_ref().map(|truncated| &truncated.sequence)
    }

    /// The batch with the columns and types of this statement.
    fn adapt(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| {
            let other = || {
                Error::invalid(format!(
                    "the target remembers the sequences of deleted rows by other keys or types ({}) than this statement's ({}); \
                     use the same KEYS and SEQUENCE BY for all statements into one table",
                    describe(&batch.schema()),
                    describe(&self.schema)
                ))
            };
            let column = batch.column_by_name(field.name()).ok_or_else(other)?;
            let is_same = batch.num_columns() == self.schema.fields().len();
            if !is_same {
                return Err(other());
            }
            let (kept, now) = (column.data_type(), field.data_type());
            if !holds(now, kept) && !holds(kept, now) {
                return Err(other());
            }
            // a value that does not fit must not become NULL
            let exact = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(column, now, &exact).map_err(|_| other())
        });
        Ok(RecordBatch::try_new(
            Arc::clone(&self.schema),
            columns.collect::<Result<Vec<_>>>()?,
        )?)
    }

    /// Whether no row and no TRUNCATE is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.rows() == 0 && self.truncated.is_none()
    }

    /// Whether there has never been a file.
    pub(super) fn is_new(&self) -> bool {
        self.id.is_none()
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// What is remembered as events of `layout`; `None` where that is nothing.
    pub(super) fn events(&self, layout: &EventLayout) -> Result<Option<LogicalPlan>> {
        if self.rows() == 0 {
            return Ok(None);
        }
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![self.batches.clone()])?;
        let scan =
            LogicalPlanBuilder::scan("remembered", provider_as_source(Arc::new(table)), None)?;
        let keys = layout.key_names();
        let mut columns: Vec<Expr> = Vec::with_capacity(layout.width() + 5);
        for field in &layout.columns {
            let name = field.name().as_str();
            let value = if keys.contains(&name) || name == RECORDED {
                ident(name)
            } else {
                lit(ScalarValue::try_from(field.data_type())?)
            };
            columns.push(value.alias(name));
        }
        columns.extend([
            ident(OP).alias(OP),
            ident(SEQUENCE).alias(SEQUENCE),
            lit(ScalarValue::try_from(&layout.sequence)?).alias(END),
            lit(-2_i64).alias(VERSION),
            lit(0_i64).alias(ORDINAL),
        ]);
        columns.extend(layout.carries_all()?);
        Ok(Some(scan.project(columns)?.build()?))
    }

    /// The layout of events that are only about what to remember: keys, and when.
    pub(super) fn layout(layout: &EventLayout) -> EventLayout {
        let mut columns: Vec<_> = layout
            .keys
            .iter()
            .map(|index| Arc::clone(&layout.columns[*index]))
            .collect();
        columns.push(Arc::new(Field::new(RECORDED, DataType::Int64, true)));
        EventLayout {
            keys: (0..layout.keys.len()).collect(),
            ignore_null: vec![false; columns.len()],
            tracked: vec![false; columns.len()],
            may_lack: vec![false; columns.len()],
            refuses_ties: false,
            // what is wrong with the rows their own plan finds out
            checked: false,
            sequence: layout.sequence.clone(),
            columns,
        }
    }

    /// Events of the full layout as events of [`Self::layout`].
    pub(super) fn project(layout: &EventLayout, events: LogicalPlan) -> Result<LogicalPlan> {
        let now = Utc::now().timestamp_millis();
        let mut columns: Vec<Expr> = layout.key_names().into_iter().map(ident).collect();
        columns.push(lit(now).alias(RECORDED));
        columns.extend([OP, SEQUENCE, END, VERSION, ORDINAL].map(ident));
        Ok(LogicalPlanBuilder::from(events).project(columns)?.build()?)
    }
}

/// Everything that a history may need of `events`, once: deletes, and writes, which may have been made in place.
pub(super) fn all_of(events: LogicalPlan, layout: &EventLayout) -> Result<LogicalPlan> {
    let wanted = remembered_ops(true);
    let mut keys: Vec<Expr> = layout.key_names().into_iter().map(ident).collect();
    keys.push(ident(SEQUENCE));
    // the kind as it is remembered, so that a change that comes again is found to be known
    let deletes = ident(OP).in_list(vec![Op::Delete.literal(), Op::Remembered.literal()], false);
    keys.push(deletes.alias(DELETED));
    let grouped = LogicalPlanBuilder::from(events)
        .filter(ident(OP).in_list(wanted, false))?
        .aggregate(
            keys,
            vec![
                // what is known already has the greater op
                max(ident(OP)).alias(OP),
                min(ident(RECORDED)).alias(RECORDED),
            ],
        )?;
    Ok(grouped.build()?)
}

/// The ops of events that are remembered, with those of `writes` if they are.
pub(super) fn remembered_ops(writes: bool) -> Vec<Expr> {
    let mut ops = vec![Op::Delete, Op::Remembered, Op::RememberedWrite];
    if writes {
        ops.extend([Op::Upsert, Op::Replace]);
    }
    ops.into_iter().map(Op::literal).collect()
}

/// The application whose `txn` says which file is current. A table that takes the place of another (CREATE OR REPLACE) has another
/// time of creation and remembers nothing of what was before it.
pub(super) fn application(metadata: Option<&Metadata>) -> String {
    let created = metadata.and_then(|metadata| metadata.created_time);
    format!("{APPLICATION}:{}", created.unwrap_or(0))
}

/// An emptying of the target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Truncation {
    pub sequence: ScalarValue,
    /// In milliseconds since the epoch.
    pub recorded: i64,
}

impl Truncation {
    /// One that is recorded now.
    pub(super) fn new(sequence: ScalarValue) -> Self {
        Self {
            sequence,
            recorded: Utc::now().timestamp_millis(),
        }
    }
}

/// Works out what is to be remembered next, and writes it down.
#[derive(Debug)]
pub(super) struct RememberPlan {
    /// Events of [`Remembered::layout`]: the latest of each key, or all that a history may need.
    pub plan: Arc<dyn ExecutionPlan>,
    pub before: Remembered,
    /// Which writes are to be remembered beside deletes.
    pub writes: bool,
    pub truncated: Option<Truncation>,
    pub table: DeltaTable,
    pub application: String,
}

/// A file that waits for the commit that names it.
#[derive(Debug)]
pub(super) struct RememberedFile {
    table: DeltaTable,
    application: String,
    id: i64,
    before: Option<i64>,
}

impl RememberPlan {
    /// Writes the file; `None` when there is nothing else to remember than before.
    pub(super) async fn write(&self, context: Arc<TaskContext>) -> Result<Option<RememberedFile>> {
        let events = collect(Arc::clone(&self.plan), context).await?;
        let (mut kept, mut news) = (Vec::new(), self.truncated.is_some());
        for batch in &events {
            let ops = batch.column_by_name(OP);
            let ops = ops.ok_or_else(|| Error::internal("events lack the op"))?;
            let ops: Int8Array = ops
                .as_primitive::<Int8Type>()
                .unary_opt(|op| self.remembered(Op::of(op)).map(|op| op as i8));
            let before = batch
                .column_by_name(OP)
                .map(|ops| ops.as_primitive::<Int8Type>());
            news |= before.is_some_and(|before| {
                before
                    .iter()
                    .zip(&ops)
                    .any(|(before, after)| after.is_some() && before != after)
            });
            let batch = self.file_columns(batch, &ops)?;
            kept.push(filter_record_batch(&batch, &is_not_null(&ops)?)?);
        }
        let rows: usize = kept.iter().map(RecordBatch::num_rows).sum();
        if !news && rows == self.before.rows() && self.before.forgotten == 0 {
            return Ok(None);
        }
        let truncated = self.truncated.as_ref().or(self.before.truncated.as_ref());
        if let Some(truncated) = truncated {
            kept.push(self.truncation(truncated)?);
        }
        let id = i64::from_be_bytes(
            Uuid::new_v4().as_bytes()[..8]
                .try_into()
                .unwrap_or_default(),
        ) & i64::MAX;
        let bytes = encode(&self.before.schema, &kept)?;
        self.table.store().put(&path(id), bytes.into()).await?;
        Ok(Some(RememberedFile {
            table: self.table.clone(),
            application: self.application.clone(),
            id,
            before: self.before.id,
        }))
    }

    /// As what an event is remembered, if it is.
    fn remembered(&self, op: Op) -> Option<Op> {
        match op {
            Op::Delete | Op::Remembered => Some(Op::Remembered),
            Op::RememberedWrite => Some(Op::RememberedWrite),
            Op::Upsert | Op::Replace if self.writes => Some(Op::RememberedWrite),
            _ => None,
        }
    }

    fn truncation(&self, truncated: &Truncation) -> Result<RecordBatch> {
        let schema = &self.before.schema;
        let columns = schema.fields().iter().map(|field| {
            let value = match field.name().as_str() {
                SEQUENCE => truncated.sequence.clone(),
                OP => ScalarValue::Int8(Some(Op::Remembered as i8)),
                RECORDED => ScalarValue::Int64(Some(truncated.recorded)),
                _ => ScalarValue::try_from(field.data_type())?,
            };
            value.to_array()
        });
        Ok(RecordBatch::try_new(
            Arc::clone(schema),
            columns.collect::<datafusion::error::Result<Vec<_>>>()?,
        )?)
    }

    fn file_columns(&self, batch: &RecordBatch, ops: &Int8Array) -> Result<RecordBatch> {
        let schema = &self.before.schema;
        let columns = schema.fields().iter().map(|field| {
            if field.name() == OP {
                return Ok(Arc::new(ops.clone()) as ArrayRef);
            }
            batch
                .column_by_name(field.name())
                .map(Arc::clone)
                .ok_or_else(|| Error::internal(format!("resolved events lack {}", field.name())))
        });
        Ok(RecordBatch::try_new(
            Arc::clone(schema),
            columns.collect::<Result<Vec<_>>>()?,
        )?)
    }
}

impl RememberedFile {
    /// The action that makes it the current one.
    pub(super) fn action(&self) -> Action {
        Action::Txn(Txn {
            app_id: self.application.clone(),
            version: self.id,
            last_updated: Some(Utc::now().timestamp_millis()),
        })
    }

    /// Removes the file that nobody needs: the one before after a commit, this one without. A file that stays harms nobody.
    pub(super) async fn clean_up(&self, committed: bool) {
        let obsolete = if committed {
            self.before
        } else {
            Some(self.id)
        };
        if let Some(id) = obsolete {
            let _ = self.table.store().delete(&path(id)).await;
        }
    }
}

/// Why the file of a version is not there.
async fn gone(target: &Arc<Snapshot>, id: i64) -> Result<Error> {
    let current = target.table().snapshot().await?.version();
    if current != target.version() {
        return Ok(Error::Conflict {
            version: current,
            operation: "another sync".into(),
            detail: "the sequences that this version remembers have been replaced".into(),
        });
    }
    Ok(Error::SequencesLost {
        table: target.table().name().into(),
        file: path(id).to_string(),
    })
}

fn path(id: i64) -> Path {
    Path::from(format!("{FOLDER}/{id:016x}.parquet"))
}

fn file_schema(layout: &EventLayout) -> SchemaRef {
    let mut fields: Vec<Field> = layout
        .keys
        .iter()
        .map(|index| layout.columns[*index].as_ref().clone().with_nullable(true))
        .collect();
    fields.push(Field::new(SEQUENCE, layout.sequence.clone(), true));
    fields.push(Field::new(OP, DataType::Int8, true));
    fields.push(Field::new(RECORDED, DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

fn describe(schema: &Schema) -> String {
    let own = schema
        .fields()
        .iter()
        .filter(|field| ![RECORDED, OP].contains(&field.name().as_str()));
    let texts = own.map(|field| {
        let name = if field.name() == SEQUENCE {
            "sequence"
        } else {
            field.name()
        };
        format!("{name} {}", field.data_type())
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, Arc::clone(schema), None).map_err(Error::parquet)?;
    for batch in batches {
        writer.write(batch).map_err(Error::parquet)?;
    }
    writer.close().map_err(Error::parquet)?;
    Ok(bytes)
}
