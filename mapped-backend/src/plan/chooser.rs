//! All classes of copies of one guest, each with its record.

use vgpu_perception::{CopyHint, NextUse};

use super::method::candidates;
use super::record::{Record, Step, Wanted};
use super::{Cpu, Method, Shape};

/// How the pages of a copy lie: the average length of its pieces.
const LAYOUTS: [&str; 3] = ["pages", "fragments", "runs"];
/// How large the frame is.
const SIZES: [&str; 4] = ["1M", "4M", "16M", "more"];
/// What is done with it.
const USES: [&str; 2] = ["read", "handoff"];
/// Whether source and buffer lie alike.
const STEPS: [&str; 2] = ["in-step", "askew"];

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
    usable: u16,
}

/// A copy of a class, with what its record needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Copying<'c> {
    record: &'c Record,
    wanted: Wanted,
}

impl Chooser {
    /// Bytes of the records.
    pub(crate) const BYTES: usize = Class::COUNT * size_of::<Record>();

    pub(crate) fn new(cpu: Cpu) -> Self {
        let usable = candidates(cpu).fold(0, |mask, method| mask | 1 << method.number());
        Self { records: Class::all().map(|class| Record::new(class.guess(cpu).number())).collect(), usable }
    }

    /// Begins a copy; `None` where it is to be plain.
    pub(crate) fn begin(&self, shape: Shape, hint: CopyHint) -> Option<Copying<'_>> {
        let class = Class::of(shape, hint)?;
        let record = self.records.get(class.index())?;
        // No frame is larger than 64 MiB; what is called larger is not given more trials for it.
        let frame = hint.total.max(shape.bytes as u64).min(64 << 20);
        Some(Copying { record, wanted: Wanted { usable: self.usable, left: 0, frame, reads: class.reads(), at: 0 } })
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

    /// Whether what a trial copied has to be read.
    pub(crate) const fn reads(&self) -> bool {
        self.wanted.reads
    }

    /// Takes in how many nanoseconds a step took.
    pub(crate) fn learn(&self, step: Step, bytes: usize, copied: u64, read: u64) {
        self.record.learn(self.wanted, step, bytes as u64, copied, read);
    }
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
