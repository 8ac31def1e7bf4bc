//! Reading mapped guest memory where it lies, without a copy.

use core::marker::PhantomData;
use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vgpu_perception::Window;
use volatile::VolatilePtr;

use super::Mapping;
use super::copy;
use crate::plan::Cpu;

/// A window of which it is known that it lies in mapped guest RAM: safe to read, word by word.
///
/// The guest may write the bytes meanwhile. Every read gives whatever is there at that moment; what was read is one
/// state of the producer only if the visit of the frame ends [fresh](vgpu_perception::region::Sample::Fresh).
#[derive(Clone, Copy, Debug)]
pub struct MappedView<'m> {
    start: NonNull<u8>,
    len: usize,
    cpu: Cpu,
    mapping: PhantomData<&'m Mapping>,
}

impl<'m> MappedView<'m> {
    /// A view of `window`, if all of it lies in one of `maps`.
    pub(super) fn new(maps: &'m [Mapping], cpu: Cpu, window: Window<'m>) -> Option<Self> {
        let inside = |map: &&Mapping| {
            let skip = window.as_ptr().addr().wrapping_sub(map.base.addr().get());
            skip <= map.len && window.len() <= map.len - skip
        };
        let map = maps.iter().find(inside)?;
        // The window's own pointer says where; what may be read there, the mapping's says.
        let skip = window.as_ptr().addr() - map.base.addr().get();
        let start = NonNull::new(map.base.as_ptr().wrapping_add(skip))?;
        Some(Self { start, len: window.len(), cpu, mapping: PhantomData })
    }

    /// Its bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The aligned little-endian word at byte `index * 8`, as one volatile load; `None` past the end, and where the
    /// view does not begin at a multiple of 8.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<u64> {
        let at = index.checked_mul(8).filter(|at| self.len.checked_sub(8).is_some_and(|last| *at <= last))?;
        let word = NonNull::new(self.start.as_ptr().wrapping_add(at).cast::<u64>()).filter(|word| word.is_aligned())?;
        // SAFETY: `new` found the view inside a mapping that lives for `'m`, 8 bytes at `at` lie inside the view, and
        // the address is aligned. Every bit pattern is a `u64`. Volatile reads of memory outside all Rust allocations
        // have the effect of the machine's own loads, and no reference is made.
        let word = unsafe { VolatilePtr::new_read_only(word) };
        Some(u64::from_le(word.read()))
    }

    /// All whole words, in order.
    pub fn words(self) -> impl Iterator<Item = u64> + 'm {
        (0..self.len / 8).map_while(move |index| self.word(index))
    }

    /// Copies the start of the view into `dst`, at most what both have; gives how many bytes.
    pub fn copy_to(&self, dst: &mut [u8]) -> usize {
        let len = dst.len().min(self.len);
        let Some(dst) = dst.get_mut(..len) else { return 0 };
        // SAFETY: `new` found the view inside a mapping that lives for `'m`, and `dst` is no longer than it.
        unsafe { copy::copy(self.cpu, self.start.as_ptr(), dst) };
        len
    }
}

/// Views of mapped guest memory, in order, for one `writev`: the kernel reads them where they lie.
#[derive(Debug, Default)]
pub struct ViewList<'m> {
    parts: Vec<libc::iovec>,
    views: PhantomData<&'m Mapping>,
}

impl<'m> ViewList<'m> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { parts: Vec::new(), views: PhantomData }
    }

    /// Appends a view.
    pub fn push(&mut self, view: MappedView<'m>) {
        self.parts.push(libc::iovec { iov_base: view.start.as_ptr().cast(), iov_len: view.len });
    }

    /// The bytes of all views.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.iov_len))
    }

    /// Writes all of it to `fd`, by as many calls of `writev` as that takes. The bytes are whatever is there when the
    /// kernel reads them.
    ///
    /// # Errors
    /// What the system call gives; [`io::ErrorKind::WriteZero`] where nothing can be written any more.
    pub fn write_to(mut self, fd: impl AsFd) -> io::Result<usize> {
        let fd = fd.as_fd();
        let whole = self.bytes();
        let mut rest = self.parts.as_mut_slice();
        loop {
            while let [first, ..] = rest
                && first.iov_len == 0
            {
                rest = rest.get_mut(1..).unwrap_or_default();
            }
            if rest.is_empty() {
                return Ok(whole);
            }
            let count = libc::c_int::try_from(rest.len().min(AT_ONCE)).unwrap_or(libc::c_int::MAX);
            // SAFETY: `rest` has at least `count` entries. The kernel only reads the bytes that they name, and a page
            // that its file no longer has gives EFAULT instead of a signal.
            let written = unsafe { libc::writev(fd.as_raw_fd(), rest.as_ptr(), count) };
            let Ok(mut written) = usize::try_from(written) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            for part in rest.iter_mut() {
                let taken = written.min(part.iov_len);
                part.iov_base = part.iov_base.wrapping_byte_add(taken);
                part.iov_len -= taken;
                written -= taken;
                if written == 0 {
                    break;
                }
            }
        }
    }
}

/// Parts of one `writev`: what Linux takes at most (`IOV_MAX`).
const AT_ONCE: usize = 1024;
