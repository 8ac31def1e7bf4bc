//! The copy of a processor for which there is no assembly here, and of Miri: relaxed atomic loads.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Copies `dst.len()` bytes at `src`: single bytes up to a multiple of 8, then words.
///
/// # Safety
/// `dst.len()` bytes at `src` are mapped, and outside of every Rust object.
pub(super) unsafe fn copy(src: *const u8, dst: &mut [u8]) {
    let head = src.align_offset(8).min(dst.len());
    let (head, rest) = dst.split_at_mut(head);
    // SAFETY: the head of the range that the caller vouches for.
    unsafe { copy_bytes(src, head) };
    let mut at = src.wrapping_add(head.len());
    let mut words = rest.chunks_exact_mut(8);
    for word in &mut words {
        // SAFETY: `at` is a multiple of 8 since the head was cut there, and 8 bytes of the range lie behind it.
        let loaded = unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) }.load(Ordering::Relaxed);
        word.copy_from_slice(&loaded.to_ne_bytes());
        at = at.wrapping_add(8);
    }
    // SAFETY: the tail of the range that the caller vouches for.
    unsafe { copy_bytes(at, words.into_remainder()) };
}

/// # Safety
/// As for [`copy`].
unsafe fn copy_bytes(src: *const u8, dst: &mut [u8]) {
    for (index, byte) in dst.iter_mut().enumerate() {
        let at = src.wrapping_add(index).cast_mut();
        // SAFETY: one byte of the range that the caller vouches for; a byte is always aligned.
        *byte = unsafe { AtomicU8::from_ptr(at) }.load(Ordering::Relaxed);
    }
}
