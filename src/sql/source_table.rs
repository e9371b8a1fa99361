//! Tables that are sources of changes without being Delta tables, and what the session needs of all of them.

use std::sync::Arc;

use datafusion::catalog::TableProvider;

use super::change_files_table::{ChangeFilesTable, VersionsTable};
use super::snapshots_table::SnapshotsProvider;
use super::versioned_table::VersionedProvider;
use crate::error::Result;
use crate::source::ChangeSource;

/// Such a table.
pub(crate) enum SourceTable<'a> {
    ChangeFiles(&'a ChangeFilesTable),
    Versioned(&'a VersionedProvider),
    Snapshots(&'a SnapshotsProvider),
}

impl<'a> SourceTable<'a> {
    /// The table behind a provider; `None` for any other.
    pub(crate) fn of(provider: &'a dyn TableProvider) -> Option<Self> {
        if let Some(table) = provider.downcast_ref() {
            Some(Self::ChangeFiles(table))
        } else if let Some(table) = provider.downcast_ref() {
            Some(Self::Versioned(table))
        } else {
            provider.downcast_ref().map(Self::Snapshots)
        }
    }

    /// Its changes, each time it is asked as they are then.
    pub(crate) fn source(&self) -> Arc<dyn ChangeSource> {
        match self {
            Self::ChangeFiles(table) => Arc::new(table.files().clone()),
            Self::Versioned(table) => table.source(),
            Self::Snapshots(table) => table.source(),
        }
    }

    /// Its changes as of one moment.
    pub(crate) fn pinned_source(&self) -> Arc<dyn ChangeSource> {
        match self {
            Self::ChangeFiles(table) => Arc::new(table.files().pinned()),
            Self::Versioned(table) => table.pinned_source(),
            Self::Snapshots(table) => table.pinned_source(),
        }
    }

    /// Its versions, as `change_versions` lists them.
    pub(crate) fn versions(&self) -> Arc<dyn TableProvider> {
        match self {
            Self::ChangeFiles(table) => Arc::new(VersionsTable::new(table.files().clone())),
            Self::Versioned(table) => table.versions(),
            Self::Snapshots(table) => table.versions(),
        }
    }

    /// The same table with the columns that it has by now.
    pub(crate) async fn refreshed(&self) -> Result<Arc<dyn TableProvider>> {
        Ok(match self {
            Self::ChangeFiles(table) => Arc::new(table.refreshed().await?),
            Self::Versioned(table) => Arc::new(table.refreshed().await?),
            Self::Snapshots(table) => Arc::new(table.refreshed().await?),
        })
    }
}
