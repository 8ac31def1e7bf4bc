//! Handles of a library without a heap: addresses of the caller's storage, with a mark and a count in it.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::STORAGE_ALIGN;
use super::handle::{Handle, Object};
use super::pointers::Out;
use crate::failure::{Failure, code};

/// In the count: the handle was closed, and nobody begins to use it any more.
const CLOSED: u32 = 1 << 31;
/// Marks storage whose object is gone.
const GONE: u64 = 0x6465_736f_6c63_2121;

static IDS: AtomicU64 = AtomicU64::new(1);

#[repr(C, align(16))]
pub(super) struct Slot<T> {
    mark: AtomicU64,
    id: u64,
    /// Calls that use it, and [`CLOSED`].
    users: AtomicU32,
    value: UnsafeCell<T>,
}

/// What a thread has of its own: nothing.
pub(crate) struct Thread;

/// Runs `work` with what this thread has.
pub(crate) fn with_thread<R>(work: impl FnOnce(&Thread) -> R) -> Result<R, Failure> {
    Ok(work(&Thread))
}

/// A call's hold on an object; given up when dropped.
pub(crate) struct Hold<'c, T: Object>(&'c Slot<T>);

impl<T: Object> Hold<'_, T> {
    pub(crate) fn get(&self) -> &T {
        // SAFETY: `users` counts this call, so the object is not dropped before it ends; nobody makes a `&mut` of it
        // before.
        unsafe { &*self.0.value.get() }
    }

    /// What no other object has or had.
    pub(crate) const fn id(&self) -> u64 {
        self.0.id
    }
}

impl<T: Object> Drop for Hold<'_, T> {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == CLOSED + 1 {
            release(self.0);
        }
    }
}

impl<T: Object> Handle<T> {
    fn slot<'h>(self) -> Result<&'h Slot<T>, Failure> {
        let none = || Failure::new(code::HANDLE, format_args!("not a {} handle, or a closed one", T::NAME));
        if self.is_null() {
            return Err(Failure::new(code::HANDLE, format_args!("the {} handle is NULL", T::NAME)));
        }
        let at = self.0.cast::<Slot<T>>();
        if !at.is_aligned() {
            return Err(none());
        }
        // SAFETY: not NULL and aligned, and by the headers' contract a pointer that `place` returned, whose storage
        // outlives it or still holds the mark of one that is gone. All fields but `value` are atomics or never written
        // again.
        let slot = unsafe { &*at };
        if slot.mark.load(Ordering::Acquire) == mark::<T>() { Ok(slot) } else { Err(none()) }
    }

    /// Runs `work` with a hold on the object.
    pub(crate) fn hold<R>(
        self,
        _: &Thread,
        work: impl FnOnce(&Hold<'_, T>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let slot = self.slot()?;
        let more = |users: u32| (users < CLOSED - 1).then(|| users + 1);
        if slot.users.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_err() {
            return Err(Failure::new(code::HANDLE, format_args!("the {} handle was closed", T::NAME)));
        }
        work(&Hold(slot))
    }

    /// Puts `value` into storage of the caller.
    pub(crate) fn place(storage: Out<core::ffi::c_void>, size: usize, value: T) -> Result<Self, Failure> {
        const { assert!(size_of::<Slot<T>>() <= T::STORAGE && align_of::<Slot<T>>() <= STORAGE_ALIGN) };
        let at = super::handle::storage::<T>(storage, size)?;
        let slot = Slot {
            mark: AtomicU64::new(mark::<T>()),
            id: IDS.fetch_add(1, Ordering::Relaxed),
            users: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        };
        // SAFETY: not NULL, aligned, large enough, and by the headers' contract writable and the library's until it is
        // closed.
        unsafe { at.cast::<Slot<T>>().write(slot) };
        Ok(Self::of(at))
    }

    /// Ends the handle. The object goes when the last call that uses it ends; `false` where that is later.
    pub(crate) fn close(self) -> Result<bool, Failure> {
        if self.is_null() {
            return Ok(true);
        }
        let slot = self.slot()?;
        match slot.users.fetch_or(CLOSED, Ordering::AcqRel) {
            0 => {
                release(slot);
                Ok(true)
            }
            before if before & CLOSED == 0 => Ok(false),
            _ => Err(Failure::new(code::HANDLE, format_args!("the {} handle was closed", T::NAME))),
        }
    }
}

const fn mark<T: Object>() -> u64 {
    0x7667_7075_5f00_0000 | T::KIND as u64
}

fn release<T: Object>(slot: &Slot<T>) {
    // SAFETY: the count is `CLOSED` and nothing else, so no call uses the object and none will; one caller finds that.
    unsafe { core::ptr::drop_in_place(slot.value.get()) };
    slot.mark.store(GONE, Ordering::Release);
}
