//! Discoveries over stores that fail, and beside each other. The files are empty, so that none has to be read.

use std::collections::HashMap;
use std::sync::Arc;

use super::faulty_store::FaultyStore;
use super::{ATTEMPTS, FAULTS, Ledger, LedgerFolder, Location, folder_of, says};
use crate::error::Result;
use crate::source::files::discovery::{Discovered, Discovery};
use crate::source::files::heads::KnownHeads;
use crate::source::files::inspect::Inspector;
use crate::source::files::options::FileOptions;

/// Looks for files once, as a statement does.
async fn discover(
    store: &Arc<FaultyStore>,
    listing: &str,
    known: Option<&Ledger>,
) -> Result<Discovered> {
    let options = [
        ("format", "parquet"),
        ("listing", listing),
        ("on_invalid", "quarantine"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let options = FileOptions::try_new("s3://test/drop", &HashMap::from(options))?;
    let location = Location::in_store(Arc::<FaultyStore>::clone(store), "drop");
    let folder = folder_of(store, None);
    let inspector = Inspector {
        name: "landed",
        location: &location,
        options: &options,
    };
    let discovery = Discovery {
        location: &location,
        folder: &folder,
        options: &options,
        inspector: &inspector,
        known_heads: KnownHeads::default(),
        check: &|_| Ok(()),
    };
    Box::pin(discovery.run(known)).await
}

/// The paths of the versions, from 1.
async fn paths(folder: &LedgerFolder, ledger: &Ledger) -> Vec<String> {
    let files = ledger.files(folder, 1, ledger.versions()).await.unwrap();
    let paths = files.iter().map(|file| file.path.as_ref().to_owned());
    paths.collect()
}

#[tokio::test]
async fn a_discovery_that_fails_is_made_good_by_the_next() {
    for fault in FAULTS {
        for write in 1..=6 {
            let store = FaultyStore::at_write(fault, write);
            let folder = folder_of(&store, None);
            let mut known: Option<Arc<Ledger>> = None;
            for (name, count) in [("a", 1), ("b", 2), ("sub/c", 3), ("d", 4)] {
                store.land(&format!("drop/{name}")).await;
                let mut failures = 0;
                let found = loop {
                    match discover(&store, "auto", known.as_deref()).await {
                        Ok(found) => break found,
                        Err(error) => assert!(error.is_transient(), "{fault:?} {write}: {error}"),
                    }
                    failures += 1;
                    assert!(failures < ATTEMPTS, "{fault:?} at {write}");
                };
                let fresh = discover(&store, "auto", None).await.unwrap().ledger;
                assert_eq!(
                    paths(&folder, &fresh).await,
                    paths(&folder, &found.ledger).await
                );
                assert_eq!(fresh.versions(), count, "{fault:?} at {write}");
                assert_eq!(found.present, Some(vec![true; count as usize]));
                known = Some(found.ledger);
            }
            let ledger = folder.refresh(None).await.unwrap();
            let mut found = paths(&folder, &ledger).await;
            found.sort();
            assert_eq!(found, ["a", "b", "d", "sub/c"], "{fault:?} at {write}");
        }
    }
}

#[tokio::test]
async fn discoveries_that_race_number_alike() {
    const ROUNDS: usize = 6;
    let store = FaultyStore::healthy();
    let readers = (0..8).map(|_| {
        let store = Arc::<FaultyStore>::clone(&store);
        tokio::spawn(async move {
            let mut known: Option<Arc<Ledger>> = None;
            for _ in 0..ROUNDS {
                let found = discover(&store, "auto", known.as_deref()).await.unwrap();
                known = Some(found.ledger);
                tokio::task::yield_now().await;
            }
            known
        })
    });
    let readers: Vec<_> = readers.collect();
    for file in 0..30 {
        store.land(&format!("drop/{file}")).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    let folder = folder_of(&store, None);
    let last = discover(&store, "auto", None).await.unwrap().ledger;
    let all = paths(&folder, &last).await;
    let mut once = all.clone();
    once.sort();
    once.dedup();
    assert_eq!((all.len(), once.len()), (30, 30), "{all:?}");
    for reader in readers {
        let known = reader.await.unwrap().unwrap();
        let seen = paths(&folder, &known).await;
        assert!(all.starts_with(&seen), "{seen:?} is not how {all:?} begins");
        let now = discover(&store, "auto", Some(&known)).await.unwrap().ledger;
        assert_eq!(paths(&folder, &now).await, all);
    }
}

#[tokio::test]
async fn what_is_gone_or_replaced_is_known() {
    let store = FaultyStore::healthy();
    for name in [
        "a",
        "b",
        "c",
        "_d",
        ".e",
        "f.tmp",
        "_g/h",
        "i.part",
        "j.filepart",
    ] {
        store.land(&format!("drop/{name}")).await;
    }
    let first = discover(&store, "auto", None).await.unwrap();
    assert_eq!(first.present, Some(vec![true; 3]));
    store.land("drop/b").await;
    store.remove("drop/c").await;
    let known = Some(first.ledger.as_ref());
    let expected = Some(vec![true, false, false, true]);
    assert_eq!(
        discover(&store, "auto", known).await.unwrap().present,
        expected
    );
    assert_eq!(
        discover(&store, "auto", known).await.unwrap().present,
        expected
    );
    assert_eq!(
        discover(&store, "auto", None).await.unwrap().present,
        expected
    );
    let folder = folder_of(&store, None);
    let ledger = folder.refresh(None).await.unwrap();
    assert_eq!(paths(&folder, &ledger).await, ["a", "b", "c", "b"]);
}

#[tokio::test]
async fn ordered_listings_begin_after_the_last_name() {
    let store = FaultyStore::healthy();
    let folder = folder_of(&store, None);
    let found = async |listing: &str| {
        let found = discover(&store, listing, None).await.unwrap();
        (paths(&folder, &found.ledger).await, found.present.is_some())
    };
    let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    store.land("drop/b").await;
    assert_eq!(found("ordered").await, (all(&["b"]), true));
    store.land("drop/a").await;
    store.land("drop/c").await;
    assert_eq!(found("ordered").await, (all(&["b", "c"]), false));
    assert_eq!(found("full").await, (all(&["b", "c", "a"]), true));
    // what comes before the last name is known, so it may be looked for again
    assert_eq!(found("auto").await, (all(&["b", "c", "a"]), true));
}

/// What may not be read today may be read tomorrow: it is not set aside, and has no number before that.
#[tokio::test]
async fn what_may_not_be_read_is_not_set_aside() {
    let store = FaultyStore::healthy();
    store.land_unreadable().await;
    let error = discover(&store, "auto", None).await.unwrap_err();
    says(&error, &["cannot read unreadable"]);
    let ledger = folder_of(&store, None).refresh(None).await.unwrap();
    assert_eq!(ledger.versions(), 0);
}
