//! How much work an operation may do before it hands control back.

/// Loads that a resumable operation may still make.
///
/// The unit is one entry of a table or one line of a page, as far as an operation can tell before it starts the next
/// piece; a piece is at most a whole table (512 entries), so a budget can be overdrawn by that much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// A budget of `loads`.
    #[must_use]
    pub const fn new(loads: u64) -> Self {
        Self { left: loads }
    }

    /// A budget that is never used up in practice: operations stay bounded by their own limits.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { left: u64::MAX }
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
        had_some
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }
}
