//! A store that gives out a file only if it is still the one that has a version.
//!
//! Between the look at a location and the reading of a file, the file may be replaced. What is read then is not what the version
//! stands for, so every answer is compared with what the ledger says of the file.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::discovery::plain_tag;
use super::ledger::FileVersion;
use super::location::Location;

/// Reads of the files of some versions.
#[derive(Debug)]
pub(super) struct GuardedStore {
    inner: Arc<dyn ObjectStore>,
    files: HashMap<Path, FileVersion>,
    shown: String,
}

impl GuardedStore {
    /// Reads of `files`, by their paths in the store of `location`.
    pub(super) fn new(location: &Location, files: HashMap<Path, FileVersion>) -> Self {
        Self {
            inner: location.store(),
            files,
            shown: location.shown().to_owned(),
        }
    }

    fn check(&self, meta: &ObjectMeta) -> Result<()> {
        match self.files.get(&meta.location) {
            Some(file) if !is_unchanged(file, meta) => Err(object_store::Error::Precondition {
                path: meta.location.to_string(),
                source: format!(
                    "{} of {} has been replaced since it became version {}; run the statement again, and what is there now gets a version of its own",
                    file.path, self.shown, file.version
                )
                .into(),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a file is still the one that has a version. The time of the last change is only told in seconds by some answers, and
/// says nothing beyond the tag where there is one.
pub(super) fn is_unchanged(file: &FileVersion, meta: &ObjectMeta) -> bool {
    let same_content = match (&file.e_tag, &meta.e_tag) {
        (Some(known), Some(found)) => known.as_ref() == plain_tag(found),
        _ => file.modified.div_euclid(1_000_000) == meta.last_modified.timestamp(),
    };
    file.size == meta.size && same_content
}

impl Display for GuardedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shown)
    }
}

#[async_trait]
impl ObjectStore for GuardedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let found = self.inner.get_opts(location, options).await?;
        self.check(&found.meta)?;
        Ok(found)
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("put"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("put"))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { Err(read_only("delete")) }))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only("copy"))
    }
}

fn read_only(operation: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!("files that have a version are only read, not {operation}").into(),
    }
}
