//! The scratch memory of a search, as one value.

use crate::addr::Gpa;
use crate::process::Process;
use crate::process::guest::GuestPaging;
use crate::process::roots::{RootCandidate, RootElection};
use crate::scan::ScanScratch;

/// How much scratch memory a search takes, as a number of elements of each of its three buffers.
///
/// Less is correct too: a smaller buffer costs time or a further pass, never a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceSize {
    /// Pages that could be top tables, kept while the kernel is looked for.
    pub roots: usize,
    /// Processes that are scanned together.
    pub processes: usize,
    /// Words of the bitmap that has one bit for each 4 KiB page of RAM.
    pub page_bitmap: usize,
}

impl WorkspaceSize {
    /// What suits a guest whose RAM ends at `end`, the first guest physical address behind its last byte.
    ///
    /// The bitmap takes a bit a page: 128 KiB for 4 GiB. The other two do not depend on the guest and take about 200
    /// KiB.
    #[must_use]
    pub fn for_ram(end: Gpa) -> Self {
        let words = ScanScratch::<GuestPaging>::page_bitmap_words(end);
        Self {
            roots: RootElection::CANDIDATES,
            processes: ScanScratch::<GuestPaging>::PROCESSES,
            page_bitmap: usize::try_from(words).unwrap_or(usize::MAX),
        }
    }

    /// The bytes of all three buffers together.
    #[must_use]
    pub const fn bytes(self) -> usize {
        let roots = self.roots.saturating_mul(size_of::<RootCandidate>());
        let processes = self.processes.saturating_mul(size_of::<Process<GuestPaging>>());
        let bitmap = self.page_bitmap.saturating_mul(size_of::<u64>());
        roots.saturating_add(processes).saturating_add(bitmap)
    }
}

/// The scratch memory of a search: three buffers of the caller's, of whatever type gives a slice (an array, a slice, a
/// `Vec`). Their contents before and after mean nothing, so that one workspace serves any number of searches in turn.
///
/// ```
/// use vgpu_perception::Process;
/// use vgpu_perception::find::Workspace;
/// use vgpu_perception::process::guest::GuestPaging;
/// use vgpu_perception::process::roots::RootCandidate;
///
/// // For a guest of at most 1 GiB, without a heap.
/// let workspace = Workspace::new(
///     [RootCandidate::default(); 256],
///     [Process::<GuestPaging>::default(); 64],
///     [0_u64; (1 << 30) / 4096 / 64],
/// );
/// # let _ = workspace;
/// ```
#[derive(Clone, Debug)]
pub struct Workspace<A, B, C> {
    roots: A,
    processes: B,
    page_bitmap: C,
}

impl<A, B, C> Workspace<A, B, C>
where
    A: AsMut<[RootCandidate]>,
    B: AsMut<[Process<GuestPaging>]>,
    C: AsMut<[u64]>,
{
    /// Makes one value of the three buffers; [`WorkspaceSize::for_ram`] says how large they should be.
    #[must_use]
    pub const fn new(roots: A, processes: B, page_bitmap: C) -> Self {
        Self { roots, processes, page_bitmap }
    }

    /// What the search for a kernel and the scan borrow.
    pub(super) fn parts(&mut self) -> Parts<'_> {
        Parts {
            roots: self.roots.as_mut(),
            scan: ScanScratch { processes: self.processes.as_mut(), page_bitmap: self.page_bitmap.as_mut() },
        }
    }
}

/// A workspace as slices.
#[derive(Debug)]
pub(super) struct Parts<'w> {
    pub(super) roots: &'w mut [RootCandidate],
    pub(super) scan: ScanScratch<'w, GuestPaging>,
}
