//! One entry of a page table, and what it grants. Intel SDM vol. 3A, tables 4-14 to 4-20.

use core::fmt;

use crate::addr::{Gpa, Gva, PageSize};

/// How many levels the guest's tables have: bit 12 of its `CR4` (LA57).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PagingMode {
    /// 4-level paging, 48-bit addresses.
    #[default]
    FourLevel,
    /// 5-level paging (LA57), 57-bit addresses.
    FiveLevel,
}

impl PagingMode {
    /// Bits of a linear address that are translated.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        match self {
            Self::FourLevel => 48,
            Self::FiveLevel => 57,
        }
    }

    /// The level of the table that `CR3` names.
    #[must_use]
    pub const fn top(self) -> Level {
        match self {
            Self::FourLevel => Level::Pml4,
            Self::FiveLevel => Level::Pml5,
        }
    }

    /// The first address after the user half.
    #[must_use]
    pub const fn user_end(self) -> Gva {
        match self {
            Self::FourLevel => Gva::new(1 << 47),
            Self::FiveLevel => Gva::new(1 << 56),
        }
    }

    /// The mode that bit 12 of a `CR4` value selects.
    #[must_use]
    pub const fn from_cr4(cr4: u64) -> Self {
        if cr4 & (1 << 12) == 0 { Self::FourLevel } else { Self::FiveLevel }
    }
}

/// A level of the table tree, by the name of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Page table: 4 KiB an entry.
    Pt = 1,
    /// Page directory: 2 MiB an entry.
    Pd = 2,
    /// Page directory pointer table: 1 GiB an entry.
    Pdpt = 3,
    /// Page map level 4: 512 GiB an entry.
    Pml4 = 4,
    /// Page map level 5: 256 TiB an entry.
    Pml5 = 5,
}

impl Level {
    /// Log2 of the bytes that one entry of this level spans.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Pt => 12,
            Self::Pd => 21,
            Self::Pdpt => 30,
            Self::Pml4 => 39,
            Self::Pml5 => 48,
        }
    }

    /// Bytes that one entry of this level spans.
    #[must_use]
    pub const fn span(self) -> u64 {
        1 << self.shift()
    }

    /// The level below, or `None` at the page table.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Pt => None,
            Self::Pd => Some(Self::Pt),
            Self::Pdpt => Some(Self::Pd),
            Self::Pml4 => Some(Self::Pdpt),
            Self::Pml5 => Some(Self::Pml4),
        }
    }

    /// Which of the 512 entries of a table of this level translates `gva`.
    #[must_use]
    pub const fn index(self, gva: Gva) -> u64 {
        (gva.get() >> self.shift()) & 0x1ff
    }

    /// Where the entry that translates `gva` lies in the table of this level at `table`.
    #[inline(always)]
    pub(super) const fn entry_in(self, table: Gpa, gva: Gva) -> Gpa {
        table.wrapping_add(self.index(gva).wrapping_mul(8))
    }

    /// The size of a page that an entry of this level can map by itself.
    #[must_use]
    pub const fn page_size(self) -> Option<PageSize> {
        match self {
            Self::Pt => Some(PageSize::Size4K),
            Self::Pd => Some(PageSize::Size2M),
            Self::Pdpt => Some(PageSize::Size1G),
            Self::Pml4 | Self::Pml5 => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pt => "PTE",
            Self::Pd => "PDE",
            Self::Pdpt => "PDPTE",
            Self::Pml4 => "PML4E",
            Self::Pml5 => "PML5E",
        })
    }
}

/// What an access needs or a translation grants: the AND over all levels of the walk (Intel SDM vol. 3A, 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// User mode may access the page.
    pub user: bool,
    /// Writes are allowed.
    pub writable: bool,
    /// Instructions may be fetched.
    pub executable: bool,
}

impl Rights {
    /// Everything: where a walk starts.
    pub const ALL: Self = Self { user: true, writable: true, executable: true };
    /// Nothing: what an access needs that needs no right.
    pub const NONE: Self = Self { user: false, writable: false, executable: false };
    /// User access.
    pub const USER: Self = Self { user: true, ..Self::NONE };
    /// User access for writing.
    pub const USER_WRITE: Self = Self { user: true, writable: true, executable: false };

    /// What both grant.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            user: self.user & other.user,
            writable: self.writable & other.writable,
            executable: self.executable & other.executable,
        }
    }

    /// Whether these grant everything that `need` names.
    #[must_use]
    pub const fn grant(self, need: Self) -> bool {
        (self.user | !need.user) & (self.writable | !need.writable) & (self.executable | !need.executable)
    }
}

/// What a walk has met on its way down, as bits: [`Rights`] are made of it once, at the end.
#[derive(Clone, Copy)]
pub(super) struct Grants {
    /// The AND of the entries: U/S and R/W grant where every level sets them.
    all: u64,
    /// The OR of the entries: XD denies where any level sets it.
    any: u64,
}

impl Grants {
    /// Before the first entry.
    pub(super) const START: Self = Self { all: u64::MAX, any: 0 };

    #[inline(always)]
    pub(super) const fn and(self, entry: Pte) -> Self {
        Self { all: self.all & entry.0, any: self.any | entry.0 }
    }

    /// Whether every entry was present.
    #[inline(always)]
    pub(super) const fn present(self) -> bool {
        self.all & Pte::PRESENT != 0
    }

    /// Which of `bits` any entry set.
    #[inline(always)]
    pub(super) const fn any_of(self, bits: u64) -> u64 {
        self.any & bits
    }

    /// Whether these grant everything that `need` names.
    #[inline(always)]
    pub(super) const fn meet(self, need: Need) -> bool {
        (need.set & !self.all) | (need.clear & self.any) == 0
    }

    /// Whether every entry sets what `need` wants set.
    #[inline(always)]
    pub(super) const fn all_set(self, need: Need) -> bool {
        need.set & !self.all == 0
    }

    #[inline(always)]
    pub(super) const fn rights(self) -> Rights {
        Rights {
            user: self.all & Pte::USER != 0,
            writable: self.all & Pte::WRITABLE != 0,
            executable: self.any & Pte::NO_EXECUTE == 0,
        }
    }
}

/// The rights that an access needs, and the bits that say so: those that every entry sets, and that none may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) rights: Rights,
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Need {
    pub(super) const fn of(rights: Rights) -> Self {
        let user = if rights.user { Pte::USER } else { 0 };
        let writable = if rights.writable { Pte::WRITABLE } else { 0 };
        let clear = if rights.executable { Pte::NO_EXECUTE } else { 0 };
        Self { rights, set: user | writable, clear }
    }
}

/// An entry of a table of any level, as it was read: judged only by the methods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pte(u64);

impl Pte {
    /// P.
    pub const PRESENT: u64 = 1;
    /// R/W.
    pub const WRITABLE: u64 = 1 << 1;
    /// U/S.
    pub const USER: u64 = 1 << 2;
    /// A.
    pub const ACCESSED: u64 = 1 << 5;
    /// D.
    pub const DIRTY: u64 = 1 << 6;
    /// PS: this entry of a PD or PDPT maps a page. In a PTE the same bit is PAT.
    pub const PAGE: u64 = 1 << 7;
    /// XD.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// Bits 12..=51: where an address can be.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Takes the raw entry.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw entry.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether the processor would use this entry.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether the entry, read from a table of `level`, maps a page itself.
    #[must_use]
    pub const fn is_leaf(self, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd | Level::Pdpt => self.0 & Self::PAGE != 0,
            Level::Pml4 | Level::Pml5 => false,
        }
    }

    /// The next table, for an entry that is no leaf.
    #[must_use]
    pub const fn table(self) -> Gpa {
        Gpa::new(self.0 & Self::ADDRESS)
    }

    /// The page, for a leaf that maps `size`: PAT (bit 12 of large pages) is not part of the address.
    #[must_use]
    pub const fn frame(self, size: PageSize) -> Gpa {
        Gpa::new(self.0 & Self::ADDRESS & !size.offset_mask())
    }

    /// What this entry alone grants.
    #[must_use]
    pub const fn rights(self) -> Rights {
        Rights {
            user: self.0 & Self::USER != 0,
            writable: self.0 & Self::WRITABLE != 0,
            executable: self.0 & Self::NO_EXECUTE == 0,
        }
    }

    /// Reserved bits that are set in a present entry of `level`, on a processor with `phys_bits` of physical address:
    /// a processor faults on any (Intel SDM vol. 3A, 4.7). Software bits, protection keys and XD are not among them.
    #[must_use]
    pub const fn reserved_bits(self, level: Level, phys_bits: u32) -> u64 {
        self.reserved_bits_beyond(level, Self::beyond(phys_bits))
    }

    /// The address bits that a processor with `phys_bits` of physical address does not have.
    pub(super) const fn beyond(phys_bits: u32) -> u64 {
        let shift = if phys_bits < 63 { phys_bits } else { 63 };
        Self::ADDRESS & !(1_u64.wrapping_shl(shift).wrapping_sub(1))
    }

    /// As [`reserved_bits`](Self::reserved_bits), for a walk that asks [`beyond`](Self::beyond) once.
    #[inline(always)]
    pub(super) const fn reserved_bits_beyond(self, level: Level, high: u64) -> u64 {
        let low = match level {
            Level::Pt => 0,
            // Bit 12 is PAT; the bits between it and the page's size must be zero.
            Level::Pd if self.0 & Self::PAGE != 0 => PageSize::Size2M.offset_mask() & !0x1fff,
            Level::Pdpt if self.0 & Self::PAGE != 0 => PageSize::Size1G.offset_mask() & !0x1fff,
            Level::Pd | Level::Pdpt => 0,
            Level::Pml4 | Level::Pml5 => Self::PAGE,
        };
        self.0 & (high | low)
    }

    /// Whether `later`, read from the same place, translates as this does: what the processor sets by itself (A, D) is
    /// left out. Entries that are not present are compared whole.
    #[must_use]
    pub const fn same_mapping(self, later: Self) -> bool {
        let ignored = if self.is_present() { Self::ACCESSED | Self::DIRTY } else { 0 };
        (self.0 ^ later.0) & !ignored == 0
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#018x})", self.0)
    }
}

impl fmt::Display for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pat_and_software_bits_are_no_address() {
        let large = Pte::new(0x7ff0_0000_4020_1fe7);
        assert_eq!(large.frame(PageSize::Size2M), Gpa::new(0x4020_0000));
        assert_eq!(large.reserved_bits(Level::Pd, 52), 0);
        let small = Pte::new(0x8000_0000_0020_1fe7);
        assert_eq!(small.frame(PageSize::Size4K), Gpa::new(0x20_1000));
    }

    #[test]
    fn reserved_bits_are_found_at_each_level() {
        assert_eq!(Pte::new(0x87).reserved_bits(Level::Pml4, 52), 0x80);
        assert_eq!(Pte::new(0x87).reserved_bits(Level::Pml5, 52), 0x80);
        assert_eq!(Pte::new(0x2087).reserved_bits(Level::Pd, 52), 0x2000);
        assert_eq!(Pte::new(0x2007).reserved_bits(Level::Pd, 52), 0);
        assert_eq!(Pte::new(0x2000_0087).reserved_bits(Level::Pdpt, 52), 0x2000_0000);
        assert_eq!(Pte::new(0x0001_0000_0000_0007).reserved_bits(Level::Pt, 40), 1 << 48);
        assert_eq!(Pte::new(0x0001_0000_0000_0007).reserved_bits(Level::Pt, 52), 0);
    }

    #[test]
    fn only_accessed_and_dirty_may_differ() {
        let entry = Pte::new(0x1007);
        assert!(entry.same_mapping(Pte::new(0x1067)));
        assert!(!entry.same_mapping(Pte::new(0x2007)));
        assert!(!Pte::new(0x1006).same_mapping(Pte::new(0x1026)));
    }
}
