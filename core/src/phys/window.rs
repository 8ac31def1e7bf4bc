//! Mapped guest memory, as an address and a lifetime.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// A raw, lifetime-bound view of mapped guest memory that the guest writes meanwhile.
///
/// There is no reference in it and no way to get one: it is an address, a length and a lifetime. Reading through it
/// takes `unsafe` and a volatile or atomic load, which this crate never does; the crate of the backend offers typed
/// volatile access, and an embedder may hand the address to hardware.
#[derive(Clone, Copy, Debug)]
pub struct Window<'m> {
    ptr: NonNull<u8>,
    len: usize,
    mapping: PhantomData<&'m ()>,
}

impl Window<'_> {
    /// Describes `len` bytes at `ptr`; a backend calls this with memory that stays mapped for the lifetime.
    #[must_use]
    pub const fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len, mapping: PhantomData }
    }

    /// The first byte. Only volatile or atomic loads may go through it.
    #[must_use]
    pub const fn as_ptr(self) -> *const u8 {
        self.ptr.as_ptr().cast_const()
    }

    /// How many bytes are mapped there.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether the view is of no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}
