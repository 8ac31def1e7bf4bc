//! `vgpu_perception.h`: discovery, liveness, snapshots, the control image.

use core::ffi::c_int;

use vgpu_perception::abi::{self, Command};
use vgpu_perception::region::{ControlIntent, FrameScratch, Pulse, ReadError, Region, Sample, Skip};
use vgpu_perception::{Gva, NextUse};

use crate::choice::Verdict;
use crate::failure::Failure;
use crate::ffi::{Handle, In, Object, Out, export};
use crate::kernel::{Paging, Win32Handle};
use crate::memory::{Mem, MemHandle, Ram};
use crate::scan::best;

/// A `vgpup_region`.
#[derive(Debug)]
pub(crate) struct RegionState {
    pub(crate) region: Region<Paging>,
    pub(crate) skip: Option<Skip>,
    pub(crate) missed_last: u64,
    pub(crate) missed_total: u64,
    scratch: FrameScratch,
}

impl Object for RegionState {
    const MAGIC: u64 = u64::from_le_bytes(*b"vgpuregn");
    const NAME: &'static str = "vgpup_region";
    const STORAGE: usize = 20480;
}

/// A handle on a [`RegionState`].
pub(crate) type RegionHandle = Handle<RegionState>;

impl RegionState {
    pub(crate) const fn new(region: Region<Paging>) -> Self {
        Self { region, skip: None, missed_last: 0, missed_total: 0, scratch: FrameScratch::new() }
    }

    /// Remembers why there is nothing, where there is nothing.
    fn note<T>(&mut self, sample: Result<Sample<T>, ReadError>) -> Result<Option<T>, Failure> {
        self.skip = None;
        match sample.map_err(Failure::read)? {
            Sample::Fresh(value) => Ok(Some(value)),
            Sample::Skip(skip) => {
                self.skip = Some(skip);
                Ok(None)
            }
        }
    }
}

/// `vgpup_frame_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameDescC {
    /// Pixels a row.
    pub(crate) width: u32,
    /// Rows.
    pub(crate) height: u32,
    /// Bytes a row.
    pub(crate) stride: u32,
    /// `VGPU_FMT_*`.
    pub(crate) format: u32,
    /// Its number.
    pub(crate) frame_id: u64,
    /// Guest monotonic clock.
    pub(crate) timestamp_ns: u64,
}

/// `vgpup_frame_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameInfoC {
    /// What it is.
    pub(crate) desc: FrameDescC,
    /// Bytes that were copied.
    pub(crate) bytes: usize,
}

/// `vgpup_cursor`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CursorC {
    pub(crate) seq: u32,
    pub(crate) visible: u32,
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) hot_x: u16,
    pub(crate) hot_y: u16,
    pub(crate) glyph_w: u16,
    pub(crate) glyph_h: u16,
    pub(crate) id: u32,
}

/// `vgpup_geometry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GeometryC {
    pub(crate) virt_x: i32,
    pub(crate) virt_y: i32,
    pub(crate) virt_w: u32,
    pub(crate) virt_h: u32,
    pub(crate) cap_x: i32,
    pub(crate) cap_y: i32,
    pub(crate) dpi: u32,
    pub(crate) refresh_mhz: u32,
}

/// `vgpup_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatusC {
    pub(crate) heartbeat: u64,
    pub(crate) run_epoch: u32,
    pub(crate) status: u32,
    pub(crate) backend: u32,
    pub(crate) error_code: u32,
    pub(crate) applied_fps: u32,
    pub(crate) supported_formats: u32,
    pub(crate) ctrl_ack: u32,
    pub(crate) full_frame_ack: u32,
    pub(crate) content_change_ns: u64,
}

/// `vgpup_control_intent`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IntentC {
    pub(crate) desired_state: u32,
    pub(crate) target_fps: u32,
    pub(crate) draw_cursor: u32,
    pub(crate) full_frame_req: u32,
}

/// `vgpu_control_t`, aligned as C has it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ControlC(pub(crate) abi::Control);

/// A snapshot function's tail: reads under the region's handle, and stores what there is.
fn snapshot<T, C: Copy>(
    r: RegionHandle,
    m: MemHandle,
    out: Out<C>,
    read: impl FnOnce(&mut Region<Paging>, &Ram) -> Result<Sample<T>, ReadError>,
    convert: impl FnOnce(&T) -> C,
) -> Result<c_int, Failure> {
    let out = out.required("out")?;
    let found = r.update(|state| {
        m.read(|mem| {
            let sample = read(&mut state.region, mem.ram());
            state.note(sample)
        })
    })?;
    Ok(match found {
        Some(value) => {
            out.set(convert(&value));
            1
        }
        None => 0,
    })
}

/// What the second reading of a heartbeat says about the first. Remembers the answer.
fn confirm(mem: &Mem, proc_cr3: u64, base: Gva, hb0: u64) -> Result<c_int, Failure> {
    let place = Mem::place(proc_cr3, base);
    let pulse = |space| Region::new(space, base).read_pulse(mem.ram());
    // The tables alone mostly tell; the process has to be looked up only where its page was trimmed.
    let pulse = pulse(mem.space(proc_cr3)).or_else(|_| pulse(mem.process_space(proc_cr3)));
    let Sample::Fresh(now) = pulse.map_err(Failure::read)? else { return Ok(0) };
    // The caller hands back a number alone; the session is known where the number came from here.
    let run_epoch = mem.seen(|seen| seen.epoch_of(place, hb0)).unwrap_or(now.run_epoch);
    let alive = matches!(now.since(Pulse { heartbeat: hb0, run_epoch }), vgpu_perception::region::Liveness::Alive(_));
    let verdict = if alive { Verdict::Alive } else { Verdict::Still };
    mem.seen(|seen| seen.answered(place, now, verdict));
    Ok(c_int::from(alive))
}

export! {
    /// See `vgpu_perception.h`.
    fn vgpup_close(r: RegionHandle) {
        r.close()
    }

    /// See `vgpu_perception.h`.
    fn vgpup_discover_candidate(
        v: Win32Handle,
        out_proc_cr3: Out<u64>,
        out_region_gva: Out<u64>,
        out_hb0: Out<u64>,
    ) -> c_int {
        let (cr3, gva) = (out_proc_cr3.required("out_proc_cr3")?, out_region_gva.required("out_region_gva")?);
        let hb0 = out_hb0.required("out_hb0")?;
        let found = v.update(best)?;
        cr3.set(found.process.space.root.get());
        gva.set(found.base.get());
        hb0.set(found.found.pulse.heartbeat);
        Ok(0)
    }

    /// See `vgpu_perception.h`.
    fn vgpup_confirm_alive(m: MemHandle, proc_cr3: u64, region_gva: u64, hb0: u64) -> c_int {
        m.read(|mem| confirm(mem, proc_cr3, Gva::new(region_gva), hb0))
    }

    /// See `vgpu_perception.h`.
    fn vgpup_sample_frame(
        r: RegionHandle,
        m: MemHandle,
        dst: Out<u8>,
        cap: usize,
        info: Out<FrameInfoC>,
    ) -> c_int {
        let info = info.required("info")?;
        let dst = dst.buffer(cap, "dst")?;
        let found = r.update(|state| m.read(|mem| {
            let sample = state.region.sample_frame(mem.ram(), &mut state.scratch, dst, NextUse::Unknown);
            let frame = state.note(sample)?;
            if let Some(frame) = &frame {
                state.missed_last = frame.missed;
                state.missed_total = state.missed_total.saturating_add(frame.missed);
            }
            Ok(frame)
        }))?;
        let Some(frame) = found else { return Ok(0) };
        let desc = frame.desc;
        info.set(FrameInfoC {
            desc: FrameDescC {
                width: desc.width,
                height: desc.height,
                stride: desc.stride,
                format: desc.format.0,
                frame_id: desc.frame_id,
                timestamp_ns: desc.timestamp_ns,
            },
            bytes: frame.bytes,
        });
        Ok(1)
    }

    /// See `vgpu_perception.h`.
    fn vgpup_read_cursor(r: RegionHandle, m: MemHandle, out: Out<CursorC>) -> c_int {
        snapshot(r, m, out, Region::read_cursor, |snapshot| CursorC {
            seq: snapshot.seq,
            visible: u32::from(snapshot.visible),
            x: snapshot.x,
            y: snapshot.y,
            hot_x: snapshot.hot_x,
            hot_y: snapshot.hot_y,
            glyph_w: snapshot.glyph_w,
            glyph_h: snapshot.glyph_h,
            id: snapshot.id.0,
        })
    }

    /// See `vgpu_perception.h`.
    fn vgpup_read_geometry(r: RegionHandle, m: MemHandle, out: Out<GeometryC>) -> c_int {
        snapshot(r, m, out, Region::read_geometry, |snapshot| GeometryC {
            virt_x: snapshot.virt_x,
            virt_y: snapshot.virt_y,
            virt_w: snapshot.virt_w,
            virt_h: snapshot.virt_h,
            cap_x: snapshot.cap_x,
            cap_y: snapshot.cap_y,
            dpi: snapshot.dpi,
            refresh_mhz: snapshot.refresh_mhz,
        })
    }

    /// See `vgpu_perception.h`.
    fn vgpup_read_status(r: RegionHandle, m: MemHandle, out: Out<StatusC>) -> c_int {
        let read = snapshot(r, m, out, Region::read_status, |snapshot| StatusC {
            heartbeat: snapshot.heartbeat,
            run_epoch: snapshot.run_epoch,
            status: snapshot.status.0,
            backend: snapshot.backend.0,
            error_code: snapshot.error_code,
            applied_fps: snapshot.applied_fps,
            supported_formats: snapshot.supported_formats,
            ctrl_ack: snapshot.ctrl_ack,
            full_frame_ack: snapshot.full_frame_ack,
            content_change_ns: snapshot.content_change_ns,
        })?;
        // This function has no "come back later": a page that moves at every try cannot be read.
        if read == 1 { Ok(0) } else { Err(Failure::read("the guest remapped the producer page at every try")) }
    }

    /// See `vgpu_perception.h`.
    fn vgpup_run_epoch(r: RegionHandle) -> u32 {
        r.read(|state| Ok(state.region.run_epoch()))
    }

    /// See `vgpu_perception.h`.
    fn vgpup_build_control_write(
        r: RegionHandle,
        intent: In<IntentC>,
        out_frame: Out<ControlC>,
        out_ctrl_gva: Out<u64>,
        out_off: Out<u32>,
        out_len: Out<u32>,
    ) -> c_int {
        let intent = intent.get("in")?;
        let (frame, gva) = (out_frame.required("out_frame")?, out_ctrl_gva.required("out_ctrl_gva")?);
        let (off, len) = (out_off.required("out_off")?, out_len.required("out_len")?);
        let write = r.read(|state| {
            Ok(state.region.build_control_write(&ControlIntent {
                desired_state: Command(intent.desired_state),
                target_fps: intent.target_fps,
                draw_cursor: intent.draw_cursor != 0,
                full_frame_req: intent.full_frame_req,
            }))
        })?;
        frame.set(ControlC(write.image));
        gva.set(write.gva.get());
        off.set(write.offset);
        len.set(write.len);
        Ok(0)
    }
}
