//! The text of a file in the pieces that it comes in, and what has been put back of them.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::TryStreamExt;

use super::text::{Chunks, Text};
use super::utf8::{Utf8Gate, char_boundary};
use crate::error::Result;

/// How much text is looked at at once where each record is.
const SLICE_BYTES: usize = 256 * 1024;

/// A piece of text.
#[derive(Debug)]
pub(super) struct Piece {
    /// What it consists of, never nothing.
    pub bytes: Bytes,
    /// Whether it is known to be UTF-8.
    pub is_utf8: bool,
}

impl Piece {
    /// A piece that is UTF-8.
    pub(super) fn utf8(bytes: Bytes) -> Self {
        Self {
            bytes,
            is_utf8: true,
        }
    }

    /// A piece that may be anything.
    pub(super) fn doubtful(bytes: Bytes) -> Self {
        Self {
            bytes,
            is_utf8: false,
        }
    }
}

/// The text of a file from some place on.
pub(super) struct Pieces {
    chunks: Chunks,
    gate: Option<Utf8Gate>,
    queue: VecDeque<Piece>,
    is_ended: bool,
}

impl Pieces {
    /// Text that is checked by whoever decodes it.
    pub(super) fn new(text: Text) -> Self {
        Self {
            chunks: text.chunks,
            gate: None,
            queue: VecDeque::new(),
            is_ended: false,
        }
    }

    /// Text whose pieces tell whether they are UTF-8.
    pub(super) fn checking(text: Text) -> Self {
        let gate = (!text.is_utf8).then(Utf8Gate::default);
        Self {
            gate,
            ..Self::new(text)
        }
    }

    /// Waits for text; `false` at the end of the file.
    pub(super) async fn fill(&mut self) -> Result<bool> {
        while self.queue.is_empty() {
            if self.is_ended {
                return Ok(false);
            }
            match (self.chunks.try_next().await?, &mut self.gate) {
                (Some(chunk), _) if chunk.is_empty() => {}
                (Some(chunk), Some(gate)) => gate.push(chunk, &mut self.queue),
                (Some(chunk), None) => self.queue.push_back(Piece::utf8(chunk)),
                (None, gate) => {
                    self.is_ended = true;
                    if let Some(gate) = gate {
                        gate.end(&mut self.queue);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The next piece, if it has come.
    pub(super) fn front(&self) -> Option<&Piece> {
        self.queue.front()
    }

    /// Takes so many bytes of the next piece.
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        let Some(piece) = self.queue.front_mut() else {
            return Bytes::new();
        };
        let taken = piece.bytes.split_to(length.min(piece.bytes.len()));
        if piece.bytes.is_empty() {
            self.queue.pop_front();
        }
        taken
    }

    /// Takes a slice of the next piece that can be looked at closely.
    pub(super) fn take_slice(&mut self) -> Bytes {
        let length = self.queue.front();
        let length = length.map_or(0, |piece| char_boundary(&piece.bytes, SLICE_BYTES));
        self.take(length)
    }

    /// Puts text back in front of the rest.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let is_utf8 = self.gate.is_none() || std::str::from_utf8(&bytes).is_ok();
        self.queue.push_front(Piece {
            bytes: bytes.into(),
            is_utf8,
        });
    }
}
