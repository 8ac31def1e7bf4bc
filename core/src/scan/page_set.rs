//! A set of physical pages, one bit each, in memory that the caller lends.

use crate::addr::{Gpa, PAGE_SHIFT};

/// Frames of 4 KiB below a limit that the length of the words sets.
#[derive(Debug)]
pub(super) struct PageSet<'s> {
    words: &'s mut [u64],
}

impl<'s> PageSet<'s> {
    pub(super) const fn new(words: &'s mut [u64]) -> Self {
        Self { words }
    }

    fn place(gpa: Gpa) -> (usize, u64) {
        let frame = gpa.get() >> PAGE_SHIFT;
        (usize::try_from(frame >> 6).unwrap_or(usize::MAX), 1 << (frame & 63))
    }

    /// Adds a frame; false where it lies beyond the set.
    #[inline]
    pub(super) fn insert(&mut self, gpa: Gpa) -> bool {
        let (word, bit) = Self::place(gpa);
        match self.words.get_mut(word) {
            Some(word) => {
                *word |= bit;
                true
            }
            None => false,
        }
    }

    /// Whether a page has a place in the set.
    pub(super) fn holds(&self, gpa: Gpa) -> bool {
        Self::place(gpa).0 < self.words.len()
    }

    /// Takes the first frame at or after `from` out of the set.
    #[inline]
    pub(super) fn take_from(&mut self, from: Gpa) -> Option<Gpa> {
        let (start, bit) = Self::place(from);
        let mut mask = !bit.wrapping_sub(1);
        for (index, word) in self.words.iter_mut().enumerate().skip(start) {
            let hit = *word & mask;
            mask = u64::MAX;
            if hit != 0 {
                *word &= !(hit & hit.wrapping_neg());
                let frame = (index as u64).wrapping_mul(64).wrapping_add(u64::from(hit.trailing_zeros()));
                return Some(Gpa::new(frame.wrapping_shl(PAGE_SHIFT)));
            }
        }
        None
    }

    /// The frames of the 64 from `from` on, a multiple of 64, that are in the set, as bits.
    #[inline]
    pub(super) fn around(&self, from: Gpa) -> u64 {
        self.words.get(Self::place(from).0).copied().unwrap_or(0)
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_once() {
        let mut words = [0_u64; 2];
        let mut set = PageSet::new(&mut words);
        for frame in [127_u64, 3, 64, 63, 3] {
            assert!(set.insert(Gpa::new(frame << 12)));
        }
        assert!(!set.insert(Gpa::new(128 << 12)));
        let mut at = Gpa::new(0);
        let mut seen = std::vec::Vec::new();
        while let Some(gpa) = set.take_from(at) {
            seen.push(gpa.get() >> 12);
            at = gpa;
        }
        assert_eq!(seen, [3, 63, 64, 127]);
    }
}
