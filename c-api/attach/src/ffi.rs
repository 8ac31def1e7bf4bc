//! Pointers from C: the only module with `unsafe`.
//!
//! NULL is a failure. What cannot be checked is what the headers ask: a guest that is not NULL was attached and not let
//! go of, and the other library calls with as many objects as it says.
#![allow(unsafe_code, reason = "pointers from C")]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use vgpu_perception::{Gpa, PhysRun};

use crate::{Guest, failed, last};

/// `gpa_seg`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegC {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) file_off: u64,
}

/// `vgpux_piece`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct PieceC {
    gpa: u64,
    dst: *mut u8,
    len: usize,
}

/// `vgpux_reader`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderC {
    size: usize,
    read: extern "C" fn(*const Guest, u64, *mut u8, usize) -> c_int,
    read_pieces: extern "C" fn(*const Guest, *const PieceC, usize) -> c_int,
    read_words: extern "C" fn(*const Guest, u64, *mut u64, usize) -> c_int,
    load_lines: extern "C" fn(*const Guest, *const Gpa, *mut [u64; 8], usize) -> usize,
    next_data: extern "C" fn(*const Guest, u64, *mut u64, *mut u64) -> c_int,
    is_cancelled: Option<extern "C" fn(*mut c_void) -> c_int>,
    batch: usize,
}

// A `Gpa` is handed over as the `uint64_t` that it is.
const _: () = assert!(size_of::<Gpa>() == 8 && align_of::<Gpa>() == 8);

impl ReaderC {
    pub(crate) fn new(batch: usize) -> Self {
        let size = size_of::<Self>();
        // One line at a time is what the backend of mapped files asks for; a call here costs more than a load.
        let batch = batch.clamp(64, 1024);
        Self { size, read, read_pieces, read_words, load_lines, next_data, is_cancelled: None, batch }
    }
}

/// Runs `work` on the guest; `otherwise` where there is none, or where it panics.
fn with<R>(guest: *const Guest, otherwise: R, work: impl FnOnce(&Guest) -> R) -> R {
    // SAFETY: NULL, or by the header's contract what `vgpua_attach` gave and `vgpua_detach` did not take; it is only
    // ever shared.
    let Some(guest) = (unsafe { guest.as_ref() }) else {
        failed("the guest is NULL");
        return otherwise;
    };
    catch_unwind(AssertUnwindSafe(|| work(guest))).unwrap_or(otherwise)
}

extern "C" fn read(guest: *const Guest, gpa: u64, dst: *mut u8, len: usize) -> c_int {
    // SAFETY: the other library hands over `len` writable bytes.
    with(guest, -1, |guest| guest.read(gpa, unsafe { core::slice::from_raw_parts_mut(dst, len) }))
}

extern "C" fn read_pieces(guest: *const Guest, pieces: *const PieceC, n: usize) -> c_int {
    with(guest, -1, |guest| {
        // SAFETY: the other library hands over `n` pieces.
        let pieces = unsafe { core::slice::from_raw_parts(pieces, n) };
        let mut runs = [PhysRun::default(); 64];
        let mut from = 0;
        // Pieces that lie one after the other in the buffer are one copy of several runs.
        while let Some(first) = pieces.get(from) {
            let mut len = 0;
            let mut count = 0;
            for (piece, run) in pieces[from..].iter().zip(&mut runs) {
                if piece.dst != first.dst.wrapping_add(len) {
                    break;
                }
                *run = PhysRun { gpa: Gpa::new(piece.gpa), len: piece.len as u64 };
                len += piece.len;
                count += 1;
            }
            // SAFETY: the pieces from `from` on are `len` writable bytes that follow each other.
            let dst = unsafe { core::slice::from_raw_parts_mut(first.dst, len) };
            let code = guest.read_runs(&runs[..count], dst);
            if code != 0 {
                return code;
            }
            from += count;
        }
        0
    })
}

extern "C" fn read_words(guest: *const Guest, gpa: u64, words: *mut u64, n: usize) -> c_int {
    // SAFETY: the other library hands over `n` writable words.
    with(guest, -1, |guest| guest.read_words(gpa, unsafe { core::slice::from_raw_parts_mut(words, n) }))
}

extern "C" fn load_lines(guest: *const Guest, gpas: *const Gpa, lines: *mut [u64; 8], n: usize) -> usize {
    with(guest, 0, |guest| {
        // SAFETY: the other library hands over `n` addresses.
        let at = unsafe { core::slice::from_raw_parts(gpas, n) };
        // SAFETY: and `n` writable lines.
        guest.load_lines(at, unsafe { core::slice::from_raw_parts_mut(lines, n) })
    })
}

extern "C" fn next_data(guest: *const Guest, from: u64, start: *mut u64, len: *mut u64) -> c_int {
    with(guest, -1, |guest| match guest.next_data(from) {
        Ok(None) => 0,
        Ok(Some((at, bytes))) => {
            // SAFETY: the other library hands over a place for it.
            unsafe { start.write(at) };
            // SAFETY: and for this.
            unsafe { len.write(bytes) };
            1
        }
        Err(code) => code,
    })
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_attach(name: *const c_char) -> *mut Guest {
    if name.is_null() {
        failed("the name is NULL");
        return core::ptr::null_mut();
    }
    // SAFETY: not NULL, and by the header's contract a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let guest = catch_unwind(AssertUnwindSafe(|| Guest::attach(&name))).ok().flatten();
    guest.map_or(core::ptr::null_mut(), |guest| Box::into_raw(Box::new(guest)))
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_detach(guest: *mut Guest) {
    if !guest.is_null() {
        // SAFETY: by the header's contract it is what `vgpua_attach` gave, and nobody uses it any more.
        let guest = unsafe { Box::from_raw(guest) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(guest)));
    }
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_reader(guest: *const Guest) -> *const ReaderC {
    with(guest, core::ptr::null(), |guest| &raw const guest.reader)
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_segs(guest: *const Guest, n: *mut usize) -> *const SegC {
    let (at, len) = with(guest, (core::ptr::null(), 0), |guest| (guest.segs.as_ptr(), guest.segs.len()));
    if !n.is_null() {
        // SAFETY: not NULL, and by the header's contract writable.
        unsafe { n.write(len) };
    }
    at
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_root(guest: *const Guest) -> u64 {
    with(guest, 0, |guest| guest.root)
}

/// See `vgpu_perception_attach.h`.
#[unsafe(no_mangle)]
extern "C" fn vgpua_last_error(buf: *mut c_char, cap: usize) -> usize {
    let text = last();
    if !buf.is_null() && cap > 0 {
        let n = text.len().min(cap - 1);
        // SAFETY: not NULL, and by the header's contract `cap` writable bytes.
        unsafe { core::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast::<u8>(), n) };
        // SAFETY: `n` is below `cap`.
        unsafe { buf.wrapping_add(n).write(0) };
    }
    text.len()
}
