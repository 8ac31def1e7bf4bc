//! Why an address has no physical memory to read.

use core::fmt;

use super::level::Level;
use super::rights::Rights;
use crate::addr::Gva;
use crate::phys::{PhysError, PhysErrorKind};

/// An address that has no physical memory to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalkError {
    /// The address.
    pub gva: Gva,
    /// Why.
    pub kind: WalkErrorKind,
}

/// Why an address has no physical memory to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkErrorKind {
    /// The address is not canonical in this paging mode.
    NonCanonical,
    /// No page is mapped: the entry of this level has P clear.
    NotMapped {
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A page is mapped, but its bytes are not in RAM.
    NotResident {
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A present entry has reserved bits set: the processor would fault, so this is no table or no page.
    Reserved {
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// The page is there, but does not grant what the access needs.
    Denied {
        /// What the walk grants.
        rights: Rights,
    },
    /// The page is in RAM, but its entry does not say what it grants: the guest samples who uses the page, and knows by
    /// itself. That passes as soon as the page is used; try again.
    RightsUnknown {
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A table, or a structure that gives an absent entry its meaning, is not in RAM.
    Table {
        /// The level of the table.
        level: Level,
        /// What could not be read.
        error: PhysError,
    },
    /// The page itself is not in RAM: its entry names a gap.
    Page {
        /// What could not be read.
        error: PhysError,
    },
}

impl WalkErrorKind {
    /// The error at `gva`.
    pub(crate) const fn at(self, gva: Gva) -> WalkError {
        WalkError { gva, kind: self }
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest virtual {}", self.gva)?;
        match self.kind {
            WalkErrorKind::NonCanonical => f.write_str(" is not canonical"),
            WalkErrorKind::NotMapped { level, entry } => write!(f, " is not mapped: its {level} is {entry:#x}"),
            WalkErrorKind::NotResident { level, entry } => {
                write!(f, " is mapped but not in RAM: its {level} is {entry:#x}")
            }
            WalkErrorKind::Reserved { level, entry } => write!(f, ": the {level} {entry:#x} has reserved bits set"),
            WalkErrorKind::Denied { rights } => {
                write!(f, " grants too little (user {}, writable {})", rights.user, rights.writable)
            }
            WalkErrorKind::RightsUnknown { level, entry } => {
                write!(f, ": its {level} {entry:#x} does not say what user mode may do (NUMA balancing); try again")
            }
            WalkErrorKind::Table { level, error } => {
                write!(f, ": no {level} to read: {error}{}", advice(error))
            }
            WalkErrorKind::Page { error } => write!(f, ": {error}{}", advice(error)),
        }
    }
}

/// What to do where tables lead outside of the memory that is known.
const fn advice(error: PhysError) -> &'static str {
    match error.kind {
        PhysErrorKind::Gap => "; if memory was plugged in since, survey again",
        _ => "",
    }
}

impl core::error::Error for WalkError {}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::addr::Gpa;

    #[test]
    fn every_message_names_the_address_and_what_was_found() {
        let error = PhysError::new(Gpa::new(0x9000), PhysErrorKind::Gap);
        for (kind, message) in [
            (WalkErrorKind::NonCanonical, "guest virtual 0x5000 is not canonical"),
            (
                WalkErrorKind::NotMapped { level: Level::Pd, entry: 0x80 },
                "guest virtual 0x5000 is not mapped: its PDE is 0x80",
            ),
            (
                WalkErrorKind::NotResident { level: Level::Pt, entry: 0x20 },
                "guest virtual 0x5000 is mapped but not in RAM: its PTE is 0x20",
            ),
            (
                WalkErrorKind::Reserved { level: Level::Pml4, entry: 0x87 },
                "guest virtual 0x5000: the PML4E 0x87 has reserved bits set",
            ),
            (
                WalkErrorKind::Denied { rights: Rights::USER },
                "guest virtual 0x5000 grants too little (user true, writable false)",
            ),
            (
                WalkErrorKind::RightsUnknown { level: Level::Pt, entry: 0x102 },
                "guest virtual 0x5000: its PTE 0x102 does not say what user mode may do (NUMA balancing); try again",
            ),
            (
                WalkErrorKind::Table { level: Level::Pdpt, error },
                "guest virtual 0x5000: no PDPTE to read: guest physical 0x9000 is not RAM by the segment map; if memory \
                 was plugged in since, survey again",
            ),
            (
                WalkErrorKind::Page { error },
                "guest virtual 0x5000: guest physical 0x9000 is not RAM by the segment map; if memory was plugged in \
                 since, survey again",
            ),
        ] {
            assert_eq!(kind.at(Gva::new(0x5000)).to_string(), message);
        }
    }
}
