//! Copies out of memory that another machine writes meanwhile.

#[cfg(any(miri, not(target_arch = "x86_64")))]
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::plan::{Cpu, Method};

/// Bytes that lie at one host address, mapped for as long as whoever made this borrows their mapping.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) host: *const u8,
    pub(super) len: usize,
}

impl Piece {
    pub(super) const NONE: Self = Self { host: core::ptr::null(), len: 0 };
}

/// Copies `dst.len()` bytes at `src`.
///
/// # Safety
/// `dst.len()` bytes at `src` are mapped, and outside of every Rust object.
#[inline]
pub(super) unsafe fn copy(cpu: Cpu, src: *const u8, dst: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's own promise; `dst` is exclusive and of this length.
    unsafe {
        super::x86::copy(cpu, src, dst.as_mut_ptr(), dst.len());
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    {
        let _ = cpu;
        // SAFETY: the caller's own promise.
        unsafe { copy_atomic(src, dst) };
    }
}

/// Copies `pieces`, in order, into `dst`, whose length is the sum of theirs.
///
/// # Safety
/// The bytes of every piece are mapped, and outside of every Rust object.
pub(super) unsafe fn copy_pieces(cpu: Cpu, method: Method, pieces: &[Piece], dst: &mut [u8]) {
    debug_assert_eq!(pieces.iter().map(|piece| piece.len).sum::<usize>(), dst.len());
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    match method {
        Method::InOrder => {}
        Method::InBursts => {
            // SAFETY: the caller's own promise, here and below.
            return unsafe { super::x86::copy_in_bursts(pieces, dst) };
        }
        Method::Ahead { streaming } => {
            // SAFETY: as above. Only `plan` chooses methods, and it does so for a processor that has AVX2 where the method
            // wants it.
            return unsafe { super::x86::copy_ahead(cpu, streaming, pieces, dst) };
        }
        Method::InTurn { streaming, avx2 } => {
            // SAFETY: as above.
            return unsafe { super::x86::copy_in_turn(cpu, streaming, avx2, pieces, dst) };
        }
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    let _ = method;
    let mut rest = dst;
    for piece in pieces {
        let Some((head, tail)) = rest.split_at_mut_checked(piece.len) else { return };
        // SAFETY: the bytes of a piece are what the caller vouches for.
        unsafe { copy(cpu, piece.host, head) };
        rest = tail;
    }
}

/// Copies with relaxed atomic loads: single bytes up to a multiple of 8, then words.
///
/// # Safety
/// As for [`copy`].
#[cfg(any(miri, not(target_arch = "x86_64")))]
unsafe fn copy_atomic(src: *const u8, dst: &mut [u8]) {
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
#[cfg(any(miri, not(target_arch = "x86_64")))]
unsafe fn copy_bytes(src: *const u8, dst: &mut [u8]) {
    for (index, byte) in dst.iter_mut().enumerate() {
        let at = src.wrapping_add(index).cast_mut();
        // SAFETY: one byte of the range that the caller vouches for; a byte is always aligned.
        *byte = unsafe { AtomicU8::from_ptr(at) }.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use vgpu_perception_testkit::Rng;

    use super::*;

    /// A source to cut pieces from, and what is in it. Nobody writes it while a test runs.
    fn source(len: usize) -> Vec<u8> {
        let mut rng = Rng::new(7);
        (0..len).map(|_| rng.next_u64() as u8).collect()
    }

    fn methods() -> Vec<Method> {
        let mut methods = vec![Method::InOrder, Method::InBursts];
        for streaming in [false, true] {
            methods.push(Method::InTurn { streaming, avx2: false });
            if Cpu::this().avx2 {
                methods.push(Method::InTurn { streaming, avx2: true });
            }
        }
        methods.push(Method::Ahead { streaming: true });
        if Cpu::this().avx2 {
            methods.push(Method::Ahead { streaming: false });
        }
        methods
    }

    /// Copies random pieces and compares with a plain copy; a margin on both sides must stay as it was.
    fn agrees(method: Method, cpu: Cpu, rng: &mut Rng, source: &[u8], len: impl Fn(&mut Rng) -> usize) {
        let margin = 128;
        let (mut pieces, mut right) = (Vec::new(), Vec::new());
        for _ in 0..rng.below(40) {
            let len = len(rng);
            let from = rng.below((source.len() - len) as u64) as usize;
            let bytes = &source[from..from + len];
            pieces.push(Piece { host: bytes.as_ptr(), len });
            right.extend_from_slice(bytes);
        }
        let mut buffer = vec![0x5c_u8; right.len() + 2 * margin + 64];
        let from = margin + rng.below(64) as usize;
        let dst = &mut buffer[from..from + right.len()];
        // SAFETY: the pieces lie in `source`, which is borrowed and which nobody writes.
        unsafe { copy_pieces(cpu, method, &pieces, dst) };
        let lens: Vec<usize> = pieces.iter().map(|piece| piece.len).collect();
        assert!(buffer[from..from + right.len()] == right, "{method:?} {cpu:?} {lens:?} at {from}");
        let untouched = buffer[..from].iter().chain(&buffer[from + right.len()..]).all(|byte| *byte == 0x5c);
        assert!(untouched, "{method:?} {cpu:?} {lens:?} at {from} wrote outside");
    }

    #[test]
    fn every_method_copies_every_shape() {
        let rounds = if cfg!(miri) { 2 } else { 400 };
        let source = source(1 << 19);
        for method in methods() {
            let mut rng = Rng::new(11);
            for round in 0..rounds {
                let cpu = Cpu { erms: round % 2 == 0, ..Cpu::this() };
                agrees(method, cpu, &mut rng, &source, |rng| rng.below(200) as usize);
                agrees(method, cpu, &mut rng, &source, |rng| rng.below(9000) as usize);
                agrees(method, cpu, &mut rng, &source, |_| 4096);
                agrees(method, cpu, &mut rng, &source, |rng| 4096 * rng.below(32) as usize);
                agrees(method, cpu, &mut rng, &source, |rng| 64 * rng.below(100) as usize);
                agrees(method, cpu, &mut rng, &source, |rng| match rng.below(4) {
                    0 => 0,
                    1 => rng.below(4096) as usize,
                    _ => 4096,
                });
            }
        }
    }

    #[test]
    fn every_length_is_copied_to_every_alignment() {
        let source = source(4096);
        for erms in [false, true] {
            for len in (0..300).chain([511, 512, 513, 1023, 1024, 1025, 3000]) {
                for skew in [0, 1, 7, 8, 15, 16, 33, 63] {
                    let mut buffer = vec![0x5c_u8; len + 128];
                    let dst = &mut buffer[skew..skew + len];
                    // SAFETY: `source` is borrowed, longer than `skew / 2 + len`, and nobody writes it.
                    unsafe { copy(Cpu { erms, ..Cpu::this() }, source.as_ptr().wrapping_add(skew / 2), dst) };
                    assert_eq!(dst, &source[skew / 2..skew / 2 + len], "{len} at {skew}");
                    assert!(buffer[..skew].iter().chain(&buffer[skew + len..]).all(|byte| *byte == 0x5c));
                }
            }
        }
    }
}
