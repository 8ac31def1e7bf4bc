//! How much work an operation may do before it hands control back.

/// Loads that a resumable operation may still make.
///
/// The unit is one entry of a table or one line of a page. An operation finishes the piece that it began, so a budget can be
/// overdrawn by one piece: a table for most, and at most [`Budget::PIECE`] loads; what is larger says so in its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// The loads of the largest piece: a whole ring of page-table entries, or a table of frames that are read at once.
    pub const PIECE: u64 = 1 << 15;

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

    /// What was taken off a budget that began [`unlimited`](Self::unlimited).
    #[must_use]
    pub(crate) const fn spent(&self) -> u64 {
        u64::MAX.wrapping_sub(self.left)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.left == 0
    }
}
