//! Makes sure that the rows which a statement writes have keys that no other row has, at the price of reading the target's key columns where
//! such keys can be.
//!
//! 64 bits of each inserted key are kept as the rows pass ([`UniqueKeysExec`]). When all have passed, and before the commit, the
//! keys of the files in whose range an inserted one lies are looked up among them. Equal bits are looked into: the statement is
//! checked again by joins, which know the keys themselves.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::util::display::array_value_to_string;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::key_collect::{KeyColumn, KeyPruning};
use super::keys::KeyKind;
use super::relation::{SourceRelation, TargetRelation};
use super::row_format::{ACTION, FILE, ROW, RowAction, new_name, old_name};
use super::unique_exec::{
    Done, Moved, SortedKeys, UniqueKeysExec, is_small_integer, key_bits, repeated,
};
use crate::change::repeated_key;
use crate::delta::scan::DeltaScan;
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};

const INSERTED: &str = "inserted";
const PRESENT: &str = "present";
const MARKED: &str = "marked";

/// The check of one statement.
#[derive(Debug, Clone)]
pub(crate) struct KeyCheck {
    /// The rows as the writers take them.
    rows: Arc<dyn ExecutionPlan>,
    keys: Vec<String>,
    /// Positions of the keys among the table's columns.
    positions: Vec<usize>,
    /// Whether a new key may be that of a row that is there.
    may_be_there: bool,
    /// Whether the rows are row changes rather than the table's columns.
    actions: bool,
    seen: Done,
}

impl KeyCheck {
    /// A check of `rows`, and the plan that they have to be taken from instead.
    pub(super) fn new(
        rows: Arc<dyn ExecutionPlan>,
        keys: Vec<String>,
        keeps_rows: bool,
    ) -> Result<(Arc<dyn ExecutionPlan>, Self)> {
        let schema = rows.schema();
        let positions = keys.iter().map(|key| schema.index_of(key));
        let positions = positions.collect::<Result<Vec<_>, _>>()?;
        let checked = UniqueKeysExec::new(Arc::clone(&rows), positions.clone(), vec![]);
        let seen = checked.seen();
        let check = Self {
            rows,
            keys,
            positions,
            may_be_there: keeps_rows,
            actions: false,
            seen,
        };
        Ok((Arc::new(checked), check))
    }

    /// A check of the keys that row changes insert or change.
    pub(super) fn of_actions(
        rows: Arc<dyn ExecutionPlan>,
        columns: &Schema,
        keys: Vec<String>,
        may_be_there: bool,
    ) -> Result<(Arc<dyn ExecutionPlan>, Self)> {
        let schema = rows.schema();
        let positions = keys.iter().map(|key| columns.index_of(key));
        let positions = positions.collect::<Result<Vec<_>, _>>()?;
        let new = positions
            .iter()
            .map(|index| schema.index_of(&new_name(*index)));
        let new = new.collect::<Result<Vec<_>, _>>()?;
        let present = positions
            .iter()
            .map(|index| schema.index_of(&old_name(*index)));
        let moved = Moved {
            action: schema.index_of(ACTION)?,
            present: present.collect::<Result<Vec<_>, _>>().unwrap_or_default(),
        };
        let checked = UniqueKeysExec::new(Arc::clone(&rows), new, vec![]).of_moved(moved);
        let seen = checked.seen();
        let check = Self {
            rows,
            keys,
            positions,
            may_be_there,
            actions: true,
            seen,
        };
        Ok((Arc::new(checked), check))
    }

    /// The rows, to be taken once more.
    pub(super) fn rows_again(&self) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(reset_plan_states(Arc::clone(&self.rows))?)
    }

    /// Looks for the keys that have passed among those of `base`.
    ///
    /// # Errors
    /// [`super::unique_exec::RepeatedKeys`] when one may be there.
    pub(super) async fn look_up(
        &self,
        base: &Arc<Snapshot>,
        session: &SessionState,
        context: &Arc<TaskContext>,
    ) -> Result<()> {
        let inserted = Inserted::new(self.seen.take());
        if inserted.sorted.is_empty() || !self.may_be_there {
            return Ok(());
        }
        let mut scan = DeltaScan::of_snapshot(base).await?;
        let mut filters = vec![];
        let layout = base.layout();
        if let [position] = self.positions.as_slice()
            && let field = layout.schema().field(*position)
            && is_small_integer(field.data_type())
        {
            // for these the bits are the value
            let keys: Vec<i64> = inserted
                .sorted
                .iter()
                .map(|bits| bits.cast_signed())
                .collect();
            let value = |key: &i64| ScalarValue::Int64(Some(*key)).cast_to(field.data_type());
            let column = || ident(field.name());
            if let (Some(least), Some(greatest)) = (keys.iter().min(), keys.iter().max()) {
                filters.push(column().gt_eq(lit(value(least)?)));
                filters.push(column().lt_eq(lit(value(greatest)?)));
            }
            let mut order = layout
                .data_columns()
                .chain(layout.partition_columns().iter().copied());
            if let Some(statistics) = order.position(|index| index == *position) {
                let column = KeyColumn {
                    source: 0,
                    target: *position,
                    statistics,
                    in_files: !layout.is_partition(*position),
                    kind: KeyKind::Integer,
                };
                scan.runtime_pruning = Some(Arc::new(KeyPruning::known(column, keys)) as _);
            }
        }
        let plan = scan
            .plan(session, Some(&self.positions), &filters, None)
            .await?;
        let inserted = Arc::new(inserted);
        let partitions = 0..plan.output_partitioning().partition_count();
        let partitions = stream::iter(partitions).map(|partition| {
            let (plan, inserted) = (Arc::clone(&plan), Arc::clone(&inserted));
            let context = Arc::clone(context);
            async move {
                tokio::spawn(
                    async move { inserted.look_up(plan.as_ref(), partition, context).await },
                )
                .await
                .map_err(Error::internal)?
            }
        });
        let parallel = session.config().target_partitions().max(1);
        partitions.buffer_unordered(parallel).try_collect().await
    }

    /// Compares the keys themselves.
    ///
    /// # Errors
    /// [`Error::DuplicateKey`], naming the first that is there more than once.
    pub(super) async fn compare(
        &self,
        base: &Arc<Snapshot>,
        session: &Arc<SessionState>,
    ) -> Result<()> {
        let of = |relation: &'static str| {
            let columns = self.keys.iter();
            columns.map(move |key| Expr::Column(Column::new(Some(relation), key)))
        };
        let twice = repeated_key(self.new_keys()?.build()?, of(INSERTED).collect())?;
        self.refuse_any(base, session, twice, "the statement writes that key twice")
            .await?;
        if !self.may_be_there {
            return Ok(());
        }
        let equal = of(INSERTED).zip(of(PRESENT));
        let equal = equal.map(|(inserted, present)| inserted.eq(present));
        let both = self
            .new_keys()?
            .join_on(self.rows_that_stay(base).await?, JoinType::Inner, equal)?
            .project(of(INSERTED))?;
        self.refuse_any(
            base,
            session,
            both.build()?,
            "the table has that key already",
        )
        .await
    }

    fn scan_rows(&self, name: &str) -> Result<LogicalPlanBuilder> {
        let rows = SourceRelation::new(self.rows_again()?, None);
        let rows = provider_as_source(Arc::new(rows));
        Ok(LogicalPlanBuilder::scan(name, rows, None)?)
    }

    /// The keys of all rows that are written.
    fn new_keys(&self) -> Result<LogicalPlanBuilder> {
        let rows = self.scan_rows(INSERTED)?;
        if !self.actions {
            return Ok(rows);
        }
        let keys = self.positions.iter().zip(&self.keys);
        let keys = keys.map(|(index, key)| ident(new_name(*index)).alias(key));
        let written = RowAction::WRITING.map(RowAction::literal);
        Ok(rows
            .filter(ident(ACTION).in_list(written.to_vec(), false))?
            .project(keys.collect::<Vec<_>>())?
            .alias(INSERTED)?)
    }

    /// The rows of the table that the statement leaves where they are.
    async fn rows_that_stay(&self, base: &Arc<Snapshot>) -> Result<LogicalPlan> {
        let present = TargetRelation::new(DeltaScan::of_snapshot(base).await?, None);
        let present = provider_as_source(Arc::new(present));
        let present = LogicalPlanBuilder::scan(PRESENT, present, None)?;
        if !self.actions {
            return Ok(present.build()?);
        }
        let marked = RowAction::MARKING.map(RowAction::literal);
        let marks = self
            .scan_rows(MARKED)?
            .filter(ident(ACTION).in_list(marked.to_vec(), false))?
            .project([ident(FILE), ident(ROW)])?
            .build()?;
        let same = [FILE, ROW].map(|name| {
            let of = |relation| Expr::Column(Column::new(Some(relation), name));
            of(PRESENT).eq(of(MARKED))
        });
        Ok(present.join_on(marks, JoinType::LeftAnti, same)?.build()?)
    }

    async fn refuse_any(
        &self,
        base: &Arc<Snapshot>,
        session: &Arc<SessionState>,
        found: LogicalPlan,
        reason: &str,
    ) -> Result<()> {
        let first = LogicalPlanBuilder::from(found).limit(0, Some(1))?.build()?;
        let found = DataFrame::new(session.as_ref().clone(), first)
            .collect()
            .await?;
        match found.iter().find(|batch| batch.num_rows() > 0) {
            None => Ok(()),
            Some(row) => Err(Error::DuplicateKey {
                table: base.table().name().into(),
                row: key_text(row, &self.keys),
                reason: reason.into(),
            }),
        }
    }
}

/// The key of a batch's first row, as `(id) = (7)`.
pub(crate) fn key_text(row: &RecordBatch, keys: &[String]) -> String {
    let values = row.columns().iter().take(keys.len());
    let values = values.map(|column| match column.is_null(0) {
        true => "NULL".to_owned(),
        false => array_value_to_string(column, 0).unwrap_or_default(),
    });
    let values: Vec<String> = values.collect();
    format!("({}) = ({})", keys.join(", "), values.join(", "))
}

/// The bits of the inserted keys.
struct Inserted {
    sorted: Vec<u64>,
    /// What the keys hold of the memory, as long as they live.
    _reserved: Vec<MemoryReservation>,
    /// A bit for each key, so that most of the others are known at a glance.
    marks: Vec<u64>,
    shift: u32,
}

impl Inserted {
    fn new(lists: Vec<SortedKeys>) -> Self {
        let (lists, reserved): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
        let mut lists = lists.into_iter();
        let mut sorted = lists.next().unwrap_or_default();
        for list in lists {
            sorted.extend(list);
        }
        sorted.sort_unstable();
        let bits = (sorted.len().max(64) * 16).next_power_of_two();
        let shift = 64 - bits.trailing_zeros();
        let mut inserted = Self {
            marks: vec![0; bits / 64],
            shift,
            sorted: vec![],
            _reserved: reserved,
        };
        for key in &sorted {
            let mark = inserted.mark(*key);
            inserted.marks[mark / 64] |= 1 << (mark % 64);
        }
        inserted.sorted = sorted;
        inserted
    }

    fn mark(&self, key: u64) -> usize {
        const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;
        usize::try_from(key.wrapping_mul(GOLDEN_RATIO) >> self.shift).unwrap_or(0)
    }

    fn contains(&self, key: u64) -> bool {
        let mark = self.mark(key);
        self.marks[mark / 64] & (1 << (mark % 64)) != 0 && self.sorted.binary_search(&key).is_ok()
    }

    async fn look_up(
        &self,
        plan: &dyn ExecutionPlan,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<()> {
        let mut batches = plan.execute(partition, context)?;
        let mut bits = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            bits.clear();
            key_bits(batch.columns(), &mut bits)?;
            if bits.iter().any(|key| self.contains(*key)) {
                return Err(repeated());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, UnboundedMemoryPool};

    use super::*;

    #[test]
    fn inserted_keys_are_found_and_others_are_not() {
        let keys: Vec<u64> = (0..1000).map(|number| number * 7).collect();
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let reservation = || MemoryConsumer::new("test").register(&pool);
        let inserted = Inserted::new(vec![(keys, reservation())]);
        for number in 0..7000 {
            assert_eq!(inserted.contains(number), number % 7 == 0, "{number}");
        }
        assert!(!inserted.contains(u64::MAX));
        assert!(!Inserted::new(vec![]).contains(0));
    }
}
