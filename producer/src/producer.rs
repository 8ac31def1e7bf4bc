//! The producer page: its start, its small lines, and its lifecycle. Frames are in `slot`.

use core::mem::offset_of;

use vgpu_perception::abi::{self, Backend, Command, CursorId, Format, State, producer};

use crate::slot::{BadFrame, FrameMeta, SlotWrite};
use crate::write::RegionWrite;

/// The writer of one region. Every region has exactly one.
///
/// # Order of stores
/// *A line or a slot*: number odd; release fence; payload; number even, release. A reader that saw any word of the
/// payload finds the odd number, or a later one, when it looks again.
///
/// *A frame*: its slot as above; then `frame_id`, release; then `latest`, release. Whoever finds the slot through
/// `latest` finds the frame in it, or a later one. The slot that `latest` names is never written.
///
/// *A session break* ([`new_run_epoch`](Self::new_run_epoch)): `latest` = none; `frame_id` = 0; `run_epoch`, release;
/// then the heart. Whoever sees the new epoch can no longer take a frame of the old session for one of the new, and a
/// heartbeat of the new session proves its epoch. The slots' numbers go on: one that began again would let an old and a
/// new write pass for the same.
///
/// *A start* ([`Producer::new`]): everything else first, the heartbeat last, release: before it the page is no
/// candidate.
#[derive(Debug)]
pub struct Producer<W> {
    pub(crate) region: W,
    pub(crate) seq: [u32; abi::SLOT_COUNT as usize],
    cursor_seq: u32,
    geom_seq: u32,
    /// The slot that was published last, in this session or the one before.
    pub(crate) last_slot: u32,
    pub(crate) frame_id: u64,
    run_epoch: u32,
    heartbeat: u64,
}

/// What a producer starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first `run_epoch`; 0 is taken for 1.
    pub run_epoch: u32,
    /// All sequence numbers; made even. A region that readers know already has to go on where its last writer stopped.
    pub seq: u32,
    /// The first heartbeat; 0 is taken for 1.
    pub heartbeat: u64,
}

impl Default for Start {
    fn default() -> Self {
        Self { run_epoch: 1, seq: 0, heartbeat: 1 }
    }
}

/// A cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorState {
    /// Whether it is shown.
    pub visible: bool,
    /// Hot spot on the virtual desktop, in pixels.
    pub x: i32,
    /// Hot spot on the virtual desktop, in pixels.
    pub y: i32,
    /// Hot spot in the glyph, in pixels.
    pub hot_x: u16,
    /// Hot spot in the glyph, in pixels.
    pub hot_y: u16,
    /// Width of the glyph, in pixels.
    pub glyph_w: u16,
    /// Height of the glyph, in pixels.
    pub glyph_h: u16,
    /// Its shape.
    pub id: CursorId,
}

/// A geometry. Lengths are in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometryState {
    /// Left edge of the virtual desktop.
    pub virt_x: i32,
    /// Top edge of the virtual desktop.
    pub virt_y: i32,
    /// Width of the virtual desktop, 1 to [`abi::MAX_VIRTUAL`].
    pub virt_w: u32,
    /// Height of the virtual desktop, 1 to [`abi::MAX_VIRTUAL`].
    pub virt_h: u32,
    /// Left edge of what is captured, on the virtual desktop.
    pub cap_x: i32,
    /// Top edge of what is captured, on the virtual desktop.
    pub cap_y: i32,
    /// Dots an inch, up to [`abi::MAX_DPI`].
    pub dpi: u32,
    /// Refresh rate in millihertz.
    pub refresh_mhz: u32,
}

/// What a producer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// What it is doing.
    pub status: State,
    /// How it captures.
    pub backend: Backend,
    /// Its own error number.
    pub error_code: u32,
    /// Frames a second that it aims at.
    pub applied_fps: u32,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { status: State::INIT, backend: Backend::NONE, error_code: 0, applied_fps: 0 }
    }
}

const fn cursor(field: usize) -> u64 {
    producer::CURSOR + field as u64
}

const fn geometry(field: usize) -> u64 {
    producer::GEOMETRY + field as u64
}

pub(crate) const fn status(field: usize) -> u64 {
    producer::STATUS + field as u64
}

const fn control(field: usize) -> u64 {
    abi::CONTROL_OFFSET + field as u64
}

/// The number that marks a write as under way: the next odd one, also after a write that was given up.
pub(crate) const fn odd_after(seq: u32) -> u32 {
    seq.wrapping_add(1) | 1
}

const fn halves(low: u16, high: u16) -> u32 {
    low as u32 | (high as u32) << 16
}

impl<W: RegionWrite> Producer<W> {
    /// Starts a region in fresh memory: all of it is zero, and no reader knows it yet.
    pub fn new(region: W) -> Self {
        Self::start(region, Start::default())
    }

    /// Starts a region from given numbers.
    pub fn start(region: W, start: Start) -> Self {
        let mut new = Self {
            region,
            seq: [0; abi::SLOT_COUNT as usize],
            cursor_seq: 0,
            geom_seq: 0,
            last_slot: 0,
            frame_id: 0,
            run_epoch: 0,
            heartbeat: 0,
        };
        new.restart(start);
        new
    }

    /// Starts the region again, its memory having been replaced by fresh memory.
    pub fn restart(&mut self, start: Start) {
        let seq = start.seq & !1;
        self.seq = [seq; abi::SLOT_COUNT as usize];
        self.cursor_seq = seq;
        self.geom_seq = seq;
        self.last_slot = abi::SLOT_COUNT - 1;
        self.frame_id = 0;
        self.run_epoch = start.run_epoch.max(1);
        self.heartbeat = start.heartbeat.max(1).wrapping_sub(1);

        self.region.store_u32(producer::LATEST, abi::LATEST_NONE);
        self.region.store_u64(producer::FRAME_ID, 0);
        for (slot, number) in (0..).zip(self.seq) {
            if let Some(at) = producer::seq(slot) {
                self.region.store_u32(at, number);
            }
        }
        self.region.store_u32(producer::CURSOR_SEQ, seq);
        self.region.store_u32(producer::GEOM_SEQ, seq);
        self.set_status(&Lifecycle::default());
        self.region.store_u32(status(offset_of!(abi::Status, supported_formats)), 1 << Format::BGRA8888.0);
        self.region.store_u32(control(offset_of!(abi::Control, desired_state)), Command::RUN.0);
        self.region.store_u32(producer::RUN_EPOCH, self.run_epoch);
        self.beat();
    }

    /// The memory that is written.
    pub const fn region(&self) -> &W {
        &self.region
    }

    /// The last frame that was published in this session; 0 before the first.
    #[must_use]
    pub const fn frame_id(&self) -> u64 {
        self.frame_id
    }

    /// The session.
    #[must_use]
    pub const fn run_epoch(&self) -> u32 {
        self.run_epoch
    }

    /// `cursor_seq`: even; two more after every [`set_cursor`](Self::set_cursor).
    #[must_use]
    pub const fn cursor_seq(&self) -> u32 {
        self.cursor_seq
    }

    /// `geom_seq`: even; two more after every [`set_geometry`](Self::set_geometry).
    #[must_use]
    pub const fn geometry_seq(&self) -> u32 {
        self.geom_seq
    }

    /// Beats the heart. To be called at least every [`abi::HEARTBEAT_PERIOD_MS`], whatever the producer does.
    pub fn beat(&mut self) {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        // Release: a reader that sees a beat of this session sees the session's epoch.
        self.region.store_release_u64(producer::HEARTBEAT, self.heartbeat);
    }

    /// Says what the producer is doing. The fields are single: a reader may see some of them before the others.
    pub fn set_status(&mut self, now: &Lifecycle) {
        self.region.store_u32(status(offset_of!(abi::Status, error_code)), now.error_code);
        self.region.store_u32(status(offset_of!(abi::Status, backend)), now.backend.0);
        self.region.store_u32(status(offset_of!(abi::Status, applied_fps)), now.applied_fps);
        self.region.store_u32(status(offset_of!(abi::Status, status)), now.status.0);
    }

    /// Breaks the session: the next frame is 1 again, under a new `run_epoch`.
    pub fn new_run_epoch(&mut self) {
        self.run_epoch = self.run_epoch.wrapping_add(1).max(1);
        self.frame_id = 0;
        // Unreachable first: the release of the epoch then tells that no old frame will be taken for a new one.
        self.region.store_u32(producer::LATEST, abi::LATEST_NONE);
        self.region.store_u64(producer::FRAME_ID, 0);
        self.region.store_release_u32(producer::RUN_EPOCH, self.run_epoch);
        self.beat();
    }

    /// Moves the cursor.
    pub fn set_cursor(&mut self, now: &CursorState) {
        let region = &self.region;
        let xy = u64::from(now.x.cast_unsigned()) | u64::from(now.y.cast_unsigned()) << 32;
        write_line(region, producer::CURSOR_SEQ, &mut self.cursor_seq, || {
            region.store_u32(cursor(offset_of!(abi::Cursor, visible)), u32::from(now.visible));
            region.store_u64(cursor(offset_of!(abi::Cursor, pos)), xy);
            region.store_u32(cursor(offset_of!(abi::Cursor, hotspot)), halves(now.hot_x, now.hot_y));
            region.store_u32(cursor(offset_of!(abi::Cursor, glyph)), halves(now.glyph_w, now.glyph_h));
            region.store_u32(cursor(offset_of!(abi::Cursor, id)), now.id.0);
        });
    }

    /// Sets the display's geometry.
    pub fn set_geometry(&mut self, now: &GeometryState) {
        let region = &self.region;
        write_line(region, producer::GEOM_SEQ, &mut self.geom_seq, || {
            region.store_u32(geometry(offset_of!(abi::Geometry, virt_x)), now.virt_x.cast_unsigned());
            region.store_u32(geometry(offset_of!(abi::Geometry, virt_y)), now.virt_y.cast_unsigned());
            region.store_u32(geometry(offset_of!(abi::Geometry, virt_w)), now.virt_w);
            region.store_u32(geometry(offset_of!(abi::Geometry, virt_h)), now.virt_h);
            region.store_u32(geometry(offset_of!(abi::Geometry, cap_x)), now.cap_x.cast_unsigned());
            region.store_u32(geometry(offset_of!(abi::Geometry, cap_y)), now.cap_y.cast_unsigned());
            region.store_u32(geometry(offset_of!(abi::Geometry, dpi)), now.dpi);
            region.store_u32(geometry(offset_of!(abi::Geometry, refresh_mhz)), now.refresh_mhz);
        });
    }

    /// Publishes a frame from `pixels`: rows without gaps, `width * height * 4` bytes. Returns its `frame_id`.
    ///
    /// # Errors
    /// [`BadFrame`] where the size cannot be, or `pixels` is not of that size; nothing is written then.
    pub fn publish(&mut self, meta: &FrameMeta, pixels: &[u8]) -> Result<u64, BadFrame> {
        meta.check_len(pixels.len())?;
        let slot = self.begin_publish(meta)?;
        slot.bytes(0, pixels);
        Ok(slot.finish())
    }

    /// Publishes a frame row by row: `fill` gets the row's number and `row`, cut to the row's bytes. Returns its
    /// `frame_id`.
    ///
    /// # Errors
    /// [`BadFrame`] where the size cannot be, or `row` is shorter than a row; nothing is written then.
    pub fn publish_rows(
        &mut self,
        meta: &FrameMeta,
        row: &mut [u8],
        mut fill: impl FnMut(u32, &mut [u8]),
    ) -> Result<u64, BadFrame> {
        let stride = meta.stride()?;
        let have = row.len();
        let row = usize::try_from(stride).ok().and_then(|stride| row.get_mut(..stride));
        let row = row.ok_or(BadFrame::Pixels { need: stride, have })?;
        let slot = self.begin_publish(meta)?;
        for y in 0..meta.height {
            fill(y, row);
            slot.bytes(stride.wrapping_mul(u64::from(y)), row);
        }
        Ok(slot.finish())
    }

    /// Begins to publish a frame: from here on the slot is being written, until [`SlotWrite::finish`].
    ///
    /// # Errors
    /// [`BadFrame`] where the size cannot be; nothing is written then.
    pub fn begin_publish(&mut self, meta: &FrameMeta) -> Result<SlotWrite<'_, W>, BadFrame> {
        SlotWrite::begin(self, meta)
    }
}

fn write_line<W: RegionWrite>(region: &W, at: u64, seq: &mut u32, payload: impl FnOnce()) {
    let odd = odd_after(*seq);
    region.store_u32(at, odd);
    region.fence_release();
    payload();
    *seq = odd.wrapping_add(1);
    region.store_release_u32(at, *seq);
}
