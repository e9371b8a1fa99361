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

use futures::future::BoxFuture;
use libtest_mimic::{Completion, Failed, Trial};

use self::cases::CASES;
use self::place::{KINDS, Kind, Place};
use self::server::{Missing, Started};
use crate::RUNTIME;

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

fn trial(kind: Kind, name: &str, check: Check) -> Trial {
    let name = format!("locations::{}::{name}", kind.name());
    Trial::ignorable_test(name, move || match kind.place()? {
        Started::Ready(place) => {
            RUNTIME.block_on(check(place))?;
            Ok(Completion::Completed)
        }
        Started::Missing(Missing(reason)) => {
            Ok(Completion::ignored_with(format!("skipped: {reason}")))
        }
    })
}
