//! Which physical pages are given out, and where.

use std::collections::BTreeMap;

use vgpu_perception::{Extent, Gpa, PageSize};

use crate::rng::Rng;

/// How the memory behind a mapping lies in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// 4 KiB pages at random frames.
    Scattered,
    /// 4 KiB pages in pieces of 64 KiB at random places.
    Fragments64K,
    /// 4 KiB pages, one after the other.
    Contiguous,
    /// 2 MiB pages at random places; address and length are multiples of 2 MiB.
    Large2M,
    /// 1 GiB pages; address and length are multiples of 1 GiB.
    Large1G,
}

impl Placement {
    /// The size of the pages that map it.
    #[must_use]
    pub const fn page_size(self) -> PageSize {
        match self {
            Self::Scattered | Self::Fragments64K | Self::Contiguous => PageSize::Size4K,
            Self::Large2M => PageSize::Size2M,
            Self::Large1G => PageSize::Size1G,
        }
    }

    /// The bytes that are physically contiguous: `None` for all of them.
    #[must_use]
    pub const fn piece(self) -> Option<u64> {
        match self {
            Self::Scattered => Some(4096),
            Self::Fragments64K => Some(64 << 10),
            Self::Contiguous => None,
            Self::Large2M => Some(2 << 20),
            Self::Large1G => Some(1 << 30),
        }
    }
}

/// The free frames of a guest. Nothing below 1 MiB is given out: firmware has it.
#[derive(Clone, Debug)]
pub struct FrameAllocator {
    segments: Vec<Extent>,
    /// What is taken: start to end, not overlapping.
    taken: BTreeMap<u64, u64>,
    rng: Rng,
}

impl FrameAllocator {
    /// All of `segments` above 1 MiB; the places follow from `seed`.
    #[must_use]
    pub fn new(segments: &[Extent], seed: u64) -> Self {
        let taken = BTreeMap::from([(0, 1 << 20)]);
        Self { segments: segments.to_vec(), taken, rng: Rng::new(seed) }
    }

    /// Whether `len` bytes at `start` are all free RAM.
    #[must_use]
    pub fn is_free(&self, start: u64, len: u64) -> bool {
        let end = start + len;
        let inside = self
            .segments
            .iter()
            .any(|segment| segment.start.get() <= start && end <= segment.start.get() + segment.len);
        inside && self.taken.range(..end).next_back().is_none_or(|(_, taken_end)| *taken_end <= start)
    }

    /// Takes a range for a purpose of one's own; it may be outside RAM.
    ///
    /// # Panics
    /// Where part of it is taken already.
    pub fn reserve(&mut self, start: Gpa, len: u64) {
        let (start, end) = (start.get(), start.get() + len);
        let before = self.taken.range(..end).next_back();
        assert!(before.is_none_or(|(_, taken_end)| *taken_end <= start), "{start:#x}..{end:#x} is taken");
        self.take(start, end);
    }

    fn take(&mut self, start: u64, end: u64) {
        // Neighbours grow together: contiguous allocation would else leave one entry a page.
        let mut start = start;
        if let Some((before, before_end)) = self.taken.range(..start).next_back()
            && *before_end == start
        {
            start = *before;
        }
        self.taken.insert(start, end);
    }

    /// One free 4 KiB frame, anywhere.
    pub fn frame(&mut self) -> Gpa {
        self.contiguous(4096, 4096)
    }

    /// `len` contiguous bytes at a multiple of `align`, at a random place.
    ///
    /// # Panics
    /// Where the RAM is too full.
    pub fn contiguous(&mut self, len: u64, align: u64) -> Gpa {
        let total: u64 = self.segments.iter().map(|segment| segment.len).sum();
        for _ in 0..64 {
            let mut skip = self.rng.below(total);
            for segment in &self.segments {
                if skip < segment.len {
                    let start = (segment.start.get() + skip) & !(align - 1);
                    if self.is_free(start, len) {
                        self.take(start, start + len);
                        return Gpa::new(start);
                    }
                    break;
                }
                skip -= segment.len;
            }
        }
        self.first_fit(len, align)
    }

    fn first_fit(&mut self, len: u64, align: u64) -> Gpa {
        for segment in self.segments.clone() {
            let mut start = segment.start.get().next_multiple_of(align);
            while start + len <= segment.start.get() + segment.len {
                if self.is_free(start, len) {
                    self.take(start, start + len);
                    return Gpa::new(start);
                }
                let end = self.taken.range(..start + len).next_back().map_or(start + align, |(_, end)| *end);
                start = end.max(start + 1).next_multiple_of(align);
            }
        }
        panic!("no {len:#x} free bytes at a multiple of {align:#x}: give the guest more RAM (it is sparse)");
    }

    /// Physical pieces for `len` bytes, in order.
    ///
    /// # Panics
    /// Where `len` is not a multiple of the page size, or the RAM is too full.
    pub fn place(&mut self, len: u64, placement: Placement) -> Vec<Extent> {
        let page = placement.page_size().bytes();
        assert!(len.is_multiple_of(page), "{len:#x} bytes are not whole pages of {page:#x}");
        let piece = placement.piece().unwrap_or(len).min(len);
        let align = placement.piece().unwrap_or(page);
        let mut pieces = Vec::new();
        let mut left = len;
        while left > 0 {
            let len = piece.min(left);
            pieces.push(Extent { start: self.contiguous(len, align), len });
            left -= len;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_given_out_once_until_none_is_left() {
        let segments = [Extent { start: Gpa::new(0), len: 2 << 20 }, Extent { start: Gpa::new(4 << 20), len: 1 << 20 }];
        let mut frames = FrameAllocator::new(&segments, 3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..512 {
            let frame = frames.frame().get();
            assert!(seen.insert(frame), "{frame:#x} was given twice");
            assert!((1 << 20..2 << 20).contains(&frame) || (4 << 20..5 << 20).contains(&frame));
        }
        assert!(std::panic::catch_unwind(move || frames.frame()).is_err());
    }

    #[test]
    fn pieces_are_aligned_to_their_own_size() {
        let mut frames = FrameAllocator::new(&[Extent { start: Gpa::new(0), len: 8 << 30 }], 4);
        for placement in [Placement::Large1G, Placement::Large2M, Placement::Fragments64K] {
            let pieces = frames.place(2 << 30, placement);
            let piece = placement.piece().unwrap();
            assert!(pieces.iter().all(|got| got.len == piece && got.start.get().is_multiple_of(piece)));
        }
        assert_eq!(frames.place(1 << 20, Placement::Contiguous).len(), 1);
    }
}
