//! `ExitStatus`, `CreateTime`, `ExitTime`: when a process lives.

use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets, Possible};
use super::sample::zeros;
use super::{MOST_OBEY, WITNESSES};

pub(super) const CREATED: &str = "a date in every process but System, which may have none, and not the same in all";
pub(super) const ENDED: &str = "a date after its creation in each process that ended, 0 in the others";
pub(super) const STATUS: &str = "STILL_ACTIVE in each process that lives and in no other";

/// `STATUS_PENDING`, the exit status of a process that has not ended.
const STILL_ACTIVE: u32 = 0x103;
/// Bytes from `ExitStatus` to `ExitTime` on builds from 8 on; the last is -0xbc, of 8.1 since revision 19962. Before 8
/// the field follows `CreateTime`.
const EXIT_TIME_AFTER_STATUS: [u16; 4] = [0x64, 0x6c, 0x84, 0_u16.wrapping_sub(0xbc)];
/// Bytes from `ExitStatus` to the end of what is looked for: `ExitTime` of Windows 8 is the furthest, at 0x84.
const AFTER_EXIT_STATUS: u64 = 0x90;
/// Times from 2000 to 2057, in units of 100 ns since 1601. Later ones cannot be told from the end of a name, whose last
/// byte is the priority class, mostly 2.
const DATES: core::ops::Range<u64> = 0x01bf_53eb_256d_4000..1 << 57;

fn dates(object: &Object, least: u64) -> Offsets {
    let mut dates = Offsets::NONE;
    let is_date = |value: &u64| DATES.contains(value) && *value >= least;
    object.words().filter(|(_, value)| is_date(value)).for_each(|(offset, _)| dates.insert(offset));
    dates
}

/// Nothing that is looked for lies much further than `ExitStatus` on any build of which the structure is public.
pub(super) fn end_after(exit_status: Field) -> u64 {
    u64::from(exit_status.offset).wrapping_add(AFTER_EXIT_STATUS)
}

/// The aligned words of which the given half (0 or 4) is [`STILL_ACTIVE`].
fn active(object: &Object, half: u16) -> Offsets {
    let mut active = Offsets::NONE;
    for (offset, _) in object.words() {
        if object.half(offset.wrapping_add(half)) == Some(STILL_ACTIVE) {
            active.insert(offset);
        }
    }
    active
}

/// `ExitStatus`. What has ended is known from the header, whose place is the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statuses {
    /// The lower and the upper halves of words.
    halves: [Possible; 2],
    all: u32,
    odd_ones: u32,
}

impl Statuses {
    pub(super) fn new(system: &Object) -> Self {
        let halves = [0, 4].map(|half| {
            let mut possible = Possible::UNKNOWN;
            possible.keep(active(system, half));
            possible
        });
        Self { halves, all: 1, odd_ones: 0 }
    }

    #[inline(never)]
    pub(super) fn see(&mut self, object: &Object) {
        self.all = self.all.wrapping_add(1);
        if object.is_signaled() {
            for (possible, half) in self.halves.iter_mut().zip([0, 4]) {
                possible.rule_out(|offset| object.half(offset.wrapping_add(half)) != Some(STILL_ACTIVE));
            }
            return;
        }
        let found = [0, 4].map(|half| active(object, half));
        let speaks = self.halves.iter().zip(found).any(|(possible, found)| possible.offsets.and(found).count() > 0);
        if !speaks {
            // On its way out: it has a status, and has not ended yet.
            self.odd_ones = self.odd_ones.wrapping_add(1);
            return;
        }
        for (possible, found) in self.halves.iter_mut().zip(found) {
            possible.keep(found);
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        if self.odd_ones.saturating_mul(MOST_OBEY) > self.all {
            return None;
        }
        let [even, odd] = self.halves;
        match (even.offsets.count(), odd.offsets.count()) {
            (1, 0) => even.proven(WITNESSES),
            (0, 1) => odd.proven(WITNESSES).map(|field| Field { offset: field.offset.wrapping_add(4), ..field }),
            _ => None,
        }
    }
}

/// Dates of one object that are compared with those of the others: a process object has one.
const PLACES: usize = 16;

/// `CreateTime`. Server 2003 makes the System process before its clock runs, so that its date may be missing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Created {
    possible: Possible,
    /// The dates of the first process that is not the System process.
    first: [(u16, u64); PLACES],
    /// Where the dates differ: that of the system's start may be in every process, that of its own is not.
    differing: Offsets,
    any: bool,
}

impl Created {
    pub(super) fn new(system: &Object) -> Self {
        let mut possible = Possible::UNKNOWN;
        possible.keep(dates(system, 0).or(zeros(system)));
        Self { possible, first: [(0, 0); PLACES], differing: Offsets::NONE, any: false }
    }

    #[inline(never)]
    pub(super) fn see(&mut self, object: &Object) {
        self.possible.keep(dates(object, 0));
        if !self.any {
            self.any = true;
            for (place, offset) in self.first.iter_mut().zip(self.possible.offsets.iter()) {
                *place = (offset, object.word(offset).unwrap_or_default());
            }
        }
        for (offset, date) in &self.first {
            if object.word(*offset) != Some(*date) {
                self.differing.insert(*offset);
            }
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        let mut possible = self.possible;
        possible.offsets = possible.offsets.and(self.differing);
        possible.proven(WITNESSES)
    }
}

/// `ExitTime`. One process that ended is enough where the field lies as on a known build, in relation to others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    created: Field,
    status: Field,
    times: Possible,
}

impl Ended {
    pub(super) fn new(system: &Object, created: Field, status: Field) -> Self {
        Self { created, status, times: Possible::new(zeros(system)) }
    }

    #[inline(never)]
    pub(super) fn see(&mut self, object: &Object) {
        if !object.is_signaled() && object.half(self.status.offset) != Some(STILL_ACTIVE) {
            // On its way out: either is right.
            return;
        }
        if object.is_signaled() {
            self.times.keep(dates(object, object.word(self.created.offset).unwrap_or(u64::MAX)));
        } else {
            self.times.rule_out(|offset| object.word(offset) == Some(0));
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        let field = self.times.proven(1)?;
        let known = field.offset == self.created.offset.wrapping_add(8)
            || EXIT_TIME_AFTER_STATUS.contains(&field.offset.wrapping_sub(self.status.offset));
        (known || field.witnesses >= WITNESSES).then_some(field)
    }
}
