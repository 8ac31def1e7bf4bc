//! `vgpu_perception_ext.h`: reasons, counts, all candidates, scans in steps.

use core::ffi::{c_char, c_int};

use vgpu_perception::paging::Residence;
use vgpu_perception::region::{Region, Sample, Skip};
use vgpu_perception::scan::{Candidate, Found, probe};
use vgpu_perception::{Budget, Gva, Step};

use crate::choice::place_of;
use crate::failure::{self, Failure, code};
use crate::ffi::{Out, export};
use crate::kernel::{Paging, Win32, Win32Handle};
use crate::memory::{Mem, MemHandle};
use crate::perception::{RegionHandle, RegionState};
use crate::scan::{ScanHandle, best, every};
use crate::win32::name_field;

/// `VGPUX_SKIP_*`.
pub(crate) mod reason {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const BUSY: u32 = 1;
    pub(crate) const TORN: u32 = 2;
    pub(crate) const MOVED: u32 = 3;
    pub(crate) const NO_FRAME: u32 = 4;
    pub(crate) const UNCHANGED: u32 = 5;
    pub(crate) const OLDER: u32 = 6;
    pub(crate) const BAD_LATEST: u32 = 7;
    pub(crate) const BAD_DESCRIPTOR: u32 = 8;
    pub(crate) const TOO_SMALL: u32 = 9;
    pub(crate) const OTHER: u32 = 99;
}

/// `VGPUX_SCAN_*`.
pub(crate) mod step {
    use core::ffi::c_int;

    pub(crate) const DONE: c_int = 0;
    pub(crate) const FOUND: c_int = 1;
    pub(crate) const PENDING: c_int = 2;
}

/// `vgpux_skip`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SkipC {
    pub(crate) reason: u32,
    pub(crate) seq: u32,
    pub(crate) slot: u32,
    pub(crate) reserved: u32,
    pub(crate) needed: u64,
    pub(crate) capacity: u64,
    pub(crate) frame_id: u64,
    pub(crate) last: u64,
}

impl SkipC {
    fn of(skip: Option<Skip>) -> Self {
        let none = Self::default();
        match skip {
            None => Self { reason: reason::NONE, ..none },
            Some(Skip::Busy { seq }) => Self { reason: reason::BUSY, seq, ..none },
            Some(Skip::Torn { seq }) => Self { reason: reason::TORN, seq, ..none },
            Some(Skip::Moved) => Self { reason: reason::MOVED, ..none },
            Some(Skip::NoFrame) => Self { reason: reason::NO_FRAME, ..none },
            Some(Skip::Unchanged { frame_id }) => Self { reason: reason::UNCHANGED, frame_id, ..none },
            Some(Skip::Older { frame_id, last }) => Self { reason: reason::OLDER, frame_id, last, ..none },
            Some(Skip::BadLatest(slot)) => Self { reason: reason::BAD_LATEST, slot, ..none },
            Some(Skip::BadDescriptor { slot, .. }) => Self { reason: reason::BAD_DESCRIPTOR, slot, ..none },
            Some(Skip::TooSmall { needed, capacity }) => Self { reason: reason::TOO_SMALL, needed, capacity, ..none },
            Some(_) => Self { reason: reason::OTHER, ..none },
        }
    }
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

/// A new region: of the candidate, judged again, or of the best one.
pub(crate) fn bind(win32: &mut Win32, candidate: Option<CandidateC>) -> Result<RegionState, Failure> {
    let region = match candidate {
        None => best(win32)?.region(),
        Some(candidate) => win32.mem.read(|mem| judged_again(mem, &candidate))?,
    };
    Ok(RegionState::new(region))
}

fn judged_again(mem: &Mem, candidate: &CandidateC) -> Result<Region<Paging>, Failure> {
    let space = mem.process_space(candidate.proc_cr3);
    let base = Gva::new(candidate.region_gva);
    let found: Found = probe(mem.ram(), &space, base)
        .map_err(|why| Failure::new(code::NOT_FOUND, format_args!("no region at {base} any more: {why}")))?;
    mem.seen(|seen| seen.handed_out(Mem::place(candidate.proc_cr3, base), found.pulse));
    Ok(found.region(space, base))
}

export! {
    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_error(buf: Out<c_char>, cap: usize) -> usize {
        let last = failure::last();
        let buf = buf.array(cap, "buf")?;
        let room = cap.saturating_sub(1);
        let bytes = last.text.bytes().take(room);
        let mut end = 0;
        for byte in bytes {
            buf.put(end, c_char::from_ne_bytes([byte]));
            end += 1;
        }
        buf.put(end, 0);
        Ok(last.text.len())
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_error_code() -> c_int {
        Ok(failure::last().code)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_last_skip(r: RegionHandle, out: Out<SkipC>) -> c_int {
        let out = out.required("out")?;
        out.set(SkipC::of(r.read(|state| Ok(state.skip))?));
        Ok(0)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_frames_missed(r: RegionHandle, out_last: Out<u64>, out_total: Out<u64>) -> c_int {
        let (last, total) = (out_last.optional("out_last")?, out_total.optional("out_total")?);
        let (missed_last, missed_total) = r.read(|state| Ok((state.missed_last, state.missed_total)))?;
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
        r.update(|state| {
            state.region.forget_frames();
            state.missed_last = 0;
            Ok(0)
        })
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_region_place(r: RegionHandle, out_proc_cr3: Out<u64>, out_region_gva: Out<u64>) -> c_int {
        let (cr3, gva) = (out_proc_cr3.optional("out_proc_cr3")?, out_region_gva.optional("out_region_gva")?);
        let (root, base) = r.read(|state| Ok((state.region.space().root, state.region.base())))?;
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
        let sample = r.update(|state| m.read(|mem| {
            let sample = state.region.read_pulse(mem.ram()).map_err(Failure::read)?;
            state.skip = match sample {
                Sample::Skip(skip) => Some(skip),
                Sample::Fresh(_) => None,
            };
            Ok(sample)
        }))?;
        let Sample::Fresh(pulse) = sample else { return Ok(0) };
        heartbeat.set(pulse.heartbeat);
        if let Some(run_epoch) = run_epoch {
            run_epoch.set(pulse.run_epoch);
        }
        Ok(1)
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_candidates(v: Win32Handle, out: Out<CandidateC>, cap: usize) -> c_int {
        let out = out.array(cap, "out")?;
        let mut count = 0_usize;
        v.update(|win32| every(win32, |mem, candidate| {
            mem.seen(|seen| seen.handed_out(place_of(candidate), candidate.found.pulse));
            out.put(count, CandidateC::of(candidate));
            count = count.saturating_add(1);
            Ok(())
        }))?;
        Ok(c_int::try_from(count).unwrap_or(c_int::MAX))
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_step(s: ScanHandle, budget: u64, out: Out<CandidateC>) -> c_int {
        let out = out.required("out")?;
        s.update(|scan| {
            let discovery = &mut scan.discovery;
            scan.mem.read(|mem| {
                Ok(match discovery.step(mem.ram(), &mut Budget::new(budget)).map_err(Failure::read)? {
                    Step::Done => step::DONE,
                    Step::Pending => step::PENDING,
                    Step::Found(candidate) => {
                        mem.seen(|seen| seen.handed_out(place_of(&candidate), candidate.found.pulse));
                        out.set(CandidateC::of(&candidate));
                        step::FOUND
                    }
                })
            })
        })
    }

    /// See `vgpu_perception_ext.h`.
    fn vgpux_scan_get_stats(s: ScanHandle, out: Out<StatsC>) -> c_int {
        let out = out.required("out")?;
        let stats = s.read(|scan| Ok(scan.discovery.stats()))?;
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
        s.close()
    }
}
