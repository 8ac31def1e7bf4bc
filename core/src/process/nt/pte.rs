//! What the Windows memory manager keeps in entries without P. Known from public structure listings
//! (`_MMPTE_TRANSITION`, `_MMPTE_PROTOTYPE`, `_MMPTE_SOFTWARE`).

use crate::addr::{Gpa, Gva};
use crate::paging::{Pte, Rights};
use crate::phys::PhysRead;

const TRANSITION: u64 = 1 << 11;
const PROTOTYPE: u64 = 1 << 10;
/// Set in entries that are as they read; clear in those that may have been changed, see [`SWIZZLE`]. From build 17763
/// on.
const NOT_SWIZZLED: u64 = 1 << 4;
/// Machines with the L1TF mitigation set this bit in absent entries, so that no address in them leads to RAM.
const SWIZZLE: u64 = 1 << 45;
/// Bits 16..=63 of a pointer to a prototype that says: ask the address descriptor.
const CONSULT: u64 = 0xffff_ffff_0000;
/// A page file offset that says the same.
const CONSULT_OFFSET: u64 = 0xffff_ffff;

/// An entry without P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The address descriptor knows: nobody touched the page through this entry, or the entry says so.
    Descriptor,
    /// The page (or, in an upper level, the table) is still in RAM.
    Transition(Transition),
    /// The page is shared, and its prototype lies at one of these addresses: the first as the entry reads, the second
    /// where it can have been swizzled.
    Prototype(Gva, Option<Gva>),
    /// Never made, written out or compressed.
    NotResident,
}

/// Tells the forms apart. The prototype's bit counts before the transition's, which older builds use in prototype
/// entries for something else.
pub(super) const fn decode(entry: u64) -> Absent {
    if entry == 0 {
        Absent::Descriptor
    } else if entry & PROTOTYPE != 0 {
        let field = entry >> 16;
        if field == CONSULT {
            return Absent::Descriptor;
        }
        let as_is = extend(field);
        let swizzled = entry & NOT_SWIZZLED == 0 && entry & SWIZZLE != 0;
        Absent::Prototype(as_is, if swizzled { Some(extend(field & !(SWIZZLE >> 16))) } else { None })
    } else if entry & TRANSITION != 0 {
        Absent::Transition(Transition(entry))
    } else if entry >> 32 == CONSULT_OFFSET {
        Absent::Descriptor
    } else {
        Absent::NotResident
    }
}

/// An address of 48 bits.
const fn extend(field: u64) -> Gva {
    Gva::new(if field >> 47 & 1 == 1 { field | 0xffff << 48 } else { field })
}

/// A page that was trimmed and is still in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition(u64);

impl Transition {
    /// Where it is: bits 12..=47. A swizzled frame lies above 32 TiB; where there is RAM too, nobody can tell, and
    /// `None` is the answer.
    pub(super) fn frame<M: PhysRead>(self, mem: &M) -> Option<Gpa> {
        let as_is = self.0 & 0x0000_ffff_ffff_f000;
        if self.0 & NOT_SWIZZLED != 0 || as_is & SWIZZLE == 0 {
            return Some(Gpa::new(as_is));
        }
        (!mem.holds_data(Gpa::new(as_is))).then(|| Gpa::new(as_is & !SWIZZLE))
    }

    /// What its protection (bits 5 to 9) grants.
    pub(super) const fn rights(self) -> Rights {
        // MM_READWRITE is 4, MM_EXECUTE_READWRITE 6; 2 and 3 are executable too; the copy-on-write kinds are not
        // writable.
        let kind = self.0 >> 5 & 7;
        Rights { user: true, writable: matches!(kind, 4 | 6), executable: matches!(kind, 2 | 3 | 6 | 7) }
    }
}

/// What a prototype says of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prototype {
    /// Some process has it.
    Valid(Gpa),
    /// No process has it, and it is still in RAM.
    Transition(Transition),
    /// Never made, written out, or in a file.
    NotResident,
}

/// Reads a prototype's value. It is an entry that no processor uses, so none of its other bits can fault.
pub(super) const fn prototype(value: u64) -> Prototype {
    if value & Pte::PRESENT != 0 {
        return Prototype::Valid(Gpa::new(value & 0x0000_ffff_ffff_f000));
    }
    match decode(value) {
        Absent::Transition(page) => Prototype::Transition(page),
        // A prototype that points on leads to a file.
        _ => Prototype::NotResident,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_told_apart() {
        assert_eq!(decode(0), Absent::Descriptor);
        assert_eq!(decode(0xffff_ffff_0000_0420), Absent::Descriptor);
        assert_eq!(decode(0xad0e_c12a_8f00_0400), Absent::Prototype(Gva::new(0xffff_ad0e_c12a_8f00), None));
        // With the protection of older builds, which is where a transition has its mark.
        assert_eq!(decode(0xad0e_c12a_8f00_2c00), Absent::Prototype(Gva::new(0xffff_ad0e_c12a_8f00), None));
        let (as_is, plain) = (Gva::new(0xffff_ad0e_e12a_8f00), Gva::new(0xffff_ad0e_c12a_8f00));
        assert_eq!(decode(0xad0e_e12a_8f00_0480), Absent::Prototype(as_is, Some(plain)));
        assert_eq!(decode(0xad0e_e12a_8f00_0490), Absent::Prototype(as_is, None));
        assert_eq!(decode(0x0000_41ba_0000_0000), Absent::NotResident);
        assert_eq!(decode(0x80), Absent::NotResident);
        assert!(matches!(decode(0x1234_5880), Absent::Transition(_)));
    }

    #[test]
    fn rights_follow_the_protection() {
        assert_eq!(Transition(4 << 5).rights(), Rights { user: true, writable: true, executable: false });
        assert_eq!(Transition(5 << 5).rights(), Rights { user: true, writable: false, executable: false });
    }
}
