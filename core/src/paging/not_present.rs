//! What an operating system means by an entry that the processor would not use.
//!
//! To the processor a clear P bit says nothing but "fault". An operating system keeps the page's whereabouts in the other
//! 63 bits: a page that was trimmed from a working set may still lie in RAM. [`NotPresentResolver`] is the hook for that.

use core::fmt;

use super::entry::{Level, Rights};
use crate::addr::{Gpa, Gva};
use crate::phys::{PhysError, PhysRead};

/// An entry without P that a walk met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPresentEntry {
    /// The address that is being translated.
    pub gva: Gva,
    /// The level of the table that the entry is in.
    pub level: Level,
    /// The entry, bit 0 clear.
    pub entry: u64,
    /// What the levels above grant.
    pub rights: Rights,
}

/// What such an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// No page is mapped there.
    NotMapped,
    /// A page is mapped there, but its bytes are not in RAM (paged out, compressed, or never made).
    NotResident,
    /// The 4 KiB page that holds the address lies in RAM at this frame.
    Page {
        /// The frame's first byte, 4 KiB-aligned.
        frame: Gpa,
        /// What the operating system grants on the page, as far as it is known.
        rights: Rights,
    },
    /// The table of the next lower level lies in RAM at this frame; the walk goes on there.
    Table(Gpa),
}

/// The meaning that the guest's operating system gives to entries without P.
///
/// An implementation is a small plain value: it travels inside [`AddressSpace`](super::AddressSpace) and region handles.
/// It may read guest memory, in bounded work, and must not trust what it reads.
pub trait NotPresentResolver: Copy + fmt::Debug {
    /// False where no entry can mean anything but [`Resolution::NotMapped`]: lets a scan pass over such entries unasked.
    const RESOLVES: bool = true;

    /// Says what `absent` means.
    ///
    /// # Errors
    /// [`PhysError`] where the structures that tell could not be read.
    fn resolve<M: PhysRead>(&self, mem: &M, absent: &NotPresentEntry) -> Result<Resolution, PhysError>;
}

/// The processor's own view: an entry without P maps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hardware;

impl NotPresentResolver for Hardware {
    const RESOLVES: bool = false;

    #[inline]
    fn resolve<M: PhysRead>(&self, _mem: &M, _absent: &NotPresentEntry) -> Result<Resolution, PhysError> {
        Ok(Resolution::NotMapped)
    }
}
