//! Which pages of a process hold anything: `/proc/PID/pagemap`, which answers without touching one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;

/// Bytes of a page, and of what an entry stands for.
pub(crate) const PAGE: u64 = 4096;
/// The page is in memory, or in swap (Linux, `Documentation/admin-guide/mm/pagemap.rst`).
const HELD: u64 = 1 << 63 | 1 << 62;

/// The page map of one address space. It stays that of the same one: of a process that has ended, or has begun another
/// program, nothing can be read.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
}

/// Why a page map does not answer.
#[derive(Debug)]
pub(crate) enum PagemapError {
    /// The address space is gone.
    Gone,
    /// The operating system refused.
    Io(io::Error),
}

impl Pagemap {
    pub(crate) const fn new(file: File) -> Self {
        Self { file }
    }

    /// Reads the entries of the pages from the one at `addr` on.
    pub(crate) fn entries(&self, addr: u64, entries: &mut [u64]) -> Result<(), PagemapError> {
        match self.file.read_exact_at(entries.as_mut_bytes(), addr / PAGE * 8) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(PagemapError::Gone),
            Err(error) => Err(PagemapError::Io(error)),
        }
    }
}

/// Whether the page of an entry holds anything.
pub(crate) const fn is_held(entry: u64) -> bool {
    entry & HELD != 0
}
