//! Where methods wait to be measured.
//!
//! What a copy takes depends on what the copy before left behind: stores past the caches are slow to lines that lie in
//! them, plain ones to lines that do not, and a part of the buffer that nobody has touched costs page faults. A method
//! that is tried between copies by another one is measured in a state that it would never meet if it were in use. So
//! it copies to a part of the buffer once or twice, which *primes* that part, and is measured when the part is copied
//! to once more: in the next frames, where the caller uses its buffer again. Where it does not, every part is new to
//! every method, and that is what is measured. (Seen on an Intel Xeon: a copy past the caches takes twice as long once,
//! a plain one after that half as long again, twice.)

use super::atomics::{AtomicU64, Ordering::Relaxed};

/// Methods that can wait at once.
const SLOTS: usize = 8;
/// Frames after which a buffer is not expected to come back.
const PATIENCE: u64 = 3;

/// A slot: the method in 4 bits, the line of the buffer in 42, whether it is measured next, and when
/// that was, in 17.
/// 0 is an empty one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting(u64);

impl Waiting {
    const fn new(at: u64, method: u8, is_next: bool, when: u64) -> Self {
        Self(method as u64 & 0xf | (at >> 6 & ((1 << 42) - 1)) << 4 | (is_next as u64) << 46 | when << 47)
    }

    const fn is_next(self) -> bool {
        self.0 >> 46 & 1 == 1
    }

    const fn method(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// The address, without what is lost of it: its place in a line.
    const fn at(self) -> u64 {
        (self.0 >> 4 & ((1 << 42) - 1)) << 6
    }

    const fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.0 >> 47) & ((1 << 17) - 1)
    }
}

/// The parts of buffers that methods have primed. Several threads share it without a lock: a slot is filled and taken
/// whole.
pub(crate) struct Primed {
    slots: [AtomicU64; SLOTS],
    /// Bytes that were copied in all: the clock by which parts get old.
    copied: AtomicU64,
}

impl Primed {
    pub(crate) fn new() -> Self {
        Self { slots: core::array::from_fn(|_| AtomicU64::new(0)), copied: AtomicU64::new(0) }
    }

    /// Takes in that so many bytes were copied.
    pub(crate) fn pass(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Relaxed);
    }

    /// `method` copies to `at`, and waits for the next copies to that place: it is measured with the second one from
    /// now on, or with the next one where it is `brief`. Gives whether there was room for it.
    pub(crate) fn wait(&self, at: u64, method: u8, brief: bool) -> bool {
        let new = Waiting::new(at, method, brief, self.now());
        self.slots.iter().any(|slot| slot.compare_exchange(0, new.0, Relaxed, Relaxed).is_ok())
    }

    /// The method to go on with at `at`, in frames of `frame` bytes, and whether it is measured now: one that primed
    /// that place, or one whose place did not come back.
    pub(crate) fn take(&self, at: u64, frame: u64) -> Option<(u8, bool)> {
        let (here, now) = (Waiting::new(at, 0, false, 0).at(), self.now());
        // At least one unit of the clock, so that what was primed in this frame is not old.
        let patience = (frame.saturating_mul(PATIENCE) >> 16).max(1);
        self.slots.iter().find_map(|slot| {
            let waiting = Waiting(slot.load(Relaxed));
            if waiting.0 == 0 {
                return None;
            }
            let (comes_back, is_old) = (waiting.at() == here, waiting.age(now) > patience);
            let is_measured = is_old || waiting.is_next();
            let next = if is_measured { 0 } else { Waiting::new(at, waiting.method(), true, now).0 };
            let taken = (comes_back || is_old) && slot.compare_exchange(waiting.0, next, Relaxed, Relaxed).is_ok();
            taken.then(|| (waiting.method(), is_measured))
        })
    }

    /// The methods that wait, a bit each.
    pub(crate) fn methods(&self) -> u16 {
        let waiting = self.slots.iter().map(|slot| Waiting(slot.load(Relaxed))).filter(|waiting| waiting.0 != 0);
        waiting.fold(0, |mask, waiting| mask | 1 << waiting.method())
    }

    /// How many bytes after `at` the next primed place lies, if that is less than `left`.
    pub(crate) fn next_after(&self, at: u64, left: u64) -> Option<u64> {
        let waiting = self.slots.iter().map(|slot| Waiting(slot.load(Relaxed))).filter(|waiting| waiting.0 != 0);
        let within = at & 63;
        let distances = waiting.filter_map(|waiting| (waiting.at() | within).checked_sub(at));
        distances.filter(|distance| (1..left).contains(distance)).min()
    }

    fn now(&self) -> u64 {
        self.copied.load(Relaxed) >> 16
    }
}
