//! What is read of a guest, as plain values of Python.

use numpy::PyArray3;
use pyo3::prelude::*;
use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::region::{CursorSnapshot, FrameInfo, GeometrySnapshot, StatusSnapshot};

/// A frame that was taken.
#[pyclass(frozen, get_all, module = "vgpu_perception")]
#[derive(Debug)]
pub(crate) struct Frame {
    /// The pixels: `(height, width, 4)` of uint8, in the order blue, green, red, unused.
    array: Py<PyArray3<u8>>,
    /// Its number in the producer's session, from 1.
    id: u64,
    /// Frames that were published since the last one taken and never seen; 0 for the first.
    missed: u64,
    /// Pixels a row.
    width: u32,
    /// Rows.
    height: u32,
    /// When it was captured, in nanoseconds of the guest's monotonic clock: never compare it with a clock of the host.
    timestamp_ns: u64,
}

impl Frame {
    pub(crate) fn new(info: &FrameInfo, array: Bound<'_, PyArray3<u8>>) -> Self {
        let desc = &info.desc;
        Self {
            array: array.unbind(),
            id: desc.frame_id,
            missed: info.missed,
            width: desc.width,
            height: desc.height,
            timestamp_ns: desc.timestamp_ns,
        }
    }
}

#[pymethods]
impl Frame {
    fn __repr__(&self) -> String {
        format!("Frame(id={}, width={}, height={}, missed={})", self.id, self.width, self.height, self.missed)
    }
}

/// The cursor.
#[pyclass(frozen, get_all, eq, module = "vgpu_perception")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Whether it is shown.
    visible: bool,
    /// Hot spot on the virtual desktop, in pixels; may be negative.
    x: i32,
    /// Hot spot on the virtual desktop, in pixels; may be negative.
    y: i32,
    /// Hot spot in the glyph, in pixels.
    hot_x: u16,
    /// Hot spot in the glyph, in pixels.
    hot_y: u16,
    /// Width of the glyph, in pixels.
    glyph_width: u16,
    /// Height of the glyph, in pixels.
    glyph_height: u16,
    /// Its shape, in words.
    shape: String,
    /// Changes with every report: tells an idle cursor from a producer that stopped reporting.
    seq: u32,
}

impl From<CursorSnapshot> for Cursor {
    fn from(from: CursorSnapshot) -> Self {
        Self {
            visible: from.visible,
            x: from.x,
            y: from.y,
            hot_x: from.hot_x,
            hot_y: from.hot_y,
            glyph_width: from.glyph_w,
            glyph_height: from.glyph_h,
            shape: from.id.to_string(),
            seq: from.seq,
        }
    }
}

#[pymethods]
impl Cursor {
    fn __repr__(&self) -> String {
        let shown = if self.visible { "True" } else { "False" };
        format!("Cursor(x={}, y={}, visible={shown}, shape={:?})", self.x, self.y, self.shape)
    }
}

/// The geometry of the display; lengths are in pixels.
#[pyclass(frozen, get_all, eq, module = "vgpu_perception")]
#[derive(Debug, PartialEq)]
pub(crate) struct Geometry {
    /// Left edge of the virtual desktop.
    virtual_x: i32,
    /// Top edge of the virtual desktop.
    virtual_y: i32,
    /// Width of the virtual desktop.
    virtual_width: u32,
    /// Height of the virtual desktop.
    virtual_height: u32,
    /// Left edge of what is captured, on the virtual desktop: a cursor at `x` is at `x - capture_x` of the frame.
    capture_x: i32,
    /// Top edge of what is captured, on the virtual desktop.
    capture_y: i32,
    /// Dots an inch.
    dpi: u32,
    /// Refresh rate in hertz.
    refresh_hz: f64,
}

impl From<GeometrySnapshot> for Geometry {
    fn from(from: GeometrySnapshot) -> Self {
        Self {
            virtual_x: from.virt_x,
            virtual_y: from.virt_y,
            virtual_width: from.virt_w,
            virtual_height: from.virt_h,
            capture_x: from.cap_x,
            capture_y: from.cap_y,
            dpi: from.dpi,
            refresh_hz: f64::from(from.refresh_mhz) / 1000.0,
        }
    }
}

#[pymethods]
impl Geometry {
    fn __repr__(&self) -> String {
        format!(
            "Geometry(virtual={}x{} at {},{}, capture at {},{}, dpi={}, refresh_hz={})",
            self.virtual_width,
            self.virtual_height,
            self.virtual_x,
            self.virtual_y,
            self.capture_x,
            self.capture_y,
            self.dpi,
            self.refresh_hz
        )
    }
}

/// What the producer is doing. Every field is whole, but they are not of one moment.
#[pyclass(frozen, get_all, eq, module = "vgpu_perception")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Ticks at least four times a second while the producer lives.
    heartbeat: u64,
    /// Advances at a session break.
    run_epoch: u32,
    /// What it is doing, in words.
    state: String,
    /// How it captures, in words.
    backend: String,
    /// Its own error number.
    error_code: u32,
    /// Frames a second that it aims at.
    applied_fps: u32,
    /// When the content last changed, in nanoseconds of the guest's monotonic clock.
    content_change_ns: u64,
}

impl From<StatusSnapshot> for Status {
    fn from(from: StatusSnapshot) -> Self {
        Self {
            heartbeat: from.heartbeat,
            run_epoch: from.run_epoch,
            state: from.status.to_string(),
            backend: from.backend.to_string(),
            error_code: from.error_code,
            applied_fps: from.applied_fps,
            content_change_ns: from.content_change_ns,
        }
    }
}

#[pymethods]
impl Status {
    fn __repr__(&self) -> String {
        format!("Status(state={:?}, run_epoch={}, heartbeat={})", self.state, self.run_epoch, self.heartbeat)
    }
}

/// A process of the guest; what is not known of it is None.
#[pyclass(frozen, get_all, eq, module = "vgpu_perception")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number; only Windows guests have a list that says so.
    pid: Option<u32>,
    /// Its parent's number.
    ppid: Option<u32>,
    /// Its image name, with everything that is not printable ASCII escaped: a guest chooses it.
    name: Option<String>,
    /// Its page-table root (CR3).
    cr3: u64,
    /// The second root that user mode runs on, where the kernel keeps one.
    user_cr3: Option<u64>,
    /// The kernel's object for it.
    eprocess: Option<u64>,
    /// Its process environment block, in its own address space.
    peb: Option<u64>,
}

impl Process {
    pub(crate) const fn cr3(&self) -> u64 {
        self.cr3
    }
}

impl From<vgpu_perception::Process<GuestPaging>> for Process {
    fn from(from: vgpu_perception::Process<GuestPaging>) -> Self {
        Self {
            pid: from.pid,
            ppid: from.ppid,
            name: from.name.map(|name| name.to_string()),
            cr3: from.space.root.get(),
            user_cr3: from.user_root.map(|root| root.get()),
            eprocess: from.eprocess.map(|at| at.get()),
            peb: from.peb.map(|at| at.get()),
        }
    }
}

#[pymethods]
impl Process {
    fn __repr__(&self) -> String {
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "None".to_owned());
        let pid = or_none(self.pid.map(|pid| pid.to_string()));
        let name = or_none(self.name.as_ref().map(|name| format!("{name:?}")));
        format!("Process(pid={pid}, name={name}, cr3={:#x})", self.cr3)
    }
}
