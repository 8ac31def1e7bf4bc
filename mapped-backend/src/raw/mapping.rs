//! Mappings of RAM files.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::BorrowedFd;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::sigbus::{Full, SigbusGuard, Watch};

/// A whole file, mapped `MAP_SHARED` and `PROT_READ`.
pub(crate) struct Mapping {
    pub(super) base: NonNull<u8>,
    pub(super) len: usize,
    pub(super) watch: Option<Watch>,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing in this type is tied to one.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` there are only atomic loads, assembly loads, and `madvise` for reading; none of them needs
// exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, `len` not 0.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // Without a reservation: one of huge pages would take them from whoever wants them next.
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: with a null hint and no MAP_FIXED the kernel picks a free range, so that no memory in use is
        // replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, ProtFlags::READ, flags, fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, watch: None })
    }

    /// Bytes of it.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Has the signal handler watch this mapping, together with those of the same guest that are watched already.
    pub(crate) fn guard(&mut self, guard: SigbusGuard, others: &[Self]) -> Result<(), Full> {
        let leader = others.iter().find_map(|other| other.watch.as_ref());
        self.watch = Some(guard.watch(self.base, self.len, leader)?);
        Ok(())
    }

    /// Advises the kernel on `offset .. offset + len`, which has to lie in the mapping.
    fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        if offset > self.len || len > self.len - offset {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.base.as_ptr().wrapping_add(offset).cast::<c_void>();
        // SAFETY: the range lies in this mapping (just checked), and the two kinds of advice that callers in this
        // module pass (populate for reading, huge pages) change neither its bytes nor its rights.
        unsafe { rustix::mm::madvise(start, len, advice) }?;
        Ok(())
    }

    /// Maps the pages of a range in for reading (`MADV_POPULATE_READ`, Linux 5.14).
    pub(crate) fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, Advice::LinuxPopulateRead)
    }

    /// Says that huge pages are welcome in a range (`MADV_HUGEPAGE`).
    pub(crate) fn want_huge(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, Advice::LinuxHugepage)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The handler must forget the range before the kernel may give it to somebody else.
        self.watch = None;
        // SAFETY: the range was mapped by `new`, is unmapped once, and whatever could load from it borrows from `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "the range is the one that mmap gave");
    }
}
