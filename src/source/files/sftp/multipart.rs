//! An upload in parts, each written to its place as it comes.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::upload::{Publish, Upload};

/// The parts of one file so far.
#[derive(Debug)]
pub(super) struct SftpMultipart {
    upload: Arc<Upload>,
    size: u64,
}

impl SftpMultipart {
    /// No parts yet.
    pub(super) fn new(upload: Upload) -> Self {
        Self {
            upload: Arc::new(upload),
            size: 0,
        }
    }
}

#[async_trait]
impl MultipartUpload for SftpMultipart {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.size;
        self.size += data.content_length() as u64;
        let upload = Arc::clone(&self.upload);
        Box::pin(async move { upload.write(offset, data).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.upload.publish(self.size, Publish::Replace).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.discard().await
    }
}
