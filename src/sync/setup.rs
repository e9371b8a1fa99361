//! What the plans of a run have in common: columns, keys, order, and the events of the source.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::FieldRef;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit, when};

use super::columns::{
    START_AT, SourceNature, check_history_columns, check_storage, event_layout, kept_columns,
    target_columns,
};
use super::event::{EventLayout, OP, Op, SEQUENCE};
use super::event_plan::{Sequence, parse_condition, source_events};
use super::position::Registration;
use super::spec::{Storage, Sync};
use crate::delta::DeltaTable;
use crate::delta::actions::Metadata;
use crate::delta::alter::with_columns;
use crate::delta::create::{TableDefinition, delta_field};
use crate::delta::features::check_writable;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

/// The table that is written, at the version on which the run is based.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub table: DeltaTable,
    /// Absent when the table is yet to be created.
    pub base: Option<Arc<Snapshot>>,
}

impl Target {
    /// The version.
    pub(super) fn version(&self) -> Option<i64> {
        self.base.as_ref().map(|base| base.version())
    }

    /// Whether it has no row, or is yet to be created.
    pub(super) async fn is_empty(&self) -> Result<bool> {
        match &self.base {
            Some(base) => Ok(base.files().await?.is_empty()),
            None => Ok(true),
        }
    }

    /// The syncs of other names into it.
    pub(super) fn other_syncs(&self, name: &str) -> Vec<String> {
        let all = self
            .base
            .iter()
            .flat_map(|base| Registration::all(base.metadata()));
        all.map(|(other, _)| other)
            .filter(|other| other != name)
            .collect()
    }
}

/// Columns, keys, order and events.
#[derive(Debug, Clone)]
pub(super) struct Setup<'a> {
    pub sync: &'a Sync,
    pub state: Arc<SessionState>,
    pub keys: Vec<String>,
    /// The source's columns that are kept, in its types.
    pub kept: Vec<FieldRef>,
    pub layout: Arc<EventLayout>,
    pub sequence: Sequence,
    pub events: LogicalPlan,
    /// Whether there are far fewer events than the statistics of their plan say.
    pub few: bool,
    /// Whether the target holds the sequence of each of its rows.
    pub held: bool,
    /// Columns that the target has not yet.
    added: Vec<FieldRef>,
    input: LogicalPlan,
}

impl<'a> Setup<'a> {
    /// Checks the statement against source and target.
    ///
    /// # Errors
    /// When a column is not there or does not fit.
    pub(super) fn try_new(
        sync: &'a Sync,
        state: &Arc<SessionState>,
        target: &Target,
        input: LogicalPlan,
        keys: Vec<String>,
        nature: &SourceNature,
    ) -> Result<Self> {
        let mut kept = kept_columns(sync, input.schema().as_arrow(), &keys)?;
        check_history_columns(sync, &kept)?;
        let sequence = Sequence::try_new(sync, state, input.schema())?;
        let mut added = vec![];
        let columns = match &target.base {
            Some(base) => {
                check_storage(sync, base.layout().schema())?;
                check_writable(target.table.name(), base.protocol(), base.layout())?;
                let missing = sync.schema_evolution.then_some(&mut added);
                target_columns(sync, &kept, base.layout().schema(), missing)?
            }
            None => kept
                .iter()
                .map(|field| delta_field(target.table.name(), field))
                .collect::<Result<_>>()?,
        };
        // what is yet to be added cannot be written yet
        let is_there = |field: &FieldRef| {
            !added
                .iter()
                .any(|new: &FieldRef| new.name() == field.name())
        };
        let columns: Vec<FieldRef> = columns.into_iter().filter(is_there).collect();
        kept.retain(|field| is_there(field));
        let held = sync.sequence_by.is_none()
            || sync.storage != Storage::ScdType1
            || sequence
                .columns
                .iter()
                .all(|name| kept.iter().any(|field| field.name() == name));
        if let Some(base) = target.base.as_ref().filter(|_| !held) {
            check_left_out(sync, base, &sequence)?;
        }
        let data_type = sequence_type(sync, target, &sequence)?;
        let layout = Arc::new(event_layout(sync, columns, &keys, data_type, nature));
        let events = source_events(sync, state, &layout, &sequence, input.clone())?;
        Ok(Self {
            sync,
            state: Arc::clone(state),
            keys,
            kept,
            layout,
            sequence,
            events,
            few: false,
            held,
            added,
            input,
        })
    }

    /// The same with deletes of rows that the source has lost; with nothing else where they are `alone`.
    pub(super) fn with_lost(self, lost: LogicalPlan, alone: bool) -> Result<Self> {
        let events = if alone {
            lost
        } else {
            LogicalPlanBuilder::from(self.events).union(lost)?.build()?
        };
        Ok(Self {
            events,
            // an anti join is taken to keep all of its rows, and here it keeps hardly any
            few: true,
            ..self
        })
    }

    /// The metadata with the columns that the target has not yet; `None` where it has them all.
    pub(super) fn evolution(&self, target: &Target) -> Result<Option<(Arc<Snapshot>, Metadata)>> {
        let Some(base) = target.base.as_ref().filter(|_| !self.added.is_empty()) else {
            return Ok(None);
        };
        let Some(schema) = with_columns(base, self.added.clone(), true)? else {
            return Ok(None);
        };
        let mut metadata = base.metadata().clone();
        metadata.schema_string = serde_json::to_string(&schema)?;
        Ok(Some((Arc::clone(base), metadata)))
    }

    /// What a target is created as where the source is any query.
    pub(super) fn plain_definition(&self) -> TableDefinition {
        TableDefinition {
            columns: self.kept.clone(),
            partition_columns: vec![],
            primary_key: self.keys.clone(),
            properties: HashMap::new(),
            comment: None,
        }
    }

    /// The latest sequence at which the source says that the target is to be emptied.
    ///
    /// # Errors
    /// When it says so without a sequence.
    pub(super) async fn truncated(&self) -> Result<Option<ScalarValue>> {
        let Some(condition) = self.truncate_condition()? else {
            return Ok(None);
        };
        let sequence = self.sequence.expression.clone();
        let latest = LogicalPlanBuilder::from(self.input.clone())
            .filter(condition)?
            .aggregate(
                Vec::<Expr>::new(),
                vec![
                    max(sequence.clone()).alias(SEQUENCE),
                    max(sequence.is_null()).alias("__alluvial_unknown"),
                ],
            )?
            .build()?;
        let found = DataFrame::new(self.state.as_ref().clone(), latest)
            .collect()
            .await?;
        let Some(batch) = found.first().filter(|batch| batch.num_rows() > 0) else {
            return Ok(None);
        };
        if ScalarValue::try_from_array(batch.column(1), 0)? == ScalarValue::Boolean(Some(true)) {
            return Err(Error::invalid(
                "NULL_SEQUENCE: SEQUENCE BY is NULL in a row for which APPLY AS TRUNCATE WHEN holds, so nobody knows what it comes after; give \
                 every change a sequence",
            ));
        }
        if batch.column(0).is_null(0) {
            return Ok(None);
        }
        let value = ScalarValue::try_from_array(batch.column(0), 0)?;
        Ok(Some(value.cast_to(&self.layout.sequence)?))
    }

    fn truncate_condition(&self) -> Result<Option<Expr>> {
        let condition = self.sync.truncate_when.as_ref();
        condition
            .map(|sql| {
                parse_condition(
                    "APPLY AS TRUNCATE WHEN",
                    sql,
                    &self.state,
                    self.input.schema(),
                )
            })
            .transpose()
    }

    /// What the target's row holds of SEQUENCE BY; `None` where versions order the changes or it lacks a column of it.
    pub(super) fn held_in_row(&self) -> Result<Option<Expr>> {
        if self.sync.sequence_by.is_none() || !self.held {
            return Ok(None);
        }
        let of_row = |node: Expr| match node {
            Expr::Column(column) => Ok(Transformed::yes(ident(column.name))),
            other => Ok(Transformed::no(other)),
        };
        Ok(Some(
            self.sequence.expression.clone().transform(of_row)?.data,
        ))
    }

    /// The same without rows that empty the target, and with what `truncated` has emptied it of as late.
    pub(super) fn after(&self, truncated: Option<&ScalarValue>) -> Result<Self> {
        let mut input = LogicalPlanBuilder::from(self.input.clone());
        if let Some(condition) = self.truncate_condition()? {
            input = input.filter(condition.is_not_true())?;
        }
        let (sync, state) = (self.sync, &self.state);
        let input = input.build()?;
        let mut events = source_events(sync, state, &self.layout, &self.sequence, input)?;
        if let Some(truncated) = truncated {
            let late = ident(SEQUENCE).lt_eq(lit(truncated.clone()));
            let op = when(late, Op::Late.literal()).otherwise(ident(OP))?;
            let columns = events.schema().fields().iter().map(|field| {
                let value = if field.name() == OP {
                    op.clone()
                } else {
                    ident(field.name())
                };
                value.alias(field.name())
            });
            let columns: Vec<Expr> = columns.collect();
            events = LogicalPlanBuilder::from(events).project(columns)?.build()?;
        }
        Ok(Self {
            events,
            ..self.clone()
        })
    }
}

/// A target that has the columns of SEQUENCE BY must get them: what it holds would be of another change than the rest of the row.
fn check_left_out(sync: &Sync, base: &Snapshot, sequence: &Sequence) -> Result<()> {
    let schema = base.layout().schema();
    let has = |name: &&String| schema.field_with_name(name).is_ok();
    match sequence.columns.iter().find(has) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "COLUMNS leaves out {name:?}, which {} has and SEQUENCE BY is made of, so what it holds would not be that of the row; keep it in \
             COLUMNS",
            sync.target
        ))),
    }
}

/// The type of sequences: in a history that there is already, the one that it has.
fn sequence_type(
    sync: &Sync,
    target: &Target,
    sequence: &Sequence,
) -> Result<arrow::datatypes::DataType> {
    let (Some(base), Storage::ScdType2 { .. }) = (&target.base, &sync.storage) else {
        return Ok(sequence.data_type.clone());
    };
    match base.layout().schema().field_with_name(START_AT) {
        Ok(field) => Ok(field.data_type().clone()),
        Err(_) => Err(Error::invalid(format!(
            "{} has no column {START_AT}, in which SCD TYPE 2 says since when a row is valid; drop it and let the statement create it, or add \
             {START_AT} and __END_AT, both {}",
            sync.target, sequence.data_type
        ))),
    }
}
