//! Which statement applies the events, with which clauses.

use libtest_mimic::Failed;
use serde_json::json;

use super::events::{Event, in_order, insert, random_events, shuffled};
use super::model::{Rules, Span, Tracks, history, latest};
use super::transcript::Transcript;
use crate::random::Random;
use crate::tables::{check_feed, check_same, rows_in};

/// How a table follows the events in `bronze`.
pub(super) struct Case {
    pub name: &'static str,
    statement: Statement,
    storage: Storage,
    /// Whether the target has the column `seq`.
    keeps_sequence: bool,
    delivery: Delivery,
    /// Whether rows of a key may be equal.
    repeats: bool,
    ignore_nulls: bool,
    /// Whether only `a` is tracked.
    tracks_a: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Statement {
    Sync,
    ApplyChanges,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Storage {
    Type1,
    Type2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    InOrder,
    Shuffled,
}

const PLAIN: Case = Case {
    name: "",
    statement: Statement::Sync,
    storage: Storage::Type1,
    keeps_sequence: true,
    delivery: Delivery::Shuffled,
    repeats: true,
    ignore_nulls: false,
    tracks_a: false,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "sync-scd-1",
        ..PLAIN
    },
    Case {
        name: "sync-scd-1-without-sequence",
        keeps_sequence: false,
        ..PLAIN
    },
    Case {
        name: "sync-scd-1-ignore-nulls",
        delivery: Delivery::InOrder,
        ignore_nulls: true,
        ..PLAIN
    },
    Case {
        name: "apply-scd-1",
        statement: Statement::ApplyChanges,
        ..PLAIN
    },
    Case {
        name: "apply-scd-1-without-sequence",
        statement: Statement::ApplyChanges,
        keeps_sequence: false,
        ..PLAIN
    },
    Case {
        name: "apply-scd-1-ignore-nulls",
        statement: Statement::ApplyChanges,
        delivery: Delivery::InOrder,
        ignore_nulls: true,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2",
        storage: Storage::Type2,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2-without-sequence",
        storage: Storage::Type2,
        keeps_sequence: false,
        repeats: false,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2-equal-rows",
        storage: Storage::Type2,
        keeps_sequence: false,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2-equal-rows-in-order",
        storage: Storage::Type2,
        keeps_sequence: false,
        delivery: Delivery::InOrder,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2-ignore-nulls",
        storage: Storage::Type2,
        keeps_sequence: false,
        delivery: Delivery::InOrder,
        ignore_nulls: true,
        ..PLAIN
    },
    Case {
        name: "sync-scd-2-track-history",
        storage: Storage::Type2,
        keeps_sequence: false,
        delivery: Delivery::InOrder,
        tracks_a: true,
        ..PLAIN
    },
    Case {
        name: "apply-scd-2",
        statement: Statement::ApplyChanges,
        storage: Storage::Type2,
        ..PLAIN
    },
    Case {
        name: "apply-scd-2-without-sequence",
        statement: Statement::ApplyChanges,
        storage: Storage::Type2,
        keeps_sequence: false,
        repeats: false,
        ..PLAIN
    },
];

impl Case {
    /// Delivers events batch by batch and compares the target with the model after each.
    pub(super) async fn check(
        &self,
        transcript: &mut Transcript,
        random: &mut Random,
    ) -> Result<(), Failed> {
        let events = random_events(random, self.repeats);
        let batches = match self.delivery {
            Delivery::InOrder => in_order(random, &events),
            Delivery::Shuffled => shuffled(random, &events),
        };
        let create = "CREATE TABLE bronze (id BIGINT, seq BIGINT, op STRING, a BIGINT, b STRING, batch BIGINT)";
        transcript.run(create.to_owned()).await?;
        let mut delivered = Vec::new();
        for (number, batch) in batches.into_iter().enumerate() {
            for events in batch {
                transcript.run(insert(&events, number)).await?;
                delivered.extend(events);
            }
            transcript.sync(&self.sql(number)).await?;
            self.check_target(transcript, &delivered).await?;
        }
        check_feed(transcript.session(), "target").await
    }

    async fn check_target(
        &self,
        transcript: &Transcript,
        delivered: &[Event],
    ) -> Result<(), Failed> {
        let spans = match self.storage {
            Storage::Type1 => latest(delivered, self.rules()),
            Storage::Type2 => history(delivered, self.rules()),
        };
        let mut expected: Vec<String> = spans.into_iter().map(|span| self.text(span)).collect();
        expected.sort();
        let query = "SELECT * FROM target";
        let found = rows_in(transcript.session(), query, self.columns()).await?;
        check_same("the target", &expected, &found)
    }

    fn rules(&self) -> Rules {
        Rules {
            ignore_nulls: self.ignore_nulls,
            tracks: match (self.keeps_sequence, self.tracks_a) {
                (true, _) => Tracks::Sequence,
                (false, false) => Tracks::Values,
                (false, true) => Tracks::OnlyA,
            },
        }
    }

    fn sql(&self, batch: usize) -> String {
        let begin = match self.statement {
            Statement::Sync => "SYNC INTO target FROM bronze".to_owned(),
            Statement::ApplyChanges => format!(
                "APPLY CHANGES INTO target FROM (SELECT id, seq, op, a, b FROM bronze WHERE batch = {batch})"
            ),
        };
        let seq = if self.keeps_sequence { ", seq" } else { "" };
        let ignore_nulls = if self.ignore_nulls {
            " IGNORE NULL UPDATES"
        } else {
            ""
        };
        let storage = match (self.storage, self.tracks_a) {
            (Storage::Type1, _) => "",
            (Storage::Type2, false) => " STORED AS SCD TYPE 2",
            (Storage::Type2, true) => " STORED AS SCD TYPE 2 TRACK HISTORY ON (a)",
        };
        format!(
            "{begin} KEYS (id){ignore_nulls} APPLY AS DELETE WHEN op = 'D' SEQUENCE BY seq COLUMNS (id, a, b{seq}){storage}"
        )
    }

    fn columns(&self) -> &'static [&'static str] {
        match (self.storage, self.keeps_sequence) {
            (Storage::Type1, true) => &["id", "a", "b", "seq"],
            (Storage::Type1, false) => &["id", "a", "b"],
            (Storage::Type2, true) => &["id", "__START_AT", "__END_AT", "a", "b", "seq"],
            (Storage::Type2, false) => &["id", "__START_AT", "__END_AT", "a", "b"],
        }
    }

    fn text(&self, span: Span) -> String {
        let Span {
            key,
            start,
            end,
            sequence,
            row,
        } = span;
        match (self.storage, self.keeps_sequence) {
            (Storage::Type1, true) => json!([key, row.a, row.b, sequence]),
            (Storage::Type1, false) => json!([key, row.a, row.b]),
            (Storage::Type2, true) => json!([key, start, end, row.a, row.b, sequence]),
            (Storage::Type2, false) => json!([key, start, end, row.a, row.b]),
        }
        .to_string()
    }
}
