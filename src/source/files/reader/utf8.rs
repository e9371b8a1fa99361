//! UTF-8 in bytes that come in pieces.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::pieces::Piece;

/// Sums of so many bytes of 0 or 1 fit into a byte, which compilers turn into wide instructions.
const SUMMED_BYTES: usize = 255;

/// How many lines end in a text.
pub(super) fn newlines(text: &[u8]) -> u64 {
    text.chunks(SUMMED_BYTES)
        .map(|chunk| {
            u64::from(
                chunk
                    .iter()
                    .map(|byte| u8::from(*byte == b'\n'))
                    .sum::<u8>(),
            )
        })
        .sum()
}

/// The last place at or before `at` where no character is cut.
pub(super) fn char_boundary(text: &[u8], at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    // no character has more than three bytes of this kind
    let is_inside = |index: usize| text[index] & 0b1100_0000 == 0b1000_0000;
    (at.saturating_sub(3)..=at)
        .rev()
        .find(|index| !is_inside(*index))
        .unwrap_or(at)
}

/// Tells pieces that are UTF-8 from those that may not be. Characters are not cut by pieces of the first kind.
#[derive(Debug, Default)]
pub(super) struct Utf8Gate {
    /// The beginning of a character whose end has not come yet.
    cut: Vec<u8>,
}

impl Utf8Gate {
    /// Lets a chunk in.
    pub(super) fn push(&mut self, mut chunk: Bytes, pieces: &mut VecDeque<Piece>) {
        self.complete(&mut chunk, pieces);
        if chunk.is_empty() {
            return;
        }
        let valid = match std::str::from_utf8(&chunk) {
            Ok(_) => chunk.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => {
                pieces.push_back(Piece::doubtful(chunk));
                return;
            }
        };
        self.cut = chunk.split_off(valid).to_vec();
        if !chunk.is_empty() {
            pieces.push_back(Piece::utf8(chunk));
        }
    }

    /// Lets out what is left at the end.
    pub(super) fn end(&mut self, pieces: &mut VecDeque<Piece>) {
        if !self.cut.is_empty() {
            pieces.push_back(Piece::doubtful(std::mem::take(&mut self.cut).into()));
        }
    }

    /// Adds to a cut character what it lacks.
    fn complete(&mut self, chunk: &mut Bytes, pieces: &mut VecDeque<Piece>) {
        while !self.cut.is_empty() && !chunk.is_empty() {
            self.cut.push(chunk.get_u8());
            let is_utf8 = match std::str::from_utf8(&self.cut) {
                Ok(_) => true,
                Err(error) if error.error_len().is_none() => continue,
                Err(_) => false,
            };
            let bytes = std::mem::take(&mut self.cut).into();
            pieces.push_back(Piece { bytes, is_utf8 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let check = |text: &[u8], expected: u64| assert_eq!(newlines(text), expected);
        check(b"", 0);
        check(b"a\n\nb", 2);
        check(&[b'\n'; 1000], 1000);
    }

    #[test]
    fn boundaries_are_between_characters() {
        let check = |text: &str, at: usize, expected: usize| {
            assert_eq!(char_boundary(text.as_bytes(), at), expected, "{text} {at}");
        };
        check("abc", 2, 2);
        check("abc", 9, 3);
        check("aé", 2, 1);
        check("a€b", 3, 1);
        check("a€b", 4, 4);
        check("😀", 3, 0);
    }

    #[test]
    fn pieces_are_told_apart() {
        fn check(chunks: &[&[u8]], expected: &[(&[u8], bool)]) {
            let mut gate = Utf8Gate::default();
            let mut pieces = VecDeque::new();
            for chunk in chunks {
                gate.push(Bytes::copy_from_slice(chunk), &mut pieces);
            }
            gate.end(&mut pieces);
            let found: Vec<(&[u8], bool)> = pieces
                .iter()
                .map(|piece| (piece.bytes.as_ref(), piece.is_utf8))
                .collect();
            assert_eq!(found, expected);
        }
        check(&[b"ab", b"c"], &[(b"ab", true), (b"c", true)]);
        check(
            &[b"a\xc3", b"\xa9b"],
            &[(b"a", true), (b"\xc3\xa9", true), (b"b", true)],
        );
        check(&[b"\xe2", b"\x82", b"\xac"], &[(b"\xe2\x82\xac", true)]);
        check(&[b"a\xffb", b"c"], &[(b"a\xffb", false), (b"c", true)]);
        check(&[b"\xc3", b"a"], &[(b"\xc3a", false)]);
        check(&[b"a\xc3"], &[(b"a", true), (b"\xc3", false)]);
    }
}
