//! Regions in shared memory: the one module of this crate with `unsafe`.
//!
//! What makes the stores sound although other processes, or another machine, load the bytes meanwhile:
//!
//! * The memory is none of Rust's: it comes from `mmap`, no Rust object lies in it, and nothing here makes a reference
//!   into it other than the atomic that a store needs.
//! * Every access is a relaxed atomic load or store of an aligned word inside the mapping.

#![allow(unsafe_code, reason = "the one module of this crate that may")]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags};
use vgpu_perception::abi;

use crate::write::RegionWrite;

const LEN: usize = abi::REGION_BYTES as usize;

/// A part of a file that becomes the next part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in the file; a multiple of the page size.
    pub offset: u64,
    /// Its bytes; a multiple of the page size.
    pub len: u64,
}

/// A region mapped `MAP_SHARED`; unmapped when dropped.
#[derive(Debug)]
pub struct MappedRegion {
    base: NonNull<u8>,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing in this type is tied to one.
unsafe impl Send for MappedRegion {}
// SAFETY: through `&MappedRegion` there are only atomic accesses, and `mmap` over
// what stays mapped.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// A region in anonymous shared memory of this process, all zero.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create() -> io::Result<Self> {
        let memory = memfd_create("vgpu", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, abi::REGION_BYTES)?;
        Self::map(memory.as_fd())
    }

    /// The region at the start of a file, which is made long enough.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn in_file(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() < abi::REGION_BYTES {
            file.set_len(abi::REGION_BYTES)?;
        }
        Self::map(file.as_fd())
    }

    fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null hint and no MAP_FIXED the kernel picks a free range, so that no memory in use is
        // replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), LEN, rights, MapFlags::SHARED, file, 0) }?;
        Ok(Self { base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)? })
    }

    /// One region made of parts of a file: in a guest's RAM file, its scattered physical pages.
    ///
    /// # Errors
    /// `InvalidInput` where the pieces are not [`abi::REGION_BYTES`] together, not whole pages, or not inside the file;
    /// else what the kernel says. Linux allows a process 65530 mappings: pieces that follow each other become one.
    pub fn stitched(file: &File, pieces: &[Piece]) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let whole = |piece: &Piece| {
            let inside = piece.offset.checked_add(piece.len).is_some_and(|end| end <= size);
            piece.len > 0 && piece.offset.is_multiple_of(abi::PAGE) && piece.len.is_multiple_of(abi::PAGE) && inside
        };
        let total = pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.len));
        if total != Some(abi::REGION_BYTES) || !pieces.iter().all(whole) {
            let told = "the pieces have to be whole pages inside the file, and 98 MiB together";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        // SAFETY: as in `map`; the range is only reserved: nothing can be loaded from it or stored to it yet.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), LEN, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        // From here on, what is dropped early is unmapped as a whole.
        let region = Self { base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)? };
        let mut at = 0;
        for piece in merged(pieces) {
            region.place(at, piece, file.as_fd())?;
            at += piece.len as usize;
        }
        Ok(region)
    }

    /// Replaces a part of the reservation by a part of a file.
    fn place(&self, at: usize, piece: Piece, file: BorrowedFd<'_>) -> io::Result<()> {
        let len = piece.len as usize;
        if at > LEN || len > LEN - at {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.base.as_ptr().wrapping_add(at).cast::<c_void>();
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: MAP_FIXED replaces only what lies in `at .. at + len`, which is inside this value's own mapping (just
        // checked), and into which no reference exists.
        unsafe { rustix::mm::mmap(start, len, ProtFlags::READ | ProtFlags::WRITE, flags, file, piece.offset) }?;
        Ok(())
    }

    /// Puts fresh memory, all zero, in the region's place: the same addresses, other pages.
    ///
    /// # Errors
    /// What the kernel says; the region is as it was then.
    pub fn renew(&self) -> io::Result<()> {
        let memory = memfd_create("vgpu", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, abi::REGION_BYTES)?;
        self.place(0, Piece { offset: 0, len: abi::REGION_BYTES }, memory.as_fd())
    }

    /// Loads a word, relaxed.
    #[must_use]
    pub fn load_u32(&self, offset: u64) -> u32 {
        let at = self.word(offset, 4).cast::<u32>();
        // SAFETY: as in `store_u32`.
        let word = unsafe { AtomicU32::from_ptr(at) };
        u32::from_le(word.load(Ordering::Relaxed))
    }

    /// Where the region is in this process.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    /// The word at `offset`, as a pointer that is good for an aligned store of `size` bytes.
    ///
    /// # Panics
    /// Where the word is not inside the region, or not aligned: a mistake of the caller's.
    fn word(&self, offset: u64, size: u64) -> *mut u8 {
        let inside = offset.is_multiple_of(size) && offset <= abi::REGION_BYTES - size;
        assert!(inside, "{size} bytes at {offset:#x} are no word of the region");
        self.base.as_ptr().wrapping_add(offset as usize)
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value, which nobody can use any more.
        let gone = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), LEN) };
        debug_assert!(gone.is_ok(), "the mapping was this value's own");
    }
}

impl RegionWrite for MappedRegion {
    fn store_u32(&self, offset: u64, value: u32) {
        let at = self.word(offset, 4).cast::<u32>();
        // SAFETY: `word` checked alignment and bounds; the mapping lives as long as `self`; every other access that
        // this program makes to it is an atomic store too.
        let word = unsafe { AtomicU32::from_ptr(at) };
        word.store(value.to_le(), Ordering::Relaxed);
    }

    fn store_u64(&self, offset: u64, value: u64) {
        let at = self.word(offset, 8).cast::<u64>();
        // SAFETY: as in `store_u32`.
        let word = unsafe { AtomicU64::from_ptr(at) };
        word.store(value.to_le(), Ordering::Relaxed);
    }

    fn store_bytes(&self, offset: u64, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(if offset.is_multiple_of(8) { 0 } else { bytes.len().min(4) });
        if let Some(pixel) = head.first_chunk() {
            self.store_u32(offset, u32::from_le_bytes(*pixel));
        }
        let first = offset + head.len() as u64;
        let words = rest.chunks_exact(8);
        let last = words.remainder();
        let count = rest.len() / 8;
        if count > 0 {
            // Once for all of them: the first and the last word are inside, and the first is aligned.
            self.word(first + 8 * (count as u64 - 1), 8);
            let start = self.word(first, 8).cast::<u64>();
            for (n, word) in words.enumerate() {
                let value = word.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                // SAFETY: word `n` lies between the first and the last one, which `word` checked; else as in
                // `store_u32`.
                let at = unsafe { AtomicU64::from_ptr(start.wrapping_add(n)) };
                at.store(value, Ordering::Relaxed);
            }
        }
        if let Some(pixel) = last.first_chunk() {
            self.store_u32(first + 8 * count as u64, u32::from_le_bytes(*pixel));
        }
    }
}

/// Pieces that follow each other in the file, as one.
fn merged(pieces: &[Piece]) -> impl Iterator<Item = Piece> {
    let mut rest = pieces.iter().copied().peekable();
    core::iter::from_fn(move || {
        let mut piece = rest.next()?;
        while let Some(next) = rest.next_if(|next| next.offset == piece.offset + piece.len) {
            piece.len += next.len;
        }
        Some(piece)
    })
}
