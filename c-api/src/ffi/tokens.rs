//! Handles of a library with a heap: tokens of one table.

use core::sync::atomic::AtomicU64;

use super::handle::{Handle, Object};
use super::pointers::Out;
use super::sync::{AtomicPtr, AtomicU32};
use super::table::{CHUNKS, Closed, Entry, Table, is_token};
use super::threads::Own;
pub(crate) use super::threads::{Own as Thread, with as with_thread};
use super::{STORAGE_ALIGN, memory};
use crate::failure::{Failure, code};

pub(super) static TABLE: Table = Table {
    chunks: [const { AtomicPtr::new(core::ptr::null_mut()) }; CHUNKS],
    len: AtomicU32::new(0),
    free: AtomicU64::new(0),
    records: AtomicPtr::new(core::ptr::null_mut()),
};

/// An object where a token leads.
#[repr(C, align(16))]
pub(super) struct Slot<T> {
    on_heap: bool,
    pub(super) value: T,
}

/// A call's hold on an object; given up when dropped.
pub(crate) struct Hold<'c, T: Object> {
    own: &'c Own,
    hazard: &'static AtomicU64,
    pub(super) depth: usize,
    pub(super) entry: &'static Entry,
    pub(super) token: u64,
    pub(super) slot: *mut Slot<T>,
}

impl<T: Object> Hold<'_, T> {
    pub(crate) fn get(&self) -> &T {
        // SAFETY: the table gave this pointer for a live token of this kind, so it is what `place` or `boxed` wrote;
        // the hazard keeps it from being released, and nobody makes a `&mut` of it before.
        unsafe { &(*self.slot).value }
    }

    /// What no other object has or had.
    pub(crate) const fn id(&self) -> u64 {
        self.token
    }
}

impl<T: Object> Drop for Hold<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        let last = TABLE.unpin(self.hazard, self.entry, self.token);
        self.own.leave(self.depth);
        if let Some(object) = last {
            release::<T>(object, self.token);
        }
    }
}

fn none<T: Object>() -> Failure {
    Failure::new(code::HANDLE, format_args!("not a {} handle, or a closed one", T::NAME))
}

impl<T: Object> Handle<T> {
    #[inline(always)]
    pub(crate) fn token(self) -> u64 {
        self.0.addr() as u64
    }

    /// Runs `work` with a hold on the object, for a call of this thread.
    ///
    /// The hold is lent and not returned: a result that holds it would be moved about in pieces that are not those it
    /// was stored in, and then every load waits for stores.
    #[inline(always)]
    pub(crate) fn hold<R>(
        self,
        own: &Own,
        work: impl FnOnce(&Hold<'_, T>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let token = self.token();
        if !is_token(token, T::KIND) {
            return Err(self.no_token());
        }
        let Some((hazard, depth)) = own.enter() else { return Err(Failure::memory("calls that are nested this deep")) };
        match TABLE.pin(hazard, token) {
            Ok((entry, slot)) => work(&Hold { own, depth, hazard, entry, token, slot: slot.cast() }),
            Err(last) => {
                own.leave(depth);
                Err(refused::<T>(last, token))
            }
        }
    }

    #[cold]
    fn no_token(self) -> Failure {
        if self.is_null() {
            Failure::new(code::HANDLE, format_args!("the {} handle is NULL", T::NAME))
        } else {
            none::<T>()
        }
    }

    /// Puts `value` into storage of the caller.
    pub(crate) fn place(storage: Out<core::ffi::c_void>, size: usize, value: T) -> Result<Self, Failure> {
        const { assert!(size_of::<Slot<T>>() <= T::STORAGE && align_of::<Slot<T>>() <= STORAGE_ALIGN) };
        let at = super::handle::storage::<T>(storage, size)?.cast::<Slot<T>>();
        if TABLE.leads_to(at.cast()) {
            return Err(Failure::argument("storage", "holds a handle that was not closed"));
        }
        // SAFETY: not NULL, aligned, large enough, and by the headers' contract writable and the library's until it is
        // closed.
        unsafe { at.write(Slot { on_heap: false, value }) };
        Self::insert(at, || {
            // SAFETY: just written, and no handle leads to it.
            unsafe { core::ptr::drop_in_place(at) };
        })
    }

    /// Puts `value` on the heap.
    pub(crate) fn boxed(value: T) -> Result<Self, Failure> {
        let at = Box::into_raw(memory::boxed(Slot { on_heap: true, value })?);
        Self::insert(at, || {
            // SAFETY: it came from a box, and no handle leads to it.
            drop(unsafe { Box::from_raw(at) });
        })
    }

    fn insert(at: *mut Slot<T>, undo: impl FnOnce()) -> Result<Self, Failure> {
        match TABLE.insert(at.cast(), T::KIND) {
            Some(token) => Ok(Self::of(core::ptr::without_provenance_mut(token as usize))),
            None => {
                undo();
                Err(Failure::memory("another handle"))
            }
        }
    }

    /// Ends the handle. The object goes when the last call that uses it ends; `false` where that is later.
    pub(crate) fn close(self) -> Result<bool, Failure> {
        if self.is_null() {
            return Ok(true);
        }
        let token = self.token();
        if !is_token(token, T::KIND) {
            return Err(none::<T>());
        }
        match TABLE.close(token) {
            Closed::Unknown => Err(none::<T>()),
            Closed::InUse => Ok(false),
            Closed::Release(object) => {
                release::<T>(object, token);
                Ok(true)
            }
        }
    }
}

#[cold]
#[inline(never)]
fn refused<T: Object>(last: Option<*mut ()>, token: u64) -> Failure {
    if let Some(object) = last {
        release::<T>(object, token);
    }
    none::<T>()
}

/// Drops the object of a closed handle.
#[cold]
#[inline(never)]
pub(super) fn release<T>(object: *mut (), token: u64) {
    let slot = object.cast::<Slot<T>>();
    // SAFETY: the table gives the object of a closed handle to one caller alone, when no call uses it; it is a
    // `Slot<T>`, because the token's kind is that of `T`.
    if unsafe { (*slot).on_heap } {
        // SAFETY: `boxed` made it from such a box.
        drop(unsafe { Box::from_raw(slot) });
    } else {
        // SAFETY: `place` wrote it there.
        unsafe { core::ptr::drop_in_place(slot) };
    }
    TABLE.released(token);
}
