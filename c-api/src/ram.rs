//! Guest memory of one kind or another.

#[cfg(feature = "std")]
use vgpu_perception_mapped::GuestRam;

use vgpu_perception::{CopyHint, Extent, Gpa, Line, PAGE_BYTES, PageKind, PhysError, PhysRead, PhysRun, Window};

use crate::failure::Failure;
use crate::ram_map::SEGMENTS;
use crate::reader::Reader;

/// What a search in one call may load, whatever the guest's size.
const LOADS: u64 = 1 << 24;
/// And for each page of RAM: a quarter of it may be page tables that are read twice.
const LOADS_A_PAGE: u64 = 256;

/// Where the bytes come from.
#[derive(Debug)]
#[cfg_attr(
    feature = "std",
    expect(clippy::large_enum_variant, reason = "there are few, and a build without a heap cannot box")
)]
pub(crate) enum Ram {
    #[cfg(feature = "std")]
    Mapped(Box<GuestRam>),
    Reader(Reader),
}

impl Ram {
    /// Where the highest RAM ends, whether it holds data yet or not.
    #[cfg(feature = "std")]
    pub(crate) fn end(&self) -> Result<u64, PhysError> {
        match self {
            Self::Mapped(ram) => {
                let last = ram.map().segments().last();
                Ok(last.map_or(0, |segment| segment.gpa.get().saturating_add(segment.len)))
            }
            Self::Reader(ram) => ram.end(),
        }
    }

    /// How often a callback failed so far.
    pub(crate) fn failures(&self) -> u64 {
        match self {
            #[cfg(feature = "std")]
            Self::Mapped(_) => 0,
            Self::Reader(ram) => ram.failures(),
        }
    }

    /// What a search that found nothing says, when [`failures`](Self::failures) were so many before it.
    pub(crate) fn nothing_found(&self, before: u64, failure: Failure) -> Failure {
        match self {
            #[cfg(feature = "std")]
            Self::Mapped(_) => failure,
            Self::Reader(ram) => ram.nothing_found(before, failure),
        }
    }

    /// The loads that a search in one call may make: see `vgpu_perception_ext.h`.
    pub(crate) fn bound(&self) -> u64 {
        // A map has at most 1024 stretches, but a file's data may lie in any number: RAM counts, not data.
        #[cfg(feature = "std")]
        if let Self::Mapped(ram) = self {
            return LOADS + LOADS_A_PAGE * (ram.map().ram_bytes() / PAGE_BYTES);
        }
        let extents = self.extents().take(SEGMENTS).map_while(Result::ok);
        let pages = extents.fold(0_u64, |pages, extent| pages.saturating_add(extent.len / PAGE_BYTES));
        LOADS.saturating_add(LOADS_A_PAGE.saturating_mul(pages))
    }
}

macro_rules! either {
    ($self:ident, $ram:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "std")]
            Ram::Mapped($ram) => $call,
            Ram::Reader($ram) => $call,
        }
    };
}

impl PhysRead for Ram {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        either!(self, ram => ram.read(gpa, dst))
    }

    #[inline]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        either!(self, ram => ram.load_u32(gpa))
    }

    #[inline]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        either!(self, ram => ram.load_u64(gpa))
    }

    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        either!(self, ram => ram.load_words(gpa, dst))
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        either!(self, ram => ram.read_runs(runs, dst, hint))
    }

    fn copied(&self, dst: &[u8], hint: CopyHint) {
        either!(self, ram => ram.copied(dst, hint))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        either!(self, ram => ram.next_extent(from))
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        either!(self, ram => ram.load_lines(at, lines))
    }

    fn batch(&self) -> usize {
        either!(self, ram => ram.batch())
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        either!(self, ram => ram.page_kind(page))
    }

    fn is_cancelled(&self) -> bool {
        either!(self, ram => ram.is_cancelled())
    }

    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        either!(self, ram => ram.window(gpa, len))
    }

    fn prefetch(&self, gpa: Gpa) {
        either!(self, ram => ram.prefetch(gpa));
    }
}
