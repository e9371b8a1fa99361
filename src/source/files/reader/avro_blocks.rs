//! Takes an Avro object container file apart: its header, and the blocks of rows that follow.

use arrow_avro::errors::AvroError;
use arrow_avro::reader::read_header_info;

use crate::error::{Error, Result};

/// The mark that ends the header and every block.
const SYNC_BYTES: usize = 16;
/// The longest number.
const NUMBER_BYTES: usize = 10;

/// The header of a file.
#[derive(Debug)]
pub(super) struct AvroHeader {
    pub bytes: Vec<u8>,
    sync: [u8; SYNC_BYTES],
}

impl AvroHeader {
    /// The header at the beginning of a file, taken out of it; `None` if more of the file is needed to tell.
    ///
    /// # Errors
    /// When the file is no Avro file.
    pub(super) fn take(file: &str, content: &mut Vec<u8>) -> Result<Option<Self>> {
        let header = match read_header_info(content.as_slice()) {
            Ok(header) => header,
            Err(AvroError::EOF(_)) => return Ok(None),
            Err(error) => {
                return Err(Error::invalid(format!(
                    "{file} is no Avro object container file ({error})"
                )));
            }
        };
        let length = usize::try_from(header.header_len()).unwrap_or(usize::MAX);
        let rest = content.split_off(length.min(content.len()));
        Ok(Some(Self {
            bytes: std::mem::replace(content, rest),
            sync: header.sync(),
        }))
    }

    /// Where the last whole block ends, after a place where one begins.
    ///
    /// # Errors
    /// When a block is damaged.
    pub(super) fn whole_blocks(&self, file: &str, content: &[u8], start: usize) -> Result<usize> {
        let damaged = || {
            Error::invalid(format!(
                "{file} is damaged: a block of it does not end where it says; put it there again in one piece"
            ))
        };
        let mut end = start;
        while let Some((data, length)) = block(&content[end..]) {
            let length = usize::try_from(length).map_err(|_| damaged())?;
            let data = end + data;
            let Some(sync) = data
                .checked_add(length)
                .and_then(|sync| content.get(sync..)?.get(..SYNC_BYTES))
            else {
                break;
            };
            if sync != self.sync {
                return Err(damaged());
            }
            end = data + length + SYNC_BYTES;
        }
        Ok(end)
    }
}

/// Where the data of a block begins and how long it says to be, if that much is there. Its first number counts its rows.
fn block(content: &[u8]) -> Option<(usize, i64)> {
    let (_, count_bytes) = number(content)?;
    let (length, length_bytes) = number(&content[count_bytes..])?;
    Some((count_bytes + length_bytes, length))
}

/// A number in Avro's way of writing (zigzag, seven bits a byte) and how many bytes it takes; one that never ends is -1.
fn number(content: &[u8]) -> Option<(i64, usize)> {
    let mut bits = 0_u64;
    for (index, byte) in content.iter().enumerate().take(NUMBER_BYTES) {
        bits |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((
                (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed(),
                index + 1,
            ));
        }
    }
    (content.len() >= NUMBER_BYTES).then_some((-1, NUMBER_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        let check = |bytes: &[u8], expected: Option<(i64, usize)>| {
            assert_eq!(number(bytes), expected, "{bytes:?}");
        };
        check(&[], None);
        check(&[0], Some((0, 1)));
        check(&[1], Some((-1, 1)));
        check(&[2, 9], Some((1, 1)));
        check(&[0x80], None);
        check(&[0x80, 1], Some((64, 2)));
        check(&[0xFF; 12], Some((-1, 10)));
    }
}
