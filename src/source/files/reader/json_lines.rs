//! Finds the lines of JSON text and the members of their objects.

use std::fmt::{self, Formatter};
use std::io::BufRead;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::rows::{Record, Splitter};

/// Whether a byte is blank to JSON.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The first line of a text with its end, if it has one; else all of it.
pub(super) fn first_line(text: &[u8]) -> &[u8] {
    let mut rest = text;
    let length = rest.skip_until(b'\n').unwrap_or(text.len());
    &text[..length]
}

/// Where the row of a record begins, after blank lines.
pub(super) fn row_start(record: &[u8]) -> usize {
    let blank = record.iter().position(|byte| !is_blank(*byte));
    blank.unwrap_or(record.len())
}

/// Finds lines that are not blank.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// What is seen of the text.
    seen: usize,
    /// Where the current record begins.
    start: usize,
    /// Whether it is blank so far.
    has_row: bool,
}

impl LineSplitter {
    fn end_line(&mut self, records: &mut Vec<Record>) {
        if !self.has_row {
            return;
        }
        records.push(Record {
            range: self.start..self.seen,
            reason: None,
        });
        self.start = self.seen;
        self.has_row = false;
    }
}

impl Splitter for LineSplitter {
    fn split(&mut self, text: &[u8], limit: usize, records: &mut Vec<Record>) {
        while self.seen < text.len() && records.len() < limit {
            let line = first_line(&text[self.seen..]);
            self.seen += line.len();
            self.has_row |= row_start(line) < line.len();
            if line.ends_with(b"\n") {
                self.end_line(records);
            }
        }
    }

    fn end(&mut self, _: &[u8], records: &mut Vec<Record>) {
        self.end_line(records);
    }
}

/// The members of a JSON object, in their order.
#[derive(Debug)]
pub(super) struct Members<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Members<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

struct MembersVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for MembersVisitor<V> {
    type Value = Members<V>;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = vec![];
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// What a JSON parser says of one line, without the number that it gives the line.
pub(super) fn line_error(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn lines_are_found() {
        fn check(text: &str, expected: &[&str]) {
            for step in [1, 3, 1000] {
                let mut splitter = LineSplitter::default();
                let mut records = vec![];
                for end in (0..text.len()).step_by(step).chain([text.len()]) {
                    splitter.split(&text.as_bytes()[..end], usize::MAX, &mut records);
                }
                splitter.end(text.as_bytes(), &mut records);
                let rows = records.into_iter().map(|record| {
                    let bytes = &text.as_bytes()[record.range];
                    super::super::raw_text(&bytes[row_start(bytes)..])
                });
                assert_eq!(rows.collect::<Vec<_>>(), expected, "{text:?} by {step}");
            }
        }
        check("", &[]);
        check(" \n\r\n", &[]);
        check("{}\n\n {\"a\": 1}\r\n{", &["{}", "{\"a\": 1}", "{"]);
    }

    #[test]
    fn members_keep_their_order() {
        let text = r#"{"b": [1, 2], "a": "x", "b": null}"#;
        let Members(members) = serde_json::from_str::<Members<Box<RawValue>>>(text).unwrap();
        let members: Vec<(&str, &str)> = members
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
            .collect();
        assert_eq!(members, [("b", "[1, 2]"), ("a", "\"x\""), ("b", "null")]);
        let error = serde_json::from_str::<Members<Box<RawValue>>>("[1]").unwrap_err();
        assert_eq!(
            line_error(&error),
            "invalid type: sequence, expected a JSON object at column 0"
        );
    }
}
