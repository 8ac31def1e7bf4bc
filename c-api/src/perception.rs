//! `vgpu_perception.h`: discovery, liveness, snapshots, the control image.

use core::ffi::c_int;
use core::sync::atomic::Ordering;

use vgpu_perception::abi::{self, Command};
use vgpu_perception::region::{
    ControlIntent, CursorSnapshot, GeometrySnapshot, Liveness, Pulse, ReadError, Region, Sample, StatusSnapshot,
};
use vgpu_perception::scan::probe;
use vgpu_perception::{Gva, PhysRead};

use crate::choice::{Current, place};
use crate::failure::{Failure, code};
use crate::ffi::{In, Out, export, with_thread};
use crate::kernel::Paging;
use crate::memory::{Mem, MemHandle};
use crate::region::{RegionHandle, Snapshot, snapshot};
use crate::scan::take;
use crate::win32::Win32Handle;

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

/// The cursor.
struct Cursor;

impl Snapshot for Cursor {
    type Of = CursorSnapshot;

    #[inline(always)]
    fn at_once<M: PhysRead>(region: &Region<Paging>, mem: &M) -> Option<CursorSnapshot> {
        region.cursor_at_once(mem)
    }

    fn read<M: PhysRead>(region: &mut Region<Paging>, mem: &M) -> Result<Sample<CursorSnapshot>, ReadError> {
        region.read_cursor(mem)
    }
}

/// The geometry.
struct Geometry;

impl Snapshot for Geometry {
    type Of = GeometrySnapshot;

    #[inline(always)]
    fn at_once<M: PhysRead>(region: &Region<Paging>, mem: &M) -> Option<GeometrySnapshot> {
        region.geometry_at_once(mem)
    }

    fn read<M: PhysRead>(region: &mut Region<Paging>, mem: &M) -> Result<Sample<GeometrySnapshot>, ReadError> {
        region.read_geometry(mem)
    }
}

/// The lifecycle line.
struct Status;

impl Snapshot for Status {
    type Of = StatusSnapshot;

    #[inline(always)]
    fn at_once<M: PhysRead>(region: &Region<Paging>, mem: &M) -> Option<StatusSnapshot> {
        region.status_at_once(mem)
    }

    fn read<M: PhysRead>(region: &mut Region<Paging>, mem: &M) -> Result<Sample<StatusSnapshot>, ReadError> {
        region.read_status(mem)
    }
}

/// What the second reading of a heartbeat says about the first. Whose turn it is depends on it.
fn confirm(mem: &Mem, proc_cr3: u64, base: Gva, hb0: u64) -> Result<c_int, Failure> {
    // The tables alone mostly tell; the process has to be looked up only where its page was trimmed.
    let read = |space| (space, Region::new(space, base).read_pulse(mem.ram()));
    let (space, pulse) = match read(mem.space(proc_cr3)) {
        (_, Err(_)) => read(mem.process_space(proc_cr3)),
        read => read,
    };
    let at = place(&space, base);
    let alive = match pulse {
        Ok(Sample::Fresh(now)) => {
            // The caller hands back a number alone; the session is known where the number came from here.
            let current = mem.choice.get().current.filter(|current| current.is_at(at));
            let given = current.filter(|current| current.pulse.heartbeat == hb0);
            let run_epoch = given.map_or(now.run_epoch, |given| given.pulse.run_epoch);
            matches!(now.since(Pulse { heartbeat: hb0, run_epoch }), Liveness::Alive(_))
        }
        Ok(Sample::Skip(_)) | Err(_) => false,
    };
    if !alive {
        mem.choice.update(|choice| choice.passed_over(at));
    } else if let Ok(found) = probe(mem.ram(), &space, base) {
        mem.choice.update(|choice| choice.found_alive(Current::new(space, base, &found)));
    }
    let _ = pulse.map_err(Failure::read)?;
    Ok(c_int::from(alive))
}

export! {
    /// See `vgpu_perception.h`.
    fn vgpup_close(r: RegionHandle) {
        // One that could not be read any more has had its turn.
        let lost = r.read(|state| Ok(state.lost()))?;
        r.close()?;
        if let Some((mem, mem_id, at)) = lost {
            // The memory may have been closed before: then nothing is remembered of its guest.
            let _ = mem.read_same(mem_id, |mem| Ok(mem.choice.update(|choice| choice.passed_over(at))));
        }
        Ok(())
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
        let found = v.read(|win32| win32.read_mem(|mem| take(win32, mem)))?;
        cr3.set(found.space.root.get());
        gva.set(found.base.get());
        hb0.set(found.pulse.heartbeat);
        Ok(0)
    }

    /// See `vgpu_perception.h`.
    fn vgpup_confirm_alive(m: MemHandle, proc_cr3: u64, region_gva: u64, hb0: u64) -> c_int {
        m.read(|mem| mem.caught(|| confirm(mem, proc_cr3, Gva::new(region_gva), hb0)))
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
        let found = with_thread(|thread| {
            r.hold(thread, |hold| {
                let (id, state) = (hold.id(), hold.get());
                m.hold_same(thread, state.mem_id, |mem| state.next_frame(thread, id, mem.get(), dst))
            })
        })??;
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
        let out = out.required("out")?;
        snapshot::<Cursor>(r, m, |_, snapshot| out.set(CursorC {
            seq: snapshot.seq,
            visible: u32::from(snapshot.visible),
            x: snapshot.x,
            y: snapshot.y,
            hot_x: snapshot.hot_x,
            hot_y: snapshot.hot_y,
            glyph_w: snapshot.glyph_w,
            glyph_h: snapshot.glyph_h,
            id: snapshot.id.0,
        }))
    }

    /// See `vgpu_perception.h`.
    fn vgpup_read_geometry(r: RegionHandle, m: MemHandle, out: Out<GeometryC>) -> c_int {
        let out = out.required("out")?;
        snapshot::<Geometry>(r, m, |_, snapshot| out.set(GeometryC {
            virt_x: snapshot.virt_x,
            virt_y: snapshot.virt_y,
            virt_w: snapshot.virt_w,
            virt_h: snapshot.virt_h,
            cap_x: snapshot.cap_x,
            cap_y: snapshot.cap_y,
            dpi: snapshot.dpi,
            refresh_mhz: snapshot.refresh_mhz,
        }))
    }

    /// See `vgpu_perception.h`.
    fn vgpup_read_status(r: RegionHandle, m: MemHandle, out: Out<StatusC>) -> c_int {
        let out = out.required("out")?;
        let read = snapshot::<Status>(r, m, |state, snapshot| {
            state.run_epoch.store(snapshot.run_epoch, Ordering::Relaxed);
            out.set(StatusC {
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
            });
        })?;
        // This function has no "come back later": a page that moves at every try cannot be read.
        let why = "the guest remapped the producer page at every try, or is sampling who uses it: try again";
        if read == 1 { Ok(0) } else { Err(Failure::read(why)) }
    }

    /// See `vgpu_perception.h`.
    fn vgpup_run_epoch(r: RegionHandle) -> u32 {
        r.read(|state| Ok(state.run_epoch.load(Ordering::Relaxed)))
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
        // A block with other values would keep readers from taking the region for one.
        let known = Command(intent.desired_state).name().is_some();
        if !known || intent.draw_cursor > 1 {
            let IntentC { desired_state, draw_cursor, .. } = intent;
            let text = format_args!(
                "desired_state {desired_state} and draw_cursor {draw_cursor}: VGPU_CMD_* and 0 or 1 are possible"
            );
            return Err(Failure::new(code::ARGUMENT, text));
        }
        let write = r.read(|state| {
            Ok(state.bound.build_control_write(&ControlIntent {
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
