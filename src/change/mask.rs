//! The masks in which SQL Server says which columns an update has changed.
//!
//! - Change tracking's, `SYS_CHANGE_COLUMNS` of [CHANGETABLE], made to be read by [CHANGE_TRACKING_IS_COLUMN_IN_MASK]: four zero
//!   bytes, then the id of each changed column in four bytes, little-endian.
//! - CDC's, `__$update_mask`, made to be read by [sys.fn_cdc_is_bit_set]: a bit for each column, in as many bytes as they need; that
//!   of the first column is the lowest bit of the last byte.
//!
//! [CHANGETABLE]: https://learn.microsoft.com/sql/relational-databases/system-functions/changetable-transact-sql
//! [CHANGE_TRACKING_IS_COLUMN_IN_MASK]: https://learn.microsoft.com/sql/relational-databases/system-functions/change-tracking-is-column-in-mask-transact-sql
//! [sys.fn_cdc_is_bit_set]: https://learn.microsoft.com/sql/relational-databases/system-functions/sys-fn-cdc-is-bit-set-transact-sql

use std::fmt;

use crate::error::{Error, Result};

/// How many bytes an id has in a mask of change tracking.
const ID_LENGTH: usize = 4;
/// So many bytes are shown in messages.
const SHOWN_BYTES: usize = 32;

/// A layout of masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ChangeMask {
    /// Change tracking's, a list of ids.
    Tracking,
    /// CDC's, a bit for each column of the table.
    Capture {
        /// How many columns the table has.
        columns: usize,
    },
}

impl ChangeMask {
    /// Writes the mask of some columns, given by their ids, which begin with 1, in the place of what `mask` holds.
    pub(crate) fn write(self, changed: impl Iterator<Item = u32>, mask: &mut Vec<u8>) {
        mask.clear();
        match self {
            Self::Tracking => {
                mask.extend_from_slice(&[0; ID_LENGTH]);
                for id in changed {
                    mask.extend_from_slice(&id.to_le_bytes());
                }
            }
            Self::Capture { columns } => {
                mask.resize(columns.div_ceil(8), 0);
                for ordinal in changed {
                    if let Some((byte, bit)) = bit_of(ordinal.into(), mask.len()) {
                        mask[byte] |= bit;
                    }
                }
            }
        }
    }
}

/// Whether a mask of change tracking lists a column. As in SQL Server, an id that no column has is in no list.
///
/// # Errors
/// [`Error::Invalid`] when these bytes are no such mask.
pub(crate) fn is_column_in_mask(mask: &[u8], id: i64) -> Result<bool> {
    let (entries, rest) = mask.as_chunks::<ID_LENGTH>();
    let list = entries.split_first().filter(|_| rest.is_empty());
    let Some(([0, 0, 0, 0], ids)) = list else {
        return Err(Error::invalid(format!(
            "{} is no mask of changed columns, which has four zero bytes and four bytes for each column; give sys_change_columns of \
             CHANGETABLE (masks of fn_cdc_get_all_changes are read by fn_cdc_is_bit_set)",
            Hex(mask)
        )));
    };
    Ok(ids
        .iter()
        .any(|bytes| i64::from(u32::from_le_bytes(*bytes)) == id))
}

/// Whether the bit of a column is set in a mask of CDC; that of an ordinal which the mask has no bit for is not.
pub(crate) fn is_bit_set(mask: &[u8], ordinal: i64) -> bool {
    bit_of(ordinal, mask.len()).is_some_and(|(byte, bit)| mask[byte] & bit != 0)
}

/// Which byte of a mask of CDC an ordinal is in, and which bit of it.
fn bit_of(ordinal: i64, length: usize) -> Option<(usize, u8)> {
    let index = usize::try_from(ordinal).ok()?.checked_sub(1)?;
    let byte = length.checked_sub(index / 8 + 1)?;
    Some((byte, 1 << (index % 8)))
}

/// Bytes as SQL writes them, `0x0102`, the first of them where there are many.
pub(crate) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for byte in self.0.iter().take(SHOWN_BYTES) {
            write!(f, "{byte:02X}")?;
        }
        match self.0.len() > SHOWN_BYTES {
            true => f.write_str("…"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layout: ChangeMask, changed: &[u32], expected: &str) {
        let mut mask = vec![9; 3];
        layout.write(changed.iter().copied(), &mut mask);
        assert_eq!(Hex(&mask).to_string(), expected, "{layout:?} {changed:?}");
        for column in 0..40 {
            let expected = changed.iter().any(|id| i64::from(*id) == column);
            let found = match layout {
                ChangeMask::Tracking => is_column_in_mask(&mask, column).unwrap(),
                ChangeMask::Capture { .. } => is_bit_set(&mask, column),
            };
            assert_eq!(found, expected, "{layout:?} {changed:?} {column}");
        }
    }

    #[test]
    fn masks_of_change_tracking_list_ids() {
        check(ChangeMask::Tracking, &[], "0x00000000");
        // what SQL Server returns where only the column with the id 11 is changed
        check(ChangeMask::Tracking, &[11], "0x000000000B000000");
        check(
            ChangeMask::Tracking,
            &[2, 300],
            "0x00000000020000002C010000",
        );
    }

    #[test]
    fn masks_of_capture_have_bits() {
        let of = |columns| ChangeMask::Capture { columns };
        check(of(3), &[], "0x00");
        check(of(3), &[1, 2, 3], "0x07");
        check(of(8), &[8], "0x80");
        check(of(9), &[1, 9], "0x0101");
        check(of(17), &[17], "0x010000");
        check(of(0), &[], "0x");
    }

    #[test]
    fn ordinals_without_a_bit_are_not_set() {
        for ordinal in [i64::MIN, -1, 0, 9, i64::MAX] {
            assert!(!is_bit_set(&[0xFF], ordinal), "{ordinal}");
            assert!(!is_column_in_mask(&[0, 0, 0, 0, 1, 0, 0, 0], ordinal).unwrap());
        }
        let mut mask = vec![];
        ChangeMask::Capture { columns: 8 }.write([0, 9].into_iter(), &mut mask);
        assert_eq!(mask, [0]);
    }

    #[test]
    fn other_bytes_are_no_list_of_ids() {
        let check = |bytes: &[u8], expected: &str| {
            let error = is_column_in_mask(bytes, 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected:?}");
        };
        check(&[], "0x is no mask");
        check(&[0, 0, 0], "0x000000 is no mask");
        check(&[0, 0, 0, 0, 7], "0x0000000007 is no mask");
        check(&[0, 0, 0, 7], "0x00000007 is no mask");
        check(&[1; 40], "01010101… is no mask");
    }
}
