//! Versions stay what they are: whatever becomes of the files, and whoever looks for them at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvial::sql::SessionContextExt;
use futures::StreamExt;
use libtest_mimic::Failed;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::cases::{CHANGES, put_three};
use super::place::Place;
use super::reader::{Reader, changes, says};
use crate::tables::check_same;

/// A file that is replaced is a new version; what its old version was cannot be had any more, and nothing pretends otherwise.
pub(super) async fn overwritten(place: Place) -> Result<(), Failed> {
    put_three(&place).await?;
    let reader = Reader::open(&place).await?;
    reader.check_changes(0, CHANGES).await?;
    // SFTP tells the time of a change in seconds, so the size has to differ
    place
        .put("2.csv", "id,name,_change_request_type\n1,uno-uno,u\n")
        .await?;
    let fourth = [r#"[1,"uno-uno","upsert",4]"#];
    let other = Reader::open(&place).await?;
    for reader in [&reader, &other] {
        reader.check_changes(3, &fourth).await?;
        reader.check_changes(4, &[]).await?;
        reader
            .check_changes(2, &[CHANGES[3], CHANGES[4], fourth[0]])
            .await?;
        reader
            .check_error(&changes(0), &["CHANGES_EXPIRED", "2.csv", "version 2"])
            .await?;
        reader
            .check_error(&changes(5), &["VERSION_NOT_FOUND"])
            .await?;
    }
    let skips = Reader::open(&place.with_option("on_missing", "skip")).await?;
    let left = [CHANGES[0], CHANGES[1], CHANGES[3], CHANGES[4], fourth[0]];
    skips.check_changes(0, &left).await
}

/// Files that are still being written have no version; once they have their name, they get one.
pub(super) async fn half_written(place: Place) -> Result<(), Failed> {
    for name in [
        "_1.csv",
        ".2.csv",
        "3.csv.tmp",
        "4.part",
        "5.csv.FilePart",
        "_sub/6.csv",
    ] {
        place.put(name, "id,name\n0,half").await?;
    }
    place.put("7.csv", "id,name\n7,seven\n").await?;
    let reader = Reader::open(&place).await?;
    reader
        .check_changes(0, &[r#"[7,"seven","upsert",1]"#])
        .await?;
    place.put("8.csv", "").await?;
    place.put("9.csv", "id,name\n9,nine\n").await?;
    let last = reader.rows(&changes(1)).await?;
    check_same(
        "what follows an empty file",
        &[r#"[9,"nine","upsert",3]"#.to_owned()],
        &last,
    )
}

/// A file that is gone is noticed before the first row, and only by those who need it.
pub(super) async fn vanished(place: Place) -> Result<(), Failed> {
    put_three(&place).await?;
    let reader = Reader::open(&place).await?;
    reader.check_changes(0, CHANGES).await?;
    place.delete("2.csv").await?;
    let expected = ["CHANGES_EXPIRED", "2.csv", "version 2"];
    for reader in [&reader, &Reader::open(&place).await?] {
        // unsorted, so that rows of the first file would come out if they could
        let sql = "SELECT * FROM table_changes('landed', 0)";
        let refused = match reader.session.alluvial_sql(sql).await {
            Err(error) => Some(error),
            Ok(frame) => match frame.execute_stream().await {
                Err(error) => Some(error),
                Ok(mut stream) => stream.next().await.and_then(Result::err),
            },
        };
        let error = refused.ok_or("there were rows before the error")?;
        says(&error.strip_backtrace(), &expected)?;
        reader.check_changes(2, &CHANGES[3..]).await?;
        reader
            .check(
                "SELECT * FROM table_changes('landed', 0, 1) ORDER BY id",
                &CHANGES[..2],
            )
            .await?;
    }
    Ok(())
}

/// Sessions find files at the same time, more of which land meanwhile: all number them alike, at every moment.
pub(super) async fn race(place: Place) -> Result<(), Failed> {
    const SESSIONS: usize = 8;
    const FILES: usize = 20;
    const READS: usize = 5;
    for file in 1..=FILES {
        place
            .put(&format!("{file:03}.csv"), format!("id\n{file}\n"))
            .await?;
    }
    let barrier = Arc::new(Barrier::new(SESSIONS + 1));
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (place, barrier) = (place.clone(), Arc::clone(&barrier));
        sessions.spawn(async move {
            barrier.wait().await;
            let reader = Reader::open(&place).await?;
            let mut seen = BTreeMap::new();
            for _ in 0..READS {
                see_versions(&reader, &mut seen).await?;
            }
            Ok::<_, Failed>((reader, seen))
        });
    }
    barrier.wait().await;
    for file in FILES + 1..=2 * FILES {
        place
            .put(&format!("{file:03}.csv"), format!("id\n{file}\n"))
            .await?;
    }
    let mut versions = BTreeMap::<String, String>::new();
    while let Some(ended) = sessions.join_next().await {
        let (reader, mut seen) = ended??;
        see_versions(&reader, &mut seen).await?;
        if !versions.is_empty() && versions != seen {
            return Err(
                format!("two sessions number differently: {versions:?} and {seen:?}").into(),
            );
        }
        versions = seen;
    }
    let wanted = (1..=2 * FILES).map(|number| number.to_string());
    let wanted: BTreeSet<String> = wanted.collect();
    let ids: BTreeSet<String> = versions.values().cloned().collect();
    if versions.keys().ne(&wanted) || ids != wanted {
        return Err(format!("each of {} files has one version: {versions:?}", 2 * FILES).into());
    }
    Ok(())
}

/// Reads the only id of each version into `seen`, where a version that was there must not have changed.
async fn see_versions(reader: &Reader, seen: &mut BTreeMap<String, String>) -> Result<(), Failed> {
    let rows = reader
        .rows("SELECT _commit_version AS a, id AS b FROM table_changes('landed', 0)")
        .await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let text = row.trim_matches(['[', ']']);
        let (version, id) = text.split_once(',').ok_or("a row without a version")?;
        if found.insert(version.to_owned(), id.to_owned()).is_some() {
            return Err(format!("version {version} has more rows than its file").into());
        }
    }
    let moved = seen
        .iter()
        .find(|(version, row)| found.get(*version) != Some(*row));
    if let Some((version, row)) = moved {
        let now = found.get(version);
        return Err(format!("version {version} was {row}, and is {now:?} now").into());
    }
    *seen = found;
    Ok(())
}
