//! Guest memory of one kind or another.

#[cfg(feature = "std")]
use vgpu_perception_mapped::GuestRam;

use vgpu_perception::{
    Budget, CopyHint, Extent, Gpa, Line, PAGE_BYTES, PageKind, PhysError, PhysRead, PhysRun, Window,
};

use crate::failure::Failure;
use crate::reader::Reader;

/// The words that a search in one call may read, whatever the guest's size: 16777216 in all, with what its last piece
/// overdraws, what the candidates that are looked at besides cost to judge, and what finding the map of RAM takes.
const WORDS: u64 = (1 << 24) - Budget::PIECE - BESIDES;
/// A current candidate that is judged again, and the questions about where RAM lies.
const BESIDES: u64 = (1 << 19) + (1 << 20);
/// And for each page of RAM: a quarter of it may be page tables that are read twice.
const WORDS_A_PAGE: u64 = 256;

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

    /// The words that a search in one call may read: see `vgpu_perception_ext.h`.
    pub(crate) fn bound(&self) -> u64 {
        let bytes = match self {
            // RAM counts, not data, which may lie in any number of stretches.
            #[cfg(feature = "std")]
            Self::Mapped(ram) => ram.map().ram_bytes(),
            Self::Reader(ram) => ram.ram_bytes(),
        };
        WORDS.saturating_add(WORDS_A_PAGE.saturating_mul(bytes / PAGE_BYTES))
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
        either!(self, ram => ram.copied(dst, hint));
    }

    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        either!(self, ram => ram.load_columns(at, stride, dst))
    }

    fn ram_end(&self) -> Gpa {
        either!(self, ram => ram.ram_end())
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

    fn fills_hole(&self, page: Gpa) -> bool {
        either!(self, ram => ram.fills_hole(page))
    }

    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        either!(self, ram => ram.load_at_once(gpa))
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
