//! How much work an operation may do before it hands control back.

/// Loads that a resumable operation may still make.
///
/// The unit is one load of a word, whoever makes it: a resolver's loads are spent as well. An operation finishes the
/// piece that it began, so a budget can be overdrawn by one piece: a table for most, and at most [`Budget::PIECE`]
/// loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
    /// What was taken off, also where nothing was left.
    spent: u64,
}

impl Budget {
    /// The loads of the largest piece: what a step can overdraw its budget by.
    pub const PIECE: u64 = 1 << 15;

    /// A budget of `loads`.
    #[must_use]
    pub const fn new(loads: u64) -> Self {
        Self { left: loads, spent: 0 }
    }

    /// A budget that is never used up in practice: operations stay bounded by their own limits.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { left: u64::MAX, spent: 0 }
    }

    /// What is left.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Takes `loads` off; false where nothing was left before.
    #[inline]
    pub fn spend(&mut self, loads: u64) -> bool {
        let had_some = self.left > 0;
        self.left = self.left.saturating_sub(loads);
        self.spent = self.spent.saturating_add(loads);
        had_some
    }

    /// What was taken off, also where nothing was left: the loads that were really made.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.spent
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }
}
