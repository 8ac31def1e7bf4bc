//! The copies of x86-64.
//!
//! Everything that loads guest memory here is assembly: the compiler is told that memory is read and written and knows no
//! more, so that no rule of the language is broken when the guest writes the same bytes at the same time. A copy may hold
//! old and new bytes; the seqlock above tells.
//!
//! # Cursors in turn
//!
//! The buffer is cut into as many parts as there are cursors, each part a number of whole pages, and every cursor copies a
//! few cache lines before the next one does. All cursors advance by the same number of bytes, so that one loop serves all.
//! With every line a cursor asks for the one a page further on, wherever that page lies: the processor's own prefetcher
//! stops at the end of a page, and begins the next one with a miss of the translation and of the line. It is asked into the
//! second level of cache: the pages that all cursors come to next do not fit the first.
//! Stores are whole, aligned lines: where a piece ends inside a line, the line is stitched together in a buffer first.
//!
//! # Bursts
//!
//! A `rep movsb` that is long enough writes lines without having read them, into the caches. It is held up by a source that
//! is not there, though: so it is given half a page at a time, whose lines were asked into the second level a page before and
//! are asked into the first just before it starts.

use core::arch::asm;

use super::copy::Piece;
use crate::plan::Cpu;

const LINE: usize = 64;
const PAGE: usize = 4096;

/// How a line travels: bit 0, past the caches; bit 1, in 32-byte registers; bit 2, asked for as one that is read once.
const STREAM: u8 = 1;
const AVX2: u8 = 2;
const ONCE: u8 = 4;
const STREAM_AVX2: u8 = STREAM | AVX2;
const STREAM_ONCE: u8 = STREAM | ONCE;

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

/// Copies `len` bytes with one instruction.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
unsafe fn move_bytes(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: with the direction flag clear, as the ABI has it, this reads `len` bytes at `src` and writes as many at `dst`,
    // which is what the caller vouches for.
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

/// Copies one line of 64 bytes.
///
/// # Safety
/// 64 bytes at `src` are mapped; 64 bytes at `dst` are writable and the caller's alone, and `dst` is a multiple of 64 where
/// `HOW` has [`STREAM`]. The processor has AVX2 where `HOW` has [`AVX2`], and whoever calls that clears the upper halves of
/// the registers afterwards.
#[inline(always)]
unsafe fn line<const HOW: u8>(src: *const u8, dst: *mut u8) {
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
    match HOW {
        0 => four!("movdqu"),
        STREAM | STREAM_ONCE => four!("movntdq"),
        AVX2 => two!("vmovdqu"),
        _ => two!("vmovntdq"),
    }
}

/// Copies two lines, and asks for the two at `ahead`: in one block, so that the compiler puts nothing between them.
///
/// # Safety
/// As for [`fn@line`], for 128 bytes.
#[inline(always)]
unsafe fn two_lines<const HOW: u8>(src: *const u8, ahead: *const u8, dst: *mut u8) {
    macro_rules! eight {
        ($ask:literal, $store:literal) => {
            // SAFETY: eight loads of 16 bytes that need no alignment and eight stores inside the 128 bytes at `dst`; the
            // caller vouches for both, and for the alignment that non-temporal stores need. A prefetch cannot fault.
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
    match HOW {
        0 => eight!("prefetcht1", "movdqu"),
        STREAM => eight!("prefetcht1", "movntdq"),
        AVX2 => four!("prefetcht1", "vmovdqu"),
        STREAM_ONCE => eight!("prefetchnta", "movntdq"),
        _ => four!("prefetcht1", "vmovntdq"),
    }
}

/// Copies `pieces` into `dst` with cursors in turn, past the caches or into them.
///
/// The numbers of cursors and the bytes of a turn are those that were fastest where they were measured.
///
/// # Safety
/// The bytes of every piece are mapped; the processor has AVX2 where that is said.
pub(super) unsafe fn copy_in_turn(cpu: Cpu, streaming: bool, avx2: bool, pieces: &[Piece], dst: &mut [u8]) {
    match (streaming, avx2) {
        // SAFETY: the caller's own promise, here and below.
        (true, true) => unsafe { in_turn::<STREAM_AVX2, 6, 128>(cpu, pieces, dst) },
        // SAFETY: as above.
        (true, false) => unsafe { in_turn::<STREAM, 6, 128>(cpu, pieces, dst) },
        // SAFETY: as above.
        (false, true) => unsafe { in_turn::<AVX2, 6, 256>(cpu, pieces, dst) },
        // SAFETY: as above.
        (false, false) => unsafe { in_turn::<0, 6, 256>(cpu, pieces, dst) },
    }
}

/// Bytes of a burst: half a page, since a whole one was slower.
const BURST: usize = 2048;

/// Asks for the lines of `len` bytes at `src` into the first level of cache, and for those at `ahead` into the second.
///
/// Not as fast as it could: a prefetch that finds all miss buffers taken seems to be dropped, and a loop without the
/// multiplication, which takes three cycles and does nothing else, made copies up to half as slow again.
#[inline]
fn ask_for(src: *const u8, ahead: *const u8, len: usize) {
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

/// Copies long `pieces` into `dst` one after the other, half a page at a time, into the caches.
///
/// # Safety
/// The bytes of every piece are mapped.
pub(super) unsafe fn copy_in_bursts(pieces: &[Piece], dst: &mut [u8]) {
    let mut at = Cursor { pieces, src: core::ptr::null(), left: 0 };
    at.settle();
    let mut rest = dst;
    while !rest.is_empty() {
        // Up to a half page of the destination: where its lines are cut, lines are read before they are written after all.
        let len = (BURST - rest.as_ptr().addr() % BURST).min(at.straight());
        let Some((to, after)) = rest.split_at_mut_checked(len) else { break };
        if len == 0 {
            break;
        }
        ask_for(at.src, at.ahead(), len);
        // SAFETY: `len` bytes are left in the piece, and `to` is exclusive and of this length.
        unsafe { move_bytes(at.src, to.as_mut_ptr(), len) };
        at.advance(len);
        rest = after;
    }
}

/// Copies long `pieces` into `dst` one after the other, past the caches or, on a processor with AVX2, into them.
///
/// # Safety
/// The bytes of every piece are mapped; the processor has AVX2 unless `streaming`.
pub(super) unsafe fn copy_ahead(cpu: Cpu, streaming: bool, pieces: &[Piece], dst: &mut [u8]) {
    if streaming {
        // SAFETY: the caller's own promise, here and below.
        unsafe { in_turn::<STREAM_ONCE, 1, 128>(cpu, pieces, dst) }
    } else {
        // SAFETY: as above.
        unsafe { in_turn::<AVX2, 1, 256>(cpu, pieces, dst) }
    }
}

/// # Safety
/// The bytes of every piece are mapped; the processor has AVX2 where `HOW` says so.
unsafe fn in_turn<const HOW: u8, const CURSORS: usize, const TURN: usize>(cpu: Cpu, pieces: &[Piece], dst: &mut [u8]) {
    let mut at = Cursor { pieces, src: core::ptr::null(), left: 0 };
    at.settle();
    // Up to the first whole line.
    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let (head, body) = dst.split_at_mut(head);
    // SAFETY: the pieces hold as many bytes as `dst`, which the head is the start of.
    unsafe { at.take(cpu, head.as_mut_ptr(), head.len()) };

    let part = body.len() / (CURSORS * PAGE) * PAGE;
    if part > 0 {
        let mut cursors = [at; CURSORS];
        for cursor in &mut cursors {
            *cursor = at;
            at.skip(part);
        }
        // SAFETY: `CURSORS` parts fit into `body`, which is aligned to a line, and the cursors stand where they start.
        unsafe { turn::<HOW, CURSORS, TURN>(cpu, &mut cursors, body.as_mut_ptr(), part) };
    }
    let (_, rest) = body.split_at_mut(part * CURSORS);
    let lines = rest.len() / LINE * LINE;
    // SAFETY: as above with one cursor: parts are whole pages, so that what follows them is aligned too.
    unsafe { turn::<HOW, 1, TURN>(cpu, core::array::from_mut(&mut at), rest.as_mut_ptr(), lines) };
    let (_, tail) = rest.split_at_mut(lines);
    // SAFETY: the last bytes of `dst` are the last of the pieces.
    unsafe { at.take(cpu, tail.as_mut_ptr(), tail.len()) };
    finish::<HOW>();
}

/// Copies `part` bytes, a multiple of a line, for each cursor, to `dst` and every `part` bytes after it.
///
/// # Safety
/// `cursors.len() * part` bytes at `dst` are writable and this call's alone, `dst` and `part` are multiples of a line, and
/// every cursor has `part` mapped bytes before it. The rest is as for [`fn@line`].
#[inline(always)]
unsafe fn turn<const HOW: u8, const CURSORS: usize, const TURN: usize>(
    cpu: Cpu,
    cursors: &mut [Cursor<'_>; CURSORS],
    dst: *mut u8,
    part: usize,
) {
    let mut done = 0;
    while done < part {
        let shared = cursors.iter().fold(part - done, |least, cursor| least.min(cursor.straight())) / LINE * LINE;
        if shared == 0 {
            // Some piece ends inside its line.
            for (index, cursor) in cursors.iter_mut().enumerate() {
                let to = dst.wrapping_add(index * part + done);
                let mut stitched = Line([0; LINE]);
                // SAFETY: the cursor has a line left in its pieces, and `stitched` is one.
                unsafe { cursor.take(cpu, stitched.0.as_mut_ptr(), LINE) };
                // SAFETY: a line at `done` lies in the part, and both sides are aligned.
                unsafe { line::<HOW>(stitched.0.as_ptr(), to) };
            }
            done += LINE;
            continue;
        }
        let to = dst.wrapping_add(done);
        let ways: [(*const u8, *const u8, *mut u8); CURSORS] = core::array::from_fn(|index| {
            let cursor = &cursors[index];
            (cursor.src, cursor.ahead(), to.wrapping_add(index * part))
        });
        let turns = shared / TURN * TURN;
        for at in (0..turns).step_by(TURN) {
            for (src, ahead, to) in ways {
                for within in (0..TURN).step_by(2 * LINE) {
                    let skip = at.wrapping_add(within);
                    // SAFETY: `skip + 2 * LINE <= shared`, which every cursor has left in its piece and its part.
                    unsafe {
                        two_lines::<HOW>(src.wrapping_add(skip), ahead.wrapping_add(skip), to.wrapping_add(skip));
                    }
                }
            }
        }
        for at in (turns..shared).step_by(LINE) {
            for (src, _, to) in ways {
                // SAFETY: `shared` is a multiple of a line, so that a whole one is left.
                unsafe { line::<HOW>(src.wrapping_add(at), to.wrapping_add(at)) };
            }
        }
        for cursor in cursors.iter_mut() {
            cursor.advance(shared);
        }
        done += shared;
    }
}

/// Makes streamed stores visible before whatever the program does next, and leaves the registers as other code wants them.
#[inline]
fn finish<const HOW: u8>() {
    if HOW & STREAM != 0 {
        // SAFETY: orders stores and changes nothing else; every x86-64 has it.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }
    if HOW & AVX2 != 0 {
        // SAFETY: clears the upper halves of the vector registers, all of which the ABI lets a callee overwrite and which
        // are declared overwritten. Code with `AVX2` runs only where the processor has it.
        unsafe { asm!("vzeroupper", clobber_abi("C"), options(nostack, preserves_flags)) };
    }
}

/// A line to stitch in.
#[repr(align(64))]
struct Line([u8; LINE]);

/// A place in the pieces: the rest of the current one, and those after it.
#[derive(Clone, Copy)]
struct Cursor<'p> {
    pieces: &'p [Piece],
    src: *const u8,
    left: usize,
}

impl Cursor<'_> {
    /// Goes on to the next piece that has bytes, where the current one has none.
    #[inline]
    fn settle(&mut self) {
        while self.left == 0 {
            let Some((next, after)) = self.pieces.split_first() else { return };
            *self = Self { pieces: after, src: next.host, left: next.len };
        }
    }

    /// Bytes over which [`ahead`](Self::ahead) runs along with the cursor.
    #[inline(always)]
    fn straight(&self) -> usize {
        if self.left >= PAGE + LINE { self.left - PAGE } else { self.left }
    }

    /// What comes a page after the next byte, in this piece or in the one after it. Only to be asked for: where a piece is
    /// short, or the last, nothing need be there.
    #[inline(always)]
    fn ahead(&self) -> *const u8 {
        match self.pieces.first() {
            Some(next) if self.left < PAGE + LINE => next.host.wrapping_add(PAGE).wrapping_sub(self.left),
            _ => self.src.wrapping_add(PAGE),
        }
    }

    /// Passes `bytes` of the current piece, which has as many.
    #[inline]
    fn advance(&mut self, bytes: usize) {
        self.src = self.src.wrapping_add(bytes);
        self.left -= bytes;
        self.settle();
    }

    fn skip(&mut self, bytes: usize) {
        let mut rest = bytes;
        while rest > 0 && self.left > 0 {
            let step = rest.min(self.left);
            self.advance(step);
            rest -= step;
        }
    }

    /// Copies the next `len` bytes, from as many pieces as it takes.
    ///
    /// # Safety
    /// The pieces are mapped; `len` bytes at `dst` are writable and the caller's alone.
    #[inline]
    unsafe fn take(&mut self, cpu: Cpu, dst: *mut u8, len: usize) {
        let mut done = 0;
        while done < len && self.left > 0 {
            let step = self.left.min(len - done);
            // SAFETY: `step` bytes are left in the piece, and as many of the `len` at `dst`.
            unsafe { copy(cpu, self.src, dst.wrapping_add(done), step) };
            self.advance(step);
            done += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor over pieces of these lengths, and the address of every byte in order.
    fn laid_out(lens: &[usize]) -> (Vec<Piece>, Vec<*const u8>) {
        let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
        for (nth, len) in lens.iter().enumerate() {
            let host = core::ptr::without_provenance::<u8>((nth + 1) << 24);
            pieces.push(Piece { host, len: *len });
            bytes.extend((0..*len).map(|at| host.wrapping_add(at)));
        }
        (pieces, bytes)
    }

    #[test]
    fn what_is_asked_for_ahead_is_what_comes_a_page_later() {
        for lens in [&[PAGE; 6][..], &[3 * PAGE, PAGE, 5 * PAGE, 2 * PAGE], &[PAGE + 48, PAGE + 16, 2 * PAGE, 9000]] {
            let (pieces, bytes) = laid_out(lens);
            let mut at = Cursor { pieces: &pieces, src: core::ptr::null(), left: 0 };
            at.settle();
            let mut done = 0;
            while done + at.straight() + PAGE <= bytes.len() {
                let straight = at.straight();
                assert!(straight > 0 && straight <= at.left, "{lens:?} at {done}");
                // Where a page further on is less than a line before the piece's end, the next piece is as good.
                if at.left <= PAGE || at.left >= PAGE + LINE {
                    for skip in [0, straight - 1] {
                        let expected = bytes[done + skip + PAGE];
                        assert_eq!(at.ahead().wrapping_add(skip), expected, "{lens:?} at {done} + {skip}");
                    }
                }
                at.advance(straight);
                done += straight;
            }
            assert!(done > 0, "{lens:?}");
        }
    }
}
