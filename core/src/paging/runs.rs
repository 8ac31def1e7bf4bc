//! A range of addresses as runs that are contiguous in physical memory.

use heapless::VecView;

use super::entry::{Grants, Level, Pte, Rights};
use super::error::WalkError;
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolved};
use super::trail::Record;
use super::walk::PageWalker;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PageSize};
use crate::budget::Budget;
use crate::phys::{PhysRead, PhysRun};

/// Entries of a leaf table that are read at a time.
const BLOCK: usize = 64;

/// Notes the table and index of the last entry of a walk, so that the entries after it can be read in sequence.
struct LastEntry<L> {
    at: Gpa,
    trimmed: bool,
    /// What the resolver remembers from one page of the range to the next.
    lookup: L,
}

impl<R: NotPresentResolver> Record<R> for LastEntry<R::Lookup> {
    #[inline]
    fn step(&mut self, at: Gpa, _entry: Pte) {
        self.at = at;
    }
    fn ask<M: PhysRead>(&mut self, walker: &PageWalker<M, R>, entry: &NotPresentEntry) -> Result<Resolved, WalkError> {
        self.trimmed = true;
        walker.meaning(entry, &mut self.lookup, &mut Budget::unlimited())
    }
}

/// What becomes of the pieces of a range, in order.
trait Pieces {
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
struct Join<'o> {
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

impl Join<'_> {
    /// Lists the open run, if the list has room for one more after it.
    fn close(&mut self) -> bool {
        if self.open.run.len == 0 {
            return self.out.capacity() > 0;
        }
        let room = self.out.len().wrapping_add(1) < self.out.capacity();
        room && self.out.push(self.open.run).is_ok()
    }

    fn finish(self) {
        if self.open.run.len > 0 {
            // There is room: no run was opened without.
            let _ = self.out.push(self.open.run);
        }
    }
}

/// Compares pieces with runs that were joined before.
struct Compare<'r> {
    runs: core::slice::Iter<'r, PhysRun>,
    left: PhysRun,
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

/// The frame of the first of these entries, where every other one has the frame after that of the entry before it.
#[inline(always)]
fn one_run(words: &[u64]) -> Option<Gpa> {
    let frame = |raw: u64| Pte::new(raw).frame(PageSize::Size4K);
    let pages = (words.len() as u64).wrapping_sub(1);
    let (first, last) = (frame(*words.first()?), frame(*words.last()?));
    // Most blocks that are no run show it here.
    if last != first.wrapping_add(pages.wrapping_mul(PAGE_BYTES)) {
        return None;
    }
    let (mut expected, mut differs) = (first, 0);
    for raw in words {
        differs |= frame(*raw).get() ^ expected.get();
        expected = expected.wrapping_add(PAGE_BYTES);
    }
    (differs == 0).then_some(first)
}

impl<M: PhysRead, R: NotPresentResolver> PageWalker<M, R> {
    /// Resolves `len` bytes at `gva` into `out` (cleared first), in order, neighbours joined, until the range is covered or
    /// the list is full. Returns the bytes that `out` covers, from `gva` on.
    ///
    /// Leaf tables are read in sequence: a range costs one walk for every 2 MiB it touches, not one a page.
    ///
    /// # Bound
    /// A walk for every 2 MiB window and one entry for every 4 KiB page. Pages that a resolver finds cost a walk and the
    /// resolver's loads each, and up to 64 entries that were read in vain ahead of it.
    ///
    /// # Errors
    /// The [`WalkError`] of the first page. Where a later page fails, the pages before it are returned, and the next call,
    /// at `gva` plus what was covered, gives its error.
    pub fn runs(&self, gva: Gva, len: u64, out: &mut VecView<PhysRun>) -> Result<u64, WalkError> {
        out.clear();
        let mut join = Join { out, open: Stretch::NONE };
        let covered = self.pieces(gva, len, &mut join);
        join.finish();
        covered
    }

    /// Whether `len` bytes at `gva` lie in `runs`, which [`runs`](Self::runs) gave: the same entries are read again.
    ///
    /// # Bound
    /// As [`runs`](Self::runs).
    #[must_use]
    pub fn still_in(&self, gva: Gva, len: u64, runs: &[PhysRun]) -> bool {
        let mut compare = Compare { runs: runs.iter(), left: PhysRun::default() };
        self.pieces(gva, len, &mut compare) == Ok(len) && compare.left.len == 0 && compare.runs.next().is_none()
    }

    fn pieces(&self, gva: Gva, len: u64, to: &mut impl Pieces) -> Result<u64, WalkError> {
        let mut covered = 0_u64;
        let mut last = LastEntry { at: Gpa::new(0), trimmed: false, lookup: R::Lookup::default() };
        while covered < len {
            let Some(at) = gva.checked_add(covered) else { return Self::end(covered, WalkError::NonCanonical { gva }) };
            last.trimmed = false;
            let found = match self.walk(at, &mut last) {
                Ok(found) => found,
                Err(error) => return Self::end(covered, error),
            };
            let take = found.bytes_left().min(len.wrapping_sub(covered));
            if !to.take(found.gpa, take) {
                return Ok(covered);
            }
            covered = covered.wrapping_add(take);
            if found.size == PageSize::Size4K && !last.trimmed {
                covered = match self.rest_of_table(at, last.at, found.rights, covered, len, to) {
                    (covered, true) => covered,
                    (covered, false) => return Ok(covered),
                };
            }
        }
        Ok(covered)
    }

    fn end(covered: u64, error: WalkError) -> Result<u64, WalkError> {
        if covered == 0 { Err(error) } else { Ok(covered) }
    }

    /// Goes on in the leaf table after the entry at `entry_at`, which translated `gva`. Returns what is covered and whether
    /// all of it was taken. Stops, with all taken, at the first entry that needs a walk of its own.
    #[inline(always)]
    fn rest_of_table(
        &self,
        gva: Gva,
        entry_at: Gpa,
        first: Rights,
        mut covered: u64,
        len: u64,
        to: &mut impl Pieces,
    ) -> (u64, bool) {
        let mut left_in_table = 511_u64.wrapping_sub(Level::Pt.index(gva));
        let mut at = entry_at.wrapping_add(8);
        let mut block = [0_u64; BLOCK];
        while left_in_table > 0 && covered < len {
            let pages = len.wrapping_sub(covered).div_ceil(PAGE_BYTES).min(left_in_table);
            let count = usize::try_from(pages).unwrap_or(BLOCK).min(BLOCK);
            let Some(words) = block.get_mut(..count) else { return (covered, true) };
            if self.mem().load_words(at, words).is_err() {
                return (covered, true);
            }
            let (sound, all_sound) = self.sound_entries(first, words);
            if let Some(frame) = one_run(words).filter(|_| all_sound) {
                let take = (count as u64).wrapping_mul(PAGE_BYTES).min(len.wrapping_sub(covered));
                if !to.take(frame, take) {
                    return (covered, false);
                }
                covered = covered.wrapping_add(take);
            } else {
                for raw in words.iter().take(sound) {
                    let take = PAGE_BYTES.min(len.wrapping_sub(covered));
                    if !to.take(Pte::new(*raw).frame(PageSize::Size4K), take) {
                        return (covered, false);
                    }
                    covered = covered.wrapping_add(take);
                }
            }
            if !all_sound {
                return (covered, true);
            }
            let count = count as u64;
            left_in_table = left_in_table.wrapping_sub(count);
            at = at.wrapping_add(count.wrapping_mul(8));
        }
        (covered, true)
    }

    /// How many entries of a page table, from the first on, a walk would follow without asking anybody, and whether that is
    /// all of them.
    #[inline(always)]
    fn sound_entries(&self, first: Rights, words: &[u64]) -> (usize, bool) {
        // What all set and what any sets decide for nearly every block; a page of it that does not fit is found one by one.
        let mut met = Grants::START;
        for raw in words {
            met = met.and(Pte::new(*raw));
        }
        if self.follows(first, met) {
            return (words.len(), true);
        }
        let sound = words.iter().take_while(|raw| self.follows(first, Grants::START.and(Pte::new(**raw)))).count();
        (sound, false)
    }

    /// Each entry's own bits count as they would in a walk; a grant that the first entry lacked is not inferred, so a page
    /// that needs it is walked again from the top.
    #[inline(always)]
    fn follows(&self, first: Rights, met: Grants) -> bool {
        met.present() && met.any_of(self.beyond()) == 0 && first.and(met.rights()).grant(self.need())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join<const N: usize>(pieces: &[(u64, u64)]) -> (heapless::Vec<(u64, u64), N>, usize) {
        let mut out = heapless::Vec::<PhysRun, N>::new();
        let mut join = Join { out: &mut out, open: Stretch::NONE };
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
            let mut compare = Compare { runs: runs.iter(), left: PhysRun::default() };
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
