//! All classes of copies of one guest, each with its record.

use std::time::Instant;

use vgpu_perception::{CopyHint, NextUse};

use super::atomics::{AtomicU64, Ordering::Relaxed};
use super::method::candidates;
use super::record::{METHODS, Record, Step, Wanted, rate};
use super::unread::{Unread, UnreadTrials};
use super::{Cpu, Method, Shape, read_once};

/// How the pages of a copy lie: the average length of its pieces.
const LAYOUTS: [&str; 3] = ["pages", "fragments", "runs"];
/// How large the frame is.
const SIZES: [&str; 4] = ["1M", "4M", "16M", "more"];
/// What is done with it.
const USES: [&str; 2] = ["read", "handoff"];
/// Whether source and buffer lie alike.
const STEPS: [&str; 2] = ["in-step", "askew"];

/// Spots of a frame that are read in a contest.
const SPOTS: usize = 16;

/// Copies that one method is likely to be best for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    layout: usize,
    size: usize,
    next_use: usize,
    step: usize,
}

impl Class {
    /// How many there are.
    pub(crate) const COUNT: usize = LAYOUTS.len() * SIZES.len() * USES.len() * STEPS.len();

    /// The class of a copy; `None` where a plain copy is as good as any, and is not worth a measurement.
    pub(crate) fn of(shape: Shape, hint: CopyHint) -> Option<Self> {
        let average = shape.average();
        if !shape.is_worth_a_method() {
            return None;
        }
        let layout = usize::from(average >= 16 << 10) + usize::from(average >= 512 << 10);
        let total = hint.total.max(shape.bytes as u64);
        let size = [1 << 20, 4 << 20, 16 << 20].into_iter().filter(|bound| total > *bound).count();
        // Of what nothing is known, most is read.
        let next_use = usize::from(hint.next_use == NextUse::Handoff);
        Some(Self { layout, size, next_use, step: usize::from(!shape.in_step) })
    }

    const fn reads(self) -> bool {
        self.next_use == 0
    }

    const fn index(self) -> usize {
        ((self.layout * SIZES.len() + self.size) * USES.len() + self.next_use) * STEPS.len() + self.step
    }

    /// Every class, in the order of its index.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(|index| Self {
            layout: index / (SIZES.len() * USES.len() * STEPS.len()),
            size: index / (USES.len() * STEPS.len()) % SIZES.len(),
            next_use: index / STEPS.len() % USES.len(),
            step: index % STEPS.len(),
        })
    }

    /// What a calibration calls it.
    pub(crate) fn name(self) -> String {
        let part = |parts: &[&str], at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
        [part(&LAYOUTS, self.layout), part(&SIZES, self.size), part(&USES, self.next_use), part(&STEPS, self.step)]
            .join("/")
    }

    /// The method that is used until something was measured.
    fn guess(self, cpu: Cpu) -> Method {
        let total = [1 << 20, 4 << 20, 16 << 20, 64 << 20].get(self.size).copied().unwrap_or(u64::MAX);
        super::guess(cpu, self.layout == 2, self.step == 0, total, !self.reads())
    }
}

/// What was measured of the copies of one guest. Nothing in it is locked, and nothing allocates once it was made.
pub(crate) struct Chooser {
    records: Box<[Record]>,
    unread: UnreadTrials,
    usable: u16,
    streams: u16,
    /// The class of the last copy: the frame that is said to be complete next is one of it, or else of another thread,
    /// which its length shows.
    last: AtomicU64,
}

/// A copy of a class, with what its record needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Copying<'c> {
    chooser: &'c Chooser,
    record: &'c Record,
    class: Class,
    wanted: Wanted,
}

impl Chooser {
    /// Bytes of the records.
    pub(crate) const BYTES: usize = Class::COUNT * size_of::<Record>() + size_of::<UnreadTrials>();

    pub(crate) fn new(cpu: Cpu) -> Self {
        let usable = candidates(cpu).fold(0, |mask, method| mask | 1 << method.number());
        let records = Class::all().map(|class| Record::new(class.guess(cpu).number())).collect();
        let streams = Method::ALL.into_iter().filter(|method| method.streams());
        let streams = streams.fold(0, |mask, method| mask | 1 << method.number());
        Self { records, unread: UnreadTrials::new(), usable, streams, last: AtomicU64::new(0) }
    }

    /// Begins a copy; `None` where it is to be plain.
    pub(crate) fn begin(&self, shape: Shape, hint: CopyHint) -> Option<Copying<'_>> {
        let class = Class::of(shape, hint)?;
        let record = self.records.get(class.index())?;
        self.last.store(class.index() as u64, Relaxed);
        Some(Copying { chooser: self, record, class, wanted: self.wanted(class, hint.total.max(shape.bytes as u64)) })
    }

    fn wanted(&self, class: Class, total: u64) -> Wanted {
        // No frame is larger than 64 MiB; what is called larger is not given more trials for it.
        let frame = total.min(64 << 20);
        Wanted { usable: self.usable, streams: self.streams, left: 0, frame, reads: class.reads(), at: 0 }
    }

    /// A frame is complete in `dst`: reads what was copied there on trial, as the caller is about to. What is too
    /// little for a method is no frame.
    pub(crate) fn frame_done(&self, dst: &[u8], hint: CopyHint) {
        if dst.len() < super::FEW {
            return;
        }
        if hint.next_use != NextUse::Handoff {
            self.read_trials(dst, hint);
        }
        let Some((class, record)) = Class::all().zip(&self.records).nth(self.last.load(Relaxed) as usize) else {
            return;
        };
        let wanted = self.wanted(class, hint.total.max(dst.len() as u64));
        let is_read = class.reads() && record.is_in_contest();
        let begun = is_read.then(Instant::now);
        let read = if is_read { read_spots(dst, wanted.read_in_contest() as usize) } else { 0 };
        record.frame_done(wanted, dst.len() as u64, read as u64, nanoseconds_since(begun));
    }

    fn read_trials(&self, dst: &[u8], hint: CopyHint) {
        let start = dst.as_ptr().addr() as u64;
        // A part begins inside its first page.
        let pages = start >> 12..(start + dst.len() as u64).div_ceil(1 << 12);
        // Each once: what other threads leave meanwhile is not this frame's.
        for _ in 0..UnreadTrials::SLOTS {
            let Some(unread) = self.unread.take(pages.clone()) else { return };
            let Some((class, record)) = Class::all().zip(&self.records).nth(usize::from(unread.class)) else {
                continue;
            };
            let wanted = self.wanted(class, hint.total.max(dst.len() as u64));
            let from = (unread.page << 12).saturating_sub(start) as usize;
            let len = wanted.trial() as usize;
            let part = dst.get(from..).map_or(&[][..], |rest| rest.get(..len).unwrap_or(rest));
            let begun = Some(Instant::now());
            read_once(part);
            let read = nanoseconds_since(begun);
            let bytes = part.len() as u64;
            let step = Step::trial(unread.method, wanted.trial(), unread.reserved);
            record.measured(wanted, step, bytes, u64::from(unread.rate) * bytes / 16_000, read);
        }
    }

    /// What is known of a class, the method in use first.
    pub(crate) fn rates(&self, class: Class) -> [Option<u16>; METHODS] {
        self.record(class).map_or([None; METHODS], |record| record.rates_in_order())
    }

    pub(crate) fn record(&self, class: Class) -> Option<&Record> {
        self.records.get(class.index())
    }
}

impl Copying<'_> {
    /// What to do with the next of `left` bytes, which go to the address `at`.
    pub(crate) fn next(&self, left: usize, at: usize) -> Step {
        self.record.next(Wanted { left: left as u64, at: at as u64, ..self.wanted })
    }

    /// Takes in that a step copied `part`, in so many nanoseconds.
    pub(crate) fn learn(&self, step: Step, part: &[u8], copied: u64) {
        let bytes = part.len() as u64;
        if !step.is_trial || !self.wanted.reads {
            let begun = (step.is_primer && self.wanted.reads).then(Instant::now);
            if begun.is_some() {
                read_once(part);
            }
            return self.record.learn(self.wanted, step, bytes, copied, nanoseconds_since(begun));
        }
        self.record.pass(bytes);
        let unread = Unread {
            page: part.as_ptr().addr() as u64 >> 12,
            class: self.class.index() as u8,
            method: step.method,
            rate: rate(copied, bytes),
            reserved: step.reserved,
        };
        if let Some(gone) = self.chooser.unread.leave(unread)
            && let Some(record) = self.chooser.records.get(usize::from(gone.class))
        {
            record.forgo(gone.reserved);
        }
    }
}

/// Reads about `bytes` of a frame, in spots all over it, and gives how many they were: its end lies in a nearer cache
/// than its start, and what a copy past the caches has just stored last is still on its way to memory.
fn read_spots(frame: &[u8], bytes: usize) -> usize {
    let spot = (bytes / SPOTS).max(1);
    frame.chunks((frame.len() / SPOTS).max(spot)).fold(0, |read, part| {
        let spot = part.get(..spot).unwrap_or(part);
        read_once(spot);
        read + spot.len()
    })
}

/// Nanoseconds since a moment; 0 where nobody looked at the clock.
pub(crate) fn nanoseconds_since(begun: Option<Instant>) -> u64 {
    begun.map_or(0, |begun| u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_an_index_and_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = Class::all().map(Class::name).collect();
        assert_eq!(names.len(), Class::COUNT);
        for (index, class) in Class::all().enumerate() {
            assert_eq!(class.index(), index, "{class:?}");
        }
    }

    #[test]
    fn copies_are_told_apart_by_layout_size_and_use() {
        let name = |pieces, bytes, total, next_use| {
            let shape = Shape { pieces, bytes, in_step: true };
            Class::of(shape, CopyHint::new(total, next_use)).map(Class::name)
        };
        let is = |name: &str| Some(name.to_owned());
        assert_eq!(name(512, 2 << 20, 8 << 20, NextUse::ReadSoon), is("pages/16M/read/in-step"));
        assert_eq!(name(512, 2 << 20, 8 << 20, NextUse::Unknown), is("pages/16M/read/in-step"));
        assert_eq!(name(100, 8 << 20, 8 << 20, NextUse::Handoff), is("fragments/16M/handoff/in-step"));
        assert_eq!(name(1, 33 << 20, 0, NextUse::Handoff), is("runs/more/handoff/in-step"));
        assert_eq!(name(1, 16 << 10, 33 << 20, NextUse::Handoff), None, "too little");
        assert_eq!(name(4096, 1 << 20, 33 << 20, NextUse::Handoff), None, "crumbs");
    }
}
