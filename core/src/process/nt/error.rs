//! Why a guest's Windows kernel could not be read.

use core::fmt;

use super::layout::FieldName;
use crate::addr::{Cr3, Gva};
use crate::paging::WalkError;

/// Why a root does not lead to the processes of a Windows kernel. Ordered by how far it led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NtError {
    /// The page that Windows shares with every process is not there, under 4-level tables or 5-level ones.
    NoSharedData {
        /// The root.
        root: Cr3,
    },
    /// No image that calls itself `ntoskrnl.exe` is mapped where Windows loads its kernel.
    NoImage {
        /// The root.
        root: Cr3,
    },
    /// The image exports no such variable, or not where it can be read.
    NoExport {
        /// The image.
        image: Gva,
        /// The name.
        name: &'static str,
    },
    /// The variable does not lead into the kernel half, or cannot be read.
    NoSystem {
        /// The variable.
        variable: Gva,
    },
    /// The System process's object cannot be read: the tables are those of a loader, or of another boot.
    System {
        /// The object.
        at: Gva,
        /// Why.
        error: WalkError,
    },
    /// What should be a process object does not read like one.
    NotAProcess {
        /// The object.
        at: Gva,
    },
    /// Without this field there is no list, and nothing proves where it lies.
    Unproven {
        /// The field.
        field: FieldName,
    },
    /// What was known of the kernel is no longer so: attach anew.
    Changed {
        /// What differs.
        field: FieldName,
    },
    /// The time since the kernel's start is less than it was: the guest has rebooted; attach anew.
    Earlier {
        /// What it was, in units of 100 ns.
        before: u64,
        /// What it is.
        now: u64,
    },
}

impl NtError {
    /// How far the way to the processes went before it failed.
    pub(super) const fn progress(&self) -> u8 {
        match self {
            Self::NoSharedData { .. } => 0,
            Self::NoImage { .. } => 1,
            Self::NoExport { .. } => 2,
            Self::NoSystem { .. } => 3,
            Self::System { .. } => 4,
            Self::NotAProcess { .. } => 5,
            Self::Unproven { .. } => 6,
            Self::Changed { .. } | Self::Earlier { .. } => 7,
        }
    }
}

impl fmt::Display for NtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSharedData { root } => {
                write!(
                    f,
                    "CR3 {root} has no page shared with user mode at 0xfffff78000000000: not a Windows kernel half"
                )
            }
            Self::NoImage { root } => write!(f, "CR3 {root} maps no image called ntoskrnl.exe"),
            Self::NoExport { image, name } => {
                write!(f, "the kernel image at {image} exports no {name} that can be read")
            }
            Self::NoSystem { variable } => write!(f, "PsInitialSystemProcess at {variable} names no kernel address"),
            Self::System { at, error } => write!(f, "the System process at {at} cannot be read: {error}"),
            Self::NotAProcess { at } => write!(f, "what lies at {at} is no process object"),
            Self::Unproven { field } => {
                write!(
                    f,
                    "nothing proves where {field} lies (wanted: {}); the guest may still be booting",
                    field.rule()
                )
            }
            Self::Changed { field } => {
                write!(f, "{field} of the System process is not what it was: the guest has rebooted; attach anew")
            }
            Self::Earlier { before, now } => {
                write!(
                    f,
                    "the kernel's clock went back from {before} to {now} (units of 100 ns): the guest has rebooted; \
                     attach anew"
                )
            }
        }
    }
}

impl core::error::Error for NtError {}
