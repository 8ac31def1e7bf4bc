//! What becomes of a range that is resolved piece by piece: joined into runs, or compared with runs.

use heapless::VecView;

use crate::addr::Gpa;
use crate::phys::PhysRun;

/// What becomes of the pieces of a range, in order.
pub(super) trait Pieces {
    /// Takes `len` bytes at `gpa`, or says that they are not taken: the range ends before them.
    fn take(&mut self, gpa: Gpa, len: u64) -> bool;
}

/// A run, and the address after it.
#[derive(Clone, Copy)]
struct Stretch {
    run: PhysRun,
    end: u64,
}

impl Stretch {
    const NONE: Self = Self { run: PhysRun { gpa: Gpa::new(0), len: 0 }, end: 0 };
}

/// Joins pieces that touch, and lists the rest.
pub(super) struct Join<'o> {
    out: &'o mut VecView<PhysRun>,
    /// The last run, which may still grow: none while it has no bytes.
    open: Stretch,
}

impl Pieces for Join<'_> {
    #[inline(always)]
    fn take(&mut self, gpa: Gpa, len: u64) -> bool {
        if self.open.end == gpa.get() && self.open.run.len > 0 {
            self.open.run.len = self.open.run.len.wrapping_add(len);
        } else if !self.close() {
            return false;
        } else {
            self.open.run = PhysRun { gpa, len };
        }
        self.open.end = gpa.get().wrapping_add(len);
        true
    }
}

impl<'o> Join<'o> {
    pub(super) const fn new(out: &'o mut VecView<PhysRun>) -> Self {
        Self { out, open: Stretch::NONE }
    }

    /// Lists the open run, if the list has room for one more after it.
    fn close(&mut self) -> bool {
        if self.open.run.len == 0 {
            return self.out.capacity() > 0;
        }
        let room = self.out.len().wrapping_add(1) < self.out.capacity();
        room && self.out.push(self.open.run).is_ok()
    }

    pub(super) fn finish(self) {
        if self.open.run.len > 0 {
            // There is room: no run was opened without.
            let _ = self.out.push(self.open.run);
        }
    }
}

/// Compares pieces with runs that were joined before.
pub(super) struct Compare<'r> {
    runs: core::slice::Iter<'r, PhysRun>,
    left: PhysRun,
}

impl<'r> Compare<'r> {
    pub(super) fn new(runs: &'r [PhysRun]) -> Self {
        Self { runs: runs.iter(), left: PhysRun::default() }
    }

    /// Whether all of the runs were met.
    pub(super) fn is_at_end(&mut self) -> bool {
        self.left.len == 0 && self.runs.next().is_none()
    }
}

impl Pieces for Compare<'_> {
    #[inline(always)]
    fn take(&mut self, gpa: Gpa, len: u64) -> bool {
        if self.left.len == 0 {
            self.left = self.runs.next().copied().unwrap_or_default();
        }
        let Some(left) = self.left.len.checked_sub(len) else { return false };
        let same = self.left.gpa == gpa;
        self.left = PhysRun { gpa: gpa.wrapping_add(len), len: left };
        same
    }
}

#[cfg(test)]
mod tests {
    use heapless::Vec;

    use super::*;

    fn join<const N: usize>(pieces: &[(u64, u64)]) -> (Vec<(u64, u64), N>, usize) {
        let mut out = Vec::<PhysRun, N>::new();
        let mut join = Join::new(&mut out);
        let taken = pieces.iter().take_while(|(gpa, len)| join.take(Gpa::new(*gpa), *len)).count();
        join.finish();
        (out.iter().map(|run| (run.gpa.get(), run.len)).collect(), taken)
    }

    #[test]
    fn pieces_that_touch_are_joined_and_a_full_list_still_grows_its_last_run() {
        assert_eq!(join::<4>(&[(0, 4096), (4096, 4096), (0x9000, 10)]).0.as_slice(), [(0, 8192), (0x9000, 10)]);
        let pieces = [(0x1000, 4096), (0x8000, 4096), (0x9000, 4096), (0x3000, 4096)];
        let (runs, taken) = join::<2>(&pieces);
        assert_eq!((runs.as_slice(), taken), (&[(0x1000, 4096), (0x8000, 8192)][..], 3));
        assert_eq!(join::<0>(&pieces).1, 0);
        // A page at 0 does not touch what is not there, and one at the top of the address space nothing after it.
        assert_eq!(join::<2>(&[(u64::MAX - 4095, 4096), (0, 4096)]).1, 2);
    }

    #[test]
    fn a_comparison_finds_every_difference() {
        let runs = [PhysRun { gpa: Gpa::new(0x1000), len: 8192 }, PhysRun { gpa: Gpa::new(0x8000), len: 4096 }];
        let same = |pieces: &[(u64, u64)]| {
            let mut compare = Compare::new(&runs);
            pieces.iter().all(|(gpa, len)| compare.take(Gpa::new(*gpa), *len))
        };
        assert!(same(&[(0x1000, 4096), (0x2000, 4096), (0x8000, 4096)]));
        assert!(same(&[(0x1000, 8192), (0x8000, 4096)]));
        assert!(!same(&[(0x1000, 4096), (0x3000, 4096), (0x8000, 4096)]));
        assert!(!same(&[(0x1000, 8192), (0x9000, 4096)]));
        assert!(!same(&[(0x1000, 8193)]));
        assert!(!same(&[(0x1000, 8192), (0x8000, 4096), (0x9000, 4096)]));
    }
}
