//! Finds the records of CSV text and their fields, by the same rules as Arrow's decoder.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::CsvFormat;
use super::rows::{Record, Splitter};

/// Room for what the parser copies out, which nobody reads.
const SCRATCH_BYTES: usize = 4096;
const SCRATCH_FIELDS: usize = 256;

fn parser(format: &CsvFormat) -> Reader {
    let mut builder = ReaderBuilder::new();
    builder
        .delimiter(format.delimiter)
        .escape(format.escape)
        .comment(format.comment);
    match format.quote {
        Some(quote) => builder.quote(quote),
        None => builder.quoting(false),
    };
    builder.build()
}

/// Finds records.
pub(super) struct CsvSplitter {
    parser: Reader,
    /// What is seen of the text.
    seen: usize,
    /// Where the current record begins.
    start: usize,
    /// Its fields so far.
    fields: usize,
    /// How many a record should have.
    expected: Option<usize>,
    has_header: bool,
    scratch: Vec<u8>,
    ends: Vec<usize>,
}

impl CsvSplitter {
    /// A splitter that takes records with another number of fields for bad ones.
    pub(super) fn new(format: &CsvFormat, expected: Option<usize>) -> Self {
        Self {
            parser: parser(format),
            seen: 0,
            start: 0,
            fields: 0,
            expected,
            has_header: format.header,
            scratch: vec![0; SCRATCH_BYTES],
            ends: vec![0; SCRATCH_FIELDS],
        }
    }

    /// Lets the parser see text; returns how much it took, and whether a record ended there.
    fn parse(&mut self, text: &[u8]) -> (usize, bool) {
        let (result, used, _, fields) =
            self.parser
                .read_record(text, &mut self.scratch, &mut self.ends);
        self.fields += fields;
        (used, result == ReadRecordResult::Record)
    }

    fn record(&mut self, is_closed: bool) -> Record {
        let reason = if is_closed {
            self.wrong_fields()
        } else {
            Some("a quote that begins in this row is never closed".to_owned())
        };
        let record = Record {
            range: self.start..self.seen,
            reason,
        };
        self.start = self.seen;
        self.fields = 0;
        record
    }

    fn wrong_fields(&self) -> Option<String> {
        let expected = self.expected.filter(|expected| *expected != self.fields)?;
        let model = if self.has_header {
            "header"
        } else {
            "first row"
        };
        let fields = if self.fields == 1 { "field" } else { "fields" };
        Some(format!(
            "{} {fields} where the {model} has {expected}",
            self.fields
        ))
    }
}

impl Splitter for CsvSplitter {
    fn split(&mut self, text: &[u8], limit: usize, records: &mut Vec<Record>) {
        while self.seen < text.len() && records.len() < limit {
            let (used, is_record) = self.parse(&text[self.seen..]);
            self.seen += used;
            if is_record {
                let record = self.record(true);
                records.push(record);
            }
        }
    }

    fn end(&mut self, _: &[u8], records: &mut Vec<Record>) {
        // the end of a line ends every record but one with an open quote, which the end of the file ends
        let is_closed = self.parse(b"\n").1;
        if is_closed || self.parse(b"").1 {
            let record = self.record(is_closed);
            records.push(record);
        }
    }
}

/// The fields of a record.
pub(super) fn fields(format: &CsvFormat, record: &[u8]) -> Vec<Vec<u8>> {
    let mut parser = parser(format);
    let mut output = vec![0; record.len() + 1];
    let mut ends = vec![0; record.len() + 2];
    let (result, _, mut written, mut count) = parser.read_record(record, &mut output, &mut ends);
    if result != ReadRecordResult::Record {
        let (_, _, more, more_ends) =
            parser.read_record(b"", &mut output[written..], &mut ends[count..]);
        written += more;
        count += more_ends;
    }
    let mut start = 0;
    let fields = ends[..count].iter().map(|end| {
        let field = output[start..(*end).min(written)].to_vec();
        start = *end;
        field
    });
    fields.collect()
}

/// Where the row of a record begins, after blank lines and comments.
pub(super) fn row_start(format: &CsvFormat, record: &[u8]) -> usize {
    let mut start = 0;
    loop {
        match record.get(start) {
            Some(b'\r' | b'\n') => start += 1,
            Some(byte) if Some(*byte) == format.comment => {
                let length = record[start..].iter().position(|byte| *byte == b'\n');
                start = length.map_or(record.len(), |length| start + length + 1);
            }
            _ => return start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(format: &CsvFormat, text: &str, step: usize) -> Vec<(String, Option<String>)> {
        let mut splitter = CsvSplitter::new(format, Some(2));
        let mut records = vec![];
        for end in (0..text.len()).step_by(step).chain([text.len()]) {
            splitter.split(&text.as_bytes()[..end], usize::MAX, &mut records);
        }
        splitter.end(text.as_bytes(), &mut records);
        let shown = records.into_iter().map(|record| {
            let bytes = &text.as_bytes()[record.range];
            let row = &bytes[row_start(format, bytes)..];
            (super::super::raw_text(row), record.reason)
        });
        shown.collect()
    }

    #[test]
    fn records_are_found() {
        fn check(format: &CsvFormat, text: &str, expected: &[(&str, Option<&str>)]) {
            for step in [1, 3, 1000] {
                let found = split(format, text, step);
                let found: Vec<(&str, Option<&str>)> = found
                    .iter()
                    .map(|(row, reason)| (row.as_str(), reason.as_deref()))
                    .collect();
                assert_eq!(found, expected, "{text:?} by {step}");
            }
        }
        let plain = CsvFormat::default();
        check(&plain, "", &[]);
        check(&plain, "\n\r\n", &[]);
        check(&plain, "a,b\nc,d", &[("a,b", None), ("c,d", None)]);
        check(
            &plain,
            "a,b\r\n\r\nc,d\r\n",
            &[("a,b", None), ("c,d", None)],
        );
        check(&plain, "\"a\n\"\"1\",b\n", &[("\"a\n\"\"1\",b", None)]);
        let fewer = Some("1 field where the header has 2");
        let more = Some("3 fields where the header has 2");
        check(
            &plain,
            "a\na,b\na,b,c",
            &[("a", fewer), ("a,b", None), ("a,b,c", more)],
        );
        let open = Some("a quote that begins in this row is never closed");
        check(
            &plain,
            "a,b\nc,\"d\ne,f\n",
            &[("a,b", None), ("c,\"d\ne,f", open)],
        );
        check(&plain, "\"d", &[("\"d", open)]);
        check(&plain, "a,\"d\"", &[("a,\"d\"", None)]);
        let other = CsvFormat {
            quote: None,
            delimiter: b';',
            comment: Some(b'#'),
            header: false,
            ..CsvFormat::default()
        };
        let first = Some("1 field where the first row has 2");
        check(&other, "#x\n\"a;b\n#", &[("\"a;b", None)]);
        check(&other, "a,b\n", &[("a,b", first)]);
    }

    #[test]
    fn fields_are_taken_apart() {
        let check = |record: &str, expected: &[&str]| {
            let found = fields(&CsvFormat::default(), record.as_bytes());
            let found: Vec<&str> = found
                .iter()
                .map(|field| std::str::from_utf8(field).unwrap())
                .collect();
            assert_eq!(found, expected, "{record:?}");
        };
        check("a,b\n", &["a", "b"]);
        check("\n\na,b", &["a", "b"]);
        check(",,\r\n", &["", "", ""]);
        check("\"a\"\"\n\",\"\"", &["a\"\n", ""]);
        check("", &[]);
        check("a", &["a"]);
    }
}
