//! One error type, its variants named for what the caller does next.
//!
//! Messages state the value, what was expected and the fix. Conversions from and to other crates' errors live here only.

use datafusion::error::DataFusionError;

/// The result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A version was asked for that the source does not have (yet).
    #[error(
        "VERSION_NOT_FOUND: {what} {requested} is after the current version {current} of {table}; {hint}"
    )]
    VersionNotFound {
        /// The table as the user named it.
        table: String,
        /// Which bound was asked for, `since_version` or `until_version`.
        what: &'static str,
        /// The value asked for.
        requested: String,
        /// The newest version there is.
        current: i64,
        /// What to do instead.
        hint: &'static str,
    },
    /// The bounds of a change read contradict each other or are not versions.
    #[error("INVALID_RANGE: {0}")]
    InvalidRange(String),
    /// Part of the range can no longer be read whole.
    #[error(
        "CHANGES_EXPIRED: changes of {table} after version {requested} were asked for, but {reason}; oldest readable: {oldest}, current version: {current}. \
         Re-initialise the consumer with a full copy, or read from since_version => 'earliest'"
    )]
    ChangesExpired {
        /// The table as the user named it.
        table: String,
        /// The exclusive lower bound asked for, or `NULL`.
        requested: String,
        /// The oldest `since_version` that can be read whole, if any.
        oldest: String,
        /// The newest version there is.
        current: i64,
        /// What is missing, naming the first missing version.
        reason: String,
    },
    /// The change data feed was off for a part of the range.
    #[error(
        "CHANGES_NOT_ENABLED: the change data feed of {table} is off at version {version}; \
         compare the rows of the files that went and came with table_changes(…, derive => true), or switch the feed on with ALTER TABLE … SET TBLPROPERTIES \
         ('delta.enableChangeDataFeed' = 'true') and read from the version after that"
    )]
    ChangesNotEnabled {
        /// The table as the user named it.
        table: String,
        /// The first version of the range without a feed.
        version: i64,
    },
    /// Change tracking is off.
    #[error(
        "CHANGES_NOT_TRACKED: {table} has no change tracking; enable it with ALTER TABLE {table} ENABLE CHANGE_TRACKING, which counts versions from then \
         on, or read the change data feed with table_changes('{table}', version)"
    )]
    ChangesNotTracked {
        /// The table as the user named it.
        table: String,
    },
    /// A row is inserted whose key is there already.
    #[error(
        "DUPLICATE_KEY: the row {row} cannot be inserted into {table}: {reason}, and change tracking tells rows apart by the primary key; \
         use MERGE INTO {table} to update rows that are there. Nothing was written"
    )]
    DuplicateKey {
        /// The table as the user named it.
        table: String,
        /// The key, as `(id) = (7)`.
        row: String,
        /// Where it is already.
        reason: String,
    },
    /// The schema changed inside the range in a way that the rows cannot be carried over.
    #[error(
        "INCOMPATIBLE_SCHEMA: the schema of {table} changed at version {version}: {detail}; read up to version {before} and from version {after} separately"
    )]
    IncompatibleSchema {
        /// The table as the user named it.
        table: String,
        /// The version that changed the schema.
        version: i64,
        /// The last version that can be read before it.
        before: i64,
        /// The first version from which on changes can be read again.
        after: i64,
        /// The column and the two types.
        detail: String,
    },
    /// The table needs something that this version of the crate does not do.
    #[error("UNSUPPORTED_FEATURE: {table} {needs}; it was left untouched")]
    UnsupportedFeature {
        /// The table as the user named it.
        table: String,
        /// The features, by the names the protocol gives them.
        needs: String,
    },
    /// Another writer won, and planning the statement again did not help.
    #[error(
        "CONCURRENT_WRITE: {operation} at version {version} changed what this statement read or wrote ({detail}); nothing was written, run the statement again"
    )]
    Conflict {
        /// The version the winner committed.
        version: i64,
        /// The winner's operation, as its commit says.
        operation: String,
        /// What both touched.
        detail: String,
    },
    /// A sync cannot go on from where it stands.
    #[error(
        "POSITION_LOST: the sync {sync:?} into {target} stands at {position}, but {reason}; \
         with ON EXPIRED RESNAPSHOT it compares source and target in full, writes the rows that differ, and goes on from there"
    )]
    PositionLost {
        /// The name of the sync.
        sync: String,
        /// The table it writes.
        target: String,
        /// The version of which source it has applied.
        position: String,
        /// Why there is no way on.
        reason: String,
    },
    /// What a target remembers of deleted rows has been removed.
    #[error(
        "SEQUENCES_LOST: the file {file} of {table} is gone, in which the sequences of deleted rows are remembered; put it back, or let \
         SYNC … ON EXPIRED RESNAPSHOT begin anew without them"
    )]
    SequencesLost {
        /// The target.
        table: String,
        /// The file, relative to the table.
        file: String,
    },
    /// More than one source row matched a target row.
    #[error(
        "MERGE_CARDINALITY: {rows} row(s) of {table} were matched by more than one source row, so the result would depend on their order; \
         make the source unique on the ON columns, for example with GROUP BY or row_number()"
    )]
    MultipleMatches {
        /// The target table.
        table: String,
        /// How many target rows were matched more than once, at least.
        rows: u64,
    },
    /// A row breaks a constraint of the table.
    #[error(
        "CONSTRAINT_VIOLATION: {constraint} of {table} is violated by the row {row}; nothing was written"
    )]
    Constraint {
        /// The table as the user named it.
        table: String,
        /// The constraint, by name and expression.
        constraint: String,
        /// The first row that breaks it.
        row: String,
    },
    /// The statement or an argument is not valid.
    #[error("{0}")]
    Invalid(String),
    /// There is no such table.
    #[error("table {table} was not found{hint}")]
    TableNotFound {
        /// The table or path as the user named it.
        table: String,
        /// Where it was looked for.
        hint: String,
    },
    /// There is a table of that name already.
    #[error(
        "table {0} exists already; use CREATE OR REPLACE TABLE, CREATE TABLE IF NOT EXISTS, or DROP TABLE first"
    )]
    TableExists(String),
    /// The transaction log says something that the protocol does not allow.
    #[error("the transaction log of {table} is damaged: {detail}")]
    DamagedLog {
        /// The table as the user named it.
        table: String,
        /// The file and what is wrong with it.
        detail: String,
    },
    /// Reading or writing Delta failed below us.
    #[error("{0}")]
    Delta(#[from] deltalake::DeltaTableError),
    /// The Delta kernel failed.
    #[error("{}", without_backtrace(.0))]
    Kernel(#[from] delta_kernel::Error),
    /// The object store failed.
    #[error("{0}")]
    ObjectStore(#[from] object_store::Error),
    /// The local file system failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Arrow failed.
    #[error("{0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// DataFusion failed.
    #[error("{}", .0.strip_backtrace())]
    DataFusion(Box<DataFusionError>),
    /// Not the user's fault: please report it.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl Error {
    /// An error about the statement or an argument.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// A Parquet file of our own could not be read or written.
    pub(crate) fn parquet(error: parquet::errors::ParquetError) -> Self {
        DataFusionError::from(error).into()
    }

    /// Whether the same statement may succeed later without anybody doing anything: another writer won, or a store or a network
    /// failed in a way that passes.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::ObjectStore(error) => is_transient_of_store(error),
            Self::Io(error) => is_transient_io(error),
            _ => causes(self).any(|cause| {
                cause
                    .downcast_ref::<object_store::Error>()
                    .is_some_and(is_transient_of_store)
                    || cause
                        .downcast_ref::<std::io::Error>()
                        .is_some_and(is_transient_io)
                    || cause
                        .downcast_ref::<Self>()
                        .is_some_and(|inner| matches!(inner, Self::Conflict { .. }))
            }),
        }
    }

    /// An error that only a fault of this crate can cause.
    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::Internal(message.to_string())
    }
}

/// The errors behind an error, from the outside in.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

/// What a store answers for good: nothing to be had by asking again.
fn is_transient_of_store(error: &object_store::Error) -> bool {
    use object_store::Error::{AlreadyExists, Generic, JoinError, NotModified, Precondition};
    match error {
        Generic { source, .. } => source
            .downcast_ref::<std::io::Error>()
            .is_none_or(is_transient_io),
        AlreadyExists { .. } | Precondition { .. } | NotModified { .. } | JoinError { .. } => true,
        _ => false,
    }
}

fn is_transient_io(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        Interrupted, NetworkDown, NetworkUnreachable, ResourceBusy, TimedOut, UnexpectedEof,
        WouldBlock,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | ResourceBusy
            | TimedOut
            | UnexpectedEof
            | WouldBlock
    )
}

/// The kernel's error without the backtrace that it may carry.
fn without_backtrace(error: &delta_kernel::Error) -> &delta_kernel::Error {
    match error {
        delta_kernel::Error::Backtraced { source, .. } => without_backtrace(source),
        other => other,
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(other) => Self::DataFusion(Box::new(DataFusionError::External(other))),
            },
            other => Self::DataFusion(Box::new(other)),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        match error {
            Error::DataFusion(inner) => *inner,
            other => Self::External(Box::new(other)),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(format!("JSON: {error}"))
    }
}

impl From<object_store::path::Error> for Error {
    fn from(error: object_store::path::Error) -> Self {
        Self::ObjectStore(error.into())
    }
}
