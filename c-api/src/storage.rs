//! Handles in the caller's storage: all that a library without a heap can make.

use core::ffi::c_void;

use vgpu_perception::{Extent, Gpa, PAGE_BYTES};

use crate::ext::{CandidateC, bind, kernel_of};
use crate::failure::{Failure, code};
use crate::ffi::{Handle, In, Out, Scratch, export};
use crate::memory::{Mem, MemHandle};
use crate::ram::Ram;
use crate::ram_map::{Map, SEGMENTS};
use crate::reader::{ReadFn, Reader, ReaderC};
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

/// Guest memory behind callbacks, with a map where `n` is not 0.
pub(crate) fn reader(functions: ReaderC, ctx: Out<c_void>, segs: In<SegC>, n: usize) -> Result<Mem, Failure> {
    let map = if n == 0 { None } else { Some(reader_map(segs, n)?) };
    Ok(Mem::new(Ram::Reader(Reader::new(functions, ctx, map)?)))
}

/// The functions of a `vgpux_reader`.
pub(crate) fn functions(reader: In<ReaderC>) -> Result<ReaderC, Failure> {
    // The size comes first, so that a later header's longer table is known by it.
    let size = reader.first::<usize>("reader")?;
    if size < size_of::<ReaderC>() {
        let text = format_args!("reader->size is {size}, but a vgpux_reader has {} bytes", size_of::<ReaderC>());
        return Err(Failure::new(code::ARGUMENT, text));
    }
    reader.get("reader")
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
        Handle::place(storage, size, reader(ReaderC::of(read), ctx, segs, n)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_init_reader(
        storage: Out<c_void>,
        size: usize,
        functions_of: In<ReaderC>,
        ctx: Out<c_void>,
        segs: In<SegC>,
        n: usize,
    ) -> MemHandle {
        Handle::place(storage, size, reader(functions(functions_of)?, ctx, segs, n)?)
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

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_init_begin(
        storage: Out<c_void>,
        size: usize,
        m: MemHandle,
        kcr3: u64,
        scratch: Out<c_void>,
        scratch_size: usize,
    ) -> ScanHandle {
        let scratch = Scratch::lent(scratch, scratch_size)?;
        Handle::place(storage, size, m.read_with_id(|id, mem| Scan::begin(id, m, mem, kcr3, scratch))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_init_kernel(
        storage: Out<c_void>,
        size: usize,
        s: ScanHandle,
        scratch: Out<c_void>,
        scratch_size: usize,
    ) -> Win32Handle {
        let scratch = Scratch::lent(scratch, scratch_size)?;
        Handle::place(storage, size, s.read(|scan| kernel_of(scan, scratch))?)
    }
}
