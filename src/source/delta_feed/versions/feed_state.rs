//! Whether the change data feed was on at a version, followed from commit to commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::delta::actions::{Action, Metadata, Protocol};
use crate::delta::log::{Commit, CommitRange, commit_path, read_range};
use crate::delta::properties::change_data_feed;
use crate::delta::snapshot::Snapshot;
use crate::error::Result;

/// What is known of the feed at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    On,
    Off,
    /// The log that said so has been cleaned.
    Unknown,
}

/// Metadata and protocol in force, as far as the commits have been followed.
#[derive(Debug)]
pub(super) struct FeedState {
    current: Arc<Snapshot>,
    /// The version followed last.
    version: Option<i64>,
    in_force: Option<InForce>,
    /// Where nothing is known yet, the version from which something is.
    later: Option<(i64, InForce)>,
}

#[derive(Debug)]
struct InForce {
    metadata: Metadata,
    protocol: Protocol,
}

impl InForce {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            metadata: snapshot.metadata().clone(),
            protocol: snapshot.protocol().clone(),
        }
    }

    fn change(&mut self, metadata: Option<&Metadata>, protocol: Option<&Protocol>) {
        if let Some(metadata) = metadata {
            self.metadata = metadata.clone();
        }
        if let Some(protocol) = protocol {
            self.protocol = protocol.clone();
        }
    }
}

impl FeedState {
    /// Before any commit of the table whose newest version is `current`.
    pub(super) fn new(current: Arc<Snapshot>) -> Self {
        Self {
            current,
            version: None,
            in_force: None,
            later: None,
        }
    }

    /// The feed at the version of a commit; commits come in version order.
    pub(super) async fn after(&mut self, commit: &Commit) -> Result<Feed> {
        let follows = self.version.is_some_and(|last| last + 1 == commit.version);
        self.version = Some(commit.version);
        match changed(commit) {
            (Some(metadata), Some(protocol)) => {
                self.in_force = Some(InForce {
                    metadata: metadata.clone(),
                    protocol: protocol.clone(),
                });
            }
            (metadata, protocol) if follows => {
                if let Some(in_force) = &mut self.in_force {
                    in_force.change(metadata, protocol);
                }
            }
            _ => self.find(commit.version).await?,
        }
        if let Some((_, later)) = self
            .later
            .take_if(|(version, _)| *version == commit.version)
        {
            self.in_force = Some(later);
        }
        Ok(match &self.in_force {
            None => Feed::Unknown,
            Some(state) if change_data_feed(&state.metadata.configuration, &state.protocol) => {
                Feed::On
            }
            Some(_) => Feed::Off,
        })
    }

    /// Finds what is in force at a version. Where no checkpoint is left from which it can be read, that is what is in force at the
    /// first one that there is, if nothing has changed it in between.
    async fn find(&mut self, version: i64) -> Result<()> {
        (self.in_force, self.later) = (None, None);
        if let Ok(snapshot) = self.current.table().snapshot_at(version).await {
            self.in_force = Some(InForce::of(&snapshot));
            return Ok(());
        }
        let later = oldest_readable(&self.current, version).await?;
        let between = read_range(&later, version + 1, later.version()).await?;
        let is_same = match between {
            CommitRange::Whole(commits) => commits
                .iter()
                .all(|commit| matches!(changed(commit), (None, None))),
            CommitRange::Missing => false,
        };
        if is_same {
            self.in_force = Some(InForce::of(&later));
        } else {
            self.later = Some((later.version(), InForce::of(&later)));
        }
        Ok(())
    }
}

/// The metadata and the protocol that a commit puts in force.
fn changed(commit: &Commit) -> (Option<&Metadata>, Option<&Protocol>) {
    let (mut metadata, mut protocol) = (None, None);
    for action in &commit.actions {
        match action {
            Action::Metadata(found) => metadata = Some(found),
            Action::Protocol(found) => protocol = Some(found),
            _ => {}
        }
    }
    (metadata, protocol)
}

/// The oldest version after `version` that a checkpoint lets us read.
async fn oldest_readable(current: &Arc<Snapshot>, version: i64) -> Result<Arc<Snapshot>> {
    let table = current.table();
    let log = Path::from("_delta_log");
    let listed = table
        .store()
        .list_with_offset(Some(&log), &commit_path(version));
    let checkpoints = listed
        .try_filter_map(|file| async move { Ok(checkpoint_version(&file.location)) })
        .try_collect::<BTreeSet<i64>>()
        .await?;
    for checkpoint in checkpoints.range(version..current.version()) {
        // one of which a part is missing is none
        if let Ok(snapshot) = table.snapshot_at(*checkpoint).await {
            return Ok(snapshot);
        }
    }
    Ok(Arc::clone(current))
}

/// The version of a checkpoint of any kind; `None` for everything else that lies in the log.
fn checkpoint_version(path: &Path) -> Option<i64> {
    let (digits, rest) = path.filename()?.split_once('.')?;
    if digits.len() != 20 || !rest.starts_with("checkpoint.") {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<i64>) {
        assert_eq!(checkpoint_version(&Path::from(path)), expected, "{path}");
    }

    #[test]
    fn checkpoints_of_every_kind_have_a_version() {
        let log = "_delta_log/00000000000000000012";
        check(&format!("{log}.checkpoint.parquet"), Some(12));
        check(
            &format!("{log}.checkpoint.0000000001.0000000002.parquet"),
            Some(12),
        );
        check(
            &format!("{log}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"),
            Some(12),
        );
        check(&format!("{log}.json"), None);
        check(&format!("{log}.crc"), None);
        check("_delta_log/_last_checkpoint", None);
    }
}
