//! What a backend is told about a copy: how large it is, who reads the bytes next, and which method to use.

/// What is known about a copy beyond its runs, so that a backend can choose how to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHint {
    /// Bytes of the whole transfer of which these runs are a part.
    pub total: u64,
    /// What the caller does with the bytes.
    pub next_use: NextUse,
    /// Which method copies them.
    pub policy: CopyPolicy,
}

impl CopyHint {
    /// A hint that leaves the method to the backend.
    #[must_use]
    pub const fn new(total: u64, next_use: NextUse) -> Self {
        Self { total, next_use, policy: CopyPolicy::Auto }
    }

    /// The same hint with another policy.
    #[must_use]
    pub const fn with_policy(self, policy: CopyPolicy) -> Self {
        Self { policy, ..self }
    }
}

/// How the caller of a frame wants it copied. [`NextUse`] converts into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CopyOptions {
    /// What the caller does with the bytes.
    pub next_use: NextUse,
    /// Which method copies them.
    pub policy: CopyPolicy,
}

impl CopyOptions {
    /// The hint for a transfer of `total` bytes.
    #[must_use]
    pub const fn hint(self, total: u64) -> CopyHint {
        CopyHint { total, next_use: self.next_use, policy: self.policy }
    }
}

impl From<NextUse> for CopyOptions {
    fn from(next_use: NextUse) -> Self {
        Self { next_use, policy: CopyPolicy::Auto }
    }
}

/// What the caller does with copied bytes: decides between stores that fill the caches and stores that pass them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NextUse {
    /// Nothing is known: the backend decides by size.
    #[default]
    Unknown,
    /// This thread reads all of it at once (an encoder, a checksum).
    ReadSoon,
    /// It is handed on unread (DMA, another machine, a later time).
    Handoff,
}

/// Who chooses the method of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CopyPolicy {
    /// The backend, by what it has measured or knows.
    #[default]
    Auto,
    /// The caller, for results that do not depend on a measurement. A backend without such a method uses its plain one.
    Fixed(CopyMethod),
}

/// A copy method of a backend. The backend names and numbers its methods; the number means nothing to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyMethod(pub u8);
