//! What events amount to: all of them, one after the other, by their sequence.

use std::collections::BTreeMap;

use super::events::{Event, Row};

/// What of a statement matters to the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A NULL leaves the value that is there.
    pub ignore_nulls: bool,
    /// What begins a new row of a history.
    pub tracks: Tracks,
}

/// The columns whose changes begin a new row of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracks {
    /// The sequence too, so that every event does.
    Sequence,
    /// The values.
    Values,
    /// The value `a` only; `b` is changed in place.
    OnlyA,
}

/// A row of a history: valid from `start` up to, but without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub key: i64,
    pub start: i64,
    pub end: Option<i64>,
    /// The sequence of the event that wrote it last.
    pub sequence: i64,
    pub row: Row,
}

/// The history of every key, in order.
pub(super) fn history(events: &[Event], rules: Rules) -> Vec<Span> {
    let in_order: BTreeMap<i64, Event> = events
        .iter()
        .map(|event| (event.sequence, *event))
        .collect();
    let (mut past, mut open) = (Vec::new(), BTreeMap::<i64, Span>::new());
    for event in in_order.into_values() {
        let before = open.remove(&event.key);
        let Some(new) = event.row else {
            past.extend(before.map(|span| span.ended(event.sequence)));
            continue;
        };
        let row = match before {
            Some(span) if rules.ignore_nulls => new.filled_from(span.row),
            _ => new,
        };
        let span = match before {
            Some(span) if rules.tracks.same(span.row, row) => Span {
                row,
                sequence: event.sequence,
                ..span
            },
            _ => {
                past.extend(before.map(|span| span.ended(event.sequence)));
                Span {
                    key: event.key,
                    start: event.sequence,
                    end: None,
                    sequence: event.sequence,
                    row,
                }
            }
        };
        open.insert(event.key, span);
    }
    past.extend(open.into_values());
    past
}

/// The rows that are there now: the open end of each history.
pub(super) fn latest(events: &[Event], rules: Rules) -> Vec<Span> {
    let mut rows = history(events, rules);
    rows.retain(|span| span.end.is_none());
    rows
}

impl Tracks {
    fn same(self, left: Row, right: Row) -> bool {
        match self {
            Self::Sequence => false,
            Self::Values => left == right,
            Self::OnlyA => left.a == right.a,
        }
    }
}

impl Row {
    fn filled_from(self, before: Self) -> Self {
        Self {
            a: self.a.or(before.a),
            b: self.b.or(before.b),
        }
    }
}

impl Span {
    fn ended(self, end: i64) -> Self {
        Self {
            end: Some(end),
            ..self
        }
    }
}
