//! The requests that the store needs, on one connection.
//!
//! A request whose answer does not come marks the connection as broken: nothing new is asked of it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use russh::client::Handle;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{File, FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::failure::Failure;
use super::host_key::HostKeyCheck;
use super::identity::file_type;
use super::options::SftpOptions;
use super::session::{Abilities, POSIX_RENAME, Session};

/// So many reads and writes are under way at once, so that none waits for its answer behind too much other data.
const MOST_TRANSFERS: usize = 24;
/// Fewer than 128: OpenSSH numbers handles from 0, and the SFTP library takes handles for text, which greater numbers are not.
const MOST_HANDLES: usize = 100;
/// How many answers of a folder are asked for at once, after the first ones.
const FOLDER_REQUESTS: usize = 16;

/// A connection that is ready for requests.
pub(super) struct Connection {
    sftp: RawSftpSession,
    ssh: Handle<HostKeyCheck>,
    address: String,
    patience: Duration,
    is_broken: AtomicBool,
    transfers: Semaphore,
    handles: Arc<Semaphore>,
    abilities: Abilities,
}

impl Connection {
    /// A new connection, one attempt.
    pub(super) async fn establish(options: &SftpOptions) -> Result<Self, Failure> {
        let opened = timeout(options.timeout, Box::pin(Session::open(options))).await;
        let session = opened.map_err(|_| {
            Failure::lost(
                ErrorKind::TimedOut,
                &options.address(),
                "cannot connect in time; check the host, the port and the firewall, or raise the option sftp_timeout",
            )
        })??;
        Ok(Self {
            sftp: session.sftp,
            ssh: session.ssh,
            abilities: session.abilities,
            address: options.address(),
            patience: options.timeout,
            is_broken: AtomicBool::new(false),
            transfers: Semaphore::new(MOST_TRANSFERS),
            handles: Arc::new(Semaphore::new(MOST_HANDLES)),
        })
    }

    /// Whether it can be asked something.
    pub(super) fn is_alive(&self) -> bool {
        !self.is_broken.load(Ordering::Relaxed) && !self.ssh.is_closed()
    }

    /// How much one read brings.
    pub(super) fn read_bytes(&self) -> u32 {
        self.abilities.read_bytes
    }

    /// How much one write takes.
    pub(super) fn write_bytes(&self) -> u32 {
        self.abilities.write_bytes
    }

    /// Leave to have one more handle open.
    pub(super) async fn handle_permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = Arc::clone(&self.handles).acquire_owned();
        match timeout(self.patience, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::fatal(format!(
                "{}: {MOST_HANDLES} files are open on one connection, and none was closed in time; raise the option sftp_connections",
                self.address
            ))),
        }
    }

    /// Opens a file.
    pub(super) async fn open(&self, path: &str, flags: OpenFlags) -> Result<String, Failure> {
        let request = self.sftp.open(path, flags, FileAttributes::empty());
        self.textual(self.check(request).await?.handle)
    }

    /// Opens a folder.
    pub(super) async fn open_folder(&self, path: &str) -> Result<String, Failure> {
        self.textual(self.check(self.sftp.opendir(path)).await?.handle)
    }

    /// Closes what was opened.
    pub(super) async fn close(&self, handle: &str) -> Result<(), Failure> {
        self.check(self.sftp.close(handle)).await.map(drop)
    }

    /// At most `length` bytes from `offset`; none at the end of the file.
    pub(super) async fn read(
        &self,
        handle: &str,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, Failure> {
        let _turn = self.transfers.acquire().await;
        match self.check(self.sftp.read(handle, offset, length)).await {
            Ok(mut answer) => {
                answer.data.truncate(length as usize);
                Ok(answer.data)
            }
            Err(failure) if failure.is(StatusCode::Eof) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    /// Writes all of `data` at `offset`.
    pub(super) async fn write(
        &self,
        handle: &str,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<(), Failure> {
        let _turn = self.transfers.acquire().await;
        let request = self.sftp.write(handle, offset, data);
        self.check(request).await.map(drop)
    }

    /// Brings what was written to the disk, where the server can say so.
    pub(super) async fn sync(&self, handle: &str) -> Result<(), Failure> {
        if !self.abilities.sync {
            return Ok(());
        }
        match self.check(self.sftp.fsync(handle)).await {
            Err(failure) if failure.is(StatusCode::OpUnsupported) => Ok(()),
            synced => synced.map(drop),
        }
    }

    /// The attributes of an open file.
    pub(super) async fn attributes(&self, handle: &str) -> Result<FileAttributes, Failure> {
        let answer = self.check(self.sftp.fstat(handle)).await?;
        Ok(answer.attrs)
    }

    /// The attributes of what a path leads to.
    pub(super) async fn stat(&self, path: &str) -> Result<FileAttributes, Failure> {
        Ok(self.check(self.sftp.stat(path)).await?.attrs)
    }

    /// Whether there is anything of this name, a link to nowhere included.
    pub(super) async fn exists(&self, path: &str) -> Result<bool, Failure> {
        match self.check(self.sftp.lstat(path)).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is(StatusCode::NoSuchFile) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the path itself is a link.
    pub(super) async fn is_link(&self, path: &str) -> Result<bool, Failure> {
        let attributes = self.check(self.sftp.lstat(path)).await?.attrs;
        Ok(file_type(&attributes).is_some_and(|kind| kind.is_symlink()))
    }

    /// All entries of an open folder.
    pub(super) async fn entries(&self, handle: &str) -> Result<Vec<File>, Failure> {
        let mut entries = Vec::new();
        // A small folder is one answer and the word that this was all.
        let mut requests = 2;
        loop {
            let answers = (0..requests).map(|_| self.check(self.sftp.readdir(handle)));
            let mut is_end = false;
            for answer in join_all(answers).await {
                match answer {
                    Ok(names) if names.files.is_empty() => is_end = true,
                    Ok(names) => entries.extend(names.files),
                    Err(failure) if failure.is(StatusCode::Eof) => is_end = true,
                    Err(failure) => return Err(failure),
                }
            }
            if is_end {
                return Ok(entries);
            }
            requests = FOLDER_REQUESTS;
        }
    }

    /// Makes a folder.
    pub(super) async fn make_folder(&self, path: &str) -> Result<(), Failure> {
        let request = self.sftp.mkdir(path, FileAttributes::empty());
        self.check(request).await.map(drop)
    }

    /// Removes a file.
    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        self.check(self.sftp.remove(path)).await.map(drop)
    }

    /// Gives a file a name that nothing has yet; fails where something has it. The old name may stay. A server without links has to
    /// keep to the protocol, by which renaming does not replace; one that has them on other file systems only looks before it
    /// renames, which is not enough.
    pub(super) async fn claim(&self, from: &str, to: &str) -> Result<(), Failure> {
        if self.abilities.hard_link {
            match self.check(self.sftp.hardlink(from, to)).await {
                Err(failure @ Failure::Status(_)) if !failure.is(StatusCode::NoSuchFile) => {
                    if self.exists(to).await? {
                        return Err(failure);
                    }
                    return Err(Failure::fatal(format!(
                        "{}: the file system of {to} has no hard links, so nothing can be made there only if it is absent",
                        self.address
                    )));
                }
                linked => return linked.map(drop),
            }
        }
        self.check(self.sftp.rename(from, to)).await.map(drop)
    }

    /// Renames a file, replacing what has the name: at once where the server can, else by removing that first.
    pub(super) async fn replace(&self, from: &str, to: &str) -> Result<(), Failure> {
        if self.abilities.posix_rename {
            let request = self.sftp.extended(POSIX_RENAME, two_texts(from, to));
            return match self.check(request).await? {
                Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                Packet::Status(status) => Err(Failure::of_request(
                    SftpError::Status(status),
                    &self.address,
                )),
                _ => Err(Failure::of_request(
                    SftpError::UnexpectedPacket,
                    &self.address,
                )),
            };
        }
        match self.check(self.sftp.rename(from, to)).await {
            Err(failure @ Failure::Status(_)) if !failure.is(StatusCode::NoSuchFile) => {
                if !self.exists(to).await? {
                    return Err(failure);
                }
                self.remove(to).await?;
                self.check(self.sftp.rename(from, to)).await.map(drop)
            }
            renamed => renamed.map(drop),
        }
    }

    async fn check<T>(
        &self,
        request: impl Future<Output = Result<T, SftpError>>,
    ) -> Result<T, Failure> {
        request.await.map_err(|error| {
            let failure = Failure::of_request(error, &self.address);
            if matches!(failure, Failure::Lost(_)) {
                self.is_broken.store(true, Ordering::Relaxed);
            }
            failure
        })
    }

    /// Refuses a handle that was damaged when it was taken for text. Servers that number their handles have such ones after a
    /// while, and begin anew with each connection.
    fn textual(&self, handle: String) -> Result<String, Failure> {
        if handle.contains(char::REPLACEMENT_CHARACTER) {
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(Failure::lost(
                ErrorKind::ConnectionReset,
                &self.address,
                "the server's handles are no text any more",
            ));
        }
        Ok(handle)
    }
}

/// Two strings, each after its length, as extended requests carry them.
fn two_texts(first: &str, second: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(first.len() + second.len() + 8);
    for text in [first, second] {
        data.extend_from_slice(&(text.len() as u32).to_be_bytes());
        data.extend_from_slice(text.as_bytes());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_requests_carry_lengths() {
        assert_eq!(two_texts("/a", ""), b"\0\0\0\x02/a\0\0\0\0");
    }
}
