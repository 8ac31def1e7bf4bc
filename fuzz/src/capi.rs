//! The C library: calls in any order, with live, closed, foreign, misaligned and NULL handles, over a callback that
//! lies; on one thread, or on two that open, use and close the same handles.
//!
//! The only module with `unsafe`: it calls C functions, as a C program would, and keeps to what their headers ask of
//! one.
#![allow(unsafe_code, reason = "calls through the C interface")]

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use arbitrary::{Arbitrary, Result, Unstructured};
use vgpu_perception::{Gpa, PhysRead};
use vgpu_perception_testkit::{Ram, Rng};
// For its symbols.
use vgpu_perception_c as _;

use crate::guest::{Lie, RAM, Small, rest};

type Callback = extern "C" fn(*mut c_void, u64, *mut c_void, usize) -> c_int;

unsafe extern "C" {
    fn vmie_mem_close(m: *mut c_void);
    fn vgpux_mem_from_reader_segs(read: Callback, ctx: *mut c_void, segs: *const [u64; 3], n: usize) -> *mut c_void;
    fn gva_read(m: *mut c_void, cr3: u64, gva: u64, dst: *mut u8, len: usize) -> c_int;
    fn gva_to_gpa(m: *mut c_void, cr3: u64, gva: u64, out: *mut u64) -> c_int;
    fn vmie_win32_open(m: *mut c_void, kcr3: u64) -> *mut c_void;
    fn vmie_win32_close(v: *mut c_void);
    fn vmie_win32_mem(v: *mut c_void) -> *mut c_void;
    fn proc_list(v: *mut c_void, out: *mut u64, cap: usize) -> c_int;
    fn vgpup_open(v: *mut c_void) -> *mut c_void;
    fn vgpup_close(r: *mut c_void);
    fn vgpup_discover_candidate(v: *mut c_void, cr3: *mut u64, gva: *mut u64, hb0: *mut u64) -> c_int;
    fn vgpup_confirm_alive(m: *mut c_void, cr3: u64, gva: u64, hb0: u64) -> c_int;
    fn vgpup_sample_frame(r: *mut c_void, m: *mut c_void, dst: *mut u8, cap: usize, info: *mut u64) -> c_int;
    fn vgpup_read_cursor(r: *mut c_void, m: *mut c_void, out: *mut u64) -> c_int;
    fn vgpup_read_geometry(r: *mut c_void, m: *mut c_void, out: *mut u64) -> c_int;
    fn vgpup_read_status(r: *mut c_void, m: *mut c_void, out: *mut u64) -> c_int;
    fn vgpup_run_epoch(r: *const c_void) -> u32;
    fn vgpux_last_error(buf: *mut c_char, cap: usize) -> usize;
    fn vgpux_last_skip(r: *mut c_void, out: *mut u64) -> c_int;
    fn vgpux_forget_frames(r: *mut c_void) -> c_int;
    fn vgpux_region_place(r: *mut c_void, cr3: *mut u64, gva: *mut u64) -> c_int;
    fn vgpux_read_heartbeat(r: *mut c_void, m: *mut c_void, beat: *mut u64, epoch: *mut u64) -> c_int;
    fn vgpux_candidates(v: *mut c_void, out: *mut u64, cap: usize) -> c_int;
    fn vgpux_scan_open(v: *mut c_void) -> *mut c_void;
    fn vgpux_scan_step(s: *mut c_void, budget: u64, out: *mut u64) -> c_int;
    fn vgpux_scan_close(s: *mut c_void);
    fn vgpux_region_open(v: *mut c_void, candidate: *const u64) -> *mut c_void;
}

/// See [`crate`].
pub fn capi(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

/// What the callback reads from.
struct Guest {
    ram: Ram,
    rng: Mutex<Rng>,
    /// Of a thousand requests.
    lies: AtomicU64,
}

extern "C" fn read(ctx: *mut c_void, gpa: u64, dst: *mut c_void, len: usize) -> c_int {
    // SAFETY: `ctx` is the guest that `run` keeps until all handles are closed; it is only ever shared.
    let guest = unsafe { &*ctx.cast::<Guest>() };
    // SAFETY: the library hands over `len` writable bytes, as `memmodel.h` says.
    let dst = unsafe { core::slice::from_raw_parts_mut(dst.cast::<u8>(), len) };
    let mut rng = guest.rng.lock().unwrap_or_else(PoisonError::into_inner);
    let lie = rng.below(1000) < guest.lies.load(Ordering::Relaxed);
    match guest.ram.read(Gpa::new(gpa), dst) {
        Err(_) => -1,
        Ok(()) if lie && rng.below(3) == 0 => -7,
        Ok(()) => {
            if lie && len > 0 {
                let at = usize::try_from(rng.below(len as u64)).unwrap_or(0);
                dst[at] ^= 1 << rng.below(8);
            }
            0
        }
    }
}

/// Which handle a call gets: of four kinds, two of each, open or closed.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Pick {
    Own(bool),
    Foreign(u8),
    Null,
    Askew(bool),
    MadeUp(u32),
}

/// Where a result goes.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Where {
    Room(u8),
    Null,
    Askew,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    Region,
    Inside(u32),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Mem(bool),
    MemClose(Pick),
    Win32(bool, Pick, bool),
    Win32Close(Pick),
    List(Pick, u8),
    Open(bool, Pick),
    OpenAt(bool, Pick, Address),
    Close(Pick),
    Discover(Pick, Where),
    Alive(Pick, Address, u64),
    Frame(Pick, Pick, u16, Where),
    Cursor(Pick, Pick, Where),
    Geometry(Pick, Pick, Where),
    Status(Pick, Pick, Where),
    Skip(Pick, Where),
    Forget(Pick),
    Place(Pick, Where),
    Heartbeat(Pick, Pick, Where),
    Candidates(Pick, u8),
    Scan(bool, Pick),
    Step(Pick, u16, Where),
    ScanClose(Pick),
    Read(Pick, Address, u16),
    Translate(Pick, Address, Where),
    Lies(u8),
    Error(u8),
}

const MEM: usize = 0;
const WIN32: usize = 1;
const REGION: usize = 2;
const SCAN: usize = 3;
/// Words of the room for results; the largest is a list of 40 processes.
const ROOM: usize = 1024;

struct Session {
    ctx: *mut c_void,
    handles: [[*mut c_void; 2]; 4],
    room: Box<[u64; ROOM]>,
    frame: Vec<u8>,
    cr3: u64,
    base: u64,
}

impl Session {
    fn pick(&self, kind: usize, pick: Pick) -> *mut c_void {
        match pick {
            Pick::Own(second) => self.handles[kind][usize::from(second)],
            Pick::Foreign(which) => self.handles[usize::from(which) % 4][usize::from(which) / 4 % 2],
            Pick::Null => core::ptr::null_mut(),
            Pick::Askew(second) => self.handles[kind][usize::from(second)].wrapping_byte_add(1),
            Pick::MadeUp(number) => core::ptr::without_provenance_mut(usize::try_from(number).unwrap_or(0) * 16),
        }
    }

    fn out(&mut self, at: Where) -> *mut u64 {
        let room = self.room.as_mut_ptr();
        match at {
            Where::Room(at) => room.wrapping_add(usize::from(at)),
            Where::Null => core::ptr::null_mut(),
            Where::Askew => room.wrapping_byte_add(1),
        }
    }

    const fn address(&self, address: Address) -> u64 {
        match address {
            Address::Region => self.base,
            Address::Inside(offset) => self.base.wrapping_add(offset as u64),
            Address::Any(any) => any,
        }
    }

    fn keep(&mut self, kind: usize, second: bool, handle: *mut c_void) {
        if !handle.is_null() {
            let old = core::mem::replace(&mut self.handles[kind][usize::from(second)], handle);
            close(kind, old);
        }
    }

    fn close(&self) {
        for kind in [SCAN, REGION, WIN32, MEM] {
            self.handles[kind].iter().for_each(|handle| close(kind, *handle));
        }
    }

    fn call(&mut self, call: Call, guest: &Guest) {
        let (cr3, frame, cap) = (self.cr3, self.frame.as_mut_ptr(), self.frame.len());
        let three = |got: c_int| assert!((-9..=1).contains(&got), "{call:?} gave {got}");
        let none = |got: c_int| assert!((-9..=0).contains(&got), "{call:?} gave {got}");
        // What has no place to go is refused before any work is done.
        let placed = |at: Where, got: c_int| {
            assert!(matches!(at, Where::Room(_)) || got < 0, "{call:?} gave {got}");
            three(got);
        };
        let count = |got: c_int| assert!(got >= -9, "{call:?} gave {got}");
        let segs = [[0, RAM, 0]];
        // SAFETY: handles are any value, which the library says it checks; a pointer for results is NULL, misaligned,
        // or has room for the largest result behind it; `frame` has `cap` bytes; the callback's guest outlives the
        // handles.
        unsafe {
            match call {
                Call::Mem(second) => {
                    let new = vgpux_mem_from_reader_segs(read, self.ctx, segs.as_ptr(), 1);
                    assert!(!new.is_null());
                    self.keep(MEM, second, new);
                }
                Call::MemClose(m) => vmie_mem_close(self.pick(MEM, m)),
                Call::Win32(second, m, known) => {
                    let new = vmie_win32_open(self.pick(MEM, m), if known { cr3 } else { 0 });
                    self.keep(WIN32, second, new);
                }
                Call::Win32Close(v) => vmie_win32_close(self.pick(WIN32, v)),
                Call::List(v, cap) => {
                    let v = self.pick(WIN32, v);
                    assert!(vmie_win32_mem(v).is_null() || self.handles[WIN32].contains(&v), "a handle that is none");
                    count(proc_list(v, self.room.as_mut_ptr(), usize::from(cap % 40)));
                }
                Call::Open(second, v) => {
                    let new = vgpup_open(self.pick(WIN32, v));
                    self.keep(REGION, second, new);
                }
                Call::OpenAt(second, v, at) => {
                    let mut candidate = [0_u64; 9];
                    (candidate[0], candidate[1]) = (cr3, self.address(at));
                    let new = vgpux_region_open(self.pick(WIN32, v), candidate.as_ptr());
                    self.keep(REGION, second, new);
                }
                Call::Close(r) => vgpup_close(self.pick(REGION, r)),
                Call::Discover(v, at) => {
                    let out = self.out(at);
                    placed(at, vgpup_discover_candidate(self.pick(WIN32, v), out, next(out, 1), next(out, 2)));
                }
                Call::Alive(m, at, beat) => {
                    three(vgpup_confirm_alive(self.pick(MEM, m), cr3, self.address(at), beat));
                }
                Call::Frame(r, m, room, at) => {
                    let (info, room) = (self.out(at), usize::from(room).min(cap));
                    let got = vgpup_sample_frame(self.pick(REGION, r), self.pick(MEM, m), frame, room, info);
                    placed(at, got);
                    if got == 1 {
                        // width, height, stride, format, frame_id, timestamp, bytes
                        let words = info.read().to_le_bytes();
                        let height = u32::from_le_bytes([words[4], words[5], words[6], words[7]]);
                        let stride = info.wrapping_add(1).read() & 0xffff_ffff;
                        let bytes = info.wrapping_add(4).read();
                        assert_eq!(bytes, stride * u64::from(height));
                        assert!(bytes <= room as u64);
                    }
                }
                Call::Cursor(r, m, at) => {
                    let out = self.out(at);
                    placed(at, vgpup_read_cursor(self.pick(REGION, r), self.pick(MEM, m), out));
                }
                Call::Geometry(r, m, at) => {
                    let out = self.out(at);
                    placed(at, vgpup_read_geometry(self.pick(REGION, r), self.pick(MEM, m), out));
                }
                Call::Status(r, m, at) => {
                    let out = self.out(at);
                    let r = self.pick(REGION, r);
                    placed(at, vgpup_read_status(r, self.pick(MEM, m), out));
                    vgpup_run_epoch(r);
                }
                Call::Skip(r, at) => placed(at, vgpux_last_skip(self.pick(REGION, r), self.out(at))),
                Call::Forget(r) => none(vgpux_forget_frames(self.pick(REGION, r))),
                Call::Place(r, at) => {
                    let out = self.out(at);
                    none(vgpux_region_place(self.pick(REGION, r), out, next(out, 1)));
                }
                Call::Heartbeat(r, m, at) => {
                    let out = self.out(at);
                    three(vgpux_read_heartbeat(self.pick(REGION, r), self.pick(MEM, m), out, next(out, 1)));
                }
                Call::Candidates(v, cap) => {
                    count(vgpux_candidates(self.pick(WIN32, v), self.room.as_mut_ptr(), usize::from(cap % 40)));
                }
                Call::Scan(second, v) => {
                    let new = vgpux_scan_open(self.pick(WIN32, v));
                    self.keep(SCAN, second, new);
                }
                Call::Step(s, budget, at) => {
                    let out = self.out(at);
                    let got = vgpux_scan_step(self.pick(SCAN, s), budget.into(), out);
                    assert!((-9..=2).contains(&got), "{got}");
                }
                Call::ScanClose(s) => vgpux_scan_close(self.pick(SCAN, s)),
                Call::Read(m, at, len) => {
                    let len = usize::from(len).min(cap);
                    none(gva_read(self.pick(MEM, m), cr3, self.address(at), frame, len));
                }
                Call::Translate(m, at, place) => {
                    let out = self.out(place);
                    placed(place, gva_to_gpa(self.pick(MEM, m), cr3, self.address(at), out));
                }
                Call::Lies(of_a_thousand) => guest.lies.store(u64::from(of_a_thousand) / 2, Ordering::Relaxed),
                Call::Error(cap) => {
                    vgpux_last_error(self.room.as_mut_ptr().cast(), usize::from(cap));
                }
            }
        }
    }
}

/// What another thread begins with: the same handles, room of its own.
#[derive(Clone, Copy)]
struct Twin {
    handles: [[usize; 2]; 4],
    cr3: u64,
    base: u64,
}

impl Twin {
    fn of(session: &Session) -> Self {
        let handles = session.handles.map(|kind| kind.map(|handle| handle.addr()));
        Self { handles, cr3: session.cr3, base: session.base }
    }

    fn session(self, guest: &Guest) -> Session {
        Session {
            ctx: core::ptr::from_ref(guest).cast_mut().cast(),
            handles: self.handles.map(|kind| kind.map(core::ptr::without_provenance_mut)),
            room: Box::new([0; ROOM]),
            frame: vec![0; 1 << 14],
            cr3: self.cr3,
            base: self.base,
        }
    }
}

/// The place behind `out`; NULL stays what it is.
fn next(out: *mut u64, by: usize) -> *mut u64 {
    if out.is_null() { out } else { out.wrapping_add(by) }
}

fn close(kind: usize, handle: *mut c_void) {
    // SAFETY: a handle of that kind, or NULL, or one that was closed: closing it again does nothing.
    unsafe {
        match kind {
            MEM => vmie_mem_close(handle),
            WIN32 => vmie_win32_close(handle),
            REGION => vgpup_close(handle),
            _ => vgpux_scan_close(handle),
        }
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let small = Small::build(u)?;
    let seed = u.arbitrary()?;
    for _ in 0..u.int_in_range(0..=8)? {
        u.arbitrary::<Lie>()?.tell(&small.guest.ram);
    }
    let guest =
        Box::new(Guest { ram: small.guest.ram.clone(), rng: Mutex::new(Rng::new(seed)), lies: AtomicU64::new(0) });
    let ctx = core::ptr::from_ref::<Guest>(&guest).cast_mut().cast();
    let mut session = Session {
        ctx,
        handles: [[core::ptr::null_mut(); 2]; 4],
        room: Box::new([0; ROOM]),
        frame: vec![0; 1 << 14],
        cr3: small.space.root.get(),
        base: small.base.get(),
    };
    session.call(Call::Mem(false), &guest);
    session.call(Call::Win32(false, Pick::Own(false), true), &guest);
    session.call(Call::OpenAt(false, Pick::Own(false), Address::Region), &guest);
    let two: bool = u.arbitrary()?;
    let calls = rest::<Call>(u, 60)?;
    let (own, other) = calls.split_at(if two { calls.len() / 2 } else { calls.len() });
    let twin = Twin::of(&session);
    std::thread::scope(|scope| {
        if two {
            let guest = &*guest;
            scope.spawn(move || {
                let mut session = twin.session(guest);
                other.iter().for_each(|call| session.call(*call, guest));
                session.close();
            });
        }
        own.iter().for_each(|call| session.call(*call, &guest));
    });
    session.close();
    Ok(())
}
