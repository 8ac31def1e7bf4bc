//! Which of several candidates a caller who takes one is given.
//!
//! Any process of the guest can forge candidates, as many as it likes. So they come in turn: one is current until the caller
//! finds out that nobody beats behind it; then comes the next in an order that depends on the candidates alone, and after the
//! last the first again. What is remembered is one place, however many there are.

use vgpu_perception::find::{Rank, Verdict};
use vgpu_perception::region::Pulse;
use vgpu_perception::scan::{Candidate, Found, FoundBy};
use vgpu_perception::{AddressSpace, Gpa, Gva, Process};

use crate::kernel::Paging;

/// Where a candidate is: the table at its root, and its first address.
pub(crate) type Place = (Gpa, Gva);

/// The place at `base` of the space at `root`.
pub(crate) const fn place(space: &AddressSpace<Paging>, base: Gva) -> Place {
    (space.root.table(), base)
}

/// The candidate that is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub(crate) space: AddressSpace<Paging>,
    pub(crate) base: Gva,
    /// Its place in the order of all candidates, which has nothing to do with what the caller found out.
    rank: Rank,
    /// What was handed out, and what the next question is compared with.
    pub(crate) pulse: Pulse,
    /// The caller found it alive.
    alive: bool,
}

impl Current {
    pub(crate) fn new(space: AddressSpace<Paging>, base: Gva, found: &Found) -> Self {
        let (process, found) = (Process::unnamed(space), *found);
        Self::of(&Candidate { process, base, found, by: FoundBy::Page })
    }

    pub(crate) fn of(candidate: &Candidate<Paging>) -> Self {
        let rank = Rank::of(candidate, Verdict::Unknown);
        let (space, pulse) = (candidate.process.space, candidate.found.pulse);
        Self { space, base: candidate.base, rank, pulse, alive: false }
    }

    pub(crate) const fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    pub(crate) fn is_at(&self, at: Place) -> bool {
        place(&self.space, self.base) == at
    }
}

/// What is remembered of a guest's candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) current: Option<Current>,
    /// Whose turn was last.
    after: Option<Rank>,
}

impl Choice {
    pub(crate) const NONE: Self = Self { current: None, after: None };

    /// Whoever is current, looked at again.
    pub(crate) fn renewed(mut self, at: Place, pulse: Pulse) -> Option<Self> {
        let current = self.current.filter(|current| current.is_at(at))?;
        self.current = Some(current.with_pulse(pulse));
        Some(self)
    }

    /// The candidate at `at` has had its turn, if it was its turn.
    pub(crate) fn passed_over(self, at: Place) -> Option<Self> {
        let current = self.current.filter(|current| current.is_at(at))?;
        Some(Self { current: None, after: Some(current.rank) })
    }

    /// The caller found the candidate alive. It stays, unless another that was found alive is there.
    pub(crate) fn found_alive(self, candidate: Current) -> Option<Self> {
        let at = place(&candidate.space, candidate.base);
        match self.current {
            Some(current) if current.alive && !current.is_at(at) => None,
            _ => Some(Self { current: Some(Current { alive: true, ..candidate }), after: self.after }),
        }
    }

    /// The candidate is given from now on.
    pub(crate) const fn taken(self, candidate: Current) -> Self {
        Self { current: Some(candidate), after: self.after }
    }
}

/// Finds whose turn it is among candidates that come in any order, and perhaps more than once.
#[derive(Debug)]
pub(crate) struct Round {
    after: Option<Rank>,
    first: Option<Current>,
    next: Option<Current>,
}

impl Round {
    pub(crate) const fn new(choice: &Choice) -> Self {
        Self { after: choice.after, first: None, next: None }
    }

    pub(crate) fn see(&mut self, candidate: Current) {
        let least = |best: &mut Option<Current>| {
            if best.as_ref().is_none_or(|best| candidate.rank < best.rank) {
                *best = Some(candidate);
            }
        };
        least(&mut self.first);
        if self.after.is_some_and(|after| candidate.rank > after) {
            least(&mut self.next);
        }
    }

    /// The one after the last that had its turn; after the last of all, the first.
    pub(crate) fn chosen(self) -> Option<Current> {
        self.next.or(self.first)
    }
}
