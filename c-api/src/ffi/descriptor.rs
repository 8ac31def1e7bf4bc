//! File descriptors from C.

use core::ffi::c_int;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

/// A descriptor of its own for the file that `fd` is open on.
pub(crate) fn duplicate(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
    }
    // SAFETY: not -1; by the headers' contract the caller's open descriptor, which stays open during the call. One that
    // is not open gives an error of the kernel, and nothing of it is kept.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// Closes a descriptor that the caller handed over.
pub(crate) fn close(fd: c_int) {
    // SAFETY: it was duplicated just before, so it is open, and the caller gave it away.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
