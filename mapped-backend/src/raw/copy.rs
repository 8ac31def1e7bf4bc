//! Copies out of memory that another machine writes meanwhile.

#[cfg(any(miri, not(target_arch = "x86_64")))]
mod portable {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    /// Copies `dst.len()` bytes at `src` with relaxed atomic loads: single bytes up to a multiple of 8, then words.
    ///
    /// # Safety
    /// `dst.len()` bytes at `src` are mapped, outside of every Rust object that is written without atomics.
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
}

/// Copies `dst.len()` bytes at `src`.
///
/// # Safety
/// `dst.len()` bytes at `src` are mapped, and outside of every Rust object.
#[inline]
pub(super) unsafe fn copy(src: *const u8, dst: &mut [u8]) {
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    // SAFETY: the caller's own promise.
    unsafe {
        portable::copy(src, dst);
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's own promise.
    unsafe {
        x86::copy(src, dst);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86 {
    use core::arch::asm;

    /// # Safety
    /// As for [`super::copy`].
    pub(super) unsafe fn copy(src: *const u8, dst: &mut [u8]) {
        // SAFETY: `rep movsb` with the direction flag clear, as the ABI has it, reads `len` bytes at `src`, which the
        // caller vouches for, and writes as many to `dst`, which is exclusive. The memory it reads is behind assembly: what
        // another machine writes there meanwhile is no data race of this program.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") dst.len() => _,
                inout("rsi") src => _,
                inout("rdi") dst.as_mut_ptr() => _,
                options(nostack, preserves_flags),
            );
        }
    }
}
