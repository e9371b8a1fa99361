//! Whether a commit that won the race stands in our way (Delta protocol, *Optimistic concurrency*; isolation level
//! Serializable).

use std::collections::HashSet;

use super::actions::Action;
use super::transaction::{ReadSet, Transaction};
use crate::error::Error;

/// The conflict between `ours` and the commit of `version`, if there is one.
pub(crate) fn find_conflict(ours: &Transaction, version: i64, winner: &[Action]) -> Option<Error> {
    let detail = conflict(ours, winner)?;
    let operation = winner.iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.operation.clone(),
        _ => None,
    });
    Some(Error::Conflict {
        version,
        operation: operation.unwrap_or_else(|| "a commit".into()),
        detail,
    })
}

fn conflict(ours: &Transaction, winner: &[Action]) -> Option<String> {
    if ours.base.is_none() {
        return Some("the table was created meanwhile".into());
    }
    let our_removes: HashSet<&str> = ours.actions.iter().filter_map(removed_path).collect();
    let our_apps: HashSet<&str> = ours.actions.iter().filter_map(application).collect();
    let our_domains: HashSet<&str> = ours.actions.iter().filter_map(domain).collect();
    let changes_metadata = ours
        .actions
        .iter()
        .any(|action| matches!(action, Action::Metadata(_) | Action::Protocol(_)));
    winner.iter().find_map(|action| match action {
        Action::Protocol(_) => Some("the protocol was changed".into()),
        Action::Metadata(_) => Some("the table's metadata was changed".into()),
        Action::Remove(remove) if our_removes.contains(remove.path.as_str()) => {
            Some(format!("both change rows of {}", remove.path))
        }
        Action::Add(add) if our_removes.contains(add.path.as_str()) => {
            Some(format!("both change rows of {}", add.path))
        }
        Action::Add(add) if add.data_change && ours.reads == ReadSet::Table => {
            Some("rows were added that this statement has not read".into())
        }
        Action::Remove(remove) if remove.data_change && ours.reads == ReadSet::Table => {
            Some("rows that this statement has read were removed".into())
        }
        Action::Add(_) | Action::Remove(_) if changes_metadata => {
            Some("rows were written under the metadata that this statement replaces".into())
        }
        Action::Txn(txn) if our_apps.contains(txn.app_id.as_str()) => Some(format!(
            "both record progress of the application {:?}",
            txn.app_id
        )),
        Action::DomainMetadata(theirs) if our_domains.contains(theirs.domain.as_str()) => {
            Some(format!("both write the domain {:?}", theirs.domain))
        }
        _ => None,
    })
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
