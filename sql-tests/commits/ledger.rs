//! What a writer has done to a table `t (id, n)`, row by row, as it believes.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::tables::Change;

/// The ids of rows that everybody counts up.
pub(super) const COUNTERS: i64 = 8;
/// How far the own ids of writers are apart.
const OWN_IDS: i64 = 100_000;

/// A statement, and what is true once it is done.
pub(super) struct Step {
    pub sql: String,
    /// Its name in the log.
    pub operation: &'static str,
    /// Ids that get a row, one that counts from 0.
    inserted: Vec<i64>,
    /// Ids whose rows count up.
    counted: Vec<i64>,
    /// Ids whose rows go.
    deleted: Vec<i64>,
}

/// The books of one writer.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The rows that nobody else writes.
    own: BTreeMap<i64, i64>,
    next_id: i64,
    /// How often it has counted up each row that all share.
    counted: BTreeMap<i64, i64>,
    /// The changes of its own rows.
    changes: Vec<Change>,
    /// How many commits of each operation it has made.
    commits: BTreeMap<&'static str, usize>,
    /// How many statements have lost to other writers.
    pub conflicts: usize,
}

impl Ledger {
    /// The books of a writer before its first statement.
    pub(super) fn new(writer: i64) -> Self {
        Self {
            next_id: (writer + 1) * OWN_IDS,
            ..Self::default()
        }
    }

    /// Something to do next.
    pub(super) fn next(&self, random: &mut Random) -> Step {
        match random.below(10) {
            0 | 1 => self.append(random),
            2 if !self.own.is_empty() => self.delete(random),
            3 if !self.own.is_empty() => self.delete_by_merge(random),
            4 | 5 => count_by_update(random),
            _ => self.upsert(random),
        }
    }

    /// Enters that a statement is done.
    pub(super) fn enter(&mut self, step: Step) {
        *self.commits.entry(step.operation).or_default() += 1;
        for id in step.inserted {
            self.own.insert(id, 0);
            self.next_id = self.next_id.max(id + 1);
            self.changes.push(change("insert", id, 0));
        }
        for id in step.counted {
            let Some(count) = self.own.get_mut(&id) else {
                *self.counted.entry(id).or_default() += 1;
                continue;
            };
            self.changes.extend(counted_up(id, *count));
            *count += 1;
        }
        for id in step.deleted {
            if let Some(count) = self.own.remove(&id) {
                self.changes.push(change("delete", id, count));
            }
        }
    }

    fn append(&self, random: &mut Random) -> Step {
        let inserted = self.new_ids(1 + random.index(3));
        let values: Vec<String> = inserted.iter().map(|id| format!("({id}, 0)")).collect();
        Step {
            inserted,
            ..Step::new(
                "WRITE",
                format!("INSERT INTO t VALUES {}", values.join(", ")),
            )
        }
    }

    fn delete(&self, random: &mut Random) -> Step {
        let deleted = self.some(random, 3);
        let sql = format!("DELETE FROM t WHERE id IN ({})", list(&deleted));
        Step {
            deleted,
            ..Step::new("DELETE", sql)
        }
    }

    fn delete_by_merge(&self, random: &mut Random) -> Step {
        let deleted = self.some(random, 2);
        let sql = format!(
            "MERGE INTO t USING (VALUES {}) AS s (id) ON t.id = s.id WHEN MATCHED THEN DELETE",
            tuples(&deleted)
        );
        Step {
            deleted,
            ..Step::new("MERGE", sql)
        }
    }

    /// Counts up rows of its own and shared ones, and adds new ones, in one statement.
    fn upsert(&self, random: &mut Random) -> Step {
        let inserted = self.new_ids(random.index(3));
        let mut counted = self.some(random, 2);
        counted.extend(shared(random));
        let ids = [inserted.clone(), counted.clone()].concat();
        let sql = format!(
            "MERGE INTO t USING (VALUES {}) AS s (id) ON t.id = s.id \
             WHEN MATCHED THEN UPDATE SET n = t.n + 1 \
             WHEN NOT MATCHED THEN INSERT (id, n) VALUES (s.id, 0)",
            tuples(&ids)
        );
        Step {
            inserted,
            counted,
            ..Step::new("MERGE", sql)
        }
    }

    fn new_ids(&self, count: usize) -> Vec<i64> {
        (self.next_id..).take(count).collect()
    }

    /// At least one of its own rows, if there are any, and at most so many.
    fn some(&self, random: &mut Random, most: usize) -> Vec<i64> {
        let mut ids: Vec<i64> = self.own.keys().copied().collect();
        let count = 1 + random.index(most);
        random.take(&mut ids, count)
    }
}

impl Step {
    fn new(operation: &'static str, sql: String) -> Self {
        Self {
            sql,
            operation,
            inserted: vec![],
            counted: vec![],
            deleted: vec![],
        }
    }
}

fn count_by_update(random: &mut Random) -> Step {
    let counted = shared(random);
    let sql = format!("UPDATE t SET n = n + 1 WHERE id IN ({})", list(&counted));
    Step {
        counted,
        ..Step::new("UPDATE", sql)
    }
}

/// One or two of the rows that all count up.
fn shared(random: &mut Random) -> Vec<i64> {
    let mut ids: Vec<i64> = (0..COUNTERS).collect();
    let count = 1 + random.index(2);
    random.take(&mut ids, count)
}

/// What all writers' books come to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub rows: Vec<String>,
    pub changes: Vec<Change>,
    pub commits: BTreeMap<&'static str, usize>,
    /// How many statements have lost to other writers.
    pub conflicts: usize,
}

impl Account {
    /// The account of a table that had these rows, each of them once, the shared ones among them.
    pub(super) fn of(first: &[i64], ledgers: &[Ledger]) -> Self {
        let mut account = Self::default();
        for id in first {
            let counted = ledgers.iter().filter_map(|ledger| ledger.counted.get(id));
            let count: i64 = counted.sum();
            account.rows.push(row(*id, count));
            account.changes.push(change("insert", *id, 0));
            account
                .changes
                .extend((0..count).flat_map(|count| counted_up(*id, count)));
        }
        for ledger in ledgers {
            let own = ledger.own.iter().map(|(id, count)| row(*id, *count));
            account.rows.extend(own);
            account.changes.extend(ledger.changes.iter().cloned());
            account.conflicts += ledger.conflicts;
            for (operation, count) in &ledger.commits {
                *account.commits.entry(*operation).or_default() += count;
            }
        }
        account.rows.sort();
        account.changes.sort();
        account
    }
}

/// A row, as the tests write it.
fn row(id: i64, count: i64) -> String {
    format!("[{id},{count}]")
}

fn change(change_type: &str, id: i64, count: i64) -> Change {
    (format!("[\"{change_type}\"]"), row(id, count))
}

fn counted_up(id: i64, count: i64) -> [Change; 2] {
    [
        change("update_preimage", id, count),
        change("update_postimage", id, count + 1),
    ]
}

fn list(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// The ids as rows of VALUES.
fn tuples(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("({id})")).collect();
    ids.join(", ")
}
