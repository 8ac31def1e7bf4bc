//! What becomes of a range that is resolved piece by piece: joined into runs, or compared with runs.

use heapless::VecView;

use super::pte::Pte;
use crate::addr::{Gpa, PAGE_BYTES, PageSize};
use crate::phys::PhysRun;

/// What becomes of the pieces of a range, in order.
pub(super) trait Pieces {
    /// Takes `len` bytes at `gpa`, or says that they are not taken: the range ends before them.
    fn take(&mut self, gpa: Gpa, len: u64) -> bool;

    /// Takes the 4 KiB pages of `entries`, in order, and gives how many of them were taken.
    #[inline(always)]
    fn take_pages(&mut self, entries: &[u64]) -> usize {
        one_by_one(self, entries)
    }
}

/// Takes pages as pieces of their own, and gives how many were taken.
#[inline(always)]
fn one_by_one(to: &mut (impl Pieces + ?Sized), entries: &[u64]) -> usize {
    entries.iter().take_while(|raw| to.take(page(**raw), PAGE_BYTES)).count()
}

/// The page of an entry.
#[inline(always)]
const fn page(raw: u64) -> Gpa {
    Pte::new(raw).frame(PageSize::Size4K)
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

    /// Pages none of which touches the one before, which are most of a frame whose pages are scattered, are listed at
    /// once.
    #[inline(always)]
    fn take_pages(&mut self, entries: &[u64]) -> usize {
        let is_open = self.open.run.len > 0;
        // No page begins at the end of an address space.
        let (mut end, mut touches) = (if is_open { self.open.end } else { u64::MAX }, false);
        for raw in entries {
            touches |= page(*raw).get() == end;
            end = page(*raw).get().wrapping_add(PAGE_BYTES);
        }
        let runs = self.out.len().saturating_add(usize::from(is_open)).saturating_add(entries.len());
        let (false, Some((last, rest))) = (touches || runs > self.out.capacity(), entries.split_last()) else {
            return one_by_one(self, entries);
        };
        // There is room: it was counted.
        if is_open {
            let _ = self.out.push(self.open.run);
        }
        for raw in rest {
            let _ = self.out.push(PhysRun { gpa: page(*raw), len: PAGE_BYTES });
        }
        self.open = Stretch { run: PhysRun { gpa: page(*last), len: PAGE_BYTES }, end };
        entries.len()
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

    /// Pages that are a run each are compared at once.
    #[inline(always)]
    fn take_pages(&mut self, entries: &[u64]) -> usize {
        if self.left.len == 0
            && let Some((runs, after)) = self.runs.as_slice().split_at_checked(entries.len())
        {
            let differs = entries
                .iter()
                .zip(runs)
                .fold(0, |differs, (raw, run)| differs | (page(*raw).get() ^ run.gpa.get()) | (run.len ^ PAGE_BYTES));
            if differs == 0 {
                self.runs = after.iter();
                return entries.len();
            }
        }
        one_by_one(self, entries)
    }
}

#[cfg(test)]
mod tests {
    use heapless::Vec;
    use vgpu_perception_testkit::Rng;

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

    /// Pieces that are given one by one even where they are whole pages: what `take_pages` has to agree with.
    struct OneByOne<P>(P);

    impl<P: Pieces> Pieces for OneByOne<P> {
        fn take(&mut self, gpa: Gpa, len: u64) -> bool {
            self.0.take(gpa, len)
        }
    }

    /// Gives the entries in parts, with a piece of `head` bytes before them, until one part is not taken whole. Gives
    /// what was taken.
    fn give(to: &mut impl Pieces, head: u64, entries: &[u64], part: usize) -> usize {
        assert!(head == 0 || to.take(Gpa::new(0x7000_0000), head));
        let mut taken = 0;
        for part in entries.chunks(part) {
            let of_part = to.take_pages(part);
            taken += of_part;
            if of_part < part.len() {
                break;
            }
        }
        taken
    }

    /// Pages of which each touches the one before with a chance of `touching` in 8.
    fn entries(rng: &mut Rng, touching: u64) -> std::vec::Vec<u64> {
        let mut page = 0;
        let mut next = || {
            page = if rng.below(8) < touching { page + 1 } else { rng.below(1 << 20) };
            page << 12 | 0x67
        };
        (0..80).map(|_| next()).collect()
    }

    #[test]
    fn pages_are_joined_at_once_as_they_are_one_by_one() {
        let mut rng = Rng::new(17);
        for round in 0..4000 {
            let touching = round % 9;
            let entries = entries(&mut rng, touching);
            let (head, part) = ([0, 100, 4096][rng.below(3) as usize], 1 + rng.below(80) as usize);
            let (mut at_once, mut single) = (Vec::<PhysRun, 60>::new(), Vec::<PhysRun, 60>::new());
            let mut join = Join::new(&mut at_once);
            let taken = give(&mut join, head, &entries, part);
            join.finish();
            let mut join = OneByOne(Join::new(&mut single));
            assert_eq!(taken, give(&mut join, head, &entries, part), "{head} {part} {entries:x?}");
            join.0.finish();
            assert_eq!(at_once, single, "{head} {part} {entries:x?}");
            assert!(taken == entries.len() || at_once.is_full(), "{head} {part} {entries:x?}");
        }
    }

    #[test]
    fn pages_are_compared_at_once_as_they_are_one_by_one() {
        let mut rng = Rng::new(18);
        let mut found = 0;
        for round in 0..4000 {
            let mut entries = entries(&mut rng, round % 9);
            let (head, part) = ([0, 100, 4096][rng.below(3) as usize], 1 + rng.below(80) as usize);
            let mut runs = Vec::<PhysRun, 96>::new();
            let mut join = Join::new(&mut runs);
            assert_eq!(give(&mut join, head, &entries, part), entries.len());
            join.finish();
            let changed = rng.below(2) == 0;
            if changed {
                let nth = rng.below(80) as usize;
                entries[nth] ^= 1 << (12 + rng.below(20));
            }
            let (mut at_once, mut single) = (Compare::new(&runs), OneByOne(Compare::new(&runs)));
            let taken = give(&mut at_once, head, &entries, part);
            assert_eq!(taken, give(&mut single, head, &entries, part), "{head} {part} {entries:x?}");
            let same = taken == entries.len() && at_once.is_at_end();
            assert_eq!(same, !changed, "{head} {part} {entries:x?}");
            assert_eq!(single.0.is_at_end(), at_once.is_at_end(), "{head} {part} {entries:x?}");
            found += usize::from(!same);
        }
        assert!(found > 1000, "{found}");
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
        // A page that is a run of its own is not what follows half of a run.
        let mut compare = Compare::new(&runs);
        assert!(compare.take(Gpa::new(0x1000), 4096));
        assert_eq!(compare.take_pages(&[0x8067]), 0);
    }
}
