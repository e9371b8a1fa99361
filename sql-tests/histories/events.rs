//! Random events, and the ways in which they are delivered.

use crate::random::Random;

const KEYS: u64 = 5;
const EVENTS: i64 = 30;
const WORDS: [Option<&str>; 3] = [None, Some("x"), Some("y")];

/// Something that happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub key: i64,
    /// When it happened; no two events have the same.
    pub sequence: i64,
    /// The row that was written; absent when it was deleted.
    pub row: Option<Row>,
}

/// What a row holds beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub a: Option<i64>,
    pub b: Option<&'static str>,
}

/// Events that are delivered together, by how many INSERTs each.
pub(super) type Batch = Vec<Vec<Event>>;

/// What happened, in order. Unless `repeats`, no two rows are equal.
pub(super) fn random_events(random: &mut Random, repeats: bool) -> Vec<Event> {
    let event = |sequence: i64| {
        let key = 1 + random.below(KEYS).cast_signed();
        let a = match repeats {
            true => random.percent(70).then(|| random.below(3).cast_signed()),
            false => Some(100 + sequence),
        };
        let row = Row {
            a,
            b: random.pick(&WORDS),
        };
        Event {
            key,
            sequence,
            row: (!random.percent(25)).then_some(row),
        }
    };
    (1..=EVENTS).map(event).collect()
}

/// Delivers events in order, each once.
pub(super) fn in_order(random: &mut Random, events: &[Event]) -> Vec<Batch> {
    batches(random, events)
}

/// Delivers events in any order, and some of them twice.
pub(super) fn shuffled(random: &mut Random, events: &[Event]) -> Vec<Batch> {
    let mut delivered = events.to_vec();
    delivered.extend(events.iter().filter(|_| random.percent(10)));
    random.shuffle(&mut delivered);
    batches(random, &delivered)
}

fn batches(random: &mut Random, mut events: &[Event]) -> Vec<Batch> {
    let mut batches = Vec::new();
    while !events.is_empty() {
        let inserts = 1 + random.index(2);
        let batch = (0..inserts).filter_map(|_| {
            let size = events.len().min(1 + random.index(7));
            let (insert, rest) = events.split_at(size);
            events = rest;
            (!insert.is_empty()).then(|| insert.to_vec())
        });
        batches.push(batch.collect());
    }
    batches
}

/// The INSERT of events into `bronze` (id, seq, op, a, b, batch).
pub(super) fn insert(events: &[Event], batch: usize) -> String {
    let values: Vec<String> = events.iter().map(|event| event.values(batch)).collect();
    format!("INSERT INTO bronze VALUES {}", values.join(", "))
}

impl Event {
    fn values(&self, batch: usize) -> String {
        let (op, row) = match self.row {
            Some(row) => ("U", row),
            None => ("D", Row { a: None, b: None }),
        };
        let a = row.a.map_or("NULL".to_owned(), |a| a.to_string());
        let b = row.b.map_or("NULL".to_owned(), |b| format!("'{b}'"));
        let Self { key, sequence, .. } = self;
        format!("({key}, {sequence}, '{op}', {a}, {b}, {batch})")
    }
}
