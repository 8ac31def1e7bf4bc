//! Why guest physical memory could not be read.

use core::fmt;

use crate::addr::Gpa;

/// Guest physical memory that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysError {
    /// The first address that could not be read.
    pub gpa: Gpa,
    /// Why.
    pub kind: PhysErrorKind,
}

impl PhysError {
    /// An error at `gpa`.
    #[must_use]
    pub const fn new(gpa: Gpa, kind: PhysErrorKind) -> Self {
        Self { gpa, kind }
    }
}

/// Why guest physical memory could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PhysErrorKind {
    /// No RAM there: a gap of the machine's map, device space, or past the end.
    Gap,
    /// A word load at an address that is not a multiple of its size.
    Misaligned,
    /// The lengths of a scattered read do not add up to its buffer.
    BadLength,
    /// The RAM file no longer has these bytes (it shrank under its mapping).
    Lost,
    /// The embedder's callback failed with this code.
    Backend(i32),
    /// The caller cancelled the operation: see [`PhysRead::is_cancelled`](super::PhysRead::is_cancelled).
    Cancelled,
    /// The process whose memory this is has ended: start again from the guest's name.
    Ended,
}

impl fmt::Display for PhysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpa = self.gpa;
        match self.kind {
            PhysErrorKind::Gap => write!(f, "guest physical {gpa} is not RAM by the segment map"),
            PhysErrorKind::Misaligned => write!(f, "guest physical {gpa} is not aligned for a word load"),
            PhysErrorKind::BadLength => write!(f, "runs at guest physical {gpa} do not fit the buffer"),
            PhysErrorKind::Lost => {
                write!(f, "guest physical {gpa} is not there any more: its file shrank, or its process unmapped it")
            }
            PhysErrorKind::Cancelled => f.write_str("the caller cancelled the operation"),
            PhysErrorKind::Ended => f.write_str("the process that holds the guest's RAM has ended: attach anew"),
            PhysErrorKind::Backend(code) => {
                write!(f, "the memory callback failed at guest physical {gpa} with code {code}")
            }
        }
    }
}

impl core::error::Error for PhysError {}
