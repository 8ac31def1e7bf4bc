//! A guest's memory, owned by everybody who reads it.

use core::ops::Deref;
use std::sync::Arc;

use vgpu_perception::{CopyHint, Extent, Gpa, Line, PageKind, PhysError, PhysRead, PhysRun, Window};

/// A guest's memory, shared by the guest, its surveys and its readers. Whoever holds one may go on reading, also after
/// the guest was attached anew: a region is always read through the memory that it was found in.
#[derive(Debug)]
pub struct Shared<M>(Arc<M>);

impl<M> Shared<M> {
    /// Shares `memory`.
    #[must_use]
    pub fn new(memory: M) -> Self {
        Self(Arc::new(memory))
    }

    /// Whether both are the same memory.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<M> Deref for Shared<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> Clone for Shared<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: PhysRead> PhysRead for Shared<M> {
    #[inline]
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.0.read(gpa, dst)
    }
    #[inline(always)]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.0.load_u32(gpa)
    }
    #[inline(always)]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.0.load_u64(gpa)
    }
    #[inline(always)]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.0.load_words(gpa, dst)
    }
    #[inline]
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        self.0.read_runs(runs, dst, hint)
    }
    #[inline]
    fn copied(&self, dst: &[u8], hint: CopyHint) {
        self.0.copied(dst, hint);
    }
    #[inline]
    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        self.0.load_lines(at, lines)
    }
    #[inline(always)]
    fn batch(&self) -> usize {
        self.0.batch()
    }
    #[inline]
    fn fence_acquire(&self) {
        self.0.fence_acquire();
    }
    #[inline]
    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        self.0.load_columns(at, stride, dst)
    }
    #[inline]
    fn ram_end(&self) -> Gpa {
        self.0.ram_end()
    }
    #[inline]
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.0.next_extent(from)
    }
    #[inline]
    fn page_kind(&self, page: Gpa) -> PageKind {
        self.0.page_kind(page)
    }
    #[inline]
    fn fills_hole(&self, page: Gpa) -> bool {
        self.0.fills_hole(page)
    }
    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        self.0.load_at_once(gpa)
    }
    #[inline(always)]
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
    #[inline]
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        self.0.window(gpa, len)
    }
    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        self.0.prefetch(gpa);
    }
}
