//! The history of each key: rows valid from one change up to the next.
//!
//! What is there already comes along as events, so that a late change finds its place: a row that began at 3 and ended at 9 is
//! split by a change at 5 into 3 to 5 and 5 to 9. The result is the difference to what is there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{Row, RowConverter, Rows, SortField};

use super::event::{EventLayout, Op};
use super::events::Events;
use super::key_groups::Groups;
use super::latest::index;
use super::resolve_exec::Resolved;
use crate::change::comparable;
use crate::error::Result;

/// The rows of each key's history that are new, different or gone ([`Op::Upsert`], [`Op::Delete`]), by their start.
pub(super) fn resolve(
    layout: &EventLayout,
    groups: &Groups,
    schema: &SchemaRef,
) -> Result<Resolved> {
    let events = Events::try_new(layout, &groups.batch)?;
    let ends = Ends::try_new(layout, &groups.batch)?;
    let tracked = tracked_values(layout, &groups.batch)?;
    let mut output = Output::new(layout);
    let mut unchanged_keys = 0;
    for bounds in groups.bounds.windows(2) {
        let rows = events.of_key(bounds[0]..bounds[1])?;
        let is_change =
            |row: &usize| !events.op(*row).is_remembered() && events.op(*row) != Op::Existing;
        let has_changes = rows.iter().any(is_change);
        let key = Key {
            events: &events,
            ends: &ends,
            tracked: &tracked,
            layout,
        };
        let mut changes: Vec<usize> = rows.iter().copied().filter(|row| is_change(row)).collect();
        changes.sort_by(|left, right| events.sequence(*left).cmp(&events.sequence(*right)));
        events.check_ties(&changes)?;
        let history = key.history(&rows);
        let existing = rows
            .into_iter()
            .filter(|row| events.op(*row) == Op::Existing);
        let found = output.difference(&key, history, existing)?;
        unchanged_keys += usize::from(has_changes && !found);
    }
    Ok(Resolved {
        batch: output.take(&groups.batch, schema)?,
        counted_keys: unchanged_keys,
        deleted_keys: 0,
    })
}

/// The tracked columns of each row, comparable.
fn tracked_values(layout: &EventLayout, batch: &RecordBatch) -> Result<Option<Rows>> {
    let tracked = (0..layout.width()).filter(|index| layout.tracked[*index]);
    let columns: Vec<ArrayRef> = tracked
        .map(|index| comparable(batch.column(index)))
        .collect::<datafusion::error::Result<_>>()?;
    if columns.is_empty() {
        return Ok(None);
    }
    let fields = columns
        .iter()
        .map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    Ok(Some(converter.convert_columns(&columns)?))
}

/// Where rows of the history end, comparable with sequences.
struct Ends {
    rows: Rows,
    known: ArrayRef,
}

impl Ends {
    fn try_new(layout: &EventLayout, batch: &RecordBatch) -> Result<Self> {
        let ends = batch.column(layout.end());
        let converter = RowConverter::new(vec![SortField::new(ends.data_type().clone())])?;
        Ok(Self {
            rows: converter.convert_columns(std::slice::from_ref(ends))?,
            known: Arc::clone(ends),
        })
    }

    fn of(&self, row: usize) -> Option<Row<'_>> {
        self.known.is_valid(row).then(|| self.rows.row(row))
    }
}

/// Where a sequence stands: in the column of starts of a row, or in that of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start(usize),
    End(usize),
}

/// A row of a history.
#[derive(Debug)]
struct Span {
    start: usize,
    end: Option<Place>,
    /// The row that has each column's value.
    values: Vec<usize>,
}

/// What happens to a key at one point of its order.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// The values of `row` are written, at the sequence of another row or its own.
    Write {
        at: usize,
        row: usize,
    },
    Remove(Place),
}

/// One key's events.
struct Key<'a> {
    events: &'a Events<'a>,
    ends: &'a Ends,
    tracked: &'a Option<Rows>,
    layout: &'a EventLayout,
}

impl Key<'_> {
    /// What `rows` amount to, oldest first.
    fn history(&self, rows: &[usize]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for point in self.points(rows) {
            let open = spans.last_mut().filter(|span| span.end.is_none());
            match (point, open) {
                (Point::Remove(place), Some(open)) => open.end = Some(place),
                (Point::Remove(_), None) => {}
                (Point::Write { at, row }, Some(open)) => {
                    let values = self.values(row, Some(&open.values));
                    let in_place = self.same_tracked(&values, &open.values);
                    // of two changes of the same sequence the later one counts
                    if in_place || self.events.sequence(at) == self.events.sequence(open.start) {
                        open.values = values;
                    } else {
                        open.end = Some(Place::Start(at));
                        spans.push(span(at, values));
                    }
                }
                (Point::Write { at, row }, None) => self.write_anew(&mut spans, at, row),
            }
        }
        spans
    }

    /// Writes where nothing is valid: a row that was removed at this very moment goes on if the write gives it back as it was.
    fn write_anew(&self, spans: &mut Vec<Span>, at: usize, row: usize) {
        let sequence = self.events.sequence(at);
        let values = self.values(row, None);
        if let Some(last) = spans.last_mut() {
            let is_next = last.end.is_some_and(|end| self.sequence(end) == sequence);
            let is_event = self.events.op(row) != Op::Existing;
            if is_next && is_event && self.same_tracked(&values, &last.values) {
                last.end = None;
                last.values = values;
                return;
            }
            // removed at the moment it was written, it is no row if another is written then
            if self.events.sequence(last.start) == sequence {
                spans.pop();
            }
        }
        spans.push(span(at, values));
    }

    /// What happens, in order: by sequence, then as it was found out.
    fn points(&self, rows: &[usize]) -> Vec<Point> {
        let mut points: Vec<Point> = Vec::with_capacity(rows.len());
        for row in rows.iter().copied() {
            match self.events.op(row) {
                Op::Existing => {
                    points.push(Point::Write { at: row, row });
                    if self.ends.of(row).is_some() {
                        points.push(Point::Remove(Place::End(row)));
                    }
                }
                Op::Delete | Op::Preimage | Op::Remembered => {
                    points.push(Point::Remove(Place::Start(row)));
                }
                Op::RememberedWrite => {
                    // it was made in place: its values are those of the row that was valid then
                    let valid = rows
                        .iter()
                        .copied()
                        .find(|other| self.is_valid(*other, row));
                    points.extend(valid.map(|valid| Point::Write {
                        at: row,
                        row: valid,
                    }));
                }
                Op::Late => {}
                Op::Upsert | Op::Replace | Op::Unknown => {
                    points.push(Point::Write { at: row, row });
                }
            }
        }
        // where one row of the history ends another may begin, and that one counts
        points.sort_by(|left, right| {
            let order = |point: &Point| (self.sequence_of(point), !self.is_end_of_another(point));
            order(left).cmp(&order(right))
        });
        points
    }

    /// Whether `existing` is a row of the history that is valid at the sequence of `row`.
    fn is_valid(&self, existing: usize, row: usize) -> bool {
        let at = self.events.sequence(row);
        self.events.op(existing) == Op::Existing
            && self.events.sequence(existing) <= at
            && self.ends.of(existing).is_none_or(|end| at < end)
    }

    /// Whether a row ends here that began earlier.
    fn is_end_of_another(&self, point: &Point) -> bool {
        match point {
            Point::Remove(Place::End(row)) => {
                self.ends.of(*row) != Some(self.events.sequence(*row))
            }
            _ => false,
        }
    }

    fn sequence_of(&self, point: &Point) -> Row<'_> {
        match point {
            Point::Write { at, .. } => self.events.sequence(*at),
            Point::Remove(place) => self.sequence(*place),
        }
    }

    fn sequence(&self, place: Place) -> Row<'_> {
        match place {
            Place::Start(row) => self.events.sequence(row),
            Place::End(row) => self.ends.rows.row(row),
        }
    }

    /// Where the values of a row come from, given those of the row before it.
    fn values(&self, row: usize, before: Option<&Vec<usize>>) -> Vec<usize> {
        let is_new = self.events.op(row) != Op::Existing;
        let source = |column: usize| match before {
            Some(before)
                if is_new
                    && (!self.events.carries(row, column)
                        || (self.layout.ignore_null[column]
                            && self.events.batch.column(column).is_null(row))) =>
            {
                before[column]
            }
            _ => row,
        };
        (0..self.layout.width()).map(source).collect()
    }

    fn same_tracked(&self, left: &[usize], right: &[usize]) -> bool {
        let Some(tracked) = self.tracked else {
            return true;
        };
        let whole = |values: &[usize]| {
            let first = values.first().copied()?;
            values.iter().all(|row| *row == first).then_some(first)
        };
        match (whole(left), whole(right)) {
            (Some(left), Some(right)) => tracked.row(left) == tracked.row(right),
            _ => (0..self.layout.width())
                .filter(|column| self.layout.tracked[*column])
                .all(|column| self.same_value(column, left[column], right[column])),
        }
    }

    fn same_value(&self, column: usize, left: usize, right: usize) -> bool {
        let column = self.events.batch.column(column);
        left == right || column.slice(left, 1).to_data() == column.slice(right, 1).to_data()
    }

    /// Whether the history has this row as it is.
    fn is_unchanged(&self, span: &Span, existing: usize) -> bool {
        let end = span.end.map(|place| self.sequence(place));
        end == self.ends.of(existing)
            && (0..self.layout.width())
                .all(|column| self.same_value(column, span.values[column], existing))
    }
}

fn span(start: usize, values: Vec<usize>) -> Span {
    Span {
        start,
        end: None,
        values,
    }
}

/// The rows that differ, as rows to take.
struct Output<'a> {
    layout: &'a EventLayout,
    ops: Vec<i8>,
    values: Vec<Vec<u32>>,
    starts: Vec<u32>,
    ends: Vec<Option<Place>>,
}

impl<'a> Output<'a> {
    fn new(layout: &'a EventLayout) -> Self {
        Self {
            layout,
            ops: vec![],
            values: vec![vec![]; layout.width()],
            starts: vec![],
            ends: vec![],
        }
    }

    /// Adds the rows that differ; `false` when there is none.
    fn difference(
        &mut self,
        key: &Key<'_>,
        history: Vec<Span>,
        existing: impl Iterator<Item = usize>,
    ) -> Result<bool> {
        let rows = self.ops.len();
        let mut gone: HashMap<Row<'_>, usize> = existing
            .map(|row| (key.events.sequence(row), row))
            .collect();
        for span in history {
            let before = gone.remove(&key.events.sequence(span.start));
            if before.is_none_or(|existing| !key.is_unchanged(&span, existing)) {
                self.push(Op::Upsert, span)?;
            }
        }
        let mut gone: Vec<usize> = gone.into_values().collect();
        gone.sort_unstable();
        for row in gone {
            self.push(Op::Delete, span(row, vec![row; self.layout.width()]))?;
        }
        Ok(self.ops.len() > rows)
    }

    fn push(&mut self, op: Op, span: Span) -> Result<()> {
        self.ops.push(op as i8);
        self.starts.push(index(span.start)?);
        self.ends.push(span.end);
        for (column, row) in self.values.iter_mut().zip(span.values) {
            column.push(index(row)?);
        }
        Ok(())
    }

    fn take(self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let ends = self.take_ends(batch)?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for (column, rows) in self.values.into_iter().enumerate() {
            columns.push(take(batch.column(column), &UInt32Array::from(rows), None)?);
        }
        columns.push(Arc::new(Int8Array::from(self.ops)));
        let starts = UInt32Array::from(self.starts);
        columns.push(take(batch.column(self.layout.sequence()), &starts, None)?);
        columns.push(ends);
        if self.layout.carried().is_some() {
            // a row of a history says something of every column
            let rows = columns.first().map_or(0, |column| column.len());
            columns.push(new_null_array(&EventLayout::names_type(), rows));
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }

    /// Ends come from two columns: the starts of later changes, and the ends of what is there.
    fn take_ends(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let starts = batch.column(self.layout.sequence());
        let ends = batch.column(self.layout.end());
        if starts.is_empty() {
            return Ok(new_null_array(starts.data_type(), 0));
        }
        let both = concat(&[starts.as_ref(), ends.as_ref()])?;
        let place = |place: &Option<Place>| match place {
            Some(Place::Start(row)) => Ok(Some(index(*row)?)),
            Some(Place::End(row)) => Ok(Some(index(starts.len() + row)?)),
            None => Ok(None),
        };
        let rows: UInt32Array = self
            .ends
            .iter()
            .map(place)
            .collect::<Result<Vec<_>>>()?
            .into();
        Ok(take(&both, &rows, None)?)
    }
}
