//! The ledger over stores that fail, lie and are raced for: every reader sees the same numbers, whatever has happened.

mod discovery;
mod faulty_store;

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::Utc;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use self::faulty_store::{Fault, FaultyStore};
use super::folder::{CHECKPOINT_SUFFIX, NEWEST_CHECKPOINT, batch_name, checkpoint_name};
use super::*;
use crate::source::files::location::Location;
use crate::source::files::shape::ShapeColumn;

/// What can happen to one write.
const FAULTS: [Fault; 3] = [Fault::NotWritten, Fault::AnswerLost, Fault::Repeated];
/// How often a statement is repeated.
const ATTEMPTS: usize = 20;

fn folder_of(store: &Arc<FaultyStore>, pattern: Option<&str>) -> LedgerFolder {
    let store = Arc::<FaultyStore>::clone(store);
    LedgerFolder::new(
        Location::in_store(store, "drop"),
        pattern.map(str::to_owned),
        None,
    )
}

/// Files of two shapes.
fn file(path: &str, modified: i64) -> FoundFile {
    let column = ShapeColumn {
        name: format!("column{}", path.len() % 2),
        data_type: Some("Int64".to_owned()),
        in_path: false,
    };
    FoundFile {
        path: path.to_owned(),
        size: 3,
        modified,
        e_tag: (modified % 2 == 0).then(|| format!("tag of {path}")),
        shape: Arc::new(Shape {
            columns: vec![column],
            unreadable: None,
        }),
    }
}

fn listing(prefix: &str, count: usize) -> Vec<FoundFile> {
    let file = |number: usize| file(&format!("{prefix}{number}"), number as i64 * 10 + 1);
    (1..=count).map(file).collect()
}

/// Numbers what has no version yet, as a discovery does. What fails in a way that passes is repeated.
async fn number(folder: &LedgerFolder, known: &Ledger, listed: &[FoundFile]) -> Ledger {
    let mut known = known.clone();
    for _ in 0..ATTEMPTS {
        known = folder.refresh(Some(&known)).await.unwrap();
        let loaded = known.load(folder).await.unwrap();
        let is_new = |file: &&FoundFile| known.newest(&loaded, &file.path).is_none();
        let new: Vec<FoundFile> = listed.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return known;
        }
        match folder.append(known.clone(), new).await {
            Ok(Appended::Done(ledger)) => return *ledger,
            Ok(Appended::Lost) => {}
            Err(error) => assert!(error.is_transient(), "this passes by itself: {error}"),
        }
    }
    panic!("no number after {ATTEMPTS} attempts");
}

/// Numbers the files one by one.
async fn number_each(folder: &LedgerFolder, listed: &[FoundFile]) -> Ledger {
    let mut ledger = Ledger::empty();
    for count in 1..=listed.len() {
        ledger = number(folder, &ledger, &listed[..count]).await;
    }
    ledger
}

/// All that a reader learns from a ledger.
#[derive(Debug, PartialEq)]
struct Told {
    id: Option<String>,
    files: Vec<FileVersion>,
    shapes: Vec<Shape>,
    greatest: String,
    is_ordered: bool,
    time: i64,
    /// For each file, the newest version at its time.
    at_times: Vec<i64>,
}

impl Told {
    async fn by(ledger: &Ledger, folder: &LedgerFolder) -> Self {
        let last = ledger.versions();
        let files = ledger.files(folder, 1, last).await.unwrap();
        let mut at_times = Vec::new();
        for file in &files {
            at_times.push(ledger.version_at(folder, file.time).await.unwrap());
            let one = ledger
                .files(folder, file.version, file.version)
                .await
                .unwrap();
            assert_eq!(one, std::slice::from_ref(file));
        }
        Self {
            id: ledger.id().map(str::to_owned),
            files,
            shapes: ledger.shapes(last).cloned().collect(),
            greatest: ledger.greatest().to_owned(),
            is_ordered: ledger.is_ordered(),
            time: ledger.time,
            at_times,
        }
    }
}

/// Makes sure that whoever knows the ledger and whoever does not see the same: each file has one number, and none is left out.
async fn check(folder: &LedgerFolder, known: &Ledger, listed: &[FoundFile]) -> Told {
    let fresh = folder.refresh(None).await.unwrap();
    let all = Told::by(&fresh, folder).await;
    let same = folder.refresh(Some(known)).await.unwrap();
    assert_eq!(Told::by(&same, folder).await, all);
    let versions: Vec<i64> = all.files.iter().map(|file| file.version).collect();
    assert_eq!(versions, (1..=listed.len() as i64).collect::<Vec<_>>());
    let numbered: BTreeSet<&str> = all.files.iter().map(|file| file.path.as_ref()).collect();
    let expected: BTreeSet<&str> = listed.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(numbered, expected);
    for pair in all.files.windows(2) {
        assert!(pair[0].time <= pair[1].time, "time goes back: {pair:?}");
    }
    for version in &all.at_times {
        let next = all.files.get(*version as usize);
        let at = all.files[*version as usize - 1].time;
        assert!(
            next.is_none_or(|next| next.time > at),
            "{version} is not the last at {at}"
        );
    }
    all
}

async fn put(folder: &LedgerFolder, name: &str, text: impl Into<Bytes>) {
    let (store, path) = folder.file(name);
    let text: Bytes = text.into();
    store.put(&path, text.into()).await.unwrap();
}

async fn remove(folder: &LedgerFolder, name: &str) {
    let (store, path) = folder.file(name);
    store.delete(&path).await.unwrap();
}

/// The names of the ledger's files.
async fn names(folder: &LedgerFolder) -> Vec<String> {
    let (store, path) = folder.file("");
    let listed: Vec<_> = store.list(Some(&path)).try_collect().await.unwrap();
    let names = listed.iter().filter_map(|meta| meta.location.filename());
    names.map(str::to_owned).collect()
}

fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_write_that_fails_numbers_nothing_twice() {
    for fault in FAULTS {
        for write in 1..=6 {
            let folder = folder_of(&FaultyStore::at_write(fault, write), None);
            let listed = listing("file", 9);
            let mut ledger = Ledger::empty();
            let mut before: Vec<FileVersion> = vec![];
            for count in [2, 3, 3, 7, 8, 9] {
                ledger = number(&folder, &ledger, &listed[..count]).await;
                let told = check(&folder, &ledger, &listed[..count]).await;
                assert!(told.files.starts_with(&before), "{fault:?} at {write}");
                before = told.files;
            }
        }
    }
}

/// Nobody learns a number that others do not see.
#[tokio::test]
async fn an_append_that_is_done_is_what_others_read() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    let mut ledger = Ledger::empty();
    let listed = listing("file", 5);
    for count in 1..=5 {
        ledger = number(&folder, &ledger, &listed[..count]).await;
        let fresh = folder.refresh(None).await.unwrap();
        let fresh = Told::by(&fresh, &folder).await;
        assert_eq!(Told::by(&ledger, &folder).await, fresh);
    }
}

#[tokio::test]
async fn appenders_that_race_number_alike() {
    const FILES: usize = 40;
    for appenders in [2, 8] {
        let store = FaultyStore::healthy();
        let tasks = (0..appenders).map(|appender| {
            let folder = folder_of(&store, None);
            tokio::spawn(async move {
                let listed = listing("file", FILES);
                let mut ledger = Ledger::empty();
                for count in [1, 5, 6, 20, FILES] {
                    // half of them find the last ones first
                    let seen = match appender % 2 {
                        0 => &listed[..count],
                        _ => &listed[FILES - count..],
                    };
                    ledger = number(&folder, &ledger, seen).await;
                    tokio::task::yield_now().await;
                }
                ledger
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let folder = folder_of(&store, None);
        let mut last = Ledger::empty();
        for task in tasks {
            let ledger = task.await.unwrap();
            check(&folder, &ledger, &listing("file", FILES)).await;
            last = ledger;
        }
        let all = Told::by(&folder.refresh(None).await.unwrap(), &folder).await;
        assert_eq!(Told::by(&last, &folder).await, all);
    }
}

/// A ledger of so many batches, and what is known of it.
async fn long_ledger(folder: &LedgerFolder, batches: usize) -> (Ledger, Vec<FoundFile>, Told) {
    let listed = listing("file", batches);
    let ledger = number_each(folder, &listed).await;
    let all = check(folder, &ledger, &listed).await;
    (ledger, listed, all)
}

async fn checkpoints(folder: &LedgerFolder) -> Vec<String> {
    let mut names = names(folder).await;
    names.retain(|name| name.ends_with(CHECKPOINT_SUFFIX));
    names
}

#[tokio::test]
async fn a_checkpoint_changes_nothing() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    let (ledger, listed, all) = long_ledger(&folder, 70).await;
    let fresh = folder.refresh(None).await.unwrap();
    assert!(fresh.checkpoint.is_some());
    let hint = folder.read(NEWEST_CHECKPOINT).await.unwrap();
    for damaged in ["", "{", "{\"ledger\":\"x\"}", "[]", "\u{0}"] {
        put(&folder, NEWEST_CHECKPOINT, damaged).await;
        assert_eq!(check(&folder, &ledger, &listed).await, all, "{damaged:?}");
    }
    remove(&folder, NEWEST_CHECKPOINT).await;
    assert_eq!(check(&folder, &ledger, &listed).await, all);
    assert!(folder.refresh(None).await.unwrap().checkpoint.is_none());
    put(&folder, NEWEST_CHECKPOINT, hint).await;
    // who begins from the checkpoint goes on as who has read every batch
    let mut more = listed;
    more.extend(listing("more", 3));
    let grown = number(&folder, &fresh, &more).await;
    check(&folder, &grown, &more).await;
    check(&folder, &ledger, &more).await;
}

#[tokio::test]
async fn a_checkpoint_is_written_when_it_pays() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    number_each(&folder, &listing("file", 63)).await;
    assert_eq!(checkpoints(&folder).await, Vec::<String>::new());
    let folder = folder_of(&FaultyStore::healthy(), None);
    number_each(&folder, &listing("file", 70)).await;
    assert_eq!(checkpoints(&folder).await, [checkpoint_name(64)]);
}

/// A checkpoint only saves time: where it is gone or damaged, the batches say the same.
#[tokio::test]
async fn a_checkpoint_can_be_done_without() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    let (ledger, listed, all) = long_ledger(&folder, 66).await;
    let newest = checkpoints(&folder).await.pop().unwrap();
    put(&folder, &newest, "none").await;
    assert_eq!(check(&folder, &ledger, &listed).await, all);
    put(&folder, &newest, "").await;
    assert_eq!(check(&folder, &ledger, &listed).await, all);
    remove(&folder, &newest).await;
    assert_eq!(check(&folder, &ledger, &listed).await, all);
    // one that is whole and has other files is another matter
    put(
        &folder,
        &newest,
        checkpoint::encode(&all.files[..60]).unwrap(),
    )
    .await;
    let fresh = folder.refresh(None).await.unwrap();
    let error = fresh.files(&folder, 1, fresh.versions()).await.unwrap_err();
    says(&error, &[&newest, "60 files", NEWEST_CHECKPOINT]);
    remove(&folder, NEWEST_CHECKPOINT).await;
    assert_eq!(check(&folder, &ledger, &listed).await, all);
}

#[tokio::test]
async fn a_ledger_that_was_made_anew_is_noticed() {
    for (before, after) in [(1, 1), (3, 1), (3, 3), (1, 3)] {
        for has_read in [true, false] {
            let folder = folder_of(&FaultyStore::healthy(), None);
            let mut known = number_each(&folder, &listing("old", before)).await;
            if has_read {
                known = folder.refresh(None).await.unwrap();
            }
            for name in names(&folder).await {
                remove(&folder, &name).await;
            }
            assert_eq!(folder.refresh(Some(&known)).await.unwrap().versions(), 0);
            let listed = listing("new", after);
            number_each(&folder, &listed).await;
            let told = check(&folder, &known, &listed).await;
            assert_ne!(told.id.as_deref(), known.id());
        }
    }
}

#[tokio::test]
async fn damage_is_named() {
    let broken = batch_name(2);
    let check = async |text: Option<&'static str>, expected: &[&str]| {
        let folder = folder_of(&FaultyStore::healthy(), None);
        let first = number_each(&folder, &listing("file", 1)).await;
        number_each(&folder, &listing("file", 3)).await;
        match text {
            Some(text) => put(&folder, &broken, text).await,
            None => remove(&folder, &broken).await,
        }
        for known in [None, Some(&first)] {
            says(&folder.refresh(known).await.unwrap_err(), expected);
        }
    };
    let named = format!("the ledger's file {broken} is damaged");
    check(Some("{"), &[&named, "restore it from a copy"]).await;
    check(Some("[]\n"), &[&named]).await;
    check(Some("\n\n"), &[&named]).await;
    check(None, &["cannot read the ledger", "is not there"]).await;
    let other = r#"{"ledger":"another","batch":2,"first":2,"time":1,"files":0}"#;
    check(Some(other), &["the ledger's batch 2 does not follow"]).await;
}

/// Otherwise its files would be found once more, and might be numbered in another order.
#[tokio::test]
async fn a_batch_that_lacks_files_is_noticed() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    number(&folder, &Ledger::empty(), &listing("file", 3)).await;
    let whole = folder.read(&batch_name(1)).await.unwrap();
    let whole = String::from_utf8(whole.to_vec()).unwrap();
    for lines in [1, 2, 3] {
        let cut: String = whole.split_inclusive('\n').take(lines).collect();
        put(&folder, &batch_name(1), cut).await;
        let error = folder.refresh(None).await.unwrap_err();
        says(&error, &[&batch_name(1), "is damaged"]);
    }
}

#[tokio::test]
async fn time_never_goes_back() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    let future = Utc::now().timestamp_micros() + 3_600_000_000;
    let modified = [900, 100, 900, 2000, 500, future, 1000];
    let listed = modified.iter().enumerate();
    let listed: Vec<FoundFile> = listed
        .map(|(index, modified)| file(&format!("{index}"), *modified))
        .collect();
    let mut ledger = Ledger::empty();
    for count in [3, 5, 6, 7] {
        ledger = number(&folder, &ledger, &listed[..count]).await;
    }
    let told = check(&folder, &ledger, &listed).await;
    let times: Vec<i64> = told.files.iter().map(|file| file.time).collect();
    assert_eq!(times[..5], [900, 900, 900, 2000, 2000]);
    assert!(times[5] < future, "a version is not of a time to come");
    assert_eq!(times[6], times[5]);
    for (micros, version) in [
        (0, 0),
        (899, 0),
        (900, 3),
        (1999, 3),
        (2000, 5),
        (future, 7),
    ] {
        let found = ledger.version_at(&folder, micros).await.unwrap();
        assert_eq!(found, version, "at {micros}");
    }
}

#[tokio::test]
async fn a_ledger_is_of_one_pattern() {
    let store = FaultyStore::healthy();
    let csv = folder_of(&store, Some("*.csv"));
    let ledger = number_each(&csv, &listing("file", 2)).await;
    check(&csv, &ledger, &listing("file", 2)).await;
    let refused = async |pattern: Option<&str>, expected: &str| {
        let error = folder_of(&store, pattern).refresh(None).await.unwrap_err();
        says(
            &error,
            &[
                "numbers files of the pattern '*.csv'",
                expected,
                "ledger '…'",
            ],
        );
    };
    refused(None, "this table has no pattern").await;
    refused(Some("*.CSV"), "this table has the pattern '*.CSV'").await;
}

#[tokio::test]
async fn a_store_that_cannot_keep_numbers_is_refused() {
    let check = async |fault: Fault, expected: &str| {
        let folder = folder_of(&FaultyStore::always(fault), None);
        let appended = folder.append(Ledger::empty(), listing("file", 1)).await;
        says(&appended.unwrap_err(), &[expected, "ledger '…'"]);
        assert_eq!(names(&folder).await, Vec::<String>::new(), "{fault:?}");
    };
    check(Fault::Overwritten, "overwrites what is there").await;
    check(Fault::NoConditions, "has no conditional write").await;
    check(Fault::Forbidden, "cannot write the ledger").await;
}

#[tokio::test]
async fn the_probe_leaves_nothing_behind() {
    let folder = folder_of(&FaultyStore::healthy(), None);
    number_each(&folder, &listing("file", 2)).await;
    assert_eq!(names(&folder).await, [batch_name(1), batch_name(2)]);
}
