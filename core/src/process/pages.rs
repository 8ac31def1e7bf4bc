//! A pass over physical memory, page by page.

use super::Step;
use crate::addr::{Gpa, PAGE_BYTES};
use crate::budget::Budget;
use crate::phys::{Extent, Line, PhysError, PhysErrorKind, PhysRead};

/// Entries of two cache lines that lie together: what a pass looks at first of a page.
pub(super) const PAIR: usize = 16;
/// Bytes of them.
pub(super) const PAIR_BYTES: u64 = 128;
/// Bytes of a line.
const LINE_BYTES: u64 = 64;
/// Pages that are looked at in one go: as many as a word has bits.
const BATCH: usize = u64::BITS as usize;

/// What a pass looks at first of every page of RAM: two words that lie in one pair of lines.
pub(super) trait FirstLook {
    /// Where the words lie in a page, in bytes; both may be the same.
    fn at(&self) -> [u64; 2];

    /// Whether a page with these passes; one with two zeros does not. Without a branch, as far as that can be.
    fn passes(&self, words: [u64; 2]) -> bool;

    /// Whether all of the pair fits, where it was read as a whole.
    fn fits(&self, pair: &[u64; PAIR]) -> bool;
}

/// Loads two words of each page, from those at `first` on; those of a page that is gone again are 0.
#[inline(always)]
fn columns<M: PhysRead>(mem: &M, first: [Gpa; 2], words: &mut [[u64; 2]]) {
    if mem.load_columns(first, PAGE_BYTES, words).is_err() {
        page_by_page(mem, first, words);
    }
}

#[cold]
#[inline(never)]
fn page_by_page<M: PhysRead>(mem: &M, first: [Gpa; 2], words: &mut [[u64; 2]]) {
    let mut at = first;
    for words in words {
        *words = at.map(|at| mem.load_u64(at).unwrap_or(0));
        at = at.map(|at| at.wrapping_add(PAGE_BYTES));
    }
}

/// Whether a page passes by its whole pair.
fn passes_whole(look: &impl FirstLook, pair: &[u64; PAIR]) -> bool {
    let word = |offset: u64| usize::try_from(offset % PAIR_BYTES / 8).ok().and_then(|index| pair.get(index).copied());
    let [one, other] = look.at().map(word);
    one.zip(other).is_some_and(|(one, other)| look.passes([one, other])) && look.fits(pair)
}

/// A pass over the pages of RAM that hold data: resumable, one page at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    next: Gpa,
    extent: Option<Extent>,
    pub(super) looked_at: u64,
    /// Of the 64 pages from here on those that passed a first look and are still to be handed out, as bits.
    first: Gpa,
    passed: u64,
}

impl Pages {
    pub(super) const fn new() -> Self {
        Self::from(Gpa::new(0))
    }

    /// The pages at or after `next`.
    pub(super) const fn from(next: Gpa) -> Self {
        Self { next, extent: None, looked_at: 0, first: Gpa::new(0), passed: 0 }
    }

    /// Begins at the first page again.
    pub(super) const fn restart(&mut self) {
        self.next = Gpa::new(0);
        self.extent = None;
        self.passed = 0;
    }

    /// Whether a page lies in the stretch of data that the pass is in: it need not be asked for again.
    #[inline]
    pub(super) fn is_inside(&self, page: Gpa) -> bool {
        self.extent.is_some_and(|extent| page >= extent.start && page.wrapping_add(PAGE_BYTES) <= extent.end())
    }

    /// The next whole page that passes a first look.
    ///
    /// # Bound
    /// A block of [`BATCH`] pages is looked at at once: two loads a page, or the 16 of a pair where the memory is read
    /// in batches, all of them spent on `budget`, which they can overdraw.
    #[inline(always)]
    pub(super) fn advance_to<M: PhysRead>(
        &mut self,
        mem: &M,
        look: &impl FirstLook,
        budget: &mut Budget,
    ) -> Result<Step<Gpa>, PhysError> {
        loop {
            if self.passed != 0 {
                let skip = u64::from(self.passed.trailing_zeros()).wrapping_mul(PAGE_BYTES);
                self.passed &= self.passed.wrapping_sub(1);
                return Ok(Step::Found(self.first.wrapping_add(skip)));
            }
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let before = *self;
            let Some(first) = self.advance(mem)? else { return Ok(Step::Done) };
            self.first = first;
            if mem.batch() > 1 {
                if let Err(error) = self.look_in_batches(mem, look, budget) {
                    *self = before;
                    return Err(error);
                }
            } else {
                self.look(mem, look, budget);
            }
        }
    }

    /// Looks at the pages from `first`, which was handed out, to the 63rd after it or to the end of the stretch, each
    /// by its two words. What is done with them takes no branch: RAM full of random bytes would make it a guess.
    #[inline(always)]
    fn look<M: PhysRead>(&mut self, mem: &M, look: &impl FirstLook, budget: &mut Budget) {
        let end = self.extent.map_or(self.next, Extent::end);
        let more = end.get().saturating_sub(self.next.get()) / PAGE_BYTES;
        let count = usize::try_from(more).unwrap_or(BATCH).saturating_add(1).min(BATCH);
        let mut words = [[0_u64; 2]; BATCH];
        let at = look.at();
        if let Some(words) = words.get_mut(..count) {
            columns(mem, at.map(|offset| self.first.wrapping_add(offset)), words);
        }
        let loads = if at[0] == at[1] { 1 } else { 2 };
        budget.spend((count as u64).wrapping_mul(loads));
        for words in words.iter().rev() {
            self.passed = self.passed.wrapping_shl(1) | u64::from(look.passes(*words));
        }
        self.next = self.first.wrapping_add((count as u64).wrapping_mul(PAGE_BYTES));
        self.looked_at = self.looked_at.wrapping_add(count as u64).wrapping_sub(1);
    }

    /// The same by whole pairs of lines, asked for all at once, across the ends of stretches.
    #[inline(never)]
    fn look_in_batches<M: PhysRead>(
        &mut self,
        mem: &M,
        look: &impl FirstLook,
        budget: &mut Budget,
    ) -> Result<(), PhysError> {
        let offset = look.at()[0] & !PAIR_BYTES.wrapping_sub(1);
        let end = self.first.get().saturating_add((BATCH as u64).wrapping_mul(PAGE_BYTES));
        let mut at = [Gpa::new(0); 2 * BATCH];
        let mut count = 0_usize;
        let mut page = Some(self.first);
        while let Some(here) = page {
            let pair = here.wrapping_add(offset);
            for (slot, line) in at.iter_mut().skip(count).zip([pair, pair.wrapping_add(LINE_BYTES)]) {
                *slot = line;
            }
            count = count.wrapping_add(2);
            page = if count < at.len() { self.advance_below(mem, end)? } else { None };
        }
        budget.spend((count as u64).wrapping_mul(PAIR as u64 / 2));
        let mut lines = [Line::default(); 2 * BATCH];
        let mut done = 0_usize;
        while let Some(wanted) = at.get(done..count).filter(|rest| !rest.is_empty()) {
            let loaded = mem.load_lines(wanted, &mut lines)?;
            for (gpa, pair) in wanted.iter().step_by(2).zip(lines.as_chunks::<2>().0).take(loaded / 2) {
                if pair.as_flattened().first_chunk().is_some_and(|pair| passes_whole(look, pair)) {
                    let page = gpa.get().wrapping_sub(self.first.get()) / PAGE_BYTES;
                    self.passed |= 1_u64.wrapping_shl(u32::try_from(page).unwrap_or(0));
                }
            }
            // The pair after those that were loaded is of a page that is gone again: there is nothing in it.
            done = done.wrapping_add(loaded & !1).wrapping_add(2);
        }
        Ok(())
    }

    /// The next whole page, if it lies below `end`.
    fn advance_below<M: PhysRead>(&mut self, mem: &M, end: u64) -> Result<Option<Gpa>, PhysError> {
        let before = *self;
        let page = self.advance(mem)?.filter(|page| page.get() < end);
        if page.is_none() {
            *self = before;
        }
        Ok(page)
    }

    /// The next whole page.
    #[inline]
    pub(super) fn advance<M: PhysRead>(&mut self, mem: &M) -> Result<Option<Gpa>, PhysError> {
        loop {
            if let Some(extent) = self.extent {
                let page = self.next;
                // Both are page-aligned, and an extent does not pass 2^64.
                if page.wrapping_add(PAGE_BYTES) <= extent.end() && page >= extent.start {
                    self.next = page.wrapping_add(PAGE_BYTES);
                    self.looked_at = self.looked_at.wrapping_add(1);
                    return Ok(Some(page));
                }
            }
            if mem.is_cancelled() {
                return Err(PhysError::new(self.next, PhysErrorKind::Cancelled));
            }
            let Some(extent) = mem.next_extent(self.next)? else { return Ok(None) };
            let Some(start) = extent.start.get().checked_next_multiple_of(PAGE_BYTES) else { return Ok(None) };
            // An extent with no whole page in it, or one that lies before where we are: go on behind it.
            let end = extent.end().get() & !PAGE_BYTES.wrapping_sub(1);
            if start >= end {
                let Some(behind) = extent.end().get().checked_next_multiple_of(PAGE_BYTES) else { return Ok(None) };
                if behind <= self.next.get() {
                    return Ok(None);
                }
                self.next = Gpa::new(behind);
                self.extent = None;
                continue;
            }
            self.next = Gpa::new(start);
            self.extent = Some(Extent { start: Gpa::new(start), len: end.wrapping_sub(start) });
        }
    }
}
