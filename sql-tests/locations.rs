//! Files that land in a folder, in S3, Azure, Google Cloud Storage, or on an SFTP server: each kind of location keeps the same
//! contract.
//!
//! ```text
//!  KINDS ── Kind::place ──> Place ── CASES: locations::<kind>::<case>, the same for every kind
//!             └ server.rs ── serve.py <kind> ── moto, azurite, fake-gcs-server, OpenSSH, asyncssh on a loopback address
//!
//!  azure.rs, sftp.rs, stores.rs: what only one kind can do wrong
//! ```
//!
//! - The first trial that needs a server starts it; it ends with this process. Each trial has a folder of its own on it.
//! - A trial whose server is not installed says so in its line and counts as ignored. Of the environment, `ALLUVIAL_TEST_SERVERS_PYTHON`
//!   is a Python with the packages of `locations/requirements.txt` (else `python3`), `ALLUVIAL_TEST_AZURITE` the program
//!   `azurite-blob`; `sshd` is looked for where it usually is.
//! - No answer and no error of any trial may have a credential in it.

mod azure;
mod cases;
mod place;
mod proxy;
mod reader;
mod server;
mod sftp;
mod stores;
mod versions;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use libtest_mimic::{Completion, Failed, Trial};

use self::cases::CASES;
use self::place::{KINDS, Kind, Place};
use self::server::{Missing, Started};
use crate::RUNTIME;
use crate::patience;

/// A check of a place that has no files yet.
type Check = fn(Place) -> BoxFuture<'static, Result<(), Failed>>;

/// A check of one kind of location.
#[derive(Clone, Copy)]
struct Special {
    kind: Kind,
    name: &'static str,
    check: Check,
}

pub(crate) fn trials() -> Vec<Trial> {
    let everywhere = KINDS.iter().flat_map(|kind| {
        CASES
            .iter()
            .map(move |(name, check)| trial(*kind, name, *check))
    });
    let specials = [azure::SPECIALS, sftp::SPECIALS, stores::SPECIALS].concat();
    everywhere
        .chain(
            specials
                .into_iter()
                .map(|special| trial(special.kind, special.name, special.check)),
        )
        .collect()
}

/// A folder on the S3 server.
pub(crate) struct S3Folder {
    pub url: String,
    /// What a user gives in OPTIONS to reach it.
    pub options: BTreeMap<String, String>,
}

impl S3Folder {
    /// A new one with these files, each with its name; or why there is no server.
    pub(crate) fn create(files: Vec<(String, Vec<u8>)>) -> Result<Result<Self, String>, Failed> {
        let place = match Kind::S3.place()? {
            Started::Ready(place) => place,
            Started::Missing(Missing(reason)) => return Ok(Err(reason)),
        };
        RUNTIME.block_on(async {
            for (name, content) in files {
                place.put(&name, content).await?;
            }
            Ok::<_, Failed>(())
        })?;
        Ok(Ok(Self {
            url: place.url().to_owned(),
            options: place.options,
        }))
    }
}

fn trial(kind: Kind, name: &str, check: Check) -> Trial {
    let name = format!("locations::{}::{name}", kind.name());
    patience::ignorable_test(name, move || match kind.place()? {
        Started::Ready(place) => {
            RUNTIME.block_on(check(place))?;
            Ok(Completion::Completed)
        }
        Started::Missing(Missing(reason)) => {
            Ok(Completion::ignored_with(format!("skipped: {reason}")))
        }
    })
}
