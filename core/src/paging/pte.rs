//! One entry of a page table. Intel SDM vol. 3A, tables 4-14 to 4-20.

use core::fmt;

use super::level::Level;
use super::rights::Rights;
use crate::addr::{Gpa, PageSize};

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

    /// Whether the entry could stand in a table of `level`: it is absent, or sets no reserved bit.
    pub(crate) const fn fits(self, level: Level, phys_bits: u32) -> bool {
        !self.is_present() || self.reserved_bits(level, phys_bits) == 0
    }

    /// The address bits that a processor with `phys_bits` of physical address does not have.
    pub(super) const fn beyond(phys_bits: u32) -> u64 {
        let shift = if phys_bits < 63 { phys_bits } else { 63 };
        Self::ADDRESS & !(1_u64.wrapping_shl(shift).wrapping_sub(1))
    }

    /// As [`reserved_bits`](Self::reserved_bits), for a walk that asks [`beyond`](Self::beyond) once.
    #[inline(always)]
    pub(super) const fn reserved_bits_beyond(self, level: Level, high: u64) -> u64 {
        self.0 & self.reserved_beyond(level, high)
    }

    /// The bits that are reserved in such an entry, set or not.
    #[inline(always)]
    pub(super) const fn reserved_beyond(self, level: Level, high: u64) -> u64 {
        let low = match level {
            Level::Pt => 0,
            // Bit 12 is PAT; the bits between it and the page's size must be zero.
            Level::Pd if self.0 & Self::PAGE != 0 => PageSize::Size2M.offset_mask() & !0x1fff,
            Level::Pdpt if self.0 & Self::PAGE != 0 => PageSize::Size1G.offset_mask() & !0x1fff,
            Level::Pd | Level::Pdpt => 0,
            Level::Pml4 | Level::Pml5 => Self::PAGE,
        };
        high | low
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
