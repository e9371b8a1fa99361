//! Change-marked files on bad days, and random ones against a model.
//!
//! ```text
//!  moments.rs   files that change between planning and reading
//!  damage.rs    files that are cut off, broken, empty or not to be read
//!  texts.rs     encodings, compression, and values that are out of the ordinary
//!  places.rs    folders, links, ledgers, many files, several tables
//!  late.rs      changes that come after newer ones, beside changes that lack columns
//!  model.rs     random files, read and synced in between, against a model that goes through all of it in order
//! ```
//!
//! Each trial has a folder where files land, on the local file system. `locations.rs` has the other kinds of stores.

mod damage;
mod landing;
mod late;
mod model;
mod moments;
mod places;
mod texts;

use futures::future::BoxFuture;
use libtest_mimic::{Completion, Failed, Trial};

use self::landing::Landing;
use crate::RUNTIME;
use crate::patience;

/// A check of a folder without files; why it cannot be made here, if it cannot.
type Check = fn(Landing) -> BoxFuture<'static, Result<Option<&'static str>, Failed>>;

pub(crate) fn trials() -> Vec<Trial> {
    let cases = [
        moments::CASES,
        damage::CASES,
        texts::CASES,
        places::CASES,
        late::CASES,
    ];
    let mut trials: Vec<Trial> = cases
        .into_iter()
        .flatten()
        .map(|(name, check)| trial(name, *check))
        .collect();
    trials.extend(model::trials());
    trials
}

fn trial(name: &str, check: Check) -> Trial {
    patience::ignorable_test(format!("files::{name}"), move || {
        let skipped = RUNTIME.block_on(check(Landing::new()?))?;
        Ok(match skipped {
            Some(reason) => Completion::ignored_with(format!("skipped: {reason}")),
            None => Completion::Completed,
        })
    })
}

/// Makes of a check that can always be made one of the kind that [`trials`] runs.
async fn always(
    check: impl Future<Output = Result<(), Failed>>,
) -> Result<Option<&'static str>, Failed> {
    check.await.map(|()| None)
}
