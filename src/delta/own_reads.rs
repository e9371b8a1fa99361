//! What a statement reads of the table that it writes.
//!
//! All parts of a statement read one version of its target, the one that its commit is based on, whichever of them is planned first.
//! Who reads is told by the planning, since the finished plan does not tell: DataFusion evaluates sub-queries above the writer, and
//! answers some from statistics without reading at all.
//!
//! ```text
//!  analyzer ── puts OwnReads into the statement's scans of the target and into the target
//!   ├ scans    ── pin() ──> the version; the first one settles it
//!   └ target   ── pinned(), scans() ──> the commit's base and what it must not miss
//! ```
//!
//! A version that is settled stays. A statement that is planned again, and what is planned later than the rest, has another
//! [`OwnReads`], which its scans find in the session that they are planned with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::catalog::Session;
use datafusion::execution::SessionState;
use url::Url;

use super::actions::Add;
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use super::transaction::ReadRows;
use crate::error::Result;

/// The reads that one planning of a statement has of its own target.
#[derive(Debug)]
pub(crate) struct OwnReads {
    table: DeltaTable,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    version: Option<Arc<Snapshot>>,
    scans: usize,
    target: Option<TargetScan>,
}

/// The scan that the rows which are written come from.
#[derive(Debug, Clone)]
pub(crate) struct TargetScan {
    /// By ordinal.
    pub files: Arc<Vec<Arc<Add>>>,
    /// Tells which rows the statement's filters select.
    pub read: Arc<dyn ReadRows>,
}

impl OwnReads {
    /// Reads of the version that is the newest when the first of them is planned.
    pub(crate) fn new(table: DeltaTable) -> Self {
        Self {
            table,
            state: Mutex::default(),
        }
    }

    /// Reads of this version.
    pub(crate) fn at(version: Arc<Snapshot>) -> Self {
        Self {
            table: version.table().clone(),
            state: Mutex::new(State {
                version: Some(version),
                ..State::default()
            }),
        }
    }

    /// What scans of the table at `location` are part of, where they are planned with [`Self::session`].
    pub(crate) fn of(session: &dyn Session, location: &Url) -> Option<Arc<Self>> {
        let own = session.config().get_extension::<Self>()?;
        (own.table.location() == location).then_some(own)
    }

    /// The session with which scans are planned that are to be part of these reads.
    pub(crate) fn session(self: &Arc<Self>, mut session: SessionState) -> SessionState {
        session.config_mut().set_extension(Arc::clone(self));
        session
    }

    /// The table that is read and written.
    pub(crate) fn table(&self) -> &DeltaTable {
        &self.table
    }

    /// The version that one more scan has to read.
    pub(crate) async fn pin(&self) -> Result<Arc<Snapshot>> {
        let known = {
            let mut state = self.state();
            state.scans += 1;
            state.version.clone()
        };
        if let Some(known) = known {
            return Ok(known);
        }
        // the lock is not held while waiting, so that another scan may have been faster
        let newest = self.table.snapshot().await?;
        let mut state = self.state();
        Ok(Arc::clone(state.version.get_or_insert(newest)))
    }

    /// The version that is read; absent as long as there is no scan.
    pub(crate) fn pinned(&self) -> Option<Arc<Snapshot>> {
        self.state().version.clone()
    }

    /// How many scans there are.
    pub(crate) fn scans(&self) -> usize {
        self.state().scans
    }

    /// Remembers the scan that the rows which are written come from.
    pub(crate) fn set_target(&self, target: TargetScan) {
        self.state().target = Some(target);
    }

    /// The scan that the rows which are written come from, if there is one.
    pub(crate) fn target(&self) -> Option<TargetScan> {
        self.state().target.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::execution::SessionStateBuilder;

    use super::*;

    #[test]
    fn scans_find_those_of_their_table() {
        let table = |location| DeltaTable::new("t", location, HashMap::new()).unwrap();
        let without = SessionStateBuilder::new_with_default_features().build();
        let location = table("/w/t").location().clone();
        assert!(OwnReads::of(&without, &location).is_none());
        let own = Arc::new(OwnReads::new(table("/w/t/")));
        let session = own.session(without);
        let check = |location, expected| {
            let found = OwnReads::of(&session, table(location).location());
            assert_eq!(found.is_some(), expected, "{location}");
        };
        check("/w/t", true);
        check("/w/u", false);
        assert_eq!(own.scans(), 0);
        assert!(own.pinned().is_none());
    }
}
