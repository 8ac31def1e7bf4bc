//! Memories that misbehave: that change between two reads, that fail, that never say the same twice.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::BTreeSet;

use vgpu_perception::{Extent, Gpa, PageKind, PhysError, PhysErrorKind, PhysRead};

use crate::rng::Rng;

/// Which read of a [`Hooked`] memory a hook is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadEvent {
    /// The number of the read, from 0.
    pub number: u64,
    /// Where.
    pub gpa: Gpa,
    /// How many bytes.
    pub len: usize,
}

/// Calls a closure before each read (of one word or of one copy), so that RAM can be changed between two reads.
///
/// Copies of more than one page arrive as one read; a `load_words` arrives as one read a word.
pub struct Hooked<M, F> {
    /// What is read.
    pub inner: M,
    hook: RefCell<F>,
    number: Cell<u64>,
}

impl<M: fmt::Debug, F> fmt::Debug for Hooked<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").field("inner", &self.inner).field("number", &self.number).finish_non_exhaustive()
    }
}

impl<M, F: FnMut(ReadEvent)> Hooked<M, F> {
    /// Calls `hook` before each read; the hook must not read through this memory.
    pub const fn new(inner: M, hook: F) -> Self {
        Self { inner, hook: RefCell::new(hook), number: Cell::new(0) }
    }

    /// How many reads there were.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.number.get()
    }

    fn before(&self, gpa: Gpa, len: usize) {
        let number = self.number.get();
        self.number.set(number + 1);
        (self.hook.borrow_mut())(ReadEvent { number, gpa, len });
    }
}

impl<M: PhysRead, F: FnMut(ReadEvent)> PhysRead for Hooked<M, F> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.before(gpa, dst.len());
        self.inner.read(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.before(gpa, 4);
        self.inner.load_u32(gpa)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.before(gpa, 8);
        self.inner.load_u64(gpa)
    }

    fn fence_acquire(&self) {
        self.inner.fence_acquire();
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.inner.page_kind(page)
    }

    fn ram_end(&self) -> Gpa {
        self.inner.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.inner.next_extent(from)
    }
}

/// Fails wherever a read touches one of the given pages, as RAM that was taken from the guest would.
#[derive(Debug)]
pub struct Flaky<M> {
    /// What is read.
    pub inner: M,
    pages: BTreeSet<u64>,
    kind: PhysErrorKind,
}

impl<M> Flaky<M> {
    /// Fails with [`PhysErrorKind::Lost`] on the 4 KiB pages that hold `gpas`.
    pub fn new(inner: M, gpas: impl IntoIterator<Item = Gpa>) -> Self {
        let pages = gpas.into_iter().map(|gpa| gpa.get() >> 12).collect();
        Self { inner, pages, kind: PhysErrorKind::Lost }
    }

    fn check(&self, gpa: Gpa, len: usize) -> Result<(), PhysError> {
        let last = gpa.get().saturating_add(len.saturating_sub(1) as u64);
        match self.pages.range(gpa.get() >> 12..=last >> 12).next() {
            None => Ok(()),
            Some(page) => Err(PhysError::new(Gpa::new((page << 12).max(gpa.get())), self.kind)),
        }
    }
}

impl<M: PhysRead> PhysRead for Flaky<M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.check(gpa, dst.len())?;
        self.inner.read(gpa, dst)
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.check(gpa, 4)?;
        self.inner.load_u32(gpa)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.check(gpa, 8)?;
        self.inner.load_u64(gpa)
    }

    fn fence_acquire(&self) {
        self.inner.fence_acquire();
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.inner.page_kind(page)
    }

    fn ram_end(&self) -> Gpa {
        self.inner.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.inner.next_extent(from)
    }
}

/// Answers that change on every call: one read in `every` gives something else than is there. The seed decides all.
///
/// Whatever is read twice through this may differ; nothing may rest on the two being the same.
#[derive(Debug)]
pub struct Mutating<M> {
    /// What is read.
    pub inner: M,
    rng: RefCell<Rng>,
    every: u64,
}

impl<M> Mutating<M> {
    /// Changes one read in `every` (1: all of them).
    pub const fn new(inner: M, seed: u64, every: u64) -> Self {
        Self { inner, rng: RefCell::new(Rng::new(seed)), every }
    }

    /// A number to exclusive-or into an answer: mostly 0; else one bit, a small change of the page number, or anything.
    fn noise(&self) -> u64 {
        let mut rng = self.rng.borrow_mut();
        if !rng.one_in(self.every) {
            return 0;
        }
        match rng.below(4) {
            0 => 1 << rng.below(64),
            1 => rng.below(256) << 12,
            2 => rng.below(256),
            _ => rng.next_u64(),
        }
    }
}

impl<M: PhysRead> PhysRead for Mutating<M> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.inner.read(gpa, dst)?;
        let noise = self.noise();
        if noise != 0 && !dst.is_empty() {
            let at = self.rng.borrow_mut().below(dst.len() as u64);
            let at = usize::try_from(at).expect("an index of a slice fits");
            for (byte, change) in dst[at..].iter_mut().zip(noise.to_le_bytes()) {
                *byte ^= change;
            }
        }
        Ok(())
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        let noise = u32::try_from(self.noise() & 0xffff_ffff).expect("32 bits fit");
        Ok(self.inner.load_u32(gpa)? ^ noise)
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        Ok(self.inner.load_u64(gpa)? ^ self.noise())
    }

    fn fence_acquire(&self) {
        self.inner.fence_acquire();
    }

    fn page_kind(&self, page: Gpa) -> PageKind {
        self.inner.page_kind(page)
    }

    fn ram_end(&self) -> Gpa {
        self.inner.ram_end()
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        self.inner.next_extent(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ram;

    #[test]
    fn a_hook_changes_ram_between_two_reads() {
        let ram = Ram::flat(1 << 20);
        let writer = ram.clone();
        let mem = Hooked::new(&ram, |event: ReadEvent| {
            if event.number == 1 {
                writer.write_u64(event.gpa, 9);
            }
        });
        assert_eq!(mem.load_u64(Gpa::new(64)), Ok(0));
        assert_eq!(mem.load_u64(Gpa::new(64)), Ok(9));
        mem.load_words(Gpa::new(0), &mut [0; 3]).unwrap();
        assert_eq!(mem.reads(), 5);
    }

    #[test]
    fn flaky_pages_fail_and_their_neighbours_do_not() {
        let mem = Flaky::new(Ram::flat(1 << 20), [Gpa::new(0x3008)]);
        assert!(mem.load_u64(Gpa::new(0x2ff8)).is_ok());
        assert_eq!(mem.load_u32(Gpa::new(0x3ffc)), Err(PhysError::new(Gpa::new(0x3ffc), PhysErrorKind::Lost)));
        assert_eq!(mem.read(Gpa::new(0x2ff0), &mut [0; 32]).unwrap_err().gpa, Gpa::new(0x3000));
        assert!(mem.read(Gpa::new(0x4000), &mut [0; 32]).is_ok());
    }

    #[test]
    fn answers_change_and_the_seed_decides_how() {
        let ram = Ram::flat(1 << 20);
        let answers = |seed| {
            let mem = Mutating::new(&ram, seed, 2);
            (0..64).map(|_| mem.load_u64(Gpa::new(0)).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(answers(1), answers(1));
        assert_ne!(answers(1), answers(2));
        assert!(answers(1).contains(&0) && answers(1).iter().any(|answer| *answer != 0));
    }
}
