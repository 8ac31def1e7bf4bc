//! A copy of one process object.

use zerocopy::IntoBytes;

use super::shared_data::{high, low};
use crate::addr::{Gva, PAGE_BYTES};
use crate::paging::{NotPresentResolver, PageWalker, WalkError};
use crate::phys::PhysRead;

/// Words of an object that are looked at. Known objects end before byte 0xc00.
pub(super) const WORDS: usize = 0x180;
/// Bytes of an object that are looked at.
const BYTES: usize = WORDS * 8;

/// `DISPATCHER_HEADER.Type` of a process.
const PROCESS: u64 = 3;
/// `KPROCESS.ProfileListHead`: an empty list in every process that nobody profiles.
const PROFILE_LIST: u16 = 0x18;

/// A process object, copied once: as many of its bytes as could be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) at: Gva,
    words: [u64; WORDS],
    len: usize,
}

impl Object {
    /// No object yet: for [`fill`](Self::fill).
    pub(super) const BLANK: Self = Self { at: Gva::new(0), words: [0; WORDS], len: 0 };

    /// Copies the object at `at`.
    pub(super) fn read<M: PhysRead, R: NotPresentResolver>(
        walker: &PageWalker<M, R>,
        at: Gva,
    ) -> Result<Self, WalkError> {
        let mut object = Self::BLANK;
        object.fill(walker, at)?;
        Ok(object)
    }

    /// Copies the object at `at` into this one, which is large enough that a second copy is worth saving. An object may
    /// end where the memory after it is not mapped, so that a second page that cannot be read only shortens the copy.
    pub(super) fn fill<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<M, R>,
        at: Gva,
    ) -> Result<(), WalkError> {
        let first = usize::try_from(PAGE_BYTES.wrapping_sub(at.get() % PAGE_BYTES)).unwrap_or(BYTES).min(BYTES);
        self.at = at;
        self.len = 0;
        if let Some((head, tail)) = self.words.as_mut_bytes().split_at_mut_checked(first) {
            walker.read(at, head)?;
            let whole = walker.read(at.wrapping_add(first as u64), tail).is_ok();
            self.len = if whole { BYTES } else { first };
        }
        for word in &mut self.words {
            *word = u64::from_le(*word);
        }
        Ok(())
    }

    /// From now on no more than `len` bytes are looked at.
    pub(super) fn cut(&mut self, len: u64) {
        self.len = self.len.min(usize::try_from(len).unwrap_or(usize::MAX));
    }

    /// The `u64` at a byte offset that is a multiple of 8.
    pub(super) fn word(&self, offset: u16) -> Option<u64> {
        let offset = usize::from(offset);
        if offset.wrapping_add(8) > self.len {
            return None;
        }
        self.words.get(offset / 8).copied()
    }

    /// The `u32` at a byte offset that is a multiple of 4.
    pub(super) fn half(&self, offset: u16) -> Option<u32> {
        let word = self.word(offset & !7)?;
        Some(if offset & 4 == 0 { low(word) } else { high(word) })
    }

    /// Every aligned word that was read, with its offset.
    pub(super) fn words(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0_u16..).step_by(8).zip(self.words.iter().copied().take(self.len / 8))
    }

    /// The 15 bytes of a name at `offset`.
    pub(super) fn name(&self, offset: u16) -> Option<[u8; 16]> {
        let (first, second) = (self.word(offset)?, self.word(offset.checked_add(8)?)?);
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(first.to_le_bytes().into_iter().chain(second.to_le_bytes())) {
            *to = from;
        }
        if let Some(priority) = name.last_mut() {
            *priority = 0;
        }
        Some(name)
    }

    /// Whether this reads like a process object: what does not depend on the version.
    pub(super) fn is_process(&self) -> bool {
        let list = self.at.wrapping_add(PROFILE_LIST.into()).get();
        self.at.get().is_multiple_of(16)
            && self.word(0).is_some_and(|header| header & 0xff == PROCESS)
            && self.word(PROFILE_LIST) == Some(list)
            && self.word(PROFILE_LIST.wrapping_add(8)) == Some(list)
    }

    /// `DISPATCHER_HEADER.SignalState`: set once the process has ended.
    pub(super) fn is_signaled(&self) -> bool {
        self.half(4) != Some(0)
    }
}
