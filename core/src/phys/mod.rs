//! The bytes of a guest's RAM: the one trait that an embedder implements.
//!
//! Everything above this module sees guest memory only through [`PhysRead`]. The guest writes that memory while it is
//! read, so the trait has no way to hand out a reference into it: bytes are copied into buffers of the caller, and the
//! words that a seqlock rests on are loaded one at a time.

mod callback;
mod copy;
mod error;
mod extent;
mod window;

pub use callback::CallbackRam;
pub use copy::{CopyHint, CopyMethod, CopyOptions, CopyPolicy, NextUse};
pub use error::{PhysError, PhysErrorKind};
pub use extent::{Extent, Extents, next_in};
pub use window::Window;

use crate::addr::Gpa;

/// A cache line as eight little-endian words.
pub type Line = [u64; 8];

/// Read access to the physical memory of a running guest.
///
/// # What an implementation promises
///
/// 1. **Single-copy atomicity.** [`load_u32`](Self::load_u32), [`load_u64`](Self::load_u64) and each element of
///    [`load_words`](Self::load_words) are one load of that size: a value that the guest stored with one aligned store
///    is seen whole or not at all. On x86-64 and AArch64 an aligned `mov`/`ldr` is that.
/// 2. **Ordering.** Loads may be relaxed. No load that the program makes after a [`fence_acquire`](Self::fence_acquire)
///    may be satisfied before a load that the program made before it; a copy ([`read`](Self::read),
///    [`read_runs`](Self::read_runs)) counts as loads of every byte it copies, all made before it returns. The seqlock
///    rests on this and on nothing else.
/// 3. **Gaps are errors, never zeros.** A *gap* is no RAM: a range that touches one gives a [`PhysError`]; `dst` is
///    then unspecified. A *hole* is RAM of a sparse file that was never written: it reads as zeros.
/// 4. **No short reads.** `Ok` means that all of `dst` was filled from guest memory.
/// 5. **No cache.** Two loads of one address are two loads of guest memory.
///
/// An implementation that cannot keep promise 1 for 64 bits (a 32-bit host) may split the load: every 64-bit field of
/// the region that is not under a seqlock is then a best effort, nothing else changes.
///
/// Words are returned as little-endian values whatever the host is.
///
/// # A backend without a mapping
///
/// A backend that only has a callback uses [`CallbackRam`]; it is as correct, only slower.
pub trait PhysRead {
    /// Copies `dst.len()` bytes at `gpa`.
    ///
    /// # Errors
    /// [`PhysError`] naming the first byte that could not be read.
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError>;

    /// Loads the aligned little-endian `u32` at `gpa`.
    ///
    /// # Errors
    /// [`PhysError`], also where `gpa` is not a multiple of four.
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError>;

    /// Loads the aligned little-endian `u64` at `gpa`.
    ///
    /// # Errors
    /// [`PhysError`], also where `gpa` is not a multiple of eight.
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError>;

    /// Loads consecutive aligned `u64`s, each as [`load_u64`](Self::load_u64) would; a backend overrides this to look
    /// the address up once.
    ///
    /// # Errors
    /// As [`load_u64`](Self::load_u64); `dst` is then unspecified.
    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        let mut at = gpa;
        for word in dst {
            *word = self.load_u64(at)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// As [`load_u64`](Self::load_u64), where that is a matter of a few instructions: `None` says nothing about the
    /// memory, and whoever gets it asks `load_u64`.
    ///
    /// This is how the entries behind a snapshot are read again: a backend whose rare cases are calls keeps them out of
    /// the way, and with them the registers that a call costs.
    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        self.load_u64(gpa).ok()
    }

    /// Loads two aligned `u64`s of each stretch of `stride` bytes: those at `at`, those `stride` bytes further and so
    /// on, each as [`load_u64`](Self::load_u64) would; where both are one, it is loaded once.
    ///
    /// This is how a pass looks at every page of RAM: a backend that looks the addresses up once leaves the processor
    /// room to have many of the loads, each a cache miss, in flight.
    ///
    /// # Errors
    /// As [`load_u64`](Self::load_u64) of the first that cannot be loaded; `dst` is then unspecified.
    #[inline]
    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        let [mut one, mut other] = at;
        for [first, second] in dst {
            *first = self.load_u64(one)?;
            *second = if one == other { *first } else { self.load_u64(other)? };
            (one, other) = (one.wrapping_add(stride), other.wrapping_add(stride));
        }
        Ok(())
    }

    /// Copies several physical ranges, in order, into `dst`, whose length is the sum of theirs.
    ///
    /// This is how frames travel: a backend that is handed all runs of a stretch can overlap their cache misses. The
    /// provided method copies one after the other.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`PhysErrorKind::BadLength`] where the lengths do not add up to `dst.len()`.
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        let _ = hint;
        let mut rest = dst;
        for run in runs {
            let len = usize::try_from(run.len).ok().filter(|len| *len <= rest.len());
            let Some((head, tail)) = len.and_then(|len| rest.split_at_mut_checked(len)) else {
                return Err(PhysError::new(run.gpa, PhysErrorKind::BadLength));
            };
            self.read(run.gpa, head)?;
            rest = tail;
        }
        if rest.is_empty() { Ok(()) } else { Err(PhysError::new(Gpa::new(0), PhysErrorKind::BadLength)) }
    }

    /// Says that all of a transfer lies in `dst` now, copied by [`read_runs`](Self::read_runs) with this hint, and that
    /// its bytes count.
    ///
    /// What reading a copy costs depends on how it was stored, and shows only once all of it was stored: a backend that
    /// measures its copies reads a part of `dst` here. The provided method does nothing.
    fn copied(&self, dst: &[u8], hint: CopyHint) {
        let _ = (dst, hint);
    }

    /// Orders all loads made before it ahead of all loads made after it.
    ///
    /// A model checker overrides this with its own fence; nobody else should.
    #[inline]
    fn fence_acquire(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    }

    /// Loads the 64-byte line at each address of `at`, in order, word by word as [`load_words`](Self::load_words) does.
    ///
    /// Gives how many lines were loaded before the first that could not be; those after it are unspecified. A caller
    /// that goes on asks again behind that line. As many are loaded as the shorter of the two slices has. A backend
    /// whose every call is a system call overrides this with one call for all.
    ///
    /// # Errors
    /// [`PhysError`] where the memory as a whole cannot be read any more, not where a line cannot.
    #[inline]
    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        let mut loaded = 0_usize;
        for (gpa, line) in at.iter().zip(lines) {
            if self.load_words(*gpa, line).is_err() {
                break;
            }
            loaded = loaded.wrapping_add(1);
        }
        Ok(loaded)
    }

    /// How many lines a pass over memory should ask [`load_lines`](Self::load_lines) for at once: 1 where a load is a
    /// load, some hundred where each call is a system call.
    #[inline]
    fn batch(&self) -> usize {
        1
    }

    /// The first stretch of RAM that holds data at or after `from`, clipped to start no earlier than `from`.
    ///
    /// Passes over physical memory follow this: a backend over a sparse file leaves the file's holes out, since reading
    /// a hole of a tmpfs file allocates it. A stretch need not be maximal. `Ok(None)`: no RAM with data at or after
    /// `from`.
    ///
    /// # Errors
    /// [`PhysError`] where the backend cannot tell.
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError>;

    /// An address that no RAM lies at or above, as long as this memory is used: the end of RAM where the backend knows
    /// it.
    ///
    /// A pass over physical memory tells by it what cannot be the address of a page. The provided method says the end
    /// of the address space, which is always right; such a pass then looks twice at more pages.
    #[inline]
    fn ram_end(&self) -> Gpa {
        Gpa::new(u64::MAX)
    }

    /// All stretches of RAM that hold data, in ascending order, as [`next_extent`](Self::next_extent) gives them: two
    /// that touch may be one. An error ends them.
    ///
    /// ```
    /// use vgpu_perception::{PhysError, PhysRead};
    /// fn bytes_with_data(ram: &impl PhysRead) -> Result<u64, PhysError> {
    ///     ram.extents().map(|extent| Ok(extent?.len)).sum()
    /// }
    /// ```
    fn extents(&self) -> Extents<'_, Self>
    where
        Self: Sized,
    {
        Extents::new(self)
    }

    /// What the 4 KiB page at `page` is: asked before reading what only a guest's word vouches for.
    ///
    /// The provided method asks [`next_extent`](Self::next_extent), and takes what holds no data for a gap: right for a
    /// backend without holes. A backend that has holes, or for which the end of an extent is expensive to find,
    /// overrides it.
    fn page_kind(&self, page: Gpa) -> PageKind {
        match self.next_extent(page) {
            Ok(Some(extent)) if extent.start == page && extent.len >= crate::PAGE_BYTES => PageKind::Data,
            _ => PageKind::Gap,
        }
    }

    /// Whether reading the 4 KiB page at `page` would fill a hole: asked for every table before it is read.
    ///
    /// As [`page_kind`](Self::page_kind), but a backend may answer from what it knew a few questions ago. An answer
    /// that is no longer true costs the host a page of zeros; what is read is right either way.
    #[inline]
    fn fills_hole(&self, page: Gpa) -> bool {
        self.page_kind(page) == PageKind::Hole
    }

    /// Whether the 4 KiB page at `page` is RAM, written or not.
    #[inline]
    fn is_ram(&self, page: Gpa) -> bool {
        self.page_kind(page) != PageKind::Gap
    }

    /// Whether the 4 KiB page at `page` is RAM that holds data: where not, it is a gap, or all zeros.
    #[inline]
    fn holds_data(&self, page: Gpa) -> bool {
        self.page_kind(page) == PageKind::Data
    }

    /// Whether the caller wants long operations to end. They ask once a piece of work and then give
    /// [`PhysErrorKind::Cancelled`]; asking has to be cheap, an atomic load at most.
    #[inline(always)]
    fn is_cancelled(&self) -> bool {
        false
    }

    /// A raw view of mapped guest memory, for backends that have one: see [`Window`].
    #[inline]
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        let _ = (gpa, len);
        None
    }

    /// Says that the line at `gpa` will be wanted soon. Never fails, never faults, may do nothing.
    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        let _ = gpa;
    }
}

impl<M: PhysRead + ?Sized> PhysRead for &M {
    #[inline]
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        (**self).read(gpa, dst)
    }
    #[inline(always)]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        (**self).load_u32(gpa)
    }
    #[inline(always)]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        (**self).load_u64(gpa)
    }
    #[inline(always)]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        (**self).load_words(gpa, dst)
    }
    #[inline]
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        (**self).read_runs(runs, dst, hint)
    }
    #[inline]
    fn copied(&self, dst: &[u8], hint: CopyHint) {
        (**self).copied(dst, hint);
    }
    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        (**self).load_at_once(gpa)
    }
    #[inline]
    fn fence_acquire(&self) {
        (**self).fence_acquire();
    }
    #[inline]
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        (**self).next_extent(from)
    }
    #[inline]
    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        (**self).load_columns(at, stride, dst)
    }

    fn ram_end(&self) -> Gpa {
        (**self).ram_end()
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [Line]) -> Result<usize, PhysError> {
        (**self).load_lines(at, lines)
    }
    #[inline(always)]
    fn batch(&self) -> usize {
        (**self).batch()
    }
    #[inline]
    fn page_kind(&self, page: Gpa) -> PageKind {
        (**self).page_kind(page)
    }
    #[inline]
    fn fills_hole(&self, page: Gpa) -> bool {
        (**self).fills_hole(page)
    }
    #[inline(always)]
    fn is_cancelled(&self) -> bool {
        (**self).is_cancelled()
    }
    #[inline]
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        (**self).window(gpa, len)
    }
    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        (**self).prefetch(gpa);
    }
}

/// A range that is contiguous in guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PhysRun {
    /// Its first byte.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
}

/// What a page of guest physical memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// No RAM: between segments, device space, or past the end. Reading it is an error.
    Gap,
    /// RAM of a sparse file that was never written: it reads as zeros, and reading it may allocate it.
    Hole,
    /// RAM that holds data.
    Data,
}
