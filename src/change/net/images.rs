//! Rows that are kept in the arrays that they came in, until later ones take their place.
//!
//! Nothing is copied row by row: a batch is kept as a chunk, without the rows that nobody wants, and a column of wanted rows is
//! gathered from all chunks at once. Any type will do. [`Images::is_sparse`] says when it is time to write the chunks anew.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_empty_array, new_null_array,
};
use arrow::compute::kernels::cmp;
use arrow::compute::{interleave, take};
use arrow::datatypes::DataType;
use datafusion::error::Result;

use crate::change::distinct::distinct_values;

/// Rows of a chunk that is written anew.
const CHUNK_ROWS: usize = 32_768;
/// So many rows may be kept in vain.
const SPARE_ROWS: usize = 16_384;

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    chunk: u32,
    row: u32,
}

impl Place {
    pub(super) fn new(chunk: usize, row: usize) -> Self {
        Self {
            chunk: chunk as u32,
            row: row as u32,
        }
    }

    pub(super) fn is_in(self, chunk: usize) -> bool {
        self.chunk as usize == chunk
    }

    pub(super) fn row(self) -> usize {
        self.row as usize
    }
}

/// Rows to gather, see [`Images::rows`].
pub(super) struct Rows {
    indices: Vec<(usize, usize)>,
}

#[derive(Default)]
struct Chunk {
    /// None where no row of the chunk is wanted any more.
    columns: Vec<ArrayRef>,
    rows: usize,
    wanted: usize,
    bytes: usize,
}

impl Chunk {
    fn new(columns: Vec<ArrayRef>, rows: usize) -> Self {
        let sizes = columns.iter().map(|column| column.get_array_memory_size());
        Self {
            bytes: sizes.sum(),
            columns,
            rows,
            wanted: rows,
        }
    }
}

/// Rows of some columns.
pub(super) struct Images {
    types: Vec<DataType>,
    chunks: Vec<Chunk>,
    free: Vec<usize>,
    rows: usize,
    wanted: usize,
    bytes: usize,
}

impl Images {
    pub(super) fn new(types: Vec<DataType>) -> Self {
        Self {
            types,
            chunks: Vec::new(),
            free: Vec::new(),
            rows: 0,
            wanted: 0,
            bytes: 0,
        }
    }

    pub(super) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// The number of the chunk that is [filled](Self::fill) next.
    pub(super) fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.chunks.push(Chunk::default());
            self.chunks.len() - 1
        })
    }

    /// Keeps the `wanted` rows of a batch, in their order.
    pub(super) fn fill(
        &mut self,
        chunk: usize,
        columns: &[ArrayRef],
        wanted: &[bool],
    ) -> Result<()> {
        let numbers = wanted.iter().enumerate().filter(|(_, wanted)| **wanted);
        let numbers = UInt32Array::from_iter_values(numbers.map(|(row, _)| row as u32));
        if numbers.is_empty() {
            self.free.push(chunk);
            return Ok(());
        }
        let all = numbers.len() == wanted.len();
        let columns = columns.iter().map(|column| kept(column, &numbers, all));
        let filled = Chunk::new(columns.collect::<Result<_>>()?, numbers.len());
        self.rows += filled.rows;
        self.wanted += filled.rows;
        self.bytes += filled.bytes;
        self.chunks[chunk] = filled;
        Ok(())
    }

    /// A row that is not wanted any more.
    pub(super) fn release(&mut self, place: Place) {
        let number = place.chunk as usize;
        let chunk = &mut self.chunks[number];
        chunk.wanted -= 1;
        self.wanted -= 1;
        if chunk.wanted == 0 {
            self.rows -= chunk.rows;
            self.bytes -= chunk.bytes;
            *chunk = Chunk::default();
            self.free.push(number);
        }
    }

    /// Whether most of what is kept is not wanted.
    pub(super) fn is_sparse(&self) -> bool {
        self.rows > 2 * self.wanted + SPARE_ROWS
    }

    /// Keeps these rows only, and returns their new places.
    pub(super) fn rewrite(&mut self, places: &[Place]) -> Result<Vec<Place>> {
        let mut rewritten = Self::new(self.types.clone());
        let mut moved = Vec::with_capacity(places.len());
        for (number, places) in places.chunks(CHUNK_ROWS).enumerate() {
            let rows = self.rows(places.iter().map(|place| Some(*place)));
            let columns = (0..self.types.len()).map(|column| self.gather(column, &rows));
            let chunk = Chunk::new(columns.collect::<Result<_>>()?, places.len());
            rewritten.rows += chunk.rows;
            rewritten.bytes += chunk.bytes;
            rewritten.chunks.push(chunk);
            moved.extend((0..places.len()).map(|row| Place::new(number, row)));
        }
        rewritten.wanted = rewritten.rows;
        *self = rewritten;
        Ok(moved)
    }

    /// The rows at these places; NULL where there is none.
    pub(super) fn rows(&self, places: impl Iterator<Item = Option<Place>>) -> Rows {
        let none = (self.chunks.len(), 0);
        let index = |place: Place| (place.chunk as usize, place.row as usize);
        Rows {
            indices: places.map(|place| place.map_or(none, index)).collect(),
        }
    }

    /// A column of these rows.
    pub(super) fn gather(&self, column: usize, rows: &Rows) -> Result<ArrayRef> {
        let data_type = &self.types[column];
        let nothing = new_empty_array(data_type);
        let null = new_null_array(data_type, 1);
        let mut arrays: Vec<&dyn Array> = Vec::with_capacity(self.chunks.len() + 1);
        for chunk in &self.chunks {
            arrays.push(chunk.columns.get(column).unwrap_or(&nothing));
        }
        // an array with a NULL makes all of them slower
        if arrays.is_empty() || rows.indices.iter().any(|(chunk, _)| *chunk == arrays.len()) {
            arrays.push(&null);
        }
        Ok(without_garbage(interleave(&arrays, &rows.indices)?))
    }

    /// Which of the pairs of rows differ in one of the columns.
    pub(super) fn differing(
        &self,
        pairs: &[(Place, Place)],
        columns: Range<usize>,
    ) -> Result<Vec<bool>> {
        let mut differ = vec![false; pairs.len()];
        let mut open: Vec<usize> = (0..pairs.len())
            .filter(|pair| pairs[*pair].0 != pairs[*pair].1)
            .collect();
        for column in columns {
            let first = self.rows(open.iter().map(|pair| Some(pairs[*pair].0)));
            let last = self.rows(open.iter().map(|pair| Some(pairs[*pair].1)));
            let found = distinct(&self.gather(column, &first)?, &self.gather(column, &last)?)?;
            let mut found = found.values().iter();
            open.retain(|pair| {
                differ[*pair] = found.next().unwrap_or_default();
                !differ[*pair]
            });
            if open.is_empty() {
                break;
            }
        }
        Ok(differ)
    }

    /// The bytes that are kept.
    pub(super) fn size(&self) -> usize {
        self.bytes + self.chunks.capacity() * size_of::<Chunk>()
    }
}

/// The rows of these numbers, which may be all.
fn kept(column: &ArrayRef, numbers: &UInt32Array, all: bool) -> Result<ArrayRef> {
    if all && !is_view_of_more(column)? {
        return Ok(Arc::clone(column));
    }
    Ok(without_garbage(take(column, numbers, None)?))
}

/// Whether an array is a small part of what it keeps in memory.
fn is_view_of_more(array: &ArrayRef) -> Result<bool> {
    let own = array.to_data().get_slice_memory_size()?;
    Ok(own * 2 < array.get_array_memory_size())
}

/// Views keep the texts of rows that have been left behind.
fn without_garbage(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array,
    }
}

fn distinct(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanArray> {
    match left.data_type() {
        DataType::Null => distinct_values(left, right),
        nested if nested.is_nested() => distinct_values(left, right),
        _ => Ok(cmp::distinct(left, right)?),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int32Array;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch(values: &[i32]) -> ArrayRef {
        Arc::new(Int32Array::from(values.to_vec()))
    }

    fn values(images: &Images, places: &[Option<Place>]) -> Vec<Option<i32>> {
        let rows = images.rows(places.iter().copied());
        let found = images.gather(0, &rows).unwrap();
        found.as_primitive::<Int32Type>().iter().collect()
    }

    #[test]
    fn rows_are_kept_until_they_are_released() {
        let mut images = Images::new(vec![DataType::Int32]);
        let first = images.reserve();
        images
            .fill(first, &[batch(&[1, 2, 3])], &[true, false, true])
            .unwrap();
        let second = images.reserve();
        images.fill(second, &[batch(&[4])], &[true]).unwrap();
        let places = [Place::new(second, 0), Place::new(first, 1)];
        let found = values(&images, &[Some(places[0]), None, Some(places[1])]);
        assert_eq!(found, [Some(4), None, Some(3)]);
        images.release(Place::new(first, 0));
        let moved = images.rewrite(&places).unwrap();
        assert_eq!(values(&images, &[Some(moved[1])]), [Some(3)]);
        images.release(moved[0]);
        images.release(moved[1]);
        assert_eq!((images.rows, images.bytes), (0, 0));
        assert!(values(&images, &[]).is_empty());
    }

    #[test]
    fn a_chunk_without_rows_is_used_again() {
        let mut images = Images::new(vec![DataType::Int32]);
        let first = images.reserve();
        images.fill(first, &[batch(&[1])], &[false]).unwrap();
        assert_eq!(images.reserve(), first);
    }

    #[test]
    fn pairs_that_differ() {
        let mut images = Images::new(vec![DataType::Int32; 2]);
        let chunk = images.reserve();
        let columns = [batch(&[1, 1, 2, 1]), batch(&[5, 6, 5, 5])];
        images.fill(chunk, &columns, &[true; 4]).unwrap();
        let pair = |left, right| (Place::new(chunk, left), Place::new(chunk, right));
        let pairs = [pair(0, 1), pair(0, 2), pair(0, 3), pair(0, 0)];
        let differing = |columns| images.differing(&pairs, columns).unwrap();
        assert_eq!(differing(0..2), [true, true, false, false]);
        assert_eq!(differing(0..1), [false, true, false, false]);
        assert_eq!(differing(0..0), [false; 4]);
    }
}
