//! Cursors that copy a few cache lines in turn, so that their misses overlap.
//!
//! All cursors of a turn advance by the same number of bytes, so that one loop serves all. Stores are whole, aligned
//! lines: where a piece ends inside a line, the line is stitched together in a buffer first. With every line a cursor
//! prefetches the one that it comes to a page later, wherever that page lies: the processor's own prefetcher stops at
//! the end of a page, and begins the next one with a miss of the translation and of the line. It is prefetched into the
//! second level of cache: the pages that all cursors come to next do not fit the first. One cursor also asks for the
//! translation of a page after that. A method for frames that are in a cache prefetches no more than the first lines of
//! the next piece.
//!
//! [`apart`] cuts the buffer into as many parts as there are cursors. [`abreast`] gives each cursor one page of as many
//! neighbours, and prefetches their next neighbours: the stores of all stay close together.

use super::lines::{BARE, Line, NEXT, ONCE, ask_for_first, ask_for_once, finish, line, two_lines};
use super::piece::{Cursor, LINE, PAGE, Piece};
use super::plain::take;
use crate::plan::Cpu;

/// Copies `pieces` into `dst` with `CURSORS` cursors, each in a part of the buffer that is a number of whole pages,
/// `TURN` bytes at a time. One cursor copies piece by piece.
///
/// # Safety
/// The bytes of every piece are mapped; the processor has the registers that `HOW` asks for.
pub(super) unsafe fn apart<const HOW: u8, const CURSORS: usize, const TURN: usize>(
    cpu: Cpu,
    pieces: &[Piece],
    dst: &mut [u8],
) {
    let mut at = Cursor::new(pieces);
    // SAFETY: the caller's own promise.
    let body = unsafe { to_whole_lines(&mut at, cpu, dst) };
    let part = body.len() / (CURSORS * PAGE) * PAGE;
    if part > 0 {
        let mut cursors = [at; CURSORS];
        for cursor in &mut cursors {
            *cursor = at;
            at.skip(part);
        }
        // SAFETY: `CURSORS` parts fit into `body`, which is aligned to a line, and the cursors stand where they start.
        unsafe { turn::<HOW, CURSORS, TURN>(cpu, &mut cursors, None, body.as_mut_ptr(), part) };
    }
    let (_, rest) = body.split_at_mut(part * CURSORS);
    // SAFETY: parts are whole pages, so that what follows them is aligned too, and `at` stands where the rest starts.
    unsafe { finish_rest::<HOW, TURN>(at, cpu, rest) };
}

/// Copies `pieces` into `dst` with `CURSORS` cursors, each in one page of as many neighbours, `TURN` bytes at a time.
///
/// # Safety
/// The bytes of every piece are mapped; the processor has the registers that `HOW` asks for.
pub(super) unsafe fn abreast<const HOW: u8, const CURSORS: usize, const TURN: usize>(
    cpu: Cpu,
    pieces: &[Piece],
    dst: &mut [u8],
) {
    let mut at = Cursor::new(pieces);
    // SAFETY: the caller's own promise.
    let body = unsafe { to_whole_lines(&mut at, cpu, dst) };
    let group = CURSORS * PAGE;
    let groups = body.len() / group;
    let (grouped, rest) = body.split_at_mut(groups * group);
    let mut next = neighbours::<CURSORS>(&mut at);
    for (nth, to) in grouped.chunks_exact_mut(group).enumerate() {
        let mut cursors = next;
        if nth + 1 < groups {
            next = neighbours::<CURSORS>(&mut at);
        }
        let ahead = next.map(|cursor| cursor.src);
        // SAFETY: the cursors stand where the pages of `to` start, which is aligned to a line as `body` is.
        unsafe { turn::<HOW, CURSORS, TURN>(cpu, &mut cursors, Some(&ahead), to.as_mut_ptr(), PAGE) };
    }
    let at = if groups == 0 { next.first().copied().unwrap_or(at) } else { at };
    // SAFETY: groups are whole pages, so that what follows them is aligned too, and `at` stands where the rest starts.
    unsafe { finish_rest::<HOW, TURN>(at, cpu, rest) };
}

/// A cursor at each of the next pages; `at` passes them.
#[inline]
fn neighbours<'p, const CURSORS: usize>(at: &mut Cursor<'p>) -> [Cursor<'p>; CURSORS] {
    core::array::from_fn(|_| {
        let here = *at;
        at.skip(PAGE);
        here
    })
}

/// Copies up to the first whole line of `dst`, and gives what follows.
///
/// # Safety
/// The pieces of `at` are mapped and hold as many bytes as `dst`.
unsafe fn to_whole_lines<'d>(at: &mut Cursor<'_>, cpu: Cpu, dst: &'d mut [u8]) -> &'d mut [u8] {
    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let (head, body) = dst.split_at_mut(head);
    // SAFETY: the pieces hold as many bytes as `dst`, which the head is the start of.
    unsafe { take(at, cpu, head.as_mut_ptr(), head.len()) };
    body
}

/// Copies what is left with one cursor, and ends the copy.
///
/// # Safety
/// As for [`apart`]; `rest` begins at a line, and the pieces from `at` on hold as many bytes.
unsafe fn finish_rest<const HOW: u8, const TURN: usize>(mut at: Cursor<'_>, cpu: Cpu, rest: &mut [u8]) {
    let lines = rest.len() / LINE * LINE;
    // SAFETY: the caller's own promise, with one cursor for the whole lines of `rest`.
    unsafe { turn::<HOW, 1, TURN>(cpu, core::array::from_mut(&mut at), None, rest.as_mut_ptr(), lines) };
    let (_, tail) = rest.split_at_mut(lines);
    // SAFETY: the last bytes of `rest` are the last of the pieces.
    unsafe { take(&mut at, cpu, tail.as_mut_ptr(), tail.len()) };
    finish::<HOW>();
}

/// Copies `part` bytes, a multiple of a line, for each cursor, to `dst` and every `part` bytes after it. `ahead` is
/// what to prefetch while the cursors start; without it each prefetches what it comes to a page later.
///
/// # Safety
/// `cursors.len() * part` bytes at `dst` are writable and this call's alone, `dst` and `part` are multiples of a line,
/// and every cursor has `part` mapped bytes before it. The rest is as for [`fn@line`].
#[inline(always)]
unsafe fn turn<const HOW: u8, const CURSORS: usize, const TURN: usize>(
    cpu: Cpu,
    cursors: &mut [Cursor<'_>; CURSORS],
    ahead: Option<&[*const u8; CURSORS]>,
    dst: *mut u8,
    part: usize,
) {
    let mut done = 0;
    while done < part {
        let room = |cursor: &Cursor<'_>| if ahead.is_some() { cursor.left } else { cursor.straight() };
        let shared = cursors.iter().fold(part - done, |least, cursor| least.min(room(cursor))) / LINE * LINE;
        if shared == 0 {
            // Some piece ends inside its line.
            for (index, cursor) in cursors.iter_mut().enumerate() {
                let to = dst.wrapping_add(index * part + done);
                let mut stitched = Line([0; LINE]);
                // SAFETY: the cursor has a line left in its pieces, and `stitched` is one.
                unsafe { take(cursor, cpu, stitched.0.as_mut_ptr(), LINE) };
                // SAFETY: a line at `done` lies in the part, and both sides are aligned.
                unsafe { line::<HOW>(stitched.0.as_ptr(), to) };
            }
            done += LINE;
            continue;
        }
        if HOW & NEXT != 0 {
            for next in cursors.iter().filter_map(Cursor::next) {
                ask_for_first(next);
            }
        }
        if CURSORS == 1 && HOW & (BARE | NEXT) == 0 {
            for third in cursors.iter().filter_map(Cursor::third) {
                ask_for_once(third);
            }
        }
        let to = dst.wrapping_add(done);
        let ways: [(*const u8, *const u8, *mut u8); CURSORS] = core::array::from_fn(|index| {
            let cursor = &cursors[index];
            let ahead = ahead.map_or_else(|| cursor.ahead(), |ahead| ahead[index].wrapping_add(done));
            (cursor.src, ahead, to.wrapping_add(index * part))
        });
        let turns = shared / TURN * TURN;
        for at in (0..turns).step_by(TURN) {
            for (src, ahead, to) in ways {
                if HOW & ONCE != 0 {
                    for skip in (at..at.wrapping_add(TURN)).step_by(LINE) {
                        ask_for_once(ahead.wrapping_add(skip));
                        // SAFETY: `skip + LINE <= shared`, which every cursor has left in its piece and its part.
                        unsafe { line::<HOW>(src.wrapping_add(skip), to.wrapping_add(skip)) };
                    }
                    continue;
                }
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
