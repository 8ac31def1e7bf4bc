//! What an operating system means by an entry that the processor would not use.
//!
//! To the processor a clear P bit says nothing but "fault". An operating system keeps the page's whereabouts in the
//! other 63 bits: a page that was trimmed from a working set may still lie in RAM. [`NotPresentResolver`] is the hook
//! for that.

use core::fmt;

use super::level::Level;
use super::rights::Rights;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PageSize};
use crate::budget::Budget;
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
    /// The 4 KiB page that holds the address lies in RAM.
    Page {
        /// The page's first byte, 4 KiB-aligned.
        gpa: Gpa,
        /// What the operating system grants on the page; `None` where the entry does not say, and only the guest's
        /// kernel knows.
        rights: Option<Rights>,
    },
    /// The table of the next lower level lies in RAM at this address; the walk goes on there.
    Table(Gpa),
}

/// An answer, and how far it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What the entry means at the address that was asked about.
    pub resolution: Resolution,
    /// The first address after it for which the same entry may mean something else. Only looked at where nothing was
    /// found ([`Resolution::NotMapped`], [`Resolution::NotResident`]): a large stretch that is not there is passed over
    /// at once.
    pub until: Gva,
}

impl Resolved {
    /// An answer for all addresses that the entry translates.
    #[must_use]
    pub const fn for_entry(resolution: Resolution) -> Self {
        Self { resolution, until: Gva::new(u64::MAX) }
    }

    /// An answer for the 4 KiB page of `gva` alone.
    #[must_use]
    pub const fn for_page(gva: Gva, resolution: Resolution) -> Self {
        Self { resolution, until: gva.align_down(PageSize::Size4K).wrapping_add(PAGE_BYTES) }
    }
}

/// The meaning that the guest's operating system gives to entries without P.
///
/// An implementation is a small plain value: it travels inside [`AddressSpace`](super::AddressSpace) and region
/// handles. It may read guest memory, in bounded work, and must not trust what it reads.
pub trait NotPresentResolver: Copy + fmt::Debug {
    /// False where no entry can mean anything but [`Resolution::NotMapped`]: lets a scan pass over such entries
    /// unasked.
    const RESOLVES: bool = true;

    /// Loads that one call of [`resolve`](Self::resolve) makes at most: the bounds of this crate are stated with it.
    const LOADS: u64;

    /// What one answer found out that helps with the next page of the same section: where its descriptor leads, say.
    /// The walker starts each of its operations with a default one and forgets it at the end of the operation, so that
    /// it may hold what was read from guest memory. `()` where there is nothing to remember.
    type Lookup: Copy + Default + fmt::Debug;

    /// Says what `entry` means. Every load of guest memory is spent on `cost`, which is not asked: the answer has to be
    /// whole.
    ///
    /// # Errors
    /// [`PhysError`] where the structures that tell could not be read.
    fn resolve<M: PhysRead>(
        &self,
        mem: &M,
        entry: &NotPresentEntry,
        lookup: &mut Self::Lookup,
        cost: &mut Budget,
    ) -> Result<Resolved, PhysError>;
}

/// The processor's own view: an entry without P maps nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hardware;

impl NotPresentResolver for Hardware {
    const RESOLVES: bool = false;
    const LOADS: u64 = 0;
    type Lookup = ();

    #[inline]
    fn resolve<M: PhysRead>(
        &self,
        _mem: &M,
        _entry: &NotPresentEntry,
        _lookup: &mut (),
        _cost: &mut Budget,
    ) -> Result<Resolved, PhysError> {
        Ok(Resolved::for_entry(Resolution::NotMapped))
    }
}
