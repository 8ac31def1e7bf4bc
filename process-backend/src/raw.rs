//! The one module with `unsafe`: the system call that copies another process's memory.
//!
//! The other side of the copy is the kernel's business: it looks the addresses up in the other process and copies what
//! stands there, whoever writes it meanwhile. No address of that process is ever followed here. This side is a buffer
//! that the caller lends exclusively, as for `read(2)`.

#![allow(unsafe_code, reason = "the one module of this crate that may")]

use core::ptr;
use std::io;

use rustix::process::Pid;

/// At most `N` ranges of another process's memory, in the order in which they are copied.
pub(crate) struct Remote<const N: usize> {
    ranges: [libc::iovec; N],
    len: usize,
}

impl<const N: usize> Remote<N> {
    /// No range.
    pub(crate) const fn new() -> Self {
        // One call takes 1024 (`UIO_MAXIOV`).
        const { assert!(N <= 1024) };
        Self { ranges: [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; N], len: 0 }
    }

    pub(crate) const fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds `len` bytes at `addr`, joined with the range before where they touch; false where there is no room.
    #[inline]
    pub(crate) fn push(&mut self, addr: usize, len: usize) -> bool {
        if let Some(last) = self.len.checked_sub(1).and_then(|last| self.ranges.get_mut(last))
            && last.iov_base.addr().wrapping_add(last.iov_len) == addr
        {
            last.iov_len += len;
            return true;
        }
        self.push_apart(addr, len)
    }

    /// The same without joining: what is asked for twice is copied twice.
    #[inline]
    pub(crate) fn push_apart(&mut self, addr: usize, len: usize) -> bool {
        let Some(slot) = self.ranges.get_mut(self.len) else { return false };
        *slot = libc::iovec { iov_base: ptr::without_provenance_mut(addr), iov_len: len };
        self.len += 1;
        true
    }

    /// The address that the byte `skip` of the whole copy comes from.
    pub(crate) fn addr_of(&self, skip: usize) -> Option<usize> {
        let mut left = skip;
        for range in self.ranges.iter().take(self.len) {
            if left < range.iov_len {
                return Some(range.iov_base.addr().wrapping_add(left));
            }
            left -= range.iov_len;
        }
        None
    }

    /// Copies the ranges, one after the other, to the start of `dst`; gives how many bytes were copied. Fewer than all
    /// means that the range in which the copy ended cannot be read on.
    #[inline]
    pub(crate) fn copy(&self, pid: Pid, dst: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec { iov_base: dst.as_mut_ptr().cast(), iov_len: dst.len() };
        let pid = pid.as_raw_nonzero().get();
        let (from, count) = (self.ranges.as_ptr(), self.len as libc::c_ulong);
        // SAFETY: `local` is the whole of `dst`, which is exclusive for the call, and the kernel writes nothing else of
        // this process; bytes have no invalid values. `from` has `count` elements, which the kernel only reads; what
        // they name are addresses of the other process, which the kernel checks.
        let copied = unsafe { libc::process_vm_readv(pid, &raw const local, 1, from, count, 0) };
        usize::try_from(copied).map_err(|_| io::Error::last_os_error())
    }
}
