//! Which rivals meet the method in use in whole frames, and when.
//!
//! Parts of frames, which cost little, tell which methods are worth a [`Contest`]; contests decide. A class begins with
//! one against each rival that its parts leave in question, as far as the budget goes. Later there is a long one now
//! and then, the rarer the more the last one cost: one row against methods that store alike, which cost little, and one
//! against those that store elsewhere, which cost more, so that neither waits for the other.

use super::atomics::{AtomicU64, Ordering::Relaxed};
use super::contest::Contest;
use super::record::Rate;

/// Of what is copied, the part that contests of either row may take: one byte in so many.
const CONTEST: u64 = 400;
/// Frames between two contests of a row, at least: of methods that store alike, and of others.
const REST: [u64; 2] = [40, 250];
/// Frames after those of an opening, which spends what the first hundred frames may cost.
const FIRST_REST: [u64; 2] = [80, 250];
/// Contests of a row that changed nothing before its rests become twice as long, and how often they do: a class that is
/// settled is left in peace, and asked now and then.
const UNCHANGED: u64 = 3;
const DOUBLINGS: [u64; 2] = [4, 2];
/// Excess that the contests of an opening may spend: so many quarters of a frame; the last one may go beyond.
const OPENING: u64 = 2;
/// A frame of an opening without a contest counts as so much of it: one part in so many.
const QUIET: u64 = 64;

/// Whether a rival stores as the method in use does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Alike = 0,
    Elsewhere = 1,
}

/// The contests of one class of copies.
pub(crate) struct Finals {
    contest: Contest,
    /// The methods that are to meet the one in use, a bit each.
    rivals: AtomicU64,
    /// Bytes to copy before the next contest of either row.
    rests: [AtomicU64; 2],
    /// The row of the contest that runs, and the method that was in use when it began.
    row: AtomicU64,
    in_use: AtomicU64,
    /// Contests of either row that changed nothing, since one did.
    unchanged: [AtomicU64; 2],
    /// The excess that this opening has spent, in bytes.
    spent: AtomicU64,
    /// 1 from the opening to its last contest.
    is_open: AtomicU64,
    /// 1 once a contest has decided.
    decides: AtomicU64,
}

impl Finals {
    pub(crate) fn new() -> Self {
        let none = || AtomicU64::new(0);
        let [rests, unchanged] = core::array::from_fn(|_| core::array::from_fn(|_| none()));
        let [rivals, row, in_use, spent, is_open, decides] = core::array::from_fn(|_| none());
        Self { contest: Contest::new(), rivals, rests, row, in_use, unchanged, spent, is_open, decides }
    }

    /// Whether whole frames decide which method is in use. Where a contest could not be held, parts do: a frame is no
    /// thread's alone there.
    pub(crate) fn decide(&self) -> bool {
        self.decides.load(Relaxed) != 0
    }

    /// Whether a contest runs.
    pub(crate) fn are_running(&self) -> bool {
        self.contest.is_running()
    }

    /// The method that copies whole frames now.
    pub(crate) fn method(&self) -> Option<u8> {
        self.contest.method()
    }

    /// Takes in that a part of such a frame was copied.
    pub(crate) fn add(&self, bytes: u64, nanoseconds: u64) {
        self.contest.add(bytes, nanoseconds);
    }

    /// Forgets who won: what is known is of a machine that is no more. These are the rivals of the new opening.
    pub(crate) fn begin_opening(&self, rivals: u16) {
        self.rivals.store(u64::from(rivals), Relaxed);
        self.rest_for([0; 2]);
        self.unchanged.iter().for_each(|contests| contests.store(0, Relaxed));
        self.spent.store(0, Relaxed);
        self.decides.store(0, Relaxed);
        self.is_open.store(1, Relaxed);
    }

    /// What the contests of an opening may spend, in frames of so many bytes.
    const fn opening(bytes: u64) -> u64 {
        bytes.saturating_mul(OPENING) / 4
    }

    fn end_opening(&self, bytes: u64) {
        self.is_open.store(0, Relaxed);
        self.rest_for(FIRST_REST.map(|frames| bytes.saturating_mul(frames)));
    }

    /// Whether these are the contests of an opening.
    pub(crate) fn are_opening(&self) -> bool {
        self.is_open.load(Relaxed) != 0
    }

    /// Adds a rival.
    pub(crate) fn nominate(&self, method: u8) {
        self.rivals.fetch_or(1 << (method & 0xf), Relaxed);
    }

    /// A frame of so many bytes is complete; see [`Contest::frame_done`]. Gives the method that is to be used, where a
    /// contest has ended.
    pub(crate) fn frame_done(&self, bytes: u64, reading: Rate, again: Rate) -> Option<u8> {
        let was_running = self.contest.is_running();
        if let Some(outcome) = self.contest.frame_done(bytes, reading, again) {
            let cost = bytes.saturating_mul(outcome.excess) / u64::from(outcome.rate);
            let spent = self.spent.fetch_add(cost, Relaxed).saturating_add(cost);
            let may_spend = spent < Self::opening(bytes);
            if self.are_opening() && !(may_spend && self.rivals.load(Relaxed) != 0) {
                self.end_opening(bytes);
            } else if !self.are_opening() {
                self.rest_after(outcome.winner, cost, bytes);
            }
            self.decides.store(1, Relaxed);
            return Some(outcome.winner);
        }
        if was_running && !self.contest.is_running() {
            // Given up: the next one would fare no better.
            self.rest_for([bytes.saturating_mul(REST[1]); 2]);
            self.decides.store(0, Relaxed);
        } else if !was_running {
            // Another thread that takes the same words at once takes a frame too little.
            self.rest_for(self.rests.each_ref().map(|rest| rest.load(Relaxed).saturating_sub(bytes)));
            // Where nobody is in question an opening ends as well.
            let quiet = bytes / QUIET;
            if self.are_opening() && self.spent.fetch_add(quiet, Relaxed).saturating_add(quiet) >= Self::opening(bytes)
            {
                self.end_opening(bytes);
            }
        }
        None
    }

    /// Lets a row rest, after a contest that cost so many bytes in frames of `bytes`.
    fn rest_after(&self, winner: u8, cost: u64, bytes: u64) {
        let row = usize::from(self.row.load(Relaxed) != 0);
        let unchanged = if u64::from(winner) == self.in_use.load(Relaxed) {
            self.unchanged[row].load(Relaxed).saturating_add(1)
        } else {
            // Others are alike now, and others elsewhere.
            self.unchanged.iter().for_each(|contests| contests.store(0, Relaxed));
            0
        };
        self.unchanged[row].store(unchanged, Relaxed);
        let frames = REST[row] << (unchanged / UNCHANGED).min(DOUBLINGS[row]);
        self.rests[row].store(cost.saturating_mul(CONTEST).max(bytes.saturating_mul(frames)), Relaxed);
    }

    fn rest_for(&self, bytes: [u64; 2]) {
        for (rest, bytes) in self.rests.iter().zip(bytes) {
            rest.store(bytes, Relaxed);
        }
    }

    /// Whether a contest of a row may begin.
    pub(crate) fn are_due(&self, row: Row) -> bool {
        self.rests[row as usize].load(Relaxed) == 0 && !self.contest.is_running()
    }

    /// The rivals that wait for a contest, a bit each.
    pub(crate) fn rivals(&self) -> u16 {
        self.rivals.load(Relaxed) as u16
    }

    /// Begins a contest of the method in use with one of its rivals.
    pub(crate) fn begin(&self, in_use: u8, rival: u8, row: Row) {
        self.row.store(row as u64, Relaxed);
        self.in_use.store(u64::from(in_use), Relaxed);
        self.rivals.fetch_and(!(1 << (rival & 0xf)), Relaxed);
        self.contest.begin([in_use, rival], !self.are_opening());
    }
}
