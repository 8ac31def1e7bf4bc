//! The levels of a guest's tables: how many there are, and what an entry of each spans.

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
