//! Entries of a table that are read before it is known whether they are needed, where every read is a system call.

use super::blocks::WHOLE;
use crate::addr::Gpa;
use crate::budget::Budget;
use crate::phys::{PhysError, PhysRead};

/// Entries that are read ahead: one, then two, then four more, and so on. So a stretch of zeros takes few reads, and
/// what is read is never twice what is looked at. Every word that is read is spent.
pub(super) struct Ahead {
    words: [u64; WHOLE / 2],
    at: Gpa,
    /// The entries there are.
    most: u64,
    /// Those that are in `words`.
    first: u64,
    len: u64,
}

impl Ahead {
    /// The `most` entries from `at` on.
    pub(super) const fn new(at: Gpa, most: u64) -> Self {
        Self { words: [0; WHOLE / 2], at, most, first: 0, len: 0 }
    }

    /// Entry `n`, asked for in order; `None` where the budget is spent before it is read.
    pub(super) fn word<M: PhysRead>(&mut self, mem: &M, n: u64, budget: &mut Budget) -> Result<Option<u64>, PhysError> {
        if n >= self.first.wrapping_add(self.len) {
            if budget.is_spent() {
                return Ok(None);
            }
            let len = self.len.wrapping_mul(2).max(1).min(self.most.wrapping_sub(n)).min(self.words.len() as u64);
            let words = self.words.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            budget.spend(len);
            mem.load_words(self.at.wrapping_add(n.wrapping_mul(8)), words)?;
            (self.first, self.len) = (n, len);
        }
        let place = usize::try_from(n.wrapping_sub(self.first)).unwrap_or(WHOLE);
        Ok(self.words.get(place).copied())
    }
}
