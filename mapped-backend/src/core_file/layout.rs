//! Segments of a dump as a map: whole pages, none twice, neighbours joined.

use vgpu_perception::{Gpa, PAGE_BYTES};

use super::CoreError;
use crate::map::{MapError, Segment, SegmentMap};

/// Stretches of guest physical memory and where they lie in the dump.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    list: Vec<Segment>,
    /// The end of the furthest byte that was named.
    needs: u64,
}

impl Stretches {
    /// Adds `len` bytes at `gpa`, which lie at `offset`. Only the whole pages of a stretch count.
    pub(super) fn add(&mut self, gpa: u64, len: u64, offset: u64) -> Result<(), CoreError> {
        let bad = |what, value| Err(CoreError::Bad { what, value });
        let Some(end) = gpa.checked_add(len) else { return bad("the physical address of a segment", gpa) };
        let Some(past) = offset.checked_add(len) else { return bad("the file offset of a segment", offset) };
        self.needs = self.needs.max(past);
        let Some(first) = gpa.checked_next_multiple_of(PAGE_BYTES) else { return Ok(()) };
        let last = end & !(PAGE_BYTES - 1);
        if first < last {
            let offset = offset + (first - gpa);
            if !offset.is_multiple_of(8) {
                return bad("the file offset of a segment, which has to be a multiple of 8,", offset);
            }
            self.list.push(Segment { gpa: Gpa::new(first), len: last - first, file: 0, offset });
        }
        Ok(())
    }

    /// The map of a dump of `len` bytes. Where two stretches claim the same pages, the one that starts first has them:
    /// a dump that lists virtual mappings names the same bytes several times.
    pub(super) fn finish(mut self, len: u64) -> Result<SegmentMap, CoreError> {
        if self.needs > len {
            return Err(CoreError::Truncated { needs: self.needs, len });
        }
        self.list.sort_by_key(|segment| (segment.gpa, core::cmp::Reverse(segment.len)));
        let mut joined: Vec<Segment> = Vec::new();
        for mut segment in self.list {
            if let Some(last) = joined.last_mut() {
                let end = last.gpa.get() + last.len;
                let covered = end.saturating_sub(segment.gpa.get()).min(segment.len);
                segment.gpa = segment.gpa.wrapping_add(covered);
                segment.offset += covered;
                segment.len -= covered;
                if segment.len == 0 {
                    continue;
                }
                if segment.gpa.get() == end && segment.offset == last.offset + last.len {
                    last.len += segment.len;
                    continue;
                }
            }
            joined.push(segment);
        }
        SegmentMap::new(joined).map_err(|error| match error {
            MapError::NoSegments => CoreError::Bad { what: "the number of segments with memory", value: 0 },
            error => CoreError::Map(error),
        })
    }
}
