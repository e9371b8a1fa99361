//! The keys of one column of a join's source, collected, sorted, and asked which values of the other side may match.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::common::stats::Precision;
use datafusion::error::Result;

use super::key_set::KeySet;

/// Beyond so many bytes of keys nearly every file holds one: pruning is given up.
const MAX_BYTES: usize = 64 << 20;
/// What a text takes beside its characters.
const TEXT_BYTES: usize = size_of::<String>();

/// How keys of a column are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Integer,
    Text,
}

impl KeyKind {
    /// The kind of a pair of columns; `None` where their statistics are no help.
    pub(crate) fn of(source: &DataType, target: &DataType) -> Option<Self> {
        match (Self::of_type(source)?, Self::of_type(target)?) {
            (Self::Integer, Self::Integer)
                if source == target || (source.is_integer() && target.is_integer()) =>
            {
                Some(Self::Integer)
            }
            (Self::Text, Self::Text) => Some(Self::Text),
            _ => None,
        }
    }

    fn of_type(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) => Some(Self::Integer),
            DataType::UInt64 => None,
            other if other.is_integer() => Some(Self::Integer),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            _ => None,
        }
    }
}

/// The keys of one column.
#[derive(Debug, Clone)]
pub(super) enum Keys {
    Integers(Vec<i64>),
    /// With the bytes of all of them.
    Texts(Vec<String>, usize),
    TooMany,
}

impl Keys {
    /// None yet.
    pub(super) fn new(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Integer => Self::Integers(vec![]),
            KeyKind::Text => Self::Texts(vec![], 0),
        }
    }

    /// Adds the values of an array; NULL is no key.
    pub(super) fn extend(&mut self, array: &ArrayRef) -> Result<()> {
        match self {
            Self::Integers(keys) => {
                let values = match array.data_type() {
                    DataType::Date32 => cast(&cast(array, &DataType::Int32)?, &DataType::Int64)?,
                    _ => cast(array, &DataType::Int64)?,
                };
                let values = values.as_primitive::<Int64Type>();
                match values.null_count() {
                    0 => keys.extend_from_slice(values.values()),
                    _ => keys.extend(values.iter().flatten()),
                }
            }
            Self::Texts(keys, bytes) => {
                let values = cast(array, &DataType::Utf8)?;
                *bytes += values
                    .as_string::<i32>()
                    .iter()
                    .flatten()
                    .map(str::len)
                    .sum::<usize>();
                keys.extend(
                    values
                        .as_string::<i32>()
                        .iter()
                        .flatten()
                        .map(str::to_owned),
                );
            }
            Self::TooMany => {}
        }
        self.give_up_if_too_many();
        Ok(())
    }

    /// Adds the keys of another part of the source.
    pub(super) fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Integers(all), Self::Integers(more)) => all.extend(more),
            (Self::Texts(all, bytes), Self::Texts(more, more_bytes)) => {
                all.extend(more);
                *bytes += more_bytes;
            }
            (this, _) => *this = Self::TooMany,
        }
        self.give_up_if_too_many();
    }

    fn give_up_if_too_many(&mut self) {
        let bytes = match self {
            Self::Integers(keys) => size_of_val(keys.as_slice()),
            Self::Texts(keys, bytes) => *bytes + keys.len() * TEXT_BYTES,
            Self::TooMany => 0,
        };
        if bytes > MAX_BYTES {
            *self = Self::TooMany;
        }
    }

    /// Makes the keys ready to be asked.
    pub(super) fn sort(&mut self) {
        match self {
            Self::Integers(keys) => {
                keys.sort_unstable();
                keys.dedup();
            }
            Self::Texts(keys, _) => {
                keys.sort_unstable();
                keys.dedup();
            }
            Self::TooMany => {}
        }
    }

    /// How many keys there are; `None` where they were too many.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Self::Integers(keys) => Some(keys.len()),
            Self::Texts(keys, _) => Some(keys.len()),
            Self::TooMany => None,
        }
    }

    /// The key at a position as a value of a column.
    pub(super) fn value(&self, position: usize, data_type: &DataType) -> Result<ScalarValue> {
        let key = match self {
            Self::Integers(keys) => match (keys.get(position), data_type) {
                (Some(key), DataType::Date32) => {
                    ScalarValue::Date32(Some(i32::try_from(*key).unwrap_or(i32::MAX)))
                }
                (Some(key), DataType::Timestamp(_, zone)) => {
                    ScalarValue::TimestampMicrosecond(Some(*key), zone.clone())
                }
                (key, _) => ScalarValue::Int64(key.copied()),
            },
            Self::Texts(keys, _) => ScalarValue::Utf8(keys.get(position).cloned()),
            Self::TooMany => ScalarValue::Null,
        };
        key.cast_to(data_type)
    }

    /// The keys for many questions; `None` where they were too many.
    pub(super) fn set(&self) -> Option<KeySet> {
        match self {
            Self::Integers(keys) => Some(KeySet::of_integers(keys)),
            Self::Texts(keys, _) => Some(KeySet::of_texts(keys)),
            Self::TooMany => None,
        }
    }

    /// At most `count` ranges, as positions of the first and the last key of each, with the widest gaps between them.
    pub(super) fn ranges(&self, count: usize) -> Vec<(usize, usize)> {
        let length = self.count().unwrap_or(0);
        if length == 0 {
            return vec![];
        }
        let mut cuts = match self {
            Self::Integers(keys) => widest_gaps(keys, count.saturating_sub(1)),
            // what lies between two texts has no measure
            Self::Texts(..) | Self::TooMany => (1..count)
                .map(|part| part * length / count)
                .filter(|cut| *cut > 0)
                .collect::<Vec<_>>(),
        };
        cuts.sort_unstable();
        cuts.dedup();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().map(|cut| cut - 1).chain([length - 1]);
        starts.zip(ends).collect()
    }

    /// Whether a key lies between two bounds, either of which may be unknown.
    pub(super) fn any_between(
        &self,
        low: &Precision<ScalarValue>,
        high: &Precision<ScalarValue>,
    ) -> bool {
        let (Some(low), Some(high)) = (low.get_value(), high.get_value()) else {
            return true;
        };
        match self {
            Self::Integers(keys) => match (integer(low), integer(high)) {
                (Some(low), Some(high)) => keys
                    .get(keys.partition_point(|key| *key < low))
                    .is_some_and(|key| *key <= high),
                _ => true,
            },
            Self::Texts(keys, _) => match (low.try_as_str().flatten(), high.try_as_str().flatten())
            {
                (Some(low), Some(high)) => keys
                    .get(keys.partition_point(|key| key.as_str() < low))
                    .is_some_and(|key| key.as_str() <= high),
                _ => true,
            },
            Self::TooMany => true,
        }
    }
}

fn integer(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::Int8(value) => value.map(i64::from),
        ScalarValue::Int16(value) => value.map(i64::from),
        ScalarValue::Int32(value) | ScalarValue::Date32(value) => value.map(i64::from),
        ScalarValue::Int64(value) | ScalarValue::TimestampMicrosecond(value, _) => *value,
        _ => None,
    }
}

/// The positions after the widest gaps between sorted keys; none where these gaps are less than half of what lies between the keys.
fn widest_gaps(keys: &[i64], count: usize) -> Vec<usize> {
    let gap = |pair: &[i64]| pair[1].abs_diff(pair[0]);
    let mut gaps: Vec<(u64, usize)> = keys
        .windows(2)
        .enumerate()
        .map(|(position, pair)| (gap(pair), position + 1))
        .filter(|(gap, _)| *gap > 1)
        .collect();
    if gaps.len() > count {
        gaps.select_nth_unstable_by(count, |left, right| right.cmp(left));
        gaps.truncate(count);
    }
    let left_out: u128 = gaps.iter().map(|(gap, _)| u128::from(*gap)).sum();
    let span = keys.first().zip(keys.last());
    let span = span.map_or(0, |(first, last)| u128::from(last.abs_diff(*first)));
    if left_out < span / 2 {
        // keys all over the place: every range would be looked at for nothing
        return vec![];
    }
    gaps.into_iter().map(|(_, position)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[i64], low: i64, high: i64, expected: bool) {
        let mut keys = Keys::Integers(keys.to_vec());
        keys.sort();
        let exact = |value| Precision::Exact(ScalarValue::Int64(Some(value)));
        assert_eq!(
            keys.any_between(&exact(low), &exact(high)),
            expected,
            "{keys:?} in {low}..={high}"
        );
    }

    #[test]
    fn a_file_between_two_clusters_of_keys_is_left_alone() {
        check(&[1, 2, 900], 0, 10, true);
        check(&[1, 2, 900], 3, 899, false);
        check(&[1, 2, 900], 900, 1000, true);
        check(&[], 0, 10, false);
    }

    #[test]
    fn ranges_leave_the_widest_gaps_out() {
        let check = |keys: &[i64], count, expected: &[(usize, usize)]| {
            assert_eq!(Keys::Integers(keys.to_vec()).ranges(count), expected);
        };
        check(&[1, 2, 3, 900, 901, 5000], 2, &[(0, 4), (5, 5)]);
        check(&[1, 2, 3, 900, 901, 5000], 8, &[(0, 2), (3, 4), (5, 5)]);
        check(&[i64::MIN, i64::MAX], 2, &[(0, 0), (1, 1)]);
        check(&[7], 1, &[(0, 0)]);
        check(&[], 4, &[]);
        let texts = Keys::Texts(["a", "b", "c", "d"].map(str::to_owned).to_vec(), 4);
        assert_eq!(texts.ranges(2), [(0, 1), (2, 3)]);
    }
}
