//! The content of a file as a store gives it, in chunks that are worth their price.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::{GetResult, GetResultPayload};

/// How much of a local file is read at once: handing over to a thread that may wait costs as much as reading a few pages.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// So little is read on the spot.
const SMALL_BYTES: u64 = 64 * 1024;

/// The content of a file.
pub(super) fn stored_bytes(found: GetResult) -> BoxStream<'static, object_store::Result<Bytes>> {
    let range = found.range.clone();
    match found.payload {
        GetResultPayload::Stream(chunks) => chunks,
        GetResultPayload::File(file, path) => local_file(file, path, range),
    }
}

fn local_file(
    file: File,
    path: PathBuf,
    range: Range<u64>,
) -> BoxStream<'static, object_store::Result<Bytes>> {
    let chunks = stream::try_unfold((file, range), move |(mut file, left)| {
        let path = path.clone();
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let chunk = left.start..left.end.min(left.start + CHUNK_BYTES);
            let rest = chunk.end..left.end;
            let is_small = chunk.end - chunk.start <= SMALL_BYTES;
            let (file, bytes) = if is_small {
                let bytes = read_chunk(&mut file, &chunk);
                (file, bytes)
            } else {
                let reading = tokio::task::spawn_blocking(move || {
                    let bytes = read_chunk(&mut file, &chunk);
                    (file, bytes)
                });
                reading.await?
            };
            let bytes = bytes.map_err(|error| object_store::Error::Generic {
                store: "LocalFileSystem",
                source: format!("{}: {error}", path.display()).into(),
            })?;
            Ok(Some((bytes, (file, rest))))
        }
    });
    chunks.boxed()
}

/// Reads a part of a file, all of it or an error.
fn read_chunk(file: &mut File, chunk: &Range<u64>) -> std::io::Result<Bytes> {
    file.seek(SeekFrom::Start(chunk.start))?;
    let length = chunk.end - chunk.start;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let read = file.by_ref().take(length).read_to_end(&mut bytes)?;
    if read as u64 == length {
        return Ok(bytes.into());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "the file has been cut short while it was read",
    ))
}
