//! Pointers from C, checked before they are used.

use core::ffi::c_void;

use crate::failure::Failure;

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
        // SAFETY: not NULL and aligned, and by the headers' contract a readable `T`; every `T` used here is plain old
        // data, for which all bit patterns are values.
        Ok(unsafe { self.0.read() })
    }

    /// A copy of the first member, where the rest may not be there.
    pub(crate) fn first<M: Copy>(self, name: &str) -> Result<M, Failure> {
        In(self.0.cast::<M>()).get(name)
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
        // SAFETY: not NULL, and by the headers' contract a string that ends with a zero and stays as it is during the
        // call, which `&self` does not outlive.
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
    #[cfg(test)]
    pub(crate) const fn of(at: *mut T) -> Self {
        Self(at)
    }

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
        // SAFETY: not NULL, at most `isize::MAX` long, and by the headers' contract `len` writable bytes that nobody
        // else uses during the call; the slice does not leave the exported function that made it. Any byte is a `u8`.
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

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Place<T> {}

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
            // SAFETY: `Out::array` found it not NULL and aligned; `index` lies inside, so by the headers' contract this
            // is a writable `T`.
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

/// What a callback is called with: never followed here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context(*mut c_void);

// SAFETY: it is handed back to the caller's own function and never followed; that the function may be called by several
// threads is what `memmodel.h` asks of a program that uses the handle from several.
unsafe impl Send for Context {}

// SAFETY: the same.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) const fn new(ctx: Out<c_void>) -> Self {
        Self(ctx.0)
    }

    pub(crate) const fn get(self) -> *mut c_void {
        self.0
    }
}
