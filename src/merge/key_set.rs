//! Whether a value is one of a join's keys: what lets a scan decode the key column of a file and nothing else of the rows that
//! nobody asks for.

use std::fmt::{self, Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, StringArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::record_batch::RecordBatch;
use datafusion::common::HashSet;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

/// Keys that lie so close that a bit for each number between them takes less than this are kept as bits.
const MAX_BITS: u128 = 256 << 20;

/// Keys, for many questions.
#[derive(Debug)]
pub(super) enum KeySet {
    /// A bit for each number from the lowest key on.
    Bits {
        lowest: i64,
        bits: Vec<u64>,
    },
    Integers(HashSet<i64>),
    Texts(HashSet<String>),
}

impl KeySet {
    /// A set of sorted integers.
    pub(super) fn of_integers(keys: &[i64]) -> Self {
        let (Some(lowest), Some(highest)) = (keys.first(), keys.last()) else {
            return Self::Integers(HashSet::default());
        };
        let span = u128::from(highest.abs_diff(*lowest)) + 1;
        if span > MAX_BITS.min(keys.len() as u128 * 4096) {
            return Self::Integers(keys.iter().copied().collect());
        }
        let mut bits = vec![0_u64; usize::try_from(span.div_ceil(64)).unwrap_or(0)];
        for key in keys {
            let offset = key.abs_diff(*lowest);
            if let Some(word) = bits.get_mut((offset / 64) as usize) {
                *word |= 1 << (offset % 64);
            }
        }
        Self::Bits {
            lowest: *lowest,
            bits,
        }
    }

    /// A set of texts.
    pub(super) fn of_texts(keys: &[String]) -> Self {
        Self::Texts(keys.iter().cloned().collect())
    }

    fn holds(&self, array: &ArrayRef) -> Result<BooleanArray> {
        Ok(match array.data_type() {
            DataType::Int8 => self.integers::<Int8Type>(array.as_primitive()),
            DataType::Int16 => self.integers::<Int16Type>(array.as_primitive()),
            DataType::Int32 => self.integers::<Int32Type>(array.as_primitive()),
            DataType::Int64 => self.integers::<Int64Type>(array.as_primitive()),
            DataType::Date32 => self.integers::<Date32Type>(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.integers::<TimestampMicrosecondType>(array.as_primitive())
            }
            DataType::Utf8 => self.texts(array.as_string()),
            _ => self.texts(cast(array, &DataType::Utf8)?.as_string()),
        })
    }

    fn integers<T>(&self, array: &PrimitiveArray<T>) -> BooleanArray
    where
        T: ArrowPrimitiveType,
        T::Native: Into<i64>,
    {
        let values = array.values();
        let length = values.len();
        let held = match self {
            Self::Bits { lowest, bits } => BooleanBuffer::collect_bool(length, |row| {
                let offset = values[row].into().wrapping_sub(*lowest).cast_unsigned();
                let word = usize::try_from(offset / 64).unwrap_or(usize::MAX);
                bits.get(word)
                    .is_some_and(|word| word >> (offset % 64) & 1 == 1)
            }),
            Self::Integers(keys) => {
                BooleanBuffer::collect_bool(length, |row| keys.contains(&values[row].into()))
            }
            Self::Texts(_) => BooleanBuffer::new_set(length),
        };
        BooleanArray::new(held, array.nulls().cloned())
    }

    fn texts(&self, array: &StringArray) -> BooleanArray {
        let held = match self {
            Self::Texts(keys) => {
                BooleanBuffer::collect_bool(array.len(), |row| keys.contains(array.value(row)))
            }
            Self::Bits { .. } | Self::Integers(_) => BooleanBuffer::new_set(array.len()),
        };
        BooleanArray::new(held, array.nulls().cloned())
    }
}

/// `value IN (keys)`.
#[derive(Debug, Clone)]
pub(super) struct IsKey {
    value: Arc<dyn PhysicalExpr>,
    keys: Arc<KeySet>,
}

impl IsKey {
    /// Whether `value` is one of `keys`.
    pub(super) fn new(value: Arc<dyn PhysicalExpr>, keys: Arc<KeySet>) -> Self {
        Self { value, keys }
    }
}

impl PartialEq for IsKey {
    fn eq(&self, other: &Self) -> bool {
        self.value.eq(&other.value) && Arc::ptr_eq(&self.keys, &other.keys)
    }
}

impl Eq for IsKey {}

impl Hash for IsKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
        Arc::as_ptr(&self.keys).hash(state);
    }
}

impl Display for IsKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} is a key", self.value)
    }
}

impl PhysicalExpr for IsKey {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.value.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.value.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(Arc::new(self.keys.holds(&values)?)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self {
            value: children.remove(0),
            keys: Arc::clone(&self.keys),
        }))
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.value.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array};

    use super::*;

    fn check(keys: &[i64], values: &ArrayRef, expected: &[Option<bool>]) {
        let held = KeySet::of_integers(keys).holds(values).unwrap();
        assert_eq!(held.iter().collect::<Vec<_>>(), expected, "{keys:?}");
    }

    #[test]
    fn bits_and_hashes_agree() {
        let values: ArrayRef = Arc::new(Int64Array::from(vec![
            Some(-1),
            Some(5),
            None,
            Some(6),
            Some(i64::MIN),
            Some(i64::MAX),
        ]));
        let few = [
            Some(false),
            Some(true),
            None,
            Some(false),
            Some(false),
            Some(false),
        ];
        check(&[5, 700], &values, &few);
        let all = [
            Some(false),
            Some(true),
            None,
            Some(false),
            Some(true),
            Some(true),
        ];
        check(&[i64::MIN, 5, i64::MAX], &values, &all);
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![5, -1]));
        check(&[5], &narrow, &[Some(true), Some(false)]);
        check(&[], &narrow, &[Some(false), Some(false)]);
    }

    #[test]
    fn texts() {
        let keys = KeySet::of_texts(&["a".to_owned(), "c".to_owned()]);
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
        let held = keys.holds(&values).unwrap();
        assert_eq!(
            held.iter().collect::<Vec<_>>(),
            [Some(true), Some(false), None]
        );
    }
}
