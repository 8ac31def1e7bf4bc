//! Copies out of memory that another machine writes meanwhile: by which method, and what all methods have to agree on.
//!
//! On x86-64 everything that loads guest memory is assembly: the compiler is told that memory is read and written and
//! knows no more, so that no rule of the language is broken when the guest writes the same bytes at the same time. A
//! copy may hold old and new bytes; the seqlock above tells.

#[cfg(any(miri, not(target_arch = "x86_64")))]
use super::atomic;
use super::piece::Piece;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use super::{
    bursts,
    lines::{AVX2, AVX512, BARE, NEXT, ONCE, STREAM},
    plain,
    turn::{abreast, apart},
};
use crate::plan::{Cpu, Method};

/// Copies `dst.len()` bytes at `src`.
///
/// # Safety
/// `dst.len()` bytes at `src` are mapped, and outside of every Rust object.
#[inline]
pub(super) unsafe fn copy(cpu: Cpu, src: *const u8, dst: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's own promise; `dst` is exclusive and of this length.
    unsafe {
        plain::copy(cpu, src, dst.as_mut_ptr(), dst.len());
    }
    #[cfg(any(miri, not(target_arch = "x86_64")))]
    {
        let _ = cpu;
        // SAFETY: the caller's own promise.
        unsafe { atomic::copy(src, dst) };
    }
}

/// Copies `pieces`, in order, into `dst`, whose length is the sum of theirs.
///
/// # Safety
/// The bytes of every piece are mapped, and outside of every Rust object.
pub(super) unsafe fn copy_pieces(cpu: Cpu, method: Method, pieces: &[Piece], dst: &mut [u8]) {
    debug_assert_eq!(pieces.iter().map(|piece| piece.len).sum::<usize>(), dst.len());
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if method != Method::Plain {
        // SAFETY: the caller's own promise.
        return unsafe { copy_by(cpu, method, pieces, dst) };
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

/// Calls a copy with the widest registers that this processor has.
///
/// # Safety
/// As for the copy; the bits of the width are added only where the processor has the registers.
#[cfg(all(target_arch = "x86_64", not(miri)))]
macro_rules! widest {
    ($cpu:ident, $copy:ident, $how:expr, $cursors:literal, $turn:literal, $pieces:ident, $dst:ident) => {
        match ($cpu.avx512, $cpu.avx2) {
            // SAFETY: the caller of `copy_by` vouches for the pieces, and the processor has AVX-512.
            (true, _) => unsafe { $copy::<{ $how | AVX512 }, $cursors, $turn>($cpu, $pieces, $dst) },
            // SAFETY: as above with AVX2.
            (false, true) => unsafe { $copy::<{ $how | AVX2 }, $cursors, $turn>($cpu, $pieces, $dst) },
            // SAFETY: as above, with what every x86-64 has.
            (false, false) => unsafe { $copy::<{ $how }, $cursors, $turn>($cpu, $pieces, $dst) },
        }
    };
}

/// # Safety
/// As for [`copy_pieces`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_by(cpu: Cpu, method: Method, pieces: &[Piece], dst: &mut [u8]) {
    // What was tuned with 32-byte registers keeps them on processors that have wider ones.
    let narrow = Cpu { avx512: false, ..cpu };
    match method {
        // SAFETY: the caller's own promise, here and below.
        Method::Plain | Method::Library => unsafe { plain::copy_by_library(pieces, dst) },
        // SAFETY: as above.
        Method::Moves => unsafe { plain::copy_by_moves(pieces, dst) },
        // SAFETY: as above.
        Method::MovePages => unsafe { bursts::copy_pages(pieces, dst) },
        // SAFETY: as above.
        Method::MoveHalfPages => unsafe { bursts::copy_half_pages(pieces, dst) },
        Method::One => widest!(cpu, apart, 0, 1, 256, pieces, dst),
        // A line at a time: in pairs, prefetches are lost where all miss buffers are taken. (On a Zen 5, cold pages
        // that are scattered take 0.49 to 0.55 of `memcpy` so, and 0.52 to 0.59 in pairs.)
        Method::OneStreamed => widest!(cpu, apart, STREAM | ONCE, 1, 64, pieces, dst),
        Method::Two => widest!(cpu, apart, 0, 2, 256, pieces, dst),
        Method::Three => widest!(cpu, apart, 0, 3, 256, pieces, dst),
        Method::Six => widest!(narrow, apart, 0, 6, 256, pieces, dst),
        Method::SixStreamed => widest!(narrow, apart, STREAM, 6, 128, pieces, dst),
        Method::EightStreamed => widest!(cpu, apart, STREAM, 8, 128, pieces, dst),
        Method::SixteenStreamed => widest!(cpu, apart, STREAM, 16, 128, pieces, dst),
        Method::Eight => widest!(cpu, apart, BARE, 8, 128, pieces, dst),
        Method::OneNext => widest!(cpu, apart, NEXT, 1, 256, pieces, dst),
        Method::EightAbreastStreamed => widest!(cpu, abreast, STREAM, 8, 128, pieces, dst),
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

    /// This processor, and as it would be with less: every width of register and both short copies.
    fn processors() -> Vec<Cpu> {
        let this = Cpu::this();
        let mut all = vec![this, Cpu { erms: false, ..this }, Cpu { avx512: false, ..this }];
        all.push(Cpu { avx512: false, avx2: false, erms: false, ..this });
        all.dedup();
        all
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
        let processors = processors();
        for method in Method::ALL {
            let mut rng = Rng::new(11);
            for round in 0..rounds {
                let cpu = processors[round % processors.len()];
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
