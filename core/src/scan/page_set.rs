//! A set of physical pages, one bit each, in memory that the caller lends.

use crate::addr::{Gpa, PAGE_BYTES, PAGE_SHIFT};

/// Pages that share a word of the set.
pub(super) const GROUP: u64 = u64::BITS as u64;
/// Bytes of them.
pub(super) const GROUP_BYTES: u64 = GROUP * PAGE_BYTES;

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

    /// The first 64 pages of which some at or after `from` are in the set: where they begin, and which, as bits.
    #[inline]
    pub(super) fn group_from(&self, from: Gpa) -> Option<(Gpa, u64)> {
        let (start, bit) = Self::place(from);
        let mut mask = !bit.wrapping_sub(1);
        for (word, index) in self.words.get(start..)?.iter().zip(start as u64..) {
            let pages = *word & mask;
            mask = u64::MAX;
            if pages != 0 {
                return Some((Gpa::new(index.wrapping_mul(GROUP_BYTES)), pages));
            }
        }
        None
    }

    /// Takes the pages `bits` of the 64 from `first` on out of the set; of those behind the 64, none.
    #[inline]
    pub(super) fn remove(&mut self, first: Gpa, bits: u64) {
        let (word, bit) = Self::place(first);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bits.wrapping_mul(bit);
        }
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

    #[test]
    fn groups_are_the_64_pages_of_a_word() {
        let mut words = [0_u64; 3];
        let mut set = PageSet::new(&mut words);
        let at = |frame: u64| Gpa::new(frame << 12);
        for frame in [3, 63, 130, 191] {
            assert!(set.insert(at(frame)));
        }
        assert_eq!(set.group_from(at(0)), Some((at(0), 1 << 3 | 1 << 63)));
        assert_eq!(set.group_from(at(4)), Some((at(0), 1 << 63)), "what lies before is not asked for");
        assert_eq!(set.group_from(at(64)), Some((at(128), 1 << 2 | 1 << 63)));
        set.remove(at(128), 1 << 2);
        assert_eq!(set.group_from(at(64)), Some((at(128), 1 << 63)));
        set.remove(at(191), 1);
        assert_eq!(set.group_from(at(64)), None);
        assert_eq!((set.group_from(at(192)), set.group_from(Gpa::new(u64::MAX))), (None, None));
    }
}
