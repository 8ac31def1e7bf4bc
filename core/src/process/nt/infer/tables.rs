//! `DirectoryTableBase`: the root of a process's tables.

use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets, Possible};
use super::WITNESSES;
use super::sample::Sample;
use crate::addr::Cr3;
use crate::phys::PhysRead;

pub(super) const RULE: &str = "names a top table with the kernel half of the System process";

/// `KPROCESS` starts with what names its tables: known builds have `DirectoryTableBase` at 0x28.
const END: u16 = 0x100;

/// Where each process names a table of its own with this kernel's half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables(Possible);

impl Tables {
    #[inline(never)]
    pub(super) fn new<M: PhysRead>(sample: &Sample<'_, '_, M>) -> Self {
        let mut possible = Offsets::NONE;
        for (offset, value) in sample.system.words().take_while(|(offset, _)| *offset < END) {
            if sample.table(value).is_some() {
                possible.insert(offset);
            }
        }
        let mut tables = Possible::UNKNOWN;
        tables.keep(possible);
        Self(tables)
    }

    #[inline(never)]
    pub(super) fn see<M: PhysRead>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        let mut passed = Offsets::NONE;
        for offset in self.0.offsets.iter() {
            let own = object.word(offset).and_then(|value| sample.table(value));
            let of_system = sample.system.word(offset).map(|value| Cr3::new(value).table());
            if own.is_some() && own != of_system {
                passed.insert(offset);
            }
        }
        // Some software overwrites the field of the processes that it guards.
        if passed.count() > 0 {
            self.0.keep(passed);
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        self.0.proven(WITNESSES)
    }
}
