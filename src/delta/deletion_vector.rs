//! Deletion vectors: which rows of a data file are gone (Delta protocol, *Deletion Vectors*).
//!
//! Row positions are file-wide. A file of vectors is a version byte, then for each vector its size (big-endian), the magic
//! number and the 64-bit Roaring bitmap (little-endian), and a CRC-32 (big-endian).

use std::ops::Range;

use bytes::Bytes;
use delta_kernel::actions::deletion_vector_writer::{
    KernelDeletionVector, StreamingDeletionVectorWriter,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;
use uuid::Uuid;

use super::actions::DeletionVectorDescriptor;
use super::location::DataFileLocation;
use super::table::DeltaTable;
use crate::error::{Error, Result};

/// The magic number of the portable 64-bit Roaring format.
const MAGIC: u32 = 1_681_511_377;
/// Bytes of the UUID that ends a relative path, in Z85.
const UUID_CHARACTERS: usize = 20;

/// Reads one deletion vector.
///
/// # Errors
/// [`Error::DamagedLog`] when the bytes are not what the descriptor says.
pub(crate) async fn read(
    table: &DeltaTable,
    descriptor: &DeletionVectorDescriptor,
) -> Result<RoaringTreemap> {
    let damaged = |detail: String| Error::DamagedLog {
        table: table.name().into(),
        detail,
    };
    let bytes = match descriptor.storage_type.as_str() {
        "i" => Bytes::from(
            z85::decode(&descriptor.path_or_inline_dv)
                .map_err(|error| damaged(format!("inline deletion vector: {error}")))?,
        ),
        _ => match location(table, descriptor)? {
            Some(DataFileLocation { store, path }) => {
                let store = store.unwrap_or_else(|| table.store());
                read_framed(store.as_ref(), &path, descriptor)
                    .await?
                    .map_err(damaged)?
            }
            None => {
                return Err(damaged(format!(
                    "unknown deletion vector storage type {:?}",
                    descriptor.storage_type
                )));
            }
        },
    };
    parse(&bytes, descriptor.cardinality).map_err(damaged)
}

/// The file that a vector lies in; `None` for one that lies in the log itself.
///
/// # Errors
/// [`Error::DamagedLog`] when the log does not name a file.
pub(crate) fn location(
    table: &DeltaTable,
    descriptor: &DeletionVectorDescriptor,
) -> Result<Option<DataFileLocation>> {
    let place = &descriptor.path_or_inline_dv;
    match descriptor.storage_type.as_str() {
        "u" => match relative_path(place) {
            Ok(path) => Ok(Some(DataFileLocation { store: None, path })),
            Err(detail) => Err(Error::DamagedLog {
                table: table.name().into(),
                detail,
            }),
        },
        "p" => table.absolute(place).map(Some),
        _ => Ok(None),
    }
}

/// Writes one file with the deletion vectors of several data files, and returns their descriptors in order.
pub(crate) async fn write(
    store: &dyn ObjectStore,
    bitmaps: Vec<RoaringTreemap>,
) -> Result<(Path, Vec<DeletionVectorDescriptor>)> {
    let id = Uuid::new_v4();
    let mut buffer = Vec::new();
    let mut descriptors = Vec::with_capacity(bitmaps.len());
    let mut writer = StreamingDeletionVectorWriter::new(&mut buffer);
    for bitmap in bitmaps {
        let mut vector = KernelDeletionVector::new();
        vector.add_deleted_row_indexes(bitmap.iter());
        let written = writer.write_deletion_vector(vector)?;
        descriptors.push(DeletionVectorDescriptor {
            storage_type: "u".into(),
            path_or_inline_dv: z85::encode(id.as_bytes()),
            offset: Some(written.offset),
            size_in_bytes: written.size_in_bytes,
            cardinality: written.cardinality,
        });
    }
    writer.finalize()?;
    let path = Path::from(format!("deletion_vector_{id}.bin"));
    store.put(&path, buffer.into()).await?;
    Ok((path, descriptors))
}

/// The rows of a file that are kept (or, with `marked`, only those in `bitmap`) as a selection over all `rows`.
pub(crate) fn row_selection(bitmap: &RoaringTreemap, rows: u64, marked: bool) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0_u64;
    let mut push = |count: u64, skip: bool| match selectors.last_mut() {
        Some(last) if last.skip == skip => last.row_count += count as usize,
        _ if count == 0 => {}
        _ => selectors.push(RowSelector {
            row_count: count as usize,
            skip,
        }),
    };
    for run in runs(bitmap).take_while(|run| run.start < rows) {
        let end = run.end.min(rows);
        push(run.start - next, marked);
        push(end - run.start, !marked);
        next = end;
    }
    push(rows - next, marked);
    RowSelection::from(selectors)
}

/// The bitmap as runs of consecutive rows, in order: a vector of millions of rows is mostly few of them.
fn runs(bitmap: &RoaringTreemap) -> impl Iterator<Item = Range<u64>> {
    bitmap.bitmaps().flat_map(|(high, bitmap)| {
        let base = u64::from(high) << 32;
        let mut rows = bitmap.iter();
        std::iter::from_fn(move || {
            let run = rows.next_range()?;
            let end = base + u64::from(*run.end());
            Some(base + u64::from(*run.start())..end.saturating_add(1))
        })
    })
}

/// The file of a `u` vector: `<prefix>/deletion_vector_<uuid>.bin`.
fn relative_path(text: &str) -> Result<Path, String> {
    if text.len() < UUID_CHARACTERS || !text.is_char_boundary(text.len() - UUID_CHARACTERS) {
        return Err(format!(
            "deletion vector path {text:?} is shorter than its UUID"
        ));
    }
    let (prefix, id) = text.split_at(text.len() - UUID_CHARACTERS);
    let decoded =
        z85::decode(id).map_err(|error| format!("deletion vector path {text:?}: {error}"))?;
    let id = Uuid::from_slice(&decoded)
        .map_err(|error| format!("deletion vector path {text:?}: {error}"))?;
    let name = format!("deletion_vector_{id}.bin");
    Ok(Path::from(if prefix.is_empty() {
        name
    } else {
        format!("{prefix}/{name}")
    }))
}

/// The vector's bytes out of its file, checked; the inner error says what is wrong with them.
async fn read_framed(
    store: &dyn ObjectStore,
    path: &Path,
    descriptor: &DeletionVectorDescriptor,
) -> Result<Result<Bytes, String>> {
    // the offset points at the size; four bytes on, the data begins, and the checksum follows it
    let place = (
        u64::try_from(descriptor.offset.unwrap_or(1)),
        u64::try_from(descriptor.size_in_bytes),
    );
    let (Ok(offset), Ok(size)) = place else {
        return Ok(Err(format!(
            "deletion vector {path}: offset {:?}, size {}",
            descriptor.offset, descriptor.size_in_bytes
        )));
    };
    let framed = store
        .get_range(path, offset + 4..offset + 4 + size + 4)
        .await?;
    Ok(check_crc(&framed)
        .map(|()| framed.slice(..framed.len() - 4))
        .map_err(|reason| format!("deletion vector {path}: {reason}")))
}

fn parse(bytes: &[u8], cardinality: i64) -> Result<RoaringTreemap, String> {
    let (magic, data) = bytes
        .split_first_chunk::<4>()
        .ok_or("a deletion vector is shorter than its magic number")?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(format!(
            "a deletion vector begins with {} instead of {MAGIC}",
            u32::from_le_bytes(*magic)
        ));
    }
    let bitmap = RoaringTreemap::deserialize_from(data)
        .map_err(|error| format!("a deletion vector is no Roaring bitmap: {error}"))?;
    if u64::try_from(cardinality) != Ok(bitmap.len()) {
        return Err(format!(
            "a deletion vector has {} rows where the log says {cardinality}",
            bitmap.len()
        ));
    }
    Ok(bitmap)
}

fn check_crc(framed: &[u8]) -> Result<(), String> {
    let (data, stored) = framed.split_last_chunk::<4>().ok_or("it is truncated")?;
    let computed = crc32fast::hash(data);
    if computed == u32::from_be_bytes(*stored) {
        Ok(())
    } else {
        Err("its checksum does not match".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(marks: &[u64], rows: u64, marked: bool, expected: &[(usize, bool)]) {
        let selection = row_selection(
            &RoaringTreemap::from_iter(marks.iter().copied()),
            rows,
            marked,
        );
        let got: Vec<(usize, bool)> = selection
            .iter()
            .map(|selector| (selector.row_count, selector.skip))
            .collect();
        assert_eq!(got, expected, "{marks:?} of {rows}, marked = {marked}");
    }

    #[test]
    fn selections_cover_every_row_once() {
        check(&[], 4, false, &[(4, false)]);
        check(&[0], 4, false, &[(1, true), (3, false)]);
        check(&[1, 2], 4, false, &[(1, false), (2, true), (1, false)]);
        check(&[1, 2], 4, true, &[(1, true), (2, false), (1, true)]);
        check(&[3, 9], 4, false, &[(3, false), (1, true)]);
        check(&[0, 1, 2, 3], 4, false, &[(4, true)]);
        check(&[2, 3, 4, 5], 4, false, &[(2, false), (2, true)]);
        check(&[], 0, false, &[]);
    }

    #[test]
    fn runs_go_on_over_the_borders_of_containers() {
        const CONTAINER: usize = 1 << 16;
        let rows = 3 * CONTAINER;
        let marks: Vec<u64> = (5..rows as u64 - 5).collect();
        check(
            &marks,
            rows as u64,
            false,
            &[(5, false), (rows - 10, true), (5, false)],
        );
        let high = 1 << 32;
        check(
            &[high - 1, high, u64::MAX],
            high + 2,
            true,
            &[(high as usize - 1, true), (2, false), (1, true)],
        );
    }

    #[tokio::test]
    async fn vectors_are_read_back_as_written() {
        let store = object_store::memory::InMemory::new();
        let large: RoaringTreemap = (0..200_000).step_by(3).chain([1 << 33]).collect();
        let written = vec![RoaringTreemap::from_iter([5]), large];
        let (path, descriptors) = write(&store, written.clone()).await.unwrap();
        for (descriptor, bitmap) in descriptors.iter().zip(&written) {
            assert_eq!(relative_path(&descriptor.path_or_inline_dv).unwrap(), path);
            let bytes = read_framed(&store, &path, descriptor)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(&parse(&bytes, descriptor.cardinality).unwrap(), bitmap);
            assert!(
                parse(&bytes, descriptor.cardinality + 1)
                    .unwrap_err()
                    .contains("where the log says")
            );
        }
        let mut bytes = store
            .get(&path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .to_vec();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        store.put(&path, bytes.into()).await.unwrap();
        let damaged = read_framed(&store, &path, &descriptors[1]).await.unwrap();
        assert!(damaged.unwrap_err().contains("checksum"));
    }

    #[test]
    fn bad_paths_are_errors() {
        assert!(relative_path("short").unwrap_err().contains("shorter"));
        assert!(relative_path("~~~~~~~~~~~~~~~~~~~~").is_err());
    }
}
