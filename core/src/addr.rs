//! Addresses that a guest uses, each its own type: a [`Gva`] is never taken for a [`Gpa`].
//!
//! All of them are *claims*: a value of these types says what kind of number it is, not that something is there.

use core::fmt;

/// Log2 of the smallest x86-64 page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in the smallest x86-64 page.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// The page sizes of 4-level and 5-level paging (Intel SDM vol. 3A, 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, mapped by a PTE.
    Size4K,
    /// 2 MiB, mapped by a PDE with PS set.
    Size2M,
    /// 1 GiB, mapped by a PDPTE with PS set.
    Size1G,
}

impl PageSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => PAGE_BYTES,
            Self::Size2M => 1 << 21,
            Self::Size1G => 1 << 30,
        }
    }

    /// The bits of an address that lie inside a page of this size.
    #[must_use]
    pub const fn offset_mask(self) -> u64 {
        match self {
            Self::Size4K => 0xfff,
            Self::Size2M => 0x1f_ffff,
            Self::Size1G => 0x3fff_ffff,
        }
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Takes the raw number; any value is accepted, since an address is only a claim.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` where that leaves 64 bits.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The address `bytes` further on, modulo 2^64: for offsets that are known to stay inside one page.
            #[must_use]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// The start of the page of `size` that holds this address.
            #[must_use]
            pub const fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !size.offset_mask())
            }

            /// How far into its page of `size` this address lies.
            #[must_use]
            pub const fn offset_in(self, size: PageSize) -> u64 {
                self.0 & size.offset_mask()
            }

            /// Whether this is a multiple of `size`.
            #[must_use]
            pub const fn is_aligned(self, size: PageSize) -> bool {
                self.offset_in(size) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// A guest physical address: what an entry of a page table or `CR3` names.
    Gpa
}

address! {
    /// A guest virtual address, meaningful only together with an address space.
    Gva
}

impl Gva {
    /// Whether the address is canonical for `bits` of linear address (48 or 57): the bits above are copies of the
    /// highest translated one (Intel SDM vol. 1, 3.3.7.1).
    #[must_use]
    pub const fn is_canonical(self, bits: u32) -> bool {
        let unused = 64_u32.saturating_sub(bits);
        let shifted = self.0.wrapping_shl(unused);
        #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "sign extension is the point")]
        let extended = ((shifted as i64).wrapping_shr(unused)) as u64;
        extended == self.0
    }

    /// Whether a canonical address is in the kernel half: its top bit says so, with four levels and with five.
    pub(crate) const fn is_in_kernel_half(self) -> bool {
        self.0 >> 63 == 1
    }

    /// How far into the top table of 4-level paging the entry for this address lies; `None` where it is not canonical
    /// there. Both from the top bits alone, which takes a walk two steps less than asking for one after the other.
    #[inline(always)]
    pub(crate) const fn pml4_offset(self) -> Option<u64> {
        let top = (self.0.cast_signed() >> 36).cast_unsigned();
        if top.wrapping_add(0x800) < 0x1000 { Some(top & 0xff8) } else { None }
    }
}

/// A value of the `CR3` register, or of a field that an operating system keeps for it.
///
/// Bits 12..=51 name the top table. The low twelve bits (PCID, or PWT and PCD), bit 63 (do not flush) and the LAM bits
/// 61 and 62 are accepted and ignored (Intel SDM vol. 3A, 4.5.2 and 2.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cr3(u64);

impl Cr3 {
    /// Takes the raw register value.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw register value, flag bits included.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Where the top table lies.
    #[must_use]
    pub const fn table(self) -> Gpa {
        Gpa::new(self.0 & 0x000f_ffff_ffff_f000)
    }
}

impl fmt::Display for Cr3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Cr3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cr3({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_means_sign_extended() {
        assert!(Gva::new(0x0000_7fff_ffff_ffff).is_canonical(48));
        assert!(!Gva::new(0x0000_8000_0000_0000).is_canonical(48));
        assert!(Gva::new(0xffff_8000_0000_0000).is_canonical(48));
        assert!(Gva::new(0x0000_8000_0000_0000).is_canonical(57));
        assert!(!Gva::new(0x0100_0000_0000_0000).is_canonical(57));
        assert!(Gva::new(0xff00_0000_0000_0000).is_canonical(57));
    }

    #[test]
    fn the_offset_in_the_top_table_is_there_for_canonical_addresses() {
        for raw in [0, 0x0000_7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX, 0x0000_5555_5555_5000] {
            assert_eq!(Gva::new(raw).pml4_offset(), Some(((raw >> 39) & 511) * 8), "{raw:#x}");
        }
        for raw in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x0001_0000_0000_0000, 1 << 63] {
            assert_eq!(Gva::new(raw).pml4_offset(), None, "{raw:#x}");
        }
    }

    #[test]
    fn cr3_ignores_its_flags() {
        assert_eq!(Cr3::new(0x8000_0000_001a_a002).table(), Gpa::new(0x1a_a000));
        assert_eq!(Cr3::new(0x6000_0012_3456_7fff).table(), Gpa::new(0x12_3456_7000));
    }
}
