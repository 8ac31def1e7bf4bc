//! Copies without preparation: what is short, what is left over between whole lines, and pieces one after the other.

use core::arch::asm;

use super::lines::{ask_for_first, line};
use super::piece::{Cursor, LINE, Piece};
use crate::plan::Cpu;

unsafe extern "C" {
    /// The C library's. Declared here only to be called from assembly; nothing in Rust calls it.
    fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8;
}

/// Copies `len` bytes.
///
/// # Safety
/// `len` bytes at `src` are mapped; `len` bytes at `dst` are writable and this call's alone.
#[inline]
pub(super) unsafe fn copy(cpu: Cpu, src: *const u8, dst: *mut u8, len: usize) {
    if len < LINE {
        // SAFETY: the caller's own promise.
        unsafe { copy_few(src, dst, len) };
    } else if len < 1024 || !cpu.erms {
        let last = len - LINE;
        let mut at = 0;
        while at < last {
            // SAFETY: `at < len - LINE`: a line at `at` lies in both ranges.
            unsafe { line::<0>(src.wrapping_add(at), dst.wrapping_add(at)) };
            at += LINE;
        }
        // The last line may overlap the one before it.
        // SAFETY: `last + LINE == len`.
        unsafe { line::<0>(src.wrapping_add(last), dst.wrapping_add(last)) };
    } else {
        // SAFETY: the caller's own promise.
        unsafe { move_bytes(src, dst, len) };
    }
}

/// Copies the next `len` bytes, from as many pieces as it takes.
///
/// # Safety
/// The pieces of `cursor` are mapped; `len` bytes at `dst` are writable and the caller's alone.
#[inline]
pub(super) unsafe fn take(cursor: &mut Cursor<'_>, cpu: Cpu, dst: *mut u8, len: usize) {
    let mut done = 0;
    while done < len && cursor.left > 0 {
        let step = cursor.left.min(len - done);
        // SAFETY: `step` bytes are left in the piece, and as many of the `len` at `dst`.
        unsafe { copy(cpu, cursor.src, dst.wrapping_add(done), step) };
        cursor.advance(step);
        done += step;
    }
}

/// Copies `pieces` one after the other with the C library's `memcpy`, which knows its processor.
///
/// # Safety
/// The bytes of every piece are mapped.
pub(super) unsafe fn copy_by_library(pieces: &[Piece], dst: &mut [u8]) {
    let mut rest = dst;
    for piece in pieces {
        let Some((to, after)) = rest.split_at_mut_checked(piece.len) else { return };
        // SAFETY: a call that the ABI describes: arguments in their registers, everything that a callee may change
        // given up, the stack aligned as assembly without `nostack` finds it. It reads a piece, which is mapped, and
        // writes `to`, which is exclusive and as long. That another machine writes the piece meanwhile is no data race
        // of the language: to the compiler this is an instruction that changes memory, not a call of a function that it
        // knows.
        unsafe {
            asm!(
                "call {memcpy}",
                memcpy = sym memcpy,
                in("rdi") to.as_mut_ptr(), in("rsi") piece.host, in("rdx") piece.len,
                clobber_abi("C"),
            );
        }
        rest = after;
    }
}

/// Copies `pieces` one after the other with one `rep movsb` each; where a piece is longer than a page, with one for all
/// but its last page and one for that. Meanwhile the first lines of the next piece are prefetched.
///
/// # Safety
/// The bytes of every piece are mapped.
pub(super) unsafe fn copy_by_moves(pieces: &[Piece], dst: &mut [u8]) {
    let mut at = Cursor::new(pieces);
    let mut rest = dst;
    while at.left > 0 {
        let len = at.straight();
        let Some((to, after)) = rest.split_at_mut_checked(len) else { return };
        if let Some(next) = at.next() {
            ask_for_first(next);
        }
        // SAFETY: `len` bytes are left in the piece, and `to` is exclusive and as long.
        unsafe { move_bytes(at.src, to.as_mut_ptr(), len) };
        at.advance(len);
        rest = after;
    }
}

/// Copies `len` bytes with one instruction.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
pub(super) unsafe fn move_bytes(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: with the direction flag clear, as the ABI has it, this reads `len` bytes at `src` and writes as many at
    // `dst`, which is what the caller vouches for.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") src => _, inout("rdi") dst => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies less than a line: steps of 16, 8, 4, 2 and 1 bytes.
///
/// # Safety
/// As for [`copy`].
#[inline]
unsafe fn copy_few(src: *const u8, dst: *mut u8, len: usize) {
    let mut at = 0;
    macro_rules! step {
        ($size:literal, $class:ident, $load:literal, $store:literal) => {
            if len - at >= $size {
                // SAFETY: `$size` bytes at `at` lie inside the ranges that the caller vouches for (just checked); loads
                // and stores of this size need no alignment.
                unsafe {
                    asm!(
                        $load, $store,
                        s = in(reg) src.wrapping_add(at), d = in(reg) dst.wrapping_add(at), t = out($class) _,
                        options(nostack, preserves_flags),
                    );
                }
                at += $size;
            }
        };
    }
    step!(16, xmm_reg, "movdqu {t}, [{s}]", "movdqu [{d}], {t}");
    step!(16, xmm_reg, "movdqu {t}, [{s}]", "movdqu [{d}], {t}");
    step!(16, xmm_reg, "movdqu {t}, [{s}]", "movdqu [{d}], {t}");
    step!(8, reg, "mov {t}, [{s}]", "mov [{d}], {t}");
    step!(4, reg, "mov {t:e}, [{s}]", "mov [{d}], {t:e}");
    step!(2, reg, "mov {t:x}, [{s}]", "mov [{d}], {t:x}");
    step!(1, reg_byte, "mov {t}, [{s}]", "mov [{d}], {t}");
    debug_assert_eq!(at, len);
}
