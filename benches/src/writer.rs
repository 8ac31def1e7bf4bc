//! The writable mapping that plays the guest.

#![allow(unsafe_code, reason = "with `raw` the one module of this crate that may")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::MmapRaw;

/// The guest's own view of its RAM: a writable mapping of the file.
pub(crate) struct Writer {
    map: MmapRaw,
}

impl Writer {
    /// Makes a file of `bytes` and maps it.
    pub(crate) fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(bytes)?;
        Ok(Self { map: MmapRaw::map_raw(&file)? })
    }

    /// Where `size` bytes at `gpa` are mapped, a multiple of `size`.
    pub(crate) fn at(&self, gpa: u64, size: usize) -> *mut u8 {
        let at = usize::try_from(gpa).expect("an address fits");
        assert!(at.is_multiple_of(size) && at + size <= self.map.len(), "{gpa:#x} is no word of the guest");
        self.map.as_mut_ptr().wrapping_add(at)
    }

    /// Stores a word as a guest would.
    pub(crate) fn store_u64(&self, gpa: u64, value: u64) {
        // SAFETY: `at` checked bounds and alignment; every access of this process to the file is a word or a raw copy.
        unsafe { AtomicU64::from_ptr(self.at(gpa, 8).cast()) }.store(value, Ordering::Relaxed);
    }

    /// Stores half a word.
    pub(crate) fn store_u32(&self, gpa: u64, value: u32) {
        // SAFETY: as in `store_u64`.
        unsafe { AtomicU32::from_ptr(self.at(gpa, 4).cast()) }.store(value, Ordering::Relaxed);
    }

    /// Loads a word.
    pub(crate) fn load_u64(&self, gpa: u64) -> u64 {
        // SAFETY: as in `store_u64`.
        unsafe { AtomicU64::from_ptr(self.at(gpa, 8).cast()) }.load(Ordering::Relaxed)
    }
}
