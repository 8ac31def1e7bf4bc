//! What a walk leaves behind: the entries that it used.

use super::error::WalkErrorKind;
use super::not_present::{NotPresentEntry, NotPresentResolver, Resolved};
use super::pte::Pte;
use super::walk::PageWalker;
use crate::addr::Gpa;
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

/// The entries that a walk used: re-reading them tells whether the translation still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    steps: [(Gpa, Pte); 5],
    len: u8,
    complete: bool,
}

impl Trail {
    pub(super) const EMPTY: Self = Self { steps: [(Gpa::new(0), Pte::new(0)); 5], len: 0, complete: true };

    #[inline]
    fn push(&mut self, at: Gpa, entry: Pte) {
        if let Some(step) = self.steps.get_mut(usize::from(self.len)) {
            *step = (at, entry);
            self.len = self.len.wrapping_add(1);
        }
    }

    /// Whether the entries alone decide the translation: not so where an absent entry was given its meaning by other
    /// structures.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Re-reads the entries and says whether each still maps what it did; what the processor sets by itself is ignored.
    ///
    /// # Errors
    /// [`PhysError`] where an entry can no longer be read.
    #[inline(always)]
    pub fn still_holds<M: PhysRead>(&self, mem: &M) -> Result<bool, PhysError> {
        match self.steps.first_chunk::<4>() {
            // By far the most, unrolled: all four are loaded before any is judged, so that their misses overlap.
            Some(steps) if self.len == 4 && self.complete => {
                let mut differs = 0;
                for (at, entry) in steps {
                    let Some(word) = mem.load_at_once(*at) else { return self.all_hold(mem) };
                    differs |= entry.get() ^ word;
                }
                Ok(differs & !(Pte::ACCESSED | Pte::DIRTY) == 0)
            }
            _ => self.all_hold(mem),
        }
    }

    /// Starts to fetch the entries, which [`still_holds`](Self::still_holds) will read.
    #[inline(always)]
    pub fn prefetch<M: PhysRead>(&self, mem: &M) {
        for (at, _) in self.steps.iter().take(usize::from(self.len)) {
            mem.prefetch(*at);
        }
    }

    #[cold]
    #[inline(never)]
    fn all_hold<M: PhysRead>(&self, mem: &M) -> Result<bool, PhysError> {
        let mut same = true;
        for (at, entry) in self.steps.iter().take(usize::from(self.len)) {
            same &= entry.same_mapping(Pte::new(mem.load_u64(*at)?));
        }
        Ok(same)
    }
}

/// What a walk leaves behind besides its result: nothing, or a trail.
pub(super) trait Record<R: NotPresentResolver> {
    fn step(&mut self, at: Gpa, entry: Pte);

    /// Asks what an entry without P means. What decides from here on is more than the entries.
    #[inline]
    fn ask<M: PhysRead>(
        &mut self,
        walker: &PageWalker<M, R>,
        entry: &NotPresentEntry,
    ) -> Result<Resolved, WalkErrorKind> {
        walker.meaning(entry, &mut R::Lookup::default(), &mut Budget::unlimited())
    }
}

impl<R: NotPresentResolver> Record<R> for () {
    #[inline(always)]
    fn step(&mut self, _at: Gpa, _entry: Pte) {}
}

/// A walk whose loads are spent on a budget.
impl<R: NotPresentResolver> Record<R> for Budget {
    #[inline(always)]
    fn step(&mut self, _at: Gpa, _entry: Pte) {
        self.spend(1);
    }
    fn ask<M: PhysRead>(
        &mut self,
        walker: &PageWalker<M, R>,
        entry: &NotPresentEntry,
    ) -> Result<Resolved, WalkErrorKind> {
        walker.meaning(entry, &mut R::Lookup::default(), self)
    }
}

impl<R: NotPresentResolver> Record<R> for Trail {
    #[inline]
    fn step(&mut self, at: Gpa, entry: Pte) {
        self.push(at, entry);
    }
    fn ask<M: PhysRead>(
        &mut self,
        walker: &PageWalker<M, R>,
        entry: &NotPresentEntry,
    ) -> Result<Resolved, WalkErrorKind> {
        self.complete = false;
        walker.meaning(entry, &mut R::Lookup::default(), &mut Budget::unlimited())
    }
}
