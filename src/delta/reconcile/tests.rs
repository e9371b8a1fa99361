//! Rows of one file that several commits mark.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use super::{TouchedRows, reconcile, vector};
use crate::delta::actions::{Action, Add, DeletionVectorDescriptor};
use crate::delta::deletion_vector;
use crate::delta::replay::test_log::TestLog;
use crate::delta::table::DeltaTable;
use crate::delta::transaction::{Operation, ReadSet, Transaction};

const NOW: i64 = 1;

/// What we do with the rows of a file.
struct Ours {
    /// Those that were gone before.
    before: &'static [u64],
    gone: &'static [u64],
    kept: &'static [u64],
    stays: bool,
}

const MARKS: Ours = Ours {
    before: &[1],
    gone: &[7],
    kept: &[9],
    stays: true,
};

fn bitmap(rows: &[u64]) -> RoaringTreemap {
    rows.iter().copied().collect()
}

async fn written(table: &DeltaTable, rows: &[u64]) -> Option<DeletionVectorDescriptor> {
    if rows.is_empty() {
        return None;
    }
    let (_, mut vectors) = deletion_vector::write(table.store().as_ref(), vec![bitmap(rows)])
        .await
        .unwrap();
    vectors.pop()
}

async fn file(table: &DeltaTable, gone: &[u64]) -> Add {
    Add {
        path: "a".into(),
        deletion_vector: written(table, gone).await,
        data_change: true,
        stats: Some(r#"{"numRecords":10}"#.into()),
        base_row_id: Some(100),
        ..Add::default()
    }
}

impl Ours {
    async fn transaction(&self, table: &DeltaTable) -> Transaction {
        let before = file(table, self.before).await;
        let mut actions = vec![];
        if !self.gone.is_empty() {
            actions.push(Action::Remove(before.to_remove(NOW, true)));
            if self.stays {
                let after = [self.before, self.gone].concat();
                actions.push(Action::Add(file(table, &after).await));
            }
        }
        let touched = TouchedRows {
            gone: bitmap(self.gone),
            kept: bitmap(self.kept),
            before: before.deletion_vector,
            stays: self.stays,
        };
        Transaction {
            table: table.clone(),
            base: None,
            operation: Operation::new("MERGE"),
            actions,
            reads: ReadSet::Nothing,
            touched: HashMap::from([("a".into(), touched)]),
        }
    }

    /// Lets winners in a row leave these rows gone. `expected` is what is gone after us, or a piece of what stands in the way of
    /// the last of them.
    async fn check(&self, winners: &[&[u64]], expected: Result<&[u64], &str>) {
        let log = TestLog::new();
        let table = &log.table;
        let mut ours = self.transaction(table).await;
        let mut last = file(table, self.before).await;
        let mut files = vec![];
        let mut refused: Option<String> = None;
        for winner in winners {
            assert_eq!(refused, None, "{winners:?}");
            let theirs = file(table, winner).await;
            let commit = [
                Action::Remove(last.to_remove(NOW, true)),
                Action::Add(theirs.clone()),
            ];
            refused = reconcile(&mut ours, &commit, &mut files).await.unwrap();
            last = theirs;
        }
        match expected {
            Err(expected) => {
                let refused = refused.unwrap_or_default();
                assert!(refused.contains(expected), "{winners:?}: {refused}");
            }
            Ok(expected) => {
                assert_eq!(refused, None, "{winners:?}");
                check_follows(&ours, &last, expected).await;
                let joins = usize::from(!self.gone.is_empty());
                assert_eq!(files.len(), joins * winners.len(), "{winners:?}");
            }
        }
    }
}

/// Makes sure that our actions start from what the last winner has left.
async fn check_follows(ours: &Transaction, last: &Add, expected: &[u64]) {
    for action in &ours.actions {
        match action {
            Action::Remove(remove) => {
                assert_eq!(remove.deletion_vector, last.deletion_vector);
            }
            Action::Add(add) => {
                let gone = vector(&ours.table, add.deletion_vector.as_ref()).await;
                assert_eq!(gone.unwrap(), bitmap(expected));
                assert_eq!(add.base_row_id, last.base_row_id);
                let stats = add.stats.as_deref().unwrap_or_default();
                assert!(stats.contains(r#""tightBounds":false"#), "{stats}");
            }
            other => panic!("{other:?}"),
        }
    }
}

const SAME_ROWS: Result<&[u64], &str> = Err("both change the same rows of a");

#[tokio::test]
async fn other_rows_are_joined() {
    MARKS.check(&[&[1, 4]], Ok(&[1, 4, 7])).await;
    let fresh = Ours {
        before: &[],
        ..MARKS
    };
    fresh.check(&[&[4]], Ok(&[4, 7])).await;
    // the file was only described anew
    fresh.check(&[&[]], Ok(&[7])).await;
}

#[tokio::test]
async fn the_same_rows_are_refused() {
    MARKS.check(&[&[1, 7]], SAME_ROWS).await;
    MARKS.check(&[&[1, 4, 7]], SAME_ROWS).await;
    // one that we have met and left as it is
    MARKS.check(&[&[1, 9]], SAME_ROWS).await;
}

#[tokio::test]
async fn winners_in_a_row() {
    MARKS.check(&[&[1, 4], &[1, 4, 5]], Ok(&[1, 4, 5, 7])).await;
    MARKS.check(&[&[1, 4], &[1, 4, 7]], SAME_ROWS).await;
    MARKS.check(&[&[1, 4], &[1, 4, 9]], SAME_ROWS).await;
    let three: [&[u64]; 3] = [&[1, 2], &[1, 2, 3], &[1, 2, 3, 4]];
    MARKS.check(&three, Ok(&[1, 2, 3, 4, 7])).await;
}

#[tokio::test]
async fn rows_that_come_back_are_refused() {
    MARKS.check(&[&[]], SAME_ROWS).await;
    MARKS.check(&[&[4]], SAME_ROWS).await;
    MARKS.check(&[&[1, 4], &[1]], SAME_ROWS).await;
}

#[tokio::test]
async fn rows_that_we_have_only_met() {
    let met = Ours { gone: &[], ..MARKS };
    met.check(&[&[1, 4]], Ok(&[])).await;
    met.check(&[&[1, 9]], SAME_ROWS).await;
    met.check(&[&[]], SAME_ROWS).await;
    // what came and went in between was never ours
    met.check(&[&[1, 4], &[1]], Ok(&[])).await;
}

#[tokio::test]
async fn a_file_that_we_copy_cannot_be_followed() {
    let copied = Ours {
        stays: false,
        ..MARKS
    };
    let expected = Err("both change rows of a");
    copied.check(&[&[1, 4]], expected).await;
    copied.check(&[&[1]], expected).await;
}
