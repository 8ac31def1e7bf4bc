//! `Peb`, `SectionBaseAddress` and `InheritedFromUniqueProcessId`: what program a process runs, and who started it.

use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets, Possible};
use super::super::memory::word;
use super::links::is_pid;
use super::sample::{Sample, zeros};
use super::{MOST_OBEY, SAMPLE, SYSTEM_PID, WITNESSES};
use crate::addr::{Gva, PAGE_BYTES};
use crate::phys::PhysRead;

pub(super) const BLOCK: &str = "a user page whose ImageBaseAddress is the process's SectionBaseAddress";
pub(super) const SECTION: &str = "a user page that starts an image, and what the environment block names";
pub(super) const PARENT: &str = "0 in the System process, the number of a listed process in others";

/// `PEB.ImageBaseAddress`.
const IMAGE_BASE_IN_PEB: u64 = 0x10;
/// What `InheritedFromUniqueProcessId` lies behind `SectionBaseAddress`, on all builds of which the structure is
/// public.
const PARENT_AFTER_SECTION: u16 = 0x20;

/// The environment block names the image that the process object names too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Environment {
    table: Field,
    pebs: Possible,
    sections: Possible,
}

impl Environment {
    pub(super) fn new(system: &Object, table: Field) -> Self {
        let none = Possible::new(zeros(system));
        Self { table, pebs: none, sections: none }
    }

    #[inline(never)]
    pub(super) fn see<M: PhysRead>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        let Some(walker) = sample.user(object, self.table) else { return };
        let user_end = walker.space().mode.user_end().get();
        let (mut peb_at, mut section_at) = (Offsets::NONE, Offsets::NONE);
        for (offset, value) in object.words() {
            if !value.is_multiple_of(PAGE_BYTES) || !(0x1_0000..user_end).contains(&value) {
                continue;
            }
            let Ok(base) = word(&walker, Gva::new(value.wrapping_add(IMAGE_BASE_IN_PEB))) else { continue };
            if !base.is_multiple_of(0x1_0000) || !(0x1_0000..user_end).contains(&base) {
                continue;
            }
            if !word(&walker, Gva::new(base)).is_ok_and(|start| start & 0xffff == 0x5a4d) {
                continue;
            }
            for (other, _) in object.words().filter(|(_, value)| *value == base) {
                peb_at.insert(offset);
                section_at.insert(other);
            }
        }
        if peb_at.count() > 0 {
            self.pebs.keep(peb_at);
            self.sections.keep(section_at);
        }
    }

    pub(super) fn fields(&self) -> Option<(Field, Field)> {
        self.pebs.proven(WITNESSES).zip(self.sections.proven(WITNESSES))
    }
}

/// The numbers of the sample, for the parents that name them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pids: [u64; SAMPLE as usize],
    count: usize,
}

impl Numbers {
    pub(super) const fn new() -> Self {
        let mut pids = [0; SAMPLE as usize];
        pids[0] = SYSTEM_PID;
        Self { pids, count: 1 }
    }

    pub(super) fn see<M>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        let pid = sample.links.offset.checked_sub(8).and_then(|at| object.word(at));
        // The sample has no more than fit.
        if let (Some(pid), Some(place)) = (pid, self.pids.get_mut(self.count)) {
            *place = pid;
            self.count = self.count.wrapping_add(1);
        }
    }

    /// The rule for parents; `None` where the place behind `SectionBaseAddress` cannot be it.
    pub(super) fn parents(self, system: &Object, section_base: Field) -> Option<Parents> {
        let offset = section_base.offset.checked_add(PARENT_AFTER_SECTION)?;
        let sound = system.word(offset) == Some(0);
        sound.then_some(Parents { numbers: self, offset, listed: 0, all: 1, odd_ones: 0 })
    }
}

/// `InheritedFromUniqueProcessId`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parents {
    numbers: Numbers,
    offset: u16,
    listed: u16,
    all: u32,
    odd_ones: u32,
}

impl Parents {
    pub(super) fn see<M>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        self.all = self.all.wrapping_add(1);
        let pid = sample.links.offset.checked_sub(8).and_then(|at| object.word(at));
        match object.word(self.offset) {
            Some(parent) if is_pid(parent) && pid != Some(parent) => {
                let known = self.numbers.pids.get(..self.numbers.count).unwrap_or_default();
                self.listed = self.listed.saturating_add(u16::from(known.contains(&parent)));
            }
            _ => self.odd_ones = self.odd_ones.wrapping_add(1),
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        let sound = self.odd_ones.saturating_mul(MOST_OBEY) <= self.all;
        (sound && self.listed >= WITNESSES).then_some(Field { offset: self.offset, witnesses: self.listed })
    }
}
