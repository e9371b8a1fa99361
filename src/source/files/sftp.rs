//! Files on an SFTP server, as an object store.
//!
//! ```text
//!  SftpStore (ObjectStore) ─┬ get ──> read ────┬─> RemoteFile ───> FileHandle ─> Pool ────> Connection ─> Session
//!                           ├ put ──> upload ──┘   stays open      one open      leases     requests      host key,
//!                           └ list ─> listing ──── across lost ──> handle                                 login
//!                                                  connections
//! ```
//!
//! Contract: what a caller gets is whole and of one state of the file, or an error. A connection that breaks is replaced and the work
//! goes on where it stopped, for as long as there is progress; a file that became another one meanwhile is a failed precondition. A
//! file appears under its name complete or not at all, and an exclusive write never replaces a file. Host keys are checked
//! unless that is switched off. Passwords, passphrases and keys appear in no message.
//!
//! A path of the store is the absolute path on the server without its leading slash.

mod connection;
mod failure;
mod handle;
mod host_key;
mod identity;
mod listing;
mod login;
mod multipart;
mod options;
mod paths;
mod pool;
mod read;
mod remote_file;
mod retry;
mod session;
mod store;
mod upload;

pub(crate) use self::options::SftpOptions;
pub(crate) use self::store::SftpStore;
