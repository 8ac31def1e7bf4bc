//! The bytes of a guest's RAM: the one trait that an embedder implements.
//!
//! Everything above this module sees guest memory only through [`PhysRead`]. The guest writes that memory while it is
//! read, so the trait has no way to hand out a reference into it: bytes are copied into buffers of the caller, and the
//! words that a seqlock rests on are loaded one at a time.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::addr::Gpa;

/// Read access to the physical memory of a running guest.
///
/// # What an implementation promises
///
/// 1. **Single-copy atomicity.** [`load_u32`](Self::load_u32), [`load_u64`](Self::load_u64) and each element of
///    [`load_words`](Self::load_words) are one load of that size: a value that the guest stored with one aligned store is
///    seen whole or not at all. On x86-64 and AArch64 an aligned `mov`/`ldr` is that.
/// 2. **Ordering.** Loads may be relaxed. No load that the program makes after a [`fence_acquire`](Self::fence_acquire)
///    may be satisfied before a load that the program made before it; a copy ([`read`](Self::read),
///    [`read_runs`](Self::read_runs)) counts as loads of every byte it copies, all made before it returns. The seqlock
///    rests on this and on nothing else.
/// 3. **Holes are errors, never zeros.** A range that is not wholly guest RAM gives a [`PhysError`]; `dst` is then
///    unspecified.
/// 4. **No short reads.** `Ok` means that all of `dst` was filled from guest memory.
/// 5. **No cache.** Two loads of one address are two loads of guest memory.
///
/// An implementation that cannot keep promise 1 for 64 bits (a 32-bit host) may split the load: every 64-bit field of the
/// region that is not under a seqlock is then a best effort, nothing else changes.
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

    /// Loads consecutive aligned `u64`s, each as [`load_u64`](Self::load_u64) would; a backend overrides this to look the
    /// address up once.
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

    /// Orders all loads made before it ahead of all loads made after it.
    ///
    /// A model checker overrides this with its own fence; nobody else should.
    #[inline]
    fn fence_acquire(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    }

    /// The first stretch of RAM that holds data at or after `from`, clipped to start no earlier than `from`.
    ///
    /// Passes over physical memory follow this: a backend over a sparse file leaves the file's holes out, since reading a
    /// hole of a tmpfs file allocates it. A stretch need not be maximal. `Ok(None)`: no RAM at or after `from`.
    ///
    /// # Errors
    /// [`PhysError`] where the backend cannot tell.
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError>;

    /// Whether the 4 KiB page at `page` is RAM that holds data: asked before reading what only a guest's word vouches for.
    ///
    /// The provided method asks [`next_extent`](Self::next_extent); a backend for which the end of an extent is dear to
    /// find overrides it.
    fn holds_page(&self, page: Gpa) -> bool {
        self.next_extent(page)
            .is_ok_and(|extent| extent.is_some_and(|extent| extent.start == page && extent.len >= crate::PAGE_BYTES))
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
    fn fence_acquire(&self) {
        (**self).fence_acquire();
    }
    #[inline]
    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        (**self).next_extent(from)
    }
    #[inline]
    fn holds_page(&self, page: Gpa) -> bool {
        (**self).holds_page(page)
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

/// A stretch of guest RAM, `start .. start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: Gpa,
    /// Its length in bytes, at least 1; `start + len` does not pass 2^64.
    pub len: u64,
}

impl Extent {
    /// The first address after the stretch.
    #[must_use]
    pub const fn end(self) -> Gpa {
        self.start.wrapping_add(self.len)
    }
}

/// What is known about a copy beyond its runs, so that a backend can choose how to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHint {
    /// Bytes of the whole transfer of which these runs are a part.
    pub total: u64,
    /// What the caller does with the bytes.
    pub next_use: NextUse,
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

/// A raw, lifetime-bound view of mapped guest memory that the guest writes meanwhile.
///
/// There is no reference in it and no way to get one: it is an address, a length and a lifetime. Reading through it takes
/// `unsafe` and a volatile or atomic load, which this crate never does; the crate of the backend offers typed volatile
/// access, and an embedder may hand the address to hardware.
#[derive(Clone, Copy, Debug)]
pub struct Window<'m> {
    ptr: NonNull<u8>,
    len: usize,
    mapping: PhantomData<&'m ()>,
}

impl Window<'_> {
    /// Describes `len` bytes at `ptr`; a backend calls this with memory that stays mapped for the lifetime.
    #[must_use]
    pub const fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, mapping: PhantomData }
    }

    /// The first byte. Only volatile or atomic loads may go through it.
    #[must_use]
    pub const fn as_ptr(self) -> *const u8 {
        self.ptr.as_ptr().cast_const()
    }

    /// How many bytes are mapped there.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether the view is of no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

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
    /// No RAM there: a hole of the machine's map, device space, or past the end.
    Gap,
    /// A word load at an address that is not a multiple of its size.
    Misaligned,
    /// The lengths of a scattered read do not add up to its buffer.
    BadLength,
    /// The RAM file no longer has these bytes (it shrank under its mapping).
    Lost,
    /// The embedder's callback failed with this code.
    Backend(i32),
}

impl fmt::Display for PhysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpa = self.gpa;
        match self.kind {
            PhysErrorKind::Gap => write!(f, "guest physical {gpa} is not RAM by the segment map"),
            PhysErrorKind::Misaligned => write!(f, "guest physical {gpa} is not aligned for a word load"),
            PhysErrorKind::BadLength => write!(f, "runs at guest physical {gpa} do not fit the buffer"),
            PhysErrorKind::Lost => write!(f, "guest physical {gpa} is no longer in the RAM file (it shrank)"),
            PhysErrorKind::Backend(code) => {
                write!(f, "the memory callback failed at guest physical {gpa} with code {code}")
            }
        }
    }
}

impl core::error::Error for PhysError {}

/// A [`PhysRead`] over a callback: for embedders whose guest memory is not mapped.
///
/// The callback fills the buffer from guest physical memory and returns 0, or returns any other code. It has to answer a
/// request for an aligned 4 or 8 bytes with one load of that size (promise 1 of [`PhysRead`]); every `memcpy` known to the
/// author does.
///
/// ```
/// use vgpu_perception::{CallbackRam, Extent, Gpa, PhysRead};
/// let ram = [0x11_u8; 4096];
/// let map = [Extent { start: Gpa::new(0), len: 4096 }];
/// let mem = CallbackRam::new(&map, |gpa: Gpa, dst: &mut [u8]| {
///     let at = gpa.get() as usize;
///     dst.copy_from_slice(&ram[at..at + dst.len()]);
///     0
/// });
/// assert_eq!(mem.load_u32(Gpa::new(8)), Ok(0x1111_1111));
/// assert!(mem.load_u32(Gpa::new(4096)).is_err());
/// ```
#[derive(Clone, Copy)]
pub struct CallbackRam<'m, F> {
    map: &'m [Extent],
    callback: F,
}

impl<F> fmt::Debug for CallbackRam<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackRam").field("map", &self.map).finish_non_exhaustive()
    }
}

impl<'m, F: Fn(Gpa, &mut [u8]) -> i32> CallbackRam<'m, F> {
    /// Wraps `callback` for a guest whose RAM lies at `map` (ascending, not overlapping).
    #[must_use]
    pub const fn new(map: &'m [Extent], callback: F) -> Self {
        Self { map, callback }
    }

    fn inside(&self, gpa: Gpa, len: usize) -> bool {
        let Ok(len) = u64::try_from(len) else { return false };
        self.map.iter().any(|extent| {
            gpa.get()
                .checked_sub(extent.start.get())
                .is_some_and(|skip| skip <= extent.len && len <= extent.len.wrapping_sub(skip))
        })
    }
}

impl<F: Fn(Gpa, &mut [u8]) -> i32> PhysRead for CallbackRam<'_, F> {
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        if !self.inside(gpa, dst.len()) {
            return Err(PhysError::new(gpa, PhysErrorKind::Gap));
        }
        match (self.callback)(gpa, dst) {
            0 => Ok(()),
            code => Err(PhysError::new(gpa, PhysErrorKind::Backend(code))),
        }
    }

    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        if !gpa.get().is_multiple_of(4) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        if !gpa.get().is_multiple_of(8) {
            return Err(PhysError::new(gpa, PhysErrorKind::Misaligned));
        }
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        Ok(next_in(self.map, from))
    }
}

/// The part at or after `from` of the first extent of `map` that reaches past it; `map` ascends.
#[must_use]
pub fn next_in(map: &[Extent], from: Gpa) -> Option<Extent> {
    map.iter().find_map(|extent| {
        let skip = from.get().saturating_sub(extent.start.get());
        let len = extent.len.checked_sub(skip).filter(|len| *len > 0)?;
        Some(Extent { start: extent.start.wrapping_add(skip), len })
    })
}
