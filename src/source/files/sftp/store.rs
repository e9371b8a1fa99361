//! The object store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use russh_sftp::protocol::StatusCode;

use super::listing::{list, list_level};
use super::multipart::SftpMultipart;
use super::options::SftpOptions;
use super::paths::server_path;
use super::pool::Pool;
use super::read::get;
use super::retry::Turn;
use super::upload::{Publish, Upload};

const CONCURRENT_DELETES: usize = 16;

/// The files of an SFTP server. It connects at the first request; clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct SftpStore {
    pool: Arc<Pool>,
}

impl SftpStore {
    /// The store of the server that `options` name.
    pub(crate) fn new(options: SftpOptions) -> Self {
        Self {
            pool: Arc::new(Pool::new(options)),
        }
    }

    /// The protocol has no place for them.
    fn refuse_attributes(&self, attributes: &Attributes) -> Result<()> {
        if attributes.is_empty() {
            return Ok(());
        }
        Err(self.not_implemented("put with attributes"))
    }

    fn not_implemented(&self, operation: &str) -> Error {
        Error::NotImplemented {
            operation: operation.to_owned(),
            implementer: self.to_string(),
        }
    }

    async fn put_new(&self, location: &Path, payload: PutPayload) -> Result<PutResult> {
        let upload = Upload::begin(&self.pool, location).await?;
        upload.write(0, payload.clone()).await?;
        let size = payload.content_length() as u64;
        upload.publish(size, Publish::Create(&payload)).await
    }

    async fn put_over(&self, location: &Path, payload: PutPayload) -> Result<PutResult> {
        let upload = Upload::begin(&self.pool, location).await?;
        let size = payload.content_length() as u64;
        upload.write(0, payload).await?;
        upload.publish(size, Publish::Replace).await
    }

    async fn copy_over(&self, source: GetResult, to: &Path) -> Result<()> {
        let upload = Upload::begin(&self.pool, to).await?;
        let mut size = 0;
        let mut content = source.into_stream();
        while let Some(bytes) = content.try_next().await? {
            let length = bytes.len() as u64;
            upload.write(size, bytes.into()).await?;
            size += length;
        }
        upload.publish(size, Publish::Replace).await?;
        Ok(())
    }
}

impl fmt::Display for SftpStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SftpStore({})", self.pool)
    }
}

#[async_trait]
impl ObjectStore for SftpStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.refuse_attributes(&opts.attributes)?;
        match opts.mode {
            PutMode::Overwrite => self.put_over(location, payload).await,
            PutMode::Create => self.put_new(location, payload).await,
            PutMode::Update(_) => Err(self.not_implemented("put with PutMode::Update")),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.refuse_attributes(&opts.attributes)?;
        let upload = Upload::begin(&self.pool, location).await?;
        Ok(Box::new(SftpMultipart::new(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        get(&self.pool, location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let pool = Arc::clone(&self.pool);
        locations
            .map(move |location| {
                let pool = Arc::clone(&pool);
                async move {
                    let location = location?;
                    delete(&pool, &location).await?;
                    Ok::<_, Error>(location)
                }
            })
            .buffered(CONCURRENT_DELETES)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        list(&self.pool, prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        list(&self.pool, prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        list_level(Arc::clone(&self.pool), prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let source = get(&self.pool, from, GetOptions::new()).await?;
        match options.mode {
            CopyMode::Overwrite => self.copy_over(source, to).await,
            CopyMode::Create => {
                let content = PutPayload::from(source.bytes().await?);
                self.put_new(to, content).await?;
                Ok(())
            }
        }
    }
}

async fn delete(pool: &Pool, location: &Path) -> Result<()> {
    let path = server_path(location);
    let path = path.as_str();
    pool.run(|lease, turn| async move {
        match lease.remove(path).await {
            // Removed by the attempt whose answer was lost.
            Err(failure) if turn == Turn::Repeated && failure.is(StatusCode::NoSuchFile) => Ok(()),
            removed => removed,
        }
    })
    .await
    .map_err(|failure| failure.at(path))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use url::Url;

    use super::*;

    #[test]
    fn names_hold_no_secret() {
        let url = Url::parse("sftp://ann:hunter2@h/upload").unwrap();
        let store = SftpStore::new(SftpOptions::try_new(&url, &HashMap::new()).unwrap());
        assert_eq!(store.to_string(), "SftpStore(sftp://ann@h:22)");
        assert!(!format!("{store:?}").contains("hunter2"));
    }
}
