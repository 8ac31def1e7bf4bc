//! Entries without P, as the Windows memory manager writes them.

use vgpu_perception::{Gpa, Gva};

use super::layout::PteFormat;

/// The bit that Intel machines with the L1TF mitigation turn on in absent entries: it leads past the end of RAM.
pub const SWIZZLE_MASK: u64 = 1 << 45;
/// `MM_READWRITE`.
const READ_WRITE: u64 = 4;
const PROTOTYPE: u64 = 1 << 10;
const TRANSITION: u64 = 1 << 11;

/// How one guest encodes absent entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PteCodec {
    /// The build's format.
    pub format: PteFormat,
    /// The mitigation is on; only [`PteFormat::New`] knows it.
    pub l1tf: bool,
}

impl PteCodec {
    fn swizzled(self, entry: u64) -> u64 {
        if !self.l1tf || self.format == PteFormat::Old {
            entry
        } else if entry & SWIZZLE_MASK == 0 {
            entry | SWIZZLE_MASK
        } else {
            // The bit is on by itself: bit 4 says so.
            entry | 1 << 4
        }
    }

    const fn protection(self) -> u64 {
        match self.format {
            PteFormat::Old => READ_WRITE << 11,
            PteFormat::New => READ_WRITE << 5,
        }
    }

    /// The page at `frame` is in transition: trimmed, still in RAM. The same form at any level.
    #[must_use]
    pub fn transition(self, frame: Gpa) -> u64 {
        self.swizzled(frame.get() | TRANSITION | READ_WRITE << 5)
    }

    /// The entry is a pointer to a prototype.
    #[must_use]
    pub fn prototype(self, at: Gva) -> u64 {
        self.swizzled(at.get() << 16 | PROTOTYPE | self.protection())
    }

    /// The prototype is to be found through the address descriptor. This marker is written as it is, whatever the
    /// machine.
    #[must_use]
    pub const fn consult_vad(self) -> u64 {
        0xffff_ffff_0000_0000 | PROTOTYPE | self.protection()
    }

    /// Never made: reads as zeros.
    #[must_use]
    pub const fn demand_zero(self) -> u64 {
        READ_WRITE << 5
    }

    /// In page file 0, `offset` pages into it.
    #[must_use]
    pub fn pagefile(self, offset: u32) -> u64 {
        // Page file 2, so that the number is not zero.
        let number = match self.format {
            PteFormat::Old => 2 << 1,
            PteFormat::New => 2 << 12,
        };
        self.swizzled(u64::from(offset) << 32 | number | READ_WRITE << 5)
    }

    /// A prototype of a page that some working set has: a hardware entry that no processor uses.
    #[must_use]
    pub const fn valid_prototype(self, frame: Gpa) -> u64 {
        0x8a00_0000_0000_0121 | frame.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_entries_come_out() {
        let old = PteCodec { format: PteFormat::Old, l1tf: true };
        let new = PteCodec { format: PteFormat::New, l1tf: false };
        assert_eq!(old.prototype(Gva::new(0xffff_ad0e_c12a_8f00)) & !(0x1f << 11), 0xad0e_c12a_8f00_0400);
        assert_eq!(new.consult_vad(), 0xffff_ffff_0000_0480);
        assert_eq!(new.transition(Gpa::new(0x1234_5000)), 0x1234_5880);
        assert_eq!(old.transition(Gpa::new(0x1234_5000)), 0x1234_5880);
        let swizzling = PteCodec { l1tf: true, ..new };
        assert_eq!(swizzling.transition(Gpa::new(0x1234_5000)), 0x2000_1234_5880);
        // Bit 29 of the address is bit 45 of the entry.
        assert_eq!(swizzling.prototype(Gva::new(0xffff_ad0e_c12a_8f00)), 0xad0e_e12a_8f00_0480);
        assert_eq!(swizzling.prototype(Gva::new(0xffff_ad0e_e12a_8f00)), 0xad0e_e12a_8f00_0490);
    }
}
