//! What only S3 and Google Cloud Storage can do wrong.

use futures::{StreamExt, TryStreamExt, stream};
use libtest_mimic::Failed;

use super::Special;
use super::place::{Kind, Place};
use super::reader::{Reader, changes};

pub(super) const SPECIALS: &[Special] = &[
    Special {
        kind: Kind::S3,
        name: "no-bucket",
        check: |place| Box::pin(no_bucket(place, "s3://")),
    },
    Special {
        kind: Kind::Gcs,
        name: "no-bucket",
        check: |place| Box::pin(no_bucket(place, "gs://")),
    },
    Special {
        kind: Kind::S3,
        name: "pages",
        check: |place| Box::pin(pages(place)),
    },
];

async fn no_bucket(place: Place, scheme: &str) -> Result<(), Failed> {
    let missing = format!("{scheme}no-such-bucket/");
    let place = place.with_url(&format!("{scheme}drop/"), &missing);
    Reader::check_refused(&place, &["there is no such bucket", &missing]).await
}

/// S3 lists a thousand files at a time.
async fn pages(place: Place) -> Result<(), Failed> {
    const FILES: usize = 1_010;
    const AT_ONCE: usize = 16;
    let puts = stream::iter(1..=FILES).map(|file| {
        let place = place.clone();
        async move {
            let name = format!("{}/{file:04}.csv", file % 3);
            place.put(&name, format!("id\n{file}\n")).await
        }
    });
    puts.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let reader = Reader::open(&place).await?;
    let sums = "SELECT count(*) AS files, max(_commit_version) AS last, sum(id) AS sum, \
        count(DISTINCT _commit_version) AS versions FROM table_changes('landed', 0)";
    let sum = FILES * (FILES + 1) / 2;
    let expected = format!("[{FILES},{FILES},{sum},{FILES}]");
    reader.check(sums, &[&expected]).await?;
    place.put("0/0000.csv", "id\n0\n").await?;
    let last = i64::try_from(FILES)?;
    let new = format!(r#"[0,"upsert",{}]"#, last + 1);
    reader.check(&changes(last), &[&new]).await
}
