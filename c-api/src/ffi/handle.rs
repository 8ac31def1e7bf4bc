//! Handles: opaque pointers of the C interface, checked at every use.

use core::ffi::c_void;
use core::fmt;
use core::marker::PhantomData;

use super::STORAGE_ALIGN;
use super::imp::{Hold, Thread, with_thread};
use super::pointers::Out;
use crate::failure::{Failure, code};

/// What a handle leads to. Calls share it: what changes in it is atomic, or in a [cell](super::cells).
pub(crate) trait Object: Sync + 'static {
    /// Tells kinds of handles apart: 1 to 15.
    const KIND: u8;
    /// What errors call it.
    const NAME: &'static str;
    /// Bytes of storage that the header states for it.
    const STORAGE: usize;
}

/// An opaque pointer of the C interface. It is never followed before it was checked.
#[repr(transparent)]
pub(crate) struct Handle<T>(pub(super) *mut c_void, PhantomData<fn() -> T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:p})", self.0)
    }
}

// SAFETY: it is a number until it was checked, and what it leads to is `Sync`.
unsafe impl<T: Object> Send for Handle<T> {}

// SAFETY: the same.
unsafe impl<T: Object> Sync for Handle<T> {}

impl<T> Handle<T> {
    pub(crate) const NULL: Self = Self(core::ptr::null_mut(), PhantomData);

    pub(super) const fn of(at: *mut c_void) -> Self {
        Self(at, PhantomData)
    }

    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T: Object> Handle<T> {
    /// Uses the object. Other calls may use it at the same time.
    pub(crate) fn read<R>(self, work: impl FnOnce(&T) -> Result<R, Failure>) -> Result<R, Failure> {
        with_thread(|thread| self.hold(thread, |hold| work(hold.get())))?
    }

    /// The same, with what no other object has or had: see [`read_same`](Self::read_same).
    pub(crate) fn read_with_id<R>(self, work: impl FnOnce(u64, &T) -> Result<R, Failure>) -> Result<R, Failure> {
        with_thread(|thread| self.hold(thread, |hold| work(hold.id(), hold.get())))?
    }

    /// Uses the object if it is the one that had `id`.
    pub(crate) fn read_same<R>(self, id: u64, work: impl FnOnce(&T) -> Result<R, Failure>) -> Result<R, Failure> {
        with_thread(|thread| self.hold_same(thread, id, |hold| work(hold.get())))?
    }

    /// Runs `work` with a hold on the object if it is the one that had `id`.
    #[inline(always)]
    pub(crate) fn hold_same<R>(
        self,
        thread: &Thread,
        id: u64,
        work: impl FnOnce(&Hold<'_, T>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.hold(thread, |hold| if hold.id() == id { work(hold) } else { Err(another::<T>()) })
    }
}

#[cold]
fn another<T: Object>() -> Failure {
    let text = format_args!("another {} than the one that this handle was made with: nothing was read", T::NAME);
    Failure::new(code::ARGUMENT, text)
}

/// Checks storage for a handle.
pub(super) fn storage<T: Object>(storage: Out<c_void>, size: usize) -> Result<*mut c_void, Failure> {
    if storage.is_null() || !storage.as_ptr().addr().is_multiple_of(STORAGE_ALIGN) {
        return Err(Failure::argument("storage", "is NULL or not aligned to VGPUX_STORAGE_ALIGN"));
    }
    if size < T::STORAGE {
        return Err(Failure::new(code::MEMORY, format_args!("a {} needs {} bytes of storage", T::NAME, T::STORAGE)));
    }
    Ok(storage.as_ptr())
}
