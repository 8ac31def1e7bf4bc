//! Whole frames by two methods in turn: whether a rival is faster for a caller than the method in use.
//!
//! A part of a frame tells which methods are worth a look. It does not tell whether to store into the caches or past
//! them: a part that goes into caches which the rest of the frame passes by finds them empty, and is read out of them,
//! as a frame of such parts would not be. So a contest is of whole frames: some by the method in use, some by its
//! rival, and some by the method in use again, so that a machine which becomes faster or slower meanwhile decides
//! nothing. The first frame after a change leaves the buffer as the next one finds it, and is not measured.
//!
//! Where the two look alike after that, they go on in turn for a while, once an opening is over: a difference of a few
//! hundredths is within the noise of three frames.
//!
//! A rival goes on for as long as its frames become faster. (Seen on an Intel Xeon: a buffer
//! that was last filled past the caches is let into them little by little, and a 4K copy takes 36 frames to reach half
//! the time of the first one.)

use super::atomics::{AtomicU64, Ordering::Relaxed};
use super::record::Rate;

/// Frames by the method in use before the rival's. It is in use: the buffer is as it leaves it.
const LEAD: u64 = 3;
/// Frames by the rival, and then again by the method in use; the first of either is not measured.
const TURN: u64 = 4;
/// In a long contest a rival has so many frames more to become faster in.
const LONG: u64 = 3;
/// The turn that ends a long contest of two methods that look alike: so many turns more tell noise from a difference.
/// It has none more once it has cost a quarter of a frame.
const LAST: u64 = 6;
/// By how much they differ who look alike, in hundredths.
const ALIKE: u64 = 8;
/// Frames of a contest, at most, and of a long one.
pub(crate) const LONGEST: [u64; 2] = [20, 64];
/// What the frames of a turn take, in hundredths of the ones before, for a rival to become faster still.
const FASTER: u64 = 98;
/// What a rival takes at most, in thousandths of the method in use, to take its place.
const BETTER: u64 = 995;
/// What a rival takes, in hundredths of the method in use, for its turn to end once it becomes no faster.
const HOPELESS: u64 = 125;
/// Frames in a row that were not copied whole by this contest before it is given up: other threads copy too.
pub(crate) const PATIENCE: u64 = 8;
/// Bytes of a frame that nobody measures: a last piece that is too short for a method.
const CRUMBS: u64 = 64 << 10;
const RUNNING: u64 = 1 << 63;
const LONG_ONE: u64 = 1 << 62;

/// How a contest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The faster method.
    pub(crate) winner: u8,
    /// What it takes for a byte.
    pub(crate) rate: Rate,
    /// What all frames of the contest took for a byte beyond that, added up.
    pub(crate) excess: u64,
}

/// A contest that runs, or none.
pub(crate) struct Contest {
    /// A [`State`].
    state: AtomicU64,
    /// The fastest rate of the method in use and of its rival, and the rival's when its turn last began anew, 16 bits
    /// each.
    rates: AtomicU64,
    /// The rates of all frames, added up, in 48 bits, and how many they were.
    all: AtomicU64,
    /// Bytes of this frame that were copied, in 30 bits, and the nanoseconds that they took, in 34: one word, so that
    /// nobody's bytes are taken with another one's time.
    frame: AtomicU64,
}

/// Bits of the nanoseconds of a frame, and the most that the bytes of a part count as.
const TIME: u32 = 34;
const MOST: u64 = 1 << 29;

/// Both methods in 4 bits each, whose turn it is in 4, the frames of this turn in 8, those that were lost in 4, and
/// whether it is a long one.
#[derive(Clone, Copy)]
struct State(u64);

impl State {
    const fn methods(self) -> [u8; 2] {
        [(self.0 & 0xf) as u8, (self.0 >> 4 & 0xf) as u8]
    }

    /// Odd: the rival's; even: of the method in use.
    const fn turn(self) -> u64 {
        self.0 >> 8 & 0xf
    }

    const fn is_rivals(self) -> bool {
        self.turn() & 1 == 1
    }

    const fn done(self) -> u64 {
        self.0 >> 12 & 0xff
    }

    const fn lost(self) -> u64 {
        self.0 >> 20 & 0xf
    }

    const fn is_long(self) -> bool {
        self.0 & LONG_ONE != 0
    }

    const fn is_running(self) -> bool {
        self.0 & RUNNING != 0
    }

    /// After a frame that was lost; 0 where it was one too many.
    const fn after_a_loss(self) -> u64 {
        if self.lost() + 1 >= PATIENCE { 0 } else { self.0 + (1 << 20) }
    }

    /// After a frame by which a rival became faster: the first one of those that are measured.
    const fn anew(self) -> u64 {
        self.0 & !(0xff << 12 | 0xf << 20) | 2 << 12
    }

    /// After a frame that counts; 0 where it was the last one. `alike`: nobody can tell yet which is faster.
    const fn after_a_frame(self, alike: bool) -> u64 {
        let without_loss = self.0 & !(0xf << 20);
        let frames = match (self.turn(), self.is_long()) {
            (0, _) => LEAD,
            (1, true) => TURN + LONG,
            _ => TURN,
        };
        if self.done() + 1 < frames {
            return without_loss + (1 << 12);
        }
        let goes_on = alike && self.is_long() && self.turn() < LAST;
        let is_last = self.turn() >= 2 && !self.is_rivals() && !goes_on;
        if is_last { 0 } else { self.after_a_turn() }
    }

    /// After the last frame of a turn that another one follows.
    const fn after_a_turn(self) -> u64 {
        (self.0 & !(0xff << 12 | 0xf << 20)) + (1 << 8)
    }
}

impl Contest {
    pub(crate) fn new() -> Self {
        let [state, rates, all, frame] = core::array::from_fn(|_| AtomicU64::new(0));
        Self { state, rates, all, frame }
    }

    fn state(&self) -> State {
        State(self.state.load(Relaxed))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state().is_running()
    }

    /// Begins one between the method in use and a rival, unless one runs. A long one gives a rival time to become
    /// faster.
    pub(crate) fn begin(&self, methods: [u8; 2], is_long: bool) {
        let long = if is_long { LONG_ONE } else { 0 };
        let state = RUNNING | long | u64::from(methods[0] & 0xf) | u64::from(methods[1] & 0xf) << 4;
        if self.state.compare_exchange(0, state, Relaxed, Relaxed).is_ok() {
            for word in [&self.rates, &self.all, &self.frame] {
                word.store(0, Relaxed);
            }
        }
    }

    /// The method that copies now, if a contest runs.
    pub(crate) fn method(&self) -> Option<u8> {
        let state = self.state();
        let [in_use, rival] = state.methods();
        state.is_running().then_some(if state.is_rivals() { rival } else { in_use })
    }

    /// Takes in that a part of a frame was copied.
    pub(crate) fn add(&self, bytes: u64, nanoseconds: u64) {
        // What is too large for its place is too large for a frame: it does not count.
        self.frame.fetch_add(bytes.min(MOST) << TIME | nanoseconds.min((1 << TIME) - 1), Relaxed);
    }

    /// A frame of so many bytes is complete, and reading a byte of it takes `reading`; what was read to learn that took
    /// `again` for each byte of the frame. Gives the outcome with the last one.
    pub(crate) fn frame_done(&self, frame: u64, reading: Rate, again: Rate) -> Option<Outcome> {
        let state = self.state();
        let copied = self.frame.swap(0, Relaxed);
        let (bytes, nanoseconds) = (copied >> TIME, copied & ((1 << TIME) - 1));
        if !state.is_running() {
            return None;
        }
        if bytes > frame || bytes.saturating_add(CRUMBS.min(frame / 2)) < frame {
            // Another thread's frame is in it, or a frame that began before the contest.
            let _ = self.state.compare_exchange(state.0, state.after_a_loss(), Relaxed, Relaxed);
            return None;
        }
        let rate = super::record::rate(nanoseconds, bytes).saturating_add(reading);
        let all = self.all.fetch_add(1 << 48 | (u64::from(rate) + u64::from(again)), Relaxed) >> 48;
        let at = if state.is_rivals() { 16 } else { 0 };
        let mut rates = self.rates.load(Relaxed);
        let before = (rates >> at) as Rate;
        let is_measured = state.turn() == 0 || state.done() > 0;
        if is_measured && (before == 0 || rate < before) {
            rates = rates & !(0xffff << at) | u64::from(rate) << at;
        }
        let then = rates >> 32;
        let becomes_faster = then == 0 || u64::from(rate) * 100 < then * FASTER;
        let goes_on = state.turn() == 1 && is_measured && becomes_faster && all < LONGEST[usize::from(state.is_long())];
        if goes_on {
            rates = rates & 0xffff_ffff | u64::from(rate) << 32;
        }
        self.rates.store(rates, Relaxed);
        let next = if goes_on { state.anew() } else { self.after_a_frame(state, rates, rate, is_measured) };
        let is_ours = self.state.compare_exchange(state.0, next, Relaxed, Relaxed).is_ok();
        (next == 0 && is_ours).then(|| self.outcome(state))
    }

    /// The state after a frame of `rate` by which nobody became faster.
    fn after_a_frame(&self, state: State, rates: u64, rate: Rate, is_measured: bool) -> u64 {
        let (own, rival) = (u64::from(rates as Rate), u64::from((rates >> 16) as Rate));
        if state.turn() == 1 && is_measured && u64::from(rate) * 100 > own * HOPELESS {
            return state.after_a_turn();
        }
        let is_cheap = self.outcome(state).excess * 4 < own.min(rival);
        state.after_a_frame(is_cheap && own.abs_diff(rival) * 100 <= own.max(rival) * ALIKE)
    }

    fn outcome(&self, state: State) -> Outcome {
        let (rates, all) = (self.rates.load(Relaxed), self.all.load(Relaxed));
        let [own, rival] = [rates as Rate, (rates >> 16) as Rate].map(|rate| rate.max(1));
        // The method in use has more frames, and so more luck; and what a rival gains by less than half a percent says
        // nothing about the next frames, where the machine may do something else: it changes nothing.
        let is_faster = u64::from(rival) * 1000 < u64::from(own) * BETTER;
        let (winner, rate) = if is_faster { (state.methods()[1], rival) } else { (state.methods()[0], own) };
        let (took, frames) = (all & ((1 << 48) - 1), all >> 48);
        Outcome { winner, rate, excess: took.saturating_sub(frames * u64::from(rate)) }
    }
}
