//! Statements that write a table, on bad days: their store fails, their process is killed, nobody waits for them any more, or
//! others write the same table at the same moment.
//!
//! ```text
//!  statements.rs   statements, and the table they write
//!  stage.rs        copies of that table under fault://…/t, and what is in them afterwards    (see faults/store.rs)
//!  trouble.rs      commits::trouble::…    each operation fails, loses its answer, is sent twice, or waits for another writer
//!  kills.rs        commits::kills::…      the process is killed at each operation
//!  cancels.rs      commits::cancels::…    whoever waits for the statement gives up
//!  meetings.rs     commits::meetings::…   another statement commits just before this one        (restore.rs)
//!  writers.rs      commits::writers::…    eight sessions, and an exact account of every row    (ledger.rs)
//!  vacuum.rs       commits::vacuum::…     files come back that are about to be deleted            (restore.rs)
//!  process.rs      commits::killed-process
//! ```
//!
//! Invariant of all of them: the table is what it was, or what the statement makes of it, whatever happens; and whoever is told that a
//! statement has failed finds that it has done nothing.
//!
//! Where not everything is tried at every read, `ALLUVIAL_TEST_FAULTS=all` does.

mod cancels;
mod files;
mod kills;
mod ledger;
mod meetings;
mod process;
mod restore;
mod stage;
mod statements;
mod trouble;
mod vacuum;
mod writers;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    // those that take their time first
    let mut trials: Vec<Trial> = writers::trials().collect();
    trials.extend(trouble::trials());
    trials.extend(kills::trials());
    trials.extend(cancels::trials());
    trials.extend(meetings::trials());
    trials.push(vacuum::trial());
    trials.push(process::trial());
    trials
}
