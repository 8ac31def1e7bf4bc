//! `vgpu_perception_ext.h`: reasons, counts, all candidates, scans in steps.

use core::ffi::{c_char, c_int};

use core::sync::atomic::Ordering;

use vgpu_perception::paging::Residence;
use vgpu_perception::region::{Pulse, ReadError, Region, Sample};
use vgpu_perception::scan::{Candidate, probe};
use vgpu_perception::{Gva, PhysRead, Step};

use crate::failure::{self, Failure, code};
use crate::ffi::{Out, Scratch, export};
use crate::kernel::Paging;
use crate::memory::{Mem, MemHandle};
use crate::region::{RegionHandle, RegionState, Snapshot, snapshot};
use crate::scan::{Scan, ScanHandle, every, take};
use crate::skip::SkipC;
use crate::win32::{Win32, Win32Handle, name_field};

/// `VGPUX_SCAN_*`.
pub(crate) mod step {
    use core::ffi::c_int;

    pub(crate) const DONE: c_int = 0;
    pub(crate) const FOUND: c_int = 1;
    pub(crate) const PENDING: c_int = 2;
}

/// `vgpux_candidate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CandidateC {
    pub(crate) proc_cr3: u64,
    pub(crate) region_gva: u64,
    pub(crate) heartbeat: u64,
    pub(crate) frame_id: u64,
    pub(crate) page_gpa: u64,
    pub(crate) run_epoch: u32,
    pub(crate) status: u32,
    pub(crate) pid: u32,
    pub(crate) trimmed: u32,
    pub(crate) name: [u8; 16],
}

impl CandidateC {
    fn of(candidate: &Candidate<Paging>) -> Self {
        let Candidate { process, base, found, .. } = candidate;
        Self {
            proc_cr3: process.space.root.get(),
            region_gva: base.get(),
            heartbeat: found.pulse.heartbeat,
            frame_id: found.frame_id,
            page_gpa: found.page.get(),
            run_epoch: found.pulse.run_epoch,
            status: found.status.0,
            pid: process.pid.unwrap_or(0),
            trimmed: u32::from(found.residence == Residence::Trimmed),
            name: name_field(process.name),
        }
    }
}

/// `vgpux_scan_stats`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatsC {
    pub(crate) spaces: u64,
    pub(crate) tables: u64,
    pub(crate) runs: u64,
    pub(crate) frames: u64,
    pub(crate) judged: u64,
    pub(crate) candidates: u64,
    pub(crate) skipped: u64,
    pub(crate) truncated: u64,
}

/// `VGPUX_PHASE_*`.
pub(crate) mod phase {
    pub(crate) const KERNEL: u32 = 0;
    pub(crate) const PROCESSES: u32 = 1;
    pub(crate) const END: u32 = 2;
}

/// `vgpux_scan_progress`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProgressC {
    pub(crate) phase: u32,
    pub(crate) pass: u32,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// The kernel that a scan found, as a handle's object.
pub(crate) fn kernel_of(scan: &Scan, scratch: Scratch) -> Result<Win32, Failure> {
    let kernel = scan.kernel.get().ok_or_else(|| {
        Failure::new(code::NOT_FOUND, format_args!("the kernel was not found yet: go on with vgpux_scan_step"))
    })?;
    Ok(Win32::new((scan.mem, scan.mem_id), *kernel, scratch))
}

/// A new region: of the candidate, judged again, or of the one whose turn it is.
pub(crate) fn bind(win32: &Win32, candidate: Option<CandidateC>) -> Result<RegionState, Failure> {
    let region = win32.read_mem(|mem| match candidate {
        None => take(win32, mem).map(|current| Region::new(current.space, current.base)),
        Some(candidate) => mem.caught(|| judged_again(mem, &candidate)),
    })?;
    Ok(RegionState::new(region, win32.mem()))
}

fn judged_again(mem: &Mem, candidate: &CandidateC) -> Result<Region<Paging>, Failure> {
    let space = mem.process_space(candidate.proc_cr3);
    let base = Gva::new(candidate.region_gva);
    probe(mem.ram(), &space, base)
        .map_err(|why| Failure::new(code::NOT_FOUND, format_args!("no region at {base} any more: {why}")))?;
    Ok(Region::new(space, base))
}

/// The heartbeat and its session.
struct Heartbeat;

impl Snapshot for Heartbeat {
    type Of = Pulse;

    #[inline(always)]
    fn read<M: PhysRead>(region: &mut Region<Paging>, mem: &M) -> Result<Sample<Pulse>, ReadError> {
        region.read_pulse(mem)
    }
}

/// `VGPUX_VERSION`.
pub(crate) const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 1000
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(text: &str) -> u32 {
    let mut rest = text.as_bytes();
    let mut number = 0;
    while let [digit, tail @ ..] = rest {
        number = number * 10 + (*digit - b'0') as u32;
        rest = tail;
    }
    number
}

export! {
    /// See `vgpu_perception_ext.h`.
    fn vgpux_version() -> u32 {
        Ok(VERSION)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_error(buf: Out<c_char>, cap: usize) -> usize {
        let last = failure::last();
        let buf = buf.array(cap, "buf")?;
        let room = cap.saturating_sub(1);
        let bytes = last.text().iter().take(room);
        let mut end = 0;
        for byte in bytes {
            buf.put(end, c_char::from_ne_bytes([*byte]));
            end += 1;
        }
        buf.put(end, 0);
        Ok(last.text().len())
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_error_code() -> c_int {
        Ok(failure::last().code)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_skip(r: RegionHandle, out: Out<SkipC>) -> c_int {
        let out = out.required("out")?;
        out.set(r.read_with_id(|id, state| Ok(state.last_skip(id)))?);
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_frames_missed(r: RegionHandle, out_last: Out<u64>, out_total: Out<u64>) -> c_int {
        let (last, total) = (out_last.optional("out_last")?, out_total.optional("out_total")?);
        let (missed_last, missed_total) = r.read(|state| {
            Ok((state.missed_last.load(Ordering::Relaxed), state.missed_total.load(Ordering::Relaxed)))
        })?;
        if let Some(last) = last {
            last.set(missed_last);
        }
        if let Some(total) = total {
            total.set(missed_total);
        }
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_forget_frames(r: RegionHandle) -> c_int {
        r.read(|state| {
            state.forget.store(true, Ordering::Relaxed);
            state.missed_last.store(0, Ordering::Relaxed);
            Ok(0)
        })
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_region_place(r: RegionHandle, out_proc_cr3: Out<u64>, out_region_gva: Out<u64>) -> c_int {
        let (cr3, gva) = (out_proc_cr3.optional("out_proc_cr3")?, out_region_gva.optional("out_region_gva")?);
        let (root, base) = r.read(|state| Ok((state.bound.space().root, state.bound.base())))?;
        if let Some(cr3) = cr3 {
            cr3.set(root.get());
        }
        if let Some(gva) = gva {
            gva.set(base.get());
        }
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_read_heartbeat(
        r: RegionHandle,
        m: MemHandle,
        out_heartbeat: Out<u64>,
        out_run_epoch: Out<u32>,
    ) -> c_int {
        let heartbeat = out_heartbeat.required("out_heartbeat")?;
        let run_epoch = out_run_epoch.optional("out_run_epoch")?;
        let read = snapshot::<Heartbeat>(r, m, |_, pulse| {
            heartbeat.set(pulse.heartbeat);
            if let Some(run_epoch) = run_epoch {
                run_epoch.set(pulse.run_epoch);
            }
        })?;
        Ok(c_int::from(read))
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_candidates(v: Win32Handle, out: Out<CandidateC>, cap: usize) -> c_int {
        let out = out.array(cap, "out")?;
        let mut count = 0_usize;
        v.read(|win32| win32.read_mem(|mem| every(win32, mem, |candidate| {
            out.put(count, CandidateC::of(candidate));
            count = count.saturating_add(1);
        })))?;
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_step(s: ScanHandle, budget: u64, out: Out<CandidateC>) -> c_int {
        let out = out.required("out")?;
        s.read(|scan| scan.mem.read_same(scan.mem_id, |mem| {
            Ok(match scan.step(mem, budget)? {
                Step::Done => step::DONE,
                Step::Pending => step::PENDING,
                Step::Found(candidate) => {
                    out.set(CandidateC::of(&candidate));
                    step::FOUND
                }
            })
        }))
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_get_progress(s: ScanHandle, out: Out<ProgressC>) -> c_int {
        let out = out.required("out")?;
        let (progress, kernel) = s.read(|scan| Ok((scan.progress.get(), scan.kernel.get().is_some())))?;
        let phase = match (progress.ended, kernel) {
            (true, _) => phase::END,
            (false, false) => phase::KERNEL,
            (false, true) => phase::PROCESSES,
        };
        let scan = progress.scan;
        out.set(ProgressC {
            phase,
            pass: scan.map_or(0, |scan| u32::from(scan.pass)),
            done: scan.map_or(0, |scan| scan.done),
            total: scan.map_or(0, |scan| scan.total),
        });
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_get_stats(s: ScanHandle, out: Out<StatsC>) -> c_int {
        let out = out.required("out")?;
        let stats = s.read(|scan| Ok(scan.progress.get().stats))?;
        out.set(StatsC {
            spaces: stats.spaces,
            tables: stats.tables,
            runs: stats.runs,
            frames: stats.pages,
            judged: stats.judged,
            candidates: stats.candidates,
            skipped: stats.skipped,
            truncated: stats.truncated,
        });
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_close(s: ScanHandle) {
        s.close().map(drop)
    }
}
