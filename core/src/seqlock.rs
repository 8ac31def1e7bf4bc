//! The reader's side of a sequence lock whose writer is another machine: the only place that knows the protocol.
//!
//! ```text
//! s1 = load(seq); fence(acquire)      odd: a write is under way
//! payload, word by word
//! fence(acquire); s2 = load(seq)      s1 == s2: the payload is one state of the writer
//! ```
//!
//! The first load is relaxed and followed by a fence, not an acquire load: the reader's mapping is read-only, and on
//! such memory only relaxed loads are promised to work (`core::sync::atomic`, "Atomic accesses to read-only memory").
//! The same words are verified by a model checker through [`PhysRead`]: there is no other copy of this code.
//!
//! A sequence number that wraps is normal. A writer that makes exactly 2^32 steps during one copy is not detected.

use crate::addr::Gpa;
use crate::phys::{PhysError, PhysRead};

/// How often a snapshot is tried before the writer is taken to be busy.
pub const ATTEMPTS: u32 = 8;

/// A read section: everything loaded while it is open is one state of the writer if
/// [`is_unchanged`](Self::is_unchanged) says so afterwards.
#[derive(Debug)]
pub struct ReadSection<'m, M> {
    mem: &'m M,
    at: Gpa,
    seq: u32,
}

/// How a read section starts.
#[derive(Debug)]
pub enum Begin<'m, M> {
    /// No write is under way.
    Open(ReadSection<'m, M>),
    /// The sequence number is odd: a write is under way, or its writer stopped half-way.
    Busy {
        /// The number.
        seq: u32,
    },
}

impl<'m, M: PhysRead> ReadSection<'m, M> {
    /// Opens a section under the sequence number at `at`.
    ///
    /// # Errors
    /// [`PhysError`] where the number cannot be loaded.
    #[inline]
    pub fn begin(mem: &'m M, at: Gpa) -> Result<Begin<'m, M>, PhysError> {
        let seq = mem.load_u32(at)?;
        mem.fence_acquire();
        Ok(if seq & 1 == 0 { Begin::Open(Self { mem, at, seq }) } else { Begin::Busy { seq } })
    }

    /// The number under which the section was opened.
    #[must_use]
    pub const fn seq(&self) -> u32 {
        self.seq
    }

    /// Whether no write began since the section was opened: what was loaded in it is then consistent.
    ///
    /// # Errors
    /// [`PhysError`] where the number cannot be loaded any more.
    #[inline]
    pub fn is_unchanged(&self) -> Result<bool, PhysError> {
        self.mem.fence_acquire();
        Ok(self.mem.load_u32(self.at)? == self.seq)
    }
}
