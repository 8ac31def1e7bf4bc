//! A memory that counts what is read of it: bounds on work are tested as counts, never as times.

use core::cell::Cell;

use vgpu_perception::{CopyHint, Extent, Gpa, PageKind, PhysError, PhysRead, PhysRun, Window};

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `load_u32`.
    pub u32_loads: u64,
    /// Calls of `load_u64`.
    pub u64_loads: u64,
    /// Words asked for by `load_words`.
    pub words: u64,
    /// Calls of `load_words`.
    pub word_calls: u64,
    /// Calls of `read`.
    pub reads: u64,
    /// Bytes asked for by `read`.
    pub read_bytes: u64,
    /// Runs asked for by `read_runs`.
    pub runs: u64,
    /// Bytes asked for by `read_runs`.
    pub run_bytes: u64,
    /// Calls of `next_extent`.
    pub extents: u64,
    /// Calls that failed.
    pub failed: u64,
}

impl Counts {
    /// All loads, each word and each copy counted as one.
    #[must_use]
    pub const fn accesses(&self) -> u64 {
        self.u32_loads + self.u64_loads + self.words + self.reads + self.runs
    }

    /// All bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        4 * self.u32_loads + 8 * (self.u64_loads + self.words) + self.read_bytes + self.run_bytes
    }
}

/// Counts what goes through to `M`. For one thread.
#[derive(Debug, Default)]
pub struct Counting<M> {
    /// What is read.
    pub inner: M,
    counts: Cell<Counts>,
}

impl<M> Counting<M> {
    /// Counts from zero.
    pub fn new(inner: M) -> Self {
        Self { inner, counts: Cell::default() }
    }

    /// What was read so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// What was read so far; counting starts again at zero.
    pub fn take(&self) -> Counts {
        self.counts.take()
    }

    fn count<T>(&self, result: Result<T, PhysError>, add: impl FnOnce(&mut Counts)) -> Result<T, PhysError> {
        let mut counts = self.counts.get();
        add(&mut counts);
        counts.failed += u64::from(result.is_err());
        self.counts.set(counts);
        result
    }
}

impl<M: PhysRead> PhysRead for Counting<M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        let len = dst.len() as u64;
        self.count(self.inner.read(gpa, dst), |counts| {
            counts.reads += 1;
            counts.read_bytes += len;
        })
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.count(self.inner.load_u32(gpa), |counts| counts.u32_loads += 1)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.count(self.inner.load_u64(gpa), |counts| counts.u64_loads += 1)
    }

    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        let len = dst.len() as u64;
        self.count(self.inner.load_words(gpa, dst), |counts| {
            counts.word_calls += 1;
            counts.words += len;
        })
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let (pieces, len) = (runs.len() as u64, dst.len() as u64);
        self.count(self.inner.read_runs(runs, dst, hint), |counts| {
            counts.runs += pieces;
            counts.run_bytes += len;
        })
    }

    fn copied(&self, dst: &[u8], hint: CopyHint) {
        self.inner.copied(dst, hint);
    }

    fn fence_acquire(&self) {
        self.inner.fence_acquire();
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        let counted = self.count(Ok(self.inner.page_kind(page)), |counts| counts.extents += 1);
        counted.unwrap_or(PageKind::Gap)
    }

    fn ram_end(&self) -> Gpa {
        self.inner.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.count(self.inner.next_extent(from), |counts| counts.extents += 1)
    }

    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        self.inner.window(gpa, len)
    }

    fn prefetch(&self, gpa: Gpa) {
        self.inner.prefetch(gpa);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ram;

    #[test]
    fn each_kind_is_counted_apart() {
        let mem = Counting::new(Ram::flat(1 << 20));
        mem.load_u32(Gpa::new(4)).unwrap();
        mem.load_u64(Gpa::new(8)).unwrap();
        mem.load_words(Gpa::new(0), &mut [0; 5]).unwrap();
        mem.read(Gpa::new(1), &mut [0; 3]).unwrap();
        mem.load_u64(Gpa::new(1 << 20)).unwrap_err();
        let counts = mem.take();
        assert_eq!((counts.accesses(), counts.bytes(), counts.failed), (9, 4 + 8 * 7 + 3, 1));
        assert_eq!(mem.counts(), Counts::default());
    }
}
