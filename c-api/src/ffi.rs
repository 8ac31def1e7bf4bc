//! The boundary: what C hands over becomes a safe type here, and this is the only module with `unsafe`.
//!
//! A pointer that is NULL or misaligned, and a handle that is none or was closed, is an error value, never a dereference.
//! What cannot be checked is what the headers ask of every caller: a pointer that is not NULL points to as many objects as
//! the function's declaration says, readable or writable, and nobody else writes them during the call.
#![allow(unsafe_code, reason = "pointers from C")]

mod live;
mod scratch;

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

pub(crate) use scratch::Scratch;

use crate::failure::{Failure, code};

/// Alignment of handle storage: `VGPUX_STORAGE_ALIGN`.
pub(crate) const STORAGE_ALIGN: usize = 16;

/// A `const T*`, or an array of them.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// No object.
    #[cfg(feature = "std")]
    pub(crate) const NULL: Self = Self(core::ptr::null());

    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// A copy of the object.
    pub(crate) fn get(self, name: &str) -> Result<T, Failure> {
        check(self.0, name)?;
        // SAFETY: not NULL and aligned, and by the headers' contract a readable `T`; every `T` used here is plain old data, for
        // which all bit patterns are values.
        Ok(unsafe { self.0.read() })
    }

    /// A copy of object `index` of an array; the caller has checked with [`get`](Self::get) that there is one.
    pub(crate) fn at(self, index: usize, name: &str) -> Result<T, Failure> {
        Self(self.0.wrapping_add(index)).get(name)
    }

    #[cfg(feature = "std")]
    pub(crate) const fn as_ptr(self) -> *const T {
        self.0
    }
}

#[cfg(feature = "std")]
impl In<core::ffi::c_char> {
    /// The bytes of a string, without its zero.
    pub(crate) fn bytes(&self, name: &str) -> Result<&[u8], Failure> {
        check(self.as_ptr(), name)?;
        // SAFETY: not NULL, and by the headers' contract a string that ends with a zero and stays as it is during the call, which
        // `&self` does not outlive.
        Ok(unsafe { core::ffi::CStr::from_ptr(self.as_ptr()) }.to_bytes())
    }
}

/// A `T*` that results are stored through, or an array of them.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Refuses NULL and misaligned pointers; to be called before any work is done.
    pub(crate) fn required(self, name: &str) -> Result<Place<T>, Failure> {
        check(self.0, name)?;
        Ok(Place(self.0))
    }

    /// The same, with NULL for "not wanted".
    pub(crate) fn optional(self, name: &str) -> Result<Option<Place<T>>, Failure> {
        if self.0.is_null() { Ok(None) } else { self.required(name).map(Some) }
    }

    /// An array of `len`, which may be NULL where `len` is 0.
    pub(crate) fn array(self, len: usize, name: &str) -> Result<Array<T>, Failure> {
        if len > 0 {
            check(self.0, name)?;
        }
        if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX.unsigned_abs()) {
            return Err(Failure::argument(name, "is longer than memory can be"));
        }
        Ok(Array { at: self.0, len })
    }
}

impl Out<u8> {
    /// A buffer of `len` bytes, which may be NULL where `len` is 0.
    pub(crate) fn buffer<'call>(self, len: usize, name: &str) -> Result<&'call mut [u8], Failure> {
        let array = self.array(len, name)?;
        if array.len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: not NULL, at most `isize::MAX` long, and by the headers' contract `len` writable bytes that nobody else uses during
        // the call; the slice does not leave the exported function that made it. Any byte is a `u8`.
        Ok(unsafe { core::slice::from_raw_parts_mut(array.at, array.len) })
    }
}

impl Out<c_void> {
    /// The pointer itself, to be handed back to C.
    pub(crate) const fn as_ptr(self) -> *mut c_void {
        self.0
    }

    pub(crate) const fn bytes(self) -> Out<u8> {
        Out(self.0.cast())
    }
}

/// A place that one result is stored in.
pub(crate) struct Place<T>(*mut T);

impl<T: Copy> Place<T> {
    pub(crate) fn set(self, value: T) {
        // SAFETY: `Out::required` found it not NULL and aligned; by the headers' contract it is a writable `T`.
        unsafe { self.0.write(value) }
    }
}

/// Places for several results.
pub(crate) struct Array<T> {
    at: *mut T,
    len: usize,
}

impl<T: Copy> Array<T> {
    /// Stores element `index`, if there is room for it.
    pub(crate) fn put(&self, index: usize, value: T) {
        if index < self.len {
            // SAFETY: `Out::array` found it not NULL and aligned; `index` lies inside, so by the headers' contract this is a writable `T`.
            unsafe { self.at.wrapping_add(index).write(value) }
        }
    }
}

fn check<T>(at: *const T, name: &str) -> Result<(), Failure> {
    if at.is_null() {
        Err(Failure::argument(name, "is NULL"))
    } else if !at.is_aligned() {
        Err(Failure::argument(name, "is misaligned"))
    } else {
        Ok(())
    }
}

/// What a handle leads to.
pub(crate) trait Object: 'static {
    /// Tells kinds of handles apart.
    const MAGIC: u64;
    /// What errors call it.
    const NAME: &'static str;
    /// Bytes of storage that the header states for it.
    const STORAGE: usize;
}

/// Marks storage whose handle was closed.
const CLOSED: u64 = 0x6465_736f_6c63_2121;
/// `users` while one call has the object for itself.
const EXCLUSIVE: u32 = u32::MAX;

#[repr(C, align(16))]
struct Slot<T> {
    magic: AtomicU64,
    /// Calls that are using it, or [`EXCLUSIVE`].
    users: AtomicU32,
    on_heap: bool,
    value: UnsafeCell<T>,
}

/// An opaque pointer of the C interface.
#[repr(transparent)]
pub(crate) struct Handle<T>(*mut c_void, PhantomData<fn() -> T>);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:p})", self.0)
    }
}

/// A call's hold on an object; given up when dropped, by a panic too.
struct Hold<'h, T> {
    slot: &'h Slot<T>,
    exclusive: bool,
}

impl<T> Drop for Hold<'_, T> {
    fn drop(&mut self) {
        if self.exclusive {
            self.slot.users.store(0, Ordering::Release);
        } else {
            self.slot.users.fetch_sub(1, Ordering::Release);
        }
    }
}

impl<T: Object> Handle<T> {
    pub(crate) const NULL: Self = Self(core::ptr::null_mut(), PhantomData);

    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    fn slot(self) -> *mut Slot<T> {
        self.0.cast()
    }

    fn hold<'h>(self, exclusive: bool) -> Result<Hold<'h, T>, Failure> {
        if self.is_null() {
            return Err(Failure::new(code::HANDLE, format_args!("the {} handle is NULL", T::NAME)));
        }
        // While the list is locked nobody closes the handle, so the slot stays; afterwards `users` keeps it.
        let live = live::lock();
        let known = self.slot().is_aligned() && live.contains(self.0.addr(), T::MAGIC);
        let none = || Failure::new(code::HANDLE, format_args!("not a {} handle, or a closed one", T::NAME));
        if !known {
            return Err(none());
        }
        // SAFETY: with a list of live handles, this address is in it, so it is a `Slot<T>` that `place` wrote and `close` did not
        // take back; without one, it is aligned, and by the headers' contract a pointer that `place` returned, whose storage
        // outlives it or still holds the `CLOSED` mark. All fields but `value` are atomics or never written again.
        let slot = unsafe { &*self.slot() };
        if slot.magic.load(Ordering::Acquire) != T::MAGIC {
            return Err(none());
        }
        let taken = if exclusive {
            slot.users.compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed).is_ok()
        } else {
            let more = |users: u32| (users < EXCLUSIVE - 1).then(|| users + 1);
            slot.users.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok()
        };
        if !taken {
            return Err(Failure::new(code::BUSY, format_args!("the {} handle is in use by another call", T::NAME)));
        }
        Ok(Hold { slot, exclusive })
    }

    /// Uses the object beside other calls.
    pub(crate) fn read<R>(self, work: impl FnOnce(&T) -> Result<R, Failure>) -> Result<R, Failure> {
        let hold = self.hold(false)?;
        // SAFETY: `users` counts this call, so no exclusive hold exists until it ends, and `close` waits for one.
        work(unsafe { &*hold.slot.value.get() })
    }

    /// Has the object to itself.
    pub(crate) fn update<R>(self, work: impl FnOnce(&mut T) -> Result<R, Failure>) -> Result<R, Failure> {
        let hold = self.hold(true)?;
        // SAFETY: `users` was 0 and is `EXCLUSIVE` until `hold` is dropped: no other call has a reference.
        work(unsafe { &mut *hold.slot.value.get() })
    }

    /// Puts `value` into storage of the caller.
    pub(crate) fn place(storage: Out<c_void>, size: usize, value: T) -> Result<Self, Failure> {
        const { assert!(size_of::<Slot<T>>() <= T::STORAGE && align_of::<Slot<T>>() <= STORAGE_ALIGN) };
        if storage.is_null() || !storage.0.addr().is_multiple_of(STORAGE_ALIGN) {
            return Err(Failure::argument("storage", "is NULL or not aligned to VGPUX_STORAGE_ALIGN"));
        }
        if size < T::STORAGE {
            return Err(Failure::new(
                code::MEMORY,
                format_args!("a {} needs {} bytes of storage", T::NAME, T::STORAGE),
            ));
        }
        // SAFETY: not NULL, aligned, large enough, and by the headers' contract writable and the library's until it is closed.
        unsafe { Self::write(storage.0, false, value) }
    }

    /// Puts `value` on the heap.
    #[cfg(feature = "std")]
    pub(crate) fn boxed(value: T) -> Result<Self, Failure> {
        let at = Box::into_raw(Box::<Slot<T>>::new_uninit());
        // SAFETY: a new box is not NULL, aligned and large enough for its type.
        unsafe { Self::write(at.cast(), true, value) }
    }

    /// # Safety
    /// `at` is writable memory for a `Slot<T>`, which nobody else uses until the handle is closed.
    unsafe fn write(at: *mut c_void, on_heap: bool, value: T) -> Result<Self, Failure> {
        let slot =
            Slot { magic: AtomicU64::new(T::MAGIC), users: AtomicU32::new(0), on_heap, value: UnsafeCell::new(value) };
        // What the allocator just gave out holds no handle, whatever a caller did with storage that was there before.
        if !live::lock().insert(at.addr(), T::MAGIC) && !on_heap {
            return Err(Failure::argument("storage", "holds a handle that was not closed"));
        }
        // SAFETY: the caller of this function promises memory for a `Slot<T>`, and no live handle is there.
        unsafe { at.cast::<Slot<T>>().write(slot) };
        Ok(Self(at, PhantomData))
    }

    /// Ends the handle. Refused while a call uses it.
    pub(crate) fn close(self) -> Result<(), Failure> {
        if self.is_null() {
            return Ok(());
        }
        // Dropping the hold would store to the slot after it is gone.
        let hold = core::mem::ManuallyDrop::new(self.hold(true)?);
        let on_heap = hold.slot.on_heap;
        let mut live = live::lock();
        live.remove(self.0.addr());
        hold.slot.magic.store(CLOSED, Ordering::Release);
        drop(live);
        // SAFETY: this call alone holds the object, and no later one can: the mark and the list say that it is closed.
        unsafe { core::ptr::drop_in_place(hold.slot.value.get()) };
        release(self.slot(), on_heap);
        Ok(())
    }
}

#[cfg(feature = "std")]
fn release<T>(slot: *mut Slot<T>, on_heap: bool) {
    if on_heap {
        // SAFETY: `boxed` made it from such a box, nobody refers to it any more, and its value was dropped in place.
        drop(unsafe { Box::from_raw(slot.cast::<core::mem::MaybeUninit<Slot<T>>>()) });
    }
}

#[cfg(not(feature = "std"))]
fn release<T>(_: *mut Slot<T>, _: bool) {}

/// A small value that several calls change, for a few instructions each.
pub(crate) struct Spin<T> {
    busy: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lets one thread at a time reach the value.
unsafe impl<T: Send> Sync for Spin<T> {}

impl<T> fmt::Debug for Spin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spin").finish_non_exhaustive()
    }
}

impl<T> Spin<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { busy: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Runs `work`, which must be short and must not come back here.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        struct Free<'s>(&'s AtomicBool);
        impl Drop for Free<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        while self.busy.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        let _free = Free(&self.busy);
        // SAFETY: `busy` was free and is ours until `_free` is dropped.
        work(unsafe { &mut *self.value.get() })
    }
}

/// What a function returns when it fails.
pub(crate) trait Failed {
    fn failed(code: c_int) -> Self;
}

impl Failed for c_int {
    fn failed(code: c_int) -> Self {
        code
    }
}

impl Failed for u32 {
    fn failed(_: c_int) -> Self {
        0
    }
}

impl Failed for usize {
    fn failed(_: c_int) -> Self {
        0
    }
}

impl Failed for () {
    fn failed(_: c_int) {}
}

impl<T: Object> Failed for Handle<T> {
    fn failed(_: c_int) -> Self {
        Self::NULL
    }
}

/// Runs an exported function's body: a panic becomes a failure.
pub(crate) fn guarded<R: Failed>(body: impl FnOnce() -> Result<R, Failure>) -> R {
    caught(body).unwrap_or_else(|failure| R::failed(failure.code))
}

#[cfg(feature = "std")]
fn caught<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // What a panic leaves behind is plain values behind holds that are given up while unwinding.
    std::panic::catch_unwind(core::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(Failure::new(code::INTERNAL, format_args!("a defect of vgpu-perception: the call was given up")))
    })
}

#[cfg(not(feature = "std"))]
fn caught<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    body()
}

/// Exports functions under their C names, each through [`guarded`].
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {
        $(
            $(#[$doc])*
            #[allow(unsafe_code, reason = "the name is part of the library's own interface, and no other crate defines it")]
            #[unsafe(no_mangle)]
            pub(crate) extern "C" fn $name($($arg: $type),*) $(-> $ret)? {
                $crate::ffi::guarded(move || $body)
            }
        )+
    };
}
pub(crate) use export;

#[cfg(test)]
pub(crate) mod tests;
