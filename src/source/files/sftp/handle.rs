//! An open file or folder on one connection, closed when it is dropped.

use futures::FutureExt;
use russh_sftp::protocol::{File, FileAttributes, OpenFlags};
use tokio::runtime::Handle as Runtime;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::Failure;
use super::pool::Lease;

/// What is to be opened.
pub(super) enum Target {
    /// A file, and what for.
    File(String, OpenFlags),
    /// A folder, to see its entries.
    Folder(String),
}

/// Something open.
pub(super) struct FileHandle {
    lease: Lease,
    handle: String,
    is_closed: bool,
    _permit: OwnedSemaphorePermit,
}

impl FileHandle {
    /// Opens `target`.
    pub(super) async fn open(lease: Lease, target: Target) -> Result<Self, Failure> {
        // A task of its own ends even if nobody waits for it any more: an open handle that nobody knows could never be closed.
        let opening = tokio::spawn(async move {
            let permit = lease.handle_permit().await?;
            let handle = match &target {
                Target::File(path, flags) => lease.open(path, *flags).await?,
                Target::Folder(path) => lease.open_folder(path).await?,
            };
            Ok::<_, Failure>(Self {
                lease,
                handle,
                is_closed: false,
                _permit: permit,
            })
        });
        opening
            .await
            .map_err(|error| Failure::Fatal(error.into()))?
    }

    /// How much one read brings.
    pub(super) fn read_bytes(&self) -> u32 {
        self.lease.read_bytes()
    }

    /// How much one write takes.
    pub(super) fn write_bytes(&self) -> u32 {
        self.lease.write_bytes()
    }

    /// At most `length` bytes from `offset`; none at the end of the file.
    pub(super) async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        self.lease.read(&self.handle, offset, length).await
    }

    /// Writes all of `data` at `offset`.
    pub(super) async fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), Failure> {
        self.lease.write(&self.handle, offset, data).await
    }

    /// Brings what was written to the disk.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        self.lease.sync(&self.handle).await
    }

    /// The attributes of the file as it is now.
    pub(super) async fn attributes(&self) -> Result<FileAttributes, Failure> {
        self.lease.attributes(&self.handle).await
    }

    /// All entries of the folder.
    pub(super) async fn entries(&self) -> Result<Vec<File>, Failure> {
        self.lease.entries(&self.handle).await
    }

    /// Closes it and waits until the server has done so.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        // Never twice: the server may have given the same handle to another file by then.
        self.is_closed = true;
        self.lease.close(&self.handle).await
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        // The request is sent when it is first polled; the answer does not matter. It needs the clock of a runtime.
        if !self.is_closed && Runtime::try_current().is_ok() {
            let _ = self.lease.close(&self.handle).now_or_never();
        }
    }
}
