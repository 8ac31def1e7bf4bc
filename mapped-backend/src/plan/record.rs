//! What is known about the methods of one class of copies, and which of them to use next.
//!
//! A record is a few words that several threads read and write without a lock. Every word stands for itself: a thread
//! that sees some words old and others new, or whose sample another thread overwrites, chooses a method that is less
//! good for one copy, never one that does not exist. The model in `loom-tests` runs this file.
//!
//! A trial is two copies to the same part of the buffer, a frame apart: the first one [primes](Primed) the part, the
//! second one is measured. Once the record has settled there are two that prime. Where copies are read, a part that is
//! measured is read when the rest of its frame was copied; one that primes is read at once, so that a first frame is
//! not copied to its end by a guess that was bad.
//!
//! # What it costs
//!
//! Copying with a method that is not the best, and reading what was copied, is *excess*: it is counted in bytes, as
//! many as the best method would have copied in that time. A record may spend two frames of excess before it
//! has settled, and three thousandths of what is copied, always. A trial begins only if what it is expected to cost is
//! left; what it did cost is what it is charged.
//!
//! Trials propose, [whole frames](super::finals) decide.

use super::atomics::{AtomicU64, Ordering::Relaxed};
use super::finals::{Finals, Row};
use super::primed::Primed;

/// Methods that a record can hold.
pub(crate) const METHODS: usize = 16;
/// Samples that are kept of a method.
const SAMPLES: u32 = 4;
/// Excess that a record may spend before it has settled, in halves of a frame.
const OPENING: u64 = 4;
/// Of what is copied, the part that may be spent on trials: one byte in so many.
pub(crate) const STEADY: u64 = 320;
/// Bytes of a trial: a thirty-second of the frame within these bounds. More, and the credit is gone before each method
/// had its turn; less would end before a method is at its speed.
const TRIAL: core::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 20);
/// How much slower a method may look, in parts of frames, and still be compared with the one in use in whole ones, in
/// hundredths: one that stores alike, and the best of the other kind. Where copies are read parts tell least of that
/// one: a part that was stored into the caches is still in the nearest.
const ALIKE: u64 = 110;
const ELSEWHERE: u64 = 130;
const ELSEWHERE_READ: u64 = 150;
/// The same of the other kind once an opening is over. What is stored past the caches empties them of the buffer, so
/// that a part which is stored into them can take twice as long as it would if all were.
const ELSEWHERE_LATER: u64 = 200;
/// What is assumed to be unknown until a record is opened.
const UNOPENED: u64 = i64::MIN.cast_unsigned();

/// Time for a byte, in sixteenths of a picosecond; 0 stands for none.
pub(crate) type Rate = u16;

/// A class of copies: what its methods were measured to take.
pub(crate) struct Record {
    /// Four [`Rate`]s of each method, the newest lowest.
    samples: [AtomicU64; METHODS],
    /// The method to use.
    best: AtomicU64,
    /// The excess that may be spent, in bytes; an `i64`.
    credit: AtomicU64,
    /// The best method's rate when the record settled.
    settled: AtomicU64,
    /// The rate at which a copy was read, of the last trial that read.
    reading: AtomicU64,
    /// Which method is tried next, once the record has settled.
    turn: AtomicU64,
    /// The methods whose trial has begun.
    primed: Primed,
    /// The methods, a bit each, of which nothing is known but what an earlier part of a trial took.
    vague: AtomicU64,
    /// Which methods are compared in whole frames, while they are.
    finals: Finals,
    /// The method that is to be compared next where no other is in question.
    next_rival: AtomicU64,
}

/// The copy to be made, as far as a record needs it.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The methods that may be used, a bit each; the lowest is always there.
    pub(crate) usable: u16,
    /// The methods that store past the caches, a bit each.
    pub(crate) streams: u16,
    /// Bytes that are left to copy in this call.
    pub(crate) left: u64,
    /// Bytes of the whole frame.
    pub(crate) frame: u64,
    /// Whether what comes out is read at once, so that a trial reads it too.
    pub(crate) reads: bool,
    /// The address that they are copied to.
    pub(crate) at: u64,
}

impl Wanted {
    /// Bytes of a trial.
    pub(crate) fn trial(self) -> u64 {
        (self.frame / 32 / 4096 * 4096).clamp(*TRIAL.start(), *TRIAL.end())
    }

    /// Bytes that are read of a frame in a contest.
    pub(crate) fn read_in_contest(self) -> u64 {
        self.trial()
    }

    fn may_use(self, method: usize) -> bool {
        self.usable >> method & 1 == 1
    }

    fn stores_as(self, one: usize, other: usize) -> bool {
        (self.streams >> one ^ self.streams >> other) & 1 == 0
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// With which method.
    pub(crate) method: u8,
    /// How many bytes at most.
    pub(crate) limit: u64,
    /// Whether this is the measured part of a trial.
    pub(crate) is_trial: bool,
    /// Whether this is an earlier part of a trial. Where copies are read, it is read at once.
    pub(crate) is_primer: bool,
    /// Whether this is a part of a frame that one method copies whole, to be compared with another one.
    pub(crate) is_contest: bool,
    /// Whether [`Record::learn`] wants to know how long it took.
    pub(crate) is_timed: bool,
    /// What was set aside for it.
    pub(crate) reserved: u64,
}

impl Step {
    /// A copy of which nothing is to be learned.
    const fn plain(method: u8, limit: u64) -> Self {
        Self { method, limit, is_trial: false, is_primer: false, is_contest: false, is_timed: false, reserved: 0 }
    }

    /// The measured part of a trial.
    pub(crate) const fn trial(method: u8, limit: u64, reserved: u64) -> Self {
        Self { is_trial: true, is_timed: true, reserved, ..Self::plain(method, limit) }
    }

    /// An earlier part of a trial.
    const fn primer(method: u8, limit: u64, reserved: u64) -> Self {
        Self { is_primer: true, is_timed: true, reserved, ..Self::plain(method, limit) }
    }
}

impl Record {
    /// Nothing measured; `guess` is used until something is.
    pub(crate) fn new(guess: u8) -> Self {
        Self {
            samples: core::array::from_fn(|_| AtomicU64::new(0)),
            best: AtomicU64::new(u64::from(guess)),
            credit: AtomicU64::new(UNOPENED),
            settled: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            primed: Primed::new(),
            vague: AtomicU64::new(0),
            finals: Finals::new(),
            next_rival: AtomicU64::new(0),
        }
    }

    /// What to do with the next bytes.
    pub(crate) fn next(&self, wanted: Wanted) -> Step {
        let best = self.best_of(wanted);
        let trial = wanted.trial();
        if let Some(method) = self.finals.method()
            && wanted.may_use(usize::from(method))
        {
            return Step { is_contest: true, is_timed: true, ..Step::plain(method, u64::MAX) };
        }
        if wanted.left >= trial {
            if let Some((method, is_trial)) = self.primed.take(wanted.at, wanted.frame) {
                let reserved = self.expected(wanted, usize::from(method), self.estimate(best).unwrap_or(1));
                let step = if is_trial { Step::trial } else { Step::primer };
                return step(method, trial, reserved);
            }
            if let Some(method) = self.to_try(wanted, best)
                && let Some(reserved) = self.reserve(wanted, method, best)
            {
                if self.primed.wait(wanted.at, method as u8, self.settled.load(Relaxed) == 0) {
                    return Step::primer(method as u8, trial, reserved);
                }
                self.give(reserved.saturating_mul(self.parts()), 0);
            } else if self.settled.load(Relaxed) == 0 && self.primed.methods() == 0 && self.has_samples_of_all(wanted) {
                // Nothing is left to learn more from at once; what is known has to do.
                if let Some(fastest) = self.estimate(best) {
                    self.settle(wanted, fastest);
                }
            }
        }
        // Up to where the next trial goes on.
        let limit = self.primed.next_after(wanted.at, wanted.left).unwrap_or(u64::MAX);
        let is_timed = !wanted.reads && wanted.left.min(limit) >= trial / 2;
        Step { is_timed, ..Step::plain(best as u8, limit) }
    }

    /// Takes in that `bytes` were copied by `step`, in `copied` nanoseconds, and read in `read` ones.
    pub(crate) fn learn(&self, wanted: Wanted, step: Step, bytes: u64, copied: u64, read: u64) {
        self.pass(bytes);
        if step.is_contest {
            return self.finals.add(bytes, copied);
        }
        self.measured(wanted, step, bytes, copied, read);
    }

    /// Whether a frame that is complete has to be read, in part, before [`frame_done`](Self::frame_done).
    pub(crate) fn is_in_contest(&self) -> bool {
        self.finals.are_running()
    }

    /// A frame of so many bytes is complete. Where it was copied whole for a contest, `reading` nanoseconds is what
    /// `read` bytes of it took to be read.
    pub(crate) fn frame_done(&self, wanted: Wanted, bytes: u64, read: u64, reading: u64) {
        let again = rate_or_zero(reading, bytes);
        if let Some(winner) = self.finals.frame_done(bytes, rate_or_zero(reading, read), again) {
            let before = self.best.swap(u64::from(winner), Relaxed);
            // Parts may tell quite another rate of it: that is no sign that the machine has changed.
            if before != u64::from(winner)
                && let Some(rate) = self.estimate(usize::from(winner))
            {
                self.settled.store(u64::from(rate), Relaxed);
            }
        }
        if self.finals.are_running() || self.settled.load(Relaxed) == 0 || self.primed.methods() != 0 {
            return;
        }
        // Those that store elsewhere first: of them parts tell least.
        let rows = [Row::Elsewhere, Row::Alike].into_iter().filter(|row| self.finals.are_due(*row));
        if let Some((row, rival)) =
            rows.map(|row| (row, self.rival(wanted, row))).find_map(|(row, rival)| Some((row, rival?)))
        {
            self.finals.begin(self.best_of(wanted) as u8, rival as u8, row);
        }
    }

    /// The method that is to be compared in whole frames: one that waits for it, or else the next one in turn of those
    /// that are in question.
    fn rival(&self, wanted: Wanted, row: Row) -> Option<usize> {
        let best = self.best_of(wanted);
        let is_of_row = |method: &usize| wanted.stores_as(best, *method) == (row == Row::Alike);
        let waiting = (0..METHODS)
            .filter(|method| self.finals.rivals() >> *method & 1 == 1 && wanted.may_use(*method) && *method != best);
        let mut waiting = waiting.filter_map(|method| Some((self.estimate(method)?, method)));
        if let Some((_, method)) = waiting.clone().filter(|(_, method)| is_of_row(method)).min() {
            return Some(method);
        }
        if self.finals.are_opening() && waiting.next().is_some() {
            // Of the other row, and first.
            return None;
        }
        let rivals = self.rivals(wanted, self.finals.are_opening());
        let turn = self.next_rival.load(Relaxed) as usize;
        let mut in_turn = (turn..turn + METHODS).map(|turn| turn % METHODS);
        let next = in_turn.find(|method| rivals >> *method & 1 == 1 && is_of_row(method))?;
        if row == Row::Alike {
            self.next_rival.store(next as u64 + 1, Relaxed);
        }
        Some(next)
    }

    /// The methods that may be faster than the one in use, by what parts of frames tell, a bit each: those that look
    /// about as fast, and the best of those that store elsewhere.
    fn rivals(&self, wanted: Wanted, is_opening: bool) -> u16 {
        let best = self.best_of(wanted);
        let Some(own) = self.estimate(best) else { return 0 };
        let is_close = |rate: Rate, close: u64| u64::from(rate) * 100 <= u64::from(own) * close;
        let others = (0..METHODS).filter(|method| wanted.may_use(*method) && *method != best);
        let known = others.filter_map(|method| Some((self.estimate(method)?, method)));
        let near = known.clone().filter(|(rate, method)| wanted.stores_as(best, *method) && is_close(*rate, ALIKE));
        let elsewhere = known.filter(|(_, method)| !wanted.stores_as(best, *method)).min();
        let close = match (is_opening, wanted.reads) {
            (false, _) => ELSEWHERE_LATER,
            (true, true) => ELSEWHERE_READ,
            (true, false) => ELSEWHERE,
        };
        let elsewhere = elsewhere.filter(|(rate, _)| is_close(*rate, close));
        near.chain(elsewhere).fold(0, |mask, (_, method)| mask | 1 << method)
    }

    /// Takes in that `bytes` were copied. What they took is [measured](Self::measured), where it is.
    pub(crate) fn pass(&self, bytes: u64) {
        self.primed.pass(bytes);
        self.give(bytes / STEADY, 0);
    }

    /// Gives back what a trial was to cost that nobody measures.
    pub(crate) fn forgo(&self, reserved: u64) {
        self.give(reserved, 0);
    }

    /// Takes in that `step` copied `bytes` in `copied` nanoseconds, and that reading them took `read` ones.
    pub(crate) fn measured(&self, wanted: Wanted, step: Step, bytes: u64, copied: u64, read: u64) {
        let mut spent = 0;
        if step.is_timed && bytes >= wanted.trial() / 2 {
            let rate = rate(copied.saturating_add(read), bytes);
            if step.is_primer {
                self.guess(step.method, rate);
            } else {
                self.push(step.method, rate);
            }
            let best = self.elect(wanted, step);
            if step.is_trial || step.is_primer {
                self.reading.store(u64::from(rate_or_zero(read, bytes)), Relaxed);
                // What takes six times as long was interrupted; that is no fault of the method, and would leave no
                // credit for the others.
                let reading = u64::from(rate_or_zero(read, bytes));
                spent = excess(bytes, u64::from(rate), reading, u64::from(best)).min(5 * bytes);
            }
        }
        self.give(step.reserved, spent);
    }

    /// The method in use, and its rate.
    #[cfg(test)]
    pub(crate) fn chosen(&self) -> (u8, Option<u16>) {
        let best = (self.best.load(Relaxed) as usize).min(METHODS - 1);
        (best as u8, self.estimate(best))
    }

    /// What is known of every method.
    #[allow(dead_code, reason = "for the model and the tests")]
    pub(crate) fn rates(&self) -> [Option<u16>; METHODS] {
        core::array::from_fn(|method| self.estimate(method))
    }

    /// As [`rates`](Self::rates), where none is faster than the method in use once whole frames have decided: what
    /// parts of frames tell is not what a copy takes.
    pub(crate) fn rates_in_order(&self) -> [Option<u16>; METHODS] {
        let best = (self.best.load(Relaxed) as usize).min(METHODS - 1);
        let own = self.estimate(best).unwrap_or(0);
        core::array::from_fn(|method| {
            let rate = self.estimate(method)?;
            let has_lost = self.finals.decide() && method != best;
            Some(if has_lost { rate.max(own.saturating_add(1)) } else { rate })
        })
    }

    /// Begins with rates that were measured before: the record has settled and opens no rounds of trials.
    pub(crate) fn restore(&self, rates: &[Option<u16>; METHODS]) {
        for (word, rate) in self.samples.iter().zip(rates) {
            word.store(rate.map_or(0, |rate| u64::from(rate) * 0x0001_0001_0001_0001), Relaxed);
        }
        let fastest = (0..METHODS).filter(|method| rates[*method].is_some()).min_by_key(|method| rates[*method]);
        if let Some(fastest) = fastest {
            self.best.store(fastest as u64, Relaxed);
            self.credit.store(0, Relaxed);
            self.settled.store(u64::from(rates[fastest].unwrap_or(0)), Relaxed);
            self.finals.begin_opening(0);
        }
    }

    /// The method in use, or the plainest where this processor has no such method.
    fn best_of(&self, wanted: Wanted) -> usize {
        let best = self.best.load(Relaxed) as usize;
        if best < METHODS && wanted.may_use(best) { best } else { wanted.usable.trailing_zeros() as usize % METHODS }
    }

    /// The method that a trial would tell most about.
    fn to_try(&self, wanted: Wanted, best: usize) -> Option<usize> {
        let waiting = self.primed.methods();
        let may_try = |method: &usize| wanted.may_use(*method) && waiting >> *method & 1 == 0;
        // What is guessed first is measured first, so that the others have something to be compared with.
        let Some(fastest) = self.estimate(best) else {
            let first = core::iter::once(best).chain(0..METHODS);
            return first.filter(may_try).find(|method| self.estimate(*method).is_none());
        };
        let fewest = (0..METHODS)
            .filter(may_try)
            .filter_map(|method| {
                let word = self.samples[method].load(Relaxed);
                let count = count(word);
                // The more is known, the closer to the best a method has to be to be tried again.
                let close = match count {
                    0 => return Some((0, method)),
                    1 => 150,
                    2 => 125,
                    3 => 112,
                    _ => return None,
                };
                let near = u64::from(estimate(word)?) * 100 <= u64::from(fastest) * close;
                near.then_some((count, method))
            })
            .min();
        if let Some((_, method)) = fewest {
            return Some(method);
        }
        if waiting != 0 {
            return None;
        }
        self.settle(wanted, fastest);
        // From now on each in turn, whenever the credit is enough for it.
        let turn = self.turn.load(Relaxed) as usize;
        let in_turn = (turn..turn + METHODS).map(|turn| turn % METHODS);
        let mut worth = in_turn.filter(|method| may_try(method) && (wanted.reads || *method != best));
        let next = worth.find(|method| self.expected(wanted, *method, fastest) * 3 <= Self::cap(wanted))?;
        self.turn.store(next as u64, Relaxed);
        Some(next)
    }

    /// Whether each usable method was measured.
    fn has_samples_of_all(&self, wanted: Wanted) -> bool {
        let vague = self.vague.load(Relaxed);
        (0..METHODS)
            .filter(|method| wanted.may_use(*method))
            .all(|method| vague >> method & 1 == 0 && self.estimate(method).is_some())
    }

    /// All is known for now. Where the best method has become much faster or slower than it was, the frames lie
    /// elsewhere, or in another cache: what is known about the others is of no more use.
    fn settle(&self, wanted: Wanted, fastest: Rate) {
        let cap = Self::cap(wanted);
        let credit = self.credit.load(Relaxed);
        if credit.cast_signed() > cap.cast_signed() {
            // If another thread changed it meanwhile, the next copy finds it too high again.
            let _ = self.credit.compare_exchange(credit, cap, Relaxed, Relaxed);
        }
        let (settled, now) = (self.settled.load(Relaxed), u64::from(fastest));
        if settled == 0 {
            self.settled.store(now, Relaxed);
            self.finals.begin_opening(self.rivals(wanted, true));
        } else if now * 10 > settled * 16 || now * 16 < settled * 10 {
            self.settled.store(now, Relaxed);
            self.finals.begin_opening(0);
            let best = self.best.load(Relaxed) as usize;
            for (_, word) in self.samples.iter().enumerate().filter(|(method, _)| *method != best) {
                word.store(0, Relaxed);
            }
        }
    }

    /// The most that is kept for trials once a record has settled.
    fn cap(wanted: Wanted) -> u64 {
        wanted.trial() * 6
    }

    /// Copies of a trial that begins now.
    fn parts(&self) -> u64 {
        if self.settled.load(Relaxed) == 0 { 2 } else { 3 }
    }

    /// Takes what a trial is expected to cost from the credit, where there is as much. Gives what one of its copies is
    /// expected to cost, which comes back with each of them.
    fn reserve(&self, wanted: Wanted, method: usize, best: usize) -> Option<u64> {
        if self.credit.load(Relaxed) == UNOPENED {
            // Whoever is first opens the record.
            let _ = self.credit.compare_exchange(UNOPENED, wanted.frame.saturating_mul(OPENING) / 2, Relaxed, Relaxed);
        }
        let expected = self.expected(wanted, method, self.estimate(best).unwrap_or(1));
        let all = expected.saturating_mul(self.parts());
        let before = self.credit.fetch_sub(all, Relaxed);
        if before.cast_signed() >= all.cast_signed() {
            self.turn.store(method as u64 + 1, Relaxed);
            return Some(expected);
        }
        self.credit.fetch_add(all, Relaxed);
        None
    }

    /// What a copy of a trial is expected to cost, where the best takes `fastest`.
    fn expected(&self, wanted: Wanted, method: usize, fastest: Rate) -> u64 {
        let word = self.samples[method].load(Relaxed);
        let Some(rate) = lowest(word).filter(|_| self.vague.load(Relaxed) >> method & 1 == 0) else {
            // Of what nobody has measured, always the same, so that what is taken for all parts of a trial is what
            // comes back with each of them: twice the time, and what reading takes.
            return if wanted.reads { wanted.trial() * 3 / 2 } else { wanted.trial() };
        };
        let reading = if wanted.reads { self.reading.load(Relaxed) } else { 0 };
        // A method that was fast once can be so again.
        excess(wanted.trial(), u64::from(rate), reading, u64::from(fastest))
    }

    fn give(&self, more: u64, less: u64) {
        if self.credit.load(Relaxed) != UNOPENED {
            self.credit.fetch_add(more.wrapping_sub(less), Relaxed);
        }
    }

    /// Adds a sample in place of the oldest.
    fn push(&self, method: u8, rate: Rate) {
        let Some(word) = self.samples.get(usize::from(method)) else { return };
        let bit = 1 << method;
        let older = if self.vague.fetch_and(!bit, Relaxed) & bit == 0 { word.load(Relaxed) } else { 0 };
        word.store(older << 16 | u64::from(rate), Relaxed);
    }

    /// Takes what an earlier part of a trial took for a first estimate, until there is a sample: without one the first
    /// frames would be copied by a guess.
    fn guess(&self, method: u8, rate: Rate) {
        let Some(word) = self.samples.get(usize::from(method)) else { return };
        let bit = 1 << method;
        if word.load(Relaxed) == 0 || self.vague.load(Relaxed) & bit != 0 {
            self.vague.fetch_or(bit, Relaxed);
            word.store(u64::from(rate), Relaxed);
        }
    }

    fn estimate(&self, method: usize) -> Option<Rate> {
        estimate(self.samples.get(method)?.load(Relaxed))
    }

    /// Puts the fastest method in use, and gives its rate. A difference of less than half a percent changes nothing.
    ///
    /// Once the record has settled, only a method that was measured just now takes over: what was measured of the
    /// others is of a time when the machine did something else, perhaps less.
    fn elect(&self, wanted: Wanted, step: Step) -> Rate {
        let best = self.best_of(wanted);
        let has_settled = self.settled.load(Relaxed) != 0;
        // At first any sample is better than a guess; later one that was lucky takes nothing from the method in use.
        let needed = count(self.samples[best].load(Relaxed)).min(if has_settled { 2 } else { 1 });
        let may_win = |method: &usize| !has_settled || (step.is_trial && *method == usize::from(step.method));
        let fastest = (0..METHODS)
            .filter(|method| wanted.may_use(*method) && may_win(method))
            .filter_map(|method| {
                let word = self.samples[method].load(Relaxed);
                (count(word) >= needed).then_some((estimate(word)?, method))
            })
            .min();
        let own = self.estimate(best);
        match (fastest, own) {
            (Some((rate, method)), Some(own)) if u64::from(rate) * 1000 < u64::from(own) * 995 => {
                // Whichever of the two is not in use is to meet the other one in whole frames.
                if self.finals.decide() {
                    self.finals.nominate(method as u8);
                    return own;
                }
                self.finals.nominate(best as u8);
                self.best.store(method as u64, Relaxed);
                rate
            }
            (Some((rate, method)), None) => {
                self.best.store(method as u64, Relaxed);
                rate
            }
            (_, own) => own.unwrap_or(Rate::MAX),
        }
    }
}

/// The excess of copying `bytes` at `rate` and reading them at `reading`, of which `rate` is a part, where `best` was
/// possible.
const fn excess(bytes: u64, rate: u64, reading: u64, best: u64) -> u64 {
    let best = if best == 0 { 1 } else { best };
    bytes.saturating_mul(rate.saturating_sub(best).saturating_add(reading)) / best
}

/// Sixteenths of a picosecond a byte, at least 1.
pub(crate) fn rate(nanoseconds: u64, bytes: u64) -> Rate {
    rate_or_zero(nanoseconds, bytes).max(1)
}

fn rate_or_zero(nanoseconds: u64, bytes: u64) -> Rate {
    Rate::try_from(nanoseconds.saturating_mul(16_000) / bytes.max(1)).unwrap_or(Rate::MAX)
}

fn sample(word: u64, nth: u32) -> Rate {
    (word >> (16 * nth)) as Rate
}

fn count(word: u64) -> u32 {
    (0..SAMPLES).filter(|nth| sample(word, *nth) != 0).count() as u32
}

fn lowest(word: u64) -> Option<Rate> {
    (0..SAMPLES).map(|nth| sample(word, nth)).filter(|rate| *rate != 0).min()
}

/// What a method takes: the middle of its samples. Of two the lower, since a program that is interrupted only ever
/// loses.
fn estimate(word: u64) -> Option<Rate> {
    let mut samples: [Rate; SAMPLES as usize] = core::array::from_fn(|nth| sample(word, nth as u32));
    // Those that are missing are 0, and come first.
    samples.sort_unstable();
    let [first, second, third, fourth] = samples;
    match count(word) {
        0 => None,
        1 => Some(fourth),
        2 => Some(third),
        3 => Some(third),
        _ => Some(((u32::from(second) + u32::from(third)) / 2) as Rate).filter(|_| first != 0),
    }
}
