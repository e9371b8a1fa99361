//! What a winner did, what we have read and written, and whether the two get along.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::find_conflict;
use crate::delta::actions::{
    Action, Add, CommitInfo, DeletionVectorDescriptor, DomainMetadata, Metadata, Protocol, Remove,
    Txn,
};
use crate::delta::reconcile::TouchedRows;
use crate::delta::replay::test_log::{TestLog, commit, state};
use crate::delta::row_tracking::ROW_TRACKING_DOMAIN;
use crate::delta::snapshot::Snapshot;
use crate::delta::transaction::{Operation, ReadRows, ReadSet, Transaction};

const ADDED: Option<&str> = Some("rows were added that this statement has not read");
const REMOVED: Option<&str> = Some("rows that this statement has read were removed");
const BOTH: Option<&str> = Some("both change rows of a");

#[derive(Debug)]
struct MayMatch(bool);

impl ReadRows for MayMatch {
    fn may_match(&self, _: &Add) -> bool {
        self.0
    }
}

/// Some rows; those that were met are the touched ones.
fn matched(may_match: bool) -> ReadSet {
    ReadSet::Rows {
        of: Arc::new(MayMatch(may_match)),
        complete: true,
    }
}

/// Some rows, nobody knows which.
fn some() -> ReadSet {
    ReadSet::Rows {
        of: Arc::new(MayMatch(true)),
        complete: false,
    }
}

/// A version of a table, and what we do on top of it.
struct Ours {
    log: TestLog,
    base: Arc<Snapshot>,
    actions: Vec<Action>,
    touched: Vec<&'static str>,
}

impl Ours {
    async fn of_table(isolation: &str) -> Self {
        let log = TestLog::new();
        let property = format!(r#""delta.isolationLevel":"{isolation}""#);
        log.put(&commit(0), &state("t").replace(r#""a":"b""#, &property));
        let base = Snapshot::load(&log.table, None).await.unwrap();
        Self {
            log,
            base,
            actions: vec![],
            touched: vec![],
        }
    }

    async fn serializable() -> Self {
        Self::of_table("Serializable").await
    }

    fn with(mut self, actions: Vec<Action>) -> Self {
        self.actions = actions;
        self
    }

    fn touching(mut self, path: &'static str) -> Self {
        self.touched.push(path);
        self
    }

    fn check(&self, reads: ReadSet, winner: &[Action], expected: Option<&str>) {
        let touched = self.touched.iter().map(|path| {
            let rows = TouchedRows {
                gone: RoaringTreemap::new(),
                kept: RoaringTreemap::from_iter([1]),
                before: None,
                stays: true,
            };
            ((*path).to_owned(), rows)
        });
        let ours = Transaction {
            table: self.log.table.clone(),
            base: Some(Arc::clone(&self.base)),
            operation: Operation::new("MERGE"),
            actions: self.actions.clone(),
            touched: touched.collect(),
            reads,
        };
        let found = find_conflict(&ours, 1, winner).map(|error| error.to_string());
        let case = format!("{:?}, {winner:?}", ours.reads);
        match (found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) => assert!(found.contains(expected), "{case}: {found}"),
            (found, _) => panic!("{case}: {found:?} instead of {expected:?}"),
        }
    }
}

fn by(operation: &str) -> Action {
    Action::CommitInfo(CommitInfo {
        operation: Some(operation.into()),
        ..CommitInfo::default()
    })
}

fn vector(cardinality: i64) -> Option<DeletionVectorDescriptor> {
    (cardinality > 0).then(|| DeletionVectorDescriptor {
        storage_type: "i".into(),
        path_or_inline_dv: String::new(),
        offset: None,
        size_in_bytes: 0,
        cardinality,
    })
}

fn add(path: &str, gone: i64, data_change: bool) -> Action {
    Action::Add(Add {
        path: path.into(),
        deletion_vector: vector(gone),
        data_change,
        ..Add::default()
    })
}

fn remove(path: &str, gone: i64, data_change: bool) -> Action {
    Action::Remove(Remove {
        path: path.into(),
        deletion_vector: vector(gone),
        data_change,
        ..Remove::default()
    })
}

/// A commit that gives the file `a` another deletion vector.
fn masks(operation: &str, before: i64, after: i64) -> Vec<Action> {
    vec![
        by(operation),
        remove("a", before, true),
        add("a", after, true),
    ]
}

fn rewrites() -> Vec<Action> {
    vec![remove("a", 0, true), add("b", 0, true)]
}

#[tokio::test]
async fn appends() {
    let append = |blind| {
        let info = CommitInfo {
            operation: Some("WRITE".into()),
            is_blind_append: Some(blind),
            ..CommitInfo::default()
        };
        [Action::CommitInfo(info), add("new", 0, true)]
    };
    let ours = Ours::serializable().await;
    for blind in [true, false] {
        ours.check(ReadSet::Nothing, &append(blind), None);
        ours.check(matched(false), &append(blind), None);
        ours.check(matched(true), &append(blind), ADDED);
        ours.check(some(), &append(blind), ADDED);
        ours.check(ReadSet::Table, &append(blind), ADDED);
    }
    let ours = Ours::of_table("WriteSerializable").await;
    for reads in [ReadSet::Nothing, matched(true), some(), ReadSet::Table] {
        ours.check(reads, &append(true), None);
    }
    ours.check(ReadSet::Nothing, &append(false), None);
    ours.check(matched(true), &append(false), ADDED);
    ours.check(ReadSet::Table, &append(false), ADDED);
}

/// A winner that takes rows away, against reads of all kinds, and against a rewrite of the same file whose rows nobody knows.
fn check_loss(untouched: Ours, winner: &[Action]) -> Ours {
    untouched.check(ReadSet::Nothing, winner, None);
    untouched.check(matched(true), winner, None);
    untouched.check(some(), winner, REMOVED);
    untouched.check(ReadSet::Table, winner, REMOVED);
    let rewritten = untouched.with(rewrites());
    rewritten.check(ReadSet::Nothing, winner, BOTH);
    rewritten.check(ReadSet::Table, winner, BOTH);
    rewritten
}

#[tokio::test]
async fn a_file_is_removed() {
    let winner = [by("DELETE"), remove("a", 0, true)];
    for isolation in ["Serializable", "WriteSerializable"] {
        let untouched = Ours::of_table(isolation).await;
        let rewritten = check_loss(untouched, &winner);
        let rewritten = rewritten.touching("a");
        rewritten.check(matched(true), &winner, BOTH);
        let met = rewritten.with(vec![]);
        met.check(matched(true), &winner, REMOVED);
    }
}

#[tokio::test]
async fn rows_of_a_file_are_marked() {
    let winner = masks("DELETE", 1, 2);
    let untouched = Ours::serializable().await;
    let rewritten = check_loss(untouched, &winner);
    // which rows they are is for the vectors to tell, unless more was read than was touched
    let marked = rewritten.with(masks("MERGE", 1, 3)).touching("a");
    marked.check(matched(true), &winner, None);
    marked.check(some(), &winner, REMOVED);
    marked.with(vec![]).check(matched(true), &winner, None);
}

#[tokio::test]
async fn rows_come_back() {
    let untouched = Ours::serializable().await;
    // another row may be gone instead
    for winner in [
        masks("RESTORE", 2, 0),
        masks("RESTORE", 2, 1),
        masks("RESTORE", 1, 2),
        masks("SOMETHING", 1, 2),
        vec![by("RESTORE"), add("old", 0, true)],
    ] {
        untouched.check(ReadSet::Nothing, &winner, None);
        untouched.check(matched(false), &winner, None);
        untouched.check(matched(true), &winner, ADDED);
    }
    untouched.check(matched(true), &masks("RESTORE", 0, 2), None);
    untouched.check(matched(true), &masks("DELETE", 1, 2), None);
    let winner = masks("RESTORE", 2, 1);
    let marked = untouched.with(masks("MERGE", 2, 3));
    marked.check(ReadSet::Nothing, &winner, BOTH);
    marked.touching("a").check(matched(true), &winner, None);
    let ours = Ours::of_table("WriteSerializable").await;
    ours.check(matched(true), &winner, ADDED);
}

#[tokio::test]
async fn files_are_rearranged() {
    let optimize = [by("OPTIMIZE"), remove("a", 0, false), add("c", 0, false)];
    let delete = [by("DELETE"), remove("c", 0, true), add("c", 1, true)];
    let untouched = Ours::serializable().await;
    for reads in [ReadSet::Nothing, matched(true), some(), ReadSet::Table] {
        untouched.check(reads, &optimize, None);
    }
    // a row of the new file, the next time
    untouched.check(matched(true), &delete, None);
    untouched.check(some(), &delete, REMOVED);
    untouched.check(ReadSet::Table, &delete, REMOVED);
    // nobody could tell any more whether it is one that we have met
    let met = untouched.touching("a");
    met.check(matched(true), &optimize, REMOVED);
    let rewritten = met.with(rewrites());
    rewritten.check(matched(true), &optimize, BOTH);
    rewritten.check(ReadSet::Nothing, &optimize, BOTH);
}

#[tokio::test]
async fn metadata_and_protocol() {
    let metadata = || Action::Metadata(Metadata::default());
    let protocol = || Action::Protocol(Protocol::default());
    let ours = Ours::of_table("WriteSerializable").await;
    for reads in [ReadSet::Nothing, matched(false), ReadSet::Table] {
        let changed = Some("the table's metadata was changed");
        ours.check(reads.clone(), &[metadata()], changed);
        ours.check(reads, &[protocol()], Some("the protocol was changed"));
    }
    let replaced = Some("rows were written under the metadata that this statement replaces");
    for change in [metadata(), protocol()] {
        let changes = Ours::serializable().await.with(vec![change]);
        changes.check(ReadSet::Nothing, &[add("new", 0, true)], replaced);
        changes.check(ReadSet::Nothing, &[remove("a", 0, false)], replaced);
        changes.check(ReadSet::Table, &[by("VACUUM START")], None);
    }
}

#[tokio::test]
async fn applications_and_domains() {
    let progress = |application: &str| {
        Action::Txn(Txn {
            app_id: application.into(),
            ..Txn::default()
        })
    };
    let domain = |domain: &str| {
        Action::DomainMetadata(DomainMetadata {
            domain: domain.into(),
            ..DomainMetadata::default()
        })
    };
    let ours = Ours::serializable().await;
    let ours = ours.with(vec![
        progress("x"),
        domain("d"),
        domain(ROW_TRACKING_DOMAIN),
    ]);
    let same = Some(r#"both record progress of the application "x""#);
    ours.check(ReadSet::Nothing, &[progress("x")], same);
    ours.check(ReadSet::Nothing, &[progress("y")], None);
    let same = Some(r#"both write the domain "d""#);
    ours.check(ReadSet::Nothing, &[domain("d")], same);
    ours.check(ReadSet::Nothing, &[domain("e")], None);
    // which is written anew for the version that it gets
    ours.check(ReadSet::Nothing, &[domain(ROW_TRACKING_DOMAIN)], None);
}

#[test]
fn two_create_a_table() {
    let log = TestLog::new();
    let ours = Transaction {
        table: log.table.clone(),
        base: None,
        operation: Operation::new("CREATE TABLE"),
        actions: vec![],
        reads: ReadSet::Table,
        touched: HashMap::new(),
    };
    let found = find_conflict(&ours, 0, &[by("CREATE TABLE")]).map(|error| error.to_string());
    let found = found.unwrap_or_default();
    assert!(found.contains("the table was created meanwhile"), "{found}");
}
