//! Whole frames by two methods in turn: which of the two is faster for a caller.
//!
//! A part of a frame tells how methods compare that store alike. It does not tell whether to store into the caches or
//! past them: a part that goes into caches that the rest of the frame passes by finds them empty, and is read out of
//! them, as a frame of such parts would not be. So the best of either kind copies whole frames: four in a row, of which
//! the first leaves the buffer as the next one finds it, and three are measured.

use super::atomics::{AtomicU64, Ordering::Relaxed};
use super::record::Rate;

/// Frames of a contest: four by each.
const FRAMES: u64 = 8;
/// Frames in a row that were not copied whole by this contest before it is given up: other threads copy too.
pub(crate) const PATIENCE: u64 = 8;
/// Bytes of a frame that nobody measures: a last piece that is too short for a method.
const CRUMBS: u64 = 64 << 10;
const RUNNING: u64 = 1 << 63;

/// How a contest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) winner: u8,
    pub(crate) loser: u8,
    /// What either takes for a byte.
    pub(crate) rates: [Rate; 2],
}

/// A contest that runs, or none.
pub(crate) struct Contest {
    /// The first method in 4 bits, the second one in 4, frames that are done in 4, frames that were lost in 4.
    state: AtomicU64,
    /// The faster rate of either, 16 bits each.
    rates: AtomicU64,
    /// Bytes of this frame that were copied, and the time that they took.
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

const fn first(state: u64) -> u8 {
    (state & 0xf) as u8
}

const fn second(state: u64) -> u8 {
    (state >> 4 & 0xf) as u8
}

const fn done(state: u64) -> u64 {
    state >> 8 & 0xf
}

const fn lost(state: u64) -> u64 {
    state >> 12 & 0xf
}

impl Contest {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            rates: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state.load(Relaxed) & RUNNING != 0
    }

    /// Begins one between two methods, unless one runs.
    pub(crate) fn begin(&self, methods: [u8; 2]) {
        let state = RUNNING | u64::from(methods[0] & 0xf) | u64::from(methods[1] & 0xf) << 4;
        if self.state.compare_exchange(0, state, Relaxed, Relaxed).is_ok() {
            self.rates.store(0, Relaxed);
            self.bytes.store(0, Relaxed);
            self.nanoseconds.store(0, Relaxed);
        }
    }

    /// The method that copies now, if a contest runs.
    pub(crate) fn method(&self) -> Option<u8> {
        let state = self.state.load(Relaxed);
        let method = if done(state) < FRAMES / 2 { first(state) } else { second(state) };
        (state & RUNNING != 0).then_some(method)
    }

    /// Takes in that a part of a frame was copied.
    pub(crate) fn add(&self, bytes: u64, nanoseconds: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// A frame of so many bytes is complete, and reading a byte of it took `reading`. Gives the outcome with the last
    /// one.
    pub(crate) fn frame_done(&self, frame: u64, reading: Rate) -> Option<Outcome> {
        let state = self.state.load(Relaxed);
        let (bytes, nanoseconds) = (self.bytes.swap(0, Relaxed), self.nanoseconds.swap(0, Relaxed));
        if state & RUNNING == 0 {
            return None;
        }
        if bytes > frame || bytes.saturating_add(CRUMBS) < frame {
            // Another thread's frame is in it, or a frame that began before the contest.
            let next = if lost(state) + 1 >= PATIENCE { 0 } else { state + (1 << 12) };
            let _ = self.state.compare_exchange(state, next, Relaxed, Relaxed);
            return None;
        }
        let nth = done(state);
        let is_last = nth + 1 == FRAMES;
        let next = if is_last { 0 } else { (state + (1 << 8)) & !(0xf << 12) };
        if !nth.is_multiple_of(FRAMES / 2) {
            let rate = super::record::rate(nanoseconds, bytes).saturating_add(reading);
            let at = if nth < FRAMES / 2 { 0 } else { 16 };
            let rates = self.rates.load(Relaxed);
            let before = (rates >> at) as Rate;
            let faster = if before == 0 { rate } else { before.min(rate) };
            self.rates.store(rates & !(0xffff << at) | u64::from(faster) << at, Relaxed);
        }
        let is_ours = self.state.compare_exchange(state, next, Relaxed, Relaxed).is_ok();
        if !is_last || !is_ours {
            return None;
        }
        let rates = self.rates.load(Relaxed);
        let rates = [rates as Rate, (rates >> 16) as Rate].map(|rate| rate.max(1));
        let (winner, loser) =
            if rates[0] <= rates[1] { (first(state), second(state)) } else { (second(state), first(state)) };
        Some(Outcome { winner, loser, rates: [rates[0].min(rates[1]), rates[0].max(rates[1])] })
    }
}
