//! Trials that were copied and wait to be read.
//!
//! What a copy costs whoever reads it next shows only when all of the frame was copied: a part that is read at once
//! lies in the nearest cache, wherever its method stored it, and one that the rest of the frame has followed does not.
//! So the part is left where it is, and read when the frame is complete.

use super::atomics::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Trials that can wait at once: as many as a frame has parts.
pub(crate) const SLOTS: usize = 8;
/// What a slot holds that is empty, and one that a thread is about to fill or to empty.
const EMPTY: u64 = 0;
const CLAIMED: u64 = 1;
/// Set in every slot that holds a trial.
const HELD: u64 = 1 << 63;

/// A trial of which the copy was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    /// The page that it was copied to, as a number: the address in 4096 bytes.
    pub(crate) page: u64,
    /// The class of the frame; less than 64.
    pub(crate) class: u8,
    /// The method, less than 16.
    pub(crate) method: u8,
    /// What the copy took for a byte, in sixteenths of a picosecond.
    pub(crate) rate: u16,
    /// What the record has set aside for it.
    pub(crate) reserved: u64,
}

impl Unread {
    const fn word(self) -> u64 {
        HELD | (self.rate as u64) << 47
            | (self.class as u64 & 0x3f) << 40
            | (self.method as u64 & 0xf) << 36
            | self.page & ((1 << 36) - 1)
    }

    const fn of(word: u64, reserved: u64) -> Self {
        Self {
            page: word & ((1 << 36) - 1),
            method: (word >> 36 & 0xf) as u8,
            class: (word >> 40 & 0x3f) as u8,
            rate: (word >> 47) as u16,
            reserved,
        }
    }
}

/// The trials of one guest that wait. Several threads share it without a lock: a slot is claimed, then filled or
/// emptied whole.
pub(crate) struct UnreadTrials {
    slots: [(AtomicU64, AtomicU64); SLOTS],
}

impl UnreadTrials {
    /// How many can wait.
    pub(crate) const SLOTS: usize = SLOTS;

    pub(crate) fn new() -> Self {
        Self { slots: core::array::from_fn(|_| (AtomicU64::new(EMPTY), AtomicU64::new(0))) }
    }

    /// Keeps a trial. Gives one that has to go for it: nobody came to read it, or its place was copied to again.
    ///
    /// Where all slots are claimed at once by other threads it gives the new one back.
    pub(crate) fn leave(&self, unread: Unread) -> Option<Unread> {
        let same = |word: u64| word & HELD != 0 && Unread::of(word, 0).page == unread.page;
        let held = |word: u64| word & HELD != 0;
        let empty = |word: u64| word == EMPTY;
        let kinds: [&dyn Fn(u64) -> bool; 3] = [&same, &empty, &held];
        for fits in kinds {
            for (slot, reserved) in &self.slots {
                let word = slot.load(Relaxed);
                if fits(word) && slot.compare_exchange(word, CLAIMED, Acquire, Relaxed).is_ok() {
                    let before = reserved.load(Relaxed);
                    reserved.store(unread.reserved, Relaxed);
                    slot.store(unread.word(), Release);
                    return held(word).then(|| Unread::of(word, before));
                }
            }
        }
        Some(unread)
    }

    /// Takes one whose page is one of `pages`.
    pub(crate) fn take(&self, pages: core::ops::Range<u64>) -> Option<Unread> {
        self.slots.iter().find_map(|(slot, reserved)| {
            let word = slot.load(Relaxed);
            let fits = word & HELD != 0 && pages.contains(&Unread::of(word, 0).page);
            if !fits || slot.compare_exchange(word, CLAIMED, Acquire, Relaxed).is_err() {
                return None;
            }
            let reserved = reserved.load(Relaxed);
            slot.store(EMPTY, Release);
            Some(Unread::of(word, reserved))
        })
    }
}
