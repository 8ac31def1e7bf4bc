//! What the rules see of the guest, besides the object that they judge.

use super::super::charged::Charged;
use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets};
use super::super::paging::{KernelPaging, NtPaging};
use crate::addr::{Cr3, Gpa};
use crate::paging::PageWalker;
use crate::phys::PhysRead;
use crate::process::kernel_half::shares_kernel_half;

/// The kernel that objects are read through, and its System process.
pub(super) struct Sample<'s, 'm, M> {
    pub(super) walker: PageWalker<&'s Charged<'m, M>, KernelPaging>,
    pub(super) may_swizzle: bool,
    pub(super) system: &'s Object,
    pub(super) links: Field,
}

impl<'s, 'm, M: PhysRead> Sample<'s, 'm, M> {
    pub(super) fn mem(&self) -> &'s Charged<'m, M> {
        self.walker.mem()
    }

    /// The table that `value` names, where it shares the kernel half that everything is read through.
    pub(super) fn table(&self, value: u64) -> Option<Gpa> {
        let space = self.walker.space();
        let table = Cr3::new(value).table();
        // Bits between the address and 63 are no part of a `CR3`.
        let plain = value >> 52 & 0x7ff == 0 && table.get() != 0 && self.mem().holds_data(table);
        (plain && shares_kernel_half(self.mem(), space.root.table(), table, space.phys_bits)).then_some(table)
    }

    /// A walker of a process's user half; `None` where its table field holds none.
    pub(super) fn user(&self, object: &Object, table: Field) -> Option<PageWalker<&'s Charged<'m, M>, NtPaging>> {
        let own = self.table(object.word(table.offset)?)?;
        let space = self.walker.space();
        let paging = NtPaging::new(space, self.may_swizzle);
        Some(PageWalker::new(self.mem(), space.at_root(Cr3::new(own.get())).with_resolver(paging)))
    }
}

/// The words of an object that are zero.
pub(super) fn zeros(object: &Object) -> Offsets {
    let mut zeros = Offsets::NONE;
    object.words().filter(|(_, value)| *value == 0).for_each(|(offset, _)| zeros.insert(offset));
    zeros
}
