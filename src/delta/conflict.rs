//! Whether a commit that won the race stands in our way (Delta protocol, *Optimistic concurrency*).
//!
//! The isolation level is Serializable, or WriteSerializable where the table says so: there a blind append never is in the way. A
//! statement that knows which rows it has read can tell apart what is none of its business: [`ReadSet::Rows`]. That two statements
//! have changed rows of one file is found out here, and whether they are the same rows by [`super::reconcile`].

use std::collections::{HashMap, HashSet};

use super::actions::{Action, Add, CommitInfo, Remove};
use super::row_tracking::ROW_TRACKING_DOMAIN;
use super::transaction::{ReadSet, Transaction};
use crate::error::Error;

/// Operations that take rows away from the files that they add again, and put none back.
const TAKES_AWAY: [&str; 4] = ["DELETE", "MERGE", "UPDATE", "WRITE"];

/// The conflict between `ours` and the commit of `version`, if there is one.
pub(super) fn find_conflict(ours: &Transaction, version: i64, winner: &[Action]) -> Option<Error> {
    let detail = conflict(ours, winner)?;
    Some(conflict_error(version, winner, detail))
}

/// The error that names the winner and says what was in the way.
pub(super) fn conflict_error(version: i64, winner: &[Action], detail: String) -> Error {
    let operation = info(winner).and_then(|info| info.operation.clone());
    Error::Conflict {
        version,
        operation: operation.unwrap_or_else(|| "a commit".into()),
        detail,
    }
}

fn conflict(ours: &Transaction, winner: &[Action]) -> Option<String> {
    let Some(base) = &ours.base else {
        return Some("the table was created meanwhile".into());
    };
    let about = info(winner);
    let is_blind = about.and_then(|info| info.is_blind_append) == Some(true);
    let operation = about.and_then(|info| info.operation.as_deref());
    let files = Files {
        ours,
        our_removes: ours.actions.iter().filter_map(removed_path).collect(),
        again: gone_before(winner),
        takes_away: operation.is_some_and(|name| TAKES_AWAY.contains(&name)),
        ignores_adds: base.properties().write_serializable && is_blind,
    };
    let our_apps: HashSet<&str> = ours.actions.iter().filter_map(application).collect();
    let our_domains: HashSet<&str> = ours.actions.iter().filter_map(domain).collect();
    let changes_metadata = ours
        .actions
        .iter()
        .any(|action| matches!(action, Action::Metadata(_) | Action::Protocol(_)));
    winner.iter().find_map(|action| match action {
        Action::Protocol(_) => Some("the protocol was changed".into()),
        Action::Metadata(_) => Some("the table's metadata was changed".into()),
        Action::Add(_) | Action::Remove(_) if changes_metadata => {
            Some("rows were written under the metadata that this statement replaces".into())
        }
        Action::Add(add) => files.added(add),
        Action::Remove(remove) => files.removed(remove),
        Action::Txn(txn) if our_apps.contains(txn.app_id.as_str()) => Some(format!(
            "both record progress of the application {:?}",
            txn.app_id
        )),
        Action::DomainMetadata(theirs)
            if our_domains.contains(theirs.domain.as_str())
                && theirs.domain != ROW_TRACKING_DOMAIN =>
        {
            Some(format!("both write the domain {:?}", theirs.domain))
        }
        _ => None,
    })
}

/// The files that a commit removes and adds again, with another deletion vector, by their path.
pub(super) fn added_again(commit: &[Action]) -> HashMap<&str, &Add> {
    let removed: HashSet<&str> = commit.iter().filter_map(removed_path).collect();
    let added = commit.iter().filter_map(|action| match action {
        Action::Add(add) => Some((add.path.as_str(), add)),
        _ => None,
    });
    added.filter(|(path, _)| removed.contains(path)).collect()
}

/// The files that a commit adds again, and how many of their rows were in a deletion vector before.
fn gone_before(commit: &[Action]) -> HashMap<&str, i64> {
    let again = added_again(commit);
    let removed = commit.iter().filter_map(|action| match action {
        Action::Remove(remove) if again.contains_key(remove.path.as_str()) => {
            let before = remove.deletion_vector.as_ref();
            Some((
                remove.path.as_str(),
                before.map_or(0, |vector| vector.cardinality),
            ))
        }
        _ => None,
    });
    removed.collect()
}

/// What the winner did to files, seen from our side.
struct Files<'a> {
    ours: &'a Transaction,
    our_removes: HashSet<&'a str>,
    /// What the winner has added again: how many rows were gone of each file before.
    again: HashMap<&'a str, i64>,
    /// Whether the winner says that it only takes rows away: that as many are gone as before, or more, does not tell that they are
    /// the same ones.
    takes_away: bool,
    ignores_adds: bool,
}

impl Files<'_> {
    fn added(&self, add: &Add) -> Option<String> {
        let path = add.path.as_str();
        let gone = add
            .deletion_vector
            .as_ref()
            .map_or(0, |vector| vector.cardinality);
        // rows that are gone are for `removed`, and where we know them for `reconcile`; rows that come back are new to us
        if let Some(&before) = self.again.get(path) {
            let comes_back = gone <= before || (before > 0 && !self.takes_away);
            let is_known = self.ours.touched.contains_key(path);
            if !comes_back || is_known {
                return None;
            }
        }
        if self.our_removes.contains(path) {
            return Some(both_change(path));
        }
        if !add.data_change || self.ignores_adds {
            return None;
        }
        let is_read = match &self.ours.reads {
            ReadSet::Nothing => false,
            ReadSet::Table => true,
            ReadSet::Rows { of, .. } => of.may_match(add),
        };
        is_read.then(|| "rows were added that this statement has not read".into())
    }

    fn removed(&self, remove: &Remove) -> Option<String> {
        let path = remove.path.as_str();
        let known = self.ours.touched.contains_key(path);
        let again = self.again.contains_key(path);
        if self.our_removes.contains(path) && !(known && again) {
            return Some(both_change(path));
        }
        let is_lost = match &self.ours.reads {
            ReadSet::Nothing => false,
            // rearranged, too: where the matched rows are now, nobody could say of the next winner
            ReadSet::Rows { complete: true, .. } => known && !again,
            // which rows were read nobody knows
            ReadSet::Rows {
                complete: false, ..
            }
            | ReadSet::Table => remove.data_change,
        };
        is_lost.then(|| "rows that this statement has read were removed".into())
    }
}

fn both_change(path: &str) -> String {
    format!("both change rows of {path}")
}

fn removed_path(action: &Action) -> Option<&str> {
    match action {
        Action::Remove(remove) => Some(&remove.path),
        _ => None,
    }
}

fn application(action: &Action) -> Option<&str> {
    match action {
        Action::Txn(txn) => Some(&txn.app_id),
        _ => None,
    }
}

fn domain(action: &Action) -> Option<&str> {
    match action {
        Action::DomainMetadata(domain) => Some(&domain.domain),
        _ => None,
    }
}

/// What a commit says of itself.
pub(super) fn info(commit: &[Action]) -> Option<&CommitInfo> {
    commit.iter().find_map(|action| match action {
        Action::CommitInfo(info) => Some(info),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
