//! Scratch memory of searches, as typed arrays.

use core::ffi::c_void;

use super::STORAGE_ALIGN;
use super::pointers::Out;
use crate::failure::{Failure, code};

/// Scratch memory of a search: lent by the caller, or the library's own.
#[derive(Debug)]
pub(crate) struct Scratch {
    at: *mut u8,
    len: usize,
    #[cfg(feature = "std")]
    _own: Option<Vec<core::mem::MaybeUninit<u128>>>,
}

// SAFETY: the memory is this object's alone, wherever it is used.
unsafe impl Send for Scratch {}

impl Scratch {
    /// The least that is taken: `VGPUX_SCRATCH_MIN_BYTES`.
    pub(crate) const MIN: usize = 16384;

    pub(crate) fn lent(scratch: Out<c_void>, len: usize) -> Result<Self, Failure> {
        if scratch.is_null() || !scratch.as_ptr().addr().is_multiple_of(STORAGE_ALIGN) {
            return Err(Failure::argument("scratch", "is NULL or not aligned to VGPUX_STORAGE_ALIGN"));
        }
        if len < Self::MIN {
            return Err(Failure::new(code::MEMORY, format_args!("scratch memory needs at least {} bytes", Self::MIN)));
        }
        let at = scratch.as_ptr().cast();
        Ok(Self {
            at,
            len: len.min(isize::MAX.unsigned_abs()),
            #[cfg(feature = "std")]
            _own: None,
        })
    }

    #[cfg(feature = "std")]
    pub(crate) fn new(len: usize) -> Result<Self, Failure> {
        let n = len.max(Self::MIN).div_ceil(STORAGE_ALIGN);
        // Its length stays 0: what is in it is written before it is read.
        let mut own = super::memory::list::<core::mem::MaybeUninit<u128>>(n)?;
        Ok(Self { at: own.as_mut_ptr().cast(), len: n * STORAGE_ALIGN, _own: Some(own) })
    }

    /// Runs `work` with scratch memory of the least size, where the handle's own is in use by another call.
    #[cfg(not(feature = "std"))]
    pub(crate) fn on_stack<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        let mut memory = [core::mem::MaybeUninit::<u128>::uninit(); Self::MIN / STORAGE_ALIGN];
        work(&mut Self { at: memory.as_mut_ptr().cast(), len: size_of_val(&memory) })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Makes arrays of `n` times `first` and, behind it, of as many `second` as there is room for.
    pub(crate) fn split<A: Copy, B: Copy>(&mut self, n: usize, first: A, second: B) -> (&mut [A], &mut [B]) {
        const { assert!(align_of::<A>() <= STORAGE_ALIGN && align_of::<B>() <= STORAGE_ALIGN) };
        let n = n.min(self.len / size_of::<A>().max(1));
        let skip = (n * size_of::<A>()).next_multiple_of(STORAGE_ALIGN).min(self.len);
        let m = (self.len - skip) / size_of::<B>().max(1);
        let (a, b) = (self.at.cast::<A>(), self.at.wrapping_add(skip).cast::<B>());
        for index in 0..n {
            // SAFETY: `n` of them fit into the scratch memory, which is aligned for them and this object's alone.
            unsafe { a.wrapping_add(index).write(first) };
        }
        for index in 0..m {
            // SAFETY: `m` of them fit behind the others, at a multiple of the alignment.
            unsafe { b.wrapping_add(index).write(second) };
        }
        // SAFETY: `n` values were just written there; `&mut self` keeps everybody else away.
        let a = unsafe { core::slice::from_raw_parts_mut(a, n) };
        // SAFETY: `m` values were just written there, apart from the others.
        let b = unsafe { core::slice::from_raw_parts_mut(b, m) };
        (a, b)
    }

    /// [`split`](Self::split) for an owner that keeps the arrays together with the scratch memory.
    ///
    /// Callers keep `self` alive and unused for as long as they keep the arrays: there is one, `scan::Scan`.
    pub(crate) fn split_for_owner<A: Copy, B: Copy>(
        &mut self,
        n: usize,
        first: A,
        second: B,
    ) -> (&'static mut [A], &'static mut [B]) {
        let (a, b) = self.split(n, first, second);
        // SAFETY: `Scan` holds the scratch memory in a field that it never touches and drops after the arrays; moving
        // it does not move the memory, which is the caller's or a box's.
        let a = unsafe { core::mem::transmute::<&mut [A], &'static mut [A]>(a) };
        // SAFETY: the same.
        let b = unsafe { core::mem::transmute::<&mut [B], &'static mut [B]>(b) };
        (a, b)
    }
}
