//! Guest RAM, whichever way it is read.

use vgpu_perception::{CopyHint, Extent, Gpa, Line, PageKind, PhysError, PhysRead, PhysRun, Window};
use vgpu_perception_mapped::GuestRam;
use vgpu_perception_process::ProcessRam;

/// The RAM of a guest: mapped from its files, or read through the process that holds it.
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "one a guest, and a box is a load more before each read")]
pub enum Ram {
    /// Files, mapped read-only.
    Mapped(GuestRam),
    /// Memory of the VMM's process.
    Process(ProcessRam),
}

impl Ram {
    /// The first address after all RAM: what scratch memory is measured by.
    #[must_use]
    pub fn end(&self) -> Gpa {
        match self {
            Self::Mapped(ram) => {
                let ends = ram.map().segments().iter().map(|segment| segment.gpa.get().saturating_add(segment.len));
                Gpa::new(ends.max().unwrap_or(0))
            }
            Self::Process(ram) => ram.end(),
        }
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Mapped(ram) => ram.map().ram_bytes(),
            Self::Process(ram) => ram.pieces().fold(0, |sum, piece| sum.saturating_add(piece.len)),
        }
    }
}

/// The same call on whichever it is.
macro_rules! each {
    ($self:ident, $ram:ident => $call:expr) => {
        match $self {
            Self::Mapped($ram) => $call,
            Self::Process($ram) => $call,
        }
    };
}

impl PhysRead for Ram {
    #[inline]
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        each!(self, ram => ram.read(gpa, dst))
    }
    #[inline(always)]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        each!(self, ram => ram.load_u32(gpa))
    }
    #[inline(always)]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        each!(self, ram => ram.load_u64(gpa))
    }
    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        each!(self, ram => ram.load_words(gpa, dst))
    }
    #[inline]
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        each!(self, ram => ram.read_runs(runs, dst, hint))
    }
    #[inline]
    fn copied(&self, dst: &[u8], hint: CopyHint) {
        each!(self, ram => ram.copied(dst, hint));
    }
    #[inline]
    fn fence_acquire(&self) {
        each!(self, ram => ram.fence_acquire());
    }
    #[inline]
    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        each!(self, ram => ram.load_lines(at, lines))
    }
    #[inline]
    fn batch(&self) -> usize {
        each!(self, ram => ram.batch())
    }
    #[inline]
    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        each!(self, ram => ram.load_columns(at, stride, dst))
    }
    #[inline]
    fn ram_end(&self) -> Gpa {
        each!(self, ram => ram.ram_end())
    }
    #[inline]
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        each!(self, ram => ram.next_extent(from))
    }
    #[inline]
    fn page_kind(&self, page: Gpa) -> PageKind {
        each!(self, ram => ram.page_kind(page))
    }
    #[inline]
    fn fills_hole(&self, page: Gpa) -> bool {
        each!(self, ram => ram.fills_hole(page))
    }
    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        each!(self, ram => ram.load_at_once(gpa))
    }
    #[inline]
    fn is_cancelled(&self) -> bool {
        each!(self, ram => ram.is_cancelled())
    }
    #[inline]
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        each!(self, ram => ram.window(gpa, len))
    }
    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        each!(self, ram => ram.prefetch(gpa));
    }
}
