//! Derived changes of a table without the change data feed, against Spark's feed of the same history.
//!
//! The feed says which statement touched which row; what is derived knows only which rows there were before and after a
//! commit. So Spark's answer is first made what a commit can be told to have changed:
//!
//! | rows are told apart by | expected |
//! |---|---|
//! | row ids | the feed without the updates that changed nothing |
//! | a key | rows that went and came back equal are nothing; of the others, a delete and an insert of one key are an update |
//! | nothing | the same, and updates are a delete and an insert |

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use serde::Deserialize;
use serde_json::Value;

use super::{Outcome, Reading, changes_query, expected, read, same};
use crate::Warehouse;

/// The column that tells rows apart.
const KEY: &str = "id";

/// The case that has the same history with the feed.
#[derive(Deserialize)]
pub(super) struct Derived {
    from: String,
    /// Whether the table tracks its rows.
    row_ids: bool,
}

/// A change: its version, its row as the beginning of canonical text, and its type.
type Change = (i64, String, &'static str);

/// What rows are told apart by.
#[derive(Clone, Copy)]
enum Identity {
    RowIds,
    /// The place of the key among the columns.
    Key(usize),
    Nothing,
}

/// The ranges whose derived changes are not those of the feed.
pub(super) fn check_derived(
    warehouse: &Warehouse,
    derived: &Derived,
) -> Result<Vec<String>, Failed> {
    let mut problems = Vec::new();
    for (range, outcome) in expected(&derived.from)?.changes {
        let Outcome::Read(feed) = outcome else {
            return Err(format!("Spark cannot read {range} of {}", derived.from).into());
        };
        if feed.rows.is_none() {
            continue; // too many to be kept
        }
        for (more, keyed) in [("", false), (", key => 'id'", true)] {
            let query = changes_query(&range, &format!(", derive => true{more}"));
            let identity = identity(derived, keyed, &feed)?;
            let wanted = changed(changes(&feed)?, identity)?;
            let result = match read(warehouse, &query) {
                Ok(found) => same("answer", &wanted, &sorted(changes(&found)?)),
                Err(error) => Err(format!("refused: {error}")),
            };
            if let Err(problem) = result {
                problems.push(format!("{range} derived{more}: {problem}"));
            }
        }
    }
    Ok(problems)
}

fn identity(derived: &Derived, keyed: bool, feed: &Reading) -> Result<Identity, Failed> {
    let place = feed.columns.iter().position(|name| name == KEY);
    match (derived.row_ids, keyed, place) {
        (true, _, _) => Ok(Identity::RowIds),
        (false, true, Some(place)) => Ok(Identity::Key(place)),
        (false, true, None) => Err(format!("{} has no column {KEY:?}", derived.from).into()),
        (false, false, _) => Ok(Identity::Nothing),
    }
}

/// Takes canonical rows of a feed, which end in `,"<type>",<version>]`, apart.
fn changes(reading: &Reading) -> Result<Vec<Change>, Failed> {
    let rows = reading.rows.iter().flatten();
    rows.map(|text| parse(text).ok_or_else(|| format!("{text} is no change").into()))
        .collect()
}

fn parse(text: &str) -> Option<Change> {
    let (rest, version) = text.strip_suffix(']')?.rsplit_once(',')?;
    let (row, kind) = rest.rsplit_once(',')?;
    let kinds = ["insert", "update_preimage", "update_postimage", "delete"];
    let kind = kinds
        .into_iter()
        .find(|name| kind == format!("\"{name}\""))?;
    Some((version.parse().ok()?, row.to_owned(), kind))
}

/// What the commits can be told to have changed, sorted.
fn changed(feed: Vec<Change>, identity: Identity) -> Result<Vec<Change>, Failed> {
    if let Identity::RowIds = identity {
        let (updates, others) = feed
            .into_iter()
            .partition(|(_, _, kind)| kind.starts_with("update"));
        let mut left = uncancelled(updates, "update_preimage", "update_postimage");
        left.extend(others);
        return Ok(sorted(left));
    }
    let left = uncancelled(feed, "delete", "insert");
    match identity {
        Identity::Key(place) => Ok(sorted(paired(left, place)?)),
        _ => Ok(left),
    }
}

/// The rows that a version took away or brought more often than the other, named `taken` and `brought`.
fn uncancelled(feed: Vec<Change>, taken: &'static str, brought: &'static str) -> Vec<Change> {
    let mut counts: BTreeMap<(i64, String), i64> = BTreeMap::new();
    for (version, row, kind) in feed {
        let side = match kind {
            "insert" | "update_postimage" => 1,
            _ => -1,
        };
        *counts.entry((version, row)).or_default() += side;
    }
    let mut left = Vec::new();
    for ((version, row), count) in counts {
        let kind = if count > 0 { brought } else { taken };
        for _ in 0..count.abs() {
            left.push((version, row.clone(), kind));
        }
    }
    left
}

/// Turns deletes and inserts of one key in one version into updates, as many as there are of both.
fn paired(changes: Vec<Change>, place: usize) -> Result<Vec<Change>, Failed> {
    let mut groups: BTreeMap<(i64, String), [Vec<String>; 2]> = BTreeMap::new();
    for (version, row, kind) in changes {
        let values: Vec<Value> = serde_json::from_str(&format!("{row}]"))?;
        let key = values.get(place).map(Value::to_string).unwrap_or_default();
        let [deletes, inserts] = groups.entry((version, key)).or_default();
        match kind {
            "insert" => inserts.push(row),
            _ => deletes.push(row),
        }
    }
    let mut pairs = Vec::new();
    for ((version, _), [deletes, inserts]) in groups {
        let updates = deletes.len().min(inserts.len());
        let named = |rows: Vec<String>, update: &'static str, other: &'static str| {
            let kind = move |index: usize| if index < updates { update } else { other };
            let rows = rows.into_iter().enumerate();
            rows.map(move |(index, row)| (version, row, kind(index)))
        };
        pairs.extend(named(deletes, "update_preimage", "delete"));
        pairs.extend(named(inserts, "update_postimage", "insert"));
    }
    Ok(pairs)
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort();
    changes
}
