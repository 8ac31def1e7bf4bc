//! Why an address has no physical memory to read.

use core::fmt;

use super::entry::{Level, Rights};
use crate::addr::Gva;
use crate::phys::PhysError;

/// Why an address has no physical memory to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkError {
    /// The address is not canonical in this paging mode.
    NonCanonical {
        /// The address.
        gva: Gva,
    },
    /// No page is mapped: the entry of this level has P clear.
    NotMapped {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A page is mapped, but its bytes are not in RAM.
    NotResident {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A present entry has reserved bits set: the processor would fault, so this is no table or no page.
    Reserved {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// The page is there, but does not grant what the access needs.
    Denied {
        /// The address.
        gva: Gva,
        /// What the walk grants.
        rights: Rights,
    },
    /// The page is in RAM, but its entry does not say what it grants: the guest samples who uses the page, and knows by
    /// itself. That passes as soon as the page is used; try again.
    RightsUnknown {
        /// The address.
        gva: Gva,
        /// The level of the entry.
        level: Level,
        /// What the entry held.
        entry: u64,
    },
    /// A table, or a structure that gives an absent entry its meaning, is not in RAM.
    Table {
        /// The address.
        gva: Gva,
        /// The level of the table.
        level: Level,
        /// What could not be read.
        error: PhysError,
    },
    /// The page itself is not in RAM: its entry names a hole.
    Page {
        /// The address.
        gva: Gva,
        /// What could not be read.
        error: PhysError,
    },
}

impl WalkError {
    /// The address that has no memory to read.
    #[must_use]
    pub const fn gva(&self) -> Gva {
        match *self {
            Self::NonCanonical { gva }
            | Self::NotMapped { gva, .. }
            | Self::NotResident { gva, .. }
            | Self::Reserved { gva, .. }
            | Self::Denied { gva, .. }
            | Self::RightsUnknown { gva, .. }
            | Self::Table { gva, .. }
            | Self::Page { gva, .. } => gva,
        }
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NonCanonical { gva } => write!(f, "guest virtual {gva} is not canonical"),
            Self::NotMapped { gva, level, entry } => {
                write!(f, "guest virtual {gva} is not mapped: its {level} is {entry:#x}")
            }
            Self::NotResident { gva, level, entry } => {
                write!(f, "guest virtual {gva} is mapped but not in RAM: its {level} is {entry:#x}")
            }
            Self::Reserved { gva, level, entry } => {
                write!(f, "guest virtual {gva}: the {level} {entry:#x} has reserved bits set")
            }
            Self::Denied { gva, rights } => {
                write!(f, "guest virtual {gva} grants too little (user {}, writable {})", rights.user, rights.writable)
            }
            Self::RightsUnknown { gva, level, entry } => write!(
                f,
                "guest virtual {gva}: its {level} {entry:#x} does not say what user mode may do (NUMA balancing); try again"
            ),
            Self::Table { gva, level, error } => write!(f, "guest virtual {gva}: no {level} to read: {error}"),
            Self::Page { gva, error } => write!(f, "guest virtual {gva}: {error}"),
        }
    }
}

impl core::error::Error for WalkError {}
