//! LiME: one header of 32 bytes before each range of RAM (LiME, `doc/README.md`).

use super::layout::Stretches;
use super::{CoreError, CoreFormat, CoreLayout, ReadAt};

/// "EMiL": 0x4c694d45.
pub(super) const MAGIC: [u8; 4] = *b"EMiL";
const HEADER: usize = 32;
const VERSION: u32 = 1;

/// Reads the headers of a LiME dump, each of which leads to the next.
pub(super) fn read(dump: &(impl ReadAt + ?Sized), len: u64) -> Result<CoreLayout, CoreError> {
    let mut stretches = Stretches::default();
    let mut at = 0_u64;
    for count in 0.. {
        if count > CoreLayout::HEADERS {
            return Err(CoreError::Bad {
                what: "the number of ranges, which is too large to be of a machine,",
                value: count as u64,
            });
        }
        if at >= len {
            break;
        }
        let mut header = [0_u8; HEADER];
        if len - at < HEADER as u64 {
            return Err(CoreError::Truncated { needs: at.saturating_add(HEADER as u64), len });
        }
        dump.read_at(&mut header, at).map_err(CoreError::Io)?;
        let word =
            |from: usize| header.get(from..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let version = u32::try_from(word(0) >> 32).unwrap_or(0);
        if !header.starts_with(&MAGIC) {
            return Err(CoreError::Bad { what: "the magic of a range", value: word(0) & 0xffff_ffff });
        }
        if version != VERSION {
            return Err(CoreError::Bad { what: "the version of a range, which has to be 1,", value: version.into() });
        }
        // The last address is that of the last byte.
        let (first, last) = (word(8), word(16));
        let Some(bytes) = last.checked_sub(first).and_then(|more| more.checked_add(1)) else {
            return Err(CoreError::Bad {
                what: "the last address of a range, which lies before its first,",
                value: last,
            });
        };
        let offset = at + HEADER as u64;
        stretches.add(first, bytes, offset)?;
        at = offset.saturating_add(bytes);
    }
    Ok(CoreLayout { format: CoreFormat::Lime, map: stretches.finish(len)?, registers: Vec::new() })
}
