//! A range of addresses as runs that are contiguous in physical memory.

use heapless::{Vec, VecView};

use super::blocks::{BLOCK, Blocks, ENTRIES, WHOLE};
use super::error::{WalkError, WalkErrorKind};
use super::level::Level;
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolution, Resolved};
use super::pieces::{Compare, Join, Pieces};
use super::pte::Pte;
use super::rights::Grants;
use super::trail::Record;
use super::walk::PageWalker;
use crate::addr::{Gpa, Gva, PAGE_BYTES, PAGE_SHIFT, PageSize};
use crate::budget::Budget;
use crate::phys::{PhysRead, PhysRun};

/// A list of at most `N` runs, for [`PageWalker::runs`]. It reads as a slice.
#[derive(Clone, Debug, Default)]
pub struct RunList<const N: usize> {
    runs: Vec<PhysRun, N>,
}

impl<const N: usize> RunList<N> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }
}

impl<const N: usize> core::ops::Deref for RunList<N> {
    type Target = [PhysRun];

    #[inline]
    fn deref(&self) -> &[PhysRun] {
        &self.runs
    }
}

/// Notes the last entry of a walk and what the entries above it grant, so that the entries after it can be read in
/// sequence.
struct LastEntry<L> {
    at: Gpa,
    last: Pte,
    above: Grants,
    /// The entry without P that the walk met last, if any.
    asked: Option<NotPresentEntry>,
    /// What the resolver remembers from one page of the range to the next.
    lookup: L,
}

impl<L: Default> LastEntry<L> {
    fn new() -> Self {
        Self { at: Gpa::new(0), last: Pte::new(0), above: Grants::START, asked: None, lookup: L::default() }
    }

    /// Begins another walk. What the resolver remembers stays.
    const fn restart(&mut self) {
        self.last = Pte::new(0);
        self.above = Grants::START;
        self.asked = None;
    }

    /// Whether the last entry was one of a page table.
    fn is_in_leaf_table(&self, size: PageSize) -> bool {
        let is_leaf = |asked: NotPresentEntry| asked.level == Level::Pt;
        size == PageSize::Size4K && (self.last.is_present() || self.asked.is_some_and(is_leaf))
    }

    /// The entry above the page tables, without P, that led to the page itself: it stands for a whole table.
    fn instead_of_a_table(&self) -> Option<NotPresentEntry> {
        self.asked.filter(|asked| asked.level != Level::Pt && !self.last.is_present())
    }
}

impl<R: NotPresentResolver> Record<R> for LastEntry<R::Lookup> {
    #[inline]
    fn step(&mut self, at: Gpa, entry: Pte) {
        // An entry without P that led to a table takes nothing away.
        if self.last.is_present() {
            self.above = self.above.and(self.last);
        }
        self.at = at;
        self.last = entry;
    }
    fn ask<M: PhysRead>(
        &mut self,
        walker: &PageWalker<M, R>,
        entry: &NotPresentEntry,
    ) -> Result<Resolved, WalkErrorKind> {
        self.asked = Some(*entry);
        walker.meaning(entry, &mut self.lookup, &mut Budget::unlimited())
    }
}

/// What a resolver is asked with.
struct Asking<'l, L> {
    above: Grants,
    lookup: &'l mut L,
}

/// What became of entries that were taken one by one.
enum OneByOne {
    All,
    /// One of them needs a walk of its own; those before it were taken.
    NeedsAWalk,
    /// One of them was not taken.
    Refused,
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
    /// Resolves `len` bytes at `gva` into `out` (cleared first), in order, neighbours joined, until the range is
    /// covered or the list is full. Returns the bytes that `out` covers, from `gva` on.
    ///
    /// Leaf tables are read in sequence: a range costs one walk for every 2 MiB it touches, not one a page.
    ///
    /// # Bound
    /// A walk for every 2 MiB window and one entry for every 4 KiB page; what a resolver reads comes on top, at most
    /// [`NotPresentResolver::LOADS`] for each page. An entry above the page tables that stands for whole tables is read
    /// once for every 2 MiB as well.
    ///
    /// # Errors
    /// The [`WalkError`] of the first page. Where a later page fails, the pages before it are returned, and the next
    /// call, at `gva` plus what was covered, gives its error.
    #[inline]
    pub fn runs<const N: usize>(&self, gva: Gva, len: u64, out: &mut RunList<N>) -> Result<u64, WalkError> {
        self.runs_into(gva, len, &mut out.runs)
    }

    /// As [`runs`](Self::runs), the same code for lists of every length.
    pub(crate) fn runs_into(&self, gva: Gva, len: u64, out: &mut VecView<PhysRun>) -> Result<u64, WalkError> {
        out.clear();
        let mut join = Join::new(out);
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
        let mut compare = Compare::new(runs);
        self.pieces(gva, len, &mut compare) == Ok(len) && compare.is_at_end()
    }

    fn pieces(&self, gva: Gva, len: u64, to: &mut impl Pieces) -> Result<u64, WalkError> {
        let mut covered = 0_u64;
        let mut last = LastEntry::new();
        while covered < len {
            let Some(at) = gva.checked_add(covered) else {
                return Self::end(covered, WalkErrorKind::NonCanonical.at(gva));
            };
            last.restart();
            let found = match self.walk(at, &mut last) {
                Ok(found) => found,
                Err(kind) => return Self::end(covered, kind.at(at)),
            };
            let take = found.bytes_left().min(len.wrapping_sub(covered));
            if !to.take(found.gpa, take) {
                return Ok(covered);
            }
            covered = covered.wrapping_add(take);
            if last.is_in_leaf_table(found.size) {
                let rest = if self.mem().batch() > 1 {
                    self.rest_of_whole_table(at, &mut last, covered, len, to)
                } else {
                    self.rest_of_table::<BLOCK>(at, &mut last, covered, len, to)
                };
                covered = match rest {
                    (covered, true) => covered,
                    (covered, false) => return Ok(covered),
                };
            } else if let Some(asked) = last.instead_of_a_table()
                && !self.rest_of_absent(at, asked, &mut last.lookup, (&mut covered, len), to)
            {
                return Ok(covered);
            }
        }
        Ok(covered)
    }

    fn end(covered: u64, error: WalkError) -> Result<u64, WalkError> {
        if covered == 0 { Err(error) } else { Ok(covered) }
    }

    /// As [`rest_of_table`](Self::rest_of_table), all of the table by one load. Apart: it takes a table's worth of
    /// stack.
    #[inline(never)]
    fn rest_of_whole_table(
        &self,
        gva: Gva,
        last: &mut LastEntry<R::Lookup>,
        covered: u64,
        len: u64,
        to: &mut impl Pieces,
    ) -> (u64, bool) {
        self.rest_of_table::<WHOLE>(gva, last, covered, len, to)
    }

    /// Goes on in the leaf table after the entry `last`, which translated `gva`. Returns what is covered and whether
    /// all of it was taken. Stops, with all taken, at the first entry that needs a walk of its own.
    #[inline(always)]
    fn rest_of_table<const N: usize>(
        &self,
        gva: Gva,
        last: &mut LastEntry<R::Lookup>,
        mut covered: u64,
        len: u64,
        to: &mut impl Pieces,
    ) -> (u64, bool) {
        let above = last.above;
        let next = Level::Pt.index(gva).wrapping_add(1);
        let end = next.saturating_add(len.wrapping_sub(covered).div_ceil(PAGE_BYTES)).min(ENTRIES);
        let mut blocks = Blocks::<M, N>::new(self.mem(), last.at.align_down(PageSize::Size4K), &(next..end));
        while blocks.upcoming() > 0 {
            let first = blocks.index();
            let Ok(words) = blocks.read() else { return (covered, true) };
            let (sound, all_sound) = self.sound_entries(above, words);
            if let Some(frame) = one_run(words).filter(|_| all_sound) {
                let take = (words.len() as u64).wrapping_mul(PAGE_BYTES).min(len.wrapping_sub(covered));
                if !to.take(frame, take) {
                    return (covered, false);
                }
                covered = covered.wrapping_add(take);
            } else {
                let (sound, _) = words.split_at_checked(sound).unwrap_or((words, &[]));
                let whole = usize::try_from(len.wrapping_sub(covered) / PAGE_BYTES).unwrap_or(usize::MAX);
                let (pages, cut) = sound.split_at_checked(whole).unwrap_or((sound, &[]));
                let taken = to.take_pages(pages);
                covered = covered.wrapping_add((taken as u64).wrapping_mul(PAGE_BYTES));
                if taken < pages.len() {
                    return (covered, false);
                }
                // The range ends inside a page.
                if let Some(raw) = cut.first() {
                    let take = len.wrapping_sub(covered);
                    if !to.take(Pte::new(*raw).frame(PageSize::Size4K), take) {
                        return (covered, false);
                    }
                    covered = covered.wrapping_add(take);
                }
            }
            if !all_sound {
                if !R::RESOLVES {
                    return (covered, true);
                }
                let rest = words.get(sound..).unwrap_or_default();
                let index = first.wrapping_add(sound as u64);
                let page = gva.align_down(PageSize::Size2M).wrapping_add(index << PAGE_SHIFT);
                let asking = Asking { above, lookup: &mut last.lookup };
                match self.one_by_one(page, rest, asking, (&mut covered, len), to) {
                    OneByOne::All => {}
                    OneByOne::NeedsAWalk => return (covered, true),
                    OneByOne::Refused => return (covered, false),
                }
            }
        }
        (covered, true)
    }

    /// Takes the entries `words` of a page table, the first of which translates `page`, each by itself; those without P
    /// as the resolver says.
    #[cold]
    #[inline(never)]
    fn one_by_one(
        &self,
        page: Gva,
        words: &[u64],
        asking: Asking<'_, R::Lookup>,
        (covered, len): (&mut u64, u64),
        to: &mut impl Pieces,
    ) -> OneByOne {
        let mut gva = page;
        let above = asking.above.rights();
        for raw in words {
            let entry = Pte::new(*raw);
            let gpa = if entry.is_present() {
                if !self.follows(Level::Pt, entry, asking.above, self.need()) {
                    return OneByOne::NeedsAWalk;
                }
                entry.frame(PageSize::Size4K)
            } else {
                let asked = NotPresentEntry { gva, level: Level::Pt, entry: *raw, rights: above };
                match self.meaning(&asked, asking.lookup, &mut Budget::unlimited()).map(|answer| answer.resolution) {
                    Ok(Resolution::Page { gpa, rights }) if self.judge_rights(&asked, rights).is_ok() => gpa,
                    // The walk says what is wrong.
                    _ => return OneByOne::NeedsAWalk,
                }
            };
            let take = PAGE_BYTES.min(len.wrapping_sub(*covered));
            if !to.take(gpa, take) {
                return OneByOne::Refused;
            }
            *covered = covered.wrapping_add(take);
            gva = gva.wrapping_add(PAGE_BYTES);
        }
        OneByOne::All
    }

    /// Goes on after the page of `gva` in what `asked`, an entry above the page tables, says of the 2 MiB around it:
    /// the table that it stands for has no entries that could be read. Stops, with all taken, at the first page that
    /// needs a walk of its own; false where one was not taken.
    #[cold]
    #[inline(never)]
    fn rest_of_absent(
        &self,
        gva: Gva,
        asked: NotPresentEntry,
        lookup: &mut R::Lookup,
        (covered, len): (&mut u64, u64),
        to: &mut impl Pieces,
    ) -> bool {
        let mut page = gva.align_down(PageSize::Size4K).wrapping_add(PAGE_BYTES);
        while *covered < len && !page.is_aligned(PageSize::Size2M) {
            let asked = NotPresentEntry { gva: page, ..asked };
            let answer = self.meaning(&asked, lookup, &mut Budget::unlimited()).map(|answer| answer.resolution);
            let Ok(Resolution::Page { gpa, rights }) = answer else { return true };
            if self.judge_rights(&asked, rights).is_err() {
                return true;
            }
            let take = PAGE_BYTES.min(len.wrapping_sub(*covered));
            if !to.take(gpa, take) {
                return false;
            }
            *covered = covered.wrapping_add(take);
            page = page.wrapping_add(PAGE_BYTES);
        }
        true
    }

    /// How many entries of a page table, from the first on, a walk would follow without asking anybody, and whether
    /// that is all of them.
    #[inline(always)]
    fn sound_entries(&self, above: Grants, words: &[u64]) -> (usize, bool) {
        // What all set and what any sets decide for nearly every block; a page of it that does not fit is found one by
        // one.
        let met = words.iter().fold(above, |met, raw| met.and(Pte::new(*raw)));
        if met.follow(self.beyond(), self.need()) {
            return (words.len(), true);
        }
        let follows = |raw: &&u64| self.follows(Level::Pt, Pte::new(**raw), above, self.need());
        (words.iter().take_while(follows).count(), false)
    }
}
