//! Memory from the allocator, where there may be none left: an error, and not the end of the program.

use core::mem::MaybeUninit;

use crate::failure::Failure;

/// Room for a value.
pub(super) fn room<T>() -> Result<Box<MaybeUninit<T>>, Failure> {
    const { assert!(size_of::<T>() > 0) };
    let layout = core::alloc::Layout::new::<T>();
    // SAFETY: the layout's size is not 0.
    let at = unsafe { std::alloc::alloc(layout) };
    if at.is_null() {
        return Err(Failure::memory("a handle"));
    }
    // SAFETY: the global allocator gave it for the layout of a `T`, and nobody else has it.
    Ok(unsafe { Box::from_raw(at.cast()) })
}

/// The value in its room.
pub(super) fn fill<T>(room: Box<MaybeUninit<T>>, value: T) -> Box<T> {
    Box::write(room, value)
}

/// A value on the heap.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, Failure> {
    Ok(fill(room()?, value))
}

/// A list with room for `n`.
pub(crate) fn list<T>(n: usize) -> Result<Vec<T>, Failure> {
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(|_| Failure::memory("a list"))?;
    Ok(list)
}
