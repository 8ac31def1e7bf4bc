//! `rep movsb` over sources that were prefetched.
//!
//! A `rep movsb` that is long enough writes lines without having read them, into the caches. It is held up by a source
//! that is not there, though, so its lines are prefetched: into the second level a page before, and for half pages into
//! the first just before it starts.

use core::arch::asm;

use super::piece::{Cursor, LINE, PAGE, Piece};
use super::plain::move_bytes;

/// Prefetches the lines of `len` bytes at `src` into the first level of cache, and those at `ahead` into the second.
///
/// Not as fast as it could: a prefetch that finds all miss buffers taken seems to be dropped, and a loop without the
/// multiplication, which takes three cycles and does nothing else, made copies up to half as slow again.
#[inline]
fn prefetch_both(src: *const u8, ahead: *const u8, len: usize) {
    // SAFETY: prefetches are hints, which cannot fault whatever the address is; nothing else is touched.
    unsafe {
        asm!(
            "2:",
            "prefetcht1 [{ahead} + {at}]",
            "prefetcht0 [{src} + {at}]",
            "add {at}, {line}",
            "imul {at}, {at}, 1",
            "cmp {at}, {len}",
            "jb 2b",
            at = inout(reg) 0_usize => _, src = in(reg) src, ahead = in(reg) ahead, len = in(reg) len, line = const LINE,
            options(nostack, readonly),
        );
    }
}

/// Prefetches the lines of `len` bytes at `ahead` into the second level of cache.
#[inline]
fn prefetch_ahead(ahead: *const u8, len: usize) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "2:",
            "prefetcht1 [{ahead} + {at}]",
            "add {at}, {line}",
            "cmp {at}, {len}",
            "jb 2b",
            at = inout(reg) 0_usize => _, ahead = in(reg) ahead, len = in(reg) len, line = const LINE,
            options(nostack, readonly),
        );
    }
}

/// Copies `pieces` into `dst` one after the other, at most `BURST` bytes at a time and up to a multiple of `BURST` of
/// the destination: where its lines are cut, lines are read before they are written after all. `NEAR` prefetches twice.
///
/// # Safety
/// The bytes of every piece are mapped.
unsafe fn in_bursts<const BURST: usize, const NEAR: bool>(pieces: &[Piece], dst: &mut [u8]) {
    let mut at = Cursor::new(pieces);
    let mut rest = dst;
    while !rest.is_empty() {
        let len = (BURST - rest.as_ptr().addr() % BURST).min(at.straight());
        let Some((to, after)) = rest.split_at_mut_checked(len) else { break };
        if len == 0 {
            break;
        }
        if NEAR {
            prefetch_both(at.src, at.ahead(), len);
        } else {
            prefetch_ahead(at.ahead(), len);
        }
        // SAFETY: `len` bytes are left in the piece, and `to` is exclusive and of this length.
        unsafe { move_bytes(at.src, to.as_mut_ptr(), len) };
        at.advance(len);
        rest = after;
    }
}

/// Half a page at a time, prefetched into both levels.
///
/// # Safety
/// The bytes of every piece are mapped.
pub(super) unsafe fn copy_half_pages(pieces: &[Piece], dst: &mut [u8]) {
    // SAFETY: the caller's own promise.
    unsafe { in_bursts::<{ PAGE / 2 }, true>(pieces, dst) }
}

/// A page at a time, the next one prefetched into the second level.
///
/// # Safety
/// The bytes of every piece are mapped.
pub(super) unsafe fn copy_pages(pieces: &[Piece], dst: &mut [u8]) {
    // SAFETY: the caller's own promise.
    unsafe { in_bursts::<PAGE, false>(pieces, dst) }
}
