//! Which of several candidates a caller who takes one is given.
//!
//! Any process of the guest can forge candidates, as many as it likes. So they come in turn: one is current until the
//! caller finds out that nobody beats behind it; then comes the next in an order that depends on the candidates alone,
//! and after the last the first again. What is remembered is one place, however many there are.

use vgpu_perception::find::{Rank, Verdict};
use vgpu_perception::region::Pulse;
use vgpu_perception::scan::{Candidate, Found};
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
        Self::of(&Candidate::probed(Process::unnamed(space), base, *found))
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

    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The one after the last that had its turn; after the last of all, the first.
    pub(crate) fn chosen(self) -> Option<Current> {
        self.next.or(self.first)
    }
}

#[cfg(test)]
mod tests {
    use vgpu_perception::Cr3;
    use vgpu_perception::abi::State;
    use vgpu_perception::paging::Residence;

    use super::*;

    fn candidate(number: u64, status: State) -> Current {
        let space = AddressSpace::new(Cr3::new((number * 7919 % 1009) << 12)).with_resolver(Paging::Hardware);
        let pulse = Pulse { heartbeat: 7, run_epoch: 1 };
        let found = Found { page: Gpa::new(0), residence: Residence::Present, pulse, status, frame_id: 5 };
        Current::new(space, Gva::new(number << 32), &found)
    }

    fn at(current: &Current) -> Place {
        place(&current.space, current.base)
    }

    /// What `scan::take` does, over candidates that are there all the time.
    fn take(choice: &mut Choice, there: &[Current]) -> Current {
        if let Some(current) = choice.current {
            return current;
        }
        let mut round = Round::new(choice);
        there.iter().for_each(|candidate| round.see(*candidate));
        let chosen = round.chosen().unwrap();
        *choice = choice.taken(chosen);
        chosen
    }

    #[test]
    fn every_candidate_has_its_turn_once_a_round() {
        let there: Vec<_> = (0..201).map(|number| candidate(number, State(number as u32 % 5))).collect();
        let mut choice = Choice::NONE;
        let mut rounds = Vec::new();
        for _ in 0..3 * there.len() {
            let current = take(&mut choice, &there);
            assert_eq!(at(&take(&mut choice, &there)), at(&current), "it stays until the caller answers");
            rounds.push(at(&current));
            choice = choice.passed_over(at(&current)).unwrap();
        }
        let (first, rest) = rounds.split_at(there.len());
        assert_eq!((first, first), rest.split_at(there.len()), "each round is the same");
        let mut places: Vec<_> = first.to_vec();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), there.len());
    }

    #[test]
    fn one_that_was_confirmed_stays() {
        let there: Vec<_> = (0..9).map(|number| candidate(number, State::CAPTURING)).collect();
        let mut choice = Choice::NONE;
        let first = take(&mut choice, &there);
        let other = *there.iter().find(|candidate| at(candidate) != at(&first)).unwrap();
        let third = *there.iter().find(|candidate| ![at(&first), at(&other)].contains(&at(candidate))).unwrap();
        assert!(choice.passed_over(at(&other)).is_none(), "it was not its turn");
        choice = choice.found_alive(other).unwrap();
        assert_eq!(at(&take(&mut choice, &there)), at(&other));
        assert!(choice.found_alive(third).is_none(), "the one that was there stays");
        choice = choice.found_alive(other).unwrap().passed_over(at(&other)).unwrap();
        assert_ne!(at(&take(&mut choice, &there)), at(&other));
    }

    #[test]
    fn one_that_vanished_costs_nobody_a_turn() {
        let mut there: Vec<_> = (0..5).map(|number| candidate(number, State::CAPTURING)).collect();
        there.sort_by_key(|candidate| candidate.rank);
        let mut choice = Choice::NONE;
        let first = take(&mut choice, &there);
        choice = choice.passed_over(at(&first)).unwrap();
        let gone = there.remove(0);
        assert_eq!(at(&gone), at(&first));
        for next in there.clone() {
            assert_eq!(at(&take(&mut choice, &there)), at(&next));
            choice = choice.passed_over(at(&next)).unwrap();
        }
        assert_eq!(at(&take(&mut choice, &there)), at(&there[0]), "after the last, the first");
    }
}
