//! A memory that is read in batches.

use core::cell::Cell;

use vgpu_perception::{CopyHint, Extent, Gpa, Line, PageKind, PhysError, PhysErrorKind, PhysRead, PhysRun};
use vgpu_perception_testkit::Ram;

/// Memory of which every read is a call, like that of another process.
pub(crate) struct Batched<'r> {
    pub(crate) ram: &'r Ram,
    pub(crate) calls: Cell<u64>,
    /// Pages whose lines cannot be loaded.
    pub(crate) gone: &'r [Gpa],
    pub(crate) batch: usize,
}

impl<'r> Batched<'r> {
    pub(crate) fn new(ram: &'r Ram) -> Self {
        Self { ram, calls: Cell::new(0), gone: &[], batch: 300 }
    }

    fn call(&self) {
        self.calls.set(self.calls.get() + 1);
    }
}

impl PhysRead for Batched<'_> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.call();
        self.ram.read(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.call();
        self.ram.load_u32(gpa)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.call();
        self.ram.load_u64(gpa)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.call();
        if self.gone.contains(&Gpa::new(gpa.get() & !0xfff)) {
            return Err(PhysError::new(gpa, PhysErrorKind::Gap));
        }
        self.ram.load_words(gpa, dst)
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        self.call();
        assert!(at.len() <= self.batch, "{} lines at once", at.len());
        let mut loaded = 0;
        for (gpa, line) in at.iter().zip(lines) {
            if self.gone.contains(&Gpa::new(gpa.get() & !0xfff)) || self.ram.load_words(*gpa, line).is_err() {
                break;
            }
            loaded += 1;
        }
        Ok(loaded)
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        self.call();
        self.ram.read_runs(runs, dst, hint)
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.ram.next_extent(from)
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.ram.page_kind(page)
    }
}
