//! Reading: descriptions of files, and their bytes as a stream with several requests under way.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, Result,
};

use super::failure::STORE;
use super::identity::Identity;
use super::paths::server_path;
use super::pool::Pool;
use super::remote_file::{Purpose, RemoteFile};

/// So much of one file is asked for ahead of its reader.
const READ_AHEAD_BYTES: u64 = 2 * 1024 * 1024;

/// What `options` ask of the file at `location`.
pub(super) async fn get(
    pool: &Arc<Pool>,
    location: &Path,
    options: GetOptions,
) -> Result<GetResult> {
    if options.head {
        let meta = head(pool, location).await?;
        options.check_preconditions(&meta)?;
        let range = 0..meta.size;
        return Ok(result(meta, range, stream::empty().boxed()));
    }
    let path = server_path(location);
    let file = RemoteFile::new(pool, path.clone(), Purpose::Read);
    let identity = file.identity().await.map_err(|failure| failure.at(&path))?;
    let meta = identity.meta(location.clone());
    options.check_preconditions(&meta)?;
    let range = match options.range {
        Some(range) => range.as_range(meta.size).map_err(|error| Error::Generic {
            store: STORE,
            source: Box::new(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path}: {error}"),
            )),
        })?,
        None => 0..meta.size,
    };
    let handle = file.handle().await.map_err(|failure| failure.at(&path))?;
    let chunk = u64::from(handle.read_bytes()).max(1);
    // The stream alone decides how long the file stays open.
    drop(handle);
    let body = body(Arc::new(file), range.clone(), chunk);
    Ok(result(meta, range, body))
}

fn result(
    meta: ObjectMeta,
    range: Range<u64>,
    body: BoxStream<'static, Result<Bytes>>,
) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(body),
        meta,
        range,
        attributes: Attributes::default(),
    }
}

async fn head(pool: &Pool, location: &Path) -> Result<ObjectMeta> {
    let path = server_path(location);
    let path = path.as_str();
    let attributes = pool
        .run(|lease, _| async move { lease.stat(path).await })
        .await;
    let identity = attributes.and_then(|attributes| Identity::of(&attributes, path));
    match identity {
        Ok(identity) => Ok(identity.meta(location.clone())),
        Err(failure) => Err(failure.at(path)),
    }
}

/// The bytes of `range` in order, in pieces of `chunk`.
fn body(file: Arc<RemoteFile>, range: Range<u64>, chunk: u64) -> BoxStream<'static, Result<Bytes>> {
    let ahead = (READ_AHEAD_BYTES / chunk).clamp(2, 64) as usize;
    stream::iter(pieces(range.clone(), chunk))
        .map(move |piece| {
            let file = Arc::clone(&file);
            let is_last = piece.end == range.end;
            async move {
                let data = if is_last {
                    file.read_last(piece).await
                } else {
                    file.read(piece).await
                };
                data.map_err(|failure| failure.at(file.path()))
            }
        })
        .buffered(ahead)
        .boxed()
}

fn pieces(range: Range<u64>, chunk: u64) -> impl Iterator<Item = Range<u64>> + Send {
    let count = (range.end - range.start).div_ceil(chunk);
    (0..count).map(move |number| {
        let start = range.start + number * chunk;
        start..(start + chunk).min(range.end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_pieces() {
        let check = |range, chunk, expected: &[Range<u64>]| {
            assert_eq!(pieces(range, chunk).collect::<Vec<_>>(), expected);
        };
        check(0..0, 10, &[]);
        check(5..9, 10, std::slice::from_ref(&(5..9)));
        check(5..25, 10, &[5..15, 15..25]);
        check(0..21, 10, &[0..10, 10..20, 20..21]);
    }
}
