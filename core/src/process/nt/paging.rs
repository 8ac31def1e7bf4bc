//! What absent entries mean in a Windows guest: pages and tables that were trimmed but are still in RAM are found.

use super::memory::word;
use super::pte::{Absent, Prototype, decode, prototype};
use super::vad::{DescriptorShape, Descriptors};
use crate::addr::{Cr3, Gva};
use crate::budget::Budget;
use crate::paging::{
    AddressSpace, Level, NotPresentEntry, NotPresentResolver, PageWalker, PagingMode, Resolution, Resolved, Rights,
    WalkError,
};
use crate::phys::{PhysError, PhysRead};

/// The kernel's own half: trimmed pages of paged pool, and trimmed tables. Nothing in it needs another translation, so that a
/// resolver that reads kernel memory does not call itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelPaging;

impl NotPresentResolver for KernelPaging {
    const LOADS: u64 = 0;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        absent: &NotPresentEntry,
        _lookup: &mut (),
        _cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        Ok(Resolved::for_entry(match decode(absent.entry) {
            Absent::Transition(page) => match page.frame(mem) {
                Some(frame) if absent.level == Level::Pt => {
                    Resolution::Page { gpa: frame, rights: Some(Rights { user: false, ..page.rights() }) }
                }
                Some(frame) => Resolution::Table(frame),
                None => Resolution::NotResident,
            },
            Absent::Descriptor => Resolution::NotMapped,
            Absent::Prototype(..) | Absent::NotResident => Resolution::NotResident,
        }))
    }
}

/// Where the address descriptors of one process are, and how to tell that the process is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) eprocess: Gva,
    /// Offset and value of the field that names its tables.
    pub(super) table: (u16, u64),
    pub(super) root: (u16, DescriptorShape),
}

/// The meaning of absent entries in the address space of one Windows process.
///
/// * A page **in transition** was trimmed and still lies in RAM: its entry says where. So does the entry of a trimmed table.
/// * A **shared** page that was trimmed, or that the process never touched, is known to the section: the entry, or the
///   process's address descriptor, leads to a prototype, and the prototype to the page.
/// * Everything else that Windows keeps track of (page file, compressed store, never made) is
///   [`Resolution::NotResident`], what it knows nothing of is [`Resolution::NotMapped`].
///
/// On machines with the L1TF mitigation an address in an absent entry can carry one more bit. A prototype's address that can
/// be read both ways is taken as the address descriptor has it, and is `NotResident` where that cannot decide.
///
/// Holds no translation: kernel tables, descriptors and prototypes are read anew every time, and a process object that was
/// reused since is noticed. [`Default`] knows nothing of a kernel, and finds only what entries say by themselves.
///
/// # Bound
/// At most 2^13 loads for an entry: a walk of the kernel's tables for each word that is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NtPaging {
    kernel: Cr3,
    mode: PagingMode,
    phys_bits: u32,
    may_swizzle: bool,
    owner: Option<Owner>,
}

impl NtPaging {
    /// Pages of any process of the kernel at `kernel`; address descriptors are not known.
    pub(super) const fn new(kernel: &AddressSpace<KernelPaging>, may_swizzle: bool) -> Self {
        Self { kernel: kernel.root, mode: kernel.mode, phys_bits: kernel.phys_bits, may_swizzle, owner: None }
    }

    pub(super) const fn of(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// Whether the address descriptors of the process are known: pages that it never touched itself are then found too.
    #[must_use]
    pub const fn knows_descriptors(&self) -> bool {
        self.owner.is_some()
    }

    fn walker<'m, M: PhysRead>(&self, mem: &'m M) -> PageWalker<&'m M, KernelPaging> {
        let space = AddressSpace::new(self.kernel).with_mode(self.mode).with_phys_bits(self.phys_bits);
        PageWalker::new(mem, space.with_resolver(KernelPaging))
    }

    /// The prototype that the process's address descriptor names.
    fn described<M: PhysRead>(&self, mem: &M, gva: Gva) -> Result<Option<Gva>, WalkError> {
        let Some(owner) = self.owner else { return Ok(None) };
        let walker = self.walker(mem);
        let (table_at, table) = owner.table;
        if word(&walker, owner.eprocess.wrapping_add(table_at.into()))? != table {
            return Ok(None);
        }
        let (root_at, shape) = owner.root;
        Descriptors { field: owner.eprocess.wrapping_add(root_at.into()), shape }.prototype(&walker, gva)
    }

    fn follow<M: PhysRead>(&self, mem: &M, at: Gva) -> Result<Resolution, WalkError> {
        // What no processor uses says nothing of rights; the process's own view does, where it has the page.
        let rights = Rights { user: true, writable: true, executable: false };
        Ok(match prototype(word(&self.walker(mem), at)?) {
            Prototype::Valid(frame) => Resolution::Page { gpa: frame, rights: Some(rights) },
            Prototype::Transition(page) => match page.frame(mem) {
                Some(frame) => Resolution::Page { gpa: frame, rights: Some(page.rights()) },
                None => Resolution::NotResident,
            },
            Prototype::NotResident => Resolution::NotResident,
        })
    }

    fn meaning<M: PhysRead>(&self, mem: &M, absent: &NotPresentEntry) -> Result<Resolution, WalkError> {
        match decode(absent.entry) {
            Absent::Transition(page) => Ok(match page.frame(mem) {
                Some(frame) if absent.level == Level::Pt => {
                    Resolution::Page { gpa: frame, rights: Some(page.rights()) }
                }
                Some(frame) => Resolution::Table(frame),
                None => Resolution::NotResident,
            }),
            Absent::NotResident if absent.level == Level::Pt => Ok(Resolution::NotResident),
            // A table that was written out, or never made: what it would say, the descriptor says as well.
            Absent::Descriptor | Absent::NotResident => match self.described(mem, absent.gva)? {
                Some(at) => self.follow(mem, at),
                None if absent.entry == 0 => Ok(Resolution::NotMapped),
                None => Ok(Resolution::NotResident),
            },
            // Only page tables hold these.
            Absent::Prototype(..) if absent.level != Level::Pt => Ok(Resolution::NotResident),
            Absent::Prototype(at, Some(plain)) if self.may_swizzle => match self.described(mem, absent.gva)? {
                Some(expected) if expected == at || expected == plain => self.follow(mem, expected),
                _ => Ok(Resolution::NotResident),
            },
            Absent::Prototype(at, _) => self.follow(mem, at),
        }
    }
}

impl NotPresentResolver for NtPaging {
    const LOADS: u64 = 1 << 13;
    type Lookup = ();

    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        absent: &NotPresentEntry,
        lookup: &mut (),
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        if self.phys_bits == 0 || absent.gva >= self.mode.user_end() {
            return KernelPaging.resolve(mem, absent, lookup, cost);
        }
        let resolution = match self.meaning(mem, absent) {
            Ok(meaning) => meaning,
            Err(WalkError::Table { error, .. } | WalkError::Page { error, .. }) => return Err(error),
            // What should lead to the page is itself not in RAM, or no pointer.
            Err(_) => Resolution::NotResident,
        };
        Ok(Resolved::for_page(absent.gva, resolution))
    }
}
