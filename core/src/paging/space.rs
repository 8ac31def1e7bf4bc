//! A guest's address space, and where an address of it leads.

use super::level::PagingMode;
use super::not_present::Hardware;
use super::rights::Rights;
use crate::addr::{Cr3, Gpa, Gva, PageSize};

/// A guest address space: its root, how its tables are read, and what its absent entries mean. A small plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace<R = Hardware> {
    /// The root.
    pub root: Cr3,
    /// How many levels there are.
    pub mode: PagingMode,
    /// Physical address bits of the guest's processor: entries with higher ones are refused. 52 accepts all.
    pub phys_bits: u32,
    /// What absent entries mean.
    pub resolver: R,
}

impl AddressSpace<Hardware> {
    /// The space at `root` with 4-level tables and the processor's view of absent entries.
    #[must_use]
    pub const fn new(root: Cr3) -> Self {
        Self { root, mode: PagingMode::FourLevel, phys_bits: 52, resolver: Hardware }
    }
}

impl<R> AddressSpace<R> {
    /// The same space with `mode` levels.
    #[must_use]
    pub fn with_mode(self, mode: PagingMode) -> Self {
        Self { mode, ..self }
    }

    /// The same space on a processor with `phys_bits` (32 to 52) of physical address.
    #[must_use]
    pub fn with_phys_bits(self, phys_bits: u32) -> Self {
        Self { phys_bits, ..self }
    }

    /// The same tables, with another meaning of absent entries.
    #[must_use]
    pub fn with_resolver<Q>(self, resolver: Q) -> AddressSpace<Q> {
        AddressSpace { root: self.root, mode: self.mode, phys_bits: self.phys_bits, resolver }
    }

    /// Where the first entry for `gva` lies, in tables of four levels; `None` in others, and where `gva` is not
    /// canonical.
    #[inline(always)]
    pub(super) fn first_entry(&self, gva: Gva) -> Option<Gpa> {
        match self.mode {
            PagingMode::FourLevel => gva.pml4_offset().map(|offset| self.root.table().wrapping_add(offset)),
            PagingMode::FiveLevel => None,
        }
    }

    /// The same kind of space at another root.
    #[must_use]
    pub fn at_root(self, root: Cr3) -> Self {
        Self { root, ..self }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Translation {
    /// The physical address, offset in the page included.
    pub gpa: Gpa,
    /// The size of the page that holds it.
    pub size: PageSize,
    /// What the walk grants.
    pub rights: Rights,
    /// Whether the processor would have found the page.
    pub residence: Residence,
}

impl Translation {
    /// Bytes from the address to the end of its page.
    #[must_use]
    pub const fn bytes_left(&self) -> u64 {
        self.size.bytes().wrapping_sub(self.gpa.offset_in(self.size))
    }
}

/// How a page was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Residence {
    /// By present entries alone.
    Present,
    /// Through an entry without P: the operating system trimmed the page (or its table), but it is still in RAM.
    Trimmed,
}
