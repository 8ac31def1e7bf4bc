//! Handles on the heap, and RAM files.

use core::ffi::{c_char, c_int, c_void};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;

use vgpu_perception::Gpa;
use vgpu_perception_mapped::{
    GuestRam, MAX_SEGMENTS, Machine, MachineOptions, MapError, OpenError, RamFile, RamOptions, Segment, SegmentMap,
    SigbusGuard,
};

use crate::ext::{CandidateC, bind, kernel_of};
use crate::failure::{Failure, code};
use crate::ffi::{Handle, In, Out, Scratch, boxed, caught, descriptor, export, list};
use crate::memory::{Mem, MemHandle};
use crate::ram::Ram;
use crate::reader::{ReadFn, ReaderC};
use crate::region::RegionHandle;
use crate::scan::{Scan, ScanHandle, scratch_bytes};
use crate::storage::{SegC, functions, reader};
use crate::win32::{Win32, Win32Handle};

/// What opening a RAM file allocates in small pieces, and more.
const ROOM: usize = 64 << 10;

/// The most scratch memory that is allocated: enough for 256 GiB of RAM. Beyond, searches are slower and as complete.
const SCRATCH: usize = 8 << 20;

fn path(path: &In<c_char>) -> Result<&Path, Failure> {
    Ok(Path::new(OsStr::from_bytes(path.bytes("path")?)))
}

fn open_failed(error: impl core::fmt::Display) -> Failure {
    Failure::new(code::OPEN, format_args!("{error}"))
}

/// A file that the kernel has no room to map, or that there was no memory to look at, is no bad file.
fn map_failed(error: OpenError) -> Failure {
    match &error {
        OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => {
            Failure::new(code::MEMORY, format_args!("{error}"))
        }
        _ => open_failed(error),
    }
}

/// Set once the program asked for it; signal handlers are a program's own business.
static GUARD: OnceLock<SigbusGuard> = OnceLock::new();

fn options() -> RamOptions {
    GUARD.get().map_or(RamOptions::new(), |guard| RamOptions::new().guard(*guard))
}

/// Maps the file at `path` as `map` says of its length.
fn mapped(path: &Path, map: impl FnOnce(u64) -> Result<SegmentMap, MapError>) -> Result<MemHandle, Failure> {
    // Opening makes small allocations that cannot be refused, so there has to be room before.
    drop(list::<u8>(ROOM)?);
    let ram = caught(|| {
        let file = RamFile::open(path).map_err(map_failed)?;
        let map = map(file.len()).map_err(open_failed)?;
        GuestRam::new(vec![file], map, options()).map_err(map_failed)
    })?;
    Handle::boxed(Mem::new(Ram::Mapped(boxed(ram)?)))
}

/// `vgpux_file_seg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileSegC {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) file_off: u64,
    pub(crate) file: u32,
    pub(crate) reserved: u32,
}

/// Maps open files as `map` says of their lengths. They stay the caller's.
fn mapped_files(fds: &[c_int], map: impl FnOnce(&[u64]) -> Result<SegmentMap, MapError>) -> Result<MemHandle, Failure> {
    drop(list::<u8>(ROOM)?);
    let ram = caught(|| {
        let (mut files, mut lens) = (list(fds.len())?, list(fds.len())?);
        for fd in fds {
            let own = descriptor::duplicate(*fd)
                .map_err(|error| open_failed(format_args!("descriptor {fd} cannot be used: {error}")))?;
            let file = RamFile::from_fd(own, format!("descriptor {fd}")).map_err(map_failed)?;
            lens.push(file.len());
            files.push(file);
        }
        GuestRam::new(files, map(&lens).map_err(open_failed)?, options()).map_err(map_failed)
    })?;
    Handle::boxed(Mem::new(Ram::Mapped(boxed(ram)?)))
}

/// Scratch memory that suits the guest behind `mem`.
pub(crate) fn scratch(mem: &Mem) -> Result<Scratch, Failure> {
    Scratch::new(scratch_bytes(mem.ram().end().map_err(Failure::read)?).min(SCRATCH))
}

export! {
    /// See `memmodel.h`.
    fn vmie_mem_open(name: In<c_char>) -> MemHandle {
        mapped(path(&name)?, SegmentMap::flat)
    }

    /// See `memmodel.h`.
    fn vmie_mem_open_segs(name: In<c_char>, segs: In<SegC>, n: usize) -> MemHandle {
        let path = path(&name)?;
        if n > MAX_SEGMENTS {
            return Err(open_failed(MapError::TooMany { count: n }));
        }
        let mut list = list(n)?;
        for index in 0..n {
            let SegC { gpa, len, file_off } = segs.at(index, "segs")?;
            list.push(Segment { gpa: Gpa::new(gpa), len, file: 0, offset: file_off });
        }
        mapped(path, |_| SegmentMap::new(list))
    }

    /// See `memmodel.h`.
    fn vmie_mem_from_reader(read: Option<ReadFn>, ctx: Out<c_void>) -> MemHandle {
        Handle::boxed(reader(ReaderC::of(read), ctx, In::NULL, 0)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_from_reader_segs(read: Option<ReadFn>, ctx: Out<c_void>, segs: In<SegC>, n: usize) -> MemHandle {
        if n == 0 {
            return Err(Failure::argument("n", "is 0: a map has at least one segment"));
        }
        Handle::boxed(reader(ReaderC::of(read), ctx, segs, n)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_open_reader(table: In<ReaderC>, ctx: Out<c_void>, segs: In<SegC>, n: usize) -> MemHandle {
        Handle::boxed(reader(functions(table)?, ctx, segs, n)?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_open_machine(name: In<c_char>, machine: In<c_char>) -> MemHandle {
        let path = path(&name)?;
        let machine = String::from_utf8_lossy(machine.bytes("machine")?).parse::<Machine>().map_err(open_failed)?;
        mapped(path, |len| machine.map(&[len], MachineOptions::default()))
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_guard_sigbus() -> c_int {
        if GUARD.get().is_none() {
            let guard = SigbusGuard::install().map_err(open_failed)?;
            let _ = GUARD.set(guard);
        }
        Ok(0)
    }

    /// See `win32.h`.
    fn vmie_win32_open(m: MemHandle, kcr3: u64) -> Win32Handle {
        let scratch = m.read(scratch)?;
        Handle::boxed(Win32::attach(m, kcr3, scratch)?)
    }

    /// See `vgpu_perception.h`.
    fn vgpup_open(v: Win32Handle) -> RegionHandle {
        Handle::boxed(v.read(|win32| bind(win32, None))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_region_open(v: Win32Handle, c: In<CandidateC>) -> RegionHandle {
        let candidate = c.get("c")?;
        Handle::boxed(v.read(|win32| bind(win32, Some(candidate)))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_open(v: Win32Handle) -> ScanHandle {
        Handle::boxed(v.read(|win32| Ok(Scan::new(win32, win32.read_mem(scratch)?)))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_begin(m: MemHandle, kcr3: u64) -> ScanHandle {
        Handle::boxed(m.read_with_id(|id, mem| Scan::begin(id, m, mem, kcr3, scratch(mem)?))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_kernel(s: ScanHandle) -> Win32Handle {
        Handle::boxed(s.read(|scan| kernel_of(scan, scan.mem.read_same(scan.mem_id, scratch)?))?)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_open_fd(fd: c_int, handed_over: c_int, segs: In<SegC>, n: usize) -> MemHandle {
        let mut list = list(n.clamp(1, MAX_SEGMENTS))?;
        for index in 0..n.min(MAX_SEGMENTS) {
            let SegC { gpa, len, file_off } = segs.at(index, "segs")?;
            list.push(Segment { gpa: Gpa::new(gpa), len, file: 0, offset: file_off });
        }
        let handle = mapped_files(&[fd], |lens| match n {
            0 => SegmentMap::flat(lens.first().copied().unwrap_or(0)),
            n if n > MAX_SEGMENTS => Err(MapError::TooMany { count: n }),
            _ => SegmentMap::new(list),
        })?;
        if handed_over != 0 {
            descriptor::close(fd);
        }
        Ok(handle)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_mem_open_fds(fds: In<c_int>, n_fds: usize, segs: In<FileSegC>, n: usize) -> MemHandle {
        if n > MAX_SEGMENTS || n_fds > MAX_SEGMENTS {
            return Err(open_failed(MapError::TooMany { count: n.max(n_fds) }));
        }
        let (mut files, mut map) = (list(n_fds)?, list(n)?);
        for index in 0..n_fds {
            files.push(fds.at(index, "fds")?);
        }
        for index in 0..n {
            let FileSegC { gpa, len, file_off, file, .. } = segs.at(index, "segs")?;
            let file = usize::try_from(file).unwrap_or(usize::MAX);
            map.push(Segment { gpa: Gpa::new(gpa), len, file, offset: file_off });
        }
        mapped_files(&files, |_| SegmentMap::new(map))
    }
}
