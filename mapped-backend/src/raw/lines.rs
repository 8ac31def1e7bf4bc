//! Copies of whole cache lines: every width of register, into the caches or past them.

use core::arch::asm;

/// How a line travels. Bit 0: past the caches.
pub(super) const STREAM: u8 = 1;
/// Bit 1: in 32-byte registers.
pub(super) const AVX2: u8 = 2;
/// Bit 2: prefetched as a line that is read once.
pub(super) const ONCE: u8 = 4;
/// Bit 3: in one 64-byte register, so that a line is one store.
pub(super) const AVX512: u8 = 8;
/// Bit 4: nothing is prefetched, for cursors whose own misses are as many as the processor has room for.
pub(super) const BARE: u8 = 16;
/// Bit 5: nothing is prefetched but the first lines of the next piece.
pub(super) const NEXT: u8 = 32;

const STREAM_AVX2: u8 = STREAM | AVX2;
const STREAM_AVX512: u8 = STREAM | AVX512;
const STREAM_ONCE: u8 = STREAM | ONCE;
const STREAM_ONCE_AVX2: u8 = STREAM | ONCE | AVX2;
const BARE_AVX2: u8 = BARE | AVX2;
const BARE_AVX512: u8 = BARE | AVX512;
const NEXT_AVX2: u8 = NEXT | AVX2;
const NEXT_AVX512: u8 = NEXT | AVX512;

/// A line to stitch in, where a piece ends inside of it.
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; super::piece::LINE]);

/// Copies one line of 64 bytes.
///
/// # Safety
/// 64 bytes at `src` are mapped; 64 bytes at `dst` are writable and the caller's alone, and `dst` is a multiple of 64
/// where `HOW` has [`STREAM`]. The processor has AVX2 where `HOW` has [`AVX2`] and AVX-512F where it has [`AVX512`];
/// whoever calls those clears the upper parts of the registers afterwards ([`finish`]).
#[inline(always)]
pub(super) unsafe fn line<const HOW: u8>(src: *const u8, dst: *mut u8) {
    macro_rules! four {
        ($store:literal) => {
            // SAFETY: four loads of 16 bytes that need no alignment and four stores inside the 64 bytes at `dst`; the
            // caller vouches for both, and for the alignment that non-temporal stores need.
            unsafe {
                asm!(
                    "movdqu {a}, [{s}]", "movdqu {b}, [{s} + 16]", "movdqu {c}, [{s} + 32]", "movdqu {e}, [{s} + 48]",
                    concat!($store, " [{d}], {a}"), concat!($store, " [{d} + 16], {b}"),
                    concat!($store, " [{d} + 32], {c}"), concat!($store, " [{d} + 48], {e}"),
                    s = in(reg) src, d = in(reg) dst,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    macro_rules! two {
        ($store:literal) => {
            // SAFETY: as above with two of 32 bytes, on a processor that the caller says can.
            unsafe {
                asm!(
                    "vmovdqu {a:y}, [{s}]", "vmovdqu {b:y}, [{s} + 32]",
                    concat!($store, " [{d}], {a:y}"), concat!($store, " [{d} + 32], {b:y}"),
                    s = in(reg) src, d = in(reg) dst, a = out(xmm_reg) _, b = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    macro_rules! one {
        ($store:literal) => {
            // SAFETY: as above with one of 64 bytes, on a processor that the caller says can.
            unsafe {
                asm!(
                    "vmovdqu64 {a:z}, [{s}]", concat!($store, " [{d}], {a:z}"),
                    s = in(reg) src, d = in(reg) dst, a = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    match HOW {
        0 | BARE | NEXT => four!("movdqu"),
        STREAM | STREAM_ONCE => four!("movntdq"),
        AVX2 | BARE_AVX2 | NEXT_AVX2 => two!("vmovdqu"),
        STREAM_AVX2 | STREAM_ONCE_AVX2 => two!("vmovntdq"),
        AVX512 | BARE_AVX512 | NEXT_AVX512 => one!("vmovdqu64"),
        _ => one!("vmovntdq"),
    }
}

/// Copies two lines, and prefetches the two at `ahead`: in one block, so that the compiler puts nothing between them.
/// Without the prefetches where `HOW` has [`BARE`], [`NEXT`] or [`ONCE`].
///
/// # Safety
/// As for [`fn@line`], for 128 bytes.
#[inline(always)]
pub(super) unsafe fn two_lines<const HOW: u8>(src: *const u8, ahead: *const u8, dst: *mut u8) {
    macro_rules! eight {
        ($ask:literal, $store:literal) => {
            // SAFETY: eight loads of 16 bytes that need no alignment and eight stores inside the 128 bytes at `dst`;
            // the caller vouches for both, and for the alignment that non-temporal stores need. A prefetch cannot
            // fault.
            unsafe {
                asm!(
                    concat!($ask, " [{p}]"), concat!($ask, " [{p} + 64]"),
                    "movdqu {a}, [{s}]", "movdqu {b}, [{s} + 16]", "movdqu {c}, [{s} + 32]", "movdqu {e}, [{s} + 48]",
                    "movdqu {f}, [{s} + 64]", "movdqu {g}, [{s} + 80]", "movdqu {h}, [{s} + 96]", "movdqu {i}, [{s} + 112]",
                    concat!($store, " [{d}], {a}"), concat!($store, " [{d} + 16], {b}"),
                    concat!($store, " [{d} + 32], {c}"), concat!($store, " [{d} + 48], {e}"),
                    concat!($store, " [{d} + 64], {f}"), concat!($store, " [{d} + 80], {g}"),
                    concat!($store, " [{d} + 96], {h}"), concat!($store, " [{d} + 112], {i}"),
                    s = in(reg) src, p = in(reg) ahead, d = in(reg) dst,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                    f = out(xmm_reg) _, g = out(xmm_reg) _, h = out(xmm_reg) _, i = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    macro_rules! four {
        ($ask:literal, $store:literal) => {
            // SAFETY: as above with four of 32 bytes, on a processor that the caller says can.
            unsafe {
                asm!(
                    concat!($ask, " [{p}]"), concat!($ask, " [{p} + 64]"),
                    "vmovdqu {a:y}, [{s}]", "vmovdqu {b:y}, [{s} + 32]",
                    "vmovdqu {c:y}, [{s} + 64]", "vmovdqu {e:y}, [{s} + 96]",
                    concat!($store, " [{d}], {a:y}"), concat!($store, " [{d} + 32], {b:y}"),
                    concat!($store, " [{d} + 64], {c:y}"), concat!($store, " [{d} + 96], {e:y}"),
                    s = in(reg) src, p = in(reg) ahead, d = in(reg) dst,
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    macro_rules! two {
        ($ask:literal, $store:literal) => {
            // SAFETY: as above with two of 64 bytes, on a processor that the caller says can.
            unsafe {
                asm!(
                    concat!($ask, " [{p}]"), concat!($ask, " [{p} + 64]"),
                    "vmovdqu64 {a:z}, [{s}]", "vmovdqu64 {b:z}, [{s} + 64]",
                    concat!($store, " [{d}], {a:z}"), concat!($store, " [{d} + 64], {b:z}"),
                    s = in(reg) src, p = in(reg) ahead, d = in(reg) dst, a = out(xmm_reg) _, b = out(xmm_reg) _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    match HOW {
        0 => eight!("prefetcht1", "movdqu"),
        STREAM => eight!("prefetcht1", "movntdq"),
        AVX2 => four!("prefetcht1", "vmovdqu"),
        STREAM_AVX2 => four!("prefetcht1", "vmovntdq"),
        AVX512 => two!("prefetcht1", "vmovdqu64"),
        STREAM_AVX512 => two!("prefetcht1", "vmovntdq"),
        _ => {
            // SAFETY: the caller's own promise, for the first line.
            unsafe { line::<HOW>(src, dst) };
            // SAFETY: and for the second.
            unsafe { line::<HOW>(src.wrapping_add(64), dst.wrapping_add(64)) };
        }
    }
}

/// Lines of a piece that are prefetched before it is copied, where its method does that: the processor's own prefetcher
/// has seen the others coming by then.
const FIRST: usize = 8;

/// Prefetches the first lines of a piece into the first level of cache.
#[inline(always)]
pub(super) fn ask_for_first(src: *const u8) {
    for at in (0..FIRST * super::piece::LINE).step_by(super::piece::LINE) {
        // SAFETY: a prefetch is a hint, it cannot fault whatever the address is; nothing else is touched.
        unsafe {
            asm!("prefetcht0 [{p}]", p = in(reg) src.wrapping_add(at), options(nostack, preserves_flags, readonly));
        }
    }
}

/// Prefetches a line that is read once, and so its translation.
#[inline(always)]
pub(super) fn ask_for_once(src: *const u8) {
    // SAFETY: a prefetch is a hint, it cannot fault whatever the address is; nothing else is touched.
    unsafe { asm!("prefetchnta [{p}]", p = in(reg) src, options(nostack, preserves_flags, readonly)) };
}

/// Makes streamed stores visible before whatever the program does next, and leaves the registers as other code wants
/// them.
#[inline]
pub(super) fn finish<const HOW: u8>() {
    if HOW & STREAM != 0 {
        // SAFETY: orders stores and changes nothing else; every x86-64 has it.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }
    if HOW & (AVX2 | AVX512) != 0 {
        // SAFETY: clears the upper parts of the vector registers, all of which the ABI lets a callee overwrite and
        // which are declared overwritten. Code with these bits runs only where the processor has AVX.
        unsafe { asm!("vzeroupper", clobber_abi("C"), options(nostack, preserves_flags)) };
    }
}
