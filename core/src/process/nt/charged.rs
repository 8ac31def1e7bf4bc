//! Guest memory whose loads are counted: how the work of this module is charged to a budget, and what ends a piece of
//! it.

use core::cell::Cell;

use crate::addr::Gpa;
use crate::phys::{CopyHint, Extent, PageKind, PhysError, PhysErrorKind, PhysRead, PhysRun};

/// Counts the loads that go through to a memory. Once the allowance is used up every load fails, so that a piece of
/// work ends soon after, whatever the guest made of it.
///
/// Each word counts, of a copy too, so that the count is never below what is read.
#[derive(Debug)]
pub(super) struct Charged<'m, M> {
    mem: &'m M,
    allowed: u64,
    left: Cell<u64>,
    refused: Cell<bool>,
}

impl<'m, M: PhysRead> Charged<'m, M> {
    pub(super) const fn new(mem: &'m M, allowed: u64) -> Self {
        Self { mem, allowed, left: Cell::new(allowed), refused: Cell::new(false) }
    }

    /// The loads that were made.
    pub(super) const fn spent(&self) -> u64 {
        self.allowed.wrapping_sub(self.left.get())
    }

    /// Whether a load was refused: what was found since may be incomplete.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.refused.get()
    }

    fn charge(&self, gpa: Gpa, loads: u64) -> Result<(), PhysError> {
        match self.left.get().checked_sub(loads) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => {
                self.refused.set(true);
                Err(PhysError::new(gpa, PhysErrorKind::Cancelled))
            }
        }
    }
}

/// Words that a copy of `bytes` touches: one more where it begins within one.
const fn words(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(8).wrapping_add(1)
}

impl<M: PhysRead> PhysRead for Charged<'_, M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.charge(gpa, words(dst.len()))?;
        self.mem.read(gpa, dst)
    }

    #[inline]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.charge(gpa, 1)?;
        self.mem.load_u32(gpa)
    }

    #[inline]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.charge(gpa, 1)?;
        self.mem.load_u64(gpa)
    }

    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.charge(gpa, dst.len() as u64)?;
        self.mem.load_words(gpa, dst)
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let at = runs.first().map_or(Gpa::new(0), |run| run.gpa);
        self.charge(at, words(dst.len()).wrapping_add(runs.len() as u64))?;
        self.mem.read_runs(runs, dst, hint)
    }

    fn copied(&self, dst: &[u8], hint: CopyHint) {
        self.mem.copied(dst, hint);
    }

    fn fence_acquire(&self) {
        self.mem.fence_acquire();
    }

    fn ram_end(&self) -> Gpa {
        self.mem.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.mem.next_extent(from)
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.mem.page_kind(page)
    }

    fn fills_hole(&self, page: Gpa) -> bool {
        self.mem.fills_hole(page)
    }

    fn is_cancelled(&self) -> bool {
        self.mem.is_cancelled()
    }

    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        self.mem.prefetch(gpa);
    }
}
