//! The order of `OPTIMIZE … ZORDER BY`: rows that are near in all of the columns come to lie near in the files.
//!
//! Each column is cut into [`BUCKETS`] ranges that hold about as many rows each, by a sample of the rows that are sorted, and the
//! numbers of a row's ranges are interleaved bit by bit. So values of any plain type, however they are distributed, weigh the same.
//! Rows in the same ranges are ordered by the columns themselves, which for a single column is a plain sort.

use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;

use crate::delta::data_file::WriteTarget;
use crate::delta::scan::{DeltaScan, ScanFile};
use crate::error::{Error, Result};

/// How many ranges a column is cut into, as bits of their numbers.
const BITS: usize = 10;
const BUCKETS: usize = 1 << BITS;
/// So many rows are looked at to find the ranges, or up to twice as many.
const SAMPLES: usize = 16 * BUCKETS;
/// As much of a value is kept to find out which range another one is in.
const BOUND_BYTES: usize = 64;

/// Sorts rows, whose columns at the positions `columns` are to be near, into one partition.
///
/// The ranges of the columns are an extension of the session's configuration, since they are found by reading the rows.
///
/// # Errors
/// When the session has no [`ZRanges`] for these columns.
pub(crate) fn sort_rows(
    rows: Arc<dyn ExecutionPlan>,
    columns: &[usize],
    session: &SessionState,
) -> Result<Arc<dyn ExecutionPlan>> {
    let ranges = session.config().get_extension::<ZRanges>();
    let ranges = ranges
        .filter(|ranges| ranges.columns.len() == columns.len())
        .ok_or_else(|| Error::internal("the columns of ZORDER BY have no ranges"))?;
    let schema = rows.schema();
    let values: Vec<Arc<dyn PhysicalExpr>> = columns
        .iter()
        .map(|index| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(*index).name(), *index))
        })
        .collect();
    let curve: Arc<dyn PhysicalExpr> = Arc::new(ZCurve {
        columns: values.clone(),
        ranges,
    });
    let order = std::iter::once(curve)
        .chain(values)
        .map(PhysicalSortExpr::new_default);
    let order = LexOrdering::new(order).ok_or_else(|| Error::internal("ZORDER BY nothing"))?;
    let partitions = rows.properties().output_partitioning().partition_count();
    let sorted = SortExec::new(order.clone(), rows).with_preserve_partitioning(true);
    if partitions == 1 {
        return Ok(Arc::new(sorted));
    }
    Ok(Arc::new(SortPreservingMergeExec::new(
        order,
        Arc::new(sorted),
    )))
}

/// The ranges of each column.
#[derive(Debug)]
pub(crate) struct ZRanges {
    columns: Vec<ColumnRanges>,
}

impl ZRanges {
    /// Reads the columns of the live rows of `files` and cuts them into ranges.
    pub(crate) async fn of(
        target: &WriteTarget,
        session: &SessionState,
        files: Vec<ScanFile>,
        columns: &[usize],
    ) -> Result<Self> {
        let scan = DeltaScan::new(&target.table, &target.layout, files)
            .plan(session, Some(&columns.to_vec()), &[], None)
            .await?;
        let mut sample = Sample::new(&scan.schema())?;
        let mut rows = execute_stream(scan, session.task_ctx())?;
        while let Some(batch) = rows.next().await {
            sample.look_at(&batch?)?;
        }
        Ok(Self {
            columns: sample.columns.into_iter().map(ColumnRanges::new).collect(),
        })
    }

    /// The place on the curve of every row of these columns.
    fn places(&self, columns: &[ArrayRef], rows: usize) -> Result<UInt64Array> {
        let bits = (u64::BITS as usize / columns.len().max(1)).clamp(1, BITS);
        let mut numbers: Vec<Vec<u64>> = Vec::with_capacity(columns.len());
        for (ranges, column) in self.columns.iter().zip(columns) {
            numbers.push(ranges.numbers(column)?);
        }
        let place = |row: usize| {
            let mut place = 0_u64;
            for bit in (BITS - bits..BITS).rev() {
                for numbers in &numbers {
                    place = place << 1 | (numbers[row] >> bit & 1);
                }
            }
            place
        };
        Ok((0..rows).map(place).collect::<Vec<u64>>().into())
    }
}

/// Where the ranges of a column begin, but for the first, as bytes that compare like the values.
#[derive(Debug)]
struct ColumnRanges {
    converter: RowConverter,
    bounds: Vec<Vec<u8>>,
}

impl ColumnRanges {
    /// Equal values stay together; a value that is frequent counts for as many ranges as it has rows for, so that a column of few
    /// values uses the leading bits as others do.
    fn new(sample: ColumnSample) -> Self {
        let mut values = sample.values;
        values.sort_unstable();
        let bound = |number: usize| values.get(number * values.len() / BUCKETS).cloned();
        Self {
            converter: sample.converter,
            bounds: (1..BUCKETS).filter_map(bound).collect(),
        }
    }

    /// The numbers of the ranges that values are in.
    fn numbers(&self, column: &ArrayRef) -> Result<Vec<u64>> {
        let rows = self.converter.convert_columns(&[Arc::clone(column)])?;
        let number = |value: &[u8]| {
            self.bounds
                .partition_point(|bound| bound.as_slice() <= value) as u64
        };
        Ok(rows.iter().map(|row| number(row.as_ref())).collect())
    }
}

/// Every so-manieth row, ever fewer of them the more there are.
struct Sample {
    columns: Vec<ColumnSample>,
    seen: usize,
    stride: usize,
}

struct ColumnSample {
    converter: RowConverter,
    values: Vec<Vec<u8>>,
}

impl Sample {
    fn new(schema: &Schema) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| {
            let sorted = SortField::new(field.data_type().clone());
            Ok(ColumnSample {
                converter: RowConverter::new(vec![sorted])?,
                values: vec![],
            })
        });
        Ok(Self {
            columns: columns.collect::<Result<_>>()?,
            seen: 0,
            stride: 1,
        })
    }

    fn look_at(&mut self, batch: &RecordBatch) -> Result<()> {
        let first = (self.stride - self.seen % self.stride) % self.stride;
        let picked = (first..batch.num_rows()).step_by(self.stride);
        let picked = UInt64Array::from_iter_values(picked.map(|row| row as u64));
        for (sample, column) in self.columns.iter_mut().zip(batch.columns()) {
            let values = take(column.as_ref(), &picked, None)?;
            let rows = sample.converter.convert_columns(&[values])?;
            sample.values.extend(rows.iter().map(|row| {
                let value: &[u8] = row.as_ref();
                value[..value.len().min(BOUND_BYTES)].to_vec()
            }));
        }
        self.seen += batch.num_rows();
        self.thin_out();
        Ok(())
    }

    /// Keeps every other row once there are too many.
    fn thin_out(&mut self) {
        let is_large = |sample: &ColumnSample| sample.values.len() > 2 * SAMPLES;
        while self.columns.iter().any(is_large) {
            self.stride *= 2;
            for sample in &mut self.columns {
                let values = std::mem::take(&mut sample.values);
                sample.values = values.into_iter().step_by(2).collect();
            }
        }
    }
}

/// A row's place on the curve.
#[derive(Debug, Clone)]
struct ZCurve {
    columns: Vec<Arc<dyn PhysicalExpr>>,
    ranges: Arc<ZRanges>,
}

impl PartialEq for ZCurve {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns && Arc::ptr_eq(&self.ranges, &other.ranges)
    }
}

impl Eq for ZCurve {}

impl Hash for ZCurve {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.columns.hash(state);
        Arc::as_ptr(&self.ranges).hash(state);
    }
}

impl Display for ZCurve {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns: Vec<String> = self.columns.iter().map(ToString::to_string).collect();
        write!(f, "zorder({})", columns.join(", "))
    }
}

impl PhysicalExpr for ZCurve {
    fn data_type(&self, _: &Schema) -> DataFusionResult<DataType> {
        Ok(DataType::UInt64)
    }

    fn nullable(&self, _: &Schema) -> DataFusionResult<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DataFusionResult<ColumnarValue> {
        let rows = batch.num_rows();
        let columns = self.columns.iter();
        let columns = columns.map(|column| column.evaluate(batch)?.into_array(rows));
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        let places = self.ranges.places(&columns, rows)?;
        Ok(ColumnarValue::Array(Arc::new(places)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.columns.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self {
            columns: children,
            ranges: Arc::clone(&self.ranges),
        }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Int64Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    fn sampled(columns: Vec<ArrayRef>) -> (ZRanges, RecordBatch) {
        let fields = columns
            .iter()
            .enumerate()
            .map(|(index, column)| Field::new(index.to_string(), column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns).unwrap();
        let mut sample = Sample::new(&batch.schema()).unwrap();
        sample.look_at(&batch).unwrap();
        let columns = sample.columns.into_iter().map(ColumnRanges::new).collect();
        (ZRanges { columns }, batch)
    }

    fn places(columns: Vec<ArrayRef>) -> Vec<u64> {
        let (ranges, batch) = sampled(columns);
        let places = ranges.places(batch.columns(), batch.num_rows()).unwrap();
        places.values().to_vec()
    }

    #[test]
    fn one_column_is_ordered_as_it_is() {
        let numbers: Vec<Option<i64>> = vec![Some(5), None, Some(-3), Some(1 << 40)];
        let texts = vec![Some("customer 2"), None, Some("customer 1"), Some("x")];
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(numbers)),
            Arc::new(StringArray::from(texts)),
        ];
        for column in columns {
            let found = places(vec![column]);
            assert!(found[1] < found[2], "{found:?}");
            assert!(found[2] < found[0] && found[0] < found[3], "{found:?}");
        }
    }

    #[test]
    fn columns_of_few_and_of_many_values_weigh_the_same() {
        let many: ArrayRef = Arc::new((0..1000_i64).collect::<Int64Array>());
        let few: ArrayRef = Arc::new(
            (0..1000)
                .map(|n| Some(n % 2 == 1))
                .collect::<BooleanArray>(),
        );
        let found = places(vec![few, many]);
        // the quarter of a row is told by the first bit of each column
        let quarter = |row: usize| found[row] >> (2 * BITS - 2);
        assert_eq!(
            [quarter(0), quarter(998), quarter(1), quarter(999)],
            [0b00, 0b01, 0b10, 0b11]
        );
    }

    #[test]
    fn a_sample_stays_small() {
        let rows: ArrayRef = Arc::new((0..200_000_i64).collect::<Int64Array>());
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![rows]).unwrap();
        let mut sample = Sample::new(&batch.schema()).unwrap();
        for start in (0..200_000).step_by(1000) {
            sample.look_at(&batch.slice(start, 1000)).unwrap();
        }
        let kept = sample.columns[0].values.len();
        assert!((SAMPLES..=2 * SAMPLES).contains(&kept), "{kept}");
        assert_eq!(kept, 200_000 / sample.stride);
    }

    #[test]
    fn no_rows_have_no_places() {
        let none: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
        assert!(places(vec![none]).is_empty());
    }
}
