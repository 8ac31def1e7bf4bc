//! Handles in the caller's storage: all that a library without a heap can make.

use core::ffi::c_void;

use vgpu_perception::{Extent, Gpa, PAGE_BYTES};

use crate::ext::{CandidateC, bind};
use crate::failure::{Failure, code};
use crate::ffi::{Handle, In, Out, Scratch, export};
use crate::memory::{Mem, MemHandle};
use crate::ram::Ram;
use crate::reader::{Map, ReadFn, Reader, SEGMENTS};
use crate::region::RegionHandle;
use crate::scan::{Scan, ScanHandle};
use crate::win32::{Win32, Win32Handle};

/// `gpa_seg` of `memmodel.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SegC {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) file_off: u64,
}

/// Guest memory behind a callback, with a map where `n` is not 0.
pub(crate) fn reader(call: Option<ReadFn>, ctx: Out<c_void>, segs: In<SegC>, n: usize) -> Result<Mem, Failure> {
    let call = call.ok_or_else(|| Failure::argument("read", "is NULL"))?;
    let map = if n == 0 { None } else { Some(reader_map(segs, n)?) };
    Ok(Mem::new(Ram::Reader(Reader::new(call, ctx, map))))
}

fn reader_map(segs: In<SegC>, n: usize) -> Result<Map, Failure> {
    if n > SEGMENTS {
        return Err(Failure::new(code::ARGUMENT, format_args!("{n} segments, but at most {SEGMENTS} are possible")));
    }
    let mut map = Map::EMPTY;
    for index in 0..n {
        let SegC { gpa, len, .. } = segs.at(index, "segs")?;
        let whole = gpa.is_multiple_of(PAGE_BYTES) && len.is_multiple_of(PAGE_BYTES) && len > 0;
        if !whole || gpa.checked_add(len - 1).is_none() {
            let text =
                format_args!("segment {index}, {len:#x} bytes at {gpa:#x}, is not made of whole pages below 2^64");
            return Err(Failure::new(code::ARGUMENT, text));
        }
        map.push(Extent { start: Gpa::new(gpa), len });
    }
    map.sort().map_err(|(lower, upper)| {
        let text = format_args!("the segments at {} and {} overlap", lower.start, upper.start);
        Failure::new(code::ARGUMENT, text)
    })?;
    Ok(map)
}

export! {
    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_init(
        storage: Out<c_void>,
        size: usize,
        read: Option<ReadFn>,
        ctx: Out<c_void>,
        segs: In<SegC>,
        n: usize,
    ) -> MemHandle {
        Handle::place(storage, size, reader(read, ctx, segs, n)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_win32_init(
        storage: Out<c_void>,
        size: usize,
        m: MemHandle,
        kcr3: u64,
        scratch: Out<c_void>,
        scratch_size: usize,
    ) -> Win32Handle {
        Handle::place(storage, size, Win32::attach(m, kcr3, Scratch::lent(scratch, scratch_size)?)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_region_init(storage: Out<c_void>, size: usize, v: Win32Handle, c: In<CandidateC>) -> RegionHandle {
        let candidate = if c.is_null() { None } else { Some(c.get("c")?) };
        Handle::place(storage, size, v.read(|win32| bind(win32, candidate))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_init(
        storage: Out<c_void>,
        size: usize,
        v: Win32Handle,
        scratch: Out<c_void>,
        scratch_size: usize,
    ) -> ScanHandle {
        let scratch = Scratch::lent(scratch, scratch_size)?;
        Handle::place(storage, size, v.read(|win32| Ok(Scan::new(win32, scratch)))?)
    }
}
